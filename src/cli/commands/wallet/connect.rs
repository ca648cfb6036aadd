//! `wallet setup nwc`: takes the connection of the owner's wallet, tries it, and keeps it for this program.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::cli::given::Given;
use crate::cli::output::Output;
use crate::cli::settings::{NWC_VARIABLES, NwcChoice, Settings, WalletChoice};
use crate::cli::text::one_line;
use crate::cli::wallets;
use crate::config::{Role, WalletKind};
use crate::error::{Code, Error, Result};
use crate::secret::{Secret, private_file};
use crate::units::{Msat, Network};
use crate::wallet::Wallet as _;
use crate::wallet::nwc::{Connection, NwcWallet};

const COMMAND: &str = "wallet setup";

const QUESTION: &str = "The connection string of your wallet, nostr+walletconnect://…, then Enter (nothing is shown): ";

/// Characters of a wallet's name that are shown.
const LONGEST_NAME: usize = 60;

#[derive(Serialize)]
struct Connected<'a> {
    wallet: &'static str,
    account: &'a str,
    alias: Option<&'a str>,
    network: Network,
    balance_msat: Option<Msat>,
    hold_invoices: bool,
    /// What this program needs and the connection may not do.
    missing: Vec<&'static str>,
    file: String,
}

/// Takes, tries and keeps a connection.
///
/// # Errors
/// [`Code::Usage`] if what was given is none, [`Code::Network`] if the wallet does not answer,
/// [`Code::Wallet`] if it refuses.
pub(super) async fn run(settings: &Settings, words: &[String], out: &Output) -> Result<()> {
    let (kind, from) = match words.first().and_then(|word| WalletKind::from_word(word)) {
        Some(kind) => (kind, &words[1..]),
        None => (chosen(&settings.wallet), words),
    };
    match kind {
        WalletKind::Nwc => {}
        WalletKind::Spark => return super::spark::set_up(settings, from, out).await,
        WalletKind::Sim => {
            return Err(Error::new(
                Code::Usage,
                "wallet setup: the sim wallet needs none; `wallet fund SATS` adds play money",
            ));
        }
        kind => {
            return Err(Error::new(
                Code::Wallet,
                format!("this build has no {} wallet", kind.as_str()),
            ));
        }
    }
    let uri = Given::of(from, COMMAND)?.read(QUESTION, COMMAND)?;
    let connection = Connection::parse(&uri)
        .map_err(|error| Error::new(Code::Usage, format!("{COMMAND}: {error}")))?;
    let network = match &settings.wallet {
        WalletChoice::Nwc(NwcChoice { network, .. }) => *network,
        _ => settings
            .network
            .or(settings.config.wallet.nwc.network)
            .unwrap_or(Network::Mainnet),
    };
    out.status("asking the wallet");
    let wallet = wallets::connect(connection, network).await;
    out.clear_status();
    let wallet = wallet?;
    // A wallet may keep its balance to itself.
    let balance = wallet.balance().await.ok();
    settings.home.make_folder(settings.role)?;
    let file = settings.home.nwc_file(settings.role);
    keep(&file, &uri).map_err(|problem| {
        let path = file.display();
        Error::new(Code::Usage, format!("{path} can't be written: {problem}"))
    })?;
    let missing = missing(&wallet, settings.role);
    tell(&wallet, balance, &missing, &file, out);
    for name in NWC_VARIABLES {
        let is_set = settings.identity.environment.get(name);
        if is_set.is_ok_and(|value| value.is_some()) {
            out.note(&format!("{name} is set and comes before what is kept now"));
        }
    }
    Ok(())
}

fn chosen(wallet: &WalletChoice) -> WalletKind {
    match wallet {
        WalletChoice::Sim(_) => WalletKind::Sim,
        WalletChoice::Spark(_) => WalletKind::Spark,
        WalletChoice::Missing(kind) => *kind,
        _ => WalletKind::Nwc,
    }
}

/// What the program needs of a wallet and the connection may not do.
pub(in crate::cli) fn missing(wallet: &NwcWallet, role: Role) -> Vec<&'static str> {
    let needed: &[&str] = match role {
        Role::Customer => &["pay_invoice", "lookup_invoice", "get_balance"],
        Role::Provider => &["make_invoice", "lookup_invoice"],
    };
    let absent = needed.iter().filter(|method| !wallet.can(method));
    absent.copied().collect()
}

/// Writes the file anew, so that one with other permissions does not keep them.
fn keep(file: &Path, uri: &Secret) -> std::io::Result<()> {
    let new = file.with_extension("uri.new");
    let _ = std::fs::remove_file(&new);
    let mut writing = private_file(&new)?;
    writing.write_all(uri.expose().as_bytes())?;
    writing.write_all(b"\n")?;
    writing.sync_all()?;
    std::fs::rename(&new, file)
}

fn tell(
    wallet: &NwcWallet,
    balance: Option<Msat>,
    missing: &[&'static str],
    file: &Path,
    out: &Output,
) {
    let hold_invoices = wallet.capabilities().hold_invoices;
    out.object(&Connected {
        wallet: "nwc",
        account: &wallet.id().account,
        alias: wallet.alias(),
        network: wallet.network(),
        balance_msat: balance,
        hold_invoices,
        missing: missing.to_vec(),
        file: file.display().to_string(),
    });
    let name = wallet.alias().unwrap_or("a wallet without a name");
    let holds = balance.map_or(String::new(), |balance| format!(", {balance}"));
    out.line(&format!(
        "connected to {} on {}{holds}",
        one_line(name, LONGEST_NAME),
        wallet.network()
    ));
    if out.is_json() {
        return;
    }
    out.note(&format!("kept in {}, for you alone", file.display()));
    if !missing.is_empty() {
        let missing = missing.join(", ");
        out.note(&format!(
            "the connection may not {missing}: this program needs that; allow it in your wallet"
        ));
    }
    if !hold_invoices {
        out.note(
            "it has no hold invoices: it can pay into escrow, but not sell for money in escrow",
        );
    }
}

//! The wallet: whether it is there, and whether it can do what is asked of it.

use nostr::PublicKey;

use super::{Finding, Patient, WITHIN, apart, quoted};
use crate::cli::settings::{SIM_FAULT_VARIABLE, SimChoice, WalletChoice};
use crate::cli::wallets::{refuse_new_bank, told};
use crate::error::Code;
use crate::look::Soundness;
use crate::units::Msat;
use crate::wallet::sim;

/// Looks at the wallet of these settings.
pub(super) async fn look(patient: &Patient, key: Option<PublicKey>) -> Finding {
    let problem =
        |subject: &str, message: &str| Finding::problem("wallet", subject, Code::Wallet, message);
    match &patient.settings.wallet {
        WalletChoice::Unset => problem(
            "none",
            "none is configured: name one with --wallet, or in [wallet] kind (sim is play money)",
        )
        .fix(choose(patient)),
        WalletChoice::Missing(kind) => problem(
            kind.as_str(),
            "this program has no such wallet; it has sim, which is play money",
        )
        .fix(patient.command("--wallet sim doctor")),
        WalletChoice::Without => Finding::ok("wallet", "none", "--no-wallet: nothing is paid"),
        WalletChoice::Sim(sim) => play_money(patient, sim, key).await,
    }
}

/// The command that chooses play money.
fn choose(patient: &Patient) -> String {
    let file = &patient.config;
    // A table may stand in a file once only.
    if std::fs::read_to_string(file).is_ok_and(|text| text.contains("[wallet]")) {
        return patient.edit();
    }
    let folder = file.parent().map(quoted).unwrap_or_default();
    let file = quoted(file);
    format!(r#"mkdir -p {folder} && printf '\n[wallet]\nkind = "sim"\n' >> {file}"#)
}

async fn play_money(patient: &Patient, sim: &SimChoice, key: Option<PublicKey>) -> Finding {
    let subject = format!("sim {}", sim.bank.display());
    let what = format!("play money on {}, hold invoices for escrow", sim.network);
    if let Err(error) = refuse_new_bank(&patient.settings, sim).await {
        return Finding::problem("wallet", subject, error.code(), error.message())
            .fix(patient.command("history"));
    }
    if sim.fault.is_some() {
        let message = format!("{what}; {SIM_FAULT_VARIABLE} makes its payments go wrong");
        return Finding::warning("wallet", subject, message)
            .fix(format!("unset {SIM_FAULT_VARIABLE}"));
    }
    // Whose account it is does not matter for whether the file is a bank.
    let account = key.unwrap_or_else(|| nostr::Keys::generate().public_key());
    let (bank, network) = (sim.bank.clone(), sim.network);
    let looked = apart(move || sim::look(&bank, account, network, WITHIN)).await;
    let found = match looked {
        Some(Ok(found)) => found,
        Some(Err(error)) => {
            let error = told(error);
            return Finding::problem("wallet", subject, error.code(), error.message());
        }
        None => {
            let message = "looking into it took too long";
            return Finding::problem("wallet", subject, Code::Wallet, message);
        }
    };
    let opens = sim::OPENING_BALANCE;
    let Some(found) = found else {
        let message = format!("{what}; no bank yet: it is made on first use, with {opens}");
        return Finding::ok("wallet", subject, message);
    };
    if let Soundness::Damaged(how) = found.soundness {
        let message = format!("the bank is damaged; restore it from a backup ({how})");
        return Finding::problem("wallet", subject, Code::Wallet, message);
    }
    match (key, found.balance) {
        (None, _) => {
            let message = format!("{what}; the key is not known here, so neither is the balance");
            Finding::ok("wallet", subject, message)
        }
        (_, None) => {
            let message = format!("{what}; the account is opened on first use, with {opens}");
            Finding::ok("wallet", subject, message)
        }
        (_, Some(balance)) => funds(patient, subject, &what, balance),
    }
}

/// Whether there is something to buy with.
fn funds(patient: &Patient, subject: String, what: &str, balance: Msat) -> Finding {
    let floor = patient.settings.config.runway.reserve;
    let fund = || patient.command("wallet fund 100000");
    if patient.is_provider() {
        return Finding::ok("wallet", subject, format!("{what}; {balance}"));
    }
    if balance.is_zero() {
        let message = format!("{what}; it is empty");
        return Finding::problem("wallet", subject, Code::Wallet, message).fix(fund());
    }
    if balance <= floor {
        let message = format!(
            "{what}; {balance}, and [runway] reserve_sats keeps {floor} in it: nothing can be bought"
        );
        return Finding::problem("wallet", subject, Code::Budget, message).fix(fund());
    }
    Finding::ok("wallet", subject, format!("{what}; {balance}"))
}

//! The wallet: whether it is there, and whether it can do what is asked of it.

use nostr::PublicKey;
use tokio::time::timeout;

use super::{Finding, Patient, WITHIN, apart, quoted};
use crate::cli::commands::wallet::missing;
use crate::cli::settings::{
    NwcChoice, ProcessChoice, SIM_FAULT_VARIABLE, SimChoice, SparkChoice, WalletChoice,
};
use crate::cli::wallets::{open_nwc, open_process, refuse_new_bank, told};
use crate::cli::watch::short;
use crate::error::{Code, Error};
use crate::look::Soundness;
use crate::units::{Msat, Network};
use crate::wallet::Wallet;
use crate::wallet::sim;
use crate::wallet::spark::is_installed;

/// Looks at the wallet of these settings.
pub(super) async fn look(patient: &Patient, key: Option<PublicKey>) -> Finding {
    let problem =
        |subject: &str, message: &str| Finding::problem("wallet", subject, Code::Wallet, message);
    match &patient.settings.wallet {
        WalletChoice::Unset => problem(
            "none",
            "none is configured: connect your own with `wallet setup nwc`, or take play money (--wallet sim)",
        )
        .fix(choose(patient)),
        WalletChoice::Missing(kind) => problem(
            kind.as_str(),
            "this program has no such wallet; it has nwc (your own), spark, process (a program of yours) and sim (play money)",
        )
        .fix(patient.command("--wallet sim doctor")),
        WalletChoice::Without => Finding::ok("wallet", "none", "--no-wallet: nothing is paid"),
        WalletChoice::Sim(sim) => play_money(patient, sim, key).await,
        WalletChoice::Nwc(nwc) => connected(patient, nwc).await,
        WalletChoice::Spark(spark) => on_spark(patient, spark).await,
        WalletChoice::Process(process) => program(patient, process).await,
    }
}

/// Looks at a Spark wallet.
async fn on_spark(patient: &Patient, spark: &SparkChoice) -> Finding {
    let network = spark.network.map_or("no network", Network::as_str);
    let subject = format!("spark on {network}");
    if !is_installed(&spark.environment) {
        let message = "the Spark SDK is not installed";
        return Finding::problem("wallet", subject, Code::Wallet, message)
            .fix(patient.command("wallet setup spark"));
    }
    // Its own password would be asked for, so a doctor opens no key: the wallet itself is not looked into.
    match (&spark.network, &spark.api_key) {
        (None, _) => Finding::problem(
            "wallet",
            subject,
            Code::Usage,
            "no network is chosen: [wallet.spark] network = \"mainnet\" (real money), or another",
        )
        .fix(patient.edit()),
        (_, Err(problem)) => {
            Finding::problem("wallet", subject, Code::Usage, problem).fix(patient.edit())
        }
        (Some(Network::Mainnet), Ok(None)) => Finding::problem(
            "wallet",
            subject,
            Code::Wallet,
            "mainnet needs an API key of Breez: BREEZ_API_KEY, or [wallet.spark] api_key",
        )
        .fix(patient.edit()),
        _ => Finding::ok(
            "wallet",
            subject,
            "the Spark SDK is installed; `wallet balance` asks the wallet itself",
        ),
    }
}

/// Looks at a wallet program.
async fn program(patient: &Patient, process: &ProcessChoice) -> Finding {
    let name = process.command.first();
    let name = name.map_or_else(String::new, |name| format!(" {}", name.to_string_lossy()));
    let subject = format!("process{name}");
    let opened = match timeout(WITHIN, open_process(process)).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::new(
            Code::Network,
            "the wallet program did not say hello in time",
        )),
    };
    let wallet = match opened {
        Ok(wallet) => wallet,
        Err(error) => {
            return Finding::problem("wallet", subject, error.code(), error.message())
                .fix(patient.edit());
        }
    };
    real(patient, subject, &wallet).await
}

/// Looks at a wallet elsewhere.
async fn connected(patient: &Patient, nwc: &NwcChoice) -> Finding {
    let subject = match &nwc.connection {
        Ok(Some(connection)) => format!("nwc {}", short(&connection.wallet().to_hex())),
        _ => "nwc".to_owned(),
    };
    let setup = || patient.command("wallet setup nwc");
    let opened = match timeout(WITHIN, open_nwc(nwc)).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::new(
            Code::Network,
            "the wallet did not answer in time",
        )),
    };
    let wallet = match opened {
        Ok(wallet) => wallet,
        Err(error) => {
            let found = Finding::problem("wallet", subject, error.code(), error.message());
            return match error.code() {
                Code::Network => found,
                _ => found.fix(setup()),
            };
        }
    };
    let missing = missing(&wallet, patient.settings.role);
    if !missing.is_empty() {
        let message = format!(
            "the connection may not {}: allow it in your wallet",
            missing.join(", ")
        );
        return Finding::problem("wallet", subject, Code::Wallet, message).fix(setup());
    }
    real(patient, subject, &wallet).await
}

/// What there is in a wallet that is open.
async fn real(patient: &Patient, subject: String, wallet: &dyn Wallet) -> Finding {
    let escrow = match (wallet.capabilities().hold_invoices, patient.is_provider()) {
        (true, _) => ", hold invoices for escrow",
        (false, true) => ", no hold invoices, so no escrow",
        (false, false) => "",
    };
    let what = format!("real money on {}{escrow}", wallet.network());
    match timeout(WITHIN, wallet.balance()).await {
        Ok(Ok(balance)) => funds(patient, subject, &what, balance),
        _ => Finding::ok(
            "wallet",
            subject,
            format!("{what}; it does not tell its balance"),
        ),
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
    let fund = || match patient.settings.wallet {
        WalletChoice::Sim(_) => patient.command("wallet fund 100000"),
        _ => patient.command("wallet invoice --amount-sats 10000"),
    };
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

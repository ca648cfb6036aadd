//! From the wallet that was asked for to one that is open.

use std::sync::Arc;

use super::settings::{
    NWC_VARIABLES, NwcChoice, ProcessChoice, Settings, SimChoice, SparkChoice, WalletChoice,
};
use crate::clock::Clock;
use crate::config::Role;
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::ledger::{HistoryQuery, Ledger, PurchaseRecord, Reservation};
use crate::relay::pool::{PoolOptions, RelayPoolSession};
use crate::units::Msat;
use crate::wallet::nwc::{Connection, NwcOptions, NwcWallet};
use crate::wallet::process::{ProcessOptions, ProcessWallet};
use crate::wallet::sim::{SimOptions, SimWallet};
use crate::wallet::spark::{self, SparkOptions};
use crate::wallet::{Wallet, WalletError};

/// Opens the wallet that the settings name. `None` after `--no-wallet`.
///
/// # Errors
/// [`Code::Wallet`] if none is configured, this build does not have it, or it can't be used;
/// [`Code::Network`] if it can't be reached.
pub async fn open_wallet(
    settings: &Settings,
    identity: &Identity,
) -> Result<Option<Arc<dyn Wallet>>> {
    match &settings.wallet {
        WalletChoice::Without => Ok(None),
        WalletChoice::Sim(sim) => {
            refuse_new_bank(settings, sim).await?;
            Ok(Some(Arc::new(open_sim(sim, identity).await?)))
        }
        WalletChoice::Nwc(nwc) => Ok(Some(Arc::new(open_nwc(nwc).await?))),
        WalletChoice::Spark(spark) => Ok(Some(Arc::new(open_spark(spark, identity).await?))),
        WalletChoice::Process(process) => Ok(Some(Arc::new(open_process(process).await?))),
        WalletChoice::Unset => Err(Error::new(
            Code::Wallet,
            "no wallet is configured: connect your own with `wallet setup nwc` or NWC_URI, or take \
             --wallet sim (play money)",
        )),
        WalletChoice::Missing(kind) => Err(Error::new(
            Code::Wallet,
            format!(
                "this build has no {} wallet; it has nwc (your own, by Nostr Wallet Connect), spark, process (a program \
                     of yours) and sim (play money)",
                kind.as_str()
            ),
        )),
    }
}

/// Opens the wallet behind the chosen connection.
///
/// # Errors
/// [`Code::Usage`] if the connection is damaged or open to others, [`Code::Wallet`] if there is none or the
/// wallet refuses it, [`Code::Network`] if the wallet does not answer.
pub async fn open_nwc(nwc: &NwcChoice) -> Result<NwcWallet> {
    let connection = match &nwc.connection {
        Ok(Some(connection)) => (**connection).clone(),
        Ok(None) => {
            return Err(Error::new(
                Code::Wallet,
                format!(
                    "there is no wallet connection: make one with `wallet setup nwc`, or set {} or [wallet.nwc] uri",
                    NWC_VARIABLES[0]
                ),
            ));
        }
        Err(problem) => return Err(Error::new(Code::Usage, problem.clone())),
    };
    connect(connection, nwc.network).await
}

/// Opens the Spark wallet of this identity.
///
/// # Errors
/// [`Code::Usage`] if no network or an unreadable key was given, [`Code::Wallet`] if the identity has no words, the
/// SDK is not installed, or another process has the wallet open, [`Code::Network`] if the SDK does not answer.
pub async fn open_spark(spark: &SparkChoice, identity: &Identity) -> Result<ProcessWallet> {
    let network = spark.network.ok_or_else(|| {
        Error::new(
            Code::Usage,
            "the spark wallet is on no network until you say which: [wallet.spark] network = \"mainnet\" (real \
             money), or --network",
        )
    })?;
    let api_key = spark.api_key.clone();
    let words = identity.words().cloned().ok_or_else(|| {
        Error::new(
            Code::Wallet,
            "the money of a spark wallet hangs on the identity's BIP39 words, and this key was given without any: \
             `identity new` makes one with words",
        )
    })?;
    let options = SparkOptions {
        environment: spark.environment.clone(),
        storage: spark.storage.join(network.as_str()),
        network,
        words,
        api_key: api_key.map_err(|problem| Error::new(Code::Usage, problem))?,
        service_provider: None,
    };
    spark::open(options).await.map_err(told)
}

/// Starts the wallet program.
///
/// # Errors
/// [`Code::Usage`] if none is named, [`Code::Network`] if it can't be started or does not answer,
/// [`Code::Wallet`] if it is not what it should be.
pub async fn open_process(process: &ProcessChoice) -> Result<ProcessWallet> {
    if process.command.is_empty() {
        return Err(Error::new(
            Code::Usage,
            "no wallet program is named: [wallet.process] command = [\"PROGRAM\", \"ARGUMENT\"]",
        ));
    }
    let options = ProcessOptions {
        network: process.network,
        hide: process.hide.clone(),
        ..ProcessOptions::default()
    };
    ProcessWallet::open(&process.command, options)
        .await
        .map_err(told)
}

/// Opens a connection over a session with its own relays.
///
/// # Errors
/// As [`open_nwc`].
pub(super) async fn connect(
    connection: Connection,
    network: crate::units::Network,
) -> Result<NwcWallet> {
    let session = RelayPoolSession::connect(connection.relays(), PoolOptions::default())
        .map_err(|error| Error::new(Code::Usage, error.to_string()))?;
    let options = NwcOptions {
        network,
        ..NwcOptions::default()
    };
    NwcWallet::open(connection, session, options)
        .await
        .map_err(told)
}

/// Opens the play-money wallet of this identity.
///
/// # Errors
/// As [`open_wallet`].
pub async fn open_sim(sim: &SimChoice, identity: &Identity) -> Result<SimWallet> {
    let options = SimOptions {
        network: sim.network,
        fee: sim.fee,
        fault: sim.fault,
        ..SimOptions::default()
    };
    let (bank, account) = (sim.bank.clone(), identity.public_key());
    tokio::task::spawn_blocking(move || SimWallet::open(&bank, account, options))
        .await
        .map_err(|_| Error::new(Code::Internal, "opening the wallet panicked"))?
        .map_err(told)
}

/// Says no where a bank of play money would be made in the place of one that is gone and that payments still
/// depend on: a new bank knows nothing of them, and nobody would notice.
///
/// # Errors
/// [`Code::Wallet`] then; [`Code::Ledger`] if the ledger can't say.
pub(super) async fn refuse_new_bank(settings: &Settings, sim: &SimChoice) -> Result<()> {
    let is_missing = matches!(sim.bank.try_exists(), Ok(false));
    if settings.role != Role::Customer || !is_missing || !settings.home.ledger_file().exists() {
        return Ok(());
    }
    let folder = settings.home.folder(Role::Customer);
    let ledger = Ledger::open_read_only(&folder, Clock::system()).await?;
    let all = HistoryQuery {
        scope: None,
        limit: u32::MAX,
    };
    let open: Vec<PurchaseRecord> = ledger
        .history(all)
        .await?
        .into_iter()
        .filter(|purchase| {
            let of_sim = |it: &Reservation| it.status.is_open() && it.wallet.kind == "sim";
            purchase.reservation.as_ref().is_some_and(of_sim)
        })
        .collect();
    let Some(first) = open.first() else {
        return Ok(());
    };
    let reserved = open.iter().fold(Msat::ZERO, |sum, purchase| {
        sum.saturating_add(purchase.reserved())
    });
    let message = format!(
        "the play-money bank {} is missing, and what became of {} made from it is not known. Put the \
         file back, or decide each by hand: `agent-customer recover --resolve {} paid` (or `failed`)",
        sim.bank.display(),
        match open.len() {
            1 => "a payment".to_owned(),
            count => format!("{count} payments"),
        },
        first.id,
    );
    Err(Error::new(Code::Wallet, message).with_money(Msat::ZERO, reserved))
}

/// What a wallet's answer means for the program that asked.
pub(super) fn told(error: WalletError) -> Error {
    let code = match &error {
        WalletError::Unreachable(_) => Code::Network,
        WalletError::Refused(_) | WalletError::Unsupported(_) | WalletError::Storage(_) => {
            Code::Wallet
        }
    };
    Error::new(code, error.to_string())
}

//! A wallet on Spark, through the Breez SDK, with the words of the Nostr identity as its seed.
//!
//! The SDK is an official package for Python, [pinned](SDK_VERSION). [`install()`] puts it into an environment of its
//! own, and [`open`] runs a small [adapter](ADAPTER) in it, which speaks the protocol of a
//! [wallet program](super::process): what is said there of dying, hanging and talking nonsense holds here too.
//!
//! | promise | on Spark |
//! |---|---|
//! | hold invoices | yes. Nothing gives held money back; it goes back by itself when its time is over |
//! | fee quote | an estimate. An order whose estimate is above the cap is not given |
//! | look-up | by payment hash, among what the SDK lists. That it lists nothing proves nothing |
//! | never twice | a hash that was ordered is on record beside the SDK's own, and is its idempotency key |
//! | amounts | whole sats; what is not is refused |
//!
//! One process at a time: two would spend the same money, so the second is refused. The SDK opens without a
//! network; no balance is told, and nothing said to be missing, before it has heard of the network once.

mod install;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

pub use self::install::{InstallError, MIN_PYTHON, SDK_VERSION, install, is_installed};
use super::WalletError;
use super::process::{Ours, ProcessOptions, ProcessWallet};
use crate::secret::{Secret, private_file};
use crate::units::Network;

/// The program that runs the SDK.
pub const ADAPTER: &str = include_str!("spark/adapter.py");

/// The name of its file in the environment.
const ADAPTER_FILE: &str = "agent_compute_spark.py";

/// What a Spark wallet needs to open.
#[derive(Clone, Debug)]
pub struct SparkOptions {
    /// The environment that [`install()`] has made.
    pub environment: PathBuf,
    /// Where the SDK keeps its own records, for this wallet alone.
    pub storage: PathBuf,
    /// Mainnet, signet or regtest.
    pub network: Network,
    /// The BIP39 words that the money hangs on.
    pub words: Secret,
    /// The key that the SDK's makers give out. Mainnet needs one.
    pub api_key: Option<Secret>,
    /// A service provider of one's own; `None`: that of the SDK.
    pub service_provider: Option<ServiceProvider>,
}

/// Who makes invoices and pays them for a Spark wallet.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceProvider {
    /// Where it is, `http://` or `https://`.
    pub base_url: String,
    /// Its key, in hex.
    pub identity_public_key: String,
}

/// Opens the wallet.
///
/// # Errors
/// [`WalletError::Storage`] if the SDK is not installed, [`WalletError::Refused`] if another process has the wallet
/// open, the network is none of Spark's, or mainnet is asked for without a key.
pub async fn open(options: SparkOptions) -> Result<ProcessWallet, WalletError> {
    if options.network == Network::Mainnet && options.api_key.is_none() {
        return Err(WalletError::Refused(
            "Spark on mainnet needs an API key of Breez (BREEZ_API_KEY, or [wallet.spark] api_key)"
                .to_owned(),
        ));
    }
    if !is_installed(&options.environment) {
        return Err(WalletError::Storage(
            "the Spark SDK is not installed: run `wallet setup spark`".to_owned(),
        ));
    }
    let adapter = adapter(&options.environment).map_err(|problem| {
        let folder = options.environment.display();
        WalletError::Storage(format!("{folder}: {problem}"))
    })?;
    let command: [OsString; 4] = [
        install::python(&options.environment).into(),
        // Nothing of the user's own Python is loaded.
        "-I".into(),
        "-u".into(),
        adapter.into(),
    ];
    let network = options.network;
    let ours = Ours {
        kind: "spark",
        config: Secret::new(config(&options).to_string()),
    };
    let options = ProcessOptions {
        network,
        ..ProcessOptions::default()
    };
    ProcessWallet::open_ours(&command, options, Some(ours)).await
}

fn config(options: &SparkOptions) -> Value {
    json!({
        "network": options.network.as_str(),
        "mnemonic": options.words.expose(),
        "storage_dir": options.storage,
        "api_key": options.api_key.as_ref().map(Secret::expose),
        "service_provider": options.service_provider,
    })
}

/// Puts this program's adapter in its place, beside one that another version of this program may be running.
fn adapter(environment: &Path) -> io::Result<PathBuf> {
    let file = environment.join(ADAPTER_FILE);
    if std::fs::read(&file).is_ok_and(|there| there == ADAPTER.as_bytes()) {
        return Ok(file);
    }
    let new = environment.join(format!(".adapter-{:016x}", rand::random::<u64>()));
    let written = private_file(&new).and_then(|mut writing| {
        writing.write_all(ADAPTER.as_bytes())?;
        std::fs::rename(&new, &file)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written.map(|()| file)
}

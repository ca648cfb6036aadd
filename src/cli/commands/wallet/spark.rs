//! `wallet setup spark`: the Spark SDK, in an environment of its own.

use std::ffi::OsStr;

use serde::Serialize;

use crate::cli::output::Output;
use crate::cli::settings::{SPARK_KEY_VARIABLE, Settings};
use crate::cli::signals;
use crate::error::{Code, Error, Result};
use crate::units::Network;
use crate::wallet::spark::{InstallError, SDK_VERSION, install, is_installed};

/// The Python that makes the environment: the first of this name in PATH.
const PYTHON: &str = "python3";

#[derive(Serialize)]
struct SetUp<'a> {
    wallet: &'static str,
    sdk: &'static str,
    folder: String,
    network: Option<Network>,
    /// What is missing before the wallet opens.
    missing: Vec<&'a str>,
}

/// Installs the SDK if it is not there, and says what else is missing.
///
/// # Errors
/// [`Code::Usage`] for words too many; [`Code::Wallet`] if Python is missing or the SDK does not run here;
/// [`Code::Network`] if it can't be downloaded.
pub(super) async fn set_up(settings: &Settings, words: &[String], out: &Output) -> Result<()> {
    if !words.is_empty() {
        let message = "wallet setup spark takes no more words: its money hangs on the identity's";
        return Err(Error::new(Code::Usage, message));
    }
    settings.home.make_folder(settings.role)?;
    let folder = settings.home.spark_environment(SDK_VERSION);
    if is_installed(&folder) {
        out.note(&format!("the Spark SDK {SDK_VERSION} is installed"));
    } else {
        let mut signals = signals::Stop::new()?;
        out.note(&format!(
            "installing the Spark SDK {SDK_VERSION} for Python"
        ));
        let installing = async {
            install(&folder, OsStr::new(PYTHON), |what| out.status(what))
                .await
                .map_err(told)
        };
        let installed = signals.or(installing).await;
        out.clear_status();
        installed?;
    }
    let network = settings.config.wallet.spark.network;
    let has_key = settings.config.wallet.spark.api_key.is_some()
        || settings
            .identity
            .environment
            .private_secret(SPARK_KEY_VARIABLE)
            .is_ok_and(|key| key.is_some());
    let mut missing = Vec::new();
    if network.is_none() {
        missing.push("[wallet.spark] network");
    }
    if network == Some(Network::Mainnet) && !has_key {
        missing.push("an API key of Breez: BREEZ_API_KEY, or [wallet.spark] api_key");
    }
    out.object(&SetUp {
        wallet: "spark",
        sdk: SDK_VERSION,
        folder: folder.display().to_string(),
        network,
        missing: missing.clone(),
    });
    out.line(&format!("ready in {}", folder.display()));
    for what in missing {
        out.note(&format!("missing: {what}"));
    }
    out.note("take it with --wallet spark, or [wallet] kind = \"spark\"");
    Ok(())
}

fn told(error: InstallError) -> Error {
    let code = match &error {
        InstallError::Download(_) => Code::Network,
        InstallError::Folder(..) => Code::Usage,
        _ => Code::Wallet,
    };
    Error::new(code, error.to_string())
}

//! From the wallet that was asked for to one that is open.

use std::sync::Arc;

use super::settings::{Settings, SimChoice, WalletChoice};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::wallet::sim::{SimOptions, SimWallet};
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
        WalletChoice::Sim(sim) => Ok(Some(Arc::new(open_sim(sim, identity).await?))),
        WalletChoice::Unset => Err(Error::new(
            Code::Wallet,
            "no wallet is configured: name one with --wallet or [wallet] kind (sim is play money)",
        )),
        WalletChoice::Missing(kind) => Err(Error::new(
            Code::Wallet,
            format!(
                "this build has no {} wallet; it has sim (play money)",
                kind.as_str()
            ),
        )),
    }
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

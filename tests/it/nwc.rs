//! Nostr Wallet Connect: our client against a service on somebody else's Nostr client, in front of play
//! money.

mod conformance;
#[cfg(unix)]
mod frozen;
mod money;
#[cfg(unix)]
mod programs;
pub mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::secret::Secret;
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::nwc::{Connection, NwcOptions, NwcWallet};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{InvoiceRequest, IssuedInvoice, WalletError};
use nostr::Keys;
use tempfile::TempDir;

use self::service::{Options, Service};
use crate::wallet::{asking, order};

/// What each payment costs on top.
const FEE: Msat = Msat::new(1_500);

/// A relay, and a bank of play money whose time can be moved.
struct Place {
    _relay: EmbeddedRelay,
    url: String,
    bank: PathBuf,
    clock: Clock,
    _folder: TempDir,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let relay = EmbeddedRelay::listen(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        Self {
            url: relay.url().to_string(),
            _relay: relay,
            bank: folder.path().join("bank.sqlite"),
            clock: Clock::fixed(UnixSecs::new(Clock::system().now().get())),
            _folder: folder,
        }
    }

    fn account(&self, keys: &Keys) -> SimWallet {
        let options = SimOptions {
            clock: self.clock.clone(),
            fee: FEE,
            ..SimOptions::default()
        };
        SimWallet::open(&self.bank, keys.public_key(), options).unwrap()
    }

    async fn service(&self, wallet: &SimWallet, options: Options) -> Service {
        Service::start(&[&self.url], Arc::new(wallet.clone()), options).await
    }
}

fn options() -> NwcOptions {
    NwcOptions {
        network: Network::Regtest,
        answer_within: Duration::from_secs(10),
        pay_within: Duration::from_secs(10),
        ..NwcOptions::default()
    }
}

async fn open_with(uri: &str, options: NwcOptions) -> Result<NwcWallet, WalletError> {
    let connection = Connection::parse(&Secret::new(uri)).unwrap();
    let session = RelayPoolSession::connect(connection.relays(), PoolOptions::default()).unwrap();
    NwcWallet::open(connection, session, options).await
}

async fn open(service: &Service) -> NwcWallet {
    open_with(&service.uri, options()).await.unwrap()
}

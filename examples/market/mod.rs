//! The rest of a market, so that each example runs by itself: a relay on a real WebSocket, a bank of play
//! money, and a seller. Elsewhere these are other people's; nothing in here is needed to buy.
#![allow(dead_code, unreachable_pub)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use agent_compute::client::{Builder, ComputeClient};
use agent_compute::clock::Clock;
use agent_compute::config::{Config, Home};
use agent_compute::identity::Identity;
use agent_compute::protocol::Price;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig};
use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::{Keys, RelayUrl};
use tokio::sync::mpsc;

pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

pub struct Market {
    folder: tempfile::TempDir,
    relay: EmbeddedRelay,
}

impl Market {
    pub async fn open() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            relay: EmbeddedRelay::listen("127.0.0.1:0".parse()?).await?,
        })
    }

    pub fn relay(&self) -> RelayUrl {
        self.relay.url()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Play money: an account of 100,000 sats.
    pub fn wallet(&self, owner: &Identity) -> Result<SimWallet> {
        let bank = self.path("bank.sqlite");
        Ok(SimWallet::open(
            &bank,
            owner.public_key(),
            SimOptions::default(),
        )?)
    }

    /// A seller of `model`'s answers.
    pub async fn sell(&self, model: fn(&str) -> String, price: Msat) -> Result<Provider> {
        let identity = Identity::from_keys(Keys::generate());
        let jobs = self.path(&format!("jobs-{}.sqlite", identity.public_key().to_hex()));
        let channel = ChannelChoice::Create { renew: false };
        let config = ProviderConfig {
            price: Price::per_request(price),
            ..ProviderConfig::new(channel, vec![self.relay()], Network::Regtest)
        };
        let parts = Parts {
            relays: RelayPoolSession::connect(&[self.relay()], PoolOptions::default())?,
            wallet: Some(Arc::new(self.wallet(&identity)?)),
            backend: Arc::new(Toy(model)),
            store: JobStore::open(&jobs)?,
            clock: Clock::system(),
            identity,
        };
        Ok(Provider::start(config, parts).await?)
    }

    /// A buyer in this market, with a home of its own and no configuration but the defaults.
    pub fn buyer(&self, identity: Identity, name: &str) -> Builder {
        ComputeClient::builder()
            .home(Home::at(self.path(name)))
            .config(Config::default())
            .relays(self.relay())
            .identity(identity)
    }
}

/// A language model of one rule.
#[derive(Debug)]
struct Toy(fn(&str) -> String);

#[async_trait::async_trait]
impl Backend for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["toy".into()])
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        _chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        Ok(Generated {
            text: (self.0)(&request.prompt),
            tokens: None,
        })
    }
}

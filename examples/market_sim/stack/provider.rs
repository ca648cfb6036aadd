//! The real provider, with a backend that keeps a record of what it was told to do.

use std::fmt;
use std::sync::Arc;

use agent_compute::identity::Identity;
use agent_compute::protocol::Price;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::SimOptions;
use async_trait::async_trait;
use nostr::{Keys, RelayUrl};
use tokio::sync::mpsc;

use super::world::World;

/// Puts the prompt in other words.
struct Words(Arc<World>);

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words")
    }
}

#[async_trait]
impl Backend for Words {
    fn name(&self) -> &str {
        "words"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["m".into()])
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        self.0.worked_on(&request.prompt);
        let text = format!("made of: {}", request.prompt);
        self.0.signed(&request.prompt, &text);
        for word in text.split_inclusive(' ') {
            let _ = chunks.send(word.to_owned()).await;
        }
        Ok(Generated { text, tokens: None })
    }
}

/// How many jobs it does at once: few, so that a slot that is lost is missed.
const SLOTS: usize = 2;

pub async fn start(
    world: &Arc<World>,
    relay: &RelayUrl,
    keys: Keys,
    price: u64,
    stream: bool,
) -> Result<Provider, agent_compute::Error> {
    let jobs = world.path("jobs.sqlite");
    let config = ProviderConfig {
        price: Price::per_request(Msat::new(price)),
        max_jobs: SLOTS,
        stream,
        ..ProviderConfig::new(
            ChannelChoice::Create { renew: false },
            vec![relay.clone()],
            Network::Regtest,
        )
    };
    let parts = Parts {
        relays: world.session(relay),
        wallet: Some(Arc::new(
            world.wallet(keys.public_key(), SimOptions::default()).await,
        )),
        backend: Arc::new(Words(Arc::clone(world))),
        store: JobStore::open(&jobs)?,
        clock: world.clock.clone(),
        identity: Identity::from_keys(keys),
    };
    Provider::start(config, parts).await
}

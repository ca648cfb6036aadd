//! A seller inside one's own program, with a backend of one's own. Then a customer of the same program
//! buys from it: the two meet on a relay, as they would over the world.
//!
//! ```text
//! cargo run --example embed_provider
//! ```
#![allow(clippy::print_stdout)]

mod market;

use std::sync::Arc;

use agent_compute::client::{PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::identity::Identity;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig, ProviderEvent};
use agent_compute::relay::{PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network};
use async_trait::async_trait;
use market::{Market, Result};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<()> {
    let market = Market::open().await?;
    let mut provider = sell(&market).await?;
    println!("{} sells in {}", provider.pubkey(), provider.channel());

    let text = buy(&market, "the rain in spain").await?;
    println!("bought: {text}");

    while let Some(event) = provider.next_event().await {
        if let ProviderEvent::Delivered { job_id, price_msat } = event {
            println!("sold:   {job_id} for {price_msat}");
            break;
        }
    }
    provider.stop().await?;
    Ok(())
}

/// What is sold: words, backwards, one at a time. Elsewhere: a model, a search, a build.
#[derive(Debug)]
struct Backwards;

/// Longer texts tear.
const MOST_WORDS: usize = 1000;

#[async_trait]
impl Backend for Backwards {
    fn name(&self) -> &str {
        "backwards"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["backwards-1".into()])
    }

    /// Paid for already when this is called. Many jobs run at once.
    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        let words: Vec<&str> = request.prompt.split_whitespace().collect();
        if words.len() > MOST_WORDS {
            // The customer is told that it failed; these words are for our own log.
            return Err(BackendError::Failed(format!("{} words", words.len())));
        }
        let most = request.max_tokens as usize;
        let mut text = String::new();
        for word in words.iter().rev().take(most) {
            let piece = if text.is_empty() {
                (*word).to_string()
            } else {
                format!(" {word}")
            };
            text.push_str(&piece);
            // Whoever streams gets it now. If nobody listens, the whole text is still wanted.
            let _ = chunks.send(piece).await;
        }
        Ok(Generated {
            text,
            tokens: u32::try_from(words.len().min(most)).ok(),
        })
    }
}

async fn sell(market: &Market) -> Result<Provider> {
    // Keep this one: customers know a provider by its key, and `identity::keystore` keeps it in a file.
    let identity = Identity::from_keys(nostr::Keys::generate());
    let parts = Parts {
        relays: RelayPoolSession::connect(&[market.relay()], PoolOptions::default())?,
        wallet: Some(Arc::new(market.wallet(&identity)?)),
        backend: Arc::new(Backwards),
        // Quotes, paid jobs and results: what was paid before a crash is delivered after it.
        store: JobStore::open(&market.path("jobs.sqlite"))?,
        clock: Clock::system(),
        identity,
    };
    let channel = ChannelChoice::Create { renew: false };
    let mut config = ProviderConfig::new(channel, vec![market.relay()], Network::Regtest);
    config.name = "Backwards & Sons".into();
    config.price.per_request = Msat::new(3_000);
    config.stream = true;
    Ok(Provider::start(config, parts).await?)
}

async fn buy(market: &Market, prompt: &str) -> Result<String> {
    let identity = Identity::from_keys(nostr::Keys::generate());
    let wallet = Arc::new(market.wallet(&identity)?);
    let client = market.buyer(identity, "buyer").wallet(wallet);
    let client = client.build().await?;
    let mut purchase = client.purchase(PurchaseRequest {
        model: Some("backwards-1".into()),
        max_price: Some(Msat::new(5_000)),
        ..PurchaseRequest::new(prompt)
    });
    while let Some(event) = purchase.next_event().await {
        if let PurchaseEvent::Chunk { text, .. } = event {
            println!("chunk:  {text:?}");
        }
    }
    let receipt = purchase.receipt().await?;
    client.close().await;
    Ok(receipt.text)
}

#[cfg(test)]
#[path = "../tests/it/examples/embed_provider.rs"]
mod tests;

//! From the backend's chunk to the buyer's eyes.

use std::sync::Arc;
use std::time::Instant;

use agent_compute::client::PurchaseEvent;
use agent_compute::clock::Clock;
use agent_compute::identity::Identity;
use agent_compute::protocol::Price;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig};
use agent_compute::relay::{PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};

use super::bought::ORIGINAL;
use crate::Plan;
use crate::cast::{CUSTOMER, Market, job, offer};
use crate::floor::{Bare, Raw};
use crate::measure::{Samples, mb, ms, watch};
use crate::report::{Curve, Goal, Report};
use crate::worker::block_on;

/// Makes its next chunk when the one before has been seen, and says when it made it.
#[derive(Debug)]
struct OneByOne {
    chunks: usize,
    made: mpsc::Sender<Instant>,
    seen: Mutex<mpsc::Receiver<()>>,
}

#[async_trait]
impl Backend for OneByOne {
    fn name(&self) -> &str {
        "one by one"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["one-by-one".to_owned()])
    }

    fn chunks_stand_alone(&self) -> bool {
        true
    }

    async fn generate(
        &self,
        _: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        let mut seen = self.seen.lock().await;
        let mut text = String::new();
        for nth in 0..self.chunks {
            let chunk = format!("token{nth} ");
            text.push_str(&chunk);
            let _ = self.made.send(Instant::now()).await;
            let _ = chunks.send(chunk).await;
            let _ = seen.recv().await;
        }
        Ok(Generated { text, tokens: None })
    }
}

async fn sell(market: &Market, backend: OneByOne) -> Provider {
    let identity = Identity::from_keys(nostr::Keys::generate());
    let key = identity.public_key();
    let relay = market.relay.parse().unwrap();
    let wallet = SimWallet::open(&market.bank(), key, SimOptions::default()).unwrap();
    let channel = ChannelChoice::Create { renew: false };
    let mut config = ProviderConfig::new(channel, vec![relay], Network::Regtest);
    config.stream = true;
    config.price = Price::per_request(Msat::new(1_000));
    let parts = Parts {
        relays: RelayPoolSession::connect(&config.relays, PoolOptions::default()).unwrap(),
        wallet: Some(Arc::new(wallet)),
        backend: Arc::new(backend),
        store: JobStore::open(&market.path("jobs.sqlite")).unwrap(),
        clock: Clock::system(),
        identity,
    };
    Provider::start(config, parts).await.unwrap()
}

pub fn stream(plan: &Plan, report: &mut Report) {
    let market = Market::without_seller();
    let (rounds, chunks) = (plan.times(12, 3), 50);
    let (mut firsts, mut others) = (Samples::default(), Samples::default());
    let (mut hops, mut commits) = (Samples::default(), Samples::default());
    block_on(async {
        let (made, mut when_made) = mpsc::channel(1);
        let (saw, seen) = mpsc::channel(1);
        let backend = OneByOne {
            chunks,
            made,
            seen: Mutex::new(seen),
        };
        let provider = sell(&market, backend).await;
        let client = market.buyer("agent").await;
        let offer = offer(&client).await;
        let mut from = Raw::connect(&market.relay).await;
        let mut to = Raw::connect(&market.relay).await;
        to.follow(from.key()).await;
        let mut bare = Bare::open(&market.path("bare.sqlite"));
        for _ in 0..rounds {
            let mut purchase = client.purchase(job(&offer, "go"));
            let mut nth = 0;
            while let Some(event) = purchase.next_event().await {
                if !matches!(event, PurchaseEvent::Chunk { .. }) {
                    continue;
                }
                let arrived = Instant::now();
                let Some(made) = when_made.recv().await else {
                    break;
                };
                let samples = if nth == 0 { &mut firsts } else { &mut others };
                samples.take(arrived - made);
                nth += 1;
                let _ = saw.send(()).await;
            }
            purchase.receipt().await.unwrap();
            assert_eq!(nth, chunks);
            for _ in 0..chunks {
                let begun = Instant::now();
                let event = from.signed(to.key());
                from.say(&event).await;
                to.event().await;
                hops.take(begun.elapsed());
                commits.take(bare.commit(1));
            }
        }
        client.close().await;
        provider.stop().await.unwrap();
    });
    let hop = ms(hops.p50());
    let note = format!(
        "beside one relay hop: signed, carried, verified; the buyer books its payment meanwhile, and a bare commit \
         takes {:.2} ms here",
        ms(commits.p50())
    );
    let first = (ms(firsts.p50()), hop);
    report.row(
        "first chunk after the backend's first token",
        "ms",
        first,
        Goal::AtMost(1.3),
        note,
    );
    let note = "sealed and opened, and in the seller's file before it leaves";
    let each = (ms(others.p50()), hop);
    report.row("each further chunk", "ms", each, Goal::AtMost(1.3), note);
    let beside = (ms(others.p50()), ORIGINAL.1);
    report.row(
        "the same, beside the original's",
        "ms",
        beside,
        Goal::None,
        "measured once, on loopback",
    );
    report.curves.push(lengths(plan));
}

/// A whole purchase in a process of its own, by how many words the seller streams.
fn lengths(plan: &Plan) -> Curve {
    let market = Market::open(true);
    let mut curve = Curve {
        title: "chunks of one streamed purchase",
        load: "chunks",
        points: Vec::new(),
    };
    for words in [1, 10, 100, 1_000] {
        let prompt = vec!["word"; words].join(" ");
        let mut samples = Samples::default();
        let mut most = 0;
        for _ in 0..plan.times(5, 2) {
            let mut buy = market.program(CUSTOMER, "reader");
            buy.args(["--json", "--max-tokens", "4096", "--prompt", &prompt]);
            buy.stdout(std::process::Stdio::null());
            let begun = Instant::now();
            let peak = watch(&mut buy.spawn().unwrap());
            samples.take(begun.elapsed());
            most = most.max(peak.unwrap_or(0));
        }
        curve
            .points
            .push((words as f64, ms(samples.p50()), mb(most)));
    }
    curve
}

//! The seller against customers that are events signed by hand: a real relay over real sockets, play
//! money in a real bank, and a store on disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::identity::Identity;
use agent_compute::ids::{JobId, PurchaseId};
use agent_compute::protocol::message::{
    AgentMessage, Cancel, Invoice, JobError, JobRequest, PaymentSent,
};
use agent_compute::protocol::{KIND_TEXT_GENERATION, channel, codec};
use agent_compute::provider::backend::{Backend, BackendError, Echo, GenerateRequest, Generated};
use agent_compute::provider::job::JobState;
use agent_compute::provider::store::{JobStore, JobSummary};
use agent_compute::provider::{ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown, run};
use agent_compute::relay::{
    EmbeddedRelay, Incoming, PoolOptions, RelayPoolSession, RelaySession, Subscription, fetch,
};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{PayOutcome, PayRequest, Wallet, invoice::parse_unchecked};
use agent_compute::{Code, Error};
use nostr::{Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// The bound of everything that should happen at once. Machines are shared.
const SOON: Duration = Duration::from_secs(30);

/// A relay, a bank and a folder.
struct World {
    relay: EmbeddedRelay,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let relay = EmbeddedRelay::listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        Self {
            relay: relay.await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn session(&self) -> Arc<RelayPoolSession> {
        RelayPoolSession::connect(&[self.relay.url()], PoolOptions::default()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wallet(&self, of: PublicKey) -> SimWallet {
        SimWallet::open(&self.file("bank.sqlite"), of, SimOptions::default()).unwrap()
    }

    fn config(&self) -> ProviderConfig {
        let own = ChannelChoice::Create { renew: false };
        ProviderConfig::new(own, vec![self.relay.url()], Network::Regtest)
    }

    fn store(&self) -> JobStore {
        JobStore::open(&self.file("jobs.sqlite")).unwrap()
    }

    fn parts(&self, keys: &Keys) -> Parts {
        Parts {
            identity: Identity::from_keys(keys.clone()),
            relays: self.session(),
            wallet: Some(Arc::new(self.wallet(keys.public_key()))),
            backend: Arc::new(Echo),
            store: self.store(),
            clock: Clock::system(),
        }
    }

    async fn sell(&self, keys: &Keys) -> Seller {
        Seller::start(self.config(), self.parts(keys)).await
    }
}

/// A running provider.
struct Seller {
    channel: EventId,
    created: bool,
    events: mpsc::Receiver<ProviderEvent>,
    shutdown: Shutdown,
    run: JoinHandle<Result<(), Error>>,
}

impl Seller {
    async fn start(config: ProviderConfig, parts: Parts) -> Self {
        let (report, mut events) = mpsc::channel(256);
        let shutdown = Shutdown::default();
        #[allow(clippy::disallowed_methods)]
        let run = tokio::spawn(run(config, parts, report, shutdown.clone()));
        let mut created = false;
        let channel = loop {
            let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
            match event.expect("the provider starts") {
                ProviderEvent::Ready { channel, .. } => break channel,
                ProviderEvent::ChannelCreated { .. } => created = true,
                _ => {}
            }
        };
        Self {
            channel,
            created,
            events,
            shutdown,
            run,
        }
    }

    /// Waits for the event that `is` picks.
    async fn until<T>(&mut self, is: impl Fn(&ProviderEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the provider runs");
                if let Some(found) = is(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("in time")
    }

    async fn until_delivered(&mut self, job: &JobId) {
        self.until(|event| match event {
            ProviderEvent::Delivered { job_id, .. } => (job_id == job).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn stop(self) -> Result<(), Error> {
        self.shutdown.finish.cancel();
        tokio::time::timeout(SOON, self.run).await.unwrap().unwrap()
    }

    /// As a crash does: nothing is finished, nothing said.
    async fn stop_at_once(self) {
        self.shutdown.now.cancel();
        let stopped = tokio::time::timeout(SOON, self.run).await.unwrap();
        stopped.unwrap().unwrap();
    }
}

/// Somebody who speaks in the channel.
struct Peer {
    keys: Keys,
    wallet: SimWallet,
    session: Arc<RelayPoolSession>,
    channel: EventId,
    url: String,
    heard: Subscription,
}

impl Peer {
    async fn join(world: &World, seller: PublicKey, channel: EventId) -> Self {
        let keys = Keys::generate();
        let session = world.session();
        let filter = Filter::new().kind(Kind::ChannelMessage).author(seller);
        let heard = session
            .subscribe(filter.event(channel), SOON)
            .await
            .unwrap();
        Self {
            wallet: world.wallet(keys.public_key()),
            keys,
            session,
            channel,
            url: world.relay.url().to_string(),
            heard,
        }
    }

    fn sign(&self, message: &AgentMessage) -> Event {
        self.sign_at(message, Timestamp::now())
    }

    fn sign_at(&self, message: &AgentMessage, at: Timestamp) -> Event {
        let content = codec::encode(message).unwrap();
        channel::message(self.channel, &self.url, content, None)
            .custom_created_at(at)
            .sign_with_keys(&self.keys)
            .unwrap()
    }

    async fn publish(&self, event: &Event) {
        self.session.publish(event, SOON).await.unwrap();
    }

    async fn say(&self, message: AgentMessage) -> Event {
        let event = self.sign(&message);
        self.publish(&event).await;
        event
    }

    async fn ask(&self, request: JobRequest) -> JobId {
        JobId::of_request(&self.say(AgentMessage::JobRequest(request)).await.id)
    }

    async fn paid(&self, job_id: &JobId) {
        let job_id = job_id.clone();
        let payment_id = "a payment".into();
        self.say(AgentMessage::PaymentSent(PaymentSent {
            job_id,
            payment_id,
        }))
        .await;
    }

    /// The next message about `job` that `is` picks; others are skipped.
    async fn hear<T>(&mut self, job: &JobId, is: impl Fn(AgentMessage) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let Some(Incoming::Event(event)) = self.heard.next().await else {
                    continue;
                };
                let Ok(message) = codec::decode(&event.content) else {
                    continue;
                };
                if message.job_id() == Some(job)
                    && let Some(found) = is(message)
                {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("in time")
    }

    async fn invoice(&mut self, job: &JobId) -> Invoice {
        self.hear(job, |message| match message {
            AgentMessage::Invoice(invoice) => Some(invoice),
            other => panic!("{other:?} instead of an invoice"),
        })
        .await
    }

    async fn result(&mut self, job: &JobId) -> String {
        self.hear(job, |message| match message {
            AgentMessage::JobResult(result) => Some(result.result),
            _ => None,
        })
        .await
    }

    async fn refusal(&mut self, job: &JobId) -> String {
        self.hear(job, |message| match message {
            AgentMessage::JobError(JobError { code, .. }) => Some(code),
            _ => None,
        })
        .await
    }

    async fn pay(&self, invoice: &Invoice) -> PayOutcome {
        let parsed = parse_unchecked(&invoice.bolt11).unwrap();
        self.wallet
            .pay(PayRequest {
                bolt11: invoice.bolt11.clone(),
                payment_hash: parsed.payment_hash,
                amount: invoice.amount_msats,
                max_fee: Msat::ZERO,
                purchase: PurchaseId::from_bytes(rand::random()),
            })
            .await
    }

    /// Asks, pays and says so.
    async fn buy(&mut self, request: JobRequest) -> JobId {
        let job = self.ask(request).await;
        let invoice = self.invoice(&job).await;
        assert!(matches!(self.pay(&invoice).await, PayOutcome::Paid { .. }));
        self.paid(&job).await;
        job
    }
}

fn request(seller: PublicKey, prompt: &str) -> JobRequest {
    JobRequest {
        nonce: Some(format!("{:032x}", rand::random::<u128>())),
        ..JobRequest::new(KIND_TEXT_GENERATION, prompt, 500, seller)
    }
}

async fn summary(store: &JobStore, job: &JobId) -> JobSummary {
    let jobs = store.latest(100).await.unwrap();
    jobs.into_iter().find(|found| found.job_id == *job).unwrap()
}

#[tokio::test]
async fn a_paid_job_is_delivered() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    assert!(seller.created);
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let job = peer.ask(request(us, "What  is 2+2? ")).await;
    let invoice = peer.invoice(&job).await;
    let parsed = parse_unchecked(&invoice.bolt11).unwrap();
    assert_eq!(invoice.amount_msats, Msat::new(10_000));
    assert_eq!(parsed.amount, Some(invoice.amount_msats));
    assert_eq!(invoice.payment_hash, Some(parsed.payment_hash.to_string()));
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    peer.paid(&job).await;
    assert_eq!(peer.result(&job).await, "What  is 2+2? ");
    seller.until_delivered(&job).await;

    let done = summary(&world.store(), &job).await;
    assert_eq!(done.state, JobState::Delivered);
    assert_eq!(done.price_msat, Msat::new(10_000));
    assert!(done.settled_at.is_some());
    seller.stop().await.unwrap();
}

//! The seller against customers that are events signed by hand: a real relay over real sockets, play
//! money in a real bank, and a store on disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::identity::Identity;
use agent_compute::ids::{JobId, PaymentHash, Preimage, PurchaseId};
use agent_compute::protocol::message::{
    AgentMessage, Cancel, Invoice, JobError, JobRequest, PaymentSent,
};
use agent_compute::protocol::{Feature, KIND_TEXT_GENERATION, channel, codec};
use agent_compute::provider::backend::{Backend, BackendError, Echo, GenerateRequest, Generated};
use agent_compute::provider::job::JobState;
use agent_compute::provider::store::{JobStore, JobSummary};
use agent_compute::provider::{ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown, run};
use agent_compute::relay::{
    EmbeddedRelay, Incoming, PoolOptions, RelayPoolSession, RelaySession, Subscription, fetch,
};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{
    Incoming as Money, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet,
    WalletError,
};
use agent_compute::{Code, Error};
use nostr::{Event, EventId, Filter, Keys, Kind, PublicKey, Timestamp};
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

/// A backend that tests lead by the hand: a prompt says what it does, and `gate` is when.
#[derive(Debug, Default)]
struct Led {
    began: AtomicUsize,
    gate: Notify,
}

#[async_trait::async_trait]
impl Backend for Led {
    fn name(&self) -> &str {
        "led"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["led".into(), "other".into()])
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        self.began.fetch_add(1, Ordering::SeqCst);
        let text = match request.prompt.as_str() {
            "panic" => panic!("as asked"),
            "fail" => return Err(BackendError::Failed("a secret of ours".into())),
            "nothing" => String::new(),
            "wait" => {
                self.gate.notified().await;
                "waited".into()
            }
            "long" => "\"word\" \n".repeat(20_000),
            "stream" => {
                for n in 0..200 {
                    chunks.send(format!("{n} ")).await.unwrap();
                    if n == 100 {
                        self.gate.notified().await;
                    }
                }
                (0..200).map(|n| format!("{n} ")).collect()
            }
            prompt => prompt.to_uppercase(),
        };
        let tokens = None;
        Ok(Generated { text, tokens })
    }
}

/// A wallet that sees payments only once told to, and gives no hints.
#[derive(Debug)]
struct Blinded {
    wallet: SimWallet,
    sees: std::sync::atomic::AtomicBool,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Wallet for Blinded {
    fn id(&self) -> &agent_compute::ids::WalletId {
        self.wallet.id()
    }
    fn network(&self) -> Network {
        self.wallet.network()
    }
    fn capabilities(&self) -> agent_compute::wallet::Capabilities {
        self.wallet.capabilities()
    }
    async fn balance(&self) -> Result<Msat, WalletError> {
        self.wallet.balance().await
    }
    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError> {
        self.wallet.fee_quote(bolt11).await
    }
    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        self.wallet.invoice(request).await
    }
    async fn incoming(&self, hash: PaymentHash) -> Result<Money, WalletError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.sees.load(Ordering::SeqCst) {
            self.wallet.incoming(hash).await
        } else {
            Ok(Money::Open)
        }
    }
    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        self.wallet.settle(preimage).await
    }
    async fn cancel(&self, _: PaymentHash) -> Result<(), WalletError> {
        Err(WalletError::Unsupported("cancel"))
    }
    async fn pay(&self, request: PayRequest) -> PayOutcome {
        self.wallet.pay(request).await
    }
    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        self.wallet.outgoing(hash).await
    }
}

impl World {
    async fn sell_led(
        &self,
        keys: &Keys,
        change: impl FnOnce(&mut ProviderConfig),
    ) -> (Seller, Arc<Led>) {
        let backend = Arc::new(Led::default());
        let mut config = self.config();
        change(&mut config);
        let parts = Parts {
            backend: Arc::clone(&backend) as Arc<dyn Backend>,
            ..self.parts(keys)
        };
        (Seller::start(config, parts).await, backend)
    }

    /// The listings and announcements of a provider that a newcomer finds now.
    async fn findable(&self, seller: PublicKey) -> Vec<Event> {
        let session = self.session();
        let kinds = [Kind::Custom(31_990), Kind::ChannelMessage];
        let filter = Filter::new().author(seller).kinds(kinds);
        let stored = fetch(session.as_ref(), filter, SOON, 1_000).await.unwrap();
        let found = stored.events.into_iter();
        found
            .filter(|event| {
                event.content.contains("ServiceAnnouncement")
                    || event.tags.iter().any(|tag| tag.as_slice()[0] == "handler")
            })
            .collect()
    }
}

async fn eventually(what: &str, is: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect(what);
}

#[tokio::test]
async fn nobody_gets_work_without_paying_whatever_is_said() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut stranger = Peer::join(&world, us, seller.channel).await;

    let unpaid = peer.ask(request(us, "free work")).await;
    peer.invoice(&unpaid).await;
    for _ in 0..30 {
        peer.paid(&unpaid).await;
        stranger.paid(&unpaid).await;
    }
    // Whatever these made the provider do, it did before it answers this one.
    let paid = stranger.buy(request(us, "paid work")).await;
    assert_eq!(stranger.result(&paid).await, "PAID WORK");
    seller.until_delivered(&paid).await;
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);
    assert_eq!(
        summary(&world.store(), &unpaid).await.state,
        JobState::Quoted
    );

    // And the money makes the difference.
    let other = stranger.ask(request(us, "seen by itself")).await;
    let invoice = stranger.invoice(&other).await;
    stranger.pay(&invoice).await;
    assert_eq!(stranger.result(&other).await, "SEEN BY ITSELF");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_what_is_not_for_us_is_ignored() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let other = Keys::generate().public_key();
    let ignored = [
        peer.ask(request(other, "for another")).await,
        peer.ask(JobRequest {
            kind: 5_930,
            target_provider: None,
            ..request(us, "another kind, asked of all")
        })
        .await,
    ];
    let old = Timestamp::from(Timestamp::now().as_secs() - 3_600);
    let ahead = Timestamp::from(Timestamp::now().as_secs() + 3_600);
    for at in [old, ahead] {
        let late = AgentMessage::JobRequest(request(us, "at the wrong time"));
        let _ = peer.session.publish(&peer.sign_at(&late, at), SOON).await;
    }
    for (code, refused) in [
        (
            "invalid",
            JobRequest {
                kind: 5_930,
                ..request(us, "kind")
            },
        ),
        ("invalid", request(us, "  ")),
        (
            "invalid",
            JobRequest {
                max_tokens: 0,
                ..request(us, "tokens")
            },
        ),
        (
            "model",
            JobRequest {
                model: Some("none".into()),
                ..request(us, "model")
            },
        ),
        (
            "price",
            JobRequest {
                max_price_msats: Some(Msat::new(9_999)),
                ..request(us, "price")
            },
        ),
        (
            "escrow",
            JobRequest {
                escrow: Some(Feature::HoldInvoice),
                ..request(us, "escrow")
            },
        ),
    ] {
        let job = peer.ask(refused).await;
        assert_eq!(peer.refusal(&job).await, code);
    }
    let hex = us.to_hex().to_uppercase();
    let taken = peer
        .ask(JobRequest {
            target_provider: Some(hex),
            model: Some("other".into()),
            ..request(us, "x")
        })
        .await;
    peer.invoice(&taken).await;
    let untargeted = JobRequest {
        target_provider: None,
        ..request(us, "asked of all")
    };
    let untargeted = peer.ask(untargeted).await;
    peer.invoice(&untargeted).await;

    let jobs = world.store().latest(100).await.unwrap();
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert!(!jobs.iter().any(|job| ignored.contains(&job.job_id)));
}

#[tokio::test]
async fn a_full_queue_says_busy_and_a_cancelled_quote_frees_its_place_and_cant_be_paid() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = Seller::start(
        ProviderConfig {
            max_quotes_per_customer: 2,
            max_jobs: 1,
            max_queue: 2,
            ..world.config()
        },
        world.parts(&keys),
    )
    .await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;

    let first = peer.ask(request(us, "one")).await;
    let invoice = peer.invoice(&first).await;
    let second = peer.ask(request(us, "two")).await;
    peer.invoice(&second).await;
    let third = peer.ask(request(us, "three")).await;
    assert_eq!(
        peer.refusal(&third).await,
        "busy",
        "too many of one customer"
    );
    let theirs = other.ask(request(us, "theirs")).await;
    other.invoice(&theirs).await;
    let fourth = other.ask(request(us, "four")).await;
    assert_eq!(other.refusal(&fourth).await, "busy", "too many of all");

    // Nobody cancels for another.
    let cancel = |job: &JobId| {
        AgentMessage::Cancel(Cancel {
            job_id: job.clone(),
        })
    };
    other.say(cancel(&first)).await;
    other.say(cancel(&theirs)).await;
    let cancelled = |event: &ProviderEvent| match event {
        ProviderEvent::Cancelled { job_id } => Some(job_id.clone()),
        _ => None,
    };
    assert_eq!(seller.until(cancelled).await, theirs);
    peer.say(cancel(&first)).await;
    assert_eq!(seller.until(cancelled).await, first);
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Failed(_)));
    let fifth = peer.buy(request(us, "five")).await;
    assert_eq!(peer.result(&fifth).await, "five");
    eventually("both are on record as cancelled", async || {
        let store = world.store();
        let first = summary(&store, &first).await.state;
        let theirs = summary(&store, &theirs).await.state;
        (first, theirs) == (JobState::Cancelled, JobState::Cancelled)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_bad_requests_is_answered_sparingly_and_harms_nobody() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    let flooder = Peer::join(&world, us, seller.channel).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    for _ in 0..200 {
        flooder.ask(request(us, " ")).await;
    }
    let job = peer.buy(request(us, "still served")).await;
    assert_eq!(peer.result(&job).await, "still served");
    seller.until_delivered(&job).await;
    let session = world.session();
    let said = Filter::new().author(us).kind(Kind::ChannelMessage);
    let said = fetch(session.as_ref(), said, SOON, 1_000).await.unwrap();
    let refusals = said
        .events
        .iter()
        .filter(|event| event.content.contains("JobError"));
    assert!(refusals.count() < 30);
}

#[tokio::test]
async fn a_paid_job_is_done_after_a_restart_and_only_once() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let before = peer.buy(request(us, "before")).await;
    assert_eq!(peer.result(&before).await, "BEFORE");
    seller.until_delivered(&before).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 2
    })
    .await;
    let quoted = peer.ask(request(us, "paid while nobody was there")).await;
    let invoice = peer.invoice(&quoted).await;
    let channel = seller.channel;
    seller.stop_at_once().await;

    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(seller.channel, channel, "it comes back to its channel");
    assert!(!seller.created);
    assert_eq!(peer.result(&quoted).await, "PAID WHILE NOBODY WAS THERE");
    backend.gate.notify_one();
    assert_eq!(peer.result(&running).await, "waited");
    seller.until_delivered(&running).await;

    // The relay has sent all old requests again by now; nobody is asked or served twice.
    let after = peer.buy(request(us, "after")).await;
    assert_eq!(peer.result(&after).await, "AFTER");
    assert_eq!(backend.began.load(Ordering::SeqCst), 3);
    assert_eq!(world.store().latest(100).await.unwrap().len(), 4);
    let session = world.session();
    let said = Filter::new().author(us).kind(Kind::ChannelMessage);
    let said = fetch(session.as_ref(), said, SOON, 1_000).await.unwrap();
    for what in ["Invoice", "JobResult"] {
        let of_kind = |event: &&Event| event.content.contains(&format!(r#""type":"{what}""#));
        assert_eq!(said.events.iter().filter(of_kind).count(), 4, "{what}");
    }
}

#[tokio::test]
async fn a_result_that_no_relay_took_is_delivered_after_the_next_start() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;

    world.relay.shutdown().await;
    backend.gate.notify_one();
    let store = world.store();
    eventually("the result is on record", async || {
        summary(&store, &job).await.state == JobState::Done
    })
    .await;
    seller.stop_at_once().await;
    world.relay.resume().await.unwrap();

    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    seller.until_delivered(&job).await;
    assert_eq!(peer.result(&job).await, "waited");
    assert_eq!(
        backend.began.load(Ordering::SeqCst),
        0,
        "nothing is done twice"
    );
    assert_eq!(summary(&store, &job).await.state, JobState::Delivered);
}

#[tokio::test]
async fn a_payment_that_is_seen_after_the_quote_expired_is_served() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let started = agent_compute::units::UnixSecs::new(Timestamp::now().as_secs() - 400);
    let clock = Clock::fixed(started);
    let wallet = Arc::new(Blinded {
        wallet: SimWallet::open(
            &world.file("bank.sqlite"),
            us,
            SimOptions {
                clock: clock.clone(),
                ..SimOptions::default()
            },
        )
        .unwrap(),
        sees: false.into(),
        asked: AtomicUsize::new(0),
    });
    let config = ProviderConfig {
        announce_every: Duration::from_secs(300),
        ..world.config()
    };
    let parts = Parts {
        wallet: Some(Arc::clone(&wallet) as Arc<dyn Wallet>),
        clock: clock.clone(),
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(config, parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let options = SimOptions {
        clock: clock.clone(),
        ..SimOptions::default()
    };
    peer.wallet =
        SimWallet::open(&world.file("bank.sqlite"), peer.keys.public_key(), options).unwrap();

    let job = peer.ask(request(us, "better late")).await;
    let invoice = peer.invoice(&job).await;
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    clock.set(started.plus(301));
    let expired = |event: &ProviderEvent| match event {
        ProviderEvent::Expired { job_id } => Some(job_id.clone()),
        _ => None,
    };
    assert_eq!(seller.until(expired).await, job);
    wallet.sees.store(true, Ordering::SeqCst);
    peer.paid(&job).await;
    assert_eq!(peer.result(&job).await, "better late");
    seller.until_delivered(&job).await;
}

#[tokio::test]
async fn a_backend_that_fails_or_panics_is_told_and_stops_nobody_else() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    for prompt in ["fail", "panic", "nothing"] {
        let job = peer.buy(request(us, prompt)).await;
        let told = peer.hear(&job, |message| match message {
            AgentMessage::JobError(error) => Some(error),
            other => panic!("{other:?} instead of an error"),
        });
        let told = told.await;
        assert_eq!(told.code, "failed");
        assert!(!told.message.contains("secret"));
        let reason = seller.until(|event| match event {
            ProviderEvent::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        assert!(!reason.await.is_empty());
        let failed = summary(&world.store(), &job).await;
        assert_eq!(failed.state, JobState::Failed);
        assert!(failed.settled_at.is_some(), "what is owed stays on record");
    }
    // Deployed customers send no nonce, and know no errors but such results.
    let deployed = JobRequest {
        nonce: None,
        ..request(us, "fail")
    };
    let job = peer.buy(deployed).await;
    assert!(peer.result(&job).await.starts_with("Error: "));
    let job = peer.buy(request(us, "and yet")).await;
    assert_eq!(peer.result(&job).await, "AND YET");
}

#[tokio::test]
async fn paid_jobs_wait_in_order_when_all_slots_are_taken() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 1).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the slot is taken", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    let mut waiting = Vec::new();
    for n in 0..3 {
        let job = peer.buy(request(us, &format!("number {n}"))).await;
        let position = peer.hear(&job, |message| match message {
            AgentMessage::JobAccepted(accepted) => Some(accepted.queue_position),
            _ => None,
        });
        assert_eq!(position.await, n);
        waiting.push(job);
    }
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);
    backend.gate.notify_one();
    let mut began = vec![];
    while began.len() < 3 {
        let started = seller.until(|event| match event {
            ProviderEvent::Started { job_id, .. } => Some(job_id.clone()),
            _ => None,
        });
        let started = started.await;
        if started != running {
            began.push(started);
        }
    }
    assert_eq!(began, waiting);
}

#[tokio::test]
async fn leaving_finishes_what_is_paid_and_takes_back_what_is_not() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(
        world.findable(us).await.len(),
        2,
        "a listing and an announcement"
    );
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let quoted = peer.ask(request(us, "not paid")).await;
    let invoice = peer.invoice(&quoted).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;

    seller.shutdown.finish.cancel();
    eventually("the listing is gone", async || {
        world.findable(us).await.is_empty()
    })
    .await;
    let late = peer.ask(request(us, "too late")).await;
    assert_eq!(peer.refusal(&late).await, "busy");
    eventually("the quote is given up", async || {
        summary(&world.store(), &quoted).await.state == JobState::Cancelled
    })
    .await;
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Failed(_)));
    assert!(!seller.run.is_finished());
    backend.gate.notify_one();
    assert_eq!(peer.result(&running).await, "waited");
    seller.stop().await.unwrap();
    assert_eq!(
        summary(&world.store(), &running).await.state,
        JobState::Delivered
    );

    // It can come back at once, and is found again.
    let seller = world.sell(&keys).await;
    assert_eq!(world.findable(us).await.len(), 2);
    seller.stop().await.unwrap();
    assert!(world.findable(us).await.is_empty());
}

#[tokio::test]
async fn chunks_come_in_order_and_make_up_the_result() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |config| config.stream = true).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let streaming = JobRequest {
        stream: Some(true),
        ..request(us, "stream")
    };
    let job = peer.buy(streaming).await;
    let whole: String = (0..200).map(|n| format!("{n} ")).collect();
    let mut text = String::new();
    let mut seq = 0;
    loop {
        let chunk = peer.hear(&job, |message| match message {
            AgentMessage::StreamChunk(chunk) => Some(chunk),
            _ => None,
        });
        let chunk = chunk.await;
        assert_eq!(chunk.seq, Some(seq));
        seq += 1;
        text.push_str(&chunk.chunk);
        if text.ends_with("100 ") {
            assert!(!chunk.is_final, "it comes while the backend is at work");
            backend.gate.notify_one();
        }
        if chunk.is_final {
            break;
        }
    }
    assert!(seq >= 2 && seq < 50, "{seq} chunks for 200 tokens");
    assert_eq!(text, whole);
    assert_eq!(peer.result(&job).await, whole);

    let not_asked_for = peer.buy(request(us, "quiet")).await;
    let first = peer.hear(&not_asked_for, Some).await;
    assert!(matches!(first, AgentMessage::JobResult(_)), "{first:?}");
}

#[tokio::test]
async fn a_result_too_long_for_one_message_goes_as_chunks_alone() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "long")).await;
    let mut text = String::new();
    for seq in 0.. {
        let chunk = peer.hear(&job, |message| match message {
            AgentMessage::StreamChunk(chunk) => Some(chunk),
            AgentMessage::JobResult(_) => panic!("a result that can't fit"),
            _ => None,
        });
        let chunk = chunk.await;
        assert_eq!(chunk.seq, Some(seq));
        text.push_str(&chunk.chunk);
        if chunk.is_final {
            break;
        }
    }
    assert_eq!(text, "\"word\" \n".repeat(20_000));
    seller.until_delivered(&job).await;
}

#[tokio::test]
async fn without_a_wallet_it_is_what_deployed_customers_know() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let config = ProviderConfig {
        stream: true,
        ..world.config()
    };
    let parts = Parts {
        wallet: None,
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(config, parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut stranger = Peer::join(&world, us, seller.channel).await;

    // The captured customer's own words, but for the key they are addressed to.
    let capture = include_str!("../../tests/fixtures/captures/original-channel.ndjson");
    let theirs = capture
        .lines()
        .find(|line| line.contains("JobRequest"))
        .unwrap();
    let theirs: Event = nostr::JsonUtil::from_json(theirs).unwrap();
    let captured_seller = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";
    let content = theirs.content.replace(captured_seller, &us.to_hex());
    assert_ne!(content, theirs.content);
    let event = channel::message(seller.channel, &peer.url, content, None);
    let event = event.sign_with_keys(&peer.keys).unwrap();
    peer.publish(&event).await;
    let job = JobId::of_request(&event.id);

    let invoice = peer.invoice(&job).await;
    let ours = codec::encode(&AgentMessage::Invoice(Invoice {
        expires_at: None,
        ..invoice
    }))
    .unwrap();
    let captured = capture
        .lines()
        .find(|line| line.contains(r#"\"Invoice\""#))
        .unwrap();
    let captured: Event = nostr::JsonUtil::from_json(captured).unwrap();
    let captured_job = JobId::of_request(&theirs.id);
    assert_eq!(
        ours,
        captured
            .content
            .replace(captured_job.as_str(), job.as_str())
    );

    stranger.paid(&job).await;
    let other = stranger.ask(request(us, "another")).await;
    stranger.invoice(&other).await;
    assert_eq!(summary(&world.store(), &job).await.state, JobState::Quoted);
    peer.paid(&job).await;
    let first = peer.hear(&job, Some).await;
    assert!(matches!(first, AgentMessage::StreamChunk(_)), "{first:?}");
    assert_eq!(peer.result(&job).await, "What is 2+2?");
    seller.until_delivered(&job).await;
    seller.stop().await.unwrap();

    let parts = Parts {
        wallet: None,
        ..world.parts(&keys)
    };
    let config = ProviderConfig {
        network: Network::Mainnet,
        ..world.config()
    };
    let refused = run(config, parts, mpsc::channel(1).0, Shutdown::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Usage);
}

#[tokio::test]
async fn one_store_has_one_seller_and_a_start_without_relays_says_so() {
    let (world, keys) = (World::new().await, Keys::generate());
    let seller = world.sell(&keys).await;
    let second = run(
        world.config(),
        world.parts(&keys),
        mpsc::channel(1).0,
        Shutdown::default(),
    );
    assert_eq!(second.await.unwrap_err().code(), Code::Ledger);
    seller.stop_at_once().await;

    let no_such_model = ProviderConfig {
        models: vec!["gpt".into()],
        ..world.config()
    };
    let refused = run(
        no_such_model,
        world.parts(&keys),
        mpsc::channel(1).0,
        Shutdown::default(),
    );
    assert_eq!(refused.await.unwrap_err().code(), Code::Usage);
}

#[tokio::test]
async fn a_new_channel_is_made_when_asked_for() {
    let (world, keys) = (World::new().await, Keys::generate());
    let seller = world.sell(&keys).await;
    let first = seller.channel;
    seller.stop().await.unwrap();
    let renew = ChannelChoice::Create { renew: true };
    let config = ProviderConfig {
        channel: renew,
        ..world.config()
    };
    let seller = Seller::start(config, world.parts(&keys)).await;
    assert!(seller.created);
    let second = seller.channel;
    assert_ne!(second, first);
    seller.stop().await.unwrap();
    let seller = world.sell(&keys).await;
    assert_eq!(
        seller.channel, second,
        "the last one made is the one to come back to"
    );
    seller.stop().await.unwrap();
    let joined = ProviderConfig {
        channel: ChannelChoice::Join(first),
        ..world.config()
    };
    let seller = Seller::start(joined, world.parts(&keys)).await;
    assert_eq!(seller.channel, first);
}

#[tokio::test]
async fn a_relay_that_comes_back_finds_the_seller_at_work() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    world.relay.shutdown().await;
    world.relay.resume().await.unwrap();
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "still here")).await;
    assert_eq!(peer.result(&job).await, "still here");
    seller.until_delivered(&job).await;
}

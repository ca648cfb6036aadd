//! The seller against customers that are events signed by hand: a real relay over real sockets, play
//! money in a real bank, and a store on disk.
#![allow(clippy::expect_used)]

mod delivery;
mod escrow;
mod quotes;
mod restart;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::discovery::{DiscoveryRequest, discover};
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
    /// What it said before it was ready.
    early: VecDeque<ProviderEvent>,
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
        let mut early = VecDeque::new();
        let channel = loop {
            let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
            match event.expect("the provider starts") {
                ProviderEvent::Ready { channel, .. } => break channel,
                ProviderEvent::ChannelCreated { .. } => created = true,
                other => early.push_back(other),
            }
        };
        Self {
            channel,
            created,
            early,
            events,
            shutdown,
            run,
        }
    }

    /// Waits for the event that `is` picks.
    async fn until<T>(&mut self, is: impl Fn(&ProviderEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = match self.early.pop_front() {
                    Some(early) => early,
                    None => self.events.recv().await.expect("the provider runs"),
                };
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

    /// Waits until it has said so many things.
    async fn until_said(&mut self, mut many: usize) {
        while many > 0 {
            self.until(|_| Some(())).await;
            many -= 1;
        }
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
    unheard: Vec<AgentMessage>,
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
            unheard: Vec::new(),
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

    /// The next message about `job` that `is` picks; its others are skipped, other jobs' kept.
    async fn hear<T>(&mut self, job: &JobId, is: impl Fn(AgentMessage) -> Option<T>) -> T {
        let (about_job, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unheard)
            .into_iter()
            .partition(|message| message.job_id() == Some(job));
        self.unheard = kept;
        let mut about_job = about_job.into_iter();
        while let Some(message) = about_job.next() {
            if let Some(found) = is(message) {
                self.unheard.extend(about_job);
                return found;
            }
        }
        let waiting = async {
            loop {
                let Some(Incoming::Event(event)) = self.heard.next().await else {
                    continue;
                };
                let Ok(message) = codec::decode(&event.content) else {
                    continue;
                };
                if message.job_id() != Some(job) {
                    self.unheard.push(message);
                } else if let Some(found) = is(message) {
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

/// A backend that tests lead by the hand: a prompt says what it does, and `gate` is when.
#[derive(Debug, Default)]
struct Led {
    began: AtomicUsize,
    gate: Notify,
    kept: Mutex<Vec<mpsc::Sender<String>>>,
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
            "keep" => {
                self.kept.lock().unwrap().push(chunks);
                "kept its end open".into()
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

/// A wallet in a mood of its own, that gives no hints.
#[derive(Debug)]
struct Moody {
    wallet: SimWallet,
    /// What it says of all payments to it, instead of the truth.
    says: std::sync::Mutex<Option<Money>>,
    /// How often it was asked.
    asked: AtomicUsize,
    /// So many calls to settle or cancel fail first.
    refusals: AtomicUsize,
    /// Where cancelling waits, if it does.
    cancel_gate: Option<Arc<Notify>>,
    /// How often cancelling was begun.
    cancelling: AtomicUsize,
}

impl Moody {
    fn new(wallet: SimWallet) -> Self {
        Self {
            wallet,
            says: None.into(),
            asked: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            cancel_gate: None,
            cancelling: AtomicUsize::new(0),
        }
    }

    fn say(&self, of_all: impl Into<Option<Money>>) {
        *self.says.lock().unwrap() = of_all.into();
    }

    fn mood(&self) -> Result<(), WalletError> {
        let calmer = |left: usize| left.checked_sub(1);
        let refused = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, calmer);
        match refused {
            Ok(_) => Err(WalletError::Unreachable("not now".into())),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Wallet for Moody {
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
        let says = *self.says.lock().unwrap();
        match says {
            Some(said) => Ok(said),
            None => self.wallet.incoming(hash).await,
        }
    }
    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        self.mood()?;
        self.wallet.settle(preimage).await
    }
    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.mood()?;
        self.cancelling.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.cancel_gate {
            gate.notified().await;
        }
        self.wallet.cancel(hash).await
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

impl World {
    /// Whose offers a customer discovers, in a channel or by their listings.
    async fn offers(&self, channel: Option<EventId>) -> Vec<PublicKey> {
        let request = DiscoveryRequest {
            listings: channel.is_none(),
            channel,
            provider: None,
            first: false,
            within: SOON,
        };
        let session = self.session();
        let clock = Clock::system();
        let found = discover(session.as_ref(), &clock, &request, |_| true, |_| ()).await;
        let offers = found.unwrap().offers.into_iter();
        offers.map(|offer| offer.provider).collect()
    }

    /// All that a provider has said in its channels, of one type.
    async fn said(&self, seller: PublicKey, kind: &str) -> Vec<Event> {
        let session = self.session();
        let filter = Filter::new().author(seller).kind(Kind::ChannelMessage);
        let stored = fetch(session.as_ref(), filter.limit(5_000), SOON, 5_000).await;
        let of_kind = format!(r#""type":"{kind}""#);
        let events = stored.unwrap().events.into_iter();
        events
            .filter(|event| event.content.contains(&of_kind))
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

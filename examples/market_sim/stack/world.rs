//! One market: a relay, a bank and a clock of its own, and what everybody does in it for the record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::config::{Home, Role};
use agent_compute::ids::PaymentHash;
use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::units::UnixSecs;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::{Keys, PublicKey, RelayUrl, SecretKey};
use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an account opens with, in msat.
pub const OPENING: u64 = 100_000_000;

/// The bound of everything that should happen at once. Machines are shared.
pub const SOON: Duration = Duration::from_secs(60);

/// Longer than any hold of play money, and than any deadline.
const LONG: u64 = 25 * 3600;

/// A market. Its time stands still unless it is moved, so that nothing in it ends by chance.
pub struct World {
    folder: TempDir,
    relay: EmbeddedRelay,
    pub clock: Clock,
    pub began: UnixSecs,
    /// How many attempts have ended.
    pub ended: watch::Sender<u64>,
    /// The last attempt has ended: time for what comes late.
    pub over: CancellationToken,
    /// What comes late has come.
    pub late: CancellationToken,
    record: Mutex<Record>,
}

/// What the players do that must come to nothing, or must be all that comes of it.
#[derive(Default)]
struct Record {
    /// By prompt: every text that somebody signed as its result.
    texts: BTreeMap<String, BTreeSet<String>>,
    /// Prompts that the real provider has worked on, as often as it has.
    worked: Vec<String>,
    /// Prompts whose jobs are paid, or whose money is locked.
    paid: BTreeSet<String>,
    /// Invoices that nobody has any reason to pay, and who would get the money.
    traps: Vec<(SimWallet, PaymentHash)>,
    /// What went wrong with the simulation itself.
    mishaps: Vec<String>,
}

impl World {
    pub async fn open() -> Arc<Self> {
        let began = Clock::system().now();
        let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into());
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
            relay: relay.await.unwrap(),
            clock: Clock::fixed(began),
            began,
            ended: watch::Sender::new(0),
            over: CancellationToken::new(),
            late: CancellationToken::new(),
            record: Mutex::default(),
        })
    }

    pub fn relay(&self) -> RelayUrl {
        self.relay.url()
    }

    pub fn bank(&self) -> PathBuf {
        self.folder.path().join("bank.sqlite")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn home(&self, name: &str) -> Home {
        Home::at(self.folder.path().join(name))
    }

    /// The folder of a buyer's ledger.
    pub fn ledger(&self, name: &str) -> PathBuf {
        let home = self.home(name);
        home.make_folder(Role::Customer).unwrap()
    }

    /// A session of this market's time with the relay at this address.
    pub fn session(&self, relay: &RelayUrl) -> Arc<RelayPoolSession> {
        let options = PoolOptions {
            clock: self.clock.clone(),
            ..PoolOptions::default()
        };
        RelayPoolSession::connect(std::slice::from_ref(relay), options).unwrap()
    }

    /// A wallet at this market's bank. Files are slow to make, so this may block for a while.
    pub async fn wallet(&self, of: PublicKey, options: SimOptions) -> SimWallet {
        let bank = self.bank();
        let options = SimOptions {
            clock: self.clock.clone(),
            ..options
        };
        let opening = move || SimWallet::open(&bank, of, options).unwrap();
        tokio::task::spawn_blocking(opening).await.unwrap()
    }

    /// Lets so much time pass that every deadline has, and every hold of money ends.
    pub fn let_time_pass(&self) {
        self.clock.set(self.clock.now().plus(LONG));
    }

    /// The buyer's deadline passes, and no hold does.
    pub fn let_the_deadline_pass(&self) {
        self.clock.set(self.clock.now().plus(300));
    }

    /// Somebody signed this as a result for this prompt.
    pub fn signed(&self, prompt: &str, text: &str) {
        let mut record = self.record();
        let texts = record.texts.entry(prompt.to_owned()).or_default();
        texts.insert(text.to_owned());
    }

    /// Whether this is a result that somebody signed for this prompt.
    pub fn was_signed(&self, prompt: &str, text: &str) -> bool {
        let record = self.record();
        let texts = record.texts.get(prompt);
        texts.is_some_and(|texts| texts.contains(text))
    }

    /// The real provider's backend was told to work on this.
    pub fn worked_on(&self, prompt: &str) {
        self.record().worked.push(prompt.to_owned());
    }

    /// Whoever asked this has paid for it, or has locked the money.
    pub fn may_work_on(&self, prompt: &str) {
        self.record().paid.insert(prompt.to_owned());
    }

    /// What the real provider did that nobody paid for, or did twice.
    pub fn unpaid_work(&self) -> Vec<String> {
        let record = self.record();
        let mut seen = BTreeSet::new();
        let worked = record.worked.iter();
        let wrong = worked.filter(|prompt| !record.paid.contains(*prompt) || !seen.insert(*prompt));
        wrong.cloned().collect()
    }

    /// Nobody has any reason to pay this.
    pub fn trap(&self, wallet: &SimWallet, hash: PaymentHash) {
        self.record().traps.push((wallet.clone(), hash));
    }

    pub fn traps(&self) -> Vec<(SimWallet, PaymentHash)> {
        self.record().traps.clone()
    }

    /// The simulation itself went wrong.
    pub fn mishap(&self, what: impl Into<String>) {
        self.record().mishaps.push(what.into());
    }

    pub fn mishaps(&self) -> Vec<String> {
        self.record().mishaps.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that the seed decides.
pub fn keys(rng: &mut StdRng) -> Keys {
    loop {
        let bytes: [u8; 32] = rng.random();
        // All but one in 2^128 are keys.
        if let Ok(secret) = SecretKey::from_slice(&bytes) {
            return Keys::new(secret);
        }
    }
}

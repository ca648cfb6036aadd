//! Many at one bank: tasks, threads, processes, and processes that are killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use agent_compute::ids::Preimage;
use agent_compute::units::Msat;
use agent_compute::wallet::sim::{SimOptions, SimWallet, audit};
use agent_compute::wallet::{Outgoing, PayOutcome, Wallet};
use nostr::Keys;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{Bank, OPENING, asking, assert_balanced, on_hash, order};

const SEED: u64 = 0x005e_ed00;

/// One random thing that happens between two wallets.
async fn something(random: &mut StdRng, payer: &SimWallet, payee: &SimWallet) {
    let msat = random.random_range(1..60_000_000);
    match random.random_range(0..6) {
        0..3 => {
            let invoice = payee.invoice(asking(msat)).await.unwrap();
            let first = payer.pay(order(&invoice)).await;
            let again = payer.pay(order(&invoice)).await;
            // Only what was refused may be tried again.
            assert!(first == again || matches!(first, PayOutcome::Failed(_)));
        }
        3 => {
            // Two at once, and nobody waits for one of them.
            let invoice = payee.invoice(asking(msat)).await.unwrap();
            let (one, _) = futures_util::future::join(
                payer.pay(order(&invoice)),
                tokio::time::timeout(Duration::from_micros(200), payer.pay(order(&invoice))),
            )
            .await;
            let recorded = payer.outgoing(invoice.payment_hash).await.unwrap();
            if let PayOutcome::Paid { .. } = one {
                assert!(matches!(recorded, Outgoing::Paid { .. }));
            }
        }
        kind => {
            let preimage = Preimage::from_bytes(random.random());
            let hash = preimage.payment_hash();
            let invoice = payee.invoice(on_hash(msat, hash)).await.unwrap();
            if payer.pay(order(&invoice)).await == PayOutcome::InFlight {
                let _ = match kind {
                    4 => payee.settle(preimage).await,
                    _ => payee.cancel(hash).await,
                };
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_millisatoshi_is_made_or_lost_by_sixteen_at_once() {
    let bank = Bank::new();
    let wallets: Vec<SimWallet> = (0..4)
        .map(|i| bank.wallet_of(&Keys::generate(), |options| options.fee = Msat::new(i)))
        .collect();
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let wallets = wallets.clone();
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(SEED + task);
            for _ in 0..12 {
                let payer = random.random_range(0..4);
                let payee = (payer + random.random_range(1..4)) % 4;
                something(&mut random, &wallets[payer], &wallets[payee]).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let sum = audit(&bank.file).unwrap();
    assert!(sum.is_balanced(), "{sum:?}");
    assert_eq!(sum.funded, Msat::new(4 * OPENING.get()));
    assert_eq!(sum.held, Msat::ZERO);
}

#[test]
fn threads_that_open_a_new_bank_at_once_get_the_same_one() {
    for _ in 0..10 {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("a").join("b").join("bank.sqlite");
        let start = Arc::new(Barrier::new(4));
        let keys = Keys::generate();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (file, start, keys) = (file.clone(), Arc::clone(&start), keys.clone());
                std::thread::spawn(move || {
                    start.wait();
                    SimWallet::open(&file, keys.public_key(), SimOptions::default()).unwrap()
                })
            })
            .collect();
        let wallets: Vec<SimWallet> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(wallets.windows(2).all(|two| two[0].id() == two[1].id()));
        assert_eq!(audit(&file).unwrap().funded, OPENING);
    }
}

/// Names the bank to the child process.
const BANK: &str = "WALLET_TEST_BANK";

/// Not a test: what a child process of the next ones does until it is killed.
#[test]
#[ignore = "run as a child process by the tests below"]
#[expect(
    clippy::disallowed_methods,
    reason = "its parent's word reaches it no other way"
)]
fn a_child_that_pays_until_it_is_killed() {
    let Some(file) = std::env::var_os(BANK).map(PathBuf::from) else {
        return;
    };
    let open = || SimWallet::open(&file, Keys::generate().public_key(), SimOptions::default());
    let (one, other) = (open().unwrap(), open().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut random = StdRng::from_os_rng();
        let forever = async {
            loop {
                something(&mut random, &one, &other).await;
                something(&mut random, &other, &one).await;
            }
        };
        // In case the parent is killed itself.
        let _ = tokio::time::timeout(Duration::from_secs(120), forever).await;
    });
}

/// Killed at the latest when the test ends.
struct Killed(Child);

impl Killed {
    fn start(file: &std::path::Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact"])
            .arg("wallet::crowd::a_child_that_pays_until_it_is_killed")
            .env(BANK, file)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_bank_tell_each_other_and_may_be_killed() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bank.sqlite");
    // They make the file too, all at once.
    let children: Vec<Killed> = (0..3).map(|_| Killed::start(&file)).collect();
    let watcher =
        SimWallet::open(&file, Keys::generate().public_key(), SimOptions::default()).unwrap();
    let mut changes = watcher.changes().unwrap();
    let enough = async {
        // This process changes nothing: every hint is of another one's doing.
        for _ in 0..40 {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), enough)
        .await
        .unwrap();
    drop(children);

    let sum = audit(&file).unwrap();
    assert!(sum.is_balanced(), "{sum:?}");
    assert_eq!(sum.funded.get() % OPENING.get(), 0);
    // What was held by the dead is still there, and goes back when its time is up.
    let clock = agent_compute::clock::Clock::fixed(
        agent_compute::clock::Clock::system().now().plus(86_400),
    );
    let later = SimOptions {
        clock,
        ..SimOptions::default()
    };
    let later = SimWallet::open(&file, Keys::generate().public_key(), later).unwrap();
    assert_eq!(later.balance().await, Ok(OPENING));
    assert_eq!(audit(&file).unwrap().held, Msat::ZERO);
    assert_balanced(&file);
}

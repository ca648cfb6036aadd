//! The Spark wallet: the official SDK, installed and loaded for real, as far as it goes without the internet; and our
//! adapter with all of its payments, over a stand-in of the SDK.
//!
//! Needs Python with its venv module, and once, to install the SDK, the network. Without them, SKIPPED.

mod provider;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_compute::ids::{PaymentHash, Preimage, PurchaseId};
use agent_compute::secret::Secret;
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::conformance::{Outcome, run};
use agent_compute::wallet::process::ProcessWallet;
use agent_compute::wallet::sim::{SimOptions, SimWallet, audit};
use agent_compute::wallet::spark::{InstallError, SDK_VERSION, SparkOptions, install, open};
use agent_compute::wallet::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet, WalletError,
};
use nostr::Keys;
use tokio::sync::Mutex;

use self::provider::{Answer, FEE_SATS, Provider};
use crate::programs::Pair;

const WORDS: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
const OTHER_WORDS: &str =
    "leader monkey parrot ring guide accident before fence cannon height naive bean";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn target() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// Installs the SDK once for all tests. `None`, and why is printed, where that can't be done.
async fn sdk() -> Option<PathBuf> {
    static INSTALLING: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = INSTALLING.lock().await;
    let environment = target().join(format!("spark-sdk-{SDK_VERSION}"));
    if agent_compute::wallet::spark::is_installed(&environment) {
        return Some(environment);
    }
    match install(&environment, OsStr::new("python3"), |what| {
        println!("{what}")
    })
    .await
    {
        Ok(()) => Some(environment),
        Err(why @ (InstallError::Python(_) | InstallError::Download(_))) => {
            println!("SKIPPED: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn options(environment: &Path, storage: &Path) -> SparkOptions {
    SparkOptions {
        environment: environment.to_owned(),
        storage: storage.to_owned(),
        network: Network::Regtest,
        words: Secret::new(WORDS),
        api_key: None,
        service_provider: None,
    }
}

fn invoice(hold: Option<PaymentHash>, msat: u64) -> InvoiceRequest {
    InvoiceRequest {
        amount: Msat::new(msat),
        expiry_secs: 600,
        hold,
        description: "a job".to_owned(),
    }
}

fn order(invoice: &IssuedInvoice) -> PayRequest {
    PayRequest {
        bolt11: invoice.bolt11.clone(),
        payment_hash: invoice.payment_hash,
        amount: invoice.amount,
        max_fee: Msat::new(10_000),
        purchase: PurchaseId::random(),
    }
}

/// An invoice of somebody else's.
async fn somebodys(folder: &Path) -> IssuedInvoice {
    let key = Keys::generate().public_key();
    let wallet = SimWallet::open(&folder.join("other.sqlite"), key, SimOptions::default()).unwrap();
    wallet.invoice(invoice(None, 10_000)).await.unwrap()
}

#[tokio::test]
async fn the_sdk_opens_without_a_network_as_the_wallet_of_the_words_and_claims_to_know_nothing() {
    let Some(environment) = sdk().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let wallet = open(options(&environment, &at("a"))).await.unwrap();
    assert_eq!(wallet.id().kind, "spark");
    assert_eq!(wallet.id().account.len(), 66, "{}", wallet.id());
    assert!(wallet.capabilities().hold_invoices);
    assert!(!wallet.capabilities().authoritative_lookup);

    // The words are in no file, no argument and no environment of the adapter's.
    let processes = with_files_in(folder.path());
    assert_eq!(processes.len(), 1);
    let process = &processes[0];
    for place in [process.join("cmdline"), process.join("environ")] {
        assert!(!has_words(&std::fs::read(place).unwrap()));
    }
    assert!(
        files_below(folder.path())
            .iter()
            .all(|file| !has_words(&std::fs::read(file).unwrap()))
    );

    // The same words are the same wallet, and others another.
    let again = open(options(&environment, &at("b"))).await.unwrap();
    assert_eq!(again.id(), wallet.id());
    let other = SparkOptions {
        words: Secret::new(OTHER_WORDS),
        ..options(&environment, &at("c"))
    };
    assert_ne!(open(other).await.unwrap().id(), wallet.id());
    let no_words = SparkOptions {
        words: Secret::new("hunter2 is no mnemonic"),
        ..options(&environment, &at("d"))
    };
    let refused = open(no_words).await.unwrap_err();
    assert!(
        matches!(&refused, WalletError::Refused(why) if !why.contains("hunter2")),
        "{refused}"
    );

    // What it would have to ask somebody for is not made up.
    let begun = Instant::now();
    for unreachable in [
        wallet.balance().await.map(|balance| balance.to_string()),
        wallet.addresses().await.map(|addresses| addresses.concat()),
        wallet
            .invoice(invoice(None, 10_000))
            .await
            .map(|made| made.bolt11),
        wallet
            .outgoing(PaymentHash::from_bytes([1; 32]))
            .await
            .map(|found| format!("{found:?}")),
        wallet.history(5).await.map(|found| format!("{found:?}")),
    ] {
        assert!(
            matches!(unreachable, Err(WalletError::Unreachable(_))),
            "{unreachable:?}"
        );
    }
    assert!(begun.elapsed() < PATIENCE);
    let odd = wallet.invoice(invoice(None, 10_001)).await.unwrap_err();
    assert!(
        matches!(&odd, WalletError::Refused(why) if why.contains("whole sats")),
        "{odd}"
    );
    let never_made = wallet
        .incoming(PaymentHash::from_bytes([1; 32]))
        .await
        .unwrap();
    assert_eq!(never_made, Incoming::NotFound);
    assert!(wallet.settle(Preimage::from_bytes([1; 32])).await.is_err());
    let cancelled = wallet
        .cancel(PaymentHash::from_bytes([1; 32]))
        .await
        .unwrap_err();
    assert!(
        matches!(cancelled, WalletError::Unsupported(_)),
        "{cancelled}"
    );
    // Nothing is sent while it is only prepared.
    let paid = wallet.pay(order(&somebodys(folder.path()).await)).await;
    assert!(matches!(paid, PayOutcome::Failed(_)), "{paid:?}");
}

#[tokio::test]
async fn it_is_open_once_and_free_when_whoever_had_it_was_killed() {
    let Some(environment) = sdk().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = open(options(&environment, folder.path())).await.unwrap();
    let second = open(options(&environment, folder.path()))
        .await
        .unwrap_err();
    assert!(
        matches!(&second, WalletError::Refused(why) if why.contains("another program")),
        "{second}"
    );
    kill_adapters(folder.path());
    // It is started again for the next question; so is the lock taken again.
    let begun = Instant::now();
    while first.incoming(PaymentHash::from_bytes([1; 32])).await != Ok(Incoming::NotFound) {
        assert!(begun.elapsed() < PATIENCE, "it does not come back");
    }
    drop(first);
    open(options(&environment, folder.path())).await.unwrap();
}

fn has_words(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("abandon")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// The processes that have a file open in this folder, but this one.
fn with_files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let name = process.file_name();
        let its = |file: std::io::Result<std::fs::DirEntry>| {
            file.and_then(|file| std::fs::read_link(file.path()))
                .is_ok_and(|file| file.starts_with(folder))
        };
        if name.to_string_lossy() != std::process::id().to_string() && files.into_iter().any(its) {
            found.push(process.path());
        }
    }
    found
}

/// SIGKILL for whatever has a file open in this folder.
fn kill_adapters(folder: &Path) {
    let adapters = with_files_in(folder);
    assert!(!adapters.is_empty(), "nobody has it open");
    for adapter in adapters {
        let id = adapter.file_name().unwrap();
        Command::new("kill").arg("-KILL").arg(id).status().unwrap();
    }
}

#[tokio::test]
async fn the_sdk_makes_hold_invoices_and_estimates_fees_with_its_service_provider() {
    let Some(environment) = sdk().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, provider: &Provider| SparkOptions {
        service_provider: Some(provider.reference()),
        ..options(&environment, &folder.path().join(name))
    };
    let preimage = Preimage::from_bytes([3; 32]);
    let hash = preimage.payment_hash();

    let honest = Provider::start(Answer::Invoice).await;
    let wallet = open(with("honest", &honest)).await.unwrap();
    let made = wallet.invoice(invoice(Some(hash), 21_000)).await.unwrap();
    assert_eq!((made.payment_hash, made.amount), (hash, Msat::new(21_000)));
    assert_eq!(wallet.incoming(hash).await, Ok(Incoming::Open));
    // Whoever died before it could note it asks for the same once more.
    assert_eq!(
        wallet.invoice(invoice(Some(hash), 21_000)).await.unwrap(),
        made
    );
    assert_eq!(honest.asked.load(Ordering::SeqCst), 1);
    let other = wallet.invoice(invoice(Some(hash), 22_000)).await;
    assert!(matches!(other, Err(WalletError::Refused(_))), "{other:?}");
    let theirs = somebodys(folder.path()).await;
    assert_eq!(
        wallet.fee_quote(&theirs.bolt11).await,
        Ok(Msat::new(FEE_SATS * 1_000))
    );
    let dear = PayRequest {
        max_fee: Msat::new(FEE_SATS * 1_000 - 1),
        ..order(&theirs)
    };
    let too_dear = wallet.pay(dear).await;
    assert!(
        matches!(&too_dear, PayOutcome::Failed(proof) if proof.reason.contains("routing")),
        "{too_dear:?}"
    );
    // It has no money: there is nothing to send, and the order may have begun for all that is sure.
    let poor = wallet.pay(order(&theirs)).await;
    assert!(!matches!(poor, PayOutcome::Paid { .. }), "{poor:?}");

    let liar = Provider::start(Answer::AnotherHash).await;
    let wallet = open(with("liar", &liar)).await.unwrap();
    let lie = wallet.invoice(invoice(Some(hash), 21_000)).await;
    assert!(matches!(lie, Err(WalletError::Refused(_))), "{lie:?}");
    let sulking = Provider::start(Answer::Error).await;
    let wallet = open(with("sulking", &sulking)).await.unwrap();
    let error = wallet.invoice(invoice(None, 21_000)).await;
    assert!(
        matches!(&error, Err(WalletError::Refused(why)) if why.contains("not today")),
        "{error:?}"
    );
}

#[tokio::test]
async fn killed_in_the_middle_of_a_call_it_is_started_again_and_asked_again() {
    let Some(environment) = sdk().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let silent = Provider::start(Answer::Silence).await;
    let spark = SparkOptions {
        service_provider: Some(silent.reference()),
        ..options(&environment, folder.path())
    };
    let wallet = open(spark).await.unwrap();
    let hash = PaymentHash::from_bytes([5; 32]);
    let asking = wallet.invoice(invoice(Some(hash), 21_000));
    let killing = async {
        silent.bell.notified().await;
        kill_adapters(folder.path());
    };
    let (answered, ()) = tokio::join!(asking, killing);
    assert!(
        matches!(answered, Err(WalletError::Unreachable(_))),
        "{answered:?}"
    );
    // It never had the invoice, and says so.
    assert_eq!(wallet.incoming(hash).await, Ok(Incoming::NotFound));
}

/// An environment with the stand-in of the SDK, and a bank of play money. `None` without Python.
struct StandIn {
    folder: tempfile::TempDir,
}

impl StandIn {
    fn new() -> Option<Self> {
        if !wallet_process().exists() {
            println!("SKIPPED: the example wallet_process is not built: cargo test builds it");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let stand_in = Self { folder };
        let environment = stand_in.environment();
        let mut venv = Command::new("python3");
        venv.args(["-I", "-m", "venv", "--without-pip"])
            .arg(&environment);
        match venv.status() {
            Ok(status) if status.success() => {}
            other => {
                println!("SKIPPED: python3 -m venv: {other:?}");
                return None;
            }
        }
        let library = std::fs::read_dir(environment.join("lib")).unwrap().next();
        let packages = library.unwrap().unwrap().path().join("site-packages");
        let sdk = include_str!("spark/breez_sdk_spark.py");
        std::fs::write(packages.join("breez_sdk_spark.py"), sdk).unwrap();
        std::fs::write(environment.join("installed"), SDK_VERSION).unwrap();
        Some(stand_in)
    }

    fn environment(&self) -> PathBuf {
        self.folder.path().join("environment")
    }

    fn bank(&self) -> PathBuf {
        self.folder.path().join("bank.sqlite")
    }

    /// A wallet, and what the stand-in does when it is told to send.
    async fn wallet(&self, at_send: Option<&str>) -> (ProcessWallet, PathBuf) {
        let key = Keys::generate().public_key();
        SimWallet::open(&self.bank(), key, SimOptions::default()).unwrap();
        let storage = self.folder.path().join(key.to_hex());
        std::fs::create_dir(&storage).unwrap();
        let program = [
            wallet_process().display().to_string(),
            self.bank().display().to_string(),
            key.to_hex(),
        ];
        let orders = serde_json::json!({ "program": program, "at_send": at_send });
        std::fs::write(storage.join("stand-in.json"), orders.to_string()).unwrap();
        let wallet = open(options(&self.environment(), &storage)).await.unwrap();
        (wallet, storage)
    }
}

fn wallet_process() -> PathBuf {
    target().join("examples/wallet_process")
}

#[tokio::test]
async fn the_adapter_keeps_every_promise_of_a_wallet() {
    let Some(stand_in) = StandIn::new() else {
        return;
    };
    let pair = Pair(stand_in.wallet(None).await.0, stand_in.wallet(None).await.0);
    let report = run(&pair).await;
    println!("{report}");
    assert!(report.is_conformant());
    let passed = report
        .cases
        .iter()
        .filter(|case| case.outcome == Outcome::Passed);
    assert!(passed.count() >= 18, "{report}");
    audit(&stand_in.bank()).unwrap();
}

#[tokio::test]
async fn an_order_whose_end_nobody_saw_is_in_doubt_and_never_given_again() {
    let Some(stand_in) = StandIn::new() else {
        return;
    };
    for (twist, arrives) in [("lost", false), ("lost after", true), ("die", true)] {
        let (payer, storage) = stand_in.wallet(Some(twist)).await;
        let (payee, _) = stand_in.wallet(None).await;
        let bill = payee.invoice(invoice(None, 10_000)).await.unwrap();
        let before = payer.balance().await.unwrap();
        let outcome = payer.pay(order(&bill)).await;
        match twist {
            "die" => assert!(
                matches!(outcome, PayOutcome::Paid { .. }),
                "{twist}: {outcome:?}"
            ),
            _ => assert!(
                matches!(outcome, PayOutcome::Unknown { .. }),
                "{twist}: {outcome:?}"
            ),
        }
        let found = payer.outgoing(bill.payment_hash).await.unwrap();
        match arrives {
            true => assert!(matches!(found, Outgoing::Paid { .. }), "{twist}: {found:?}"),
            false => assert_eq!(found, Outgoing::NotFound, "{twist}"),
        }
        // By this process, or by one that comes after it and whose SDK works.
        drop(payer);
        let orders = std::fs::read_to_string(storage.join("stand-in.json")).unwrap();
        let orders = orders.replace(&format!("\"{twist}\""), "null");
        std::fs::write(storage.join("stand-in.json"), orders).unwrap();
        let payer = open(options(&stand_in.environment(), &storage))
            .await
            .unwrap();
        let again = payer.pay(order(&bill)).await;
        match arrives {
            true => assert!(
                matches!(again, PayOutcome::Paid { .. }),
                "{twist}: {again:?}"
            ),
            false => assert!(
                matches!(again, PayOutcome::Unknown { .. }),
                "{twist}: {again:?}"
            ),
        }
        let spent = before.saturating_sub(payer.balance().await.unwrap());
        assert_eq!(
            spent,
            Msat::new(if arrives { 10_000 } else { 0 }),
            "{twist}"
        );
    }
    audit(&stand_in.bank()).unwrap();
}

//! Cashu wallets by Nostr Wallet Connect: cdk's mints, wallets and NIP-47 service, with our connections and our programs
//! on the other side of a relay.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod mint;
#[path = "../real/programs.rs"]
mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_compute::ids::PurchaseId;
use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::secret::Secret;
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::conformance::{Outcome, run};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::nwc::{Connection, NwcOptions, NwcWallet};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{PayOutcome, PayRequest, Wallet as _};
use cdk::amount::SplitTarget;
use cdk::nuts::{CurrencyUnit, PaymentMethod};
use cdk::wallet::{Wallet as CashuWallet, WalletNwcHandler};
use cdk_nostr::nwc::{NwcService, NwcServiceConfig};
use nostr::{Keys, SecretKey};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::programs::{Pair, Seller, last};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each wallet has at first, in sats.
const FUNDS: u64 = 5_000;

/// A Cashu wallet with money in it, and the service in front of it.
struct Cashu {
    wallet: Arc<CashuWallet>,
    uri: String,
}

/// Two of them, on a mint each, and a relay.
struct Market {
    payer: Cashu,
    payee: Cashu,
    relay: EmbeddedRelay,
    folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Market {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = ([127, 0, 0, 1], 0).into();
        let relay = EmbeddedRelay::listen(address).await.unwrap();
        let mut tasks = JoinSet::new();
        let bank = folder.path().join("bank.sqlite");
        let url = relay.url().to_string();
        Self {
            payer: cashu(&bank, &url, &mut tasks).await,
            payee: cashu(&bank, &url, &mut tasks).await,
            relay,
            folder,
            _tasks: tasks,
        }
    }

    async fn connect(&self, to: &Cashu) -> NwcWallet {
        let connection = Connection::parse(&Secret::new(to.uri.clone())).unwrap();
        let session = RelayPoolSession::connect(connection.relays(), PoolOptions::default());
        let options = NwcOptions {
            network: Network::Regtest,
            ..NwcOptions::default()
        };
        NwcWallet::open(connection, session.unwrap(), options)
            .await
            .unwrap()
    }

    fn program(&self, name: &str, side: &Cashu, args: &[&str]) -> Command {
        let mut command = Command::new(built().join(name));
        let relay = self.relay.url().to_string();
        command
            .env_clear()
            .env("NWC_URI", &side.uri)
            .env("AGENT_COMPUTE_HOME", self.folder.path().join(name))
            .args(["--network", "regtest", "--relay", &relay])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    async fn run(&self, name: &str, side: &Cashu, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = self.program(name, side, &[&["--json"], args].concat());
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        last(&ran.unwrap().unwrap())
    }

    async fn customer(&self, args: &[&str]) -> (Option<i32>, Value) {
        self.run("agent-customer", &self.payer, args).await
    }
}

async fn cashu(bank: &Path, relay: &str, tasks: &mut JoinSet<()>) -> Cashu {
    let account = || SimWallet::open(bank, Keys::generate().public_key(), SimOptions::default());
    let mint = mint::start(account().unwrap(), tasks).await;
    let database = cdk_sqlite::wallet::memory::empty().await.unwrap();
    let seed: [u8; 64] = rand::random();
    let wallet = CashuWallet::new(&mint, CurrencyUnit::Sat, Arc::new(database), seed, None);
    let wallet = Arc::new(wallet.unwrap());
    // Somebody else pays the wallet's first invoice.
    let quote = wallet
        .mint_quote(PaymentMethod::BOLT11, Some(FUNDS.into()), None, None)
        .await
        .unwrap();
    let asked = parse_unchecked(&quote.request).unwrap();
    let order = PayRequest {
        bolt11: quote.request.clone(),
        payment_hash: asked.payment_hash,
        amount: asked.amount.unwrap(),
        max_fee: Msat::ZERO,
        purchase: PurchaseId::random(),
    };
    let paid = account().unwrap().pay(order).await;
    assert!(matches!(paid, PayOutcome::Paid { .. }), "{paid:?}");
    wallet
        .wait_and_mint_quote(quote, SplitTarget::default(), None, PATIENCE)
        .await
        .unwrap();
    // Whoever runs the service looks after what was paid to it.
    let minting = Arc::clone(&wallet);
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = minting.mint_unissued_quotes().await;
        }
    });
    let service = NwcService::new(NwcServiceConfig {
        service_keys: Keys::generate(),
        client_secret: SecretKey::generate(),
        relays: vec![relay.parse().unwrap()],
        lud16: None,
    });
    let service = service.unwrap();
    let uri = service.connection_uri().to_string();
    let handler = Arc::new(WalletNwcHandler::new(Arc::clone(&wallet), None));
    tasks.spawn(async move {
        service
            .run(handler, CancellationToken::new())
            .await
            .unwrap();
    });
    Cashu { wallet, uri }
}

/// Where our programs are.
fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug")
}

#[tokio::test(flavor = "multi_thread")]
async fn cashu_wallets_keep_what_a_connection_promises() {
    let market = Market::start().await;
    let pair = Pair(
        market.connect(&market.payer).await,
        market.connect(&market.payee).await,
    );
    assert!(!pair.1.capabilities().hold_invoices);
    let report = run(&pair).await;
    println!("{report}");
    // What it has refused for want of funds its look-up calls pending for as long as the quote lasts: in doubt, then. Our
    // programs look at the balance first.
    let failed: Vec<&str> = report.failed().map(|case| case.name).collect();
    assert_eq!(
        failed,
        ["being short of funds is a proven failure"],
        "{report}"
    );
    let passed = report
        .cases
        .iter()
        .filter(|case| case.outcome == Outcome::Passed);
    assert!(passed.count() >= 11, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_programs_trade_over_cashu_and_the_books_agree_to_the_sat() {
    if !built().join("agent-provider").exists() || !built().join("agent-customer").exists() {
        println!("SKIPPED: our programs are not built: cargo build makes them");
        return;
    }
    let market = Market::start().await;
    let sale = ["--backend", "echo", "--create-channel", "--price", "7000"];
    let mut selling = market.program("agent-provider", &market.payee, &sale);
    let _seller = Seller::start(&mut selling);
    for prompt in ["one", "two"] {
        let (code, result) = market.customer(&["--prompt", prompt]).await;
        assert_eq!(
            (code, &result["text"]),
            (Some(0), &Value::from(prompt)),
            "{result}"
        );
        assert_eq!(result["paid_msat"], 7_000);
        assert!(result["preimage"].is_string(), "{result}");
    }
    let invoice = ["wallet", "invoice", "--amount-sats", "20"];
    let (_, made) = market.run("agent-provider", &market.payee, &invoice).await;
    let bolt11 = made["bolt11"].as_str().unwrap();
    let (code, paid) = market.customer(&["wallet", "pay", "--yes", bolt11]).await;
    assert_eq!(
        (code, &paid["amount_msat"]),
        (Some(0), &Value::from(20_000)),
        "{paid}"
    );
    let (code, again) = market.customer(&["wallet", "pay", "--yes", bolt11]).await;
    assert_eq!(code, Some(11), "{again}");
    // More than there is: said before anything is set aside.
    let (_, made) = market
        .run(
            "agent-provider",
            &market.payee,
            &["wallet", "invoice", "--amount-sats", "9000"],
        )
        .await;
    let bolt11 = made["bolt11"].as_str().unwrap();
    let limits = "[runway]\ndaily_limit_sats = 20000\nper_tick_limit_sats = 10000\nper_job_limit_sats = 10000\n";
    let home = market.folder.path().join("agent-customer");
    std::fs::write(home.join("config.toml"), limits).unwrap();
    let (code, short) = market.customer(&["wallet", "pay", "--yes", bolt11]).await;
    assert_eq!(
        (code, &short["reserved_msat"]),
        (Some(12), &Value::from(0)),
        "{short}"
    );
    // There is no escrow with it, and nothing is paid where it is asked for.
    let (code, refused) = market.customer(&["--htlc", "--prompt", "three"]).await;
    assert_eq!(
        (code, &refused["paid_msat"]),
        (Some(3), &Value::from(0)),
        "{refused}"
    );

    let (_, budget) = market.customer(&["budget"]).await;
    let daily = &budget["daily"];
    assert_eq!(
        (&daily["spent_msat"], &daily["reserved_msat"]),
        (&34_000.into(), &0.into())
    );
    let left = u64::from(market.payer.wallet.total_balance().await.unwrap());
    assert_eq!(left, FUNDS - 34);
    let until = Instant::now() + PATIENCE;
    while u64::from(market.payee.wallet.total_balance().await.unwrap()) != FUNDS + 34 {
        assert!(Instant::now() < until, "the payee's money does not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

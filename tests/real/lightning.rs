//! Real Lightning: two LDK nodes with a channel between them on a regtest chain of bitcoind's, each behind a
//! NIP-47 service, and our programs buying and selling over these.
//!
//! Needs bitcoind: `BITCOIND_EXE`, else one on the path, else what `get-bitcoind.sh` unpacks. Without it,
//! SKIPPED.

mod bitcoind;
mod node;
#[path = "../it/nwc/service.rs"]
#[allow(
    dead_code,
    reason = "the twists of the services are for the other tests"
)]
mod service;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::secret::Secret;
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::Wallet;
use agent_compute::wallet::conformance::{Harness, Outcome, run};
use agent_compute::wallet::nwc::{Connection, NwcOptions, NwcWallet};
use async_trait::async_trait;
use serde_json::Value;

use self::bitcoind::Chain;
use self::node::LdkWallet;
use self::service::{Options, Service};
use crate::programs::{Seller, last};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Two nodes, a channel with money on both sides, a service in front of each, and a relay.
struct Lightning {
    chain: Chain,
    payer: LdkWallet,
    payee: LdkWallet,
    services: [Service; 2],
    relay: EmbeddedRelay,
    folder: tempfile::TempDir,
}

impl Lightning {
    /// `None`, and why is printed, where there is no bitcoind.
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let chain = match Chain::start(&folder.path().join("bitcoind")) {
            Ok(chain) => chain,
            Err(why) => {
                println!("SKIPPED: {why}");
                return None;
            }
        };
        let payer = LdkWallet::start(&chain, &folder.path().join("payer"));
        let payee = LdkWallet::start(&chain, &folder.path().join("payee"));
        payer.open_channel(&chain, &payee).await;
        let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let url = relay.url().to_string();
        let mut services = Vec::new();
        for wallet in [&payer, &payee] {
            let wallet: Arc<dyn Wallet> = Arc::new(wallet.clone());
            services.push(Service::start(&[&url], wallet, Options::default()).await);
        }
        Some(Self {
            chain,
            payer,
            payee,
            services: services.try_into().unwrap_or_else(|_| unreachable!()),
            relay,
            folder,
        })
    }

    async fn connect(&self, side: usize) -> NwcWallet {
        let connection = Connection::parse(&Secret::new(self.services[side].uri.clone())).unwrap();
        let session =
            RelayPoolSession::connect(connection.relays(), PoolOptions::default()).unwrap();
        let options = NwcOptions {
            network: Network::Regtest,
            ..NwcOptions::default()
        };
        NwcWallet::open(connection, session, options).await.unwrap()
    }

    async fn stop(self) {
        self.payer.stop().await;
        self.payee.stop().await;
    }

    async fn balances(&self) -> (u64, u64) {
        let (payer, payee) = (self.payer.balance().await, self.payee.balance().await);
        (payer.unwrap().get(), payee.unwrap().get())
    }

    fn program(&self, name: &str, side: usize, args: &[&str]) -> Command {
        let mut command = Command::new(built().join(name));
        command
            .env_clear()
            .env("NWC_URI", &self.services[side].uri)
            .env("AGENT_COMPUTE_HOME", self.folder.path().join(name))
            .args([
                "--network",
                "regtest",
                "--relay",
                &self.relay.url().to_string(),
            ])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    fn sell(&self) -> Seller {
        let args = [
            "--backend",
            "echo",
            "--create-channel",
            "--stream",
            "--price",
            "7000",
        ];
        let mut command = self.program("agent-provider", 1, &args);
        Seller::start(&mut command)
    }

    async fn customer(&self, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = self.program("agent-customer", 0, &[&["--json"], args].concat());
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        last(&ran.unwrap().unwrap())
    }

    /// Spent and reserved today, as the ledger has it.
    async fn spent(&self) -> (u64, u64) {
        let (_, budget) = self.customer(&["budget"]).await;
        let daily = |name: &str| budget["daily"][name].as_u64().unwrap();
        (daily("spent_msat"), daily("reserved_msat"))
    }
}

/// Where our programs were built, beside this test.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

fn is_built() -> bool {
    let built = ["agent-customer", "agent-provider"].map(|name| built().join(name));
    let both = built.iter().all(|program| Path::exists(program));
    if !both {
        println!("SKIPPED: our programs are not built: cargo build makes them");
    }
    both
}

async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < until, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct Pair {
    payer: NwcWallet,
    payee: NwcWallet,
}

#[async_trait]
impl Harness for Pair {
    fn payer(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payer.clone())
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payee.clone())
    }

    fn amount(&self) -> Msat {
        // Below the dust limit an HTLC is no output of its own; both ways must work.
        Msat::new(20_000)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_over_real_lightning() {
    let Some(lightning) = Lightning::start().await else {
        return;
    };
    let pair = Pair {
        payer: lightning.connect(0).await,
        payee: lightning.connect(1).await,
    };
    let report = run(&pair).await;
    println!("{report}");
    assert!(report.is_conformant());
    let tried = report
        .cases
        .iter()
        .filter(|case| case.outcome == Outcome::Passed);
    assert!(tried.count() >= 17, "{report}");
    lightning.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_bought_and_sold_over_real_lightning() {
    if !is_built() {
        return;
    }
    let Some(lightning) = Lightning::start().await else {
        return;
    };
    let before = lightning.balances().await;
    let seller = lightning.sell();
    let mut paid = 0;
    for args in [
        &["--prompt", "paid first"][..],
        &["--prompt", "in escrow", "--htlc"],
    ] {
        let (code, result) = lightning.customer(args).await;
        assert_eq!(code, Some(0), "{result}");
        assert_eq!(result["text"], args[1]);
        assert_eq!(result["price_msat"], 7_000);
        assert_eq!(result["reserved_msat"], 0);
        paid += result["paid_msat"].as_u64().unwrap();
    }
    assert_eq!(lightning.spent().await, (paid, 0));
    let after = (before.0 - paid, before.1 + 14_000);
    eventually("both sides have it", async || {
        lightning.balances().await == after
    })
    .await;

    // The seller dies with money held: it goes back when the blocks of the hold have passed.
    drop(seller);
    lightning.escrow_times_out(after).await;
    lightning.stop().await;
}

impl Lightning {
    async fn mine_seen_by_both(&self, blocks: u32) {
        let height = self.payer.height() + blocks;
        self.chain.mine(blocks);
        eventually("both nodes see the blocks", async || {
            self.payer.height() >= height && self.payee.height() >= height
        })
        .await;
    }

    async fn escrow_times_out(&self, before: (u64, u64)) {
        let payee = self.connect(1).await;
        let preimage = agent_compute::ids::Preimage::from_bytes(rand_bytes());
        let request = agent_compute::wallet::InvoiceRequest {
            amount: Msat::new(1_000_000),
            expiry_secs: 600,
            hold: Some(preimage.payment_hash()),
            description: "never delivered".to_owned(),
        };
        let invoice = payee.invoice(request).await.unwrap();
        let payer = self.connect(0).await;
        let order = agent_compute::wallet::PayRequest {
            bolt11: invoice.bolt11.clone(),
            payment_hash: invoice.payment_hash,
            amount: invoice.amount,
            max_fee: Msat::new(10_000),
            purchase: agent_compute::ids::PurchaseId::from_bytes(*b"an escrow's name"),
        };
        let paying = payer.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { paying.pay(order).await });
        eventually("the money is held", async || {
            let state = payee.incoming(invoice.payment_hash).await.unwrap();
            matches!(state, agent_compute::wallet::Incoming::Held { .. })
        })
        .await;
        // A few at a time: who sees the whole of it at once closes the channel over a payment that is overdue.
        eventually("the payer has its money back", async || {
            self.mine_seen_by_both(12).await;
            let state = payer.outgoing(invoice.payment_hash).await.unwrap();
            matches!(state, agent_compute::wallet::Outgoing::Failed(_))
        })
        .await;
        let outcome = tasks.join_next().await.unwrap().unwrap();
        assert!(
            !matches!(outcome, agent_compute::wallet::PayOutcome::Paid { .. }),
            "{outcome:?}"
        );
        // Too late to claim, whatever the node says to that.
        assert!(payee.settle(preimage).await.is_err());
        eventually("nothing has moved", async || {
            self.balances().await == before
        })
        .await;
    }
}

fn rand_bytes() -> [u8; 32] {
    nostr::Keys::generate().secret_key().to_secret_bytes()
}

//! The two programs, each with a wallet of its own behind Nostr Wallet Connect: bought and sold, paid first
//! and in escrow, and the books agree to the millisat.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use agent_compute::wallet::Wallet as _;
use nostr::Keys;
use serde_json::Value;

use super::service::Twist;
use super::*;
use crate::harness::{Provider, Ran, World, eventually, run, run_with_input};

/// The programs' relay and two wallets behind services on that same relay.
pub(super) struct Market {
    world: World,
    place: Place,
    pub(super) buyer: (SimWallet, Service),
    seller: (SimWallet, Service),
}

impl Market {
    pub(super) async fn new(of_buyer: Options, of_seller: Options) -> Self {
        Self::with_buyer_at(None, of_buyer, of_seller).await
    }

    /// With the buyer's wallet at a relay of its own.
    pub(super) async fn with_buyer_at(
        relay: Option<&str>,
        of_buyer: Options,
        of_seller: Options,
    ) -> Self {
        let place = Place::new().await;
        let world = World::on(place.url.clone());
        let of_all = place.url.as_str();
        let mut sides = Vec::new();
        for (relay, options) in [(relay.unwrap_or(of_all), of_buyer), (of_all, of_seller)] {
            let account = SimWallet::open(
                &place.bank,
                Keys::generate().public_key(),
                SimOptions {
                    fee: FEE,
                    ..SimOptions::default()
                },
            )
            .unwrap();
            let service = Service::start(&[relay], Arc::new(account.clone()), options).await;
            sides.push((account, service));
        }
        let seller = sides.pop().unwrap();
        let buyer = sides.pop().unwrap();
        Self {
            world,
            place,
            buyer,
            seller,
        }
    }

    pub(super) async fn honest() -> Self {
        Self::new(Options::default(), Options::default()).await
    }

    pub(super) fn customer(&self, args: &[&str]) -> Command {
        let mut command = self.world.bare_customer("buyer", &["--network", "regtest"]);
        command.args(["--relay", &self.world.relay]).args(args);
        command.env("NWC_URI", &self.buyer.1.uri);
        command
    }

    fn provider(&self) -> Command {
        let mut command = self
            .world
            .bare_provider("seller", &["--network", "regtest"]);
        command.args(["--relay", &self.world.relay, "--backend", "echo"]);
        command.args(["--create-channel", "--stream", "--price", "7000"]);
        command.env("NWC_URL", &self.seller.1.uri);
        command
    }

    pub(super) async fn sell(&self) -> Provider {
        let mut command = self.provider();
        tokio::task::spawn_blocking(move || Provider::start(&mut command))
            .await
            .unwrap()
    }

    pub(super) async fn run(&self, args: &[&str]) -> Ran {
        ran(self.customer(args)).await
    }

    pub(super) async fn buy(&self, args: &[&str]) -> Ran {
        self.run(&[&["--json", "--prompt", "to be or not to be"], args].concat())
            .await
    }

    pub(super) async fn balances(&self) -> (u64, u64) {
        let (buyer, seller) = (&self.buyer.0, &self.seller.0);
        (
            buyer.balance().await.unwrap().get(),
            seller.balance().await.unwrap().get(),
        )
    }

    /// What the day's budget says: spent, reserved.
    pub(super) async fn spent(&self) -> (u64, u64) {
        let budget = self.run(&["--json", "budget"]).await.expect(0).last();
        let daily = &budget["daily"];
        (
            daily["spent_msat"].as_u64().unwrap(),
            daily["reserved_msat"].as_u64().unwrap(),
        )
    }
}

/// Runs while the services of this process answer.
async fn ran(mut command: Command) -> Ran {
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

async fn ran_with(mut command: Command, input: String) -> Ran {
    tokio::task::spawn_blocking(move || run_with_input(&mut command, &input))
        .await
        .unwrap()
}

pub(super) const OPENING: u64 = 100_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_bought_and_sold_over_two_wallets() {
    let market = Market::honest().await;
    let _seller = market.sell().await;
    let bought = market.buy(&[]).await.expect(0);
    let result = bought.last();
    assert_eq!(result["text"], "to be or not to be");
    assert_eq!(
        (&result["price_msat"], &result["fee_msat"]),
        (&7000.into(), &1500.into())
    );
    let preimage = result["preimage"].as_str().unwrap();
    let preimage: agent_compute::ids::Preimage = preimage.parse().unwrap();
    assert_eq!(
        preimage.payment_hash().to_string(),
        result["payment_hash"].as_str().unwrap()
    );
    assert_eq!(market.balances().await, (OPENING - 8_500, OPENING + 7_000));
    assert_eq!(market.spent().await, (8_500, 0));
    let listed = market.run(&["--json", "wallet", "history"]).await.expect(0);
    let line = listed.last();
    let of_payment = (
        &line["direction"],
        &line["state"],
        &line["amount_msat"],
        &line["fee_msat"],
    );
    let expected = (
        &"outgoing".into(),
        &"settled".into(),
        &7000.into(),
        &1500.into(),
    );
    assert_eq!(of_payment, expected, "{line}");
    assert_eq!(line["payment_hash"], result["payment_hash"]);
    let shown = market
        .run(&["--json", "show", result["purchase_id"].as_str().unwrap()])
        .await;
    assert!(shown.expect(0).stdout.contains("\"nwc"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_bought_in_escrow_over_two_wallets() {
    let market = Market::honest().await;
    let _seller = market.sell().await;
    let bought = market.buy(&["--htlc"]).await.expect(0);
    assert!(bought.event("released").is_some(), "{}", bought.stdout);
    let result = bought.last();
    assert_eq!(
        (&result["paid_msat"], &result["reserved_msat"]),
        (&8500.into(), &0.into())
    );
    assert_eq!(market.balances().await, (OPENING - 8_500, OPENING + 7_000));
    assert_eq!(market.spent().await, (8_500, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_without_holds_is_not_asked_for_escrow() {
    let market = Market::new(Options::plain(), Options::plain()).await;
    let _seller = market.sell().await;
    let refused = market.buy(&["--htlc"]).await.expect(3);
    assert!(
        refused.last()["message"]
            .as_str()
            .unwrap()
            .contains("escrow"),
        "{}",
        refused.stdout
    );
    market.buy(&[]).await.expect(0);
    assert_eq!(market.balances().await, (OPENING - 8_500, OPENING + 7_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_loses_its_answer_is_looked_up_and_nothing_is_paid_twice() {
    let lost = |method: &str, _: &Value| (method == "pay_invoice").then_some(Twist::Unanswered);
    let market = Market::new(Options::twisted(lost), Options::default()).await;
    let _seller = market.sell().await;
    market.buy(&["--idempotency-key", "once"]).await.expect(0);
    market.buy(&["--idempotency-key", "once"]).await.expect(0);
    assert_eq!(market.buyer.1.asked("pay_invoice"), 1);
    assert_eq!(market.balances().await, (OPENING - 8_500, OPENING + 7_000));
    assert_eq!(market.spent().await, (8_500, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_killed_while_its_wallet_pays_finds_out_afterwards() {
    let market = Market::honest().await;
    let _seller = market.sell().await;
    let told = Arc::new(Mutex::new(false));
    let tell = Arc::clone(&told);
    market.buyer.1.twist(move |method, _| {
        (method == "pay_invoice").then(|| {
            *tell.lock().unwrap() = true;
            Twist::Late(Duration::from_secs(2))
        })
    });
    let mut buy = market.customer(&["--json", "--prompt", "who pays?", "--idempotency-key", "k"]);
    tokio::task::spawn_blocking(move || {
        let mut buying = crate::harness::Running::start(&mut buy);
        eventually("the wallet is told to pay", || *told.lock().unwrap());
        buying.kill();
    })
    .await
    .unwrap();
    market.run(&["--json", "recover"]).await.expect(0);
    let again = market.buy_again("who pays?", "k").await.expect(0);
    assert_eq!(again.last()["text"], "who pays?");
    assert_eq!(market.buyer.1.asked("pay_invoice"), 1);
    assert_eq!(market.balances().await, (OPENING - 8_500, OPENING + 7_000));
    assert_eq!(market.spent().await, (8_500, 0));
}

impl Market {
    pub(super) async fn buy_again(&self, prompt: &str, key: &str) -> Ran {
        self.run(&["--json", "--prompt", prompt, "--idempotency-key", key])
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wallets_own_budget_ends_a_purchase_with_nothing_spent() {
    for (code, exit) in [
        ("QUOTA_EXCEEDED", 5),
        ("INSUFFICIENT_BALANCE", 12),
        ("RESTRICTED", 5),
    ] {
        let script = move |method: &str, _: &Value| {
            (method == "pay_invoice").then(|| Twist::Instead(code.to_owned()))
        };
        let market = Market::new(Options::twisted(script), Options::default()).await;
        let _seller = market.sell().await;
        let refused = market.buy(&["--retries", "0"]).await.expect(exit);
        let message = refused.last()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("as the test says"), "{message}");
        assert_eq!(market.spent().await, (0, 0));
        assert_eq!(market.balances().await, (OPENING, OPENING));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_stays_reserved_and_recover_says_so() {
    let lost = |method: &str, _: &Value| {
        (method == "pay_invoice").then(|| Twist::Instead("PAYMENT_FAILED".to_owned()))
    };
    let market = Market::new(Options::twisted(lost), Options::default()).await;
    let _seller = market.sell().await;
    let doubt = market.buy(&[]).await.expect(6).last();
    assert_eq!(
        (&doubt["code"], &doubt["paid_msat"]),
        (&"payment_unknown".into(), &0.into())
    );
    // The cap is reserved on top of the price: this wallet quotes no fees.
    assert_eq!(market.spent().await, (0, 17_000));
    market.run(&["--json", "recover"]).await.expect(6);
    assert_eq!(market.balances().await, (OPENING, OPENING));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_is_not_there_is_exit_8_and_one_that_is_not_set_up_12() {
    let market = Market::honest().await;
    market.buyer.1.twist(|_, _| Some(Twist::Unheard));
    let silent = market.run(&["--json", "wallet", "balance"]).await.expect(8);
    assert!(
        silent.last()["message"]
            .as_str()
            .unwrap()
            .contains("is the wallet running")
    );

    let mut none = market.world.bare_customer(
        "nobody",
        &["--wallet", "nwc", "--json", "wallet", "balance"],
    );
    let none = run(&mut none).expect(12);
    assert!(
        none.last()["message"]
            .as_str()
            .unwrap()
            .contains("wallet setup nwc")
    );

    let mut other = market.customer(&["--json", "wallet", "balance"]);
    other.env("NWC_URL", &market.seller.1.uri);
    let other = run(&mut other).expect(2);
    assert!(
        other.last()["message"]
            .as_str()
            .unwrap()
            .contains("NWC_URL")
    );

    // What needs no wallet works all the same.
    let mut budget = market.customer(&["--json", "budget"]);
    budget.env("NWC_URI", "nostr+walletconnect://damaged");
    run(&mut budget).expect(0);
    let mut buy = market.customer(&["--json", "--prompt", "x"]);
    buy.env("NWC_URI", "nostr+walletconnect://damaged");
    run(&mut buy).expect(2);
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_tried_kept_for_its_owner_and_used() {
    let market = Market::honest().await;
    let command = |args: &[&str]| market.world.bare_customer("fresh", args);
    let uri = market.buyer.1.uri.clone();
    let secret = uri.split("secret=").nth(1).unwrap()[..64].to_owned();
    let kept = market.world.home("fresh").join("customer").join("nwc.uri");

    // Not on the command line, not on the wrong network, not what is no connection: and nothing is kept.
    let argv = ran(command(&["wallet", "setup", "nwc", &uri]))
        .await
        .expect(2);
    assert!(!argv.stderr.contains(&secret), "{}", argv.stderr);
    let mainnet = ran_with(command(&["wallet", "setup", "nwc"]), uri.clone())
        .await
        .expect(12);
    assert!(mainnet.stderr.contains("regtest"), "{}", mainnet.stderr);
    ran_with(command(&["wallet", "setup"]), "hunter2".to_owned())
        .await
        .expect(2);
    assert!(!kept.exists());

    let set_up = command(&[
        "--network",
        "regtest",
        "--json",
        "wallet",
        "setup",
        "nwc",
        "-",
    ]);
    let set_up = ran_with(set_up, format!("  {uri}\n")).await.expect(0);
    let said = set_up.last();
    assert_eq!(
        (&said["alias"], &said["balance_msat"]),
        (&"a test's wallet".into(), &OPENING.into())
    );
    assert_eq!(
        (&said["hold_invoices"], &said["missing"]),
        (&true.into(), &Value::Array(Vec::new()))
    );
    assert_eq!(mode(&kept), 0o600);
    for text in [&set_up.stdout, &set_up.stderr] {
        assert!(!text.contains(&secret), "{text}");
    }

    // It is the wallet from now on, without a word in the configuration.
    let balance = ran(command(&[
        "--network",
        "regtest",
        "--json",
        "wallet",
        "balance",
    ]))
    .await
    .expect(0);
    assert_eq!(
        (&balance.last()["wallet"], &balance.last()["play_money"]),
        (&"nwc".into(), &false.into())
    );
    let doctor = ran(command(&[
        "--network",
        "regtest",
        "--relay",
        &market.world.relay,
        "doctor",
    ]))
    .await;
    assert!(
        doctor.stdout.contains("real money on regtest"),
        "{}\n{}",
        doctor.stdout,
        doctor.stderr
    );
    assert!(!doctor.stdout.contains(&secret));
    let invoice = ran(command(&[
        "--network",
        "regtest",
        "wallet",
        "invoice",
        "--amount-sats",
        "5",
        "--no-qr",
    ]));
    assert!(invoice.await.expect(0).stdout.starts_with("lnbcrt50n"));
    let address = ["--network", "regtest", "wallet", "address", "--no-qr"];
    ran(command(&address)).await.expect(12);
    let mut named = command(&address);
    named.env("NWC_URI", format!("{uri}&lud16=me@wallet.example"));
    assert_eq!(ran(named).await.expect(0).stdout, "me@wallet.example\n");
    ran(command(&["--network", "regtest", "wallet", "fund", "5"]))
        .await
        .expect(2);

    // Others may not read it.
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = ran(command(&[
        "--network",
        "regtest",
        "--json",
        "wallet",
        "balance",
    ]))
    .await
    .expect(2);
    assert!(
        open.last()["message"]
            .as_str()
            .unwrap()
            .contains("chmod 600")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_of_a_purchase_shows_a_secret_of_the_wallet() {
    let market = Market::honest().await;
    let mut sell = market.provider();
    let log = market.world.home("seller.log");
    sell.env("RUST_LOG", "trace").stdout(Stdio::piped());
    sell.stderr(std::fs::File::create(&log).unwrap());
    let mut seller = sell.spawn().unwrap();
    let ready = BufReader::new(seller.stdout.take().unwrap()).lines();
    assert!(
        ready
            .map_while(Result::ok)
            .any(|line| line.starts_with("READY"))
    );
    let mut buy = market.customer(&["--json", "--prompt", "hush", "--htlc"]);
    buy.env("RUST_LOG", "trace");
    let bought = ran(buy).await;
    seller.kill().unwrap();
    seller.wait().unwrap();
    let bought = bought.expect(0);
    let log = std::fs::read_to_string(log).unwrap();
    for service in [&market.buyer.1, &market.seller.1] {
        let secret = &service.uri.split("secret=").nth(1).unwrap()[..64];
        for text in [&bought.stdout, &bought.stderr, &log] {
            assert!(!text.contains(secret));
        }
    }
    assert!(market.place.bank.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_is_short_of_funds_gets_no_order_and_one_that_does_not_tell_does() {
    let market = Market::honest().await;
    let limits = "[runway]\ndaily_limit_sats = 500000\nper_tick_limit_sats = 500000\n\
                  per_job_limit_sats = 500000\n";
    market.world.config("buyer", limits);
    let bill = async |sats: &str| {
        let args = [
            "--network",
            "regtest",
            "wallet",
            "invoice",
            "--no-qr",
            "--amount-sats",
            sats,
        ];
        let mut command = market.world.bare_provider("seller", &args);
        command.env("NWC_URI", &market.seller.1.uri);
        ran(command).await.expect(0).stdout.trim().to_owned()
    };
    let pay = |bolt11: &str| market.customer(&["--json", "wallet", "pay", "--yes", bolt11]);
    let short = ran(pay(&bill("100001").await)).await.expect(12);
    assert_eq!(short.last()["reserved_msat"], 0);
    assert_eq!(market.buyer.1.asked("pay_invoice"), 0);
    market.buyer.1.twist(|method, _| {
        (method == "get_balance").then(|| Twist::Instead("RESTRICTED".to_owned()))
    });
    ran(pay(&bill("5").await)).await.expect(0);
    assert_eq!(market.buyer.1.asked("pay_invoice"), 1);
}

//! Ticks: what is bought in one counts against its limit, whoever buys, in however many processes.

use std::sync::Arc;

use agent_compute::Code;
use agent_compute::client::{Builder, ComputeClient, PurchaseRequest};
use agent_compute::config::Runway;
use agent_compute::identity::Identity;
use agent_compute::provider::{Provider, ProviderEvent};
use agent_compute::units::Msat;
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet};
use futures_util::future::join_all;

use self::market::Market;
use crate::harness::{World, assert_conserved, run};

#[path = "../../../examples/market/mod.rs"]
mod market;

const PRICE: Msat = Msat::new(10_000);

/// Two jobs a tick, five a day.
const RUNWAY: Runway = Runway {
    daily_limit: Msat::new(50_000),
    per_tick_limit: Msat::new(20_000),
    per_job_limit: Msat::new(20_000),
    reserve: Msat::ZERO,
};

struct Stage {
    market: Market,
    provider: Provider,
    identity: Identity,
}

impl Stage {
    async fn new() -> Self {
        let market = Market::open().await.unwrap();
        Self {
            provider: market.sell(str::to_uppercase, PRICE).await.unwrap(),
            identity: Identity::from_keys(nostr::Keys::generate()),
            market,
        }
    }

    fn builder(&self, fault: Option<Fault>) -> Builder {
        let options = SimOptions {
            fault,
            ..SimOptions::default()
        };
        let bank = self.market.path("bank.sqlite");
        let wallet = SimWallet::open(&bank, self.identity.public_key(), options).unwrap();
        self.market
            .buyer(self.identity.clone(), "buyer")
            .wallet(Arc::new(wallet))
            .limits(RUNWAY)
    }

    async fn client(&self) -> ComputeClient {
        self.builder(None).build().await.unwrap()
    }

    /// What the buyer's account has paid.
    async fn paid(&self) -> Msat {
        let wallet = self.market.wallet(&self.identity).unwrap();
        let opened_with = Msat::from_sats(100_000).unwrap();
        opened_with
            .checked_sub(wallet.balance().await.unwrap())
            .unwrap()
    }
}

async fn buy(client: &ComputeClient, prompt: &str) -> Result<String, Code> {
    let bought = client
        .purchase(PurchaseRequest::new(prompt))
        .receipt()
        .await;
    match bought {
        Ok(receipt) => Ok(receipt.text),
        Err(error) => {
            assert_eq!(error.paid_msat(), Msat::ZERO, "{error}");
            assert_eq!(error.reserved_msat(), Msat::ZERO, "{error}");
            Err(error.code())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_in_one_tick_never_exceed_its_limit() {
    let stage = Stage::new().await;
    let client = stage.client().await;
    // Two handles of one tick, and a client of its own on the same home.
    let other = stage.client().await;
    let handles = [client.tick("t"), client.tick("t"), other.tick("t")];
    let bought = join_all((0..9).map(|n| {
        let tick = &handles[n % 3];
        async move { buy(tick, &format!("job {n}")).await }
    }))
    .await;
    let delivered = bought.iter().filter(|it| it.is_ok()).count();
    let refused = bought.iter().filter(|it| **it == Err(Code::Budget)).count();
    assert_eq!((delivered, refused), (2, 7), "{bought:?}");
    assert_eq!(stage.paid().await, RUNWAY.per_tick_limit);
    let budget = handles[2].budget().await.unwrap();
    assert_eq!(budget.usage.tick_spent, RUNWAY.per_tick_limit);
    assert_eq!(budget.left_in_tick(), Msat::ZERO);
    assert_eq!(budget.left_today(), Msat::new(30_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ticks_at_once_have_a_limit_each_and_share_the_day() {
    let stage = Stage::new().await;
    let client = stage.client().await;
    let (a, b, c) = (client.tick("a"), client.tick("b"), client.tick("c"));
    let bought = join_all([&a, &b, &a, &b, &a, &b].map(|tick| buy(tick, "x"))).await;
    assert_eq!(bought.iter().filter(|it| it.is_ok()).count(), 4);
    // One more fits this day, in whichever tick.
    let bought = join_all([&c, &c].map(|tick| buy(tick, "x"))).await;
    assert_eq!(bought.iter().filter(|it| it.is_ok()).count(), 1);
    assert_eq!(buy(&client.tick("d"), "x").await, Err(Code::Budget));
    assert_eq!(stage.paid().await, RUNWAY.daily_limit);
    for (tick, spent) in [(&a, 20_000), (&b, 20_000), (&c, 10_000)] {
        let usage = tick.budget().await.unwrap().usage;
        assert_eq!(usage.tick_spent, Msat::new(spent));
        assert_eq!(usage.spent_today, RUNWAY.daily_limit);
    }
    // Outside any tick, none is counted.
    let usage = client.budget().await.unwrap().usage;
    assert_eq!(usage.tick_spent, Msat::ZERO);
}

#[tokio::test]
async fn a_tick_that_is_spent_asks_nobody_and_says_which_limit_it_was() {
    let mut stage = Stage::new().await;
    let tick = stage.client().await.tick("t");
    for _ in 0..2 {
        buy(&tick, "x").await.unwrap();
    }
    let request = PurchaseRequest::new("x");
    let refused = tick.purchase(request.clone()).receipt().await.unwrap_err();
    assert_eq!(refused.code(), Code::Budget);
    assert!(
        refused.message().contains("per_tick_limit_sats"),
        "{refused}"
    );
    assert!(!refused.is_retryable());
    let preview = tick.preview(&request).await.unwrap_err();
    assert_eq!(preview.code(), Code::Budget);
    // A request that names another tick is not of this one.
    let elsewhere = PurchaseRequest {
        tick: Some("u".into()),
        ..request
    };
    tick.purchase(elsewhere).receipt().await.unwrap();
    let mut quoted = 0;
    let soon = std::time::Duration::from_millis(200);
    while let Ok(Some(event)) = tokio::time::timeout(soon, stage.provider.next_event()).await {
        quoted += usize::from(matches!(event, ProviderEvent::Quoted { .. }));
    }
    assert_eq!(quoted, 3);
}

#[tokio::test]
async fn a_tick_goes_on_with_what_is_left_after_a_restart() {
    let stage = Stage::new().await;
    let client = stage.client().await;
    buy(&client.tick("t"), "x").await.unwrap();
    client.close().await;
    drop(client);
    let tick = stage.client().await.tick("t");
    assert_eq!(tick.budget().await.unwrap().left_in_tick(), PRICE);
    buy(&tick, "x").await.unwrap();
    assert_eq!(buy(&tick, "x").await, Err(Code::Budget));
    assert_eq!(stage.paid().await, RUNWAY.per_tick_limit);
}

#[tokio::test]
async fn money_in_doubt_counts_against_its_tick_until_it_is_looked_up() {
    let stage = Stage::new().await;
    let lossy = stage.builder(Some(Fault::TimeoutAfter));
    let client = lossy.build().await.unwrap();
    let tick = client.tick("t");
    let request = PurchaseRequest {
        timeout: std::time::Duration::from_secs(3),
        ..PurchaseRequest::new("x")
    };
    let doubt = tick.purchase(request).receipt().await.unwrap_err();
    assert_eq!(doubt.code(), Code::PaymentUnknown, "{doubt}");
    let budget = tick.budget().await.unwrap();
    assert_eq!(budget.usage.tick_unknown, PRICE);
    assert_eq!(budget.left_in_tick(), PRICE);
    drop((tick, client));
    // A client whose wallet answers again settles it before anything else.
    let tick = stage.client().await.tick("t");
    buy(&tick, "y").await.unwrap();
    assert_eq!(buy(&tick, "z").await, Err(Code::Budget));
    let usage = tick.budget().await.unwrap().usage;
    assert_eq!(usage.tick_spent, RUNWAY.per_tick_limit);
    assert_eq!(usage.tick_unknown, Msat::ZERO);
    assert_eq!(stage.paid().await, RUNWAY.per_tick_limit);
}

#[tokio::test]
async fn a_tick_has_a_name_of_1_to_64_bytes() {
    let stage = Stage::new().await;
    let client = stage.client().await;
    for bad in ["", &"é".repeat(33)] {
        let tick = client.tick(bad);
        assert_eq!(buy(&tick, "x").await, Err(Code::Usage));
        assert_eq!(tick.budget().await.unwrap_err().code(), Code::Usage);
    }
    buy(&client.tick("é".repeat(32)), "x").await.unwrap();
    assert_eq!(stage.paid().await, PRICE);
}

/// The library's ticks are those of `--tick`.
#[test]
fn processes_that_share_a_home_share_its_ticks() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.config("buyer", "[runway]\nper_tick_limit_sats = 20\n");
    let buyers: Vec<_> = (0..5)
        .map(|_| {
            let args = ["--json", "--tick", "t", "--prompt", "x"];
            let mut command = world.customer("buyer", &args);
            std::thread::spawn(move || run(&mut command))
        })
        .collect();
    let mut codes: Vec<i32> = buyers
        .into_iter()
        .map(|it| it.join().unwrap().code)
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 0, 4, 4, 4]);
    world
        .buy("buyer", &["--tick", "u", "--prompt", "x"])
        .expect(0);
    let budget = run(&mut world.customer("buyer", &["--json", "budget", "--tick", "t"])).expect(0);
    assert_eq!(budget.last()["tick"]["spent_msat"], 20_000);
    assert_eq!(world.daily("buyer"), (30_000, 0, 0));
    assert_conserved(&world.bank());
}

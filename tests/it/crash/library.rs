//! The library in an agent's own process: purchases that are dropped, clients that come and go, clocks
//! that are set back.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::Code;
use agent_compute::client::{ComputeClient, Purchase, PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::{Home, Role, Runway};
use agent_compute::identity::{Identity, keystore};
use agent_compute::ledger::BudgetReport;
use agent_compute::provider::backend::Echo;
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{
    self, ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown,
};
use agent_compute::relay::{PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;

const DAY: u64 = 86_400;

/// A client in this process, on the home and the bank of a customer of this world.
struct Agent {
    home: Home,
    bank: PathBuf,
    relay: String,
    fault: Option<Fault>,
    clock: Clock,
    limits: Option<Runway>,
}

impl Agent {
    fn of(world: &World, home: &str) -> Self {
        Self {
            home: Home::at(world.home(home)),
            bank: world.bank(),
            relay: world.relay.clone(),
            fault: None,
            clock: Clock::system(),
            limits: None,
        }
    }

    async fn client(&self) -> ComputeClient {
        self.home.make_folder(Role::Customer).unwrap();
        let (identity, _) =
            keystore::open_or_create(&self.home.identity_file(Role::Customer)).unwrap();
        let options = SimOptions {
            fault: self.fault,
            clock: self.clock.clone(),
            ..SimOptions::default()
        };
        let wallet = SimWallet::open(&self.bank, identity.public_key(), options).unwrap();
        let mut builder = ComputeClient::builder()
            .home(self.home.clone())
            .relays(self.relay.as_str())
            .wallet(Arc::new(wallet))
            .clock(self.clock.clone());
        if let Some(limits) = self.limits {
            builder = builder.limits(limits);
        }
        builder.build().await.unwrap()
    }
}

fn request(prompt: &str) -> PurchaseRequest {
    PurchaseRequest::new(prompt)
}

async fn until_paying(purchase: &mut Purchase) {
    while let Some(event) = purchase.next_event().await {
        if matches!(event, PurchaseEvent::Paying { .. }) {
            return;
        }
    }
    panic!("it never came to paying");
}

async fn usage(client: &ComputeClient) -> BudgetReport {
    client.budget().await.unwrap()
}

/// Recovers in this process until nothing is set aside.
async fn settle_here(client: &ComputeClient) {
    let until = Instant::now() + crate::harness::PATIENCE;
    while !usage(client).await.usage.reserved.is_zero() {
        assert!(Instant::now() < until, "recover never came to an end");
        client.recover().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purchases_dropped_at_any_moment_are_recovered_by_the_same_client() {
    let world = World::new();
    let _seller = world.provider("seller", &["--stream"]);
    let mut moments = Moments::of("purchases dropped");
    for fault in [None, Some(Fault::Slow)] {
        let home = if fault.is_some() { "slow" } else { "well" };
        let agent = Agent {
            fault,
            ..Agent::of(&world, home)
        };
        let client = agent.client().await;
        let begun = Instant::now();
        client.purchase(request("warm up")).receipt().await.unwrap();
        let usual = begun.elapsed();
        for _ in 0..rounds(25) {
            let purchase = client.purchase(request("dropped"));
            let usual = usual.min(Duration::from_millis(100));
            tokio::task::block_in_place(|| moments.pass(usual));
            drop(purchase);
            if moments.one_in(2) {
                // At once: what the aborted purchase had begun may still be going on.
                client.recover().await.unwrap();
            }
        }
        settle_here(&client).await;
        client.recover().await.unwrap();
        drop(client);
        settle(&world, home);
        assert_one_story(&world, home);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_outlives_its_purchase_and_client_and_nobody_takes_it_meanwhile() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let agent = Agent {
        fault: Some(Fault::Slow),
        ..Agent::of(&world, "buyer")
    };
    let client = agent.client().await;
    let mut purchase = client.purchase(request("x"));
    until_paying(&mut purchase).await;
    drop(purchase);
    drop(client);
    // Another client of this process, and another process.
    let other = agent.client().await;
    assert_eq!(other.recovered(), []);
    assert_eq!(other.recover().await.unwrap(), []);
    recover(&world, "buyer").expect(0);
    assert_eq!(usage(&other).await.usage.reserved, Msat::new(PRICE));
    // Once the wallet has answered, anybody may.
    settle_here(&other).await;
    drop(other);
    assert_eq!(assert_one_story(&world, "buyer"), PRICE);
}

#[test]
fn a_payment_outlives_even_its_runtime_and_nobody_takes_it_meanwhile() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let agent = Agent {
        fault: Some(Fault::Slow),
        ..Agent::of(&world, "buyer")
    };
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    first.block_on(async {
        let client = agent.client().await;
        let mut purchase = client.purchase(request("x"));
        until_paying(&mut purchase).await;
        // A moment to begin, of the second and a half that it takes.
        sleep(Duration::from_millis(300)).await;
    });
    // The wallet's thread goes on.
    first.shutdown_background();
    for _ in 0..3 {
        recover(&world, "buyer").expect(0);
    }
    let paid = || !paid_at_bank(&world, &identity(&world, "buyer")).is_empty();
    crate::harness::eventually("the payment arrives", paid);
    // This process is what may still be paying, as far as others can tell: it goes first.
    assert_eq!(world.daily("buyer"), (0, PRICE, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_on_one_home_leave_each_other_alone() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let agent = Agent {
        fault: Some(Fault::Slow),
        ..Agent::of(&world, "buyer")
    };
    let (one, two) = (agent.client().await, agent.client().await);
    let mut bought: Vec<Purchase> = Vec::new();
    for client in [&one, &two, &one, &two] {
        bought.push(client.purchase(request("x")));
    }
    for purchase in &mut bought {
        until_paying(purchase).await;
    }
    for client in [&one, &two] {
        assert_eq!(client.recover().await.unwrap(), []);
    }
    for purchase in bought {
        assert_eq!(purchase.receipt().await.unwrap().text, "x");
    }
    drop((one, two));
    assert_eq!(assert_one_story(&world, "buyer"), 4 * PRICE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_stopped_at_any_moment_says_so_and_is_recovered() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut moments = Moments::of("purchases stopped");
    let client = Agent::of(&world, "buyer").client().await;
    let begun = Instant::now();
    client.purchase(request("warm up")).receipt().await.unwrap();
    let usual = begun.elapsed();
    let mut interrupted = 0;
    for _ in 0..rounds(20) {
        let purchase = client.purchase(request("x"));
        tokio::task::block_in_place(|| moments.pass(usual));
        purchase.stop();
        match purchase.receipt().await {
            Ok(receipt) => assert_eq!(receipt.text, "x"),
            Err(error) => {
                assert_eq!(error.code(), Code::Interrupted, "{error}");
                interrupted += 1;
            }
        }
    }
    println!("{interrupted} interrupted");
    settle_here(&client).await;
    client.recover().await.unwrap();
    drop(client);
    settle(&world, "buyer");
    assert_one_story(&world, "buyer");
}

/// A provider in this process, on the same clock as its customer.
async fn sell(world: &World, clock: &Clock) -> JoinSet<()> {
    let identity = Identity::from_keys(nostr::Keys::generate());
    let options = SimOptions {
        clock: clock.clone(),
        ..SimOptions::default()
    };
    let wallet = SimWallet::open(&world.bank(), identity.public_key(), options).unwrap();
    let url = nostr::RelayUrl::parse(&world.relay).unwrap();
    let parts = Parts {
        identity,
        relays: RelayPoolSession::connect(std::slice::from_ref(&url), PoolOptions::default())
            .unwrap(),
        wallet: Some(Arc::new(wallet)),
        backend: Arc::new(Echo),
        store: JobStore::open(&world.dir.path().join("jobs.sqlite")).unwrap(),
        clock: clock.clone(),
    };
    let channel = ChannelChoice::Create { renew: false };
    let config = ProviderConfig::new(channel, vec![url], Network::Regtest);
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let mut selling = JoinSet::new();
    selling.spawn(async move {
        provider::run(config, parts, tell, Shutdown::default())
            .await
            .unwrap();
    });
    while !matches!(told.recv().await.unwrap(), ProviderEvent::Ready { .. }) {}
    selling.spawn(async move { while told.recv().await.is_some() {} });
    selling
}

#[tokio::test]
async fn a_clock_set_back_over_midnight_gives_no_second_budget() {
    let world = World::new();
    let midnight = UnixSecs::new((Clock::system().now().utc_day() + 1) * DAY);
    let (before, after) = (midnight.minus(60), midnight.plus(60));
    let clock = Clock::fixed(before);
    let _selling = sell(&world, &clock).await;
    let agent = Agent {
        clock: clock.clone(),
        limits: Some(Runway {
            daily_limit: Msat::new(PRICE + 5_000),
            ..Runway::default()
        }),
        ..Agent::of(&world, "buyer")
    };
    let client = agent.client().await;
    let buy = async |client: &ComputeClient| client.purchase(request("x")).receipt().await;
    let refused = async |client: &ComputeClient| {
        let error = buy(client).await.unwrap_err();
        assert_eq!(error.code(), Code::Budget, "{error}");
    };
    buy(&client).await.unwrap();
    refused(&client).await;
    clock.set(after);
    buy(&client).await.unwrap();
    refused(&client).await;
    // Neither for a client that has seen midnight, nor for one that begins on the wrong day.
    clock.set(before);
    refused(&client).await;
    assert_eq!(usage(&client).await.usage.spent_today, Msat::new(PRICE));
    drop(client);
    let client = agent.client().await;
    refused(&client).await;
    clock.set(after.plus(DAY));
    assert_eq!(usage(&client).await.usage.spent_today, Msat::ZERO);
    drop(client);
    assert_eq!(paid_at_bank(&world, &identity(&world, "buyer")).len(), 2);
    assert_conserved(&world.bank());
}

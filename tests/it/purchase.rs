//! The library: `ComputeClient` in an agent's own process, against a provider in the same test.

use std::path::Path;
use std::sync::Arc;

use agent_compute::client::{
    Code, ComputeClient, Inference, ProviderInfo, Purchase, PurchaseEvent, PurchaseRequest,
};
use agent_compute::clock::Clock;
use agent_compute::config::{Config, Home, Runway};
use agent_compute::identity::Identity;
use agent_compute::market::Select;
use agent_compute::protocol::Price;
use agent_compute::provider::backend::Echo;
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{
    self, ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown,
};
use agent_compute::relay::local::EmbeddedRelay;
use agent_compute::relay::pool::{PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet, audit};
use nostr::Keys;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const PRICE: Msat = Msat::new(10_000);

struct Market {
    dir: TempDir,
    relay: EmbeddedRelay,
    tasks: JoinSet<()>,
}

impl Market {
    async fn open() -> Self {
        let mut market = Self {
            dir: tempfile::tempdir().unwrap(),
            relay: EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
                .await
                .unwrap(),
            tasks: JoinSet::new(),
        };
        market.sell("seller", PRICE).await;
        market
    }

    async fn sell(&mut self, name: &str, price: Msat) -> nostr::PublicKey {
        let identity = Identity::from_keys(Keys::generate());
        let key = identity.public_key();
        let url = self.relay.url();
        let relays =
            RelayPoolSession::connect(std::slice::from_ref(&url), PoolOptions::default()).unwrap();
        let parts = Parts {
            wallet: Some(Arc::new(self.wallet(&identity, None))),
            identity,
            relays,
            backend: Arc::new(Echo),
            store: JobStore::open(&self.path(name).join("jobs.sqlite")).unwrap(),
            clock: Clock::system(),
        };
        let config = ProviderConfig {
            price: Price::per_request(price),
            stream: true,
            ..ProviderConfig::new(
                ChannelChoice::Create { renew: false },
                vec![url],
                Network::Regtest,
            )
        };
        let (tell, mut told) = mpsc::channel(64);
        self.tasks.spawn(async move {
            provider::run(config, parts, tell, Shutdown::default())
                .await
                .unwrap();
        });
        while !matches!(told.recv().await.unwrap(), ProviderEvent::Ready { .. }) {}
        self.tasks
            .spawn(async move { while told.recv().await.is_some() {} });
        key
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn bank(&self) -> std::path::PathBuf {
        self.dir.path().join("bank.sqlite")
    }

    fn wallet(&self, identity: &Identity, fault: Option<Fault>) -> SimWallet {
        let options = SimOptions {
            fault,
            ..SimOptions::default()
        };
        SimWallet::open(&self.bank(), identity.public_key(), options).unwrap()
    }

    async fn client(&self, name: &str, identity: &Identity, fault: Option<Fault>) -> ComputeClient {
        ComputeClient::builder()
            .home(Home::at(self.path(name)))
            .config(Config::default())
            .identity(identity.clone())
            .relays(self.relay.url())
            .wallet(Arc::new(self.wallet(identity, fault)))
            .build()
            .await
            .unwrap()
    }
}

fn somebody() -> Identity {
    Identity::from_keys(Keys::generate())
}

async fn events(purchase: &mut Purchase) -> Vec<PurchaseEvent> {
    let mut events = Vec::new();
    while let Some(event) = purchase.next_event().await {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn the_calls_of_an_agents_loop_work_as_written() {
    let market = Market::open().await;
    let identity = somebody();
    let wallet: Arc<dyn Wallet> = Arc::new(market.wallet(&identity, None));
    let before = wallet.balance().await.unwrap();
    // As in the seeds, but for a home of the test's own.
    let url = market.relay.url().to_string();
    let compute_client = ComputeClient::builder()
        .home(Home::at(market.path("buyer")))
        .identity(identity)
        .relays(url.as_str())
        .wallet(Arc::clone(&wallet))
        .build_lazy();
    let providers: Vec<ProviderInfo> = compute_client.discover_providers(3).await.unwrap();
    let provider = ComputeClient::select_cheapest_provider(&providers, 1000).unwrap();
    assert_eq!(provider.price_msats, 10_000);
    assert!(ComputeClient::select_cheapest_provider(&providers, 9).is_none());
    let result: Inference = compute_client
        .request_inference(provider, "What is the capital of France?", 100, 1000)
        .await
        .unwrap();
    assert_eq!(result.to_string(), "What is the capital of France?");
    let after = wallet.balance().await.unwrap();
    assert_eq!(before.checked_sub(after), Some(PRICE));
    let too_dear = compute_client
        .request_inference(provider, "x", 100, 9)
        .await;
    assert_eq!(too_dear.unwrap_err().code(), Code::NoProvider);
}

#[tokio::test]
async fn a_purchase_is_a_stream_of_events_and_a_receipt() {
    let market = Market::open().await;
    let client = market.client("buyer", &somebody(), None).await;
    let mut purchase = client.purchase(PurchaseRequest::new("a b c"));
    let events = events(&mut purchase).await;
    let receipt = purchase.receipt().await.unwrap();
    let chunks: String = events
        .iter()
        .filter_map(|event| match event {
            PurchaseEvent::Chunk { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(chunks, "a b c");
    assert_eq!(receipt.text, chunks);
    assert_eq!(receipt.paid_msat, PRICE);
    assert!(events.iter().any(|event| matches!(
        event,
        PurchaseEvent::Paid {
            price_msat: PRICE,
            ..
        }
    )));
    let usage = client.budget().await.unwrap().usage;
    assert_eq!((usage.spent_today, usage.reserved), (PRICE, Msat::ZERO));
}

#[tokio::test]
async fn limits_of_the_builder_lower_and_never_raise() {
    let market = Market::open().await;
    let identity = somebody();
    let mut config = Config::default();
    config.runway.per_job_limit = PRICE;
    let limited = |limits: Runway| {
        ComputeClient::builder()
            .home(Home::at(market.path("buyer")))
            .config(config.clone())
            .identity(identity.clone())
            .relays(market.relay.url())
            .wallet(Arc::new(market.wallet(&identity, None)))
            .limits(limits)
            .build()
    };
    let higher = Runway {
        per_job_limit: Msat::new(1_000_000),
        ..Runway::default()
    };
    let lower = Runway {
        per_job_limit: Msat::new(9_999),
        ..Runway::default()
    };
    let raised = limited(higher).await.unwrap();
    assert_eq!(raised.budget().await.unwrap().limits.per_job, PRICE);
    let lowered = limited(lower).await.unwrap();
    let refused = lowered.purchase(PurchaseRequest::new("x")).receipt().await;
    assert_eq!(refused.unwrap_err().code(), Code::Budget);
}

#[tokio::test]
async fn a_tick_has_a_limit_of_its_own_over_all_time() {
    let market = Market::open().await;
    let identity = somebody();
    let mut config = Config::default();
    config.runway.per_tick_limit = Msat::new(20_000);
    let client = ComputeClient::builder()
        .home(Home::at(market.path("buyer")))
        .config(config)
        .identity(identity.clone())
        .relays(market.relay.url())
        .wallet(Arc::new(market.wallet(&identity, None)))
        .build()
        .await
        .unwrap();
    let buy = |tick: &str| {
        client
            .tick(tick)
            .purchase(PurchaseRequest::new("x"))
            .receipt()
    };
    buy("1").await.unwrap();
    buy("1").await.unwrap();
    assert_eq!(buy("1").await.unwrap_err().code(), Code::Budget);
    buy("2").await.unwrap();
    assert_eq!(
        client.tick("1").budget().await.unwrap().usage.tick_spent,
        Msat::new(20_000)
    );
}

#[tokio::test]
async fn sixty_four_purchases_at_once_stay_within_the_limit() {
    let market = Market::open().await;
    let identity = somebody();
    let mut config = Config::default();
    config.runway.daily_limit = Msat::new(70_000);
    let wallet = market.wallet(&identity, None);
    let before = wallet.balance().await.unwrap();
    let client = ComputeClient::builder()
        .home(Home::at(market.path("buyer")))
        .config(config)
        .identity(identity)
        .relays(market.relay.url())
        .wallet(Arc::new(wallet.clone()))
        .build()
        .await
        .unwrap();
    let mut all = JoinSet::new();
    for n in 0..64 {
        let purchase = client.purchase(PurchaseRequest::new(format!("job {n}")));
        all.spawn(purchase.receipt());
    }
    let (mut bought, mut refused) = (0, 0);
    while let Some(outcome) = all.join_next().await {
        match outcome.unwrap() {
            Ok(_) => bought += 1,
            Err(error) => match error.code() {
                Code::Budget => refused += 1,
                // A busy provider is no fault of the buyer's, and costs nothing.
                Code::ProviderRefused => assert_eq!(error.paid_msat(), Msat::ZERO),
                code => panic!("{code}: {error}"),
            },
        }
    }
    assert_eq!(bought, 7, "{refused} were refused");
    let after = wallet.balance().await.unwrap();
    assert_eq!(before.checked_sub(after), Some(Msat::new(70_000)));
    let usage = client.budget().await.unwrap().usage;
    assert_eq!(
        (usage.spent_today, usage.reserved),
        (Msat::new(70_000), Msat::ZERO)
    );
    assert!(audit(&market.bank()).unwrap().is_balanced());
}

#[tokio::test]
async fn dropping_a_purchase_leaves_the_ledger_recoverable() {
    let market = Market::open().await;
    let identity = somebody();
    let wallet = market.wallet(&identity, None);
    let before = wallet.balance().await.unwrap();
    let slow = market.client("buyer", &identity, Some(Fault::Slow)).await;
    let mut purchase = slow.purchase(PurchaseRequest::new("dropped"));
    while let Some(event) = purchase.next_event().await {
        if matches!(event, PurchaseEvent::Paying { .. }) {
            break;
        }
    }
    drop(purchase);
    assert_eq!(slow.budget().await.unwrap().usage.reserved, PRICE);
    // A payment that was begun goes on, and nobody decides over it before the wallet has answered.
    while slow.budget().await.unwrap().usage.reserved == PRICE {
        slow.recover().await.unwrap();
        tokio::task::yield_now().await;
    }
    let usage = slow.budget().await.unwrap().usage;
    let after = wallet.balance().await.unwrap();
    assert_eq!(usage.reserved, Msat::ZERO);
    assert_eq!(before.checked_sub(after), Some(usage.spent_today));
}

#[tokio::test]
async fn stopping_before_a_payment_pays_nothing() {
    let market = Market::open().await;
    let identity = somebody();
    let wallet = market.wallet(&identity, None);
    let before = wallet.balance().await.unwrap();
    let client = market.client("buyer", &identity, None).await;
    // Nobody has this model, so that it is still looking when it is stopped.
    let purchase = client.purchase(PurchaseRequest {
        model: Some("nobody's".into()),
        ..PurchaseRequest::new("x")
    });
    purchase.stop();
    assert_eq!(
        purchase.receipt().await.unwrap_err().code(),
        Code::Interrupted
    );
    assert_eq!(wallet.balance().await.unwrap(), before);
}

#[tokio::test]
async fn a_preview_chooses_and_asks_nobody() {
    let mut market = Market::open().await;
    let cheap = market.sell("cheap", Msat::new(4_000)).await;
    let client = market.client("buyer", &somebody(), None).await;
    let preview = client.preview(&PurchaseRequest::new("x")).await.unwrap();
    assert_eq!(preview.providers.len(), 2);
    assert_eq!(preview.selected.unwrap().provider, cheap);
    let one = PurchaseRequest {
        select: cheap.to_hex().parse::<Select>().unwrap(),
        max_price: Some(Msat::new(3_999)),
        ..PurchaseRequest::new("x")
    };
    let none = client.preview(&one).await.unwrap().selected.unwrap_err();
    assert_eq!(none.code(), Code::NoProvider);
}

#[tokio::test]
async fn a_client_without_a_way_to_pay_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    let undecided = ComputeClient::builder().home(home).build().await;
    assert_eq!(undecided.unwrap_err().code(), Code::Wallet);
    assert!(
        !Path::exists(&dir.path().join("customer")),
        "nothing was made"
    );
}

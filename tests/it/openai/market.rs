//! The backend sold from: through the libraries, and with the two programs.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use agent_compute::client::{Code, ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::{Config, Home};
use agent_compute::identity::Identity;
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{
    ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown, run as sell,
};
use agent_compute::relay::local::EmbeddedRelay;
use agent_compute::relay::pool::{PoolOptions, RelayPoolSession};
use agent_compute::units::Network;
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::Keys;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::backend;
use super::server::{
    Server, Step, done, event, json_answer, models, piece, recorded, soon, stream, stream_head,
};
use crate::harness::{Provider, Ran, World, assert_conserved, run};

/// A provider with this server behind it, and a customer, in one process.
struct Market {
    dir: tempfile::TempDir,
    relay: EmbeddedRelay,
    told: mpsc::Receiver<ProviderEvent>,
    _seller: JoinSet<()>,
}

impl Market {
    async fn open(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let url = relay.url();
        let identity = Identity::from_keys(Keys::generate());
        let parts = Parts {
            wallet: Some(wallet(dir.path(), &identity)),
            identity,
            relays: RelayPoolSession::connect(std::slice::from_ref(&url), PoolOptions::default())
                .unwrap(),
            backend: Arc::new(backend(server)),
            store: JobStore::open(&dir.path().join("jobs.sqlite")).unwrap(),
            clock: Clock::system(),
        };
        let own = ChannelChoice::Create { renew: false };
        let config = ProviderConfig {
            stream: true,
            ..ProviderConfig::new(own, vec![url], Network::Regtest)
        };
        let (tell, told) = mpsc::channel(256);
        let mut seller = JoinSet::new();
        seller.spawn(async move {
            sell(config, parts, tell, Shutdown::default())
                .await
                .unwrap();
        });
        let mut market = Self {
            dir,
            relay,
            told,
            _seller: seller,
        };
        market
            .until(|event| matches!(event, ProviderEvent::Ready { .. }))
            .await;
        market
    }

    async fn until(&mut self, is: impl Fn(&ProviderEvent) -> bool) -> ProviderEvent {
        let told = async {
            loop {
                let event = self.told.recv().await.unwrap();
                if is(&event) {
                    return event;
                }
            }
        };
        soon("the provider says so", told).await
    }

    async fn customer(&self) -> ComputeClient {
        let identity = Identity::from_keys(Keys::generate());
        ComputeClient::builder()
            .home(Home::at(self.dir.path().join("customer")))
            .config(Config::default())
            .relays(self.relay.url())
            .wallet(wallet(self.dir.path(), &identity))
            .identity(identity)
            .build()
            .await
            .unwrap()
    }
}

fn wallet(folder: &Path, of: &Identity) -> Arc<dyn Wallet> {
    let bank = folder.join("bank.sqlite");
    Arc::new(SimWallet::open(&bank, of.public_key(), SimOptions::default()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_gets_the_models_words_as_they_come_and_whole() {
    let server = Server::chat(|_| stream(&["Paris", " is", " the", " capital", "."])).await;
    let market = Market::open(&server).await;
    let customer = market.customer().await;
    let mut request = PurchaseRequest::new("What is the capital of France?");
    request.model = Some("tiny".into());
    request.max_tokens = 42;
    let mut purchase = customer.purchase(request);
    let mut chunks = Vec::new();
    while let Some(event) = purchase.next_event().await {
        if let PurchaseEvent::Chunk { text, .. } = event {
            chunks.push(text);
        }
    }
    let receipt = purchase.receipt().await.unwrap();
    assert_eq!(receipt.text, "Paris is the capital.");
    assert_eq!(chunks.concat(), receipt.text);
    let asked = server.bodies().remove(0);
    assert_eq!(
        asked["messages"][0]["content"],
        "What is the capital of France?"
    );
    assert_eq!(
        (&asked["model"], &asked["max_tokens"]),
        (&json!("tiny"), &json!(42))
    );
    customer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_breaks_tells_the_owner_all_and_the_customer_no_address() {
    let crash = json!({ "error": { "message": "CUDA out of memory at /srv/tiny" } });
    let endings: [(&str, Vec<Step>); 4] = [
        (
            "CUDA out of memory",
            vec![stream_head(), piece("half "), event(&crash)],
        ),
        ("cut off", vec![stream_head(), piece("half ")]),
        ("empty", vec![stream_head(), done()]),
        ("CUDA out of memory", vec![json_answer(500, &crash)]),
    ];
    for (why, ending) in endings {
        let server = Server::chat(move |_| ending.clone()).await;
        let mut market = Market::open(&server).await;
        let customer = market.customer().await;
        let error = customer
            .purchase(PurchaseRequest::new("hello"))
            .receipt()
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Undelivered, "{why}: {error}");
        for secret in ["127.0.0.1", "http", "CUDA", "srv", "/v1"] {
            assert!(!error.to_string().contains(secret), "{error}");
        }
        let failed = market
            .until(|event| matches!(event, ProviderEvent::Failed { .. }))
            .await;
        let ProviderEvent::Failed { reason, .. } = failed else {
            unreachable!()
        };
        assert!(reason.contains(why), "{why}: {reason}");
        customer.close().await;
    }
}

/// `agent-provider` in this world, with a proxy and a key in its environment that it must not use.
fn provider(world: &World, args: &[&str]) -> Command {
    let common = [
        "--relay",
        &world.relay,
        "--wallet",
        "sim",
        "--create-channel",
    ];
    let mut command = world.bare_provider("seller", &[&common[..], args].concat());
    command
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .env("OPENAI_API_KEY", "sk-hunter2")
        .env("OPENAI_BASE_URL", "http://127.0.0.1:1")
        .env("OPENAI_ORG_ID", "an organization");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_trade_a_recorded_answer_of_a_real_server() {
    let server = Server::start(|asked, _| match asked.call.as_str() {
        "GET /v1/models" => vec![Step::Send(recorded("models"))],
        _ => vec![Step::Dribble(recorded("streamed"), 50)],
    })
    .await;
    let world = World::new();
    let args = ["--backend-url", &server.url, "--model", "tiny", "--stream"];
    let _seller = Provider::start(&mut provider(&world, &args));
    let asks = [
        "--model",
        "tiny",
        "--max-tokens",
        "8",
        "--prompt",
        "river stone",
    ];
    let bought = world.buy("buyer", &asks).expect(0);
    let text = " fire zero key größe light night day größe";
    assert_eq!(bought.last()["text"], text);
    assert_eq!(bought.last()["model"], "tiny");
    let chunks = bought
        .events()
        .into_iter()
        .filter(|event| event["event"] == "chunk");
    let chunks: String = chunks
        .map(|chunk| chunk["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(chunks, text);
    for asked in server.asked() {
        assert!(!asked.head.contains("hunter2") && !asked.head.contains("organization"));
    }
    assert_conserved(&world.bank());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_off_about_a_backend_is_said_before_anything_is_announced() {
    let server = Server::start(|_, _| vec![json_answer(200, &models(&["tiny", "large"]))]).await;
    let silent = Server::start(|_, _| vec![Step::Reset]).await;
    let world = World::new();
    let refused = |args: &[&str]| -> Ran { run(provider(&world, args).arg("--json")) };
    for (args, code, word, why) in [
        (
            &["--backend-url", &server.url, "--model", "small"][..],
            2,
            "usage",
            "only tiny, large",
        ),
        (
            &["--backend-url", "localhost:8080"],
            2,
            "usage",
            "--backend-url: expected http://",
        ),
        (
            &["--backend-url", "http://me:hunter2@h"],
            2,
            "usage",
            "backend_key",
        ),
        (
            &["--backend", "echo", "--backend-url", &server.url],
            2,
            "usage",
            "echo has no server",
        ),
        (
            &["--backend", "openai", "--backend-url", &silent.url],
            8,
            "network",
            "can't be reached",
        ),
    ] {
        let ran = refused(args).expect(code);
        let error = ran.last();
        assert_eq!(error["code"], word);
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
        assert!(!format!("{ran:?}").contains("hunter2"));
    }
    world.config("seller", "[provider]\nbackend_key = \"sk-hunter2\"\n");
    let ran = refused(&[]).expect(2);
    assert!(ran.last()["message"].as_str().unwrap().contains("env:NAME"));
    assert!(!format!("{ran:?}").contains("hunter2"));
}

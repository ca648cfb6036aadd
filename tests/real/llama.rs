//! The backend against a llama.cpp server.
//!
//! ```text
//! cargo test --workspace --test real gguf                 # writes target/tmp/tiny.gguf
//! pip install "llama-cpp-python[server]"
//! python -m llama_cpp.server --model target/tmp/tiny.gguf --n_ctx 512 --port 8123
//! LLAMA_SERVER_URL=http://127.0.0.1:8123 cargo test --workspace --test real
//! ```
//!
//! llama.cpp's own `llama-server -m target/tmp/tiny.gguf -c 512 --port 8123` does as well.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::client::{ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::{Config, Home};
use agent_compute::identity::Identity;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, OpenAi};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{
    self, ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown,
};
use agent_compute::relay::local::EmbeddedRelay;
use agent_compute::relay::pool::{PoolOptions, RelayPoolSession};
use agent_compute::units::Network;
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::Keys;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::gguf::{CONTEXT, tiny_model};

/// How long anything may take. The model is tiny; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// The server to talk to; `None`, and says so, if there is none.
async fn server() -> Option<(OpenAi, String)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is told where its server is"
    )]
    let Ok(url) = std::env::var("LLAMA_SERVER_URL") else {
        println!(
            "SKIPPED: LLAMA_SERVER_URL names no llama.cpp server; tests/real/llama.rs says how to run one"
        );
        return None;
    };
    let server = OpenAi::new(url.parse().unwrap(), None).unwrap();
    let model = server.models().await.unwrap().remove(0);
    Some((server, model))
}

async fn generate(
    server: &OpenAi,
    model: &str,
    prompt: String,
    max_tokens: u32,
) -> (Result<String, BackendError>, Vec<String>) {
    let request = GenerateRequest {
        model: model.into(),
        prompt,
        max_tokens,
    };
    let (chunks, mut sent) = mpsc::channel(16);
    let collect = async {
        let mut all = Vec::new();
        while let Some(chunk) = sent.recv().await {
            all.push(chunk);
        }
        all
    };
    let made = async { server.generate(request, chunks).await };
    let both = async { tokio::join!(made, collect) };
    let (made, chunks) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    (made.map(|made| made.text), chunks)
}

#[test]
fn the_model_is_a_gguf_file() {
    let model = tiny_model();
    assert_eq!(&model[..4], b"GGUF");
    assert_eq!(model, tiny_model(), "it is always the same");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny.gguf");
    std::fs::write(&path, &model).unwrap();
    println!("{} bytes in {}", model.len(), path.display());
}

#[tokio::test]
async fn words_are_streamed_up_to_the_most_tokens_that_were_asked_for() {
    let Some((server, model)) = server().await else {
        return;
    };
    assert!(!model.contains('/'), "{model}");
    let (made, chunks) = generate(&server, &model, "river stone".into(), 8).await;
    let text = made.unwrap();
    assert_eq!(text.split_whitespace().count(), 8, "{text}");
    assert_eq!(chunks.concat(), text);
    assert!(chunks.len() > 1, "{chunks:?}");
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_known_to_be_too_long() {
    let Some((server, model)) = server().await else {
        return;
    };
    let long = "river ".repeat(usize::try_from(CONTEXT).unwrap() * 2);
    let (made, chunks) = generate(&server, &model, long, 8).await;
    assert!(matches!(made, Err(BackendError::TooLong(_))), "{made:?}");
    assert!(chunks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_buys_its_words() {
    let Some((server, model)) = server().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let url = relay.url();
    let wallet = |of: &Identity| -> Arc<dyn Wallet> {
        let bank = dir.path().join("bank.sqlite");
        Arc::new(SimWallet::open(&bank, of.public_key(), SimOptions::default()).unwrap())
    };
    let seller = Identity::from_keys(Keys::generate());
    let parts = Parts {
        wallet: Some(wallet(&seller)),
        identity: seller,
        relays: RelayPoolSession::connect(std::slice::from_ref(&url), PoolOptions::default())
            .unwrap(),
        backend: Arc::new(server),
        store: JobStore::open(&dir.path().join("jobs.sqlite")).unwrap(),
        clock: Clock::system(),
    };
    let own = ChannelChoice::Create { renew: false };
    let config = ProviderConfig {
        stream: true,
        ..ProviderConfig::new(own, vec![url.clone()], Network::Regtest)
    };
    let (tell, mut told) = mpsc::channel(256);
    let mut selling = JoinSet::new();
    selling.spawn(async move { provider::run(config, parts, tell, Shutdown::default()).await });
    while !matches!(told.recv().await.unwrap(), ProviderEvent::Ready { .. }) {}

    let identity = Identity::from_keys(Keys::generate());
    let customer = ComputeClient::builder()
        .home(Home::at(dir.path().join("customer")))
        .config(Config::default())
        .relays(url)
        .wallet(wallet(&identity))
        .identity(identity)
        .build()
        .await
        .unwrap();
    let mut request = PurchaseRequest::new("river stone");
    (request.model, request.max_tokens) = (Some(model), 20);
    let mut purchase = customer.purchase(request);
    let mut streamed = String::new();
    while let Some(event) = purchase.next_event().await {
        if let PurchaseEvent::Chunk { text, .. } = event {
            streamed.push_str(&text);
        }
    }
    let receipt = purchase.receipt().await.unwrap();
    assert_eq!(
        receipt.text.split_whitespace().count(),
        20,
        "{}",
        receipt.text
    );
    assert_eq!(streamed, receipt.text);
    customer.close().await;
}

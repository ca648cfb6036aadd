//! The backend for OpenAI-compatible servers, against servers that misbehave.

mod answers;
mod asking;
mod finding;
mod market;
pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use agent_compute::provider::backend::openai::{OpenAi, Silence};
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::secret::Secret;
use tokio::sync::mpsc;

use server::Server;

/// A patience that lets silent servers fail soon, and lets no slow machine fail.
const SHORT: Silence = Silence {
    first: Duration::from_millis(500),
    between: Duration::from_millis(500),
};

fn backend(server: &Server) -> OpenAi {
    OpenAi::new(server.url.parse().unwrap(), None).unwrap()
}

fn backend_with_key(server: &Server, key: &str) -> OpenAi {
    OpenAi::new(server.url.parse().unwrap(), Some(Secret::new(key))).unwrap()
}

fn request(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: "tiny".into(),
        prompt: "river stone".into(),
        max_tokens,
    }
}

/// What a backend makes of the request, and the chunks it sent on the way.
async fn generate(
    backend: &OpenAi,
    max_tokens: u32,
) -> (Result<Generated, BackendError>, Vec<String>) {
    let (chunks, mut sent) = mpsc::channel(16);
    let collect = async {
        let mut all = Vec::new();
        while let Some(chunk) = sent.recv().await {
            all.push(chunk);
        }
        all
    };
    let made = async { backend.generate(request(max_tokens), chunks).await };
    server::soon("an end", async { tokio::join!(made, collect) }).await
}

/// The text of a job that succeeds.
async fn text(backend: &OpenAi) -> String {
    let (made, chunks) = generate(backend, 500).await;
    let made = made.unwrap();
    assert!(chunks.is_empty() || chunks.concat() == made.text);
    made.text
}

/// Why a job failed. Whatever it was, customers are told nothing of the server.
async fn failure(backend: &OpenAi) -> BackendError {
    let (made, _) = generate(backend, 500).await;
    let error = made.unwrap_err();
    let told = error.for_customers();
    assert!(told.starts_with("the provider could not do this job"));
    for secret in ["127.0.0.1", "http", "tiny", "/v1"] {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(error.to_string().contains(&backend.address().to_string()));
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
    error
}

fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}

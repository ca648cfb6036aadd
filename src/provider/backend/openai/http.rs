//! The HTTP under the client library: who is connected to, how long that may take, and how much is read.
//!
//! The library sends each request through [`Exchange`] and sees nothing but answers that are successful,
//! bounded and in order. What goes wrong comes back through it as a [`Trouble`].

use std::convert::Infallible;
use std::sync::Once;
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use futures_util::stream::{self, StreamExt as _};
use reqwest::header::{self, HeaderValue};
use reqwest::{Body, Response, redirect};
use tower::BoxError;

use super::address::ServerAddress;
use super::lines::{Lines, one_event};
use super::wire;
use crate::provider::backend::BackendError;
use crate::secret::Secret;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the body of a refusal may take, once its head is here.
const REFUSAL: Duration = Duration::from_secs(5);

/// The most bytes of a refusal that are read for its words.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The most bytes of an answer in one piece. JSON may write a byte of text in six.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection, or it broke before an answer came.
    #[error("{0}")]
    Unreachable(String),
    /// The server said no.
    #[error("{status}{}{words}", if words.is_empty() { "" } else { ": " })]
    Refused {
        status: u16,
        /// The server's words, cut, on one line.
        words: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer makes no sense.
    #[error("{0}")]
    Unreadable(String),
}

impl Trouble {
    /// For requests that got no answer. Never names the address: errors go where addresses don't.
    fn of_request(error: reqwest::Error) -> Self {
        Self::Unreachable(root_words(&error.without_url()))
    }

    #[cfg(test)]
    pub(super) fn refused(status: u16, words: &str) -> Self {
        Self::Refused {
            status,
            words: words.to_owned(),
            retry_after: None,
        }
    }

    /// What the library makes of it on the way.
    pub(super) fn of_library(error: OpenAIError) -> Self {
        match error {
            OpenAIError::Boxed(error) => match error.downcast::<Self>() {
                Ok(trouble) => *trouble,
                Err(error) => Self::Unreadable(error.to_string()),
            },
            OpenAIError::Reqwest(error) => Self::of_request(error),
            // Its own words repeat the whole answer.
            OpenAIError::JSONDeserialize(error, _) => {
                let why = wire::line(&error.to_string());
                Self::Unreadable(format!("its answer is not what it should be: {why}"))
            }
            other => Self::Unreadable(wire::line(&other.to_string())),
        }
    }
}

/// The innermost words of an error: "connection refused" rather than "error sending request".
fn root_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The header with a key.
pub(super) fn authorization(key: &Secret) -> Result<HeaderValue, BackendError> {
    if key.expose().is_empty() {
        return Err(BackendError::Failed("its key is empty".into()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| BackendError::Failed("its key has characters that no key has".into()))?;
    // `Debug` does not show it.
    value.set_sensitive(true);
    Ok(value)
}

/// A connection pool. Follows no redirect and uses no proxy, whatever the environment says: prompts go
/// to the named server and nowhere else.
pub(super) fn connections(address: &ServerAddress) -> Result<reqwest::Client, BackendError> {
    choose_crypto();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("agent-provider/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(redirect::Policy::none())
        .no_proxy();
    let builder = if address.is_https() {
        builder
    } else {
        // Else it would read the system's certificates, and fail on a machine that has none.
        builder.tls_certs_only([])
    };
    builder.build().map_err(|error| {
        let why = root_words(&error);
        BackendError::Failed(format!("no https from this machine: {why}"))
    })
}

/// Sees to it that the process has a crypto provider: reqwest panics without one. rustls installs the same
/// one by itself at the first `wss://` connection to a relay; whoever comes first, the other is content.
fn choose_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let installed = rustls::crypto::ring::default_provider().install_default();
            // Somebody was faster, and there is one.
            drop(installed);
        }
    });
}

/// How the library's requests are sent, and their answers read.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) connections: reqwest::Client,
    pub(super) authorization: Option<HeaderValue>,
    /// Whether answers are read as they come.
    pub(super) streamed: bool,
}

impl Exchange {
    /// A client of the library that sends its requests this way.
    pub(super) fn client(self, address: &ServerAddress) -> Client<OpenAIConfig> {
        // All that it would otherwise take from the environment.
        let config = OpenAIConfig::new()
            .with_api_base(address.base())
            .with_api_key("")
            .with_org_id("")
            .with_project_id("");
        let connections = self.connections.clone();
        let service = tower::service_fn(move |request| {
            let exchange = self.clone();
            async move { exchange.run(request).await.map_err(BoxError::from) }
        });
        Client::build(connections, config).with_http_service(service)
    }

    /// Sends a request and reads the head of its answer.
    async fn run(self, request: HttpRequestFactory) -> Result<Response, Trouble> {
        let mut request = request.build().await.map_err(Trouble::of_library)?;
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(key) = self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, key);
        }
        let sent = self.connections.execute(request).await;
        let response = sent.map_err(Trouble::of_request)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let body = match self.streamed {
            // A server that does not stream answers like this.
            true if is_json(&response) => one_event(&read_whole(response).await?).into(),
            true => in_lines(response),
            false => read_whole(response).await?.into(),
        };
        Ok(http::Response::<Body>::new(body).into())
    }
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

async fn read_whole(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut whole = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(Trouble::of_request)? {
        if whole.len() + bytes.len() > MAX_ANSWER_BYTES {
            let why = format!("its answer has more than {MAX_ANSWER_BYTES} bytes");
            return Err(Trouble::Unreadable(why));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

/// The body as whole lines, each as soon as it is here, up to `[DONE]`. What goes wrong on the way is the
/// last event: the library would keep of an error no more than that there was one.
fn in_lines(response: Response) -> Body {
    let bytes = Box::pin(response.bytes_stream());
    let lines = stream::unfold(Some((bytes, Lines::default())), |state| async move {
        let (mut bytes, mut lines) = state?;
        let whole = match bytes.next().await {
            Some(Ok(next)) => lines.take(&next).map_err(|bad| bad.to_string()),
            Some(Err(error)) => Err(root_words(&error)),
            None => lines.end().map_err(|bad| bad.to_string()),
        };
        let goes_on = whole.is_ok() && !lines.is_done();
        let whole = whole.unwrap_or_else(|why| wire::broken(&why));
        let state = goes_on.then_some((bytes, lines));
        Some((Ok::<_, Infallible>(whole), state))
    });
    Body::wrap_stream(lines)
}

async fn refused(mut response: Response) -> Trouble {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            body.extend_from_slice(&bytes[..bytes.len().min(MAX_REFUSAL_BYTES - body.len())]);
            if body.len() == MAX_REFUSAL_BYTES {
                break;
            }
        }
    };
    // What has come by then will do.
    let _ = tokio::time::timeout(REFUSAL, read).await;
    let words = if status.is_redirection() {
        "it sends us to another address, and redirects are not followed".into()
    } else {
        wire::error_words(&body)
    };
    Trouble::Refused {
        status: status.as_u16(),
        words,
        retry_after,
    }
}

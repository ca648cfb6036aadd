//! The embedded relay: everything a market needs, in one process or on one network.
//!
//! The relay logic is `nostr-relay-builder`'s [`LocalRelay`], over a `store` of our own. Sockets are
//! accepted here rather than there, for two reasons: its own leave the Nagle stall in (see
//! [`transport`](super::transport)), and read messages of up to 64 MiB. So the HTTP upgrade is
//! answered here, and the relay is handed a stream that is quick and limited.
//!
//! Whoever can reach the address can use the relay. Events are gone when the process is.

#[doc(hidden)]
pub mod limit;
mod store;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nostr::util::BoxedFuture;
use nostr::{Event, RelayUrl};
use nostr_relay_builder::builder::{PolicyResult, RateLimit, RelayBuilder, WritePolicy};
use nostr_relay_builder::local::LocalRelay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_util::sync::CancellationToken;

use self::limit::Limited;
use self::store::{Reasons, Store};
use super::transport::QuickTcp;
use crate::clock::Clock;

/// Connections at once. A further one is closed unanswered.
const MOST_CONNECTIONS: usize = 512;

/// Events kept. What came first makes room.
const MOST_EVENTS: usize = 30_000;

/// Bytes of an event's content and tags together, as large public relays have it.
const MOST_EVENT_BYTES: usize = 64 * 1024;

/// Bytes of a client's message: an event of that size with every byte escaped, and its frame.
const MOST_MESSAGE_BYTES: u64 = 512 * 1024;

/// Events per minute and connection. The library refills only after a quiet second, so this is a
/// ceiling for floods, far above what a stream of tokens comes to.
const NOTES_PER_MINUTE: u32 = 1_000_000;

/// Live subscriptions of one connection.
const MOST_SUBSCRIPTIONS: usize = 500;

/// Characters of a subscription id. NIP-01 has 64; a deployed provider puts its key and a UUID into one,
/// which comes to 114, and would never know why nobody asks it for anything.
const MOST_SUBSCRIPTION_ID: usize = 128;

/// Stored events that one request gets, whatever it asks for.
const MOST_PER_REQUEST: usize = 5_000;

/// Stored events for a request that names no limit, as usual among public relays.
const DEFAULT_PER_REQUEST: usize = 500;

/// Time for a new connection to say what it wants, and to take the answer.
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of the HTTP request that opens a connection.
const MOST_REQUEST_BYTES: usize = 8 * 1024;

/// Pause after the system could not accept a connection, as when file handles run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A relay of our own, on one address. Dropping it ends it.
pub struct EmbeddedRelay {
    addr: SocketAddr,
    relay: LocalRelay,
    serving: Mutex<Option<Serving>>,
}

/// The task that accepts, which owns those that serve.
struct Serving {
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl fmt::Debug for EmbeddedRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedRelay({})", self.addr)
    }
}

impl EmbeddedRelay {
    /// Listens on `addr`; port 0 takes any free one.
    ///
    /// # Errors
    /// If the address can't be bound.
    pub async fn listen(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let relay = Self {
            addr: listener.local_addr()?,
            relay: LocalRelay::new(rules()),
            serving: Mutex::new(None),
        };
        relay.serve(listener);
        Ok(relay)
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address that clients on this machine use.
    #[must_use]
    pub fn url(&self) -> RelayUrl {
        let mut reached = self.addr;
        if reached.ip().is_unspecified() {
            reached.set_ip(match reached {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        #[expect(clippy::expect_used, reason = "a socket address makes a valid URL")]
        RelayUrl::parse(&format!("ws://{reached}")).expect("a socket address makes a valid URL")
    }

    /// Stops listening and closes every connection. What is stored stays, for [`resume`](Self::resume).
    pub async fn shutdown(&self) {
        let serving = self.slot().take();
        if let Some(Serving { stop, mut task }) = serving {
            stop.cancel();
            while task.join_next().await.is_some() {}
        }
    }

    /// Listens again on the same address after [`shutdown`](Self::shutdown), with the same events. Does
    /// nothing while it is running.
    ///
    /// # Errors
    /// If the address has been taken by somebody else.
    pub async fn resume(&self) -> io::Result<()> {
        if self.slot().is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.addr).await?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(accept(listener, self.relay.clone(), stop.clone()));
        *self.slot() = Some(Serving { stop, task });
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rules() -> RelayBuilder {
    let store = Arc::new(Store::new(MOST_EVENTS, Clock::system()));
    RelayBuilder::default()
        .database(Arc::clone(&store))
        .rate_limit(RateLimit {
            max_reqs: MOST_SUBSCRIPTIONS,
            notes_per_minute: NOTES_PER_MINUTE,
        })
        .max_connections(MOST_CONNECTIONS)
        .max_subid_length(MOST_SUBSCRIPTION_ID)
        .max_filter_limit(MOST_PER_REQUEST)
        .default_filter_limit(DEFAULT_PER_REQUEST)
        .write_policy(SizeLimit)
        .write_policy(Reasons(store))
}

/// Keeps the memory bounded: the library counts events, not bytes.
#[derive(Debug)]
struct SizeLimit;

impl WritePolicy for SizeLimit {
    fn admit_event<'a>(
        &'a self,
        event: &'a Event,
        _from: &'a SocketAddr,
    ) -> BoxedFuture<'a, PolicyResult> {
        let tags: usize = event
            .tags
            .iter()
            .flat_map(|tag| tag.as_slice())
            .map(String::len)
            .sum();
        let verdict = if event.content.len().saturating_add(tags) > MOST_EVENT_BYTES {
            PolicyResult::Reject(format!("event is larger than {MOST_EVENT_BYTES} bytes"))
        } else {
            PolicyResult::Accept
        };
        Box::pin(std::future::ready(verdict))
    }
}

/// Accepts until stopped; then ends the connections, which it owns.
async fn accept(listener: TcpListener, relay: LocalRelay, stop: CancellationToken) {
    let relay = Arc::new(relay);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= MOST_CONNECTIONS => {
                    tracing::warn!("closed a connection: {MOST_CONNECTIONS} are open");
                }
                Ok((stream, from)) => {
                    connections.spawn(serve_one(stream, from, Arc::clone(&relay)));
                }
                Err(error) => {
                    tracing::warn!("can't accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve_one(stream: TcpStream, from: SocketAddr, relay: Arc<LocalRelay>) {
    match tokio::time::timeout(UPGRADE_WITHIN, upgrade(stream)).await {
        Ok(Ok(Some(stream))) => {
            if let Err(error) = relay.take_connection(stream, from).await {
                tracing::debug!("connection from {from} ended: {error}");
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!("no WebSocket from {from}: {error}"),
        Err(_) => tracing::debug!("no WebSocket from {from}: it said too little in time"),
    }
}

/// Answers the HTTP request. Gives the stream back if that made it a WebSocket.
async fn upgrade(stream: TcpStream) -> io::Result<Option<Limited<QuickTcp>>> {
    let mut stream = QuickTcp::new(stream)?;
    let Some(request) = read_request(&mut stream).await? else {
        answer(
            &mut stream,
            "400 Bad Request",
            "text/plain",
            "not a request\n",
        )
        .await?;
        return Ok(None);
    };
    if let Ok(mut response) = create_response(&request) {
        // As other servers do, so that a client can tell whether its clock is right.
        if let Some(date) = http_date() {
            response.headers_mut().insert("date", date);
        }
        let mut head = Vec::new();
        write_response(&mut head, &response).map_err(io::Error::other)?;
        stream.write_all(&head).await?;
        return Ok(Some(Limited::new(stream, MOST_MESSAGE_BYTES)));
    }
    let about = request
        .headers()
        .get("accept")
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/nostr+json"));
    if about {
        answer(&mut stream, "200 OK", "application/nostr+json", &document()).await?;
    } else {
        let text = "This is a Nostr relay. Connect to it with a Nostr client.\n";
        answer(&mut stream, "200 OK", "text/plain", text).await?;
    }
    Ok(None)
}

/// Now, as HTTP writes it (RFC 9110).
fn http_date() -> Option<HeaderValue> {
    let now = i64::try_from(Clock::system().now().get()).ok()?;
    let now = jiff::Timestamp::from_second(now).ok()?;
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    HeaderValue::from_str(&date.ok()?).ok()
}

/// Reads until the empty line; `None` if what came is no GET request of a client that waits for the
/// answer, or is too long.
async fn read_request(stream: &mut QuickTcp) -> io::Result<Option<Request>> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    while head.len() < MOST_REQUEST_BYTES {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
        match Request::try_parse(&head) {
            Ok(Some((size, request))) if size == head.len() => return Ok(Some(request)),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

async fn answer(stream: &mut QuickTcp, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// What NIP-11 wants to know.
fn document() -> String {
    let document = serde_json::json!({
        "name": "agent-compute",
        "description": "The embedded relay of agent-compute. Keeps events in memory.",
        "software": "agent-compute",
        "version": env!("CARGO_PKG_VERSION"),
        "supported_nips": [1, 9, 11, 28, 40, 70, 89, 90],
        "limitation": {
            "max_message_length": MOST_MESSAGE_BYTES,
            "max_content_length": MOST_EVENT_BYTES,
            "max_subscriptions": MOST_SUBSCRIPTIONS,
            "max_subid_length": MOST_SUBSCRIPTION_ID,
            "max_limit": MOST_PER_REQUEST,
            "default_limit": DEFAULT_PER_REQUEST,
            "auth_required": false,
            "payment_required": false
        }
    });
    document.to_string()
}

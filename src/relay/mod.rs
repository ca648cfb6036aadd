//! The relay port: publishing to and listening on several Nostr relays as if they were one.
//!
//! Whatever comes out of a [`Subscription`] has a true id and a valid signature, matches the filter
//! that was asked for, and comes once, however many relays sent it. Nothing else is promised: a
//! relay may drop, delay, reorder and replay.

pub mod direct;
pub mod local;
pub mod pool;
pub mod probe;
pub mod seal;
pub mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nostr::{Event, Filter, RelayUrl};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::DropGuard;

pub use local::EmbeddedRelay;
pub use pool::{PoolOptions, RelayPoolSession, parse_urls};

/// How one relay is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayState {
    /// Its address.
    pub url: RelayUrl,
    /// Whether there is a connection now.
    pub connected: bool,
    /// Connections that were established so far. It grows even if a loss was too short to be seen, and
    /// a relay may have forgotten everything in between.
    pub connections: u64,
    /// The last thing that went wrong with it, in the relay's words or the socket's.
    pub trouble: Option<String>,
}

/// A relay that did not take an event, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The relay.
    pub url: RelayUrl,
    /// Its words, or what kept it from answering.
    pub reason: String,
}

/// An event that at least one relay took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The first relay that took it.
    pub by: RelayUrl,
    /// Relays that had refused by then. The others are still being told.
    pub refused: Vec<Refusal>,
}

/// Why the relays could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// No relay is configured, or none of the addresses is one.
    #[error("no relay to talk to: {0}")]
    NoRelay(String),
    /// No relay took the event within the bound.
    #[error("no relay took the event: {}", refusals(.0))]
    NotPublished(Vec<Refusal>),
    /// No relay is connected.
    #[error("no relay can be reached: {}", refusals(.0))]
    Unreachable(Vec<Refusal>),
    /// The session was shut down.
    #[error("the relay session is closed")]
    Closed,
}

fn refusals(of: &[Refusal]) -> String {
    let each: Vec<String> = of
        .iter()
        .map(|refusal| format!("{} ({})", refusal.url, refusal.reason))
        .collect();
    each.join(", ")
}

/// What a subscription yields.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// An event: verified, matching, and new to this subscription.
    Event(Box<Event>),
    /// Every relay has said all it had stored, or can't be asked. Comes once; what follows is live.
    StoredDone {
        /// How many relays answered in full.
        answered: usize,
        /// The ones that did not, and why.
        failed: Vec<Refusal>,
    },
}

/// A live subscription. Dropping it ends it at the relays too.
pub struct Subscription {
    incoming: mpsc::Receiver<Incoming>,
    taken: Option<Arc<Notify>>,
    _ends: DropGuard,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

impl Subscription {
    /// A subscription that reads from `incoming` and cancels `ends` when dropped.
    #[must_use]
    pub fn new(incoming: mpsc::Receiver<Incoming>, ends: DropGuard) -> Self {
        Self {
            incoming,
            taken: None,
            _ends: ends,
        }
    }

    /// The same subscription, which tells `taken` each time that something was taken from it.
    fn telling(mut self, taken: Arc<Notify>) -> Self {
        self.taken = Some(taken);
        self
    }

    /// The next thing that comes in; `None` once the session is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        let next = self.incoming.recv().await;
        if let Some(taken) = &self.taken {
            taken.notify_waiters();
        }
        next
    }
}

/// A session with a set of relays.
#[async_trait]
pub trait RelaySession: fmt::Debug + Send + Sync {
    /// The relays and how each is doing.
    fn relays(&self) -> Vec<RelayState>;

    /// Sends a signed event to all relays, and returns when the first has taken it. The rest are
    /// still told, in the background. `duplicate:` counts as taken.
    ///
    /// # Errors
    /// [`RelayError::NotPublished`] when every relay refused or `within` passed.
    async fn publish(&self, event: &Event, within: Duration) -> Result<Published, RelayError>;

    /// Asks every relay for these events, stored and to come. The subscription is in place at every
    /// connected relay when this returns, so that an answer to what is published next can't be missed;
    /// a relay that connects later is asked then, and one that reconnects is asked again from before
    /// it was lost.
    ///
    /// # Errors
    /// [`RelayError::Unreachable`] when no relay could be connected within `within`.
    async fn subscribe(&self, filter: Filter, within: Duration)
    -> Result<Subscription, RelayError>;

    /// Closes the connections once what was published has been sent.
    async fn close(&self);
}

/// All that the relays had stored for a filter.
#[derive(Debug, Default)]
pub struct Stored {
    /// The events, in the order they came.
    pub events: Vec<Event>,
    /// Relays that did not answer in full, and why.
    pub failed: Vec<Refusal>,
}

/// Collects what the relays have stored, until all have answered, `within` has passed, or `most`
/// events are in.
///
/// # Errors
/// [`RelayError::Unreachable`] when no relay could be connected.
pub async fn fetch(
    session: &dyn RelaySession,
    filter: Filter,
    within: Duration,
    most: usize,
) -> Result<Stored, RelayError> {
    let ends = tokio::time::Instant::now() + within;
    let mut subscription = session.subscribe(filter, within).await?;
    let mut stored = Stored::default();
    while stored.events.len() < most {
        match tokio::time::timeout_at(ends, subscription.next()).await {
            Ok(Some(Incoming::Event(event))) => stored.events.push(*event),
            Ok(Some(Incoming::StoredDone { failed, .. })) => {
                stored.failed = failed;
                break;
            }
            Ok(None) | Err(_) => break,
        }
    }
    Ok(stored)
}

//! The relay session against real sockets: our embedded relay, relays that follow a script, and none.

mod embedded;
mod foreign;
mod hostile;
mod publishing;
mod reconnecting;
mod scripted;
mod subscribing;
mod volume;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::relay::{
    EmbeddedRelay, Incoming, PoolOptions, Refusal, RelayError, RelayPoolSession, RelaySession,
    Subscription, fetch,
};
use nostr::{
    ClientMessage, Event, EventBuilder, EventId, Filter, JsonUtil, Keys, Kind, RelayMessage,
    RelayUrl, SubscriptionId, Tag, Timestamp,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) use self::scripted::{Say, ScriptedRelay, polite};

/// The bound of everything that should happen at once.
const SOON: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn embedded() -> EmbeddedRelay {
    EmbeddedRelay::listen(loopback()).await.unwrap()
}

/// An address that nobody listens on.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    listener.local_addr().unwrap()
}

fn url(addr: SocketAddr) -> RelayUrl {
    RelayUrl::parse(&format!("ws://{addr}")).unwrap()
}

fn session(urls: &[RelayUrl]) -> Arc<RelayPoolSession> {
    RelayPoolSession::connect(urls, PoolOptions::default()).unwrap()
}

fn message(keys: &Keys, content: &str) -> Event {
    EventBuilder::new(Kind::ChannelMessage, content)
        .sign_with_keys(keys)
        .unwrap()
}

/// A message that is `secs` old.
fn old_message(keys: &Keys, content: &str, secs: u64) -> Event {
    EventBuilder::new(Kind::ChannelMessage, content)
        .custom_created_at(Timestamp::now() - Duration::from_secs(secs))
        .sign_with_keys(keys)
        .unwrap()
}

fn by(keys: &Keys) -> Filter {
    Filter::new().author(keys.public_key())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, what).await {
        Ok(value) => value,
        Err(_) => panic!("it did not happen within {SOON:?}"),
    }
}

async fn next(subscription: &mut Subscription) -> Incoming {
    match soon(subscription.next()).await {
        Some(incoming) => incoming,
        None => panic!("the subscription ended"),
    }
}

/// The next event, past a `StoredDone`.
async fn event(subscription: &mut Subscription) -> Event {
    loop {
        if let Incoming::Event(event) = next(subscription).await {
            return *event;
        }
    }
}

/// What comes until `StoredDone`, and what that says.
async fn stored(subscription: &mut Subscription) -> (Vec<Event>, usize, Vec<Refusal>) {
    let mut events = Vec::new();
    loop {
        match next(subscription).await {
            Incoming::Event(event) => events.push(*event),
            Incoming::StoredDone { answered, failed } => return (events, answered, failed),
        }
    }
}

/// Waits until a relay of the session is in trouble of this kind.
async fn trouble(session: &RelayPoolSession, words: &str) {
    soon(async {
        let in_trouble = || {
            let mut troubles = session.relays().into_iter().filter_map(|r| r.trouble);
            troubles.any(|trouble| trouble.contains(words))
        };
        while !in_trouble() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Waits until so many of the session's relays are connected.
async fn connected(session: &RelayPoolSession, count: usize) {
    soon(async {
        while session.relays().iter().filter(|r| r.connected).count() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

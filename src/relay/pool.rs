//! A session with several relays.
//!
//! Each relay has a task of its own, which owns its socket; a session talks to them through bounded
//! mailboxes. Publishing tells all and returns with the first that took the event. A subscription
//! merges what all of them send: it verifies, matches and takes each event once.
//!
//! # Why not the pool of nostr-relay-pool
//! Types, messages and the transport trait are that crate's, and a client of it can use
//! [`QuickTransport`]. Its pool is not used, because what a [`RelaySession`] promises can't be kept on
//! top of it: events come through a broadcast channel that drops the oldest when a reader lags, and
//! once per client rather than once per subscription; its verification cache goes by id; it makes no
//! subscription again that a relay closed; it reconnects after ten seconds; and a mute relay holds up
//! every publishing for as long.
//!
//! # What a slow subscriber gets
//! A subscription buffers a thousand events. When they are not taken in time, further ones are
//! dropped and the oldest of those is noted; once half of the buffer is free, the relay is asked again
//! for everything since then. So nothing that a relay stores is lost and nobody waits; only ephemeral
//! kinds, which relays do not store, are.

mod actor;
mod agenda;
mod ask;
mod feed;
mod link;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nostr::{Event, Filter, JsonUtil, RelayUrl};
use nostr_relay_pool::transport::websocket::WebSocketTransport;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::actor::{Actor, Command, Posting};
use self::ask::Ids;
use self::feed::{Feed, Verifier, locked};
use super::transport::QuickTransport;
use super::{Published, Refusal, RelayError, RelaySession, RelayState, Subscription};
use crate::clock::Clock;

/// Bytes of the largest message that is parsed. Relays rarely take events of more than 64 KiB.
pub const MAX_EVENT_TEXT: usize = 256 * 1024;

/// Time to connect: look-up, TCP, TLS and upgrade together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long relays are told in the background after the first took an event, counted from the start.
const BACKGROUND: Duration = Duration::from_secs(30);

/// Once one relay has a subscription, how long the other connected ones may take to be asked.
const ASK_REST_WITHIN: Duration = Duration::from_secs(1);

/// Time for all relays to be closed in good order.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Commands that wait for one relay's task, which never waits for anything while it takes them.
const MAILBOX: usize = 256;

/// How a session connects.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Time to connect to a relay: look-up, TCP, TLS and upgrade together.
    pub connect_within: Duration,
    /// Tells when a relay was lost, and so what it is asked for when it is back.
    pub clock: Clock,
    /// Opens the sockets.
    pub transport: Arc<dyn WebSocketTransport>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            connect_within: CONNECT_WITHIN,
            clock: Clock::system(),
            transport: Arc::new(QuickTransport),
        }
    }
}

/// What the tasks of a session share.
#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    ids: Ids,
    verifier: Verifier,
    states: Vec<Mutex<RelayState>>,
}

impl Shared {
    fn set(&self, relay: usize, change: impl FnOnce(&mut RelayState)) {
        if let Some(state) = self.states.get(relay) {
            change(&mut locked(state));
        }
    }

    fn states(&self) -> Vec<RelayState> {
        self.states
            .iter()
            .map(|state| locked(state).clone())
            .collect()
    }
}

/// A session with several relays. Closing it, or dropping it, ends its tasks and subscriptions.
pub struct RelayPoolSession {
    shared: Arc<Shared>,
    mailboxes: Vec<mpsc::Sender<Command>>,
    subscriptions: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for RelayPoolSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RelayPoolSession")
            .field(&self.shared.states())
            .finish()
    }
}

/// Reads relay addresses.
///
/// # Errors
/// [`RelayError::NoRelay`] names the first that is none, and says so when there is none at all.
pub fn parse_urls<S: AsRef<str>>(addresses: &[S]) -> Result<Vec<RelayUrl>, RelayError> {
    let mut urls = Vec::new();
    for address in addresses {
        let address = address.as_ref().trim();
        let url = RelayUrl::parse(address)
            .map_err(|error| RelayError::NoRelay(format!("`{address}`: {error}")))?;
        urls.push(url);
    }
    if urls.is_empty() {
        return Err(RelayError::NoRelay("none is configured".into()));
    }
    Ok(urls)
}

impl RelayPoolSession {
    /// Starts a session with these relays. Returns at once: connecting goes on in the background, and
    /// again and again with growing pauses. An address that is named twice counts once.
    ///
    /// Panics outside of a Tokio runtime.
    ///
    /// # Errors
    /// [`RelayError::NoRelay`] if no relay is named.
    pub fn connect(urls: &[RelayUrl], options: PoolOptions) -> Result<Arc<Self>, RelayError> {
        let mut unique: Vec<RelayUrl> = Vec::new();
        for url in urls {
            if !unique.contains(url) {
                unique.push(url.clone());
            }
        }
        if unique.is_empty() {
            return Err(RelayError::NoRelay("none is configured".into()));
        }
        let fresh = |url: &RelayUrl| {
            Mutex::new(RelayState {
                url: url.clone(),
                connected: false,
                connections: 0,
                trouble: None,
            })
        };
        let shared = Arc::new(Shared {
            options,
            ids: Ids::new(rand::random()),
            verifier: Verifier::new(),
            states: unique.iter().map(fresh).collect(),
        });
        let mut tasks = JoinSet::new();
        let mut mailboxes = Vec::new();
        for (index, url) in unique.into_iter().enumerate() {
            let (mailbox, commands) = mpsc::channel(MAILBOX);
            mailboxes.push(mailbox);
            tasks.spawn(Actor::new(index, url, Arc::clone(&shared), commands).run());
        }
        Ok(Arc::new(Self {
            shared,
            mailboxes,
            subscriptions: AtomicU64::new(0),
            tasks: Mutex::new(tasks),
        }))
    }

    /// Tells every relay's task. Fails if none is left.
    async fn tell(&self, command: impl Fn() -> Command) -> Result<(), RelayError> {
        let mut told = false;
        for mailbox in &self.mailboxes {
            told |= mailbox.send(command()).await.is_ok();
        }
        if told {
            Ok(())
        } else {
            Err(RelayError::Closed)
        }
    }

    /// Why each relay that is not among `but` has not answered.
    fn silent(&self, but: &[Refusal]) -> Vec<Refusal> {
        let states = self.shared.states().into_iter();
        states
            .filter(|state| but.iter().all(|refusal| refusal.url != state.url))
            .map(|state| Refusal {
                url: state.url,
                reason: match state.trouble {
                    Some(trouble) => trouble,
                    None if state.connected => "no answer".into(),
                    None => "not connected yet".into(),
                },
            })
            .collect()
    }

    fn url(&self, relay: usize) -> Option<RelayUrl> {
        let state = self.shared.states.get(relay)?;
        Some(locked(state).url.clone())
    }
}

/// Withdraws a posting that no relay took when its publisher stops waiting.
struct Withdraw(Option<Arc<Posting>>);

impl Drop for Withdraw {
    fn drop(&mut self) {
        if let Some(posting) = &self.0 {
            posting.withdrawn.store(true, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl RelaySession for RelayPoolSession {
    fn relays(&self) -> Vec<RelayState> {
        self.shared.states()
    }

    async fn publish(&self, event: &Event, within: Duration) -> Result<Published, RelayError> {
        let now = Instant::now();
        let posting = Arc::new(Posting {
            id: event.id,
            text: format!(r#"["EVENT",{}]"#, event.as_json()),
            withdrawn: AtomicBool::new(false),
        });
        let mut withdraw = Withdraw(Some(Arc::clone(&posting)));
        let (answer, mut verdicts) = mpsc::channel(self.mailboxes.len());
        self.tell(|| Command::Publish {
            posting: Arc::clone(&posting),
            until: now + within.max(BACKGROUND),
            answer: answer.clone(),
        })
        .await?;
        drop(answer);
        let mut refused = Vec::new();
        loop {
            let verdict = match tokio::time::timeout_at(now + within, verdicts.recv()).await {
                Ok(Some(verdict)) => verdict,
                Ok(None) => {
                    return Err(if refused.is_empty() {
                        RelayError::Closed
                    } else {
                        RelayError::NotPublished(refused)
                    });
                }
                Err(_) => {
                    refused.extend(self.silent(&refused));
                    return Err(RelayError::NotPublished(refused));
                }
            };
            let Some(url) = self.url(verdict.relay) else {
                continue;
            };
            match verdict.taken {
                Ok(()) => {
                    withdraw.0 = None;
                    return Ok(Published { by: url, refused });
                }
                Err(reason) => refused.push(Refusal { url, reason }),
            }
        }
    }

    async fn subscribe(
        &self,
        filter: Filter,
        within: Duration,
    ) -> Result<Subscription, RelayError> {
        let relays = self.mailboxes.len();
        let number = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        let (feed, subscription) = Feed::new(number, filter, relays);
        let feed = Arc::new(feed);
        // Each relay speaks twice at most: that it will be asked later, and that it was asked.
        let (tell, mut asked) = mpsc::channel(2 * relays);
        self.tell(|| Command::Subscribe {
            feed: Arc::clone(&feed),
            tell: tell.clone(),
        })
        .await?;
        drop((tell, feed));
        let mut until = Instant::now() + within;
        let mut silent = vec![true; relays];
        let mut written = false;
        while !written || silent.contains(&true) {
            match tokio::time::timeout_at(until, asked.recv()).await {
                Ok(Some(one)) => {
                    if let Some(silent) = silent.get_mut(one.relay) {
                        *silent = false;
                    }
                    if one.written && !written {
                        written = true;
                        until = until.min(Instant::now() + ASK_REST_WITHIN);
                    }
                }
                Ok(None) if !written => return Err(RelayError::Closed),
                Err(_) if !written => return Err(RelayError::Unreachable(self.silent(&[]))),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(subscription)
    }

    async fn close(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        let closed = async {
            let _ = self.tell(|| Command::Close).await;
            while tasks.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, closed).await;
    }
}

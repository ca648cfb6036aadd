//! One relay's task: its connection, what it was asked, and what it is to be told.
//!
//! ```text
//!   Waiting --due--> Connecting --connected--> Up
//!      ^ ^______failed____|                     |
//!      |_______________lost_____________________|
//! ```
//!
//! Whatever the link does, the mailbox is answered, subscriptions end when their subscriber goes, and
//! postings end when their time is up. On connecting, subscriptions are asked for first and postings
//! sent after, so the order "subscribe, then publish" holds at every relay.

mod asking;
mod posting;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nostr::{EventId, JsonUtil, RelayMessage, RelayUrl, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::posting::Pending;
pub(super) use self::posting::{Posting, Verdict};
use super::agenda::{Agenda, backoff};
use super::ask::{Ask, Asked};
use super::feed::Feed;
use super::link::{Happening, Link};
use super::{MAX_EVENT_TEXT, Shared};
use crate::relay::Refusal;

/// Pause before the first attempt to come back, and the longest pauses. A relay on this machine is
/// asked often, because that costs nothing.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MOST: Duration = Duration::from_secs(30);
const RECONNECT_MOST_LOCAL: Duration = Duration::from_secs(1);

/// A connection that held this long was a good one: its loss starts the back-off anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

/// New work makes a waiting relay be tried at once, if the last attempt is this long ago.
const NUDGE_AFTER: Duration = Duration::from_secs(5);

/// Pauses before anything is repeated that the relay refused as too much.
const RATE_LIMIT_FIRST: Duration = Duration::from_secs(2);
const RATE_LIMIT_MOST: Duration = Duration::from_secs(30);

/// How often the connection is looked at, when a silent relay is pinged, and when it is given up.
const HEARTBEAT: Duration = Duration::from_secs(10);
const PING_AFTER: Duration = Duration::from_secs(25);
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// A relay that takes nothing in for this long is given up.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// Time for answers to what was published when the session closes.
const LINGER: Duration = Duration::from_millis(750);

/// What a session tells the task of a relay.
#[derive(Debug)]
pub(super) enum Command {
    Subscribe {
        feed: Arc<Feed>,
        tell: mpsc::Sender<Asked>,
    },
    Publish {
        posting: Arc<Posting>,
        /// Until when it is to be sent, and its answer awaited.
        until: Instant,
        answer: mpsc::Sender<Verdict>,
    },
    Close,
}

/// What is to be done at a time.
#[derive(Debug)]
enum Due {
    PostingExpires(EventId),
    PostAgain(EventId),
    /// A subscription that this connection closed.
    Reopen(u64, u64),
    /// A round of a subscription.
    RoundExpires(u64, u64),
    Heartbeat(u64),
    LingerEnds,
}

type Later = FuturesUnordered<Pin<Box<dyn Future<Output = u64> + Send>>>;

/// The task's state.
pub(super) struct Actor {
    index: usize,
    url: RelayUrl,
    shared: Arc<Shared>,
    mailbox: mpsc::Receiver<Command>,
    link: Link,
    /// Counts connections, so that what was planned for an earlier one is left.
    connection: u64,
    /// Failures in a row.
    failures: u32,
    attempted_at: Instant,
    up_since: Instant,
    heard_at: Instant,
    /// Why the last attempt to connect failed, until one succeeds.
    unreachable: Option<String>,
    asks: HashMap<u64, Ask>,
    postings: HashMap<EventId, Pending>,
    /// Counts postings.
    published: u64,
    agenda: Agenda<Due>,
    /// Yield the number of a subscription whose subscriber is gone.
    ends: Later,
    /// Yield the number of a subscription whose subscriber has made room.
    rooms: Later,
    closing: Option<Instant>,
}

impl Actor {
    pub(super) fn new(
        index: usize,
        url: RelayUrl,
        shared: Arc<Shared>,
        mailbox: mpsc::Receiver<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            index,
            url,
            shared,
            mailbox,
            link: Link::wait(Duration::ZERO),
            connection: 0,
            failures: 0,
            attempted_at: now,
            up_since: now,
            heard_at: now,
            unreachable: None,
            asks: HashMap::new(),
            postings: HashMap::new(),
            published: 0,
            agenda: Agenda::new(),
            ends: Later::new(),
            rooms: Later::new(),
            closing: None,
        }
    }

    /// Runs until closed.
    pub(super) async fn run(mut self) {
        self.connect();
        while !self.may_close() {
            tokio::select! {
                command = self.mailbox.recv(), if self.closing.is_none() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                happening = self.link.next() => self.happened(happening),
                Some(number) = self.ends.next() => self.unsubscribe(number),
                Some(number) = self.rooms.next() => self.refetch(number),
                due = self.agenda.next() => self.do_due(due),
            }
        }
        if let Some(socket) = self.link.up() {
            socket.close().await;
        }
        self.shared.set(self.index, |state| state.connected = false);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe { feed, tell } => self.subscribe(feed, tell),
            Command::Publish {
                posting,
                until,
                answer,
            } => self.publish(posting, until, answer),
            Command::Close => {
                let until = Instant::now() + LINGER;
                self.closing = Some(until);
                self.agenda.add(until, Due::LingerEnds);
            }
        }
    }

    /// Whether nothing is left to do, or there is no more time for it.
    fn may_close(&self) -> bool {
        let Some(until) = self.closing else {
            return false;
        };
        let done = match &self.link {
            Link::Up(socket) => {
                socket.is_idle() && self.postings.values().all(|pending| !pending.sent)
            }
            Link::Connecting(_) => self.postings.is_empty() || self.unreachable.is_some(),
            Link::Waiting(_) => true,
        };
        done || Instant::now() >= until
    }

    fn trouble(&self, what: &str) {
        let what = presentable(what);
        tracing::debug!(relay = %self.url, "{what}");
        self.shared
            .set(self.index, |state| state.trouble = Some(what));
    }
}

/// The link.
impl Actor {
    fn connect(&mut self) {
        self.attempted_at = Instant::now();
        let transport = Arc::clone(&self.shared.options.transport);
        self.link = Link::connect(transport, &self.url, self.shared.options.connect_within);
    }

    fn nudge(&mut self) {
        if matches!(self.link, Link::Waiting(_)) && self.attempted_at.elapsed() > NUDGE_AFTER {
            self.connect();
        }
    }

    fn happened(&mut self, happening: Happening) {
        self.heard_at = match happening {
            Happening::Text(_) | Happening::Alive => Instant::now(),
            _ => self.heard_at,
        };
        match happening {
            Happening::Due => self.connect(),
            Happening::Connected => self.connected(),
            Happening::Failed(why) => self.failed(&why),
            Happening::Written(numbers) => self.written(&numbers),
            Happening::Text(text) => self.heard(&text),
            Happening::Alive => {}
            Happening::Lost(why) => self.lost(&why),
        }
    }

    fn connected(&mut self) {
        let now = Instant::now();
        self.connection += 1;
        (self.up_since, self.heard_at) = (now, now);
        self.unreachable = None;
        let connections = self.connection;
        self.shared.set(self.index, |state| {
            state.connected = true;
            state.connections = connections;
            state.trouble = None;
        });
        let heartbeat = Due::Heartbeat(self.connection);
        self.agenda.add(now + HEARTBEAT, heartbeat);
        let numbers: Vec<u64> = self.asks.keys().copied().collect();
        for number in numbers {
            self.ask(number);
        }
        self.post_all();
    }

    fn failed(&mut self, why: &str) {
        self.failures = self.failures.saturating_add(1);
        self.trouble(why);
        let reason = presentable(why);
        for ask in self.asks.values() {
            ask.feed.stored(self.index, Err(self.refusal(&reason)));
        }
        self.unreachable = Some(reason);
        self.wait();
    }

    fn lost(&mut self, why: &str) {
        self.failures = if self.up_since.elapsed() >= GOOD_CONNECTION {
            0
        } else {
            self.failures.saturating_add(1)
        };
        self.shared.set(self.index, |state| state.connected = false);
        self.trouble(why);
        let now = self.now();
        for ask in self.asks.values_mut() {
            ask.lost(now);
            ask.say_later(self.index);
        }
        for pending in self.postings.values_mut() {
            pending.sent = false;
        }
        self.wait();
    }

    fn wait(&mut self) {
        let most = if self.url.is_local_addr() {
            RECONNECT_MOST_LOCAL
        } else {
            RECONNECT_MOST
        };
        self.link = Link::wait(backoff(RECONNECT_FIRST, most, self.failures));
    }

    fn heartbeat(&mut self) {
        let silent = self.heard_at.elapsed();
        let Some(socket) = self.link.up() else { return };
        if silent > SILENT_AFTER {
            return self.lost("the relay fell silent");
        }
        if socket.busy_for() > STUCK_AFTER {
            return self.lost("the relay takes nothing in");
        }
        if silent > PING_AFTER {
            socket.ping();
        }
        let next = Due::Heartbeat(self.connection);
        self.agenda.add(Instant::now() + HEARTBEAT, next);
    }

    fn do_due(&mut self, due: Due) {
        match due {
            Due::PostingExpires(id) => self.posting_expires(&id),
            Due::PostAgain(id) => self.post_again(&id),
            Due::Reopen(number, connection) if connection == self.connection => self.ask(number),
            Due::RoundExpires(number, round) => self.round_expires(number, round),
            Due::Heartbeat(connection) if connection == self.connection => self.heartbeat(),
            // The loop looks at the time itself.
            Due::Reopen(..) | Due::Heartbeat(_) | Due::LingerEnds => {}
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.shared.options.clock.now().get())
    }

    fn refusal(&self, reason: &str) -> Refusal {
        Refusal {
            url: self.url.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// What the relay says.
impl Actor {
    fn heard(&mut self, text: &str) {
        if text.len() > MAX_EVENT_TEXT {
            let length = text.len();
            return self.trouble(&format!(
                "sent a message of {length} bytes; {MAX_EVENT_TEXT} are read"
            ));
        }
        match RelayMessage::from_json(text) {
            Ok(RelayMessage::Event {
                subscription_id,
                event,
            }) => self.event(&subscription_id, event.into_owned()),
            Ok(RelayMessage::Ok {
                event_id,
                status,
                message,
            }) => self.verdict(&event_id, status, &message),
            Ok(RelayMessage::EndOfStoredEvents(id)) => self.stored_end(&id),
            Ok(RelayMessage::Closed {
                subscription_id,
                message,
            }) => self.closed(&subscription_id, &message),
            Ok(RelayMessage::Notice(message)) => self.trouble(&format!("notice: {message}")),
            Ok(RelayMessage::Auth { .. }) => {
                self.trouble("auth-required: the relay wants NIP-42 authentication");
            }
            Ok(
                RelayMessage::Count { .. }
                | RelayMessage::NegMsg { .. }
                | RelayMessage::NegErr { .. },
            ) => {}
            Err(_) => self.trouble("sent what is no Nostr message"),
        }
    }
}

/// A relay's words, made fit to be shown: short, and without control characters.
fn presentable(words: &str) -> String {
    const MOST: usize = 200;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    words.trim().chars().map(plain).take(MOST).collect()
}

//! One subscription for all purchases of this process from one provider: each is brought what answers it.
//!
//! A subscription of its own would cost each purchase a round trip before its request, and the relays one copy
//! of everything that the provider says for each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nostr::{Event, EventId, PublicKey};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::listen::{Since, listen, subscribe};
use super::state::Terms;
use crate::error::Result;
use crate::protocol::channel;
use crate::relay::{Incoming, RelayError, RelaySession, Subscription};

/// How long a subscription outlives the last purchase that it was for.
const KEPT: Duration = Duration::from_secs(30);

/// A purchase that was brought nothing for so long, while nobody else was either, asks the relays itself: they may
/// have forgotten us.
const QUIET: Duration = Duration::from_secs(3);

/// Events that may wait for one purchase. One that has more to take asks the relays again, for what is stored.
const WAITING: usize = 256;

/// A provider in one of its channels.
type Place = (PublicKey, EventId);

/// The shared subscriptions of a client.
#[derive(Debug, Default)]
pub struct Ears {
    open: Mutex<HashMap<Place, Weak<Ear>>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Who is brought what comes from one place.
#[derive(Debug, Default)]
struct Ear(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    each: Vec<Listener>,
    /// Whether any came since this was looked at last.
    used: bool,
    /// When anything came in last.
    heard: Option<Instant>,
    /// Nothing is brought any more.
    over: bool,
}

#[derive(Debug)]
struct Listener {
    request: EventId,
    out: Sender<Box<Event>>,
}

/// What the provider of one purchase says.
#[derive(Debug)]
pub struct Answers {
    from: Source,
    /// What a subscription of its own must not bring again: pieces of a text may have no number to know them by.
    brought: HashSet<EventId>,
}

#[derive(Debug)]
enum Source {
    Own(Subscription),
    Shared {
        by: Weak<Ear>,
        incoming: Receiver<Box<Event>>,
        quiet_until: Instant,
    },
}

impl From<Subscription> for Answers {
    fn from(own: Subscription) -> Self {
        Self {
            from: Source::Own(own),
            brought: HashSet::new(),
        }
    }
}

impl Answers {
    /// The next thing that comes in; `None` once the relay session is closed. Cancel-safe.
    pub async fn next(&mut self, relays: &dyn RelaySession, terms: &Terms) -> Option<Incoming> {
        loop {
            match &mut self.from {
                Source::Own(own) => match own.next().await? {
                    Incoming::Event(event) if self.brought.contains(&event.id) => {}
                    incoming => return Some(incoming),
                },
                Source::Shared {
                    by,
                    incoming,
                    quiet_until,
                } => {
                    let event = tokio::select! {
                        biased;
                        event = incoming.recv() => event,
                        () = sleep_until(*quiet_until) => {
                            let heard = by.upgrade().and_then(|ear| ear.heard());
                            let still = heard.map(|at| at + QUIET).filter(|until| *until > *quiet_until);
                            if let Some(until) = still {
                                *quiet_until = until;
                                continue;
                            }
                            None
                        }
                    };
                    if let Some(event) = event {
                        *quiet_until = Instant::now() + QUIET;
                        self.brought.insert(event.id);
                        return Some(Incoming::Event(event));
                    }
                    // What came and could not be taken is stored at the relays.
                    match subscribe(relays, terms, Since::Request, QUIET).await {
                        Ok(own) => self.from = Source::Own(own),
                        Err(RelayError::Closed) => return None,
                        Err(_) => {
                            *quiet_until = Instant::now() + QUIET;
                            if incoming.is_closed() {
                                sleep_until(*quiet_until).await;
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Ears {
    /// What the provider says of this purchase, whose request is yet to be sent.
    ///
    /// # Errors
    /// If no relay can be reached.
    pub async fn listen(
        &self,
        relays: &dyn RelaySession,
        terms: &Terms,
        within: Duration,
    ) -> Result<Answers> {
        let place = (terms.provider, terms.channel);
        let connected = relays.relays().iter().any(|relay| relay.connected);
        if connected && let Some(shared) = self.join(place, terms.request.id) {
            return Ok(shared);
        }
        let own = listen(relays, terms, Since::Now, within).await?;
        Ok(self.share(place, own, terms.request.id))
    }

    fn join(&self, place: Place, request: EventId) -> Option<Answers> {
        let ear = locked(&self.open).get(&place)?.upgrade()?;
        ear.add(request)
    }

    /// Makes this subscription the shared one, if there is none.
    fn share(&self, place: Place, own: Subscription, request: EventId) -> Answers {
        let mut open = locked(&self.open);
        open.retain(|_, ear| ear.strong_count() > 0);
        if open.contains_key(&place) {
            return own.into();
        }
        let ear = Arc::new(Ear::default());
        let Some(answers) = ear.add(request) else {
            return own.into();
        };
        open.insert(place, Arc::downgrade(&ear));
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(bring(own, ear));
        answers
    }
}

/// Brings what comes in to those whom it answers, for as long as there are any.
async fn bring(mut own: Subscription, ear: Arc<Ear>) {
    let mut look = Instant::now() + KEPT;
    loop {
        tokio::select! {
            incoming = own.next() => match incoming {
                Some(Incoming::Event(event)) => ear.bring(event),
                Some(Incoming::StoredDone { .. }) => {}
                None => return,
            },
            () = sleep_until(look) => {
                if ear.is_over() {
                    return;
                }
                look = Instant::now() + KEPT;
            }
        }
    }
}

impl Ear {
    fn heard(&self) -> Option<Instant> {
        locked(&self.0).heard
    }

    fn add(self: &Arc<Self>, request: EventId) -> Option<Answers> {
        let mut listeners = locked(&self.0);
        if listeners.over {
            return None;
        }
        let (out, incoming) = mpsc::channel(WAITING);
        listeners.used = true;
        listeners.each.push(Listener { request, out });
        Some(Answers {
            from: Source::Shared {
                by: Arc::downgrade(self),
                incoming,
                quiet_until: Instant::now() + QUIET,
            },
            brought: HashSet::new(),
        })
    }

    fn bring(&self, event: Box<Event>) {
        let mut listeners = locked(&self.0);
        listeners.heard = Some(Instant::now());
        // Deployed providers do not say what they answer, and others may name another event of the job than its
        // request: all look into that.
        let answered = channel::answered(&event);
        let names = |listener: &Listener| answered == Some(listener.request);
        let named = listeners.each.iter().any(names);
        listeners.each.retain(|listener| {
            if named && !names(listener) {
                return !listener.out.is_closed();
            }
            // Who can't keep up is told so by the end of what it reads.
            listener.out.try_send(event.clone()).is_ok()
        });
    }

    /// Whether nobody listens, nor did for a while; nobody will then.
    fn is_over(&self) -> bool {
        let mut listeners = locked(&self.0);
        listeners.each.retain(|listener| !listener.out.is_closed());
        let used = std::mem::take(&mut listeners.used);
        listeners.over = listeners.each.is_empty() && !used;
        listeners.over
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // None is ever left half changed.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

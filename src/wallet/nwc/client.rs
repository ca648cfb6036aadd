//! Asking a wallet over relays: an encrypted request event, and the reply that names it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nostr::{Event, EventBuilder, EventId, Filter, Kind, PublicKey, Tag, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Connection;
use super::wire::{self, Reply, Said};
use crate::clock::Clock;
use crate::config::CLOCK_SKEW_SECS;
use crate::ids::PaymentHash;
use crate::relay::direct::{self, Encryption};
use crate::relay::{Incoming, RelayError, RelaySession, Subscription, seal};
use crate::wallet::WalletError;

/// What a wallet can do, as a replaceable event.
pub(super) const INFO: Kind = Kind::Custom(13194);
/// What is asked.
const REQUEST: Kind = Kind::Custom(23194);
/// What is answered.
const RESPONSE: Kind = Kind::Custom(23195);
/// News, encrypted by NIP-04 and by NIP-44.
const NEWS: [Kind; 2] = [Kind::Custom(23196), Kind::Custom(23197)];

/// Bytes of a reply that are read. The longest of ours, a transaction with its invoice, has a few thousand.
const MAX_REPLY_BYTES: usize = 128 * 1024;

/// Replies that wait to be read: a wallet that hears a request over two relays may answer it twice.
const REPLIES: usize = 4;

/// How many deadlines of held payments are remembered.
const MOST_DEADLINES: usize = 4096;

/// The first pause after a question stayed unanswered or was one too many.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) enum Unanswered {
    /// The wallet said no.
    Said(Said),
    /// It did not answer, or nobody took the request. It may have been heard all the same.
    Silent(String),
}

impl Unanswered {
    /// Whether the wallet's no is about this part of the request.
    pub(super) fn is_about(&self, part: &str) -> bool {
        matches!(self, Self::Said(said) if said.words.contains(part))
    }
}

impl From<Unanswered> for WalletError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Said(said) => Self::Refused(said.words),
            Unanswered::Silent(why) => Self::Unreachable(why),
        }
    }
}

/// What the listener and those who wait for replies share.
#[derive(Debug)]
pub(super) struct Heard {
    waiting: Mutex<HashMap<EventId, mpsc::Sender<Reply>>>,
    deadlines: Mutex<HashMap<PaymentHash, u64>>,
    hints: watch::Sender<u64>,
}

impl Heard {
    pub(super) fn hint(&self) {
        self.hints
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn take(&self, connection: &Connection, event: &Event) {
        if event.content.len() > MAX_REPLY_BYTES {
            return;
        }
        let (us, wallet) = (connection.identity(), connection.wallet());
        let Ok(text) = direct::decrypt(us, &wallet, &event.content) else {
            tracing::debug!(id = %event.id, "an event of the wallet can't be decrypted");
            return;
        };
        if NEWS.contains(&event.kind) {
            if let Some((Some(hash), Some(height))) = wire::notification(&text) {
                let mut deadlines = locked(&self.deadlines);
                if deadlines.len() >= MOST_DEADLINES {
                    deadlines.clear();
                }
                deadlines.insert(hash, height);
            }
            return self.hint();
        }
        let Some(reply) = wire::reply(&text) else {
            tracing::debug!(id = %event.id, "a reply of the wallet can't be read");
            return;
        };
        let waiting = locked(&self.waiting);
        for request in event.tags.event_ids() {
            if let Some(waiter) = waiting.get(request) {
                // One that has enough to read needs no more.
                let _ = waiter.try_send(reply);
                return;
            }
        }
        drop(waiting);
        // Of a request that nobody waits for any more; but whoever looks now sees more than before.
        self.hint();
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is on its way, forgotten when dropped.
pub(super) struct Asked {
    id: EventId,
    replies: mpsc::Receiver<Reply>,
    heard: Arc<Heard>,
}

impl Asked {
    /// The next reply, until `until`. Cancel-safe.
    pub(super) async fn reply(&mut self, until: Instant) -> Option<Reply> {
        timeout_at(until, self.replies.recv()).await.ok().flatten()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        locked(&self.heard.waiting).remove(&self.id);
    }
}

/// A connection that is listened on.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Connection,
    session: Arc<dyn RelaySession>,
    clock: Clock,
    encryption: Encryption,
    heard: Arc<Heard>,
    _listening: JoinSet<()>,
}

impl Client {
    /// Listens for what the wallet says.
    pub(super) async fn listen(
        connection: Connection,
        session: Arc<dyn RelaySession>,
        clock: Clock,
        within: Duration,
    ) -> Result<Self, RelayError> {
        let since = clock.now().minus(CLOCK_SKEW_SECS);
        let filter = Filter::new()
            .kinds([RESPONSE].into_iter().chain(NEWS))
            .author(connection.wallet())
            .pubkey(connection.client())
            .since(Timestamp::from_secs(since.get()));
        let subscription = session.subscribe(filter, within).await?;
        let (hints, _) = watch::channel(0);
        let heard = Arc::new(Heard {
            waiting: Mutex::default(),
            deadlines: Mutex::default(),
            hints,
        });
        let mut listening = JoinSet::new();
        listening.spawn(listen(subscription, connection.clone(), Arc::clone(&heard)));
        Ok(Self {
            connection,
            session,
            clock,
            encryption: Encryption::Nip44,
            heard,
            _listening: listening,
        })
    }

    pub(super) const fn encrypts(&mut self, how: Encryption) {
        self.encryption = how;
    }

    pub(super) fn session(&self) -> &dyn RelaySession {
        &*self.session
    }

    pub(super) fn wallet(&self) -> PublicKey {
        self.connection.wallet()
    }

    pub(super) fn hints(&self) -> watch::Receiver<u64> {
        self.heard.hints.subscribe()
    }

    pub(super) fn hint(&self) {
        self.heard.hint();
    }

    /// The height at which a held payment goes back, if the wallet has told it.
    pub(super) fn deadline(&self, hash: PaymentHash) -> Option<u64> {
        locked(&self.heard.deadlines).get(&hash).copied()
    }

    /// Sends a request once. It is void for the wallet after `valid`.
    pub(super) async fn send(
        &self,
        method: &str,
        params: &Value,
        valid: Duration,
        publish_within: Duration,
    ) -> Result<Asked, (Option<Asked>, String)> {
        let event = self
            .request(method, params, valid)
            .map_err(|problem| (None, problem))?;
        let (tell, replies) = mpsc::channel(REPLIES);
        locked(&self.heard.waiting).insert(event.id, tell);
        let asked = Asked {
            id: event.id,
            replies,
            heard: Arc::clone(&self.heard),
        };
        match self.session.publish(&event, publish_within).await {
            Ok(_) => Ok(asked),
            Err(error) => Err((Some(asked), error.to_string())),
        }
    }

    fn request(&self, method: &str, params: &Value, valid: Duration) -> Result<Event, String> {
        let (us, wallet) = (self.connection.identity(), self.wallet());
        let body = json!({ "method": method, "params": params }).to_string();
        let content = direct::encrypt(us, &wallet, &body, self.encryption)
            .map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let expires = now.plus(valid.as_secs().max(1));
        let mut tags = vec![
            Tag::public_key(wallet),
            Tag::expiration(Timestamp::from_secs(expires.get())),
        ];
        if self.encryption == Encryption::Nip44 {
            tags.push(Tag::custom(
                nostr::TagKind::custom("encryption"),
                ["nip44_v2"],
            ));
        }
        let builder = EventBuilder::new(REQUEST, content).tags(tags);
        seal::sign(us, builder, now).map_err(|error| error.to_string())
    }

    /// Asks what may be asked twice, and again while no answer comes, until `within` has passed.
    pub(super) async fn ask(
        &self,
        method: &str,
        params: Value,
        within: Duration,
    ) -> Result<Value, Unanswered> {
        let until = Instant::now() + within;
        let mut pause = PAUSE;
        let mut trouble = "the wallet did not answer in time".to_owned();
        loop {
            // A lost message costs a part of the time, not all of it.
            let patience = (within / 3).max(PAUSE);
            let patient = (Instant::now() + patience).min(until);
            match self.send(method, &params, within, patience).await {
                Ok(mut asked) => match asked.reply(patient).await {
                    Some(Ok(value)) => return Ok(value),
                    Some(Err(said)) if said.kind == wire::Kind::RateLimited => {
                        if Instant::now() + pause >= until {
                            return Err(Unanswered::Said(said));
                        }
                        trouble = said.words;
                        sleep(pause).await;
                        pause *= 2;
                    }
                    Some(Err(said)) => return Err(Unanswered::Said(said)),
                    None => {}
                },
                Err((_, why)) => {
                    trouble = why;
                    sleep(pause.min(until.duration_since(Instant::now()))).await;
                    pause *= 2;
                }
            }
            if Instant::now() >= until {
                return Err(Unanswered::Silent(trouble));
            }
        }
    }
}

/// Reads what the wallet says for as long as the session lives.
async fn listen(mut subscription: Subscription, connection: Connection, heard: Arc<Heard>) {
    while let Some(incoming) = subscription.next().await {
        if let Incoming::Event(event) = incoming {
            heard.take(&connection, &event);
        }
    }
}

//! What reaches a subscriber: verified, matching, once.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nostr::filter::MatchEventOptions;
use nostr::secp256k1::schnorr::Signature;
use nostr::{Event, EventId, Filter};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use crate::relay::{Incoming, Refusal, Subscription};

/// Events that wait for the subscriber to take them.
pub(super) const BUFFER: usize = 1024;

/// Event ids that a subscription remembers at least, to yield each event once.
const REMEMBERED: usize = 8192;

/// Signatures that a session remembers at least, so that an event which three relays send is
/// verified once.
const VERIFIED: usize = 4096;

/// A bounded set: remembers at least the last `most` values put in, and at most twice as many.
#[derive(Debug)]
pub(super) struct Recent<T> {
    young: HashSet<T>,
    old: HashSet<T>,
    most: usize,
}

impl<T: Eq + Hash> Recent<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            most,
        }
    }

    pub(super) fn contains(&self, value: &T) -> bool {
        self.young.contains(value) || self.old.contains(value)
    }

    pub(super) fn insert(&mut self, value: T) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(value);
    }
}

/// Checks ids and signatures.
///
/// The id is computed anew each time: it is a hash of everything but the signature, so a true id and
/// a signature that was once found valid for that id make a valid event. Remembering the id alone
/// would let a relay put other content under a genuine id.
#[derive(Debug)]
pub(super) struct Verifier(Mutex<Recent<(EventId, Signature)>>);

impl Verifier {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Recent::new(VERIFIED)))
    }

    pub(super) fn accepts(&self, event: &Event) -> bool {
        if !event.verify_id() {
            return false;
        }
        let signed = (event.id, event.sig);
        if locked(&self.0).contains(&signed) {
            return true;
        }
        let valid = event.verify_signature();
        if valid {
            locked(&self.0).insert(signed);
        }
        valid
    }
}

/// What became of an event that a relay sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The subscriber has it, now or before.
    Done,
    /// It does not match what was asked.
    OffFilter,
    /// Its id or signature is false.
    Forged,
    /// The subscriber has not taken what came before: ask again when it has.
    NoRoom,
}

/// One subscription as all relays see it.
#[derive(Debug)]
pub(super) struct Feed {
    /// Its number, which makes its id at the relays.
    pub(super) number: u64,
    pub(super) filter: Filter,
    /// Cancelled when the subscriber is gone.
    pub(super) ended: CancellationToken,
    out: mpsc::Sender<Incoming>,
    /// Told whenever the subscriber takes something.
    taken: Arc<Notify>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    seen: Recent<EventId>,
    /// How each relay did with the stored events, by its index.
    stored: HashMap<usize, Result<(), Refusal>>,
    relays: usize,
    /// Whether any relay was asked. Before that there is nobody to tell that all have failed.
    asked: bool,
    announced: bool,
}

impl Feed {
    /// A feed from this many relays, and what the subscriber reads.
    pub(super) fn new(number: u64, filter: Filter, relays: usize) -> (Self, Subscription) {
        // One place more than events use: for `StoredDone`, which must never find the buffer full.
        let (out, incoming) = mpsc::channel(BUFFER + 1);
        let taken = Arc::new(Notify::new());
        let ended = CancellationToken::new();
        let subscription =
            Subscription::new(incoming, ended.clone().drop_guard()).telling(Arc::clone(&taken));
        let feed = Self {
            number,
            filter,
            ended,
            out,
            taken,
            progress: Mutex::new(Progress {
                seen: Recent::new(REMEMBERED),
                stored: HashMap::new(),
                relays,
                asked: false,
                announced: false,
            }),
        };
        (feed, subscription)
    }

    /// Gives the subscriber an event from a relay, if it may have it.
    pub(super) fn offer(&self, event: Event, verifier: &Verifier) -> Delivery {
        if self.locked().seen.contains(&event.id) {
            return Delivery::Done;
        }
        // Full-text search is the relay's to judge.
        let options = MatchEventOptions::new().nip50(false);
        if !self.filter.match_event(&event, options) {
            return Delivery::OffFilter;
        }
        if !verifier.accepts(&event) {
            return Delivery::Forged;
        }
        let mut progress = self.locked();
        if progress.seen.contains(&event.id) {
            return Delivery::Done;
        }
        if !progress.announced && self.out.capacity() <= 1 {
            return Delivery::NoRoom;
        }
        let id = event.id;
        match self.out.try_send(Incoming::Event(Box::new(event))) {
            Ok(()) => progress.seen.insert(id),
            Err(TrySendError::Full(_)) => return Delivery::NoRoom,
            // Nobody listens: the feed is about to be ended.
            Err(TrySendError::Closed(_)) => {}
        }
        Delivery::Done
    }

    /// Notes that a relay was asked: what kept it from answering before no longer counts.
    pub(super) fn asked(&self, relay: usize) {
        let mut progress = self.locked();
        progress.asked = true;
        if progress.stored.get(&relay).is_some_and(Result::is_err) {
            progress.stored.remove(&relay);
        }
    }

    /// Notes that a relay has said all it had stored, or that it can't be asked. Its first word counts.
    pub(super) fn stored(&self, relay: usize, outcome: Result<(), Refusal>) {
        let mut progress = self.locked();
        if progress.announced {
            return;
        }
        progress.stored.entry(relay).or_insert(outcome);
        if !progress.asked || progress.stored.len() < progress.relays {
            return;
        }
        progress.announced = true;
        let outcomes = std::mem::take(&mut progress.stored);
        let answered = outcomes.values().filter(|outcome| outcome.is_ok()).count();
        let failed = outcomes.into_values().filter_map(Result::err).collect();
        // There is room, unless nobody listens.
        let _ = self.out.try_send(Incoming::StoredDone { answered, failed });
    }

    /// Waits until the subscriber has taken half of what waits for it, or is gone.
    pub(super) async fn room(&self) {
        // The channel's own reservations would be in the way of `StoredDone` while they wait.
        loop {
            let taken = self.taken.notified();
            if self.out.capacity() > BUFFER / 2 || self.ended.is_cancelled() {
                return;
            }
            tokio::select! {
                () = taken => {}
                () = self.ended.cancelled() => {}
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Progress> {
        locked(&self.progress)
    }
}

/// A lock whose holders never panic half-way through a change.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;
    use nostr::{EventBuilder, Keys, Kind, RelayUrl};

    use super::*;

    fn note(content: &str) -> Event {
        EventBuilder::new(Kind::TextNote, content)
            .sign_with_keys(&Keys::generate())
            .unwrap()
    }

    fn refusal() -> Refusal {
        Refusal {
            url: RelayUrl::parse("ws://127.0.0.1:1").unwrap(),
            reason: "down".into(),
        }
    }

    #[test]
    fn a_bounded_set_forgets_the_oldest_only() {
        let mut recent = Recent::new(10);
        for i in 0..1000 {
            recent.insert(i);
            assert!((i.max(9) - 9..=i).all(|kept| recent.contains(&kept)));
            assert!(recent.young.len() + recent.old.len() <= 20);
        }
        assert!(!recent.contains(&0));
    }

    #[test]
    fn a_genuine_id_and_signature_do_not_carry_other_content() {
        let verifier = Verifier::new();
        let event = note("pay 10");
        assert!(verifier.accepts(&event));
        let mut altered = event.clone();
        altered.content = "pay 10000".into();
        assert!(!verifier.accepts(&altered));
        let mut resigned = event.clone();
        resigned.sig = note("pay 10").sig;
        assert!(!verifier.accepts(&resigned));
        assert!(verifier.accepts(&event));
    }

    #[test]
    fn a_forged_event_does_not_shadow_the_genuine_one() {
        let verifier = Verifier::new();
        let (feed, mut subscription) = Feed::new(1, Filter::new(), 1);
        let event = note("genuine");
        let mut altered = event.clone();
        altered.content = "altered".into();
        assert_eq!(feed.offer(altered, &verifier), Delivery::Forged);
        assert_eq!(feed.offer(event.clone(), &verifier), Delivery::Done);
        assert_eq!(feed.offer(event.clone(), &verifier), Delivery::Done);
        let Some(Some(Incoming::Event(got))) = subscription.next().now_or_never() else {
            panic!("the genuine event comes through");
        };
        assert_eq!(*got, event);
        assert!(subscription.next().now_or_never().is_none(), "and once");
    }

    #[test]
    fn stored_done_comes_once_when_every_relay_has_spoken_even_into_a_full_buffer() {
        let verifier = Verifier::new();
        let (feed, mut subscription) = Feed::new(1, Filter::new(), 2);
        let keys = Keys::generate();
        for i in 0..BUFFER {
            let event = EventBuilder::new(Kind::TextNote, i.to_string())
                .sign_with_keys(&keys)
                .unwrap();
            assert_eq!(feed.offer(event, &verifier), Delivery::Done);
        }
        assert_eq!(feed.offer(note("no room"), &verifier), Delivery::NoRoom);
        feed.asked(0);
        feed.stored(0, Ok(()));
        feed.stored(0, Err(refusal()));
        feed.stored(1, Err(refusal()));
        feed.stored(1, Ok(()));
        let mut done = 0;
        while let Some(Some(item)) = subscription.next().now_or_never() {
            if let Incoming::StoredDone { answered, failed } = item {
                done += 1;
                assert_eq!((answered, failed), (1, vec![refusal()]));
            }
        }
        assert_eq!(done, 1);
    }
}

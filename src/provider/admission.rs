//! What keeps one peer from taking more than its share: which requests were seen, how many refusals a
//! peer is sent. Pure: the time is an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use nostr::{EventId, PublicKey};

/// Requests remembered so as not to look at them twice. The store knows the served ones for ever.
const MOST_SEEN: usize = 16_384;

/// The latest requests, bounded: the oldest is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Seen {
    /// Whether this is the first time; from now on it is not.
    pub(super) fn is_new(&mut self, id: EventId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MOST_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Refusals and cancellations that one peer may cause at once.
const PEER_BURST: u32 = 64;
/// How long until one more is allowed.
const PEER_REFILL: Duration = Duration::from_secs(1);
/// The same over all peers, since a key costs nothing.
const ALL_BURST: u32 = 512;
const ALL_REFILL: Duration = Duration::from_millis(50);
/// Unpaid quotes that may lose their places to others at once, and how long until one more may: each
/// such quote costs us an invoice and a record.
const PLACES_BURST: u32 = 512;
const PLACES_REFILL: Duration = Duration::from_secs(1);
/// Peers whose credit is kept in mind.
const MOST_PEERS: usize = 4_096;

/// A bucket that leaks: how much of the burst is used up.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    used: u32,
    since: Instant,
}

impl Bucket {
    const fn empty(now: Instant) -> Self {
        Self {
            used: 0,
            since: now,
        }
    }

    fn leak(&mut self, now: Instant, refill: Duration) {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let leaked = u32::try_from(elapsed / refill.as_millis().max(1)).unwrap_or(u32::MAX);
        self.used = self.used.saturating_sub(leaked);
        self.since = if self.used == 0 {
            now
        } else {
            self.since + refill.saturating_mul(leaked)
        };
    }
}

/// Credit for what costs us a message or a record and the peer nothing: refusals, cancelled quotes. Who
/// has none is not answered.
#[derive(Debug)]
pub(super) struct Credit {
    peers: HashMap<PublicKey, Bucket>,
    all: Bucket,
    places: Bucket,
}

impl Credit {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            peers: HashMap::new(),
            all: Bucket::empty(now),
            places: Bucket::empty(now),
        }
    }

    /// Takes one unit of this peer's credit, and of everybody's; false if there is none.
    pub(super) fn take(&mut self, peer: PublicKey, now: Instant) -> bool {
        self.all.leak(now, ALL_REFILL);
        if self.all.used >= ALL_BURST {
            return false;
        }
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, bucket| {
                bucket.leak(now, PEER_REFILL);
                bucket.used > 0
            });
            if self.peers.len() >= MOST_PEERS {
                return false;
            }
        }
        let bucket = self.peers.entry(peer).or_insert(Bucket::empty(now));
        bucket.leak(now, PEER_REFILL);
        if bucket.used >= PEER_BURST {
            return false;
        }
        bucket.used += 1;
        self.all.used += 1;
        true
    }

    /// Takes one of the places that may be taken from unpaid quotes; false until another one is due.
    pub(super) fn take_place(&mut self, now: Instant) -> bool {
        self.places.leak(now, PLACES_REFILL);
        let may = self.places.used < PLACES_BURST;
        self.places.used += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> EventId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        EventId::from_byte_array(bytes)
    }

    fn peer(n: usize) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_byte_array(bytes)
    }

    #[test]
    fn a_request_is_new_once_and_the_memory_is_bounded() {
        let mut seen = Seen::default();
        assert!(seen.is_new(id(0)));
        assert!(!seen.is_new(id(0)));
        for n in 1..3 * MOST_SEEN {
            seen.is_new(id(n));
        }
        assert_eq!(seen.ids.len(), MOST_SEEN);
        assert_eq!(seen.order.len(), MOST_SEEN);
    }

    #[test]
    fn a_flood_runs_dry_and_recovers_and_leaves_others_their_credit() {
        let start = Instant::now();
        let mut credit = Credit::new(start);
        let got = (0..1_000).filter(|_| credit.take(peer(1), start)).count();
        assert_eq!(got, usize::try_from(PEER_BURST).unwrap_or(0));
        assert!(credit.take(peer(2), start));
        let later = start + PEER_REFILL;
        assert!(credit.take(peer(1), later));
        assert!(!credit.take(peer(1), later));
    }

    #[test]
    fn places_are_taken_at_a_bounded_pace() {
        let start = Instant::now();
        let mut credit = Credit::new(start);
        let taken = (0..10_000).filter(|_| credit.take_place(start)).count();
        assert_eq!(taken, usize::try_from(PLACES_BURST).unwrap_or(0));
        let later = start + PLACES_REFILL;
        assert!(credit.take_place(later));
        assert!(!credit.take_place(later));
    }

    #[test]
    fn many_keys_share_one_bound_and_bounded_memory() {
        let start = Instant::now();
        let mut credit = Credit::new(start);
        let got = (0..100_000)
            .filter(|n| credit.take(peer(*n), start))
            .count();
        assert_eq!(got, usize::try_from(ALL_BURST).unwrap_or(0));
        assert!(credit.peers.len() <= MOST_PEERS);
    }
}

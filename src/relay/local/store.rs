//! The events of the embedded relay, in memory and bounded.
//!
//! What is kept is what the specifications say of relays:
//!
//! - NIP-01: of a replaceable event the newest version, and of two from one second the one with the
//!   lower id. An addressable event goes by its kind, author and `d` tag; one without counts as `d=""`.
//! - NIP-09: an author takes back events of its own, by id for good, and by address up to the time of
//!   the deletion. What counts is when the versions say they were made, whatever the time is now.
//! - NIP-40: what has expired is neither taken nor given.
//!
//! The library's own memory is not used because it refuses addressable events without a `d` tag, which
//! deployed providers publish, and holds deletions against its own clock.
//!
//! When it is full, what came first makes room. A deletion that was dropped so is forgotten.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nostr::filter::MatchEventOptions;
use nostr::util::BoxedFuture;
use nostr::{Event, EventId, Filter, Kind, PublicKey, Timestamp};
use nostr_relay_builder::builder::{PolicyResult, WritePolicy};
use nostr_relay_builder::prelude::{
    Backend, DatabaseError, DatabaseEventStatus, Events, NostrDatabase, RejectedReason,
    SaveEventStatus,
};

use crate::clock::Clock;

/// Events in memory.
#[derive(Debug)]
pub(super) struct Store {
    kept: RwLock<Kept>,
    most: usize,
    clock: Clock,
}

impl Store {
    /// An empty store that keeps up to `most` events.
    pub(super) fn new(most: usize, clock: Clock) -> Self {
        Self {
            kept: RwLock::default(),
            most,
            clock,
        }
    }

    fn save(&self, event: &Event) -> SaveEventStatus {
        let now = self.now();
        let mut kept = self.write();
        kept.drop_expired(now);
        if let Some(reason) = kept.objection(event, now) {
            return SaveEventStatus::Rejected(reason);
        }
        if let Some(address) = address(event)
            && let Some(older) = kept.latest.get(&address).copied()
        {
            kept.remove(&older);
        }
        kept.insert(event.clone());
        if event.kind == Kind::EventDeletion {
            kept.delete(event);
        }
        kept.shrink(self.most);
        SaveEventStatus::Success
    }

    /// What is found, newest first.
    fn found(&self, filter: &Filter) -> Events {
        let kept = self.read();
        let mut events = Events::new(filter);
        events.extend(kept.find(filter, self.now()).into_iter().cloned());
        events
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.clock.now().get())
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose versions replace each other: kind, author and `d` tag.
type Address = (u16, PublicKey, String);

/// Newest first, and of one second the lowest id first.
type Order = (Reverse<Timestamp>, EventId);

const LOWEST_ID: [u8; 32] = [0; 32];
const HIGHEST_ID: [u8; 32] = [0xff; 32];

#[derive(Debug)]
struct Entry {
    event: Event,
    arrival: u64,
}

/// The events, and where to look for them. Each index holds what `events` holds.
#[derive(Debug, Default)]
struct Kept {
    events: HashMap<EventId, Entry>,
    by_time: BTreeSet<Order>,
    by_kind: BTreeMap<u16, BTreeSet<Order>>,
    latest: HashMap<Address, EventId>,
    expiring: BTreeSet<(Timestamp, EventId)>,
    arrived: BTreeMap<u64, EventId>,
    arrivals: u64,
    /// What was deleted by id: the event, who took it back, the deletion.
    taken_back: BTreeSet<(EventId, PublicKey, EventId)>,
    /// What was deleted by address, up to when, and the deletion.
    cleared: BTreeSet<(Address, Timestamp, EventId)>,
}

impl Kept {
    /// Why this event is not taken, if it is not.
    fn objection(&self, event: &Event, now: Timestamp) -> Option<RejectedReason> {
        if event.kind.is_ephemeral() {
            return Some(RejectedReason::Ephemeral);
        }
        if self.events.contains_key(&event.id) {
            return Some(RejectedReason::Duplicate);
        }
        if event.is_expired_at(&now) {
            return Some(RejectedReason::Expired);
        }
        if self.is_deleted(event) {
            return Some(RejectedReason::Deleted);
        }
        let latest = self.latest.get(&address(event)?)?;
        let latest = &self.events.get(latest)?.event;
        let stands = !latest.is_expired_at(&now) && order(latest) < order(event);
        stands.then_some(RejectedReason::Replaced)
    }

    fn is_deleted(&self, event: &Event) -> bool {
        if event.kind == Kind::EventDeletion {
            return false;
        }
        let (id, author) = (event.id, event.pubkey);
        let by = |deletion| (id, author, EventId::from_byte_array(deletion));
        let mut by_id = self.taken_back.range(by(LOWEST_ID)..=by(HIGHEST_ID));
        by_id.next().is_some()
            || address(event).is_some_and(|address| {
                let lowest = EventId::from_byte_array(LOWEST_ID);
                let from = (address, event.created_at, lowest);
                let later = self.cleared.range(from.clone()..).next();
                later.is_some_and(|(cleared, ..)| *cleared == from.0)
            })
    }

    fn insert(&mut self, event: Event) {
        let (id, order) = (event.id, order(&event));
        self.by_time.insert(order);
        let kind = event.kind.as_u16();
        self.by_kind.entry(kind).or_default().insert(order);
        if let Some(address) = address(&event) {
            self.latest.insert(address, id);
        }
        if let Some(at) = event.tags.expiration() {
            self.expiring.insert((*at, id));
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.arrived.insert(arrival, id);
        self.events.insert(id, Entry { event, arrival });
    }

    fn remove(&mut self, id: &EventId) {
        let Some(Entry { event, arrival }) = self.events.remove(id) else {
            return;
        };
        let order = order(&event);
        self.by_time.remove(&order);
        let kind = event.kind.as_u16();
        if let Some(of_kind) = self.by_kind.get_mut(&kind) {
            of_kind.remove(&order);
            if of_kind.is_empty() {
                self.by_kind.remove(&kind);
            }
        }
        if let Some(address) = address(&event) {
            self.latest.remove(&address);
        }
        if let Some(at) = event.tags.expiration() {
            self.expiring.remove(&(*at, *id));
        }
        self.arrived.remove(&arrival);
        if event.kind == Kind::EventDeletion {
            for target in targets(&event) {
                match target {
                    Target::Id(target) => {
                        self.taken_back.remove(&(target, event.pubkey, *id));
                    }
                    Target::Address(address) => {
                        self.cleared.remove(&(address, event.created_at, *id));
                    }
                }
            }
        }
    }

    /// Does what a deletion says, and remembers it.
    fn delete(&mut self, deletion: &Event) {
        let (author, at) = (deletion.pubkey, deletion.created_at);
        for target in targets(deletion) {
            let found = match target {
                Target::Id(id) => {
                    self.taken_back.insert((id, author, deletion.id));
                    Some(id)
                }
                Target::Address(address) => {
                    let latest = self.latest.get(&address).copied();
                    self.cleared.insert((address, at, deletion.id));
                    latest
                }
            };
            // The event itself says whether it is meant: whose it is, and how old.
            if let Some(entry) = found.and_then(|id| self.events.get(&id))
                && self.is_deleted(&entry.event)
            {
                let id = entry.event.id;
                self.remove(&id);
            }
        }
    }

    fn drop_expired(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.expiring.first().copied()
            && at < now
        {
            self.remove(&id);
        }
    }

    fn shrink(&mut self, most: usize) {
        while self.events.len() > most
            && let Some((_, first)) = self.arrived.first_key_value()
        {
            let first = *first;
            self.remove(&first);
        }
    }

    /// The newest events that match, up to the filter's limit.
    fn find(&self, filter: &Filter, now: Timestamp) -> Vec<&Event> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let event = |id: &EventId| self.events.get(id).map(|entry| &entry.event);
        let is_wanted = |event: &&Event| {
            !event.is_expired_at(&now) && filter.match_event(event, MatchEventOptions::new())
        };
        if let Some(ids) = filter.ids.as_ref().filter(|ids| !ids.is_empty()) {
            let found = ids.iter().filter_map(event).filter(is_wanted);
            return newest(found.collect(), limit);
        }
        let since = filter.since.unwrap_or_else(|| Timestamp::from_secs(0));
        let until = filter
            .until
            .unwrap_or_else(|| Timestamp::from_secs(u64::MAX));
        if since > until {
            return Vec::new();
        }
        let first = (Reverse(until), EventId::from_byte_array(LOWEST_ID));
        let last = (Reverse(since), EventId::from_byte_array(HIGHEST_ID));
        let in_time = |index: &BTreeSet<Order>| -> Vec<&Event> {
            let found = index.range(first..=last).filter_map(|(_, id)| event(id));
            found.filter(is_wanted).take(limit).collect()
        };
        match filter.kinds.as_ref().filter(|kinds| !kinds.is_empty()) {
            Some(kinds) => {
                let indices = kinds.iter().filter_map(|k| self.by_kind.get(&k.as_u16()));
                newest(indices.flat_map(in_time).collect(), limit)
            }
            None => in_time(&self.by_time),
        }
    }
}

fn order(event: &Event) -> Order {
    (Reverse(event.created_at), event.id)
}

fn newest(mut events: Vec<&Event>, limit: usize) -> Vec<&Event> {
    events.sort_unstable_by_key(|event| order(event));
    events.truncate(limit);
    events
}

/// The address of a replaceable or addressable event.
fn address(event: &Event) -> Option<Address> {
    let d = if event.kind.is_addressable() {
        let mut tags = event.tags.iter().map(nostr::Tag::as_slice);
        tags.find_map(|tag| match tag {
            [name, value @ ..] if name == "d" => Some(value.first().cloned().unwrap_or_default()),
            _ => None,
        })
        .unwrap_or_default()
    } else if is_replaceable(event.kind) {
        String::new()
    } else {
        return None;
    };
    Some((event.kind.as_u16(), event.pubkey, d))
}

/// As NIP-01 has it. The library counts channel metadata (41) too, of which one author may have many.
fn is_replaceable(kind: Kind) -> bool {
    kind.is_replaceable() && kind != Kind::ChannelMetadata
}

/// What a deletion is about.
enum Target {
    Id(EventId),
    Address(Address),
}

/// What a deletion names, without the addresses of other authors. Whose the ids are it can't know.
fn targets(deletion: &Event) -> impl Iterator<Item = Target> {
    let named = |tag: &nostr::Tag| match tag.as_slice() {
        [name, id, ..] if name == "e" => EventId::from_hex(id).ok().map(Target::Id),
        [name, address, ..] if name == "a" => {
            let mut parts = address.splitn(3, ':');
            let kind: u16 = parts.next()?.parse().ok()?;
            let author = PublicKey::from_hex(parts.next()?).ok()?;
            let d = match Kind::from(kind) {
                kind if kind.is_addressable() => parts.next().unwrap_or_default(),
                kind if is_replaceable(kind) => "",
                _ => return None,
            };
            (author == deletion.pubkey).then(|| Target::Address((kind, author, d.to_owned())))
        }
        _ => None,
    };
    deletion.tags.iter().filter_map(named)
}

fn done<'a, T: Send + 'a>(value: T) -> BoxedFuture<'a, Result<T, DatabaseError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl NostrDatabase for Store {
    fn backend(&self) -> Backend {
        Backend::Memory
    }

    fn save_event<'a>(
        &'a self,
        event: &'a Event,
    ) -> BoxedFuture<'a, Result<SaveEventStatus, DatabaseError>> {
        done(self.save(event))
    }

    /// An id alone does not tell whether its event was deleted, as anybody can name it in a deletion.
    fn check_id<'a>(
        &'a self,
        event_id: &'a EventId,
    ) -> BoxedFuture<'a, Result<DatabaseEventStatus, DatabaseError>> {
        done(if self.read().events.contains_key(event_id) {
            DatabaseEventStatus::Saved
        } else {
            DatabaseEventStatus::NotExistent
        })
    }

    fn event_by_id<'a>(
        &'a self,
        event_id: &'a EventId,
    ) -> BoxedFuture<'a, Result<Option<Event>, DatabaseError>> {
        done(self.found(&Filter::new().id(*event_id)).first_owned())
    }

    fn count(&self, filter: Filter) -> BoxedFuture<'_, Result<usize, DatabaseError>> {
        done(self.read().find(&filter, self.now()).len())
    }

    fn query(&self, filter: Filter) -> BoxedFuture<'_, Result<Events, DatabaseError>> {
        done(self.found(&filter))
    }

    fn delete(&self, filter: Filter) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        let now = self.now();
        let mut kept = self.write();
        let found: Vec<EventId> = kept.find(&filter, now).iter().map(|e| e.id).collect();
        for id in &found {
            kept.remove(id);
        }
        done(())
    }

    fn wipe(&self) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        *self.write() = Kept::default();
        done(())
    }
}

/// Says why an event is not taken, where the library would say that it does not know.
#[derive(Debug)]
pub(super) struct Reasons(pub(super) Arc<Store>);

impl WritePolicy for Reasons {
    fn admit_event<'a>(
        &'a self,
        event: &'a Event,
        _from: &'a SocketAddr,
    ) -> BoxedFuture<'a, PolicyResult> {
        let why = match self.0.read().objection(event, self.0.now()) {
            Some(RejectedReason::Deleted) => Some("this event is deleted"),
            Some(RejectedReason::Expired) => Some("this event has expired"),
            Some(RejectedReason::Replaced) => Some("a newer version is there"),
            _ => None,
        };
        let verdict = why.map_or(PolicyResult::Accept, |why| PolicyResult::Reject(why.into()));
        Box::pin(std::future::ready(verdict))
    }
}

#[cfg(test)]
mod tests;

#![allow(clippy::unwrap_used)]

use nostr::{EventBuilder, Keys, Tag};

use super::*;
use crate::units::UnixSecs;

const NOW: u64 = 1_800_000_000;
const LISTING: u16 = 31_990;

fn store() -> Store {
    Store::new(100, Clock::fixed(UnixSecs::new(NOW)))
}

fn event(by: &Keys, kind: u16, at: u64, content: &str, tags: &[&[&str]]) -> Event {
    let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()));
    EventBuilder::new(Kind::from(kind), content)
        .tags(tags.map(Result::unwrap))
        .custom_created_at(Timestamp::from_secs(at))
        .sign_with_keys(by)
        .unwrap()
}

fn listing(by: &Keys, at: u64, content: &str) -> Event {
    event(by, LISTING, at, content, &[&["d", "x:y"]])
}

fn deletion(by: &Keys, at: u64, of: &[&str]) -> Event {
    event(by, 5, at, "", &[of])
}

fn address_of(by: &Keys, d: &str) -> String {
    format!("{LISTING}:{}:{d}", by.public_key().to_hex())
}

#[track_caller]
fn taken(store: &Store, event: &Event) {
    assert_eq!(store.save(event), SaveEventStatus::Success);
}

#[track_caller]
fn refused(store: &Store, event: &Event, why: RejectedReason) {
    assert_eq!(store.save(event), SaveEventStatus::Rejected(why));
}

fn contents(store: &Store, filter: &Filter) -> Vec<String> {
    let found = store.found(filter).into_iter();
    found.map(|event| event.content).collect()
}

/// Whether an index still knows what the events don't, or the other way round.
fn assert_consistent(store: &Store) {
    let kept = store.read();
    let many = kept.events.len();
    assert_eq!(kept.by_time.len(), many);
    assert_eq!(
        kept.by_kind.values().map(BTreeSet::len).sum::<usize>(),
        many
    );
    assert_eq!(kept.arrived.len(), many);
    let events = || kept.events.values().map(|entry| &entry.event);
    assert_eq!(kept.latest.len(), events().filter_map(address).count());
    let expiring = events().filter(|event| event.tags.expiration().is_some());
    assert_eq!(kept.expiring.len(), expiring.count());
    let deletions: BTreeSet<EventId> = events()
        .filter(|event| event.kind == Kind::EventDeletion)
        .map(|event| event.id)
        .collect();
    assert!(
        kept.taken_back
            .iter()
            .all(|(.., by)| deletions.contains(by))
    );
    assert!(kept.cleared.iter().all(|(.., by)| deletions.contains(by)));
}

#[test]
fn the_newest_version_stays_and_of_one_second_the_one_with_the_lower_id() {
    let (store, keys, other) = (store(), Keys::generate(), Keys::generate());
    taken(&store, &listing(&keys, NOW, "old"));
    taken(&store, &listing(&other, NOW, "another's"));
    taken(&store, &event(&keys, LISTING, NOW, "no d", &[]));
    refused(
        &store,
        &listing(&keys, NOW - 1, "older"),
        RejectedReason::Replaced,
    );
    let mut twins = [
        listing(&keys, NOW + 1, "this"),
        listing(&keys, NOW + 1, "that"),
    ];
    twins.sort_by_key(|twin| twin.id);
    taken(&store, &twins[1]);
    taken(&store, &twins[0]);
    refused(&store, &twins[1], RejectedReason::Replaced);
    refused(&store, &twins[0], RejectedReason::Duplicate);
    let of_keys = Filter::new().author(keys.public_key());
    assert_eq!(
        contents(&store, &of_keys),
        [twins[0].content.as_str(), "no d"]
    );
    // A listing without `d` and one with an empty one are the same.
    taken(&store, &event(&keys, LISTING, NOW + 2, "bare", &[&["d"]]));
    taken(
        &store,
        &event(&keys, LISTING, NOW + 3, "empty", &[&["d", ""]]),
    );
    assert_eq!(
        contents(&store, &of_keys),
        ["empty", twins[0].content.as_str()]
    );
    // The metadata of one's channels is not one thing, one's profile is.
    for (kind, many) in [(41, 2), (0, 1), (10_002, 1), (1, 2)] {
        taken(&store, &event(&keys, kind, NOW, "1", &[]));
        taken(&store, &event(&keys, kind, NOW + 1, "2", &[]));
        let found = contents(&store, &of_keys.clone().kind(Kind::from(kind)));
        assert_eq!(found.len(), many, "kind {kind}");
    }
    assert_consistent(&store);
}

#[test]
fn a_deletion_by_id_removes_ones_own_event_for_good() {
    let (store, keys, other) = (store(), Keys::generate(), Keys::generate());
    let (before, after) = (
        event(&keys, 42, NOW, "before", &[]),
        event(&keys, 42, NOW, "after", &[]),
    );
    let ids = [before.id.to_hex(), after.id.to_hex()];
    taken(&store, &before);
    for id in &ids {
        taken(&store, &deletion(&other, NOW + 9, &["e", id]));
    }
    taken(&store, &after);
    assert_eq!(
        contents(&store, &Filter::new().kind(Kind::from(42))).len(),
        2
    );

    let first = deletion(&keys, NOW - 9, &["e", &ids[0]]);
    taken(&store, &first);
    taken(&store, &deletion(&keys, NOW + 9, &["e", &ids[1]]));
    assert!(contents(&store, &Filter::new().kind(Kind::from(42))).is_empty());
    for gone in [&before, &after] {
        refused(&store, gone, RejectedReason::Deleted);
    }
    // Of one that comes later, too.
    let unheard = event(&keys, 42, NOW, "unheard", &[]);
    taken(&store, &deletion(&keys, NOW, &["e", &unheard.id.to_hex()]));
    refused(&store, &unheard, RejectedReason::Deleted);
    // Deletions can't be deleted.
    taken(&store, &deletion(&keys, NOW, &["e", &first.id.to_hex()]));
    refused(&store, &before, RejectedReason::Deleted);
    assert_consistent(&store);
}

#[test]
fn a_deletion_by_address_holds_for_versions_up_to_its_own_time() {
    let (store, keys, other) = (store(), Keys::generate(), Keys::generate());
    let address = address_of(&keys, "x:y");
    taken(&store, &listing(&keys, NOW, "first"));
    taken(&store, &deletion(&other, NOW + 9, &["a", &address]));
    taken(&store, &deletion(&keys, NOW - 1, &["a", &address]));
    taken(
        &store,
        &deletion(&keys, NOW + 9, &["a", &address_of(&keys, "x")]),
    );
    let listings = Filter::new().kind(Kind::from(LISTING));
    assert_eq!(contents(&store, &listings), ["first"]);

    // Ahead of the relay's clock, as a provider's may be.
    taken(&store, &deletion(&keys, NOW + 100, &["a", &address]));
    taken(&store, &deletion(&keys, NOW + 50, &["a", &address]));
    assert!(contents(&store, &listings).is_empty());
    for at in [NOW, NOW + 51, NOW + 100] {
        let late = listing(&keys, at, "late");
        refused(&store, &late, RejectedReason::Deleted);
    }
    taken(&store, &listing(&keys, NOW + 101, "again"));
    assert_eq!(contents(&store, &listings), ["again"]);
    assert_consistent(&store);
}

#[test]
fn what_has_expired_is_neither_taken_nor_given() {
    let (store, keys) = (store(), Keys::generate());
    let until = |at: u64, content| {
        let at = at.to_string();
        event(&keys, 1, NOW, content, &[&["expiration", &at]])
    };
    refused(&store, &until(NOW - 1, "late"), RejectedReason::Expired);
    taken(&store, &until(NOW + 5, "short"));
    taken(&store, &until(NOW + 50, "long"));
    assert_eq!(contents(&store, &Filter::new()).len(), 2);
    store.clock.set(UnixSecs::new(NOW + 6));
    assert_eq!(contents(&store, &Filter::new()), ["long"]);
    // The next event that comes makes the memory free.
    taken(&store, &event(&keys, 1, NOW, "new", &[]));
    assert_eq!(store.read().events.len(), 2);
    assert_consistent(&store);
}

#[test]
fn when_it_is_full_what_came_first_makes_room() {
    let (keys, clock) = (Keys::generate(), Clock::fixed(UnixSecs::new(NOW)));
    let store = Store::new(3, clock);
    // Dated into the future, so as to stay: it does not.
    let victim = event(&keys, 1, NOW, "deleted", &[]);
    taken(
        &store,
        &deletion(&keys, NOW + 1_000_000, &["e", &victim.id.to_hex()]),
    );
    refused(&store, &victim, RejectedReason::Deleted);
    for n in 0..4 {
        taken(&store, &event(&keys, 1, NOW - n, &n.to_string(), &[]));
    }
    assert_eq!(contents(&store, &Filter::new()), ["1", "2", "3"]);
    assert_consistent(&store);
    // With the deletion went what it said, and its memory.
    taken(&store, &victim);
    assert!(store.read().taken_back.is_empty());
}

#[test]
fn queries_are_answered_newest_first_within_their_bounds() {
    let (store, keys, other) = (store(), Keys::generate(), Keys::generate());
    for n in 0..10 {
        let kind = if n % 2 == 0 { 42 } else { 1 };
        let parity = (n % 3).to_string();
        let tags: &[&[&str]] = &[&["t", &parity]];
        taken(&store, &event(&keys, kind, NOW + n, &n.to_string(), tags));
    }
    taken(&store, &event(&other, 7, NOW + 4, "other", &[]));
    let at = |secs: u64| Timestamp::from_secs(NOW + secs);
    let kinds = |kinds: &[u16]| Filter::new().kinds(kinds.iter().copied().map(Kind::from));
    let ask = |filter: Filter| contents(&store, &filter);

    assert_eq!(ask(kinds(&[42, 1]).limit(3)), ["9", "8", "7"]);
    assert_eq!(ask(kinds(&[42]).since(at(4)).until(at(6))), ["6", "4"]);
    assert_eq!(ask(Filter::new().until(at(0))), ["0"]);
    assert_eq!(ask(Filter::new().author(other.public_key())), ["other"]);
    assert_eq!(ask(kinds(&[42]).hashtag("0")), ["6", "0"]);
    assert_eq!(ask(Filter::new()).len(), 11);
    let id = store.found(&kinds(&[7])).first_owned().unwrap().id;
    assert_eq!(ask(Filter::new().id(id)), ["other"]);
    for none in [
        kinds(&[9]),
        kinds(&[42]).limit(0),
        kinds(&[42]).since(at(6)).until(at(4)),
        Filter::new().id(id).kind(Kind::from(42)),
    ] {
        assert!(ask(none).is_empty());
    }
}

#[test]
fn deletions_that_make_no_sense_are_taken_and_do_nothing() {
    let (store, keys) = (store(), Keys::generate());
    taken(&store, &event(&keys, 1, NOW, "here", &[]));
    let key = keys.public_key().to_hex();
    for nonsense in [
        "",
        ":",
        "::",
        "1",
        "31990",
        "31990:x:y",
        &format!("1:{key}:"),
        &format!("99999:{key}:"),
    ] {
        taken(&store, &deletion(&keys, NOW, &["a", nonsense]));
        taken(&store, &deletion(&keys, NOW, &["e", nonsense]));
    }
    assert_eq!(
        contents(&store, &Filter::new().kind(Kind::from(1))),
        ["here"]
    );
    assert!(store.read().cleared.is_empty() && store.read().taken_back.is_empty());
    assert_consistent(&store);
}

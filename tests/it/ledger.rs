//! The spend ledger over real files: the life of a reservation, keys and listings.

mod clocks;
mod damage;
mod limits;
mod looks;
mod model;
mod races;
mod receipts;
mod together;

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, PurchaseId, WalletId};
use agent_compute::ledger::{
    Entry, HistoryQuery, Idempotency, Ledger, LedgerError, Limits, NewPurchase, Opened,
    PurchaseRecord, RefusedBy, ReservationStatus, Reserve, Scope, SeenBalance, StateRow, Status,
    Usage,
};
use agent_compute::units::{Msat, Network, UnixSecs};
use tempfile::TempDir;

const NOON: UnixSecs = UnixSecs::new(1_000 * 86_400 + 43_200);
const DAY: u64 = 86_400;
const PLAY: Scope = Scope {
    network: Network::Regtest,
    play_money: true,
};
const LIMITS: Limits = Limits {
    daily: Msat::new(100_000),
    per_tick: Msat::new(50_000),
    per_job: Msat::new(20_000),
    floor: Msat::ZERO,
};

fn state(status: Status) -> StateRow {
    StateRow {
        json: r#"{"v":1}"#.to_owned(),
        label: status.as_str().to_owned(),
        status,
    }
}

fn wallet() -> WalletId {
    WalletId {
        kind: "sim".to_owned(),
        account: "a".to_owned(),
    }
}

fn new_purchase() -> NewPurchase {
    NewPurchase {
        id: PurchaseId::from_bytes(rand::random()),
        scope: PLAY,
        tick: None,
        idempotency: None,
        state: state(Status::Open),
    }
}

fn hash() -> PaymentHash {
    PaymentHash::from_bytes(rand::random())
}

fn reserve(msat: u64) -> Reserve {
    Reserve {
        price: Msat::new(msat),
        fee_cap: Msat::ZERO,
        payment_hash: hash(),
        wallet: wallet(),
        limits: LIMITS,
        seen: None,
    }
}

fn settle(msat: u64) -> Entry {
    Entry::Settle {
        price: Msat::new(msat),
        fee: Msat::ZERO,
    }
}

fn release() -> Entry {
    Entry::Release {
        proof: "the wallet has no such payment".to_owned(),
    }
}

async fn open(dir: &TempDir, clock: &Clock) -> Ledger {
    Ledger::open(dir.path(), clock.clone()).await.unwrap()
}

async fn opened(ledger: &Ledger, new: NewPurchase) -> PurchaseRecord {
    match ledger.open_purchase(new).await.unwrap() {
        Opened::New(record) => record,
        Opened::Existing(record) => panic!("there already: {record:?}"),
    }
}

/// Commits to an open purchase at its latest version.
async fn commit(ledger: &Ledger, id: PurchaseId, entries: Vec<Entry>) -> Result<u64, LedgerError> {
    let version = ledger.purchase(id).await?.version;
    ledger
        .commit(id, version, state(Status::Open), entries)
        .await
}

async fn usage(ledger: &Ledger, tick: Option<&str>) -> Usage {
    ledger.budget(PLAY, tick, LIMITS).await.unwrap().usage
}

/// A purchase with this much set aside and its payment begun.
async fn paying(ledger: &Ledger, msat: u64) -> PurchaseId {
    let id = opened(ledger, new_purchase()).await.id;
    let entries = vec![Entry::Reserve(reserve(msat)), Entry::InFlight];
    commit(ledger, id, entries).await.unwrap();
    id
}

/// A new purchase that asks for this; what the ledger says to it.
async fn ask(
    ledger: &Ledger,
    tick: Option<&str>,
    reserve: Reserve,
) -> Result<PurchaseId, LedgerError> {
    let new = NewPurchase {
        tick: tick.map(str::to_owned),
        ..new_purchase()
    };
    let id = opened(ledger, new).await.id;
    commit(ledger, id, vec![Entry::Reserve(reserve)])
        .await
        .map(|_| id)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, LedgerError>) -> (RefusedBy, u64) {
    match answer {
        Err(LedgerError::Refused(refusal)) => (refusal.by, refusal.allowed.get()),
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn a_purchase_is_reserved_paid_and_settled() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    assert_eq!(usage(&ledger, None).await.reserved, Msat::new(10_000));

    let record = ledger.purchase(id).await.unwrap();
    let version = ledger
        .commit(
            id,
            record.version,
            state(Status::Delivered),
            vec![settle(10_000)],
        )
        .await
        .unwrap();
    assert_eq!(version, record.version + 1);
    let now = usage(&ledger, None).await;
    assert_eq!(
        (now.reserved, now.spent_today),
        (Msat::ZERO, Msat::new(10_000))
    );

    let words: Vec<String> = ledger
        .log(id)
        .await
        .unwrap()
        .into_iter()
        .map(|it| it.what)
        .collect();
    assert_eq!(words, ["opened", "reserve", "in_flight", "settle", "state"]);
    // What was committed is in the file, for another process to read.
    let other = open(&dir, &Clock::fixed(NOON)).await;
    let money = other.purchase(id).await.unwrap().reservation.unwrap();
    assert_eq!(money.status, ReservationStatus::Settled);
    assert_eq!(money.spent, Some(Msat::new(10_000)));
}

#[tokio::test]
async fn a_refused_reservation_leaves_no_trace_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = opened(&ledger, new_purchase()).await.id;
    let too_much = reserve(20_001);
    let entries = vec![
        Entry::Note("before".to_owned()),
        Entry::Reserve(too_much.clone()),
    ];
    refusal(commit(&ledger, id, entries).await);
    assert_eq!(ledger.log(id).await.unwrap().len(), 1);
    assert_eq!(ledger.purchase(id).await.unwrap().version, 1);
    assert!(!ledger.hash_used(too_much.payment_hash).await.unwrap());
}

#[tokio::test]
async fn a_payment_hash_is_reserved_once_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let once = reserve(1_000);
    let id = ask(&ledger, None, once.clone()).await.unwrap();
    for _ in 0..2 {
        match ask(&ledger, None, once.clone()).await {
            Err(LedgerError::HashUsed(hash)) => assert_eq!(hash, once.payment_hash),
            other => panic!("{other:?}"),
        }
        // Given back or not, it stays used.
        let _ = commit(&ledger, id, vec![release()]).await;
    }
    assert!(ledger.hash_used(once.payment_hash).await.unwrap());
}

#[tokio::test]
async fn unknown_money_stays_reserved_until_a_look_up_decides() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let id = paying(&ledger, 10_000).await;
    let unknown = Entry::Unknown {
        reason: "no answer within 90 s".to_owned(),
    };
    commit(&ledger, id, vec![unknown]).await.unwrap();
    drop(ledger);
    clock.set(NOON.plus(7 * DAY));
    let later = open(&dir, &clock).await;
    let now = usage(&later, None).await;
    assert_eq!(
        (now.reserved, now.unknown),
        (Msat::new(10_000), Msat::new(10_000))
    );
    let found = later.recoverable().await.unwrap();
    assert_eq!(found.len(), 1);
    let taken = later.adopt(id, found[0].version).await.unwrap();
    let no_proof = Entry::Release { proof: " ".into() };
    for (entry, allowed) in [(no_proof, false), (release(), true)] {
        let answer = later
            .commit(id, taken.version, state(Status::Failed), vec![entry])
            .await;
        assert_eq!(answer.is_ok(), allowed, "{answer:?}");
    }
    assert_eq!(usage(&later, None).await, Usage::default());
}

#[tokio::test]
async fn a_payment_that_arrives_after_its_failure_was_proven_is_booked_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    let version = ledger.purchase(id).await.unwrap().version;
    let version = ledger
        .commit(id, version, state(Status::Failed), vec![release()])
        .await
        .unwrap();
    // A failed purchase is one for which nothing was paid: the state must say otherwise now.
    let denied = ledger
        .commit(id, version, state(Status::Failed), vec![settle(10_000)])
        .await;
    assert!(matches!(denied, Err(LedgerError::Illegal(_))));
    ledger
        .commit(
            id,
            version,
            state(Status::Undelivered),
            vec![settle(10_000)],
        )
        .await
        .unwrap();
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(10_000));
    let log = ledger.log(id).await.unwrap();
    let line = log
        .iter()
        .find(|line| line.what == "settle_after_release")
        .unwrap();
    assert!(line.note.as_deref().unwrap().starts_with("PAID ALTHOUGH"));
    assert_eq!(ledger.settlements(&wallet()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_purchase_that_is_over_leaves_no_money_open_and_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    let version = ledger.purchase(id).await.unwrap().version;
    for status in [Status::Failed, Status::Delivered] {
        let answer = ledger.commit(id, version, state(status), vec![]).await;
        assert!(matches!(answer, Err(LedgerError::Illegal(_))), "{answer:?}");
    }
    let unpaid = opened(&ledger, new_purchase()).await.id;
    let version = ledger
        .commit(unpaid, 1, state(Status::Failed), vec![])
        .await
        .unwrap();
    for (status, entries) in [
        (Status::Open, vec![]),
        (Status::Undelivered, vec![Entry::Reserve(reserve(1))]),
    ] {
        let answer = ledger.commit(unpaid, version, state(status), entries).await;
        assert!(matches!(answer, Err(LedgerError::Illegal(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn an_idempotency_key_names_one_purchase_until_it_fails_unpaid() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let keyed = |fingerprint: &str| NewPurchase {
        idempotency: Some(Idempotency {
            key: "k".to_owned(),
            fingerprint: fingerprint.to_owned(),
        }),
        ..new_purchase()
    };
    let first = opened(&ledger, keyed("a")).await;
    assert_eq!(first.idempotency_key.as_deref(), Some("k"));
    match ledger.open_purchase(keyed("a")).await.unwrap() {
        Opened::Existing(record) => assert_eq!(record.id, first.id),
        Opened::New(_) => panic!("bought twice"),
    }
    assert!(matches!(
        ledger.open_purchase(keyed("b")).await,
        Err(LedgerError::KeyConflict(id)) if id == first.id
    ));

    ledger
        .commit(first.id, 1, state(Status::Failed), vec![])
        .await
        .unwrap();
    assert!(matches!(
        ledger.open_purchase(keyed("b")).await,
        Err(LedgerError::KeyConflict(_))
    ));
    let second = opened(&ledger, keyed("a")).await;
    assert_ne!(second.id, first.id);
    assert_eq!(ledger.by_key("k").await.unwrap().unwrap().id, second.id);
    assert!(ledger.by_key("other").await.unwrap().is_none());
    // Delivered or not, paid stays paid.
    let entries = vec![Entry::Reserve(reserve(1_000)), settle(1_000)];
    ledger
        .commit(second.id, 1, state(Status::Undelivered), entries)
        .await
        .unwrap();
    assert!(matches!(
        ledger.open_purchase(keyed("a")).await.unwrap(),
        Opened::Existing(record) if record.id == second.id
    ));
}

#[tokio::test]
async fn purchases_are_listed_newest_first_and_found_by_a_unique_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let mut ids = Vec::new();
    for first in [0x0a, 0xab, 0xac, 0xff] {
        let mut bytes = [0; 16];
        bytes[0] = first;
        let new = NewPurchase {
            id: PurchaseId::from_bytes(bytes),
            scope: Scope {
                play_money: first != 0xff,
                ..PLAY
            },
            ..new_purchase()
        };
        ids.push(opened(&ledger, new).await.id);
    }
    let listed = async |scope, limit| -> Vec<PurchaseId> {
        let query = HistoryQuery { scope, limit };
        let found = ledger.history(query).await.unwrap();
        found.into_iter().map(|it| it.id).collect()
    };
    assert_eq!(listed(None, 2).await, [ids[3], ids[2]]);
    assert_eq!(listed(Some(PLAY), 9).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(ledger.find("AB").await.unwrap().id, ids[1]);
    assert_eq!(ledger.find("f").await.unwrap().id, ids[3]);
    let whole = ids[0].to_string();
    assert_eq!(ledger.find(&whole).await.unwrap().id, ids[0]);
    assert!(matches!(
        ledger.find("a").await,
        Err(LedgerError::Ambiguous(_))
    ));
    for none in ["", "b", "%", "a_", "abg", &format!("{whole}0")] {
        assert!(
            matches!(ledger.find(none).await, Err(LedgerError::NotFound(_))),
            "{none}"
        );
    }
    let stranger = PurchaseId::from_bytes([7; 16]);
    assert!(matches!(
        ledger.purchase(stranger).await,
        Err(LedgerError::NotFound(_))
    ));
    assert!(matches!(
        ledger.log(stranger).await,
        Err(LedgerError::NotFound(_))
    ));
    assert!(matches!(
        ledger
            .open_purchase(NewPurchase {
                id: ids[0],
                ..new_purchase()
            })
            .await,
        Err(LedgerError::Illegal(_))
    ));
}

//! The spend ledger over real files: limits, races, owners, time and damage.

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, PurchaseId, WalletId};
use agent_compute::ledger::{
    Entry, HistoryQuery, Idempotency, Ledger, LedgerError, Limits, NewPurchase, Opened,
    PurchaseRecord, RefusedBy, ReservationStatus, Reserve, Scope, SeenBalance, StateRow, Status,
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

/// A purchase with this much set aside and its payment begun.
async fn paying(ledger: &Ledger, msat: u64) -> PurchaseId {
    let id = opened(ledger, new_purchase()).await.id;
    let entries = vec![Entry::Reserve(reserve(msat)), Entry::InFlight];
    commit(ledger, id, entries).await.unwrap();
    id
}

#[tokio::test]
async fn a_purchase_is_reserved_paid_and_settled() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    let usage = ledger.budget(PLAY, None, LIMITS).await.unwrap().usage;
    assert_eq!(usage.reserved, Msat::new(10_000));
    commit(&ledger, id, vec![settle(10_000)]).await.unwrap();
    let usage = ledger.budget(PLAY, None, LIMITS).await.unwrap().usage;
    assert_eq!(
        (usage.reserved, usage.spent_today),
        (Msat::ZERO, Msat::new(10_000))
    );
    let words: Vec<String> = ledger
        .log(id)
        .await
        .unwrap()
        .into_iter()
        .map(|it| it.what)
        .collect();
    assert_eq!(words, ["opened", "reserve", "in_flight", "settle"]);
}

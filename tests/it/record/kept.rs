//! How the ledger keeps records: once per purchase, with the state that says it, per scope, over processes.

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, PurchaseId, WalletId};
use agent_compute::ledger::{
    Entry, Ledger, LedgerError, Limits, NewPurchase, Opened, Reserve, Scope, StateRow, Status,
};
use agent_compute::protocol::record::{Observation, Outcome, Record};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{Keys, PublicKey};
use tempfile::TempDir;
use tokio::task::JoinSet;

const NOON: UnixSecs = UnixSecs::new(1_000 * 86_400 + 43_200);
const PLAY: Scope = Scope {
    network: Network::Regtest,
    play_money: true,
};

async fn open(dir: &TempDir, clock: &Clock) -> Ledger {
    Ledger::open(dir.path(), clock.clone()).await.unwrap()
}

fn state(status: Status) -> StateRow {
    StateRow {
        json: "{}".to_owned(),
        label: status.as_str().to_owned(),
        status,
    }
}

async fn opened_in(ledger: &Ledger, scope: Scope) -> PurchaseId {
    let new = NewPurchase {
        id: PurchaseId::from_bytes(rand::random()),
        scope,
        tick: None,
        idempotency: None,
        state: state(Status::Open),
    };
    match ledger.open_purchase(new).await.unwrap() {
        Opened::New(record) => record.id,
        Opened::Existing(_) => panic!("there already"),
    }
}

fn saw(provider: PublicKey, outcome: Outcome) -> Entry {
    Entry::Observe(Observation {
        provider,
        outcome,
        price: Msat::new(7_000),
        listed: Some(Msat::new(8_000)),
        first_token_ms: Some(12),
    })
}

async fn commit(
    ledger: &Ledger,
    id: PurchaseId,
    status: Status,
    entries: Vec<Entry>,
) -> Result<u64, LedgerError> {
    let version = ledger.purchase(id).await?.version;
    ledger.commit(id, version, state(status), entries).await
}

async fn record(ledger: &Ledger, scope: Scope, provider: PublicKey) -> Record {
    let mut known = ledger
        .records(scope, vec![provider, provider])
        .await
        .unwrap();
    known.remove(&provider).unwrap_or_default()
}

fn stranger() -> PublicKey {
    Keys::generate().public_key()
}

#[tokio::test]
async fn an_observation_is_kept_with_the_state_that_says_it_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let provider = stranger();
    let id = opened_in(&ledger, PLAY).await;
    let too_much = Entry::Reserve(Reserve {
        price: Msat::new(2),
        fee_cap: Msat::ZERO,
        payment_hash: PaymentHash::from_bytes(rand::random()),
        wallet: WalletId {
            kind: "sim".to_owned(),
            account: "a".to_owned(),
        },
        limits: Limits {
            daily: Msat::new(1),
            per_tick: Msat::new(1),
            per_job: Msat::new(1),
            floor: Msat::ZERO,
        },
        seen: None,
    });
    for refused in [
        vec![saw(provider, Outcome::Delivered), too_much],
        vec![saw(provider, Outcome::Delivered), Entry::InFlight],
    ] {
        commit(&ledger, id, Status::Open, refused)
            .await
            .unwrap_err();
    }
    assert_eq!(record(&ledger, PLAY, provider).await, Record::default());

    let seen = vec![saw(provider, Outcome::Refused)];
    commit(&ledger, id, Status::Failed, seen).await.unwrap();
    drop(ledger);
    let again = open(&dir, &Clock::fixed(NOON)).await;
    let kept = record(&again, PLAY, provider).await;
    assert_eq!((kept.attempts(), kept.count(Outcome::Refused)), (1, 1));
    let [past] = kept.recent[..] else {
        panic!("{kept:?}")
    };
    assert_eq!((past.at, past.outcome), (NOON, Outcome::Refused));
    assert_eq!(past.price, Msat::new(7_000));
    assert_eq!(
        (past.listed, past.first_token_ms),
        (Some(Msat::new(8_000)), Some(12))
    );
}

#[tokio::test]
async fn a_late_result_takes_the_place_of_its_failure_and_nothing_takes_a_results() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let provider = stranger();
    let id = opened_in(&ledger, PLAY).await;
    let steps = [
        (Outcome::Undelivered, Status::Undelivered, (0, 1), NOON),
        // Said again when it is looked for: no second failure, and no younger one.
        (Outcome::Undelivered, Status::Undelivered, (0, 1), NOON),
        (Outcome::Delivered, Status::Delivered, (1, 0), NOON.plus(20)),
        (
            Outcome::Undelivered,
            Status::Delivered,
            (1, 0),
            NOON.plus(20),
        ),
    ];
    for (n, (outcome, status, (delivered, undelivered), at)) in steps.into_iter().enumerate() {
        clock.set(NOON.plus(n as u64 * 10));
        commit(&ledger, id, status, vec![saw(provider, outcome)])
            .await
            .unwrap();
        let kept = record(&ledger, PLAY, provider).await;
        assert_eq!(kept.count(Outcome::Delivered), delivered);
        assert_eq!(kept.count(Outcome::Undelivered), undelivered);
        assert_eq!((kept.attempts(), kept.recent.len()), (1, 1));
        assert_eq!(kept.recent[0].at, at);
    }
}

#[tokio::test]
async fn records_are_kept_per_network_and_apart_from_play_money() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let provider = stranger();
    let real = Scope {
        play_money: false,
        ..PLAY
    };
    let mainnet = Scope {
        network: Network::Mainnet,
        play_money: false,
    };
    let id = opened_in(&ledger, real).await;
    let seen = vec![saw(provider, Outcome::Unanswered)];
    commit(&ledger, id, Status::Failed, seen).await.unwrap();
    for (scope, attempts) in [(real, 1), (PLAY, 0), (mainnet, 0)] {
        assert_eq!(record(&ledger, scope, provider).await.attempts(), attempts);
    }
    assert_eq!(record(&ledger, real, stranger()).await, Record::default());
}

#[tokio::test]
async fn a_long_record_is_counted_whole_and_read_as_far_as_it_matters() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let provider = stranger();
    for n in 0..130_u64 {
        clock.set(NOON.plus(n));
        let outcome = match n {
            0 => Outcome::Undelivered,
            _ => Outcome::Delivered,
        };
        let id = opened_in(&ledger, PLAY).await;
        commit(&ledger, id, Status::Failed, vec![saw(provider, outcome)])
            .await
            .unwrap();
    }
    let kept = record(&ledger, PLAY, provider).await;
    assert_eq!(kept.attempts(), 130);
    // The old failure is not crowded out, and the latest comes first.
    assert_eq!(kept.recent.len(), 101);
    assert_eq!(kept.recent[0].at, NOON.plus(129));
    assert_eq!(kept.recent[100].outcome, Outcome::Undelivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn purchases_of_many_processes_add_up_and_one_that_several_end_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let provider = stranger();
    let mut race = JoinSet::new();
    for _ in 0..6 {
        // A handle is to the file what a process is: a lock, a connection and an owner of its own.
        let ledger = open(&dir, &Clock::fixed(NOON)).await;
        race.spawn(async move {
            for _ in 0..5 {
                let id = opened_in(&ledger, PLAY).await;
                let end = || {
                    let seen = vec![saw(provider, Outcome::Delivered)];
                    ledger.commit(id, 1, state(Status::Delivered), seen)
                };
                let (one, other) = tokio::join!(end(), end());
                assert!(one.is_ok() != other.is_ok());
            }
        });
    }
    race.join_all().await;
    let reader = open(&dir, &Clock::fixed(NOON)).await;
    let kept = record(&reader, PLAY, provider).await;
    assert_eq!((kept.attempts(), kept.recent.len()), (30, 30));
}

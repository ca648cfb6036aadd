//! Several processes at one ledger: each handle has an owner, a connection and locks of its own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::*;

async fn eight(dir: &TempDir, clock: &Clock) -> Vec<Ledger> {
    let mut openings = JoinSet::new();
    for _ in 0..8 {
        let (path, clock) = (dir.path().to_owned(), clock.clone());
        openings.spawn(async move { Ledger::open(&path, clock).await.unwrap() });
    }
    openings.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_may_open_a_new_ledger_at_once() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = eight(&dir, &Clock::fixed(NOON)).await;
        for ledger in &ledgers {
            opened(ledger, new_purchase()).await;
        }
        let query = HistoryQuery {
            scope: None,
            limit: 99,
        };
        assert_eq!(ledgers[0].history(query).await.unwrap().len(), 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_that_admits_nine_admits_nine_of_eighty_that_race() {
    let dir = tempfile::tempdir().unwrap();
    let mut race = JoinSet::new();
    for ledger in eight(&dir, &Clock::fixed(NOON)).await {
        for _ in 0..10 {
            let ledger = ledger.clone();
            race.spawn(async move {
                // 9 × 11,000 fit into the day's 100,000.
                match ask(&ledger, None, reserve(11_000)).await {
                    Ok(_) => true,
                    other => {
                        assert_eq!(refusal(other), (RefusedBy::Daily, 1_000));
                        false
                    }
                }
            });
        }
    }
    let granted = race.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(granted, 9);
    let reader = open(&dir, &Clock::fixed(NOON)).await;
    assert_eq!(usage(&reader, None).await.reserved, Msat::new(99_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_reserve_one_payment_hash_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let once = reserve(1_000);
    let mut race = JoinSet::new();
    for ledger in eight(&dir, &Clock::fixed(NOON)).await {
        let once = once.clone();
        race.spawn(async move { ask(&ledger, None, once).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = race.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for answer in lost {
        assert!(matches!(answer, Err(LedgerError::HashUsed(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_with_one_idempotency_key_one_buys() {
    let dir = tempfile::tempdir().unwrap();
    let mut race = JoinSet::new();
    for ledger in eight(&dir, &Clock::fixed(NOON)).await {
        race.spawn(async move {
            let new = NewPurchase {
                idempotency: Some(Idempotency {
                    key: "k".to_owned(),
                    fingerprint: "f".to_owned(),
                }),
                ..new_purchase()
            };
            match ledger.open_purchase(new).await.unwrap() {
                Opened::New(record) => (record.id, true),
                Opened::Existing(record) => (record.id, false),
            }
        });
    }
    let answers = race.join_all().await;
    assert_eq!(answers.iter().filter(|(_, new)| *new).count(), 1);
    assert!(answers.iter().all(|(id, _)| *id == answers[0].0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_change_one_version_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    let version = ledger.purchase(id).await.unwrap().version;
    let mut race = JoinSet::new();
    for _ in 0..16 {
        let ledger = ledger.clone();
        race.spawn(async move {
            let entries = vec![settle(10_000)];
            ledger
                .commit(id, version, state(Status::Open), entries)
                .await
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) = race.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 15));
    for answer in lost {
        assert!(matches!(answer, Err(LedgerError::Conflict(_))));
    }
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(10_000));
}

#[tokio::test]
async fn only_the_owner_changes_a_purchase_and_only_the_dead_are_inherited_from() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let (ours, other) = (open(&dir, &clock).await, open(&dir, &clock).await);
    assert_ne!(ours.owner(), other.owner());
    let id = paying(&ours, 10_000).await;
    let record = ours.purchase(id).await.unwrap();

    assert!(other.owner_lives(ours.owner()).await);
    assert!(other.recoverable().await.unwrap().is_empty());
    for answer in [
        commit(&other, id, vec![settle(10_000)]).await.err(),
        other.adopt(id, record.version).await.err(),
    ] {
        assert!(
            matches!(answer, Some(LedgerError::Conflict(_))),
            "{answer:?}"
        );
    }

    drop(ours);
    assert!(!other.owner_lives(&record.owner).await);
    assert_eq!(other.recoverable().await.unwrap().len(), 1);
    let stale = other.adopt(id, record.version - 1).await;
    assert!(matches!(stale, Err(LedgerError::Conflict(_))));
    let adopted = other.adopt(id, record.version).await.unwrap();
    assert_eq!(
        (adopted.owner.as_str(), adopted.version),
        (other.owner(), record.version + 1)
    );
    // Adopting what is ours already changes nothing.
    let again = other.adopt(id, adopted.version).await.unwrap();
    assert_eq!(again.version, adopted.version);
    commit(&other, id, vec![settle(10_000)]).await.unwrap();
    assert!(
        other
            .log(id)
            .await
            .unwrap()
            .iter()
            .any(|line| line.what == "adopted")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_recover_one_purchase_one_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let dead = open(&dir, &clock).await;
    let id = paying(&dead, 10_000).await;
    let version = dead.purchase(id).await.unwrap().version;
    drop(dead);
    let ledgers = Arc::new(eight(&dir, &clock).await);
    let mut race = JoinSet::new();
    for n in 0..8 {
        let ledgers = Arc::clone(&ledgers);
        race.spawn(async move {
            // All see it, unless one was so quick that it has taken it.
            let seen = ledgers[n].recoverable().await.unwrap();
            assert!(seen.len() <= 1);
            ledgers[n].adopt(id, version).await
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) = race.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
}

#[tokio::test]
async fn what_this_process_drives_is_not_recovered_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let new = new_purchase();
    let guard = ledger.drive(new.id).unwrap();
    assert!(
        ledger.clone().drive(new.id).is_none(),
        "clones share the list"
    );
    let id = opened(&ledger, new).await.id;
    assert!(ledger.recoverable().await.unwrap().is_empty());
    drop(guard);
    assert_eq!(ledger.recoverable().await.unwrap().len(), 1);
    let _guard = ledger.drive(id).unwrap();
    assert!(ledger.recoverable().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_over_is_not_recovered_but_what_was_not_delivered_is() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let dead = open(&dir, &clock).await;
    for status in [
        Status::Open,
        Status::Delivered,
        Status::Undelivered,
        Status::Failed,
    ] {
        let new = NewPurchase {
            state: state(status),
            ..new_purchase()
        };
        opened(&dead, new).await;
    }
    drop(dead);
    let found = open(&dir, &clock).await.recoverable().await.unwrap();
    let statuses: Vec<Status> = found.into_iter().map(|it| it.state.status).collect();
    assert_eq!(statuses, [Status::Open, Status::Undelivered]);
}

#[tokio::test]
async fn an_owner_file_that_vanished_means_dead_and_the_next_one_clears_up() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ours = open(&dir, &clock).await;
    let id = paying(&ours, 10_000).await;
    let lock = dir
        .path()
        .join("owners")
        .join(format!("{}.lock", ours.owner()));
    std::fs::remove_file(&lock).unwrap();
    let other = open(&dir, &clock).await;
    let version = ours.purchase(id).await.unwrap().version;
    other.adopt(id, version).await.unwrap();
    // Who lost its purchase is told, and changes nothing any more.
    assert!(matches!(
        commit(&ours, id, vec![settle(10_000)]).await,
        Err(LedgerError::Conflict(_))
    ));
    drop((ours, other));
    let left = std::fs::read_dir(dir.path().join("owners")).unwrap();
    assert_eq!(left.count(), 0);
}

const CHILD_FOLDER: &str = "AGENT_COMPUTE_TEST_LEDGER";

/// Not a test of its own: the other process of the one below.
#[tokio::test]
#[ignore = "is run as a child process"]
async fn child_that_holds_a_purchase() {
    #[expect(clippy::disallowed_methods, reason = "how its parent tells it")]
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else {
        return;
    };
    let ledger = Ledger::open(folder.as_ref(), Clock::fixed(NOON))
        .await
        .unwrap();
    paying(&ledger, 10_000).await;
    println!("\nholding");
    // Until it is killed, or its parent is gone.
    let _ = std::io::stdin().lines().next();
}

#[tokio::test]
async fn a_killed_process_leaves_its_purchase_to_be_recovered_and_its_money_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ledger::races::child_that_holds_a_purchase"])
        .args(["--ignored", "--nocapture"])
        .env(CHILD_FOLDER, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(
        output
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "holding")
    );

    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    assert!(ledger.recoverable().await.unwrap().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let found = ledger.recoverable().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(usage(&ledger, None).await.reserved, Msat::new(10_000));
    ledger.adopt(found[0].id, found[0].version).await.unwrap();
}

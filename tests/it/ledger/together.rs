//! Writes that wait at the same time share a commit, and have nothing else in common.

use std::path::PathBuf;

use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::*;

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("ledger.sqlite")
}

/// Somebody else's lock on the file, so that what is asked for meanwhile waits together.
struct Held(Connection);

impl Held {
    fn on(dir: &TempDir) -> Self {
        let db = Connection::open(file(dir)).unwrap();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(db)
    }

    fn let_go(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// Commits in the write-ahead log: frames that say how large the file is after them.
fn commits(dir: &TempDir) -> usize {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = std::fs::read(dir.path().join("ledger.sqlite-wal")).unwrap();
    let frames = log[HEADER..].chunks_exact(FRAME);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

/// Runs all of these at once, behind a lock that goes when all wait.
async fn behind_a_lock<T: Send + 'static>(
    dir: &TempDir,
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let held = Held::on(dir);
    let mut under_way: Vec<_> = Vec::new();
    let mut set = JoinSet::new();
    for task in tasks {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        under_way.push(has_begun);
        set.spawn(async move {
            let mut task = Box::pin(task);
            // It waits from its first poll on.
            let first = futures_util::poll!(&mut task);
            begun.send(()).unwrap();
            match first {
                std::task::Poll::Ready(done) => done,
                std::task::Poll::Pending => task.await,
            }
        });
    }
    join_all(under_way).await;
    held.let_go();
    set.join_all().await
}

#[tokio::test]
async fn what_waits_at_the_same_time_is_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    opened(&ledger, new_purchase()).await;
    let before = commits(&dir);
    let many = (0..40).map(|_| {
        let ledger = ledger.clone();
        async move { opened(&ledger, new_purchase()).await.id }
    });
    let ids = behind_a_lock(&dir, many).await;
    let shared = commits(&dir) - before;
    assert!(
        (1..=3).contains(&shared),
        "{shared} commits for 40 purchases"
    );
    for id in ids {
        assert_eq!(ledger.purchase(id).await.unwrap().version, 1);
    }
}

#[tokio::test]
async fn what_is_refused_among_them_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(opened(&ledger, new_purchase()).await.id);
    }
    let many = ids.clone().into_iter().map(|id| {
        let ledger = ledger.clone();
        async move {
            let entries = vec![
                Entry::Note("about to pay".to_owned()),
                Entry::Reserve(reserve(15_000)),
            ];
            ledger.commit(id, 1, state(Status::Open), entries).await
        }
    });
    let answers = behind_a_lock(&dir, many).await;
    // A day's 100,000 have room for six of them.
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6);
    let mut reserved = 0;
    for id in ids {
        let record = ledger.purchase(id).await.unwrap();
        let lines = ledger.log(id).await.unwrap().len();
        match record.reservation {
            Some(_) => {
                reserved += 1;
                assert_eq!((record.version, lines), (2, 3));
            }
            None => assert_eq!((record.version, lines), (1, 1), "nothing of it is left"),
        }
    }
    assert_eq!(reserved, 6);
    assert_eq!(usage(&ledger, None).await.reserved, Msat::new(90_000));
}

#[tokio::test]
async fn what_the_file_fails_at_is_told_to_the_one_and_the_others_stand() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    opened(&ledger, new_purchase()).await;
    let bug = "CREATE TRIGGER bug BEFORE INSERT ON purchases WHEN NEW.tick = 'bad'
               BEGIN SELECT RAISE(ROLLBACK, 'a bug'); END";
    Connection::open(file(&dir))
        .unwrap()
        .execute_batch(bug)
        .unwrap();
    let many = (0..20).map(|nth| {
        let ledger = ledger.clone();
        let tick = if nth == 11 { "bad" } else { "good" };
        let new = NewPurchase {
            tick: Some(tick.to_owned()),
            ..new_purchase()
        };
        async move { (new.id, tick, ledger.open_purchase(new).await) }
    });
    for (id, tick, answer) in behind_a_lock(&dir, many).await {
        let there = ledger.purchase(id).await;
        match answer {
            Ok(_) => assert_eq!((tick, there.unwrap().version), ("good", 1)),
            Err(LedgerError::Storage { problem, .. }) => {
                assert_eq!(tick, "bad");
                assert!(problem.contains("a bug"), "{problem}");
                assert!(matches!(there, Err(LedgerError::NotFound(_))));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn who_gives_up_waiting_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let held = Held::on(&dir);
    let (first, dropped, last) = (new_purchase(), new_purchase(), new_purchase());
    let ids = [first.id, dropped.id, last.id];
    let mut at_work = Box::pin(ledger.open_purchase(first));
    assert!(futures_util::poll!(&mut at_work).is_pending());
    {
        let mut waiting = Box::pin(ledger.open_purchase(dropped));
        assert!(futures_util::poll!(&mut waiting).is_pending());
    }
    let mut waits = Box::pin(ledger.open_purchase(last));
    assert!(futures_util::poll!(&mut waits).is_pending());
    held.let_go();
    let (one, other) = tokio::join!(at_work, waits);
    assert!(matches!(
        (one, other),
        (Ok(Opened::New(_)), Ok(Opened::New(_)))
    ));
    let mut there = Vec::new();
    for id in ids {
        there.push(ledger.purchase(id).await.is_ok());
    }
    assert_eq!(there, [true, false, true]);
}

#[tokio::test]
async fn a_lock_that_stays_keeps_all_of_them_waiting_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    opened(&ledger, new_purchase()).await;
    let held = Held::on(&dir);
    // The first waits its ten seconds alone, and those behind it theirs together; one by one they would take 80.
    let answers = join_all((0..8).map(|_| ledger.open_purchase(new_purchase())));
    let answers = tokio::time::timeout(std::time::Duration::from_secs(60), answers).await;
    for answer in answers.expect("they wait together") {
        assert!(
            matches!(&answer, Err(LedgerError::Storage { problem, .. }) if problem.contains("locked")),
            "{answer:?}"
        );
    }
    held.let_go();
    opened(&ledger, new_purchase()).await;
}

//! What a look at a ledger says: the check-up, what is set aside, who lives, and what is on its file.

use std::fs;
use std::time::Duration;

use agent_compute::ledger::check_up;
use agent_compute::look::Soundness;
use nostr::Keys;
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn doubt() -> Entry {
    Entry::Unknown {
        reason: "no answer".to_owned(),
    }
}

#[tokio::test]
async fn a_check_up_says_what_is_open_in_doubt_and_who_has_it_open() {
    let dir = TempDir::new().unwrap();
    assert_eq!(check_up(dir.path(), LONG).unwrap(), None);
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let other = open(&dir, &Clock::fixed(NOON)).await;
    opened(&ledger, new_purchase()).await;
    for _ in 0..2 {
        let id = paying(&ledger, 1_000).await;
        commit(&ledger, id, vec![doubt()]).await.unwrap();
    }
    paying(&ledger, 500).await;
    for (price, status) in [(700, Status::Undelivered), (800, Status::Delivered)] {
        let id = paying(&ledger, price).await;
        let version = ledger.purchase(id).await.unwrap().version;
        let done = ledger.commit(id, version, state(status), vec![settle(price)]);
        done.await.unwrap();
    }
    let found = check_up(dir.path(), LONG).unwrap().unwrap();
    assert!(found.version > 0);
    assert_eq!(found.version, found.latest_version);
    assert_eq!(found.soundness, Soundness::Sound);
    assert_eq!(found.time, NOON);
    assert_eq!((found.open, found.undelivered, found.in_doubt), (4, 1, 2));
    assert_eq!(found.reserved, Msat::new(2_500));
    // Two handles of this very process.
    assert_eq!(found.users.len(), 2);
    if cfg!(target_os = "linux") {
        let us = Some(std::process::id());
        assert!(found.users.iter().all(|user| *user == us), "{found:?}");
    }
    drop(other);
    // One that is kept stays, whoever drops it.
    ledger.keep_until_exit();
    assert_eq!(check_up(dir.path(), LONG).unwrap().unwrap().users.len(), 1);
}

#[tokio::test]
async fn a_file_that_was_made_and_never_written_is_looked_at_too() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("ledger.sqlite"), []).unwrap();
    let found = check_up(dir.path(), LONG).unwrap().unwrap();
    assert_eq!((found.version, found.users.len()), (0, 0));
    assert!(found.latest_version > 0);
}

#[tokio::test]
async fn what_is_set_aside_counts_until_it_is_decided() {
    let dir = TempDir::new().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let reserved = async |id| ledger.purchase(id).await.unwrap().reserved().get();
    let id = opened(&ledger, new_purchase()).await.id;
    assert_eq!(reserved(id).await, 0);
    let with_fee = Reserve {
        fee_cap: Msat::new(70),
        ..reserve(1_000)
    };
    commit(&ledger, id, vec![Entry::Reserve(with_fee)])
        .await
        .unwrap();
    for entry in [None, Some(Entry::InFlight), Some(doubt())] {
        commit(&ledger, id, entry.into_iter().collect())
            .await
            .unwrap();
        assert_eq!(reserved(id).await, 1_070);
    }
    commit(&ledger, id, vec![settle(1_000)]).await.unwrap();
    assert_eq!(reserved(id).await, 0);
    let id = paying(&ledger, 500).await;
    commit(&ledger, id, vec![release()]).await.unwrap();
    assert_eq!(reserved(id).await, 0);
}

#[tokio::test]
async fn who_was_sent_a_sealed_request_is_remembered_for_good() {
    let dir = TempDir::new().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    assert!(ledger.sealing_providers().await.unwrap().is_empty());
    let keys: Vec<_> = (0..2).map(|_| Keys::generate().public_key()).collect();
    for key in [keys[0], keys[1], keys[0]] {
        ledger.remember_sealing(key).await.unwrap();
    }
    drop(ledger);
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let known = ledger.sealing_providers().await.unwrap();
    assert_eq!(known, keys.into_iter().collect());
}

#[tokio::test]
async fn an_empty_ledger_is_read_where_there_is_none_and_nowhere_else() {
    let dir = TempDir::new().unwrap();
    let nothing = Ledger::open_read_only(&dir.path().join("none"), Clock::fixed(NOON)).await;
    assert_eq!(nothing.unwrap().time().await.unwrap(), NOON);
    // A file stands where its folder must be: what is in there nobody can tell.
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let there = Ledger::open_read_only(&file, Clock::fixed(NOON)).await;
    assert!(
        matches!(there, Err(LedgerError::Storage { .. })),
        "{there:?}"
    );
}

#[tokio::test]
async fn a_file_that_lost_its_version_is_damaged_and_not_newer() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir, &Clock::fixed(NOON)).await);
    let file = dir.path().join("ledger.sqlite");
    for (version, words) in [
        (0, "it is damaged"),
        (-1, "it is damaged"),
        (1_000, "newer version"),
    ] {
        let db = Connection::open(&file).unwrap();
        db.pragma_update(None, "user_version", version).unwrap();
        drop(db);
        let refused = Ledger::open(dir.path(), Clock::fixed(NOON))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains(words), "{version}: {refused}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_copy_that_others_may_read_is_made_private_and_nothing_is_made_writable() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    drop(open(&dir, &Clock::fixed(NOON)).await);
    let file = dir.path().join("ledger.sqlite");
    for (before, after) in [
        (0o644, 0o600),
        (0o640, 0o600),
        (0o604, 0o600),
        (0o400, 0o400),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(before)).unwrap();
        // Who may not write to it can't open it, which is not what this is about.
        let _ = Ledger::open(dir.path(), Clock::fixed(NOON)).await;
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, after, "{before:o} became {mode:o}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_that_another_process_has_for_a_moment_is_waited_for() {
    // Whoever writes, and whoever only reads: for the second, SQLite waits for nobody by itself.
    for held in ["BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM sqlite_schema"] {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("ledger.sqlite");
        let other = Connection::open(&file).unwrap();
        other.execute_batch(held).unwrap();
        let mut opening = JoinSet::new();
        let folder = dir.path().to_owned();
        opening.spawn(async move { Ledger::open(&folder, Clock::fixed(NOON)).await });
        // Long enough for it to find the file taken; if it comes later, this shows less and fails not.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(opening.try_join_next().is_none(), "{held}");
        other.execute_batch("ROLLBACK").unwrap();
        let ledger = opening.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(ledger.time().await.unwrap(), NOON);
    }
}

#[test]
fn a_state_is_not_shown_with_what_is_in_it() {
    let row = StateRow {
        json: r#"{"preimage":"secret"}"#.to_owned(),
        ..state(Status::Open)
    };
    let shown = format!("{row:?}");
    assert!(shown.contains("open") && shown.contains("21"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_day_whose_sum_is_not_what_its_payments_come_to_is_damage() {
    let dir = TempDir::new().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    for price in [700, 1_000] {
        let id = paying(&ledger, price).await;
        commit(&ledger, id, vec![settle(price)]).await.unwrap();
    }
    // Set aside and settled in one step.
    let id = opened(&ledger, new_purchase()).await.id;
    let entries = vec![Entry::Reserve(reserve(300)), Entry::InFlight, settle(300)];
    commit(&ledger, id, entries).await.unwrap();
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(2_000));
    let well = check_up(dir.path(), LONG).unwrap().unwrap();
    assert_eq!(well.soundness, Soundness::Sound);
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    for less in [
        "UPDATE days SET low = low - 1",
        "DELETE FROM days",
        "UPDATE days SET day = day - 1",
    ] {
        assert!(db.execute(less, []).is_err(), "{less}");
    }
    db.execute_batch("DROP TRIGGER days_only_grow; UPDATE days SET low = low - 1")
        .unwrap();
    let found = check_up(dir.path(), LONG).unwrap().unwrap();
    assert!(
        matches!(&found.soundness, Soundness::Damaged(what) if what.contains("spent on a day")),
        "{found:?}"
    );
}

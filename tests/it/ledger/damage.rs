//! Files that are damaged, foreign, newer, or not where they should be.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::*;

async fn problem(dir: &Path) -> String {
    match Ledger::open(dir, Clock::fixed(NOON)).await {
        Err(LedgerError::Storage { path, problem }) => {
            assert!(path.ends_with("ledger.sqlite"), "{path}");
            problem
        }
        other => panic!("expected a storage error: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_ledger_is_refused_with_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ledger.sqlite");
    let text = "These are my notes, and not a database at all.\n".repeat(50);
    fs::write(&file, &text).unwrap();
    assert!(problem(dir.path()).await.contains("not a ledger"));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        text,
        "it is left as it was"
    );

    fs::remove_file(&file).unwrap();
    Connection::open(&file)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x); PRAGMA user_version = 1;")
        .unwrap();
    assert!(problem(dir.path()).await.contains("another program's"));
}

#[tokio::test]
async fn an_older_ledger_is_refused_on_the_word_of_one_who_has_only_opened_the_newer() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    drop(open(&dir, &clock).await);
    let file = dir.path().join("ledger.sqlite");
    let older = fs::read(&file).unwrap();
    let newer = open(&dir, &clock).await;
    paying(&newer, 1_000).await;
    drop(newer);
    let living = open(&dir, &clock).await;
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("ledger.sqlite{end}")));
    }
    fs::write(&file, older).unwrap();
    let problem = problem(dir.path()).await;
    assert!(problem.contains("lacks what was last written"), "{problem}");
    drop(living);
}

#[tokio::test]
async fn a_newer_ledger_asks_for_a_newer_program() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir, &Clock::fixed(NOON)).await);
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let problem = problem(dir.path()).await;
    assert!(
        problem.contains("newer version of agent-compute"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_folder_that_can_not_be_one_is_named_with_what_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("occupied");
    fs::write(&file, "").unwrap();
    for folder in [file.clone(), file.join("deeper")] {
        let problem = problem(&folder).await;
        assert!(problem.contains("choose another home"), "{problem}");
    }
    let odd = dir.path().join("odd");
    fs::create_dir_all(odd.join("ledger.sqlite")).unwrap();
    let problem = problem(&odd).await;
    assert!(problem.contains("can't be opened for writing"), "{problem}");
}

#[tokio::test]
async fn damaged_pages_are_an_error_and_never_a_budget() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    for _ in 0..5 {
        paying(&ledger, 20_000).await;
    }
    drop(ledger);
    let file = dir.path().join("ledger.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    let pages = bytes.len() / 4096;
    assert!(pages > 4);
    // All but the first page, which the schema is in.
    bytes[2 * 4096..].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    let answer = match Ledger::open(dir.path(), clock).await {
        Err(error) => Err(error),
        Ok(ledger) => ask(&ledger, None, reserve(1)).await,
    };
    match answer {
        Err(LedgerError::Storage { problem, .. }) => {
            assert!(problem.contains("damaged"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_value_that_was_never_written_is_an_error_and_not_a_guess() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = opened(&ledger, new_purchase()).await.id;
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    db.execute("UPDATE purchases SET network = 'moonnet'", [])
        .unwrap();
    match ledger.purchase(id).await {
        Err(LedgerError::Storage { problem, .. }) => {
            assert!(problem.contains("damaged"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_file_itself_refuses_to_forget_money() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 10_000).await;
    commit(&ledger, id, vec![settle(10_000)]).await.unwrap();
    paying(&ledger, 10_000).await;
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    for forgery in [
        "UPDATE reservations SET status = 'released', spent_msat = NULL WHERE status = 'settled'",
        "UPDATE reservations SET spent_msat = 1 WHERE status = 'settled'",
        "UPDATE reservations SET status = 'released' WHERE status = 'in_flight'",
        "UPDATE reservations SET status = 'settled', closed_at = 1 WHERE status = 'in_flight'",
        "UPDATE reservations SET price_msat = 1 WHERE status = 'in_flight'",
        "UPDATE reservations SET status = 'gone'",
        "DELETE FROM reservations",
        "DELETE FROM purchases",
        "DELETE FROM log",
        "UPDATE log SET note = ''",
        "INSERT INTO ledger_time VALUES (2, 0)",
    ] {
        assert!(db.execute(forgery, []).is_err(), "{forgery}");
    }
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(10_000));
}

#[tokio::test]
async fn reading_where_there_is_no_ledger_finds_nothing_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let ledger = Ledger::open_read_only(&home, Clock::fixed(NOON))
        .await
        .unwrap();
    assert_eq!(usage(&ledger, Some("t")).await, Usage::default());
    let query = HistoryQuery {
        scope: None,
        limit: 9,
    };
    assert!(ledger.history(query).await.unwrap().is_empty());
    assert!(ledger.recoverable().await.unwrap().is_empty());
    assert!(matches!(
        ledger.find("ab").await,
        Err(LedgerError::NotFound(_))
    ));
    assert!(!home.exists());
}

#[tokio::test]
async fn a_ledger_opened_for_reading_reads_what_others_write_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let writer = open(&dir, &clock).await;
    let reader = Ledger::open_read_only(dir.path(), clock).await.unwrap();
    let id = paying(&writer, 10_000).await;
    assert_eq!(usage(&reader, None).await.reserved, Msat::new(10_000));
    assert_eq!(reader.owner(), "");
    assert!(reader.owner_lives(writer.owner()).await);
    let version = reader.purchase(id).await.unwrap().version;
    assert!(matches!(
        reader.open_purchase(new_purchase()).await,
        Err(LedgerError::Illegal(_))
    ));
    assert!(matches!(
        reader.adopt(id, version).await,
        Err(LedgerError::Illegal(_))
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_user_can_read_a_ledger() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home").join("customer");
    let clock = Clock::fixed(NOON);
    let ledger = Ledger::open(&home, clock.clone()).await.unwrap();
    paying(&ledger, 10_000).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("owners")), 0o700);
    let mut files = vec![home.join("owners").join(format!("{}.lock", ledger.owner()))];
    for name in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        files.push(home.join(name));
    }
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(ledger);
    // As a backup may have been put back.
    let file = home.join("ledger.sqlite");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Ledger::open(&home, clock).await.unwrap());
    assert_eq!(mode(&file), 0o600);
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_may_not_be_written_to_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(dir.path().join("probe"), "").is_ok() {
        println!(
            "SKIPPED: this user may write anywhere, so no folder can be made read-only for it"
        );
        return;
    }
    assert!(problem(dir.path()).await.contains("allowed to write"));
}

//! Ledgers of the first version, which kept no record of providers.

use std::path::Path;
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::ledger::{HistoryQuery, Ledger, Limits, Scope, check_up};
use agent_compute::look::Soundness;
use agent_compute::protocol::record::{Outcome, Record};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::PublicKey;
use rusqlite::Connection;

use crate::harness::{World, run};

/// Written by the program as it was then; see its head.
const LEDGER: &str = include_str!("../../fixtures/ledger-1.sql");
/// Whom it bought from.
const PROVIDER: &str = "2856c203432b7d9fc207e14cac1ddd5df7a9f7aa304bafa6cf93a38d042b40c6";

fn write(folder: &Path) -> Connection {
    std::fs::create_dir_all(folder).unwrap();
    let db = Connection::open(folder.join("ledger.sqlite")).unwrap();
    db.execute_batch(LEDGER).unwrap();
    db
}

async fn record(folder: &Path) -> Record {
    let ledger = Ledger::open_read_only(folder, Clock::system())
        .await
        .unwrap();
    let scope = Scope {
        network: Network::Regtest,
        play_money: true,
    };
    let provider = PublicKey::from_hex(PROVIDER).unwrap();
    let mut known = ledger.records(scope, vec![provider]).await.unwrap();
    known.remove(&provider).unwrap_or_default()
}

fn counts(record: &Record) -> [u64; 5] {
    Outcome::ALL.map(|outcome| record.count(outcome))
}

#[tokio::test]
async fn what_an_old_ledger_spent_still_counts() {
    let dir = tempfile::tempdir().unwrap();
    let db = write(dir.path());
    let (at, spent): (u64, u64) = db
        .query_row(
            "SELECT max(closed_at), sum(spent_msat) FROM reservations
             WHERE status = 'settled'
             AND closed_at / 86400 = (SELECT max(closed_at) / 86400 FROM reservations)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    drop(db);
    assert!(spent > 0);
    let clock = Clock::fixed(UnixSecs::new(at));
    let ledger = Ledger::open(dir.path(), clock).await.unwrap();
    let scope = Scope {
        network: Network::Regtest,
        play_money: true,
    };
    let limits = Limits {
        daily: Msat::MAX,
        per_tick: Msat::MAX,
        per_job: Msat::MAX,
        floor: Msat::ZERO,
    };
    let report = ledger.budget(scope, None, limits).await.unwrap();
    assert_eq!(report.usage.spent_today, Msat::new(spent));
    let found = check_up(dir.path(), Duration::from_secs(60))
        .unwrap()
        .unwrap();
    assert_eq!(found.soundness, Soundness::Sound);
}

#[tokio::test]
async fn finished_purchases_of_an_old_ledger_are_counted_as_far_as_they_tell() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path()));
    // Twice: the second time there is nothing to migrate.
    for _ in 0..2 {
        let kept = record(dir.path()).await;
        // Two results, one paid for nothing, one refusal. That no answer came in time could also have been
        // our wallet then, and what the wallet refused to pay is nobody's fault.
        assert_eq!(counts(&kept), [2, 1, 1, 0, 0]);
        let thief = kept
            .recent
            .iter()
            .find(|past| past.outcome == Outcome::Undelivered);
        let thief = thief.unwrap();
        assert_eq!(thief.at, UnixSecs::new(1_795_223_195));
        assert_eq!(
            (thief.price, thief.listed),
            (Msat::new(10_000), Some(Msat::new(10_000)))
        );
        assert_eq!(thief.first_token_ms, None);
    }
}

#[tokio::test]
async fn what_is_damaged_in_an_old_ledger_is_not_counted_and_keeps_nobody_out() {
    for (what, state) in [
        ("no JSON", "'{\"v\":1,'"),
        ("something else", "'[1,2]'"),
        ("no provider", "json_remove(state, '$.terms.provider')"),
        ("a number", "json_set(state, '$.terms.provider', 7)"),
        ("a short key", "json_set(state, '$.terms.provider', 'abc')"),
        (
            "no hex",
            "json_set(state, '$.terms.provider', printf('%064s', 'Z'))",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let db = write(dir.path());
        let damage = format!("UPDATE purchases SET state = {state} WHERE status = 'undelivered'");
        assert_eq!(db.execute(&damage, []).unwrap(), 1);
        drop(db);
        assert_eq!(counts(&record(dir.path()).await), [2, 0, 1, 0, 0], "{what}");
        let ledger = Ledger::open(dir.path(), Clock::system()).await.unwrap();
        let query = HistoryQuery {
            scope: None,
            limit: 99,
        };
        assert_eq!(ledger.history(query).await.unwrap().len(), 7);
    }
    // A strange listed price is left out, the rest is told.
    for price in ["-1", "1.5", "'much'", "18446744073709551615"] {
        let dir = tempfile::tempdir().unwrap();
        let db = write(dir.path());
        db.execute_batch(&format!(
            "UPDATE purchases SET state = json_set(state, '$.terms.listed', json('{}'))",
            price.replace('\'', "\"")
        ))
        .unwrap();
        drop(db);
        let kept = record(dir.path()).await;
        assert_eq!(counts(&kept), [2, 1, 1, 0, 0], "{price}");
        assert!(kept.recent.iter().all(|past| past.listed.is_none()));
    }
}

#[test]
fn the_programs_take_over_an_old_home() {
    let world = World::new();
    let home = world.home("buyer").join("customer");
    drop(write(&home));
    let seller = world.provider("seller", &[]);
    world
        .buy("buyer", &["--select", "best", "--prompt", "hello"])
        .expect(0);
    let history = run(&mut world.customer("buyer", &["--json", "history"])).expect(0);
    assert_eq!(history.events().len(), 8);
    let seen = super::providers(&world, "buyer", &[]);
    assert_eq!(super::record_of(&seen, &seller.pubkey)["delivered"], 1);
}

//! Receipts of real purchases, and what becomes of them in other hands.

mod forged;
mod kept;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use agent_compute::purchase::receipt::Outcome;
use agent_compute::purchase::receipt::verify::{Row, Verified};
use rusqlite::{Connection, OpenFlags};

use crate::harness::{Provider, Ran, World, run};

/// Every receipt in this ledger holds, all of them are one unbroken row of each customer, and the one that holds
/// of each purchase says what the purchase and its money say. No other purchase has one. Gives them in order.
#[track_caller]
pub(crate) fn assert_receipts(ledger: &Path) -> Vec<Verified> {
    let db = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let (mut row, mut receipts) = (Row::default(), Vec::new());
    let mut all = db
        .prepare("SELECT json FROM receipts ORDER BY seq")
        .unwrap();
    for json in all.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let json = json.unwrap();
        let receipt = row
            .take(&json)
            .unwrap_or_else(|why| panic!("{why}: {json}"));
        receipts.push(receipt);
    }
    assert!(row.begins_at().is_none_or(|first| first == 1));
    let mut standing = HashMap::new();
    for receipt in &receipts {
        let it = &receipt.statement;
        standing.insert(it.purchase_id.to_string(), it);
    }
    let mut purchases = db
        .prepare(
            "SELECT id, label, r.status, spent_msat, state FROM purchases p
             LEFT JOIN reservations r ON r.purchase = p.seq",
        )
        .unwrap();
    let purchases = purchases.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, Option<String>>(2)?,
            row.get::<_, Option<u64>>(3)?,
            row.get::<_, String>(4)?,
        ))
    });
    for purchase in purchases.unwrap() {
        let (id, label, money, spent, state) = purchase.unwrap();
        // Withheld: undelivered, and its money is not decided.
        let is_over = label == "delivered"
            || (label == "undelivered"
                && !matches!(money.as_deref(), Some("in_flight" | "unknown")));
        let Some(receipt) = standing.remove(&id) else {
            assert!(!is_over, "{id} is {label} and has no receipt: {state}");
            continue;
        };
        let outcome = match receipt.outcome {
            Outcome::Delivered => "delivered",
            Outcome::Undelivered => "undelivered",
        };
        assert_eq!(outcome, label, "{id}");
        let paid = receipt.payment.as_ref().map_or(0, |it| it.paid_msat.get());
        assert_eq!(paid, spent.unwrap_or(0), "{id}");
    }
    assert!(standing.is_empty(), "receipts of no purchase: {standing:?}");
    receipts
}

/// A world, a seller in it, and an agent who has bought in each way there is.
fn somebody_who_bought() -> (World, Provider) {
    let world = World::new();
    let seller = world.provider("seller", &["--stream"]);
    for (prompt, way) in [("one", ""), ("two", "--htlc"), ("three", "--plaintext")] {
        let args = ["--prompt", prompt, way];
        let args: Vec<_> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        world.buy("agent", &args).expect(0);
    }
    (world, seller)
}

/// `agent-customer receipt …`, of this home, with nothing but the home.
fn receipt(world: &World, home: &str, args: &[&str]) -> Ran {
    run(&mut world.bare_customer(home, &[&["receipt"], args].concat()))
}

/// The lines of `receipt export`.
fn exported(world: &World, home: &str) -> Vec<String> {
    let ran = receipt(world, home, &["export"]).expect(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

/// Verifies these lines as a file, with a home that knows nothing.
fn verify(world: &World, lines: &[String], more: &[&str]) -> Ran {
    let file = world.dir.path().join("receipts.ndjson");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let args = ["--json", "verify", file.to_str().unwrap()];
    receipt(world, "a stranger", &[&args, more].concat())
}

/// What is wrong, in the words of `receipt verify`.
#[track_caller]
fn problem(ran: Ran) -> String {
    let error = ran.expect(14).last();
    assert_eq!(error["code"], "bad_receipt");
    error["message"].as_str().unwrap().to_owned()
}

//! Crashes and races: real processes are killed, stopped and crowded at moments of chance, and afterwards
//! the ledger, the bank and the seller must tell one story, to the millisatoshi.
//!
//! Chance comes from a seed, which each test prints: `CRASH_SEED=N` repeats its choices (the moments are
//! the machine's), `CRASH_ROUNDS=N` makes the killings go on for longer. `CRASH_MATRIX=all` runs each row of
//! the [`matrix`] in each way.

mod crowd;
mod escrow;
mod killed;
mod library;
mod matrix;
mod spoiled_ledger;
mod spoiled_wallet;
mod stopped;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use serde_json::Value;

use crate::env::number;
use crate::harness::{Ran, Running, World, assert_conserved, run};
use crate::receipts::assert_receipts;

pub(crate) const PRICE: u64 = 10_000;
pub(crate) const OPENING_BALANCE: u64 = 100_000_000;

/// How often `recover` may be run before it must have settled everything.
const MOST_RECOVERIES: usize = 10;

/// The moments of a test.
pub(crate) struct Moments(StdRng);

impl Moments {
    pub(crate) fn of(test: &str) -> Self {
        let seed = number("CRASH_SEED").unwrap_or(0x5eed);
        println!("{test}: CRASH_SEED={seed}");
        Self(StdRng::seed_from_u64(seed))
    }

    /// Waits for a part of `most`, in tenths of milliseconds.
    pub(crate) fn pass(&mut self, most: Duration) {
        let most = u64::try_from(most.as_micros()).unwrap();
        let wait = Duration::from_micros(self.0.random_range(0..=most));
        std::thread::sleep(wait);
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.0.random_ratio(1, n)
    }
}

pub(crate) fn rounds(usually: u64) -> u64 {
    number("CRASH_ROUNDS").unwrap_or(usually)
}

/// How long one purchase takes here and now, program start included.
pub(crate) fn usual_time(world: &World, home: &str) -> Duration {
    let begun = Instant::now();
    world.buy(home, &["--prompt", "warm up"]).expect(0);
    begun.elapsed()
}

pub(crate) fn recover(world: &World, home: &str) -> Ran {
    run(&mut world.customer(home, &["--json", "recover"]))
}

/// Recovers until nothing is in trouble.
pub(crate) fn settle(world: &World, home: &str) {
    let mut last = None;
    for _ in 0..MOST_RECOVERIES {
        let ran = recover(world, home);
        if ran.code == 0 {
            return;
        }
        last = Some(ran);
    }
    panic!("recover never came to an end: {last:#?}");
}

pub(crate) fn history(world: &World, home: &str) -> Vec<Value> {
    run(&mut world.bare_customer(home, &["--json", "history"]))
        .expect(0)
        .events()
}

pub(crate) fn show(world: &World, home: &str, purchase: &Value) -> Value {
    let id = purchase["purchase_id"].as_str().unwrap();
    run(&mut world.bare_customer(home, &["--json", "show", id]))
        .expect(0)
        .last()
}

pub(crate) fn identity(world: &World, home: &str) -> String {
    let ran = run(&mut world.bare_customer(home, &["--json", "identity", "show"])).expect(0);
    ran.last()["pubkey"].as_str().unwrap().to_owned()
}

/// What this account has paid according to the bank: amount and fee by payment hash.
pub(crate) fn paid_at_bank(world: &World, pubkey: &str) -> BTreeMap<String, u64> {
    let bank = Connection::open(world.bank()).unwrap();
    let mut payments = bank
        .prepare(
            "SELECT lower(hex(payment_hash)), amount_msat + fee_msat FROM payment
             JOIN account ON account.id = payer WHERE pubkey = ?1 AND state = 'paid'",
        )
        .unwrap();
    let rows = payments.query_map([pubkey], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// The ledger of `home`, the bank and each purchase agree: what is booked is what was paid, payment by
/// payment; nothing is open; what was delivered has its text. Returns what was spent.
pub(crate) fn assert_one_story(world: &World, home: &str) -> u64 {
    assert_conserved(&world.bank());
    assert_receipts(&world.home(home).join("customer/ledger.sqlite"));
    let purchases = history(world, home);
    let mut booked = BTreeMap::new();
    for purchase in &purchases {
        let state = purchase["state"].as_str().unwrap();
        let paid = purchase["paid_msat"].as_u64().unwrap();
        assert_eq!(purchase["reserved_msat"], 0, "{purchase}");
        match state {
            "delivered" => assert!(paid > 0, "{purchase}"),
            "undelivered" => assert!(paid > 0, "{purchase}"),
            "failed" => assert_eq!(paid, 0, "{purchase}"),
            other => panic!("still {other}: {purchase}"),
        }
        if paid > 0 {
            let hash = purchase["payment_hash"].as_str().unwrap().to_owned();
            assert_eq!(booked.insert(hash, paid), None, "one hash, two payments");
        }
    }
    assert_eq!(booked, paid_at_bank(world, &identity(world, home)));
    let spent = booked.values().sum();
    assert_eq!(world.daily(home), (spent, 0, 0));
    assert_eq!(world.balance(home), OPENING_BALANCE - spent);
    spent
}

pub(crate) fn in_state<'a>(purchases: &'a [Value], state: &str) -> Vec<&'a Value> {
    let is = |purchase: &&Value| purchase["state"] == state;
    purchases.iter().filter(is).collect()
}

/// The seller's own list of its jobs.
pub(crate) fn jobs(world: &World, home: &str) -> Vec<Value> {
    run(&mut world.bare_provider(home, &["--json", "jobs"]))
        .expect(0)
        .events()
}

/// The result or the error that a purchase ends with.
pub(crate) fn last_line(buying: &mut Running) -> Value {
    buying.wait_for("the last line", |line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let last = line["event"] == "result" || line["event"] == "error";
        last.then_some(line)
    })
}

pub(crate) fn ledger_file(world: &World, home: &str) -> PathBuf {
    world.home(home).join("customer").join("ledger.sqlite")
}

//! The invariants, read from the files: a buyer's ledger against the bank, payment by payment.

use std::collections::BTreeMap;

use agent_compute::ids::Preimage;

use super::market::{Market, Party};
use super::*;
use crate::receipts::assert_receipts;

/// A purchase as the ledger has it.
#[derive(Debug)]
pub(super) struct Purchase {
    id: String,
    pub(super) label: String,
    reservation: Option<String>,
    payment_hash: Option<String>,
    spent: Option<u64>,
    state: Value,
}

impl Purchase {
    fn text(&self) -> Option<&str> {
        self.state["phase"]["delivered"]["text"].as_str()
    }
}

/// What a buyer's books say, once all of it is checked.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) purchases: Vec<Purchase>,
    /// In msat.
    pub(super) spent: u64,
}

impl Story {
    pub(super) fn labels(&self) -> Vec<&str> {
        let labels = self.purchases.iter().map(|one| one.label.as_str());
        labels.collect()
    }
}

impl Market {
    /// Recovers until nothing is open. With its seller at hand that must not take many runs.
    pub(super) fn recover(&self, buyer: &Party, why: &str) {
        let mut last = None;
        for _ in 0..MOST_RECOVERIES {
            let ended = Ended::of(&mut self.customer(buyer, &["recover"]));
            match ended.status.code() {
                Some(0) => return,
                Some(6) => last = Some(ended),
                _ => panic!("{why}: {ended:#?}"),
            }
        }
        panic!("{why}: recover never came to an end: {last:#?}");
    }

    /// Ledger, bank and limits agree, to the millisatoshi, and nothing is open.
    pub(super) fn story(&self, buyer: &Party, why: &str) -> Story {
        assert_conserved(&self.world.bank());
        assert_receipts(&ledger_file(&self.world, &buyer.home));
        let purchases = self.purchases(buyer);
        let mut booked = BTreeMap::new();
        for purchase in &purchases {
            let reservation = purchase.reservation.as_deref();
            let is_settled = reservation == Some("settled");
            match purchase.label.as_str() {
                "delivered" => {
                    assert_eq!(purchase.text(), Some(TEXT), "{why}: {purchase:#?}");
                    let over = is_settled || reservation == Some("released");
                    assert!(over, "{why}: {purchase:#?}");
                }
                "undelivered" => {
                    assert!(is_settled, "{why}: {purchase:#?}");
                    self.assert_proof_is_shown(buyer, purchase, why);
                }
                "failed" => {
                    let nothing = matches!(reservation, None | Some("released"));
                    assert!(nothing, "{why}: {purchase:#?}");
                }
                other => panic!("{why}: still {other}: {purchase:#?}"),
            }
            if is_settled {
                let hash = purchase.payment_hash.clone().unwrap();
                let before = booked.insert(hash, purchase.spent.unwrap());
                assert_eq!(before, None, "{why}: one hash, two payments");
            }
        }
        let at_bank = paid_at_bank(&self.world, &buyer.key());
        assert_eq!(booked, at_bank, "{why}: ledger and bank");
        assert_eq!(self.held(buyer), 0, "{why}: still held");
        let spent: u64 = booked.values().sum();
        assert!(
            spent <= PRICE,
            "{why}: {spent} is more than the day's limit"
        );
        let gone = OPENING_BALANCE - self.balance(buyer);
        assert_eq!(gone, spent, "{why}: what is missing from the account");
        Story { purchases, spent }
    }

    /// Paid, and nothing came: `show` has the invoice and its preimage.
    fn assert_proof_is_shown(&self, buyer: &Party, purchase: &Purchase, why: &str) {
        let shown = Ended::of(&mut self.customer(buyer, &["show", &purchase.id]));
        let shown = shown.expect(0, why).last();
        assert_eq!(shown["state"], "undelivered", "{why}: {shown}");
        assert_eq!(shown["paid_msat"], PRICE, "{why}: {shown}");
        let preimage: Preimage = shown["preimage"].as_str().unwrap().parse().unwrap();
        let hash = preimage.payment_hash().to_string();
        assert_eq!(shown["payment_hash"], hash, "{why}: no proof: {shown}");
        assert!(shown["bolt11"].is_string(), "{why}: {shown}");
    }

    fn purchases(&self, buyer: &Party) -> Vec<Purchase> {
        let file = ledger_file(&self.world, &buyer.home);
        let ledger = Connection::open(file).unwrap();
        ledger.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut rows = ledger
            .prepare(
                "SELECT id, label, r.status, payment_hash, spent_msat, state FROM purchases p
                 LEFT JOIN reservations r ON r.purchase = p.seq ORDER BY seq",
            )
            .unwrap();
        let rows = rows.query_map([], |row| {
            Ok(Purchase {
                id: row.get(0)?,
                label: row.get(1)?,
                reservation: row.get(2)?,
                payment_hash: row.get(3)?,
                spent: row.get(4)?,
                state: serde_json::from_str(&row.get::<_, String>(5)?).unwrap(),
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn at_bank(&self, sql: &str, of: &Party) -> u64 {
        let bank = Connection::open(self.world.bank()).unwrap();
        bank.busy_timeout(Duration::from_secs(10)).unwrap();
        bank.query_row(sql, [of.key()], |row| row.get(0)).unwrap()
    }

    fn held(&self, buyer: &Party) -> u64 {
        let sql = "SELECT coalesce(sum(amount_msat + fee_msat), 0) FROM payment
             JOIN account ON account.id = payer WHERE pubkey = ?1 AND payment.state = 'held'";
        self.at_bank(sql, buyer)
    }

    /// What is in an account, in msat; the opening balance where there is none yet.
    pub(super) fn balance(&self, of: &Party) -> u64 {
        let sql = "SELECT coalesce(max(balance_msat), 100000000) FROM account WHERE pubkey = ?1";
        self.at_bank(sql, of)
    }

    pub(super) fn earned(&self, seller: &Party) -> u64 {
        self.balance(seller) - OPENING_BALANCE
    }

    /// The states of a seller's jobs, once nothing is left to be done about any of them.
    pub(super) fn jobs_once_over(&self, seller: &Party, why: &str) -> Vec<String> {
        let until = Instant::now() + crate::harness::PATIENCE;
        let over = [
            "delivered",
            "settled",
            "failed",
            "returned",
            "cancelled",
            "quoted",
        ];
        let is_over = |state: &String| over.contains(&state.as_str());
        loop {
            let jobs = self.jobs(seller);
            if !jobs.is_empty() && jobs.iter().all(is_over) {
                return jobs;
            }
            assert!(Instant::now() < until, "{why}: {jobs:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn jobs(&self, seller: &Party) -> Vec<String> {
        let file = self.world.home(&seller.home).join("provider/jobs.sqlite");
        let store = Connection::open(file).unwrap();
        store.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut rows = store
            .prepare("SELECT state FROM jobs ORDER BY rowid")
            .unwrap();
        let rows = rows.query_map([], |row| row.get(0));
        rows.unwrap().map(Result::unwrap).collect()
    }
}

//! What must hold, whoever was in the way: after each attempt, and once everything is settled.

use std::collections::BTreeSet;

use agent_compute::Code;
use agent_compute::cli::text::Cleaner;
use agent_compute::ledger::{PurchaseRecord, ReservationStatus, Status};
use agent_compute::purchase::recover::Recovered;
use agent_compute::purchase::state::State;
use agent_compute::units::Msat;
use agent_compute::wallet::sim::audit;
use agent_compute::wallet::{Incoming, Outgoing, Wallet};

use super::buyer::{Attempt, Books, Buyer};
use super::draw::Scenario;

/// Collects what does not hold.
pub struct Judge<'a> {
    pub scenario: &'a Scenario,
    pub buyer: &'a Buyer,
    pub broken: Vec<String>,
}

impl Judge<'_> {
    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    /// The bank as a whole, and the ledger beside it, at any time.
    pub async fn books(&mut self, when: &str) -> Option<Books> {
        let bank = self.buyer.world.bank();
        let audited = tokio::task::spawn_blocking(move || audit(&bank))
            .await
            .unwrap();
        match audited {
            Ok(audit) => self.must(audit.is_balanced(), || {
                format!("{when}: the bank does not add up: {audit:?}")
            }),
            Err(error) => self.broken.push(format!("{when}: no audit: {error}")),
        }
        let books = match self.buyer.books().await {
            Ok(books) => books,
            Err(error) => {
                self.broken.push(format!("{when}: no books: {error}"));
                return None;
            }
        };
        let Books {
            spent,
            reserved,
            gone,
            ..
        } = books;
        // What left the account is spent, or set aside for that.
        self.must(spent <= gone && gone <= spent + reserved, || {
            format!("{when}: {gone} msat left the account; the ledger has {spent} spent, {reserved} set aside")
        });
        let hashes: Vec<_> = books
            .records
            .iter()
            .filter_map(|one| one.reservation.as_ref())
            .collect();
        let distinct: BTreeSet<_> = hashes
            .iter()
            .map(|one| one.payment_hash.to_string())
            .collect();
        self.must(distinct.len() == hashes.len(), || {
            format!("{when}: a payment hash is in two purchases")
        });
        Some(books)
    }

    /// Right after an attempt.
    pub async fn attempt(&mut self, nth: u64, attempt: &Attempt) {
        let when = format!("after attempt {nth}");
        let end = attempt.end();
        let message = attempt
            .ended
            .as_ref()
            .err()
            .map(|error| error.message().to_owned());
        let scenario = self.scenario;
        self.must(scenario.may_end(nth, end), || {
            format!("{when}: it ended with {end:?} ({message:?})")
        });
        let Some(books) = self.books(&when).await else {
            return;
        };
        let limits = self.buyer.limits;
        let used = books.usage.spent_today.saturating_add(books.usage.reserved);
        self.must(used <= limits.daily_limit, || {
            format!(
                "{when}: {used} are used up, more than {} a day",
                limits.daily_limit
            )
        });
        let of_it: Vec<_> = records_of(&books, attempt).collect();
        self.must(of_it.len() == attempt.purchases.len(), || {
            format!("{when}: of {:?} not all are on record", attempt.purchases)
        });
        self.money_as_told(&when, attempt, &of_it);
        match &attempt.ended {
            Ok(receipt) => self.text(&when, &attempt.prompt, &receipt.text),
            Err(error) => self.clean(&when, error.message()),
        }
    }

    /// What the buyer was told of its money is what the ledger says, and there is a reason for all of it.
    fn money_as_told(&mut self, when: &str, attempt: &Attempt, records: &[&PurchaseRecord]) {
        let (paid, reserved) = match &attempt.ended {
            Ok(receipt) => (receipt.paid_msat, receipt.reserved_msat),
            Err(error) => (error.paid_msat(), error.reserved_msat()),
        };
        // Only the last of those who were asked has anything; that is for the sums to show.
        let sum = |of: fn(&PurchaseRecord) -> Msat| {
            let all = records.iter().map(|record| of(record));
            all.fold(Msat::ZERO, Msat::saturating_add)
        };
        let (spent, aside) = (sum(spent_on), sum(PurchaseRecord::reserved));
        self.must((paid, reserved) == (spent, aside), || {
            format!(
                "{when}: told {paid} paid and {reserved} set aside; on record {spent} and {aside}"
            )
        });
        let limit = self.buyer.limits.per_job_limit;
        self.must(spent.saturating_add(aside) <= limit, || {
            format!("{when}: {spent} and {aside} for one job, more than {limit}")
        });
        let escrow = self.scenario.escrow;
        let (may_be_paid, may_be_aside) = match attempt.end() {
            Ok(()) => (true, escrow),
            Err(Code::Undelivered) => (true, escrow),
            Err(Code::PaymentUnknown) => (false, true),
            Err(Code::Interrupted) => (true, true),
            Err(_) => (false, false),
        };
        let end = attempt.end();
        self.must(may_be_paid || paid.is_zero(), || {
            format!("{when}: {paid} paid, though it ended with {end:?}")
        });
        self.must(may_be_aside || reserved.is_zero(), || {
            format!("{when}: {reserved} set aside, though it ended with {end:?}")
        });
        if end == Err(Code::PaymentUnknown) {
            self.must(!reserved.is_zero(), || {
                format!("{when}: in doubt, and nothing is set aside")
            });
        }
    }

    fn text(&mut self, when: &str, prompt: &str, text: &str) {
        let world = &self.buyer.world;
        let signed = world.was_signed(prompt, text);
        self.must(signed, || {
            format!("{when}: a text that nobody signed as the result of {prompt:?}: {text:.200?}")
        });
        self.clean(when, text);
    }

    /// A terminal sees nothing of it that it would obey.
    fn clean(&mut self, when: &str, text: &str) {
        let shown = Cleaner::default().clean(text);
        let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let bad = shown
            .chars()
            .find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || turns(*c));
        self.must(bad.is_none(), || {
            format!("{when}: a terminal would see {bad:?} of {text:.200?}")
        });
    }

    /// What recovery says.
    pub fn recovered(&mut self, when: &str, found: &[Recovered], attempts: &[Attempt]) {
        for one in found {
            let Some(text) = &one.text else { continue };
            let attempt = attempts
                .iter()
                .find(|attempt| attempt.purchases.contains(&one.purchase_id));
            match attempt {
                Some(attempt) => self.text(when, &attempt.prompt, text),
                None => self
                    .broken
                    .push(format!("{when}: recovered what nobody bought")),
            }
        }
    }

    /// Whether something is paid and not delivered that no seller keeps: then it is only late.
    pub async fn is_owed(&mut self, attempts: &[Attempt]) -> bool {
        let Some(books) = self.books("while a result is late").await else {
            return false;
        };
        (0..).zip(attempts).any(|(nth, attempt)| {
            let lost = records_of(&books, attempt).any(|one| lost_on(one) > 0);
            lost && self.scenario.at_risk(nth) == 0
        })
    }

    /// Once every hold has ended and the wallet answers: nothing is open, and the ledger and the bank say
    /// the same of every payment. Gives what each attempt lost.
    pub async fn settled(&mut self, attempts: &[Attempt]) -> Vec<u64> {
        let when = "in the end";
        let Some(books) = self.books(when).await else {
            return attempts.iter().map(|_| 0).collect();
        };
        self.must(books.reserved == 0, || {
            let open = books.records.iter().filter(|one| !one.reserved().is_zero());
            let states: Vec<_> = open.map(|one| one.state.label.clone()).collect();
            format!(
                "{when}: {} msat are still set aside ({states:?})",
                books.reserved
            )
        });
        self.must(books.gone == books.spent, || {
            format!(
                "{when}: {} msat left the account, {} are booked",
                books.gone, books.spent
            )
        });
        self.payments(&books).await;
        self.traps().await;
        for record in &books.records {
            self.must(record.state.status != Status::Open, || {
                format!("{when}: a purchase is still {}", record.state.label)
            });
        }
        attempts
            .iter()
            .map(|attempt| records_of(&books, attempt).map(lost_on).sum())
            .collect()
    }

    /// What is lost, and why on record, where nothing puts so much at risk.
    pub async fn losses(&mut self, attempts: &[Attempt]) {
        let Some(books) = self.books("in the end").await else {
            return;
        };
        for (nth, attempt) in (0..).zip(attempts) {
            let at_risk = self.scenario.at_risk(nth);
            for record in records_of(&books, attempt).filter(|one| lost_on(one) > at_risk) {
                let state = State::from_row(&record.state).map(|state| state.phase);
                self.broken
                    .push(format!("in the end: attempt {nth} is {state:?}"));
            }
        }
    }

    async fn payments(&mut self, books: &Books) {
        let wallet = self.buyer.wallet(None).await;
        for record in &books.records {
            let Some(reservation) = &record.reservation else {
                continue;
            };
            let at_bank = wallet.outgoing(reservation.payment_hash).await;
            let agrees = match reservation.status {
                ReservationStatus::Settled => matches!(at_bank, Ok(Outgoing::Paid { .. })),
                ReservationStatus::Released => {
                    matches!(at_bank, Ok(Outgoing::Failed(_) | Outgoing::NotFound))
                }
                // Said already.
                _ => true,
            };
            let status = reservation.status;
            self.must(agrees, || {
                format!("in the end: {status:?} in the ledger, and at the bank {at_bank:?}")
            });
        }
    }

    async fn traps(&mut self) {
        for (wallet, hash) in self.buyer.world.traps() {
            let money = wallet.incoming(hash).await;
            let paid = matches!(money, Ok(Incoming::Settled | Incoming::Held { .. }));
            self.must(!paid, || {
                "an invoice was paid that should not be".to_owned()
            });
        }
    }
}

/// What is on record of an attempt.
fn records_of<'a>(
    books: &'a Books,
    attempt: &'a Attempt,
) -> impl Iterator<Item = &'a PurchaseRecord> {
    let of_it = |record: &&PurchaseRecord| attempt.purchases.contains(&record.id);
    books.records.iter().filter(of_it)
}

fn spent_on(record: &PurchaseRecord) -> Msat {
    let spent = record.reservation.as_ref().and_then(|money| money.spent);
    spent.unwrap_or_default()
}

/// What was spent, and nothing came of it.
fn lost_on(record: &PurchaseRecord) -> u64 {
    if record.state.status == Status::Delivered {
        0
    } else {
        spent_on(record).get()
    }
}

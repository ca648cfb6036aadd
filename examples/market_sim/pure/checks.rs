//! What must hold of a purchase after every step, of the money after every happening, and at the end.

use agent_compute::Code;
use agent_compute::ids::PaymentHash;
use agent_compute::ledger::{Entry, ReservationStatus as Is, StateRow, Status};
use agent_compute::protocol::message::{AgentMessage, JobError, JobResult};
use agent_compute::purchase::assembly::Assembly;
use agent_compute::purchase::event::PurchaseEvent;
use agent_compute::purchase::lock::Word;
use agent_compute::purchase::state::{
    Booking, Effect, Finish, Happening, PayBy, Phase, State, Step,
};
use agent_compute::purchase::step::{Now, step};
use agent_compute::units::{Msat, Network, UnixSecs};

use agent_compute::wallet::{FailureProof, Outgoing, PayOutcome};

use super::bank::{Facts, Flight, Party};
use super::evidence::Proof;
use super::world::{LISTED, World};

/// A state as a restart finds it: without what is not on record.
fn as_on_record(state: &State) -> State {
    let mut state = state.clone();
    state.stream = Assembly::default();
    state.shown = 0;
    if let Some(lock) = state.phase.lock_mut() {
        (lock.unanswered, lock.announced) = (false, false);
    }
    state
}

/// The same without what may be lost in a crash, by design: the answer is on the relays still, and that the
/// money is on its way the wallet says again.
fn but_for_what_may_be_lost(state: &State) -> State {
    let mut state = as_on_record(state);
    state.answer = None;
    if let Some(lock) = state.phase.lock_mut()
        && lock.word == Word::Told
    {
        lock.word = Word::InFlight;
    }
    state
}

fn secret_is_in(text: &str, state: &State) -> bool {
    let secret = state.terms.pay_by.preimage();
    secret.is_some_and(|preimage| text.contains(&preimage.reveal()))
}

impl World {
    /// After each step of the machine, before it is on record.
    pub fn check_step(
        &mut self,
        b: usize,
        before: &State,
        after: &State,
        happening: &Happening,
        step: &Step,
        now: Now,
    ) {
        let is_empty = step.entries.is_empty() && step.tell.is_empty() && step.effects.is_empty();
        let unchanged = before == after && is_empty && !step.save;
        if matches!(before.phase, Phase::Delivered { .. } | Phase::Failed { .. }) && !unchanged {
            self.broke("a purchase that is over goes on");
        }
        if let Happening::Message { from, message } = happening {
            let theirs =
                *from == before.terms.provider && message.job_id() == Some(&before.terms.job_id());
            if !theirs && !unchanged {
                self.broke("a message of another author, or about another job, changes a purchase");
            }
        }
        if !step.save && !step.entries.is_empty() {
            self.broke("money is moved by a step that is not put on record");
        }
        if !step.save && but_for_what_may_be_lost(before) != but_for_what_may_be_lost(after) {
            let quoted = matches!(
                (&before.phase, &after.phase),
                (Phase::Requested, Phase::Quoted(_))
            );
            if !quoted {
                self.broke("a step that is not put on record changes what a restart would decide");
            }
        }
        self.check_pay(before, after, step, now);
        self.check_entries(b, before, happening, step, now);
        self.check_secret(b, before, after, happening, step);
        if let Phase::Delivered { text, .. } | Phase::Released { text, .. } = &after.phase
            && text.is_empty()
        {
            self.broke("nothing is delivered as a result");
        }
        if matches!(after.phase, Phase::Delivered { .. } | Phase::Failed { .. }) {
            self.check_over(after, now);
        }
        if matches!(before.phase, Phase::Paying(_) | Phase::Unknown { .. })
            && let Phase::Undelivered { quote, .. } = &after.phase
            && self.buyers[b].heard.has_result(quote.modern)
        {
            self.broke("a result is here, and the buyer is told that there is none");
        }
        let ordered = self.buyers[b].order.is_some();
        self.buyers[b].proof_before = self.buyers[b].proof;
        self.buyers[b]
            .proof
            .hear(happening, before, now.at, ordered);
        if step.effects.contains(&Effect::Pay) {
            // From here on, so is the order; the driver gives it once this is on record.
            self.buyers[b].proof = Proof::default();
        }
        self.check_fair_quote(before, after, happening, now);
    }

    /// A purchase that is over stays as it is, whatever comes too late.
    fn check_over(&mut self, over: &State, now: Now) {
        let proof = || FailureProof::new("late");
        let job_id = over.terms.job_id();
        let says = |message| Happening::Message {
            from: over.terms.provider,
            message,
        };
        let late = [
            says(AgentMessage::JobResult(JobResult {
                job_id: job_id.clone(),
                result: "late".to_owned(),
            })),
            says(AgentMessage::JobError(JobError::new(
                job_id, "failed", "late",
            ))),
            Happening::PayAnswered(PayOutcome::Failed(proof())),
            Happening::LookedUp {
                found: Outgoing::Failed(proof()),
                authoritative: true,
            },
            Happening::LookedUp {
                found: Outgoing::NotFound,
                authoritative: true,
            },
            Happening::Prepared {
                fee_cap: Msat::ZERO,
                seen: None,
            },
            Happening::HashUsed,
            Happening::NoWholeText,
            Happening::SayAgain,
            Happening::Deadline,
            Happening::Interrupted,
            Happening::Resumed,
            Happening::Resolved { paid: false },
        ];
        for happening in late {
            let mut state = over.clone();
            let taken = step(&mut state, happening.clone(), now);
            let is_empty = taken.entries.is_empty() && taken.effects.is_empty();
            if state != *over || taken.save || !is_empty || !taken.tell.is_empty() {
                self.broke(format!(
                    "a purchase that is over goes on after {happening:?}"
                ));
            }
        }
    }

    /// An order to pay goes with the reservation of exactly that, for an invoice that keeps to the terms.
    fn check_pay(&mut self, before: &State, after: &State, step: &Step, now: Now) {
        if !step.effects.contains(&Effect::Pay) {
            return;
        }
        let reserved: Vec<_> = step
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Booking::Reserve {
                    price,
                    payment_hash,
                    ..
                } => Some((*price, *payment_hash)),
                Booking::Plain(_) => None,
            })
            .collect();
        let invoice = after.phase.quote().and_then(|quote| quote.invoice.clone());
        let (Some(invoice), [(price, hash)]) = (invoice, &reserved[..]) else {
            return self.broke("an order to pay without the reservation for it");
        };
        if invoice.payment_hash != *hash || !step.save {
            self.broke("an order to pay something else than is set aside, or unrecorded");
        }
        let Some(facts) = self.minted.get(&invoice.bolt11).copied() else {
            return self.broke("an order to pay an invoice that nobody signed");
        };
        if facts.amount != Some(*price) || facts.hash != *hash {
            self.broke("what is set aside is not what the invoice asks for");
        }
        // It was looked at when it came; between that and the order time may have passed.
        if let Err(why) = keeps_to_terms(&facts, before, now.at, false) {
            self.broke(format!("an order to pay an invoice that {why}"));
        }
    }

    fn check_entries(
        &mut self,
        b: usize,
        before: &State,
        happening: &Happening,
        step: &Step,
        now: Now,
    ) {
        let hash = Self::hash_of(before).map(|(hash, _)| hash);
        let flight = hash.and_then(|hash| self.bank.flight(&hash));
        for booking in &step.entries {
            match booking {
                Booking::Plain(Entry::Settle { price, fee }) => {
                    let payment = hash.and_then(|hash| self.bank.payments.get(&hash));
                    let truth = payment.map(|it| (it.flight, it.amount, it.fee));
                    let by_owner = matches!(happening, Happening::Resolved { paid: true });
                    let fee = if by_owner {
                        payment.map_or(*fee, |it| it.fee)
                    } else {
                        *fee
                    };
                    if truth != Some((Flight::Settled, *price, fee)) {
                        self.broke(format!(
                            "booked {price} and {fee}, and the bank has {truth:?}"
                        ));
                    }
                }
                Booking::Plain(Entry::Release { .. }) => {
                    let buyer = &self.buyers[b];
                    let ordered = buyer.order.is_some();
                    if !buyer.proof.is_proven_by(happening, before, now.at, ordered) {
                        self.broke("money is freed without proof that its payment failed");
                    }
                    if flight.is_some_and(|flight| flight != Flight::Failed) {
                        self.broke(format!("money is freed, and its payment is {flight:?}"));
                    }
                    if self.buyers[b].stray && self.stray_can_begin(hash) {
                        self.broke("money is freed, and its payment may yet begin");
                    }
                }
                Booking::Plain(Entry::Reserve(_)) => self.broke("reserved past the driver"),
                _ => {}
            }
        }
    }

    fn stray_can_begin(&self, hash: Option<PaymentHash>) -> bool {
        let bill = hash.and_then(|hash| self.bank.bills.get(&hash));
        bill.is_some_and(|bill| self.true_now() < bill.facts.expires_at)
    }

    /// The preimage is let go with a complete result on record, and for nothing else.
    fn check_secret(
        &mut self,
        b: usize,
        before: &State,
        after: &State,
        happening: &Happening,
        step: &Step,
    ) {
        let said: Vec<String> = step
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Say(message) => serde_json::to_string(message).ok(),
                _ => None,
            })
            .collect();
        let lets_go = said.iter().any(|said| secret_is_in(said, after));
        let is_released = matches!(after.phase, Phase::Released { .. });
        let was_released = matches!(before.phase, Phase::Released { .. });
        let says_again = matches!(happening, Happening::Resumed | Happening::SayAgain);
        if is_released && (!was_released || says_again) && !lets_go {
            self.broke("a provider that has delivered is not told what it may claim with");
        }
        if let Some(settled) = after.phase.settled()
            && let Some(preimage) = settled.preimage
            && Self::hash_of(before).is_some_and(|(hash, _)| hash != preimage.payment_hash())
        {
            self.broke("a proof of payment that proves nothing");
        }
        if !lets_go {
            return;
        }
        let Phase::Released { text, .. } = &after.phase else {
            return self.broke(format!(
                "the preimage is let go when {}",
                after.phase.label()
            ));
        };
        if was_released {
            return;
        }
        if !step.save {
            self.broke("the preimage is let go before the result is on record");
        }
        let buyer = &self.buyers[b];
        if buyer.spoiled {
            self.broke("the preimage is let go for a provider that took back its word");
        } else if let Some(why) = buyer.heard.objection(text) {
            self.broke(format!("the preimage is let go for {text:.40?}: {why}"));
        }
    }

    /// A quote that keeps to the terms is taken, and one that does not is not.
    fn check_fair_quote(&mut self, before: &State, after: &State, happening: &Happening, now: Now) {
        let Happening::Message { from, message } = happening else {
            return;
        };
        let AgentMessage::Invoice(invoice) = message else {
            return;
        };
        let ours = *from == before.terms.provider && invoice.job_id == before.terms.job_id();
        if !ours || !matches!(before.phase, Phase::Requested) {
            return;
        }
        let taken = matches!(after.phase, Phase::Quoted(_) | Phase::Awaiting { .. });
        let hash: Option<PaymentHash> =
            invoice.payment_hash.as_ref().and_then(|it| it.parse().ok());
        let is_mock = invoice.bolt11 == "lnbcrt100n1mock";
        let fair = match self.minted.get(&invoice.bolt11) {
            _ if before.terms.pay_by == PayBy::Nothing => match is_mock {
                true if invoice.amount_msats <= LISTED => Ok(()),
                true => Err("is dearer than listed"),
                false => Err("costs real money"),
            },
            None => Err("nobody signed"),
            Some(facts) if facts.amount != Some(invoice.amount_msats) => Err("costs another price"),
            Some(facts) if hash.is_some_and(|hash| hash != facts.hash) => Err("is on another hash"),
            Some(facts) => keeps_to_terms(facts, before, now.at, true),
        };
        match fair {
            Ok(()) if !taken => self.broke("a fair quote is refused"),
            Err(why) if taken => self.broke(format!("a quote is taken that {why}")),
            _ => {}
        }
    }

    /// What is written can be read back, and is what was meant.
    pub fn check_row(&mut self, state: &State, row: &StateRow) {
        let back = State::from_row(row);
        if back.ok().as_ref() != Some(&as_on_record(state)) {
            self.broke("a state that is read back is another one");
        }
        if row.status != state.phase.status() || format!("{row:?}").contains("preimage") {
            self.broke("a row that says other things than its state, or shows a secret");
        }
    }

    /// After each commit.
    pub fn check_record(&mut self, b: usize, state: &State) {
        let money = self.books.accounts[self.buyers[b].account].money.clone();
        let open = money.as_ref().is_some_and(|money| money.status.is_open());
        if open != state.phase.is_undecided() {
            self.broke(format!(
                "money is {} when the purchase is {}",
                if open { "set aside" } else { "not set aside" },
                state.phase.label()
            ));
        }
        let spent = money
            .filter(|it| it.status == Is::Settled)
            .map(|it| it.spent);
        if state.phase.paid() != spent.unwrap_or(Msat::ZERO) {
            self.broke("a purchase and its ledger disagree on what was paid");
        }
        let (usage, limits) = (self.books.usage(), self.books.limits);
        let day = usage.spent_today.saturating_add(usage.reserved);
        let tick = usage.tick_spent.saturating_add(usage.tick_reserved);
        let overruns = self.case.adversary.odds.overrun > 0;
        let counts = |is: Is| is.is_open() || is == Is::Settled;
        let mut monies = self
            .books
            .accounts
            .iter()
            .filter_map(|it| it.money.as_ref());
        let is_ours = monies.any(|money| counts(money.status));
        if is_ours && !overruns && (day > limits.daily || tick > limits.per_tick) {
            self.broke(format!("limits are exceeded: {usage:?} of {limits:?}"));
        }
        if let Some(receipt) = state.receipt() {
            let paid = spent.unwrap_or(Msat::ZERO);
            let adds_up = receipt.paid_msat == paid
                && (paid.is_zero() || receipt.price_msat.saturating_add(receipt.fee_msat) == paid);
            if !adds_up {
                self.broke("a receipt that does not add up");
            }
        }
    }

    /// What the watcher is shown.
    pub fn show(&mut self, b: usize, step: &Step) {
        let Some(run) = &mut self.buyers[b].run else {
            return;
        };
        for event in &step.tell {
            if let PurchaseEvent::Chunk { text, in_order, .. } = event {
                run.shown.push_str(text);
                run.in_order &= in_order;
            }
        }
        let (Phase::Released { text, .. } | Phase::Delivered { text, .. }) = &run.state.phase
        else {
            return;
        };
        if run.in_order && !run.shown.is_empty() && run.shown != *text {
            self.broke("what was shown is not what was delivered");
        }
    }

    /// What the buyer is told in the end must be so: the table of exit codes.
    pub fn check_finish(&mut self, b: usize, finish: &Finish) {
        let account = &self.books.accounts[self.buyers[b].account];
        let is = account.money.as_ref().map(|money| money.status);
        let open = is.is_some_and(Is::is_open);
        let holds = match finish {
            Finish::Delivered => {
                let row = State::from_row(&account.row);
                row.is_ok_and(|state| state.receipt().is_some())
            }
            Finish::Failed { code, .. } => match code {
                Code::Internal | Code::Usage | Code::NoProvider => false,
                Code::PaymentUnknown => open,
                Code::Undelivered => is.is_some() || self.case.adversary.no_wallet,
                Code::Interrupted => true,
                _ => matches!(is, None | Some(Is::Released)),
            },
        };
        if !holds {
            self.broke(format!(
                "the buyer is told {finish:?} when its money is {is:?}"
            ));
        }
    }

    /// After every happening.
    pub fn check_bank(&mut self) {
        if !self.bank.is_whole() {
            self.broke("money appeared or vanished");
        }
        let overruns = self.case.adversary.odds.overrun > 0;
        let payments: Vec<_> = self
            .bank
            .payments
            .iter()
            .filter(|(_, payment)| payment.payer == Party::Buyer)
            .map(|(hash, payment)| (*hash, *payment))
            .collect();
        for (hash, payment) in payments {
            let mut of_hash = self
                .books
                .accounts
                .iter()
                .filter_map(|it| it.money.as_ref());
            let Some(money) = of_hash.find(|money| money.hash == hash) else {
                self.broke("a payment that no reservation was made for");
                continue;
            };
            let alive = payment.flight != Flight::Failed;
            if money.price != payment.amount || (payment.fee > money.fee_cap && !overruns) {
                self.broke("a payment of more than was set aside");
            } else if alive && money.status == Is::Released {
                self.broke("a live payment whose money was freed");
            }
        }
    }

    /// When everything is over.
    pub fn check_end(&mut self) {
        for b in 0..self.buyers.len() {
            let account = self.books.accounts[self.buyers[b].account].clone();
            let flight = account
                .money
                .as_ref()
                .map(|money| (money.status, self.bank.flight(&money.hash)));
            let agrees = match flight {
                None => true,
                Some((Is::Settled, flight)) => flight == Some(Flight::Settled),
                Some((Is::Released, flight)) => matches!(flight, None | Some(Flight::Failed)),
                Some(_) => false,
            };
            if !agrees {
                self.broke(format!(
                    "in the end the ledger and the bank have {flight:?}"
                ));
            }
            if account.row.status == Status::Open {
                self.broke(format!("no way on from {}", account.row.label));
            }
        }
        let has = self.bank.balance(Party::Buyer).get();
        let spent = self
            .books
            .accounts
            .iter()
            .filter_map(|it| it.money.as_ref());
        let spent: u64 = spent.map(|money| money.spent.get()).sum();
        if has + spent != self.began_with && !self.owner_decided {
            self.broke(format!(
                "the ledger says {spent} msat are spent, and {has} are left"
            ));
        }
        self.check_shop_end();
    }

    /// What must stay in the wallet stays there, whatever is set aside comes to be paid.
    pub fn check_reserve(&mut self, b: usize) {
        let money = self.books.accounts[self.buyers[b].account].money.as_ref();
        if money.is_some_and(|money| money.set_aside() > self.books.limits.per_job) {
            self.broke("more is set aside than one job may cost");
        }
        let floor = self.books.limits.floor;
        let yet_to_leave = self.books.accounts.iter().filter_map(|it| {
            let money = it.money.as_ref().filter(|money| money.status.is_open())?;
            let is_there = self.bank.flight(&money.hash).is_none();
            is_there.then(|| money.set_aside().get())
        });
        let needed: u64 = yet_to_leave.sum::<u64>() + floor.get();
        if !floor.is_zero() && self.bank.balance(Party::Buyer).get() < needed {
            self.broke("less would stay in the wallet than the owner wants to");
        }
    }
}

/// Whether an invoice keeps to what was agreed, by the rules as documented. `fresh`: it has just come.
fn keeps_to_terms(
    facts: &Facts,
    state: &State,
    now: UnixSecs,
    fresh: bool,
) -> Result<(), &'static str> {
    let terms = &state.terms;
    let ours = terms.pay_by.preimage().map(|it| it.payment_hash());
    let rules = [
        (facts.network != Network::Regtest, "is on another network"),
        (facts.amount.is_none_or(Msat::is_zero), "names no amount"),
        (
            facts.amount.is_some_and(|it| it > LISTED),
            "is dearer than listed",
        ),
        (
            ours.is_some_and(|ours| ours != facts.hash),
            "is not on our hash",
        ),
        (
            facts.hold_secs > terms.max_hold_secs,
            "can be held for too long",
        ),
        (
            facts.expires_at.since(facts.created_at) > 30 * 86_400,
            "lives too long",
        ),
        (
            fresh && facts.created_at.since(now) > 600,
            "is from the future",
        ),
        (fresh && facts.expires_at < now.plus(10), "has expired"),
    ];
    let broken = rules.into_iter().find(|(broken, _)| *broken);
    broken.map_or(Ok(()), |(_, why)| Err(why))
}

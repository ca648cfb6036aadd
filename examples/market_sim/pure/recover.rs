//! How a purchase is taken up that a crash, a time-out or a failed ledger has left: what
//! `purchase::recover` does.

use agent_compute::Code;
use agent_compute::ledger::Status;
use agent_compute::purchase::assembly::Assembly;
use agent_compute::purchase::lock::Lock;
use agent_compute::purchase::state::{Booking, Happening, Phase, State};

use super::bank::Flight;
use super::buyer::{Put, Run};
use super::evidence::Heard;
use super::world::World;

impl World {
    /// Purchases that nobody works on are taken up, now and then.
    pub fn resume_buyers(&mut self) {
        for b in 0..self.buyers.len() {
            if self.buyers[b].run.is_none() && self.flip() {
                let all = self.flip();
                self.recover(b, all);
            }
        }
    }

    /// What recovery does with one purchase; `all`: also with those given up as undelivered.
    pub fn recover(&mut self, b: usize, all: bool) {
        let buyer = &self.buyers[b];
        if buyer.run.is_some() || buyer.order.is_some() || self.is_broken() {
            return;
        }
        let (account, process) = (buyer.account, buyer.process);
        let row = &self.books.accounts[account].row;
        if !matches!(row.status, Status::Open)
            && !(row.status == Status::Undelivered && (all || self.is_reserved(account)))
        {
            return;
        }
        let mut state = match State::from_row(row) {
            Ok(state) => state,
            Err(error) => return self.broke(format!("a state can't be read back: {error}")),
        };
        self.log(|| format!("buyer {b} recovers what was {}", state.phase.label()));
        let mut version = self.books.adopt(account, process);
        self.buyers[b].heard = Heard::default();
        let goes_on = match &state.phase {
            Phase::Requested | Phase::Quoted(_) => {
                self.buyers[b].run = Some(Run::new(state, version, self.at_ms()));
                return self.feed(b, Happening::Interrupted);
            }
            Phase::Paying(_) | Phase::Unknown { .. } => {
                self.decide_payment(b, &mut state, &mut version)
            }
            Phase::Locked(_) | Phase::Released { .. } | Phase::Withheld { .. } => {
                self.look_at_lock(b, &mut state, &mut version)
            }
            _ => true,
        };
        if !goes_on {
            return;
        }
        let fetches = match &state.phase {
            Phase::Withheld { .. } => all,
            Phase::Awaiting { .. }
            | Phase::Undelivered { .. }
            | Phase::Locked(_)
            | Phase::Released { .. } => true,
            _ => false,
        };
        if fetches {
            self.fetch(b, state, version);
        } else {
            self.told_by_record(b, &state);
        }
    }

    /// `recover --resolve`: the owner says what became of a payment, once that is decided.
    pub fn decide_for_wallet(&mut self, b: usize) {
        let buyer = &self.buyers[b];
        if buyer.run.is_some() || buyer.order.is_some() || buyer.stray || self.is_broken() {
            return;
        }
        let (account, process) = (buyer.account, buyer.process);
        let Ok(mut state) = State::from_row(&self.books.accounts[account].row) else {
            return self.broke("a state can't be read back");
        };
        let hash = Self::hash_of(&state).filter(|_| state.phase.is_undecided());
        let paid = match hash.map(|(hash, _)| self.bank.flight(&hash)) {
            Some(Some(Flight::Settled)) => true,
            Some(Some(Flight::Failed) | None) => false,
            Some(Some(Flight::OnTheWay | Flight::Held)) | None => return,
        };
        self.log(|| format!("the owner says that buyer {b} has paid: {paid}"));
        let mut version = self.books.adopt(account, process);
        self.owner_decided |= paid;
        let is_on_record = self.apply(b, &mut state, &mut version, &Happening::Resolved { paid });
        if is_on_record && state.phase.is_undecided() {
            self.broke("the owner's word decides nothing");
        }
    }

    fn is_reserved(&self, account: usize) -> bool {
        let money = self.books.accounts[account].money.as_ref();
        money.is_some_and(|money| money.status.is_open())
    }

    fn told_by_record(&mut self, b: usize, state: &State) {
        self.buyers[b].told = match &state.phase {
            Phase::Delivered { .. } => Some(Ok(())),
            Phase::Failed { code, .. } => Code::from_word(code).map(Err),
            _ => self.buyers[b].told,
        };
    }

    /// Asks the wallet until it decides, a few times. False: there is nothing to go on with.
    fn decide_payment(&mut self, b: usize, state: &mut State, version: &mut u64) -> bool {
        for _ in 0..4 {
            let Some(found) = self.look_up_of(state) else {
                break;
            };
            if !self.apply(b, state, version, &found) {
                return false;
            }
            if !matches!(state.phase, Phase::Paying(_) | Phase::Unknown { .. }) {
                return true;
            }
        }
        self.apply(b, state, version, &Happening::GiveUpLooking);
        false
    }

    fn look_at_lock(&mut self, b: usize, state: &mut State, version: &mut u64) -> bool {
        for _ in 0..4 {
            let Some(found) = self.look_up_of(state) else {
                return true;
            };
            if !self.apply(b, state, version, &found) {
                return false;
            }
            let counting = |lock: &Lock| lock.doubt.is_any();
            if !state.phase.lock().is_some_and(counting) {
                return true;
            }
        }
        true
    }

    /// A step of recovery: decide and commit, without effects. False: the process ended there.
    fn apply(
        &mut self,
        b: usize,
        state: &mut State,
        version: &mut u64,
        happening: &Happening,
    ) -> bool {
        let Some((_, next)) = self.decide(b, state, happening) else {
            return false;
        };
        if !next.save {
            return true;
        }
        let reserves = |it: &Booking| matches!(it, Booking::Reserve { .. });
        if next.entries.iter().any(reserves) {
            self.broke("recovery sets money aside");
            return false;
        }
        match self.put(b, state, *version, &next) {
            Put::Done => {
                *version += 1;
                true
            }
            _ => false,
        }
    }

    fn fetch(&mut self, b: usize, mut state: State, version: u64) {
        state.stream = Assembly::default();
        state.shown = 0;
        let given_up = matches!(
            state.phase,
            Phase::Undelivered { .. } | Phase::Withheld { .. }
        ) || state.terms.deadline <= self.wall();
        let mut run = Run::new(state, version, self.at_ms() + 10_000);
        run.resumed = true;
        run.stored_only = given_up;
        let stored = self.wire.said_to_buyers.clone();
        run.stored_left = stored.len();
        self.wire.to_buyers[b] = stored;
        self.buyers[b].run = Some(run);
        self.feed(b, Happening::Resumed);
        if given_up && self.wire.said_to_buyers.is_empty() {
            self.feed(b, Happening::Deadline);
        }
    }

    /// In a calm world each run ends in a bounded number of happenings.
    pub fn finish_runs(&mut self) {
        for b in 0..self.buyers.len() {
            for _ in 0..1_500 {
                if self.buyers[b].run.is_none() || self.wire.to_buyers[b].is_empty() {
                    break;
                }
                self.hear_buyer();
            }
            for _ in 0..12 {
                self.serve_buyer();
            }
            for happening in [
                Happening::NoWholeText,
                Happening::Deadline,
                Happening::GiveUpLooking,
                Happening::Deadline,
            ] {
                self.feed(b, happening);
            }
            if self.buyers[b].run.is_some() && !self.is_broken() {
                self.broke("a run does not end, though its time is up");
            }
        }
    }
}

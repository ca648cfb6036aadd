//! The ledger as its documentation has it, written anew from that: what the real one is checked against
//! elsewhere (`tests/it/ledger`), and what the purchase machine's entries must fit here.

use std::collections::BTreeSet;

use agent_compute::ids::PaymentHash;
use agent_compute::ledger::budget::{self, Limits, Usage, WalletView};
use agent_compute::ledger::{
    Entry, Refusal, RefusedBy, ReservationStatus as Is, Reserve, StateRow, Status,
};
use agent_compute::units::{Msat, UnixSecs};

/// Money of one purchase.
#[derive(Clone, Debug)]
pub struct Money {
    pub status: Is,
    pub price: Msat,
    pub fee_cap: Msat,
    pub hash: PaymentHash,
    pub spent: Msat,
    /// The day it was spent on, in ledger time.
    day: u64,
}

impl Money {
    pub const fn set_aside(&self) -> Msat {
        self.price.saturating_add(self.fee_cap)
    }
}

/// One purchase on record.
#[derive(Clone, Debug)]
pub struct Account {
    pub row: StateRow,
    pub version: u64,
    pub owner: u32,
    pub money: Option<Money>,
}

/// Why nothing was written.
#[derive(Clone, Debug)]
pub enum No {
    Refused(Refusal),
    HashUsed,
    Stale,
    Conflict,
    /// The diagram has no such step: never to happen.
    Illegal(String),
}

/// One ledger.
#[derive(Clone, Debug)]
pub struct Books {
    pub accounts: Vec<Account>,
    pub limits: Limits,
    /// What purchases that are no part of the simulation have spent today, and have set aside.
    pub others: Usage,
    pub used: BTreeSet<PaymentHash>,
    pub settlements: u64,
    time: UnixSecs,
}

impl Books {
    pub fn new(limits: Limits, others: Usage, used: PaymentHash, now: UnixSecs) -> Self {
        Self {
            accounts: Vec::new(),
            limits,
            others,
            used: BTreeSet::from([used]),
            settlements: 0,
            time: now,
        }
    }

    /// Puts a purchase on record.
    pub fn open(&mut self, row: StateRow, owner: u32) -> usize {
        self.accounts.push(Account {
            row,
            version: 1,
            owner,
            money: None,
        });
        self.accounts.len() - 1
    }

    /// Takes a purchase over.
    pub fn adopt(&mut self, account: usize, owner: u32) -> u64 {
        let account = &mut self.accounts[account];
        if account.owner != owner {
            account.owner = owner;
            account.version += 1;
        }
        account.version
    }

    /// What counts against the limits. All purchases are of one tick.
    pub fn usage(&self) -> Usage {
        let mut usage = self.others;
        let add = |sum: &mut Msat, more: Msat| *sum = sum.saturating_add(more);
        for money in self.accounts.iter().filter_map(|it| it.money.as_ref()) {
            if money.status.is_open() {
                add(&mut usage.reserved, money.set_aside());
                add(&mut usage.tick_reserved, money.set_aside());
            }
            if money.status == Is::Settled {
                add(&mut usage.tick_spent, money.spent);
                if money.day == self.time.utc_day() {
                    add(&mut usage.spent_today, money.spent);
                }
            }
        }
        usage
    }

    fn authorise(&self, ask: &Reserve) -> Result<(), No> {
        if self.used.contains(&ask.payment_hash) {
            return Err(No::HashUsed);
        }
        let floor = !ask.limits.floor.is_zero();
        if floor && ask.seen.is_none() {
            return Err(No::Illegal("a floor, and no balance seen".to_owned()));
        }
        let seen = ask.seen.filter(|_| floor);
        let usage = self.usage();
        let view = seen.map(|seen| WalletView {
            balance: seen.balance,
            reserved: usage.reserved,
        });
        let asked = ask.price.saturating_add(ask.fee_cap);
        let verdict = budget::check(&ask.limits, &usage, view, asked);
        let other = matches!(verdict, Err(refusal) if refusal.by != RefusedBy::Floor);
        if seen.is_some_and(|seen| !other && seen.settlements != self.settlements) {
            return Err(No::Stale);
        }
        verdict.map_err(No::Refused)
    }

    fn enter(&self, money: Option<Money>, entry: &Entry) -> Result<Option<Money>, No> {
        let is = money.as_ref().map(|money| money.status);
        let to = |status| Ok(money.clone().map(|money| Money { status, ..money }));
        match (entry, is) {
            (Entry::Note(_) | Entry::Observe(_) | Entry::Receipt(_), _) => Ok(money),
            (Entry::Reserve(ask), None) => {
                self.authorise(ask)?;
                Ok(Some(Money {
                    status: Is::Reserved,
                    price: ask.price,
                    fee_cap: ask.fee_cap,
                    hash: ask.payment_hash,
                    spent: Msat::ZERO,
                    day: 0,
                }))
            }
            (Entry::InFlight, Some(Is::Reserved | Is::Unknown)) => to(Is::InFlight),
            (Entry::Unknown { .. }, Some(Is::InFlight | Is::Unknown)) => to(Is::Unknown),
            (Entry::Settle { price, fee }, Some(Is::Reserved | Is::InFlight | Is::Unknown)) => {
                Ok(money.map(|money| Money {
                    status: Is::Settled,
                    spent: price.saturating_add(*fee),
                    day: self.time.utc_day(),
                    ..money
                }))
            }
            (Entry::Release { .. }, Some(Is::Reserved | Is::InFlight | Is::Unknown)) => {
                to(Is::Released)
            }
            _ => Err(No::Illegal(format!("{entry:?} when {is:?}"))),
        }
    }

    /// Everything or nothing.
    pub fn commit(
        &mut self,
        (at, owner, expected): (usize, u32, u64),
        row: StateRow,
        entries: &[Entry],
        now: UnixSecs,
    ) -> Result<u64, No> {
        self.time = self.time.max(now);
        let account = &self.accounts[at];
        if account.owner != owner || account.version != expected {
            return Err(No::Conflict);
        }
        let mut money = account.money.clone();
        let mut settlements = self.settlements;
        for entry in entries {
            let reserves = matches!(entry, Entry::Reserve(_));
            if reserves && account.row.status != Status::Open {
                return Err(No::Illegal("reserve when it is over".to_owned()));
            }
            money = self.enter(money, entry)?;
            settlements += u64::from(matches!(
                entry,
                Entry::Settle { .. } | Entry::Release { .. }
            ));
        }
        agree(account.row.status, row.status, money.as_ref())?;
        self.used.extend(money.as_ref().map(|money| money.hash));
        self.settlements = settlements;
        let account = &mut self.accounts[at];
        account.money = money;
        account.row = row;
        account.version += 1;
        Ok(account.version)
    }
}

/// What a purchase says of itself must fit its money.
fn agree(before: Status, after: Status, money: Option<&Money>) -> Result<(), No> {
    let again = after == Status::Open && matches!(before, Status::Delivered | Status::Failed);
    let contradicts = match (after, money.map(|money| money.status)) {
        (Status::Delivered, Some(status)) => status.is_open(),
        (Status::Failed, Some(status)) => status != Is::Released,
        _ => false,
    };
    if again || contradicts {
        let is = money.map(|money| money.status);
        return Err(No::Illegal(format!(
            "{after:?} after {before:?}, money {is:?}"
        )));
    }
    Ok(())
}

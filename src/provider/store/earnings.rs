//! What was earned, added up from the jobs on record.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::rows::{all, from_sql, parsed, state, to_sql};
use super::{JobStore, StoreError};
use crate::provider::job::JobState;
use crate::units::{Msat, Network, UnixSecs};

const SECS_PER_DAY: u64 = 86_400;

/// What a wallet's name begins with when its money is play money.
const PLAY_MONEY: &str = "sim:";

/// Jobs and their money in one period, by when the money came. Jobs without a wallet are not in here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Earned {
    /// Jobs that were paid for good.
    pub jobs: u64,
    /// What they brought, escrow included.
    pub earned_msat: Msat,
    /// The part of it that customers released from escrow.
    pub escrow_msat: Msat,
    /// Jobs that were paid and failed.
    pub failed_jobs: u64,
    /// The part of what was earned that is owed for them.
    pub owed_msat: Msat,
    /// What is locked in escrow: ours if the customer releases it in time.
    pub held_msat: Msat,
    /// Jobs that were delivered and whose escrow went back to the customer.
    pub unreleased_jobs: u64,
    /// What they would have brought.
    pub unreleased_msat: Msat,
}

/// The same for three periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Periods {
    /// Since midnight, UTC.
    pub today: Earned,
    /// Since Monday's midnight, UTC.
    pub week: Earned,
    /// Ever.
    pub all: Earned,
}

/// The same for one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfModel {
    /// What did the jobs.
    pub model: String,
    /// What they brought.
    #[serde(flatten)]
    pub periods: Periods,
}

/// The earnings in one kind of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Earnings {
    /// The network of the money.
    pub network: Network,
    /// Whether it is play money.
    pub play_money: bool,
    /// All models together.
    #[serde(flatten)]
    pub periods: Periods,
    /// Each model, by name.
    pub models: Vec<OfModel>,
}

impl Earnings {
    /// No earnings yet.
    #[must_use]
    pub fn none(network: Network, play_money: bool) -> Self {
        Self {
            network,
            play_money,
            periods: Periods::default(),
            models: Vec::new(),
        }
    }

    /// The periods of one model, in their place by name.
    fn of_model(&mut self, model: &str) -> &mut Periods {
        let place = self
            .models
            .binary_search_by(|it| it.model.as_str().cmp(model));
        let at = place.unwrap_or_else(|at| {
            let (model, periods) = (model.to_owned(), Periods::default());
            self.models.insert(at, OfModel { model, periods });
            at
        });
        &mut self.models[at].periods
    }
}

/// Jobs that count alike.
struct Group {
    network: Network,
    play_money: bool,
    model: String,
    state: JobState,
    settled: bool,
    escrow: bool,
    today: bool,
    this_week: bool,
    jobs: u64,
    amount: Msat,
}

impl JobStore {
    /// What was earned, by the kind of money: real money first, then by network.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn earnings(&self, now: UnixSecs) -> Result<Vec<Earnings>, StoreError> {
        self.writer.write(move |db| read(db, now)).await
    }
}

fn read(db: &Connection, now: UnixSecs) -> Result<Vec<Earnings>, StoreError> {
    let today = now.utc_day();
    let sql =
        "SELECT network, substr(wallet, 1, ?3) = ?4, model, state, settled_at IS NOT NULL, escrow,
         coalesce(settled_at, held_at) >= ?1, coalesce(settled_at, held_at) >= ?2,
         count(*), sum(price_msat)
         FROM jobs WHERE wallet IS NOT NULL AND (settled_at IS NOT NULL OR held_at IS NOT NULL)
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8";
    let midnight = to_sql(today * SECS_PER_DAY);
    let monday = to_sql(monday_of(today) * SECS_PER_DAY);
    let groups = all(
        &mut db.prepare(sql)?,
        params![midnight, monday, PLAY_MONEY.len(), PLAY_MONEY],
        |row| {
            Ok(Group {
                network: parsed(row, 0, str::parse)?,
                play_money: row.get(1)?,
                model: row.get(2)?,
                state: state(row, 3)?,
                settled: row.get(4)?,
                escrow: row.get(5)?,
                today: row.get(6)?,
                this_week: row.get(7)?,
                jobs: from_sql(row.get(8)?),
                amount: Msat::new(from_sql(row.get(9)?)),
            })
        },
    )?;
    Ok(add_up(&groups))
}

/// The day on which the week of `day` began. Day 0, the first of 1970, was a Thursday.
const fn monday_of(day: u64) -> u64 {
    day.saturating_sub((day + 3) % 7)
}

fn add_up(groups: &[Group]) -> Vec<Earnings> {
    let mut kinds: BTreeMap<(bool, &str), Earnings> = BTreeMap::new();
    for group in groups {
        let kind = (group.play_money, group.network.as_str());
        let earnings = kinds
            .entry(kind)
            .or_insert_with(|| Earnings::none(group.network, group.play_money));
        earnings.periods.add(group);
        earnings.of_model(&group.model).add(group);
    }
    kinds.into_values().collect()
}

impl Periods {
    fn add(&mut self, group: &Group) {
        self.all.add(group);
        if group.this_week {
            self.week.add(group);
        }
        if group.today {
            self.today.add(group);
        }
    }
}

impl Earned {
    fn add(&mut self, group: &Group) {
        let amount = group.amount;
        let grow = |sum: &mut Msat| *sum = sum.saturating_add(amount);
        match group.state {
            _ if group.settled => {
                self.jobs += group.jobs;
                grow(&mut self.earned_msat);
                if group.escrow {
                    grow(&mut self.escrow_msat);
                }
                if group.state == JobState::Failed {
                    self.failed_jobs += group.jobs;
                    grow(&mut self.owed_msat);
                }
            }
            JobState::Unreleased => {
                self.unreleased_jobs += group.jobs;
                grow(&mut self.unreleased_msat);
            }
            JobState::Held
            | JobState::Running
            | JobState::Done
            | JobState::Delivered
            | JobState::Released => grow(&mut self.held_msat),
            // The customer has its money, or is to have it.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_begin_on_monday() {
        // 1970-01-05 was a Monday, and so was 2026-11-16, day 20773.
        for (day, monday) in [
            (4, 4),
            (10, 4),
            (11, 11),
            (20_773, 20_773),
            (20_778, 20_773),
        ] {
            assert_eq!(monday_of(day), monday, "{day}");
        }
        assert_eq!(monday_of(0), 0, "there is nothing before");
    }
}

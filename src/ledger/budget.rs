//! The owner's limits, as pure arithmetic: given what is spent and set aside, may this much more be?

use std::fmt;

use serde::Serialize;

use crate::units::Msat;

/// The owner's limits. All hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Per UTC day, over all purchases of the scope.
    pub daily: Msat,
    /// Per tick, over all time.
    pub per_tick: Msat,
    /// Per purchase, fee included.
    pub per_job: Msat,
    /// What must remain in the wallet.
    pub floor: Msat,
}

/// What counts against the limits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Settled today (UTC), fees included.
    pub spent_today: Msat,
    /// Every open reservation of the scope, of any date; unknown ones included.
    pub reserved: Msat,
    /// The part of `reserved` whose payment is in doubt.
    pub unknown: Msat,
    /// Settled in this tick, over all time.
    pub tick_spent: Msat,
    /// Open reservations of this tick.
    pub tick_reserved: Msat,
    /// The part of `tick_reserved` in doubt.
    pub tick_unknown: Msat,
}

/// The limit that said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBy {
    /// `per_job_limit_sats`
    PerJob,
    /// `per_tick_limit_sats`
    PerTick,
    /// `daily_limit_sats`
    Daily,
    /// `reserve_sats`
    Floor,
}

/// A refused reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which limit.
    pub by: RefusedBy,
    /// How much was asked for.
    pub asked: Msat,
    /// How much that limit would still have allowed.
    pub allowed: Msat,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.by {
            RefusedBy::PerJob => "per_job_limit_sats",
            RefusedBy::PerTick => "per_tick_limit_sats",
            RefusedBy::Daily => "daily_limit_sats",
            RefusedBy::Floor => "reserve_sats",
        };
        write!(
            f,
            "[runway] {limit} allows {} more, and {} would be reserved (fee cap included)",
            self.allowed, self.asked
        )
    }
}

/// What `budget` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetReport {
    /// The limits it was asked about.
    pub limits: Limits,
    /// What counts against them.
    pub usage: Usage,
}

impl BudgetReport {
    /// The most that one more reservation may be, floor aside, and the limit that says so.
    #[must_use]
    pub fn headroom(&self) -> (Msat, RefusedBy) {
        let Self { limits, usage } = self;
        let of_day = limits
            .daily
            .saturating_sub(usage.spent_today.saturating_add(usage.reserved));
        let of_tick = limits
            .per_tick
            .saturating_sub(usage.tick_spent.saturating_add(usage.tick_reserved));
        let mut least = (limits.per_job, RefusedBy::PerJob);
        for other in [(of_tick, RefusedBy::PerTick), (of_day, RefusedBy::Daily)] {
            if other.0 < least.0 {
                least = other;
            }
        }
        least
    }
}

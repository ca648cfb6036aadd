//! The owner's limits, as pure arithmetic: given what is spent and set aside, may this much more be?

use std::fmt;

use serde::Serialize;

use crate::config::Runway;
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

impl From<Runway> for Limits {
    fn from(runway: Runway) -> Self {
        Self {
            daily: runway.daily_limit,
            per_tick: runway.per_tick_limit,
            per_job: runway.per_job_limit,
            floor: runway.reserve,
        }
    }
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

/// The paying wallet, for the floor that must remain in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletView {
    /// What it said it could spend.
    pub balance: Msat,
    /// Every open reservation on it. The balance may or may not be short of these already; taking
    /// them off here can only be too careful.
    pub reserved: Msat,
}

/// The limit that said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
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
    /// What this tick may still set aside. Its limit is summed over all time.
    #[must_use]
    pub const fn left_in_tick(&self) -> Msat {
        let Usage {
            tick_spent,
            tick_reserved,
            ..
        } = self.usage;
        let used = tick_spent.saturating_add(tick_reserved);
        self.limits.per_tick.saturating_sub(used)
    }

    /// What this day (UTC) may still set aside. Open reservations count, whatever day they are of.
    #[must_use]
    pub const fn left_today(&self) -> Msat {
        let Usage {
            spent_today,
            reserved,
            ..
        } = self.usage;
        let used = spent_today.saturating_add(reserved);
        self.limits.daily.saturating_sub(used)
    }

    /// The most that one more reservation may be, floor aside, and the limit that says so.
    #[must_use]
    pub fn headroom(&self) -> (Msat, RefusedBy) {
        let mut least = (self.left_for_job(), RefusedBy::PerJob);
        for other in [
            (self.left_in_tick(), RefusedBy::PerTick),
            (self.left_today(), RefusedBy::Daily),
        ] {
            if other.0 < least.0 {
                least = other;
            }
        }
        least
    }

    fn left_for_job(&self) -> Msat {
        self.limits.per_job.min(Msat::MAX)
    }
}

/// Whether `asked` more may be set aside. All limits must allow it; the first that does not is named,
/// in the order job, tick, day, floor. A floor of zero asks nothing of the wallet; any other floor
/// refuses when the wallet was not looked at.
///
/// # Errors
/// The [`Refusal`], with what that limit would still have allowed.
pub fn check(
    limits: &Limits,
    usage: &Usage,
    wallet: Option<WalletView>,
    asked: Msat,
) -> Result<(), Refusal> {
    let in_wallet = if limits.floor.is_zero() {
        Msat::MAX
    } else {
        wallet.map_or(Msat::ZERO, |wallet| {
            wallet
                .balance
                .saturating_sub(wallet.reserved)
                .saturating_sub(limits.floor)
        })
    };
    let report = BudgetReport {
        limits: *limits,
        usage: *usage,
    };
    [
        (RefusedBy::PerJob, report.left_for_job()),
        (RefusedBy::PerTick, report.left_in_tick()),
        (RefusedBy::Daily, report.left_today()),
        (RefusedBy::Floor, in_wallet),
    ]
    .into_iter()
    .find(|(_, allowed)| asked > *allowed)
    .map_or(Ok(()), |(by, allowed)| Err(Refusal { by, asked, allowed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        daily: Msat::new(10_000),
        per_tick: Msat::new(3_000),
        per_job: Msat::new(1_000),
        floor: Msat::ZERO,
    };

    fn refused(
        limits: Limits,
        usage: Usage,
        wallet: Option<WalletView>,
        asked: u64,
    ) -> Option<(RefusedBy, u64)> {
        let verdict = check(&limits, &usage, wallet, Msat::new(asked));
        verdict
            .err()
            .map(|refusal| (refusal.by, refusal.allowed.get()))
    }

    #[test]
    fn each_limit_allows_its_last_msat_and_not_one_more() {
        let none = Usage::default();
        assert_eq!(refused(LIMITS, none, None, 1_000), None);
        assert_eq!(
            refused(LIMITS, none, None, 1_001),
            Some((RefusedBy::PerJob, 1_000))
        );

        let tick = Usage {
            tick_spent: Msat::new(2_000),
            tick_reserved: Msat::new(500),
            ..none
        };
        assert_eq!(refused(LIMITS, tick, None, 500), None);
        assert_eq!(
            refused(LIMITS, tick, None, 501),
            Some((RefusedBy::PerTick, 500))
        );

        let day = Usage {
            spent_today: Msat::new(9_000),
            reserved: Msat::new(400),
            ..none
        };
        assert_eq!(refused(LIMITS, day, None, 600), None);
        assert_eq!(
            refused(LIMITS, day, None, 601),
            Some((RefusedBy::Daily, 600))
        );
    }

    #[test]
    fn the_floor_stays_in_the_wallet_after_every_open_reservation() {
        let limits = Limits {
            floor: Msat::new(300),
            ..LIMITS
        };
        let wallet = |balance, reserved| {
            Some(WalletView {
                balance: Msat::new(balance),
                reserved: Msat::new(reserved),
            })
        };
        let none = Usage::default();
        assert_eq!(refused(limits, none, wallet(1_000, 200), 500), None);
        assert_eq!(
            refused(limits, none, wallet(1_000, 200), 501),
            Some((RefusedBy::Floor, 500))
        );
        assert_eq!(
            refused(limits, none, wallet(100, 0), 1),
            Some((RefusedBy::Floor, 0))
        );
        assert_eq!(refused(limits, none, None, 1), Some((RefusedBy::Floor, 0)));
        assert_eq!(refused(limits, none, None, 0), None);
    }

    #[test]
    fn several_refusals_are_named_in_the_order_job_tick_day_floor() {
        let spent = Usage {
            spent_today: Msat::new(10_000),
            tick_spent: Msat::new(3_000),
            ..Usage::default()
        };
        let mut limits = Limits {
            floor: Msat::new(1),
            ..LIMITS
        };
        let mut order = Vec::new();
        while let Err(refusal) = check(&limits, &spent, None, Msat::new(1_001)) {
            order.push(refusal.by);
            match refusal.by {
                RefusedBy::PerJob => limits.per_job = Msat::new(u64::MAX),
                RefusedBy::PerTick => limits.per_tick = Msat::new(u64::MAX),
                RefusedBy::Daily => limits.daily = Msat::new(u64::MAX),
                RefusedBy::Floor => limits.floor = Msat::ZERO,
            }
        }
        assert_eq!(
            order,
            [
                RefusedBy::PerJob,
                RefusedBy::PerTick,
                RefusedBy::Daily,
                RefusedBy::Floor
            ]
        );
    }

    #[test]
    fn a_refusal_names_the_setting_what_it_leaves_and_what_was_asked() {
        for (by, setting) in [
            (RefusedBy::PerJob, "per_job_limit_sats"),
            (RefusedBy::PerTick, "per_tick_limit_sats"),
            (RefusedBy::Daily, "daily_limit_sats"),
            (RefusedBy::Floor, "reserve_sats"),
        ] {
            let (asked, allowed) = (Msat::new(10_000), Msat::new(2_500));
            assert_eq!(
                Refusal { by, asked, allowed }.to_string(),
                format!(
                    "[runway] {setting} allows 2.5 sats more, and 10 sats would be reserved (fee cap included)"
                )
            );
        }
    }

    #[test]
    fn of_limits_that_leave_the_same_the_narrowest_is_named() {
        let limits = Limits {
            daily: LIMITS.per_job,
            per_tick: LIMITS.per_job,
            ..LIMITS
        };
        let usage = Usage::default();
        let report = BudgetReport { limits, usage };
        assert_eq!(report.headroom(), (LIMITS.per_job, RefusedBy::PerJob));
    }

    #[test]
    fn extremes_refuse_rather_than_wrap() {
        let most = Msat::new(u64::MAX);
        let limits = Limits {
            daily: most,
            per_tick: most,
            per_job: most,
            floor: Msat::ZERO,
        };
        let full = Usage {
            spent_today: most,
            reserved: most,
            unknown: most,
            tick_spent: most,
            tick_reserved: most,
            tick_unknown: most,
        };
        assert_eq!(
            refused(limits, Usage::default(), None, Msat::MAX.get()),
            None
        );
        assert_eq!(
            refused(limits, Usage::default(), None, Msat::MAX.get() + 1),
            Some((RefusedBy::PerJob, Msat::MAX.get()))
        );
        assert_eq!(
            refused(limits, full, None, 1),
            Some((RefusedBy::PerTick, 0))
        );
    }

    #[test]
    fn a_limit_lowered_below_what_is_spent_leaves_nothing() {
        let usage = Usage {
            spent_today: Msat::new(50_000),
            ..Usage::default()
        };
        let report = BudgetReport {
            limits: LIMITS,
            usage,
        };
        assert_eq!(report.headroom(), (Msat::ZERO, RefusedBy::Daily));
        assert_eq!(refused(LIMITS, usage, None, 1), Some((RefusedBy::Daily, 0)));
    }

    #[test]
    fn headroom_is_the_most_that_check_allows() {
        let usage = Usage {
            spent_today: Msat::new(4_000),
            reserved: Msat::new(100),
            tick_spent: Msat::new(2_300),
            tick_reserved: Msat::new(100),
            ..Usage::default()
        };
        let report = BudgetReport {
            limits: LIMITS,
            usage,
        };
        let (most, by) = report.headroom();
        assert_eq!((most.get(), by), (600, RefusedBy::PerTick));
        assert_eq!(refused(LIMITS, usage, None, most.get()), None);
        assert!(refused(LIMITS, usage, None, most.get() + 1).is_some());
    }
}

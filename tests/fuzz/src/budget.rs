//! The owner's limits, against sums that can't overflow.

use agent_compute::ledger::budget::{BudgetReport, Limits, RefusedBy, Usage, WalletView, check};
use agent_compute::units::Msat;

use super::tape::Tape;

/// Any limits and any sums: no reservation is granted that would exceed one, and none refused that fits.
pub fn budget(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut amount = || Msat::new(tape.amount());
    let limits = Limits {
        daily: amount(),
        per_tick: amount(),
        per_job: amount(),
        floor: amount(),
    };
    let usage = Usage {
        spent_today: amount(),
        reserved: amount(),
        unknown: amount(),
        tick_spent: amount(),
        tick_reserved: amount(),
        tick_unknown: amount(),
    };
    let (balance, reserved, asked) = (amount(), amount(), amount());
    let wallet = tape.maybe(|_| WalletView { balance, reserved });
    let wide = |amount: Msat| u128::from(amount.get());
    let fits = |limit: Msat, spent: Msat, reserved: Msat| {
        // Sums stop at the largest number, and count as that.
        let used = (wide(spent) + wide(reserved)).min(u128::from(u64::MAX));
        used + wide(asked) <= wide(limit).max(used)
    };
    let after = |wallet: WalletView| wide(wallet.reserved) + wide(asked) + wide(limits.floor);
    let floor_holds = limits.floor.is_zero()
        || asked.is_zero()
        || wallet.is_some_and(|wallet| after(wallet) <= wide(wallet.balance));
    let broken = [
        (RefusedBy::PerJob, asked <= limits.per_job.min(Msat::MAX)),
        (
            RefusedBy::PerTick,
            fits(limits.per_tick, usage.tick_spent, usage.tick_reserved),
        ),
        (
            RefusedBy::Daily,
            fits(limits.daily, usage.spent_today, usage.reserved),
        ),
        (RefusedBy::Floor, floor_holds && asked <= Msat::MAX),
    ];
    let first_broken = broken
        .into_iter()
        .find(|(_, holds)| !holds)
        .map(|(by, _)| by);
    let verdict = check(&limits, &usage, wallet, asked);
    assert_eq!(verdict.err().map(|refusal| refusal.by), first_broken);
    if let Err(refusal) = verdict {
        assert!(refusal.asked == asked && refusal.allowed < asked);
        let less = check(&limits, &usage, wallet, refusal.allowed);
        assert!(
            less.err().is_none_or(|less| less.by != refusal.by),
            "{refusal} allowed too much"
        );
    }
    let (most, by) = BudgetReport { limits, usage }.headroom();
    let no_floor = Limits {
        floor: Msat::ZERO,
        ..limits
    };
    assert!(
        check(&no_floor, &usage, wallet, most).is_ok(),
        "headroom {most} is refused"
    );
    if let Some(more) = most.checked_add(Msat::new(1)) {
        assert!(
            check(&no_floor, &usage, wallet, more).is_err(),
            "{by:?} leaves more than {most}"
        );
    }
}

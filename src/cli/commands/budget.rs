//! `budget`: the owner's limits, and what counts against them.

use serde::Serialize;

use super::record::{open_books, scope};
use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::error::Result;
use crate::ledger::{BudgetReport, Usage};
use crate::units::{Msat, Network};

#[derive(Serialize)]
struct Counted {
    limit_msat: Msat,
    spent_msat: Msat,
    reserved_msat: Msat,
    /// Part of what is reserved.
    unknown_msat: Msat,
}

#[derive(Serialize)]
struct Budget {
    daily: Counted,
    tick: Option<Counted>,
    network: Network,
    play_money: bool,
}

/// Shows the budget of the chosen wallet's network (by default the latest purchase's), and that of a tick.
///
/// # Errors
/// If the ledger can't be read.
pub async fn run(settings: Settings, tick: Option<String>, out: &Output) -> Result<()> {
    let limits = settings.limits();
    let ledger = open_books(&settings).await?;
    let scope = scope(&settings, ledger.as_ref()).await?;
    let report = match &ledger {
        Some(ledger) => ledger.budget(scope, tick.as_deref(), limits).await?,
        None => BudgetReport {
            limits,
            usage: Usage::default(),
        },
    };
    let BudgetReport { limits, usage } = report;
    let budget = Budget {
        daily: Counted {
            limit_msat: limits.daily,
            spent_msat: usage.spent_today,
            reserved_msat: usage.reserved,
            unknown_msat: usage.unknown,
        },
        tick: tick.is_some().then_some(Counted {
            limit_msat: limits.per_tick,
            spent_msat: usage.tick_spent,
            reserved_msat: usage.tick_reserved,
            unknown_msat: usage.tick_unknown,
        }),
        network: scope.network,
        play_money: scope.play_money,
    };
    out.object(&budget);
    let play = if scope.play_money { ", play money" } else { "" };
    out.line(&format!(
        "today ({}{play}): {}",
        scope.network,
        words(&budget.daily)
    ));
    if let (Some(counted), Some(tick)) = (&budget.tick, &tick) {
        out.line(&format!("tick {tick}: {}", words(counted)));
    }
    out.line(&format!(
        "per job: {}; kept in the wallet: {}",
        limits.per_job, limits.floor
    ));
    Ok(())
}

fn words(counted: &Counted) -> String {
    let left = counted
        .limit_msat
        .saturating_sub(counted.spent_msat.saturating_add(counted.reserved_msat));
    let unknown = if counted.unknown_msat.is_zero() {
        String::new()
    } else {
        format!(" ({} in doubt: run `recover`)", counted.unknown_msat)
    };
    format!(
        "spent {}, reserved {}{unknown}, {left} left of {}",
        counted.spent_msat, counted.reserved_msat, counted.limit_msat
    )
}

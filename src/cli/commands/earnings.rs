//! `agent-provider earnings`: what the jobs on record brought.

use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::cli::text::one_line;
use crate::cli::watch::LONGEST_NAME;
use crate::clock::Clock;
use crate::error::Result;
use crate::provider::store::{Earned, Earnings, JobStore, Periods};

/// Tells what was earned, one kind of money after the other, real money first.
///
/// # Errors
/// If the job store can't be read.
pub async fn run(settings: Settings, out: &Output) -> Result<()> {
    let path = settings.home.jobs_file();
    let mut earnings = Vec::new();
    if path.exists() {
        let now = Clock::system().now();
        earnings = JobStore::open(&path)?.earnings(now).await?;
    }
    if earnings.is_empty() {
        let scope = settings.scope();
        earnings.push(Earnings::none(scope.network, scope.play_money));
    }
    for kind in &earnings {
        out.object(kind);
        if !out.is_json() {
            print(kind, out);
        }
    }
    Ok(())
}

fn print(earnings: &Earnings, out: &Output) {
    let play = if earnings.play_money {
        ", play money"
    } else {
        ""
    };
    out.line(&format!("{}{play}", earnings.network));
    print_periods("", &earnings.periods, out);
    for model in &earnings.models {
        out.line(&format!("  {}", one_line(&model.model, LONGEST_NAME)));
        print_periods("  ", &model.periods, out);
    }
}

fn print_periods(indent: &str, periods: &Periods, out: &Output) {
    for (name, earned) in [
        ("today", &periods.today),
        ("this week", &periods.week),
        ("ever", &periods.all),
    ] {
        out.line(&format!("{indent}  {name:<9}  {}", words(earned)));
    }
}

fn words(earned: &Earned) -> String {
    let jobs = |count: u64| match count {
        1 => "1 job".to_owned(),
        count => format!("{count} jobs"),
    };
    let mut said = format!("{} from {}", earned.earned_msat, jobs(earned.jobs));
    if !earned.escrow_msat.is_zero() {
        said.push_str(&format!(", {} of it from escrow", earned.escrow_msat));
    }
    if earned.failed_jobs > 0 {
        let failed = jobs(earned.failed_jobs);
        said.push_str(&format!(
            "; {} owed for {failed} that failed",
            earned.owed_msat
        ));
    }
    if !earned.held_msat.is_zero() {
        said.push_str(&format!("; {} locked in escrow", earned.held_msat));
    }
    if earned.unreleased_jobs > 0 {
        said.push_str(&format!(
            "; {} never released for {}",
            earned.unreleased_msat,
            jobs(earned.unreleased_jobs)
        ));
    }
    said
}

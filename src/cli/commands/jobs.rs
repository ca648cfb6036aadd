//! `agent-provider jobs`: the jobs on record, newest first.

use super::history::when;
use crate::cli::output::Output;
use crate::cli::provider::JobsArgs;
use crate::cli::settings::Settings;
use crate::cli::text::one_line;
use crate::cli::watch::{LONGEST_NAME, short};
use crate::error::Result;
use crate::provider::store::{JobStore, JobSummary};

/// The most jobs that are looked through.
const MOST: usize = 100_000;

/// The most of an error that is shown on a line.
const LONGEST_ERROR: usize = 200;

/// Lists jobs.
///
/// # Errors
/// If the job store can't be read.
pub async fn run(settings: Settings, args: JobsArgs, out: &Output) -> Result<()> {
    let path = settings.home.jobs_file();
    if !path.exists() {
        return Ok(());
    }
    let wanted = |job: &JobSummary| {
        let state = args.state.is_empty() || args.state.iter().any(|it| it.0 == job.state);
        state && args.model.as_ref().is_none_or(|it| *it == job.model)
    };
    let filtered = !args.state.is_empty() || args.model.is_some();
    let limit = usize::try_from(args.limit).unwrap_or(MOST);
    let read = if filtered { MOST } else { limit };
    let jobs = JobStore::open(&path)?.latest(read).await?;
    for job in jobs.into_iter().filter(wanted).take(limit) {
        out.object(&job);
        if !out.is_json() {
            out.line(&line(&job));
        }
    }
    Ok(())
}

fn line(job: &JobSummary) -> String {
    // In a sim bank, play money: nobody is to take it for earned.
    let play = match &job.wallet {
        Some(wallet) if wallet.starts_with("sim:") => " (play money)",
        Some(_) => "",
        None => " (no wallet: not paid)",
    };
    let escrow = match (job.escrow, job.settled_at) {
        (true, None) => " in escrow",
        (true, Some(_)) => " from escrow",
        (false, _) => "",
    };
    let error = job
        .error
        .as_ref()
        .map(|error| format!("  {}", one_line(error, LONGEST_ERROR)))
        .unwrap_or_default();
    format!(
        "{}  {}  {:<10}  {}{escrow}{play}  {}  {}{error}",
        job.job_id,
        when(job.quoted_at),
        job.state.as_str(),
        job.price_msat,
        one_line(&job.model, LONGEST_NAME),
        short(&job.customer.to_hex()),
    )
}

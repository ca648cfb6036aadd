//! `agent-provider jobs`: the jobs on record, newest first.

use super::history::when;
use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::cli::watch::short;
use crate::error::Result;
use crate::provider::store::JobStore;

/// How many jobs are listed.
const MOST: usize = 1000;

/// Lists jobs.
///
/// # Errors
/// If the job store can't be read.
pub async fn run(settings: Settings, out: &Output) -> Result<()> {
    let path = settings.home.jobs_file();
    if !path.exists() {
        return Ok(());
    }
    for job in JobStore::open(&path)?.latest(MOST).await? {
        out.object(&job);
        out.line(&format!(
            "{}  {}  {:<10}  {}  {}  {}",
            job.job_id,
            when(job.quoted_at),
            job.state.as_str(),
            job.price_msat,
            job.model,
            short(&job.customer.to_hex()),
        ));
    }
    Ok(())
}

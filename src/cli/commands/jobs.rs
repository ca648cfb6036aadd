//! `jobs`

use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_settings: Settings, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "jobs is not built yet"))
}

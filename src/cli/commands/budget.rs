//! `budget`

use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_settings: Settings, _tick: Option<String>, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "budget is not built yet"))
}

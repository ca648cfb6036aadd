//! `demo`

use std::path::PathBuf;

use crate::cli::customer::DemoArgs;
use crate::cli::output::Output;
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_home: Option<PathBuf>, _args: DemoArgs, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "demo is not built yet"))
}

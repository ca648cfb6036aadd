//! `serve`

use crate::cli::output::Output;
use crate::cli::settings::{SaleSettings, Settings};
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_settings: Settings, _sale: SaleSettings, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "serve is not built yet"))
}

//! `buy`

use crate::cli::output::Output;
use crate::cli::settings::{PurchaseSettings, Settings};
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_settings: Settings, _purchase: PurchaseSettings, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "buy is not built yet"))
}

//! `recover`

use crate::cli::customer::Resolution;
use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::error::{Code, Error, Result};
use crate::ids::PurchaseId;

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(
    _settings: Settings,
    _resolution: Option<(PurchaseId, Resolution)>,
    _out: &Output,
) -> Result<()> {
    Err(Error::new(Code::Internal, "recover is not built yet"))
}

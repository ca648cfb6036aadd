//! `relay`

use std::net::SocketAddr;

use crate::cli::output::Output;
use crate::error::{Code, Error, Result};

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_listen: SocketAddr, _out: &Output) -> Result<()> {
    Err(Error::new(Code::Internal, "relay is not built yet"))
}

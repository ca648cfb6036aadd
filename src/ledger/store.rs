//! The ledger's SQL.

/// The ledger of one home.
#[derive(Clone, Debug)]
pub struct Ledger;

/// Says that this process is at work on a purchase, so that its own recovery leaves it alone.
#[derive(Debug)]
pub struct DriveGuard;

//! A look at a ledger that makes, repairs and changes nothing: for `doctor`.

use std::path::Path;
use std::time::Duration;

use super::{LedgerError, owner, store};
use crate::look::Soundness;
use crate::units::{Msat, UnixSecs};

/// How a ledger was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkup {
    /// How many of the migrations the file has had.
    pub version: usize,
    /// How many this program knows. It brings an older file up to date when it opens it.
    pub latest_version: usize,
    /// Whether the file is in order.
    pub soundness: Soundness,
    /// The latest time in it: ledger time never runs backwards.
    pub time: UnixSecs,
    /// Purchases under way, or cut off under way.
    pub open: u64,
    /// Purchases that are paid and have no result.
    pub undelivered: u64,
    /// Payments of which no wallet could say what became of them.
    pub in_doubt: u64,
    /// What is set aside, over all networks, play money included.
    pub reserved: Msat,
    /// The processes that have it open for buying, with their ids where the system tells.
    pub users: Vec<Option<u32>>,
}

impl Default for Checkup {
    fn default() -> Self {
        Self {
            version: 0,
            latest_version: 0,
            soundness: Soundness::Sound,
            time: UnixSecs::new(0),
            open: 0,
            undelivered: 0,
            in_doubt: 0,
            reserved: Msat::ZERO,
            users: Vec::new(),
        }
    }
}

/// Looks at the ledger in `dir`. Reads the whole file, but not for longer than `within`, and blocks that
/// long. `None` if there is none.
///
/// # Errors
/// [`LedgerError::Storage`] if it can't be read, was written by a newer version, or is something else.
pub fn check_up(dir: &Path, within: Duration) -> Result<Option<Checkup>, LedgerError> {
    let Some(mut found) = store::check_up(&dir.join("ledger.sqlite"), within)? else {
        return Ok(None);
    };
    found.users = owner::living(&dir.join("owners"));
    Ok(Some(found))
}

//! A look at a job store that makes, repairs and changes nothing: for `doctor`.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::rows::UNSENT;
use super::schema::{self, Unusable};
use super::{JobStore, unusable};
use crate::error::Error;
use crate::look::{self, Soundness, beside};

/// How a job store was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkup {
    /// How many of the migrations the file has had.
    pub version: usize,
    /// How many this program knows. It brings an older file up to date when it opens it.
    pub latest_version: usize,
    /// Whether the file is in order.
    pub soundness: Soundness,
    /// Jobs that are paid and not done.
    pub unfinished: u64,
    /// Jobs in escrow whose work is over, and whose money is neither ours nor the customer's again.
    pub unsettled: u64,
    /// Jobs that ended, and whose customer was not told.
    pub untold: u64,
    /// Jobs that were paid and failed: their money is owed.
    pub failed: u64,
    /// Whether a provider sells from it now.
    pub selling: bool,
    /// The id of its process, where the system tells.
    pub seller: Option<u32>,
}

impl JobStore {
    /// Looks at the store at `path`. Reads the whole file, but not for longer than `within`, and blocks
    /// that long. `None` if there is none.
    ///
    /// # Errors
    /// As [`JobStore::open`].
    pub fn check_up(path: &Path, within: Duration) -> Result<Option<Checkup>, Error> {
        if matches!(path.try_exists(), Ok(false)) {
            return Ok(None);
        }
        let looked = look::twice(
            || read(&look::open(path)?, within),
            |found| found.as_ref().is_ok_and(|it| it.soundness.is_well()),
        );
        let mut found = looked.map_err(|error| unusable(path, &error))?;
        let lock = beside(path, ".lock");
        // A shared lock: two who look at once don't take each other for a seller.
        found.selling = File::open(&lock).is_ok_and(|file| file.try_lock_shared().is_err());
        found.seller = found.selling.then(|| look::lock_holder(&lock)).flatten();
        Ok(Some(found))
    }
}

fn read(db: &Connection, within: Duration) -> Result<Checkup, Unusable> {
    let mut found = Checkup {
        version: schema::version(db)?,
        latest_version: schema::LATEST,
        soundness: Soundness::Sound,
        unfinished: 0,
        unsettled: 0,
        untold: 0,
        failed: 0,
        selling: false,
        seller: None,
    };
    if found.version == 0 {
        // Made, and cut off before anything was written.
        return Ok(found);
    }
    found.soundness = look::soundness(db, within)?;
    if let Soundness::Damaged(_) = found.soundness {
        return Ok(found);
    }
    let count = |which: &str| {
        let sql = format!("SELECT count(*) FROM jobs WHERE {which}");
        db.query_row(&sql, [], |row| row.get::<_, u64>(0))
    };
    found.unfinished = count("state IN ('paid', 'held', 'running')")?;
    if found.version == schema::LATEST {
        // A file of an earlier version may have no such column.
        found.unsettled = count(
            "escrow = 1 AND settled_at IS NULL AND state IN ('done', 'delivered', 'released', 'returning')",
        )?;
    }
    found.untold = count(UNSENT)?;
    found.failed = count("state = 'failed' AND wallet IS NOT NULL")?;
    Ok(found)
}

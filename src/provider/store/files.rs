//! The store's files: private to their owner, and ours.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::schema::{self, Unusable};
use crate::crash::{self, Point};

/// How long a change waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

pub(super) fn connect(path: &Path) -> Result<Connection, Unusable> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    // First of all, so that nothing is changed in a file that is not ours.
    schema::migrate(&mut db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

pub(super) fn make_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut make, 0o700);
        make.create(folder)?;
    }
    crash::before(Point::StoreCreate);
    open_private(path)?;
    crash::after(Point::StoreCreate);
    Ok(())
}

pub(super) fn open_private(path: &Path) -> std::io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
    open.open(path)
}

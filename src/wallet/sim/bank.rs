//! The bank's file: opening it, creating it once, and one transaction after the other on it.
//!
//! # Who shares what
//!
//! Processes share the file; SQLite's write-ahead log and its locks keep them apart. Wallets of one process
//! share one [`Bank`], and with it one connection and one place that tells of changes. A bank is known by
//! the file's identity, not by its path, so a link to a file leads to the same bank, and a file that was
//! replaced is another one.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

use super::books;
use super::hints::Hints;
use crate::disk::{self, SameFiles};
use crate::ids::PaymentHash;
use crate::units::UnixSecs;
use crate::wallet::WalletError;

/// How long to wait for another process to finish its transaction. Each takes milliseconds, so who
/// waits longer waits for something that is stuck.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that may block on the file at once. Slow payments are among them.
const CALLERS: usize = 16;

/// How often to try what SQLite gives up on at once (switching to the write-ahead log while another
/// process does the same), within [`BUSY_TIMEOUT`].
const RETRY_EVERY: Duration = Duration::from_millis(5);

/// Marks the file as ours ("ACsb"), so that no other database is taken for a bank.
const APPLICATION_ID: i64 = 0x4143_7362;

/// The version of [`books::SCHEMA`].
const SCHEMA_VERSION: i64 = 1;

/// Why something was not done. Nothing changed then.
#[derive(Debug)]
pub(super) enum Problem {
    /// The bank's rules refuse it.
    Refused(String),
    /// The file can't be used.
    Sql(rusqlite::Error),
}

impl Problem {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// One open bank. Its calls block on the file.
pub(super) struct Bank {
    path: PathBuf,
    id: String,
    connection: Mutex<Connection>,
    /// What the connection writes to.
    opened: SameFiles,
    /// Tells those who wait that something may have changed.
    pub(super) hints: Hints,
    /// Whoever calls waits for one of these before it takes a thread to block on: the file is used by one at
    /// a time, and a crowd must not become as many threads.
    pub(super) callers: Semaphore,
    /// How many payments of this process are on their way to the file, by payer and hash.
    begun: Mutex<HashMap<(i64, PaymentHash), usize>>,
}

impl Bank {
    /// The bank in this file. `create` makes it if there is none.
    pub(super) fn open(path: &Path, create: bool) -> Result<Arc<Self>, WalletError> {
        // Held until the end: closing a file drops this process's locks on it, so no wallet may open
        // the file while another one is creating it.
        let mut open = lock(&OPEN);
        if create {
            create_file(path).map_err(|error| storage(path, &error.to_string()))?;
        }
        let key = FileKey::of(path).map_err(|error| storage(path, &error.to_string()))?;
        open.retain(|(_, bank)| bank.strong_count() > 0);
        let known = open.iter().find(|(known, _)| *known == key);
        if let Some(bank) = known.and_then(|(_, bank)| bank.upgrade()) {
            return Ok(bank);
        }
        let (connection, id) = connect(path).map_err(|problem| match problem {
            Problem::Refused(why) => storage(path, &why),
            problem => explain(path, problem),
        })?;
        let bank = Arc::new(Self {
            path: path.to_owned(),
            id,
            connection: Mutex::new(connection),
            opened: SameFiles::of(path),
            hints: Hints::new(),
            callers: Semaphore::new(CALLERS),
            begun: Mutex::default(),
        });
        open.push((key, Arc::downgrade(&bank)));
        Ok(bank)
    }

    /// The bank's own random name.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Looks at the books as they stand at `now`.
    pub(super) fn read<T>(
        &self,
        now: UnixSecs,
        look: impl FnOnce(&Connection) -> Result<T, Problem>,
    ) -> Result<T, WalletError> {
        let overdue = self.with(|connection| books::any_overdue(connection, now))?;
        if overdue {
            self.write(now, |_| Ok(()))?;
        }
        self.look(look)
    }

    /// Looks at the books as they are on file, overdue holds and all.
    pub(super) fn look<T>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, Problem>,
    ) -> Result<T, WalletError> {
        self.with(|connection| {
            let books = connection.transaction()?;
            look(&books)
        })
    }

    /// Changes the books, all or nothing, durably. Holds whose deadline has passed are given back first.
    pub(super) fn write<T>(
        &self,
        now: UnixSecs,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Problem>,
    ) -> Result<T, WalletError> {
        if !self.opened.are_there() {
            let gone = "the file, or its -wal file, was deleted or replaced while this process had it \
                        open; put it back as it was, or start anew";
            return Err(storage(&self.path, gone));
        }
        let (done, changed) = self.with(|connection| {
            let books = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let before = rows_changed(&books)?;
            books::return_overdue(&books, now)?;
            let done = change(&books)?;
            let changed = rows_changed(&books)? != before;
            books.commit()?;
            Ok((done, changed))
        })?;
        if changed {
            self.hints.tell();
        }
        Ok(done)
    }

    /// SQLite's count of the commits that others made to the file.
    pub(super) fn commits_of_others(&self) -> Option<i64> {
        let connection = lock(&self.connection);
        let mut version = connection.prepare_cached("PRAGMA data_version").ok()?;
        version.query_row([], |row| row.get(0)).ok()
    }

    /// Notes that a payment is on its way to the file, until the note is dropped.
    pub(super) fn begin(self: &Arc<Self>, payer: i64, hash: PaymentHash) -> Begun {
        *lock(&self.begun).entry((payer, hash)).or_insert(0) += 1;
        Begun {
            bank: Arc::clone(self),
            of: (payer, hash),
        }
    }

    /// Whether a payment is on its way to the file.
    pub(super) fn is_begun(&self, payer: i64, hash: PaymentHash) -> bool {
        lock(&self.begun).contains_key(&(payer, hash))
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Connection) -> Result<T, Problem>,
    ) -> Result<T, WalletError> {
        act(&mut lock(&self.connection)).map_err(|problem| explain(&self.path, problem))
    }
}

/// How many rows this connection has changed since it was opened.
fn rows_changed(books: &Connection) -> Result<i64, Problem> {
    let mut count = books.prepare_cached("SELECT total_changes()")?;
    Ok(count.query_row([], |row| row.get(0))?)
}

/// A payment that is on its way to the file.
pub(super) struct Begun {
    bank: Arc<Bank>,
    of: (i64, PaymentHash),
}

impl Begun {
    /// Whether no other attempt at the same payment is on its way.
    pub(super) fn is_alone(&self) -> bool {
        lock(&self.bank.begun).get(&self.of) == Some(&1)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut begun = lock(&self.bank.begun);
        if let Some(count) = begun.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                begun.remove(&self.of);
            }
        }
    }
}

/// The banks that this process has open.
static OPEN: Mutex<Vec<(FileKey, Weak<Bank>)>> = Mutex::new(Vec::new());

/// Which file it is, whatever it is called.
#[derive(PartialEq, Eq)]
struct FileKey {
    #[cfg(unix)]
    device_and_inode: (u64, u64),
    #[cfg(not(unix))]
    path: PathBuf,
}

impl FileKey {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = fs::metadata(path)?;
        Ok(Self {
            device_and_inode: (file.dev(), file.ino()),
        })
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        Ok(Self { path })
    }
}

/// Locks, also after a panic elsewhere: a transaction that was cut off by one has been rolled back.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the folder (0700) and an empty file (0600) if they are missing. SQLite gives its own files
/// beside it the same mode.
fn create_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Opens the file, and makes it a bank if it is empty. Returns the bank's id too.
fn connect(path: &Path) -> Result<(Connection, String), Problem> {
    // Without SQLITE_OPEN_URI: a path is a path, whatever it looks like.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Before anything is written: it may be somebody else's file.
    retry_while_busy(|| is_bank(&connection))?;
    retry_while_busy(|| {
        let switch = "PRAGMA journal_mode = WAL";
        Ok(connection.query_row(switch, [], |_| Ok(()))?)
    })?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;

    if !is_bank(&connection)? {
        let books = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been quicker.
        if !is_bank(&books)? {
            books.execute_batch(books::SCHEMA)?;
            books::found(&books)?;
            books.pragma_update(None, "application_id", APPLICATION_ID)?;
            books.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            books.commit()?;
        }
    }
    let id = books::bank_id(&connection)?;
    Ok((connection, id))
}

/// Whether the file is a bank of our version (`true`) or empty (`false`).
pub(super) fn is_bank(connection: &Connection) -> Result<bool, Problem> {
    // In one statement: between two of them another process may make it a bank.
    let (application, version, tables): (i64, i64, i64) = connection.query_row(
        "SELECT (SELECT application_id FROM pragma_application_id),
                (SELECT user_version FROM pragma_user_version),
                (SELECT count(*) FROM sqlite_master)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    match (application, version, tables) {
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(true),
        (APPLICATION_ID, ..) => Err(Problem::refused(format!(
            "it has version {version}, this program knows version {SCHEMA_VERSION}: \
             use the program that wrote it, or another file"
        ))),
        (0, 0, 0) => Ok(false),
        _ => Err(Problem::refused("it is another program's database")),
    }
}

fn retry_while_busy<T>(attempt: impl Fn() -> Result<T, Problem>) -> Result<T, Problem> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(Problem::Sql(error)) if is_busy(&error) && since.elapsed() < BUSY_TIMEOUT => {
                std::thread::sleep(RETRY_EVERY);
            }
            outcome => return outcome,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

pub(super) fn storage(path: &Path, problem: &str) -> WalletError {
    WalletError::Storage(format!("play-money bank {}: {problem}", path.display()))
}

pub(super) fn explain(path: &Path, problem: Problem) -> WalletError {
    let error = match problem {
        Problem::Refused(why) => return WalletError::Refused(why),
        Problem::Sql(error) => error,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            WalletError::Unreachable(format!(
                "play-money bank {}: another process has kept it locked for {} s",
                path.display(),
                BUSY_TIMEOUT.as_secs()
            ))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => storage(
            path,
            "the file is damaged or no bank; move it away to start with a new one",
        ),
        _ if disk::is_full(&error) => storage(
            path,
            &format!("the disk is full: free some space ({error})"),
        ),
        _ => storage(path, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bank_that_is_being_made_is_taken_for_nothing_else() {
        for _ in 0..40 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("bank.sqlite");
            create_file(&path).unwrap();
            let look = Connection::open(&path).unwrap();
            std::thread::scope(|threads| {
                let making = threads.spawn(|| connect(&path).unwrap());
                // Read by others at every moment of it.
                while !making.is_finished() {
                    if let Err(Problem::Refused(why)) = is_bank(&look) {
                        panic!("{why}");
                    }
                }
            });
            assert!(is_bank(&look).unwrap());
        }
    }
}

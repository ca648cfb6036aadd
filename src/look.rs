//! Looking into an SQLite file of ours without changing anything: for a check-up, which must not make,
//! repair or upgrade what it looks at.
//!
//! Even a connection that only reads leaves files beside a database in WAL mode. So a file without a log
//! is read as one that nobody changes, which makes none. With a log, somebody has it open or died with
//! it, and the files are there already.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// How long a look waits for a process that has the file to itself.
const BUSY: Duration = Duration::from_secs(2);

/// What reading a file from one end to the other says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Soundness {
    /// Every page and index is as it must be.
    Sound,
    /// It is damaged; what SQLite says first.
    Damaged(String),
    /// It is too large to be read to its end in the time there was. Nothing was found until then.
    NotReadToTheEnd,
}

impl Soundness {
    /// Whether nothing is known to be wrong.
    pub(crate) const fn is_well(&self) -> bool {
        !matches!(self, Self::Damaged(_))
    }
}

/// Opens a database for reading only. Nothing is made or changed, not even beside it.
///
/// # Errors
/// If it is not there or can't be read.
pub(crate) fn open(file: &Path) -> rusqlite::Result<Connection> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let immutable = if has_log(&file) { "" } else { "?immutable=1" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("file:{}{immutable}", in_uri(&file)), flags)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Looks, and once more if what was found is no good: a process that opened the file in the middle of a
/// look may have changed it under our eyes, and by then there is a log to go by.
pub(crate) fn twice<T>(mut look: impl FnMut() -> T, is_well: impl Fn(&T) -> bool) -> T {
    let first = look();
    if is_well(&first) { first } else { look() }
}

/// Whether the file has a log with something in it.
fn has_log(file: &Path) -> bool {
    beside(file, "-wal")
        .metadata()
        .is_ok_and(|log| log.len() > 0)
}

/// The file of this name with an ending.
pub(crate) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// A path as a URI has it: whatever could mean something there is escaped.
fn in_uri(file: &Path) -> String {
    let mut uri = String::new();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b':' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(*byte));
            }
            b'\\' if cfg!(windows) => uri.push('/'),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// Reads the whole file and checks it, for as long as `within`.
///
/// # Errors
/// If it can't be read at all.
pub(crate) fn soundness(db: &Connection, within: Duration) -> rusqlite::Result<Soundness> {
    let stop = db.get_interrupt_handle();
    let (done, waits) = channel::<()>();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            if waits.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                stop.interrupt();
            }
        });
        let said = db.query_row("PRAGMA integrity_check(1)", [], |row| {
            row.get::<_, String>(0)
        });
        drop(done);
        match said {
            Ok(said) if said == "ok" => Ok(Soundness::Sound),
            Ok(said) => Ok(Soundness::Damaged(said)),
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) =>
            {
                Ok(Soundness::NotReadToTheEnd)
            }
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) =>
            {
                Ok(Soundness::Damaged(error.to_string()))
            }
            Err(error) => Err(error),
        }
    })
}

/// Which process holds a lock on this file, where the system tells: on Linux, for processes that this one
/// can see.
#[must_use]
pub fn lock_holder(file: &Path) -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt as _;

        let inode = file.metadata().ok()?.ino().to_string();
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
        locks.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of_file = words.get(5)?.rsplit(':').next()? == inode;
            of_file.then(|| words.get(4)?.parse().ok()).flatten()
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn listing(folder: &Path) -> Vec<(String, u64)> {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, entry.metadata().unwrap().len())
            })
            .collect();
        files.sort();
        files
    }

    fn database(file: &Path) -> Connection {
        let db = Connection::open(file).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (7);",
        )
        .unwrap();
        db
    }

    #[test]
    fn looking_leaves_no_trace_and_sees_what_is_only_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        // A name that would mean something in a URI.
        let file = folder.path().join("a b?c#d%41.sqlite");
        let writer = database(&file);
        let seen = |db: &Connection| {
            db.query_row("SELECT x FROM t", [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let before = listing(folder.path());
        assert_eq!(before.len(), 3, "with its log: {before:?}");
        assert_eq!(seen(&open(&file).unwrap()), 7);
        assert_eq!(listing(folder.path()), before);
        drop(writer);
        let before = listing(folder.path());
        assert_eq!(before.len(), 1, "without: {before:?}");
        let db = open(&file).unwrap();
        assert_eq!(seen(&db), 7);
        assert!(db.execute("INSERT INTO t VALUES (8)", []).is_err());
        assert_eq!(listing(folder.path()), before);
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("none.sqlite");
        assert!(open(&file).is_err());
        assert!(listing(folder.path()).is_empty());
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db.sqlite");
        let db = database(&file);
        db.execute_batch("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i FROM n;")
            .unwrap();
        drop(db);
        let long = Duration::from_secs(30);
        assert_eq!(
            soundness(&open(&file).unwrap(), long).unwrap(),
            Soundness::Sound
        );
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 4096].fill(0xa5);
        std::fs::write(&file, bytes).unwrap();
        let found = soundness(&open(&file).unwrap(), long);
        assert!(matches!(found, Ok(Soundness::Damaged(_))), "{found:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_holds_a_lock_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("lock")).unwrap();
        assert_eq!(lock_holder(&folder.path().join("lock")), None);
        file.lock().unwrap();
        // Some sandboxes have no /proc/locks, or one that lists nothing.
        if let Some(holder) = lock_holder(&folder.path().join("lock")) {
            assert_eq!(holder, std::process::id());
        }
    }
}

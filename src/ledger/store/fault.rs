//! What goes wrong with the file, and the words for it.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use crate::disk;
use crate::ledger::LedgerError;

/// What goes wrong in here, before the file's name is put to it.
#[derive(Debug)]
pub(in crate::ledger) enum Fault {
    /// An answer the caller must know.
    Ledger(LedgerError),
    /// SQLite could not.
    Sql(rusqlite::Error),
    /// The file is no good, in words that say what mends it.
    Unusable(String),
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// The error, of the ledger in this file.
    pub(in crate::ledger) fn of(self, file: &Path) -> LedgerError {
        let problem = match self {
            Self::Ledger(error) => return error,
            Self::Unusable(problem) => problem,
            Self::Sql(error) => in_words(&error),
        };
        LedgerError::Storage {
            path: file.display().to_string(),
            problem,
        }
    }

    /// Whether it is for want of space on the disk. Nothing changed then.
    pub(in crate::ledger) fn is_full(&self) -> bool {
        matches!(self, Self::Sql(error) if disk::is_full(error))
    }

    /// The file is there, and may not be written.
    pub(super) fn read_only() -> Self {
        Self::by_code(ffi::SQLITE_READONLY)
    }

    /// Another process keeps the file locked.
    pub(in crate::ledger) fn busy() -> Self {
        Self::by_code(ffi::SQLITE_BUSY)
    }

    fn by_code(code: i32) -> Self {
        let failure = ffi::Error::new(code);
        Self::Sql(rusqlite::Error::SqliteFailure(failure, None))
    }

    /// Whether it is for want of the right to write.
    pub(super) fn is_read_only(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
        )
    }

    /// Whether it is for another process that keeps the file locked.
    pub(in crate::ledger) fn is_busy(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::FileLockingProtocolFailed
            )
        )
    }
}

fn in_words(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        _ if disk::is_full(error) => "the disk is full. Free some space and try again",
        Some(ErrorCode::NotADatabase) => {
            "it is not a ledger. Restore it from a backup; if you begin a new one in its place, what \
             was spent and what is in doubt is forgotten"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "it is damaged. Restore it from a backup; if you begin a new one in its place, what was \
             spent and what is in doubt is forgotten"
        }
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => "another process kept it locked for 10 seconds. Try again, or see what holds it",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "it can't be opened for writing. Its folder must exist, and this user must be allowed to \
             write to both"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk fails to read or write. Check it",
        _ => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => {
                "it is damaged: a value is not one that was ever written. Restore it from a backup"
            }
            _ => return error.to_string(),
        },
    };
    format!("{advice} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_can_not_do_comes_with_what_mends_it() {
        for (code, mends) in [
            (ffi::SQLITE_FULL, "Free some space"),
            (ffi::SQLITE_BUSY, "Try again"),
            (ffi::SQLITE_CORRUPT, "Restore it"),
            (ffi::SQLITE_NOTADB, "Restore it"),
            (ffi::SQLITE_READONLY, "allowed to write"),
            (ffi::SQLITE_CANTOPEN, "must exist"),
            (ffi::SQLITE_IOERR, "Check it"),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let words = Fault::Sql(error)
                .of(Path::new("/books/l.sqlite"))
                .to_string();
            assert!(words.contains(mends), "{words}");
            assert!(words.contains("/books/l.sqlite"), "{words}");
        }
    }

    #[test]
    fn what_waiting_freeing_or_only_reading_would_mend_is_told_apart() {
        for (code, full, read_only, busy) in [
            (ffi::SQLITE_FULL, true, false, false),
            (ffi::SQLITE_READONLY, false, true, false),
            (ffi::SQLITE_CANTOPEN, false, true, false),
            (ffi::SQLITE_PERM, false, true, false),
            (ffi::SQLITE_BUSY, false, false, true),
            (ffi::SQLITE_LOCKED, false, false, true),
            (ffi::SQLITE_PROTOCOL, false, false, true),
            (ffi::SQLITE_CORRUPT, false, false, false),
        ] {
            let failure = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let fault = Fault::Sql(failure);
            let is = (fault.is_full(), fault.is_read_only(), fault.is_busy());
            assert_eq!(is, (full, read_only, busy), "{code}");
        }
        assert!(Fault::read_only().is_read_only());
        let other = Fault::Unusable("x".to_owned());
        assert!(!other.is_full() && !other.is_read_only() && !other.is_busy());
    }
}

//! What a disk may do to a database of ours that is open: fill up, or lose it.
//!
//! * [`Room`]: space that is kept, so that what must be written when the disk is full still can be
//! * [`SameFiles`]: whether the files that were opened are still the ones of that name
//! * [`is_full`]: whether it was the want of space that SQLite failed by

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{ErrorCode, ffi};

use crate::look::beside;

/// Bytes that are kept: a payment is booked, and a job put on record, in a few pages of 4 KiB each and a
/// result in as many as it is long. Enough for a dozen at once.
const ROOM: usize = 512 * 1024;

/// Space on the disk that is taken while there is some, and given back when it is needed for what can't wait.
///
/// A file system that compresses or shares what is written to it may give back less.
#[derive(Debug)]
pub(crate) struct Room {
    /// A file of ours whose contents, from `after` on, nobody reads.
    file: File,
    after: u64,
    is_kept: Mutex<bool>,
}

impl Room {
    /// In this file, from the byte `after` on. Nothing is taken yet.
    pub(crate) fn in_file(file: File, after: u64) -> Self {
        Self {
            file,
            after,
            is_kept: Mutex::new(false),
        }
    }

    /// Takes the room, unless it is taken.
    ///
    /// # Errors
    /// If there is not so much, and then none is taken.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let mut is_kept = self.is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_kept {
            return Ok(());
        }
        let mut file = &self.file;
        let taken = file
            .seek(SeekFrom::Start(self.after))
            .and_then(|_| file.write_all(&vec![0; ROOM]));
        match taken {
            Ok(()) => *is_kept = true,
            Err(_) => self.file.set_len(self.after)?,
        }
        taken
    }

    /// Gives it back, so that others can have it. Says whether there was any.
    pub(crate) fn give(&self) -> bool {
        let mut is_kept = self.is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *is_kept) && self.file.set_len(self.after).is_ok()
    }
}

/// Which files a database was opened in: its own and its log.
#[derive(Debug)]
pub(crate) struct SameFiles {
    #[cfg(unix)]
    opened: [(PathBuf, Option<(u64, u64)>); 2],
    #[cfg(not(unix))]
    file: PathBuf,
}

impl SameFiles {
    /// Of this database, which was just opened and read.
    #[cfg(unix)]
    pub(crate) fn of(file: &Path) -> Self {
        // The log is beside the file itself, not beside a link to it.
        let own = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let both = [file.to_owned(), beside(&own, "-wal")];
        Self {
            opened: both.map(|path| {
                let it = identity(&path);
                (path, it)
            }),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    /// Whether these are still the files of that name. One that was deleted or replaced takes all that is
    /// written to it along, and whoever opens the name finds something else. Costs microseconds.
    #[cfg(unix)]
    pub(crate) fn are_there(&self) -> bool {
        // What could not be told then is not asked for.
        let mut known = self.opened.iter().filter(|(_, then)| then.is_some());
        known.all(|(path, then)| identity(path) == *then)
    }

    #[cfg(not(unix))]
    pub(crate) fn are_there(&self) -> bool {
        self.file.exists()
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let it = path.metadata().ok()?;
    Some((it.dev(), it.ino()))
}

/// Whether SQLite could not do it for want of space: on the disk, in a quota, or in what the process may
/// write to a file. It has undone the change, and may be asked again.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return false;
    };
    failure.code == ErrorCode::DiskFull
        || [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE].contains(&failure.extended_code)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn room_is_taken_once_and_given_back_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"mark").unwrap();
        let room = Room::in_file(file, 4);
        let length = || path.metadata().unwrap().len();
        assert!(!room.give());
        room.keep().unwrap();
        room.keep().unwrap();
        assert_eq!(length(), 4 + ROOM as u64);
        assert!(room.give());
        assert!(!room.give());
        assert_eq!(std::fs::read(&path).unwrap(), b"mark");
        room.keep().unwrap();
        assert_eq!(length(), 4 + ROOM as u64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn where_there_is_no_room_none_is_taken() {
        let file = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let room = Room::in_file(file.unwrap(), 0);
        assert!(room.keep().is_err());
        assert!(!room.give());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_deleted_or_replaced_is_missed_and_so_is_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        for gone in ["db", "db-wal"] {
            std::fs::write(&path, "1").unwrap();
            std::fs::write(folder.path().join("db-wal"), "1").unwrap();
            let files = SameFiles::of(&path);
            assert!(files.are_there());
            let gone = folder.path().join(gone);
            std::fs::rename(&gone, folder.path().join("elsewhere")).unwrap();
            assert!(!files.are_there());
            std::fs::write(&gone, "1").unwrap();
            assert!(!files.are_there());
            std::fs::rename(folder.path().join("elsewhere"), &gone).unwrap();
            assert!(files.are_there());
        }
    }

    #[test]
    fn only_the_want_of_space_is_a_full_disk() {
        for (code, expected) in [
            (ffi::SQLITE_FULL, true),
            (ffi::SQLITE_IOERR_WRITE, true),
            (ffi::SQLITE_IOERR_SHMSIZE, true),
            (ffi::SQLITE_IOERR_FSYNC, false),
            (ffi::SQLITE_IOERR_READ, false),
            (ffi::SQLITE_BUSY, false),
            (ffi::SQLITE_READONLY, false),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(is_full(&error), expected, "{code}");
        }
    }
}

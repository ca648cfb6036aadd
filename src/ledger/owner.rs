//! The lock that says that a process lives.
//!
//! Every writing handle holds an exclusive lock on a file of its own, `owners/<id>.lock`, from before
//! its first purchase until it is dropped; the system lets go of it however the process ends. An owner
//! whose file is gone, or whose lock is free, is dead, and stays so: ids are random and never used
//! twice. That makes liveness a fact one may act on without a race.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::crash::{self, Point};

/// How many dead owners' files one opening clears away.
const CLEARED_AT_ONCE: usize = 256;

/// Our own lock, held until dropped.
#[derive(Debug)]
pub(super) struct OwnerLock {
    id: String,
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl OwnerLock {
    /// Locks a new file in `folder`, which must exist, and clears away those of the dead.
    pub(super) fn acquire(folder: &Path) -> io::Result<Self> {
        clear_dead(folder);
        // A file that is not locked yet looks dead, so another process may clear it away before we
        // have locked it. Then we did not get the lock, or the name is gone: another id, once more.
        for _ in 0..8 {
            let id = random_id();
            let path = lock_path(folder, &id);
            let file = private(OpenOptions::new().write(true).create_new(true)).open(&path)?;
            crash::before(Point::LedgerOwner);
            match file.try_lock() {
                Ok(()) if path.exists() => {
                    crash::after(Point::LedgerOwner);
                    return Ok(Self {
                        id,
                        path,
                        _file: file,
                    });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other("no lock of our own could be had"))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // A missing file says the same as a free lock, so nothing depends on this.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the process that stamped `id` on a purchase still lives. What can't be told counts as
/// alive: leaving a purchase alone costs time, taking it from a living process could cost money.
pub(super) fn lives(folder: &Path, id: &str) -> bool {
    // The id comes from the file; anything but our own form names no lock.
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return false;
    }
    match File::open(lock_path(folder, id)) {
        // A shared lock, so that two who ask at once do not take each other for the owner.
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The processes that hold a lock in `folder`, with their ids where the system tells.
pub(super) fn living(folder: &Path) -> Vec<Option<u32>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let locks = entries.flatten().map(|entry| entry.path());
    locks
        .filter(|path| path.extension().is_some_and(|ending| ending == "lock"))
        .filter(|path| File::open(path).is_ok_and(|file| file.try_lock_shared().is_err()))
        .map(|path| crate::look::lock_holder(&path))
        .collect()
}

/// Makes what `options` creates readable by this user only.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn lock_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.lock"))
}

fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Best effort: a file that stays is only litter.
fn clear_dead(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten().take(CLEARED_AT_ONCE) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        if let Ok(file) = File::open(&path) {
            // Removed while locked, so that its maker, if it is only just being made, finds out.
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_owner_lives_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let owner = OwnerLock::acquire(folder.path()).unwrap();
        assert!(lives(folder.path(), owner.id()));
        let id = owner.id().to_owned();
        drop(owner);
        assert!(!lives(folder.path(), &id));
    }

    #[test]
    fn a_missing_file_or_a_free_lock_is_death_and_litter_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let (gone, free) = (random_id(), random_id());
        File::create(lock_path(folder.path(), &free)).unwrap();
        assert!(!lives(folder.path(), &gone));
        assert!(!lives(folder.path(), &free));
        let living = OwnerLock::acquire(folder.path()).unwrap();
        let other = OwnerLock::acquire(folder.path()).unwrap();
        assert!(!lock_path(folder.path(), &free).exists());
        assert!(lives(folder.path(), living.id()) && lives(folder.path(), other.id()));
    }

    #[test]
    fn an_id_that_is_not_one_never_reaches_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("x.lock"))
            .unwrap()
            .lock()
            .unwrap();
        for id in ["", "x", "../../etc/passwd", "é"] {
            assert!(!lives(folder.path(), id));
        }
    }

    #[test]
    fn many_may_begin_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let owners: Vec<OwnerLock> = std::thread::scope(|threads| {
            let begun: Vec<_> = (0..16)
                .map(|_| threads.spawn(|| OwnerLock::acquire(folder.path()).unwrap()))
                .collect();
            begun.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(owners.iter().all(|it| lives(folder.path(), it.id())));
    }
}

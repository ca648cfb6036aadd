//! The lock that says that a process lives.
//!
//! Every writing handle holds an exclusive lock on a file of its own, `owners/<id>.lock`, from before
//! its first purchase until it is dropped; the system lets go of it however the process ends. An owner
//! whose file is gone, or whose lock is free, is dead, and stays so: ids are random and never used
//! twice. That makes liveness a fact one may act on without a race.
//!
//! Its first bytes say up to where the ledger was written when the owner opened it or last wrote to it. Only who dies leaves
//! that behind, and with it a ledger whose latest changes are in its log: should that be deleted, the ledger
//! would look sound and have forgotten what was paid. The rest of the file is [`Room`] on the disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::crash::{self, Point};
use crate::disk::Room;

/// How many other owners' files one opening looks at.
const MOST_OTHERS: usize = 256;

/// Bytes of a mark: a number in decimal digits, always as many.
const MARK_BYTES: usize = 20;

/// Our own lock, held until dropped.
#[derive(Debug)]
pub(super) struct OwnerLock {
    id: String,
    path: PathBuf,
    /// Locked as long as it is open.
    file: File,
    room: Room,
}

impl OwnerLock {
    /// Locks a new file in `folder`, which must exist.
    pub(super) fn acquire(folder: &Path) -> io::Result<Self> {
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
                    let room = Room::in_file(file.try_clone()?, MARK_BYTES as u64);
                    return Ok(Self {
                        id,
                        path,
                        file,
                        room,
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

    /// Room for what this owner may have to write when the disk is full.
    pub(super) const fn room(&self) -> &Room {
        &self.room
    }

    /// Says that the ledger was written up to this line of its log. Best effort: without it a loss is not
    /// noticed. `false`: it could not be written.
    pub(super) fn mark(&self, line: u64) -> bool {
        crash::before(Point::LedgerMark);
        let mut file = &self.file;
        let marked = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(format!("{line:0MARK_BYTES$}").as_bytes()));
        crash::after(Point::LedgerMark);
        marked.is_ok()
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

/// What other owners have left in `folder`, dead or alive.
#[derive(Debug, Default)]
pub(super) struct Others {
    dead: Vec<PathBuf>,
    mark: u64,
}

impl Others {
    /// Looks at them, and gives back the room of the dead. An owner's mark is behind the ledger, so who
    /// compares the two looks here first.
    pub(super) fn in_folder(folder: &Path) -> Self {
        let mut others = Self::default();
        let Ok(entries) = fs::read_dir(folder) else {
            return others;
        };
        for entry in entries.flatten().take(MOST_OTHERS) {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&path) else {
                continue;
            };
            others.mark = others.mark.max(read_mark(&mut file).unwrap_or(0));
            if file.try_lock_shared().is_ok() {
                let _ = file
                    .metadata()
                    .and_then(|it| file.set_len(it.len().min(MARK_BYTES as u64)));
                others.dead.push(path);
            }
        }
        others
    }

    /// Up to which line of its log the ledger was once written, as far as any of them has seen.
    pub(super) const fn mark(&self) -> u64 {
        self.mark
    }

    /// Clears away the files of the dead. Best effort: one that stays is only litter.
    pub(super) fn clear(self) {
        for path in self.dead {
            // A shared lock, so that nobody who asks meanwhile takes the dead for living.
            if let Ok(file) = File::open(&path)
                && file.try_lock_shared().is_ok()
            {
                // Removed while locked, so that its maker, if it is only just being made, finds out.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn read_mark(file: &mut File) -> Option<u64> {
    let mut digits = [0; MARK_BYTES];
    file.read_exact(&mut digits).ok()?;
    std::str::from_utf8(&digits).ok()?.parse().ok()
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
        Others::in_folder(folder.path()).clear();
        assert!(!lock_path(folder.path(), &free).exists());
        assert!(lives(folder.path(), living.id()) && lives(folder.path(), other.id()));
    }

    #[test]
    fn an_id_that_is_not_one_never_reaches_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(32);
        // Locked all the while: who asked the file system would hear that they live.
        let locked = ["x", "ab", &long].map(|id| {
            let file = File::create(lock_path(folder.path(), id)).unwrap();
            file.lock().unwrap();
            file
        });
        for id in ["", "x", "ab", &long, "../../etc/passwd", "é"] {
            assert!(!lives(folder.path(), id), "{id}");
        }
        drop(locked);
    }

    #[test]
    fn what_the_dead_have_seen_stays_and_their_room_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let owner = OwnerLock::acquire(folder.path()).unwrap();
        owner.mark(7);
        owner.room().keep().unwrap();
        owner.mark(41);
        let seen = |folder: &Path| Others::in_folder(folder).mark();
        assert_eq!(seen(folder.path()), 41);
        // As its process leaves it behind that is killed.
        let dead = folder.path().join(format!("{}.lock", random_id()));
        fs::copy(lock_path(folder.path(), owner.id()), &dead).unwrap();
        drop(owner);
        assert_eq!(seen(folder.path()), 41);
        assert_eq!(fs::metadata(&dead).unwrap().len(), MARK_BYTES as u64);
        Others::in_folder(folder.path()).clear();
        assert_eq!(seen(folder.path()), 0);
    }

    #[test]
    fn nobody_who_looks_at_the_dead_makes_them_look_alive() {
        let folder = tempfile::tempdir().unwrap();
        let dead = random_id();
        let file = File::create(lock_path(folder.path(), &dead)).unwrap();
        // What looking and clearing away do.
        file.try_lock_shared().unwrap();
        assert!(!lives(folder.path(), &dead));
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

//! Files put in place whole: written beside their place under another name, synced, and moved there, so
//! that a reader sees the old content or the new, whenever the power goes.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rand::Rng as _;

use crate::crash::{self, Point};
use crate::identity::IdentityError;
use crate::secret::{make_private_folder, private_file};

/// A file that is removed when this goes out of scope.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing to be done if it fails: the file is private, and the next one to lock the folder
        // clears it away.
        let _ = fs::remove_file(&self.0);
    }
}

impl Temporary {
    /// `content`, on disk, beside `path` and for its owner alone.
    fn write(path: &Path, content: &[u8]) -> Result<Self, IdentityError> {
        let suffix: u64 = rand::rng().random();
        let name = format!("{}{suffix:016x}{TEMPORARY}", prefix(path));
        let temporary = Self(folder_of(path).join(name));
        let write = || {
            let mut file = private_file(&temporary.0)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(|problem| IdentityError::io(&temporary.0, problem))?;
        Ok(temporary)
    }
}

const TEMPORARY: &str = ".tmp";

fn prefix(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(OsStr::new("identity"));
    format!(".{}-", stem.to_string_lossy())
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Puts a new file in place. A hard link does it, which fails if the place is taken; of two programs
/// that do this at once, one finds out that it was the slower.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let folder = folder_of(path);
    make_private_folder(folder).map_err(|problem| IdentityError::io(folder, problem))?;
    let temporary = Temporary::write(path, content)?;
    crash::before(Point::IdentityCreate);
    match fs::hard_link(&temporary.0, path) {
        Ok(()) => crash::after(Point::IdentityCreate),
        Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
            return Err(IdentityError::Exists(path.to_owned()));
        }
        // A file system without hard links. Between the look and the rename another process may put
        // its file there; both then read whichever came last.
        Err(_) if path.symlink_metadata().is_ok() => {
            return Err(IdentityError::Exists(path.to_owned()));
        }
        Err(_) => {
            fs::rename(&temporary.0, path).map_err(|problem| IdentityError::io(path, problem))?;
        }
    }
    sync_folder(folder).map_err(|problem| IdentityError::io(folder, problem))
}

/// Puts `content` in the place of the file at `path`, if `unchanged` says so once nobody else can change
/// it. The file itself is replaced, not a symbolic link that leads to it: what was plain must not stay
/// where the link led. Says whether what was there before has another name yet.
pub(super) fn replace(
    path: &Path,
    content: &[u8],
    unchanged: impl FnOnce(&Path) -> Result<bool, IdentityError>,
) -> Result<bool, IdentityError> {
    let path = &fs::canonicalize(path).map_err(|problem| IdentityError::io(path, problem))?;
    let folder = folder_of(path);
    let Some(_lock) = FolderLock::take(folder) else {
        return Err(IdentityError::Changed(path.clone()));
    };
    if !unchanged(path)? {
        return Err(IdentityError::Changed(path.clone()));
    }
    clear(path);
    let before = File::open(path).map_err(|problem| IdentityError::io(path, problem))?;
    let temporary = Temporary::write(path, content)?;
    keep_owner(&before, &temporary.0)
        .and_then(|()| fs::rename(&temporary.0, path))
        .map_err(|problem| IdentityError::io(path, problem))?;
    sync_folder(folder).map_err(|problem| IdentityError::io(folder, problem))?;
    Ok(has_a_name(&before))
}

/// Clears away what a crash left beside `path`, unless somebody is at work there.
pub(super) fn clear_if_idle(path: &Path) {
    let Ok(path) = fs::canonicalize(path) else {
        return;
    };
    // Looked for first: who holds the lock is in the way of others.
    if leftovers(&path).next().is_some()
        && let Some(_lock) = FolderLock::take(folder_of(&path))
    {
        clear(&path);
    }
}

/// Best effort. Only who replaces a file writes beside one that exists, and does so under the lock.
fn clear(path: &Path) {
    for leftover in leftovers(path) {
        let _ = fs::remove_file(leftover);
    }
}

/// The files beside `path` that have the name of a [`Temporary`] of it.
fn leftovers(path: &Path) -> impl Iterator<Item = PathBuf> {
    let prefix = prefix(path);
    let is_ours = move |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()
            .and_then(|name| name.strip_prefix(&prefix))
            .and_then(|name| name.strip_suffix(TEMPORARY))
            .is_some_and(|suffix| {
                suffix.len() == 16 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    fs::read_dir(folder_of(path))
        .into_iter()
        .flatten()
        .flatten()
        .filter(is_ours)
        .map(|entry| entry.path())
}

/// The right to replace files in a folder. The system takes it back however the process ends.
struct FolderLock {
    /// Locked as long as it is open. `None` where folders can't be locked (some network file systems, not
    /// Unix): there the look before the move has to do.
    _folder: Option<File>,
}

impl FolderLock {
    /// `None` if somebody else has it.
    fn take(folder: &Path) -> Option<Self> {
        let Ok(folder) = File::open(folder) else {
            return Some(Self { _folder: None });
        };
        match folder.try_lock() {
            Ok(()) => Some(Self {
                _folder: Some(folder),
            }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(_)) => Some(Self { _folder: None }),
        }
    }
}

/// An administrator who changes the file of a service must not take it away from the service.
#[cfg(unix)]
fn keep_owner(before: &File, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let before = before.metadata()?;
    if before.uid() == fs::metadata(new)?.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(new, Some(before.uid()), Some(before.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_before: &File, _new: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn has_a_name(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

#[cfg(not(unix))]
fn has_a_name(_file: &File) -> bool {
    false
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

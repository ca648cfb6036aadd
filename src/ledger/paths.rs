//! Where a ledger's files are, how they are made, and what is said when they can't be.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::LedgerError;
use super::owner::{self, OwnerLock};
use super::store::Fault;
use crate::crash::{self, Point};

/// Where the parts of a ledger are.
pub(super) struct Paths {
    pub(super) file: PathBuf,
    pub(super) owners: PathBuf,
}

impl Paths {
    pub(super) fn in_folder(dir: &Path) -> Self {
        // Absolute, so that SQLite can't take a name like `file:x` for a URI.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            file: dir.join("ledger.sqlite"),
            owners: dir.join("owners"),
        }
    }

    /// Makes what is missing, readable by this user only: the states in the file may hold prompts and
    /// preimages.
    pub(super) fn create(&self) -> io::Result<OwnerLock> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        crash::before(Point::LedgerCreate);
        builder.create(&self.owners)?;
        match owner::private(OpenOptions::new().write(true).create_new(true)).open(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => self.keep_private(),
            Ok(_) => self.keep_findable(),
        }
        crash::after(Point::LedgerCreate);
        OwnerLock::acquire(&self.owners)
    }

    /// What SQLite writes is durable only if the folders that lead to it are. Both programs make at most
    /// three: the home, their own in it, and `owners`.
    fn keep_findable(&self) {
        #[cfg(unix)]
        for folder in self.owners.ancestors().take(4) {
            let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
        }
    }

    /// A copy put back from a backup may have become readable to others.
    fn keep_private(&self) {
        #[cfg(unix)]
        if let Ok(metadata) = fs::metadata(&self.file) {
            use std::os::unix::fs::PermissionsExt;
            if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
                let _ = fs::set_permissions(&self.file, fs::Permissions::from_mode(0o600));
            }
        }
    }

    pub(super) fn went_back(&self) -> Fault {
        Fault::Unusable(format!(
            "it lacks what was last written to it: its -wal file was deleted after a crash, or an older \
             copy was put in its place. Put the newest back, with its -wal file; to go on with this one, \
             which has forgotten what was spent since, end whatever still buys from this home and delete the \
             folder {}",
            self.owners.display()
        ))
    }

    pub(super) fn storage(&self, error: &io::Error) -> LedgerError {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => "this user must be allowed to write to its folder",
            io::ErrorKind::ReadOnlyFilesystem => {
                "nothing may be written to this file system. Choose another home, or make it writable"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the disk is full. Free some space and try again"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "there is a file where its folder must be. Move it, or choose another home"
            }
            io::ErrorKind::Unsupported => {
                "this file system has no file locks. Choose a home on a local disk"
            }
            _ => "its folder can't be used",
        };
        LedgerError::Storage {
            path: self.file.display().to_string(),
            problem: format!("{advice} ({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_that_a_folder_can_fail_comes_with_its_own_advice() {
        use io::ErrorKind as Kind;
        let paths = Paths::in_folder(Path::new("/home"));
        let advice = |kind: io::ErrorKind| paths.storage(&kind.into()).to_string();
        let unknown = advice(Kind::Other);
        assert!(unknown.contains("its folder can't be used"), "{unknown}");
        for (kind, words) in [
            (Kind::PermissionDenied, "allowed to write"),
            (Kind::ReadOnlyFilesystem, "nothing may be written"),
            (Kind::StorageFull, "Free some space"),
            (Kind::QuotaExceeded, "Free some space"),
            (Kind::NotADirectory, "a file where its folder must be"),
            (Kind::AlreadyExists, "a file where its folder must be"),
            (Kind::Unsupported, "no file locks"),
        ] {
            let said = advice(kind);
            assert!(said.contains(words), "{kind:?}: {said}");
        }
    }
}

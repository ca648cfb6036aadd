//! Disks that are really full, read-only or gone: whatever can't be written, no money is spent that the books
//! do not know of, and once there is room again ledger, bank and seller tell one story.
//!
//! The disks are small file systems in memory, which take a user who may mount. `DISK_STEPS=N` tries more
//! amounts of free space.

mod customer;
mod forbidden;
mod lost;
mod seller;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::number;

/// What a page of such a file system takes. Less is not given out.
const PAGE_KIB: u64 = 4;

/// All there is on one, far more than the files of a few purchases take.
const SIZE: &str = "size=16m";

/// A small file system of its own.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one in this folder, which is made if it is missing. `None`, and the reason on standard output,
    /// where this user may not.
    pub(crate) fn at(folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder);
        match mount.output() {
            Ok(done) if done.status.success() => Some(Self {
                at: folder.to_owned(),
            }),
            Ok(done) => {
                let why = String::from_utf8_lossy(&done.stderr);
                println!("SKIPPED: no file system can be mounted: {}", why.trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: no file system can be mounted: mount: {error}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join(".ballast")
    }

    /// Leaves so much room, and no more.
    pub(crate) fn leave(&self, kib: u64) {
        let mut file = File::create(self.ballast()).unwrap();
        let page = vec![0; 4096];
        while file.write_all(&page).is_ok() {}
        let length = file.metadata().unwrap().len() & !4095;
        file.set_len(length.checked_sub(kib * 1024).unwrap())
            .unwrap();
    }

    /// Takes the room that a program keeps in this file from it, behind its back.
    pub(crate) fn steal_room(file: &Path) {
        let length = fs::metadata(file).unwrap().len().min(20);
        let file = OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(length).unwrap();
    }

    /// There is room again.
    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    /// Whether nothing may be written. No file may be open for that when it begins.
    pub(crate) fn read_only(&self, yes: bool) {
        let how = if yes { "remount,ro" } else { "remount,rw" };
        let done = Command::new("mount")
            .args(["-o", how])
            .arg(&self.at)
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Amounts of room from none to `most` KiB: a few of them, other ones for other `offset`s, or with
/// `DISK_STEPS` as many as there are pages.
fn amounts(usually: u64, offset: u64, most: u64) -> impl Iterator<Item = u64> {
    let pages = most / PAGE_KIB;
    let steps = number("DISK_STEPS").unwrap_or(usually).clamp(1, pages);
    (0..steps).map(move |step| {
        let stride = pages / steps;
        (step * pages / steps + offset % stride.max(1)) * PAGE_KIB
    })
}

//! Many changes in one commit: what came while another commit was on its way to the disk goes there together.

use std::fmt;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::LedgerError;
use super::handle::{self, Handle};
use super::owner::OwnerLock;
use super::store::{self, Fault, Write};

/// The most changes that share a commit: other processes wait for the file meanwhile.
const MOST: usize = 128;

/// What waits for the connection.
pub(super) enum Task {
    Read(Read),
    Write(Box<dyn Change>),
}

type Read = Box<dyn FnOnce(&mut Connection, &Handle) + Send>;

/// A change, and whoever waits for what comes of it.
pub(super) trait Change: Send {
    /// Whether nobody waits any more.
    fn is_given_up(&self) -> bool;

    /// Makes it, perhaps once more, and says whether it stands: a refusal is an outcome too. What the disk fails
    /// at comes back.
    fn make(
        &mut self,
        write: &Write<'_>,
        handle: &Handle,
        owner: &OwnerLock,
    ) -> Result<bool, Fault>;

    /// It can't be made.
    fn fail(&mut self, fault: Fault);

    /// What was made is on the disk, or was not made.
    fn tell(self: Box<Self>);
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read(_) => "Read",
            Self::Write(_) => "Write",
        })
    }
}

/// A [`Change`] by a closure.
pub(super) struct Job<F, T> {
    work: F,
    outcome: Option<Result<T, Fault>>,
    tell: oneshot::Sender<Result<T, Fault>>,
}

impl<F, T> Job<F, T> {
    pub(super) const fn new(work: F, tell: oneshot::Sender<Result<T, Fault>>) -> Self {
        Self {
            work,
            outcome: None,
            tell,
        }
    }
}

impl<F, T> Change for Job<F, T>
where
    F: Fn(&Write<'_>, &Handle, &OwnerLock) -> Result<T, Fault> + Send,
    T: Send,
{
    fn is_given_up(&self) -> bool {
        self.tell.is_closed()
    }

    fn make(
        &mut self,
        write: &Write<'_>,
        handle: &Handle,
        owner: &OwnerLock,
    ) -> Result<bool, Fault> {
        let outcome = match (self.work)(write, handle, owner) {
            Err(fault @ Fault::Sql(_)) => return Err(fault),
            outcome => outcome,
        };
        let stands = outcome.is_ok();
        self.outcome = Some(outcome);
        Ok(stands)
    }

    fn fail(&mut self, fault: Fault) {
        self.outcome = Some(Err(fault));
    }

    fn tell(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody left to tell: it stands all the same.
            let _ = self.tell.send(outcome);
        }
    }
}

impl Handle {
    /// Does what is queued.
    pub(super) fn serve(&self, db: &mut Connection) {
        let mut changes = Vec::new();
        while changes.len() < MOST
            && let Some(task) = self.next_task()
        {
            match task {
                Task::Read(read) => read(db, self),
                Task::Write(change) if change.is_given_up() => {}
                Task::Write(change) => changes.push(change),
            }
        }
        self.write_all(db, &mut changes);
        for change in changes {
            change.tell();
        }
    }

    fn write_all(&self, db: &mut Connection, changes: &mut [Box<dyn Change>]) {
        let Some(owner) = &self.owner else {
            let why = "write to a ledger opened for reading";
            return fail_all(changes, || LedgerError::Illegal(why.to_owned()).into());
        };
        if changes.is_empty() {
            return;
        }
        if !self.opened.are_there() {
            return fail_all(changes, handle::gone);
        }
        let together = match changes.len() {
            1 => None,
            _ => Some(self.commit(db, owner, changes)),
        };
        match together {
            Some(Ok(())) => {}
            // None would fare better alone, and each would wait as long again.
            Some(Err(fault)) if fault.is_busy() => return fail_all(changes, Fault::busy),
            // One by one, so that each hears what is the matter with it.
            _ => {
                for change in changes {
                    self.write_one(db, owner, change);
                }
            }
        }
        if let Ok(written) = store::written(db) {
            owner.mark(written);
        }
    }

    fn write_one(&self, db: &mut Connection, owner: &OwnerLock, change: &mut Box<dyn Change>) {
        let one = std::slice::from_mut(change);
        let mut done = self.commit(db, owner, one);
        if done.as_ref().is_err_and(Fault::is_full) && owner.room().give() {
            // What the room was kept for.
            done = self.commit(db, owner, one);
        }
        if let Err(fault) = done {
            change.fail(fault);
        }
    }

    /// All of these in one transaction, but for those that are refused; or none.
    fn commit(
        &self,
        db: &mut Connection,
        owner: &OwnerLock,
        changes: &mut [Box<dyn Change>],
    ) -> Result<(), Fault> {
        let write = Write::begin(db, &self.clock)?;
        if let [change] = changes {
            return match change.make(&write, self, owner)? {
                true => write.end(),
                false => Ok(()),
            };
        }
        for change in changes {
            write.one_of_several(|| change.make(&write, self, owner))?;
        }
        write.end()
    }
}

fn fail_all(changes: &mut [Box<dyn Change>], fault: impl Fn() -> Fault) {
    for change in changes {
        change.fail(fault());
    }
}

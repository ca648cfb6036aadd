//! The handle on a ledger: opening, owning, and SQL off the async threads.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nostr::PublicKey;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::owner::{self, Others, OwnerLock};
use super::paths::Paths;
use super::store::{self, Fault, Write};
use super::together::{Job, Task};
use super::{
    Booked, BudgetReport, Entry, HistoryQuery, LedgerError, Limits, LogLine, NewPurchase, Opened,
    PurchaseRecord, ReceiptRecord, Scope, StateRow,
};
use crate::clock::Clock;
use crate::crash::{self, Point};
use crate::disk::SameFiles;
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::protocol::record::Record;
use crate::units::UnixSecs;

/// The ledger of one home. Clones are one handle: they share its connection, its owner's lock and the
/// list of purchases that are being driven.
///
/// What a method writes is written whole or not at all, and on the disk when it returns; those that wait at the
/// same time may share a commit. Dropping its future does not undo it: what was begun is finished.
///
/// Any method fails with [`LedgerError::Storage`] when the file can't be used.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Handle>);

#[derive(Debug)]
pub(super) struct Handle {
    file: PathBuf,
    owners: PathBuf,
    pub(super) clock: Clock,
    db: Arc<tokio::sync::Mutex<Connection>>,
    /// What waits for the connection.
    queue: Mutex<VecDeque<Task>>,
    /// What the connection writes to.
    pub(super) opened: SameFiles,
    driven: Driven,
    /// Whom this handle has remembered as taking sealed messages: that is for good, and asked at every purchase.
    sealing: Mutex<HashSet<PublicKey>>,
    /// After the connection, so that the owner outlives its last transaction. `None`: only for reading.
    pub(super) owner: Option<OwnerLock>,
}

type Driven = Arc<Mutex<HashSet<PurchaseId>>>;

/// Says that this process is at work on a purchase, so that its own recovery leaves it alone.
#[derive(Debug)]
pub struct DriveGuard {
    id: PurchaseId,
    driven: Driven,
}

impl DriveGuard {
    /// The purchase it is about.
    #[must_use]
    pub const fn id(&self) -> PurchaseId {
        self.id
    }
}

impl Drop for DriveGuard {
    fn drop(&mut self) {
        locked(&self.driven).remove(&self.id);
    }
}

fn locked<T>(collection: &Mutex<T>) -> MutexGuard<'_, T> {
    // It is never left half changed.
    collection.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Opens `<dir>/ledger.sqlite`, made with its folder if there is none, and takes a lock in
    /// `<dir>/owners` that says that this handle's purchases are in living hands.
    ///
    /// # Errors
    /// [`LedgerError::Storage`], with what mends it.
    pub async fn open(dir: &Path, clock: Clock) -> Result<Self, LedgerError> {
        let paths = Paths::in_folder(dir);
        let file = paths.file.clone();
        blocking(&file, move || {
            // First, since the dead may still keep room that is needed.
            let others = Others::in_folder(&paths.owners);
            let owner = paths.create().map_err(|error| paths.storage(&error))?;
            let db = store::connect(&paths.file).map_err(|fault| fault.of(&paths.file))?;
            let written = store::written(&db).map_err(|fault| fault.of(&paths.file))?;
            if written < others.mark() {
                return Err(paths.went_back().of(&paths.file));
            }
            // What the dead have seen must not be forgotten with them, should this process write nothing.
            if written == 0 || owner.mark(written) {
                others.clear();
            }
            Ok(Self::assemble(paths, clock, db, Some(owner)))
        })
        .await
    }

    /// Opens the ledger in `dir` for reading. Where there is none yet, none is made: every question
    /// is answered as by an empty one. One that may not be written, or on a full disk, can be read all the
    /// same, unless an earlier version wrote it.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; from every method that would write, [`LedgerError::Illegal`].
    pub async fn open_read_only(dir: &Path, clock: Clock) -> Result<Self, LedgerError> {
        let paths = Paths::in_folder(dir);
        let file = paths.file.clone();
        blocking(&file, move || {
            let db = match fs::metadata(&paths.file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    store::connect_to_nothing()
                }
                _ => store::connect_to_read(&paths.file),
            };
            let db = db.map_err(|fault| fault.of(&paths.file))?;
            Ok(Self::assemble(paths, clock, db, None))
        })
        .await
    }

    fn assemble(paths: Paths, clock: Clock, db: Connection, owner: Option<OwnerLock>) -> Self {
        Self(Arc::new(Handle {
            opened: SameFiles::of(&paths.file),
            file: paths.file,
            owners: paths.owners,
            clock,
            db: Arc::new(tokio::sync::Mutex::new(db)),
            queue: Mutex::default(),
            driven: Driven::default(),
            sealing: Mutex::default(),
            owner,
        }))
    }

    /// The id this handle stamps on its purchases; empty when it was opened for reading.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.0.owner.as_ref().map_or("", OwnerLock::id)
    }

    /// Puts a purchase on record as ours, at version 1, or finds the one that its idempotency key
    /// names. A failed purchase gives its key to the new one.
    ///
    /// From here on this handle keeps some room on the disk, for what must be put on record even when that is
    /// full. Where there is not so much, nothing is bought.
    ///
    /// The caller takes the [`drive`](Self::drive) guard of the new id *before* it calls this, so that
    /// no recovery in this process can pick the purchase up in between.
    ///
    /// # Errors
    /// [`LedgerError::KeyConflict`]; [`LedgerError::Illegal`] if the id is taken.
    pub async fn open_purchase(&self, new: NewPurchase) -> Result<Opened, LedgerError> {
        let open = self.write(move |write, _, owner| {
            crash::before(Point::LedgerRoom);
            owner.room().keep().map_err(|error| no_room(&error))?;
            crash::after(Point::LedgerRoom);
            store::open_purchase(write, owner.id(), &new)
        });
        crash::around(Point::CustomerOpen, open).await
    }

    /// Applies `entries` in order and writes `state`, all or nothing, and gives the new version.
    ///
    /// A state that says [`Failed`](super::Status::Failed) needs its money released, and one that says
    /// [`Delivered`](super::Status::Delivered) needs it settled or released: what is over is never
    /// recovered, so nothing may stay open behind it. Nor does it open again; only an open purchase
    /// may reserve.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] if the purchase is not ours or not at `expected_version`;
    /// [`LedgerError::Refused`], [`LedgerError::HashUsed`] or [`LedgerError::StaleBalance`] for a
    /// reservation; [`LedgerError::Illegal`] for a step the diagram does not have. Nothing changed then.
    pub async fn commit(
        &self,
        id: PurchaseId,
        expected_version: u64,
        state: StateRow,
        entries: Vec<Entry>,
    ) -> Result<u64, LedgerError> {
        self.write(move |write, _, owner| {
            let at = (id, expected_version);
            store::commit(write, owner.id(), at, &state, &entries)
        })
        .await
    }

    /// Remembers, for good, that this provider takes sealed messages. Costs one read the first time if that is
    /// known.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn remember_sealing(&self, provider: PublicKey) -> Result<(), LedgerError> {
        if locked(&self.0.sealing).contains(&provider) {
            return Ok(());
        }
        let key = provider.to_hex();
        self.write(move |write, _, _| store::remember_sealing(write, &key))
            .await?;
        locked(&self.0.sealing).insert(provider);
        Ok(())
    }

    /// The providers that were once sent a sealed message.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn sealing_providers(&self) -> Result<BTreeSet<PublicKey>, LedgerError> {
        let known = self.read(|db, _| store::sealing_providers(db)).await?;
        let keys = known.iter().map(|key| PublicKey::from_hex(key));
        Ok(keys.filter_map(Result::ok).collect())
    }

    /// The purchase with this id.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`].
    pub async fn purchase(&self, id: PurchaseId) -> Result<PurchaseRecord, LedgerError> {
        self.read(move |db, _| store::purchase(db, id)).await
    }

    /// The one purchase whose id begins with these hex digits.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::Ambiguous`].
    pub async fn find(&self, id_or_unique_prefix: &str) -> Result<PurchaseRecord, LedgerError> {
        let prefix = id_or_unique_prefix.to_owned();
        self.read(move |db, _| store::find(db, &prefix)).await
    }

    /// The purchase that an idempotency key names.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn by_key(&self, key: &str) -> Result<Option<PurchaseRecord>, LedgerError> {
        let key = key.to_owned();
        self.read(move |db, _| store::by_key(db, &key)).await
    }

    /// Purchases, newest first; at most 10,000 of them.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn history(&self, query: HistoryQuery) -> Result<Vec<PurchaseRecord>, LedgerError> {
        self.read(move |db, _| store::history(db, query)).await
    }

    /// The next purchases after `seq`, oldest first, `most` at a time: all of them, page by page.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn books(
        &self,
        scope: Option<Scope>,
        seq: u64,
        most: u32,
    ) -> Result<Vec<Booked>, LedgerError> {
        self.read(move |db, _| store::books(db, scope, seq, most))
            .await
    }

    /// What happened to a purchase, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`].
    pub async fn log(&self, id: PurchaseId) -> Result<Vec<LogLine>, LedgerError> {
        self.read(move |db, _| store::log(db, id)).await
    }

    /// How `limits` stand in this scope, and in this tick if one is named.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn budget(
        &self,
        scope: Scope,
        tick: Option<&str>,
        limits: Limits,
    ) -> Result<BudgetReport, LedgerError> {
        let tick = tick.map(str::to_owned);
        self.read(move |db, handle| {
            let usage = store::usage_now(db, &handle.clock, scope, tick.as_deref())?;
            Ok(BudgetReport { limits, usage })
        })
        .await
    }

    /// What our own purchases in this scope say of these providers; who is missing was never bought from.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn records(
        &self,
        scope: Scope,
        providers: Vec<PublicKey>,
    ) -> Result<BTreeMap<PublicKey, Record>, LedgerError> {
        self.read(move |db, _| store::records(db, scope, &providers))
            .await
    }

    /// The receipts of one purchase, oldest first: the last one holds. None if it has none.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn receipts_of(&self, id: PurchaseId) -> Result<Vec<ReceiptRecord>, LedgerError> {
        self.read(move |db, _| store::receipts_of(db, id)).await
    }

    /// The next receipts after `seq`, in the order they were written in, `most` at a time.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn receipts_after(
        &self,
        seq: u64,
        most: u32,
    ) -> Result<Vec<ReceiptRecord>, LedgerError> {
        self.read(move |db, _| store::receipts_after(db, seq, most))
            .await
    }

    /// How many reservations of this wallet were settled or released so far: to be read before its
    /// balance is asked for, see [`SeenBalance`](super::SeenBalance).
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn settlements(&self, wallet: &WalletId) -> Result<u64, LedgerError> {
        let wallet = wallet.clone();
        self.read(move |db, _| store::settlements(db, &wallet))
            .await
    }

    /// Whether any reservation ever had this payment hash.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn hash_used(&self, hash: PaymentHash) -> Result<bool, LedgerError> {
        self.read(move |db, _| store::hash_used(db, hash)).await
    }

    /// Ledger time: now, or the latest time this ledger was written if the clock was set back since.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn time(&self) -> Result<UnixSecs, LedgerError> {
        self.read(|db, handle| store::ledger_time(db, &handle.clock))
            .await
    }

    /// The purchases that are not over and that nobody works on: those whose owner is gone, and our
    /// own that are not being [driven](Self::drive). Oldest first.
    ///
    /// To take one up: [`drive`](Self::drive) it, then [`adopt`](Self::adopt) it at this version, and
    /// leave it alone if either says no.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    pub async fn recoverable(&self) -> Result<Vec<PurchaseRecord>, LedgerError> {
        let found = self
            .read(|db, handle| {
                let own = handle.owner.as_ref().map(OwnerLock::id);
                store::unfinished(db, |owner| {
                    own == Some(owner) || !owner::lives(&handle.owners, owner)
                })
            })
            .await?;
        let driven = locked(&self.0.driven);
        Ok(found
            .into_iter()
            .filter(|record| !driven.contains(&record.id))
            .collect())
    }

    /// Takes over a purchase whose owner is gone. One that is ours already comes back as it is.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] if its owner lives, or someone changed it since `expected_version`.
    pub async fn adopt(
        &self,
        id: PurchaseId,
        expected_version: u64,
    ) -> Result<PurchaseRecord, LedgerError> {
        self.write(move |write, handle, us| {
            let at = (id, expected_version);
            store::adopt(write, us.id(), at, |owner| {
                !owner::lives(&handle.owners, owner)
            })
        })
        .await
    }

    /// Makes the caller the one in this process who works on the purchase, as long as it keeps the
    /// guard; `None` if another does already. Not a lock against other processes: that is what owners
    /// and versions are for.
    #[must_use]
    pub fn drive(&self, id: PurchaseId) -> Option<DriveGuard> {
        locked(&self.0.driven).insert(id).then(|| DriveGuard {
            id,
            driven: Arc::clone(&self.0.driven),
        })
    }

    /// Holds this handle's claim on its purchases until the process ends, whoever drops it: for when
    /// something that it is responsible for goes on out of its reach.
    pub fn keep_until_exit(self) {
        std::mem::forget(self);
    }

    /// Whether the process behind this owner id still lives. What can't be told counts as alive.
    pub async fn owner_lives(&self, owner: &str) -> bool {
        if owner == self.owner() {
            return self.0.owner.is_some();
        }
        let (folder, owner) = (self.0.owners.clone(), owner.to_owned());
        blocking(&self.0.file, move || Ok(owner::lives(&folder, &owner)))
            .await
            .unwrap_or(true)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Write<'_>, &Handle, &OwnerLock) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.wait_for(|tell| Task::Write(Box::new(Job::new(work, tell))))
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, &Handle) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.wait_for(|tell| {
            Task::Read(Box::new(move |db, handle| {
                if !tell.is_closed() {
                    let _ = tell.send(work(db, handle));
                }
            }))
        })
        .await
    }

    /// Queues a task and waits until it is done. Whoever gets the connection first does all that is queued by
    /// then, on a thread that may block: under load many tasks share one such thread, and one commit.
    async fn wait_for<T: Send + 'static>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, Fault>>) -> Task,
    ) -> Result<T, LedgerError> {
        let (tell, mut told) = oneshot::channel();
        let handle = &self.0;
        locked(&handle.queue).push_back(task(tell));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut told => break outcome,
                mut db = Arc::clone(&handle.db).lock_owned() => {
                    let at_work = Arc::clone(handle);
                    blocking(&handle.file, move || {
                        at_work.serve(&mut db);
                        Ok(())
                    })
                    .await?;
                }
            }
        };
        match outcome {
            Ok(outcome) => outcome.map_err(|fault| fault.of(&handle.file)),
            // Whoever had it in hand is gone, with its runtime or in a panic. What was not committed was not done.
            Err(_) => Err(ending(&handle.file)),
        }
    }
}

impl Handle {
    /// The task that has waited longest.
    pub(super) fn next_task(&self) -> Option<Task> {
        locked(&self.queue).pop_front()
    }
}

pub(super) fn gone() -> Fault {
    Fault::Unusable(
        "it, or its -wal file, was deleted or replaced while this process had it open, so nothing \
         more is written to it. Put it back as it was, then try again; without it, what was spent and \
         what is in doubt is forgotten"
            .to_owned(),
    )
}

fn no_room(error: &io::Error) -> Fault {
    Fault::Unusable(format!(
        "the disk is full or nearly so, and a purchase needs room to be put on record to its end. \
         Free some space and try again ({error})"
    ))
}

/// Runs what blocks where it may; `file` is the ledger it is about.
async fn blocking<T: Send + 'static>(
    file: &Path,
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled before it began: the runtime is going away.
            Err(_) => Err(ending(file)),
        },
    }
}

fn ending(file: &Path) -> LedgerError {
    LedgerError::Storage {
        path: file.display().to_string(),
        problem: "the program is ending".to_owned(),
    }
}

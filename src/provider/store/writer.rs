//! One thread that owns the connection and commits what is waiting together: under load many changes
//! share one fsync, and no async task ever blocks on the disk.

use std::path::Path;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::files::open_private;
use crate::crash::{self, Point};
use crate::disk::{self, Room, SameFiles};
use crate::look::beside;

/// Changes that may wait. Whoever has one more waits in turn.
const QUEUE: usize = 256;

/// The most changes that share a commit.
const BATCH: usize = 128;

/// Tells whoever asked how it went, once the commit has, with the commit's own failure if it had one.
type Reply = Box<dyn FnOnce(Option<&str>) + Send>;

/// Made inside the batch's transaction and a savepoint of its own; not made without a connection.
type Make = Box<dyn FnOnce(Option<&Connection>) -> Reply + Send>;

/// A change that waits.
struct Change {
    make: Make,
    /// Whether it must survive the machine, and not only the process.
    durable: bool,
    /// Whether it is made only where there is room for more.
    needs_room: bool,
}

/// The file, and what is around it.
struct Disk {
    db: Connection,
    opened: SameFiles,
    /// In the seller's lock file, which nobody reads. None where that can't be opened.
    room: Option<Room>,
}

/// The way to the thread. The thread ends when the last of these is gone and the queue is empty.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Change>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(db: Connection, file: &Path) -> std::io::Result<Self> {
        let (queue, changes) = mpsc::channel(QUEUE);
        let mut disk = Disk {
            db,
            opened: SameFiles::of(file),
            room: None,
        };
        let lock = beside(file, ".lock");
        thread::Builder::new()
            .name("job-store".into())
            .spawn(move || disk.serve(changes, &lock))?;
        Ok(Self { queue })
    }

    /// Makes a change and returns once it is on disk. Changes are made in the order they are asked for,
    /// and go on if this future is dropped.
    pub(super) async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.enqueue(change, true, false).await
    }

    /// Makes a change that others will have to follow: only where the disk has room for them.
    pub(super) async fn write_with_room<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.enqueue(change, true, true).await
    }

    /// Makes a change that survives the end of this process, and reaches the disk when the system sees fit
    /// or a [`write`](Self::write) comes along: without a wait for the disk.
    pub(super) async fn write_lightly<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.enqueue(change, false, false).await
    }

    async fn enqueue<T, F>(
        &self,
        change: F,
        durable: bool,
        needs_room: bool,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let make: Make = Box::new(move |db| {
            let outcome = db.map(|db| in_savepoint(db, change));
            Box::new(move |failure| {
                let outcome = match (failure, outcome) {
                    (None, Some(outcome)) => outcome,
                    (failure, _) => {
                        let why = failure.unwrap_or("the change was not made");
                        Err(StoreError::Storage(why.to_owned()))
                    }
                };
                // Nobody left to tell: the change stands all the same.
                let _ = tell.send(outcome);
            })
        });
        let gone = || StoreError::Storage("its thread has ended".into());
        let change = Change {
            make,
            durable,
            needs_room,
        };
        self.queue.send(change).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

impl Disk {
    fn serve(&mut self, mut changes: mpsc::Receiver<Change>, lock: &Path) {
        let mut batch = Vec::with_capacity(BATCH);
        while changes.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.commit_all(&mut batch, lock);
        }
        self.give_room();
    }

    fn commit_all(&mut self, batch: &mut Vec<Change>, lock: &Path) {
        let no_room = if batch.iter().any(|change| change.needs_room) {
            self.keep_room(lock)
        } else {
            None
        };
        let mut failure = None;
        if !self.opened.are_there() {
            let why = "the file, or its -wal file, was deleted or replaced while this process had it \
                       open: put it back as it was, or start anew";
            tracing::error!("the job store can't be written: {why}");
            failure = Some(why.to_owned());
        }
        let mut is_full = false;
        let db = &self.db;
        let mut run = |sql| {
            if failure.is_none()
                && let Err(error) = db.execute_batch(sql)
            {
                tracing::error!(%error, "the job store can't be written");
                is_full = disk::is_full(&error);
                failure = Some(error.to_string());
            }
            failure.is_none()
        };
        // With a write-ahead log NORMAL leaves out the wait for the disk at each commit, and nothing else.
        let light =
            !batch.iter().any(|change| change.durable) && run("PRAGMA synchronous = NORMAL");
        let open = run("BEGIN IMMEDIATE");
        let mut replies: Vec<(Reply, Option<&str>)> = Vec::with_capacity(batch.len());
        for change in batch.drain(..) {
            let no_room = no_room.as_deref().filter(|_| change.needs_room);
            // Some failures of one change end the transaction of all: no other begins one of its own.
            let may = open && no_room.is_none() && !db.is_autocommit();
            replies.push(((change.make)(may.then_some(db)), no_room));
        }
        if open {
            crash::before(Point::StoreCommit);
            if !run("COMMIT") && !db.is_autocommit() {
                let _ = db.execute_batch("ROLLBACK");
            }
            crash::after(Point::StoreCommit);
        }
        if light && let Err(error) = db.execute_batch("PRAGMA synchronous = FULL") {
            tracing::error!(%error, "the job store can't be written");
        }
        if is_full {
            // For whoever tries again.
            self.give_room();
        }
        for (reply, no_room) in replies {
            reply(no_room.or(failure.as_deref()));
        }
    }

    /// Takes room on the disk, or says why not.
    fn keep_room(&mut self, lock: &Path) -> Option<String> {
        crash::before(Point::StoreRoom);
        let kept = match &self.room {
            Some(room) => room.keep(),
            None => open_private(lock).and_then(|file| {
                let room = self.room.insert(Room::in_file(file, 0));
                room.keep()
            }),
        };
        crash::after(Point::StoreRoom);
        let error = kept.err()?;
        tracing::error!(%error, "the disk is full or nearly so: no new jobs");
        Some(format!("the disk is full or nearly so: {error}"))
    }

    fn give_room(&self) {
        if let Some(room) = &self.room {
            room.give();
        }
    }
}

fn in_savepoint<T>(
    db: &Connection,
    change: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    db.execute_batch("SAVEPOINT change")?;
    let outcome = change(db);
    if outcome.is_err() {
        db.execute_batch("ROLLBACK TO change")?;
    }
    db.execute_batch("RELEASE change")?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch("CREATE TABLE t (n INTEGER UNIQUE)")
            .expect("a table");
        Writer::start(db, Path::new("nowhere")).expect("a thread")
    }

    async fn insert(writer: &Writer, n: i64) -> Result<(), StoreError> {
        let change = move |db: &Connection| {
            db.execute("INSERT INTO t VALUES (?1)", [n])?;
            Ok(())
        };
        writer.write(change).await
    }

    #[tokio::test]
    async fn a_store_that_cant_be_written_says_why() {
        let writer = writer();
        let broken = writer
            .write(|db| Ok(db.execute_batch("ROLLBACK; PRAGMA query_only = ON")?))
            .await;
        assert!(broken.is_err());
        let refused = insert(&writer, 1).await;
        assert!(
            matches!(&refused, Err(StoreError::Storage(why)) if why.contains("readonly")),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_change_that_fails_leaves_its_neighbours_alone() {
        let writer = writer();
        let many = (0..200).map(|n| {
            let writer = writer.clone();
            async move { insert(&writer, n / 2).await.is_ok() }
        });
        let stood = futures_util::future::join_all(many).await;
        assert_eq!(stood.iter().filter(|stood| **stood).count(), 100);
        let count = writer
            .write(|db| Ok(db.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?))
            .await;
        assert_eq!(count.ok(), Some(100));
    }
}

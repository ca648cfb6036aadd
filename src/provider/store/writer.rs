//! One thread that owns the connection and commits what is waiting together: under load many changes
//! share one fsync, and no async task ever blocks on the disk.

use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// Changes that may wait. Whoever has one more waits in turn.
const QUEUE: usize = 256;

/// The most changes that share a commit.
const BATCH: usize = 128;

/// Tells whoever asked how it went, once the commit has, with the commit's own failure if it had one.
type Reply = Box<dyn FnOnce(Option<&str>) + Send>;

/// A change, made inside the batch's transaction and a savepoint of its own.
type Change = Box<dyn FnOnce(&Connection) -> Reply + Send>;

/// The way to the thread. The thread ends when the last of these is gone and the queue is empty.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Change>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(db: Connection) -> std::io::Result<Self> {
        let (queue, changes) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("job-store".into())
            .spawn(move || serve(&db, changes))?;
        Ok(Self { queue })
    }

    /// Makes a change and returns once it is on disk. Changes are made in the order they are asked for,
    /// and go on if this future is dropped.
    pub(super) async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let change: Change = Box::new(move |db| {
            let outcome = in_savepoint(db, change);
            Box::new(move |commit_failed| {
                let outcome = match commit_failed {
                    Some(why) => Err(StoreError::Storage(why.to_owned())),
                    None => outcome,
                };
                // Nobody left to tell: the change stands all the same.
                let _ = tell.send(outcome);
            })
        });
        let gone = || StoreError::Storage("its thread has ended".into());
        self.queue.send(change).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

fn serve(db: &Connection, mut changes: mpsc::Receiver<Change>) {
    let mut batch = Vec::with_capacity(BATCH);
    while changes.blocking_recv_many(&mut batch, BATCH) > 0 {
        commit_all(db, &mut batch);
    }
}

fn commit_all(db: &Connection, batch: &mut Vec<Change>) {
    let begun = db.execute_batch("BEGIN IMMEDIATE");
    // If the transaction could not begin, the changes run outside of one, fail or not by themselves, and
    // are all reported as failed: so don't run them.
    let mut replies = Vec::with_capacity(batch.len());
    let mut failure = begun.err().map(|error| error.to_string());
    if failure.is_some() {
        // Dropping a change unanswered tells its caller that it was not made.
        tracing::error!(why = ?failure, "the job store can't be written");
        batch.clear();
        return;
    }
    for change in batch.drain(..) {
        replies.push(change(db));
    }
    if let Err(error) = db.execute_batch("COMMIT") {
        tracing::error!(%error, "the job store can't be written");
        failure = Some(error.to_string());
        let _ = db.execute_batch("ROLLBACK");
    }
    for reply in replies {
        reply(failure.as_deref());
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
        Writer::start(db).expect("a thread")
    }

    async fn insert(writer: &Writer, n: i64) -> Result<(), StoreError> {
        let change = move |db: &Connection| {
            db.execute("INSERT INTO t VALUES (?1)", [n])?;
            Ok(())
        };
        writer.write(change).await
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

//! The job store's migrations. Append-only: a released one is never edited.

use std::fmt;

use rusqlite::Connection;

use crate::crash::{self, Point};

/// Marks the file as a job store ("acjb"), so that another program's database is not taken for one.
const APPLICATION_ID: i32 = 0x6163_6a62;

/// Each brings the schema from its index to the next version.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE jobs (
    request_id   TEXT PRIMARY KEY NOT NULL,
    job_id       TEXT NOT NULL UNIQUE,
    provider     TEXT NOT NULL,
    customer     TEXT NOT NULL,
    channel      TEXT NOT NULL,
    wallet       TEXT,
    network      TEXT NOT NULL,
    state        TEXT NOT NULL,
    model        TEXT NOT NULL,
    prompt       TEXT,
    max_tokens   INTEGER NOT NULL,
    stream       INTEGER NOT NULL,
    deployed     INTEGER NOT NULL,
    price_msat   INTEGER NOT NULL,
    bolt11       TEXT NOT NULL,
    payment_hash TEXT UNIQUE,
    requested_at INTEGER NOT NULL,
    quoted_at    INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    settled_at   INTEGER,
    published_at INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    messages     TEXT,
    tokens       INTEGER,
    error        TEXT
) STRICT;
CREATE INDEX jobs_quoted ON jobs (quoted_at);
CREATE INDEX jobs_requested ON jobs (requested_at);
CREATE INDEX jobs_open ON jobs (state) WHERE published_at IS NULL;
CREATE TABLE channels (
    provider TEXT NOT NULL,
    relays   TEXT NOT NULL,
    event    TEXT NOT NULL,
    PRIMARY KEY (provider, relays)
) STRICT, WITHOUT ROWID;
CREATE TABLE listings (
    provider TEXT PRIMARY KEY NOT NULL,
    at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
",
    "
CREATE TABLE announcements (
    provider TEXT NOT NULL,
    at       INTEGER NOT NULL,
    event    TEXT NOT NULL,
    PRIMARY KEY (provider, at, event)
) STRICT, WITHOUT ROWID;
",
    "
ALTER TABLE jobs ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
",
    // Chunks of earlier versions are not on record, so what such a version began is not streamed again.
    "
ALTER TABLE jobs ADD COLUMN escrow INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN held_at INTEGER;
ALTER TABLE jobs ADD COLUMN held_until INTEGER;
ALTER TABLE jobs ADD COLUMN preimage TEXT;
UPDATE jobs SET stream = 0 WHERE state IN ('quoted', 'paid', 'running');
CREATE INDEX jobs_escrow ON jobs (state) WHERE escrow = 1;
CREATE INDEX jobs_escrow_customer ON jobs (customer) WHERE escrow = 1;
CREATE INDEX jobs_settled ON jobs (settled_at) WHERE settled_at IS NOT NULL;
CREATE TABLE chunks (
    request_id TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    text       TEXT NOT NULL,
    PRIMARY KEY (request_id, seq)
) STRICT, WITHOUT ROWID;
",
    // A customer's standing without a look at its jobs themselves, whose texts are long.
    "
CREATE INDEX jobs_standing ON jobs (customer, provider, held_at, state, published_at, preimage)
    WHERE escrow = 1;
DROP INDEX jobs_escrow_customer;
",
];

/// The version of files that this program writes.
pub(super) const LATEST: usize = MIGRATIONS.len();

/// What keeps a file from being used as a job store.
#[derive(Debug)]
pub(super) enum Unusable {
    /// SQLite can't read or write it.
    Sqlite(rusqlite::Error),
    /// It belongs to another program.
    Foreign,
    /// A later version of this program wrote it.
    Newer(usize),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => write!(
                f,
                "{error}. If the file is damaged, move it away: unfinished jobs are lost with it"
            ),
            Self::Foreign => f.write_str("it is another program's database"),
            Self::Newer(version) => write!(
                f,
                "a later version of this program wrote it (schema {version}): update"
            ),
        }
    }
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Brings the schema up to date.
pub(super) fn migrate(db: &mut Connection) -> Result<(), Unusable> {
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version = check(&change)?;
    for (next, migration) in (version + 1..).zip(&MIGRATIONS[version..]) {
        change.execute_batch(migration)?;
        change.pragma_update(None, "user_version", next)?;
    }
    crash::before(Point::StoreMigrate);
    change.commit()?;
    crash::after(Point::StoreMigrate);
    Ok(())
}

/// How many of the migrations the file has had. A new one is marked as ours.
fn check(db: &Connection) -> Result<usize, Unusable> {
    let version = version(db)?;
    if version == 0 {
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Ok(version)
}

/// How many of the migrations the file has had; 0 if it is empty.
pub(super) fn version(db: &Connection) -> Result<usize, Unusable> {
    // In one statement: a file that is only looked at may be made a store between two of them.
    let (version, application, tables): (i64, i32, u32) = db.query_row(
        "SELECT (SELECT user_version FROM pragma_user_version),
                (SELECT application_id FROM pragma_application_id),
                (SELECT count(*) FROM sqlite_master)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Unusable::Foreign);
    }
    if version > MIGRATIONS.len() {
        return Err(Unusable::Newer(version));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store as the version with this many migrations left it: a job in each state.
    fn old(version: usize) -> Connection {
        let db = Connection::open_in_memory().expect("memory");
        for migration in &MIGRATIONS[..version] {
            db.execute_batch(migration).expect("migrated");
        }
        for (n, state) in ["quoted", "paid", "running", "done", "delivered"]
            .into_iter()
            .enumerate()
        {
            db.execute(
                "INSERT INTO jobs (request_id, job_id, provider, customer, channel, network, state,
                 model, max_tokens, stream, deployed, price_msat, bolt11, requested_at, quoted_at,
                 changed_at, expires_at)
                 VALUES (?1, ?1, 'p', 'c', 'ch', 'regtest', ?2, 'm', 1, 1, 0, 10000, 'b', 1, 1, 1, 1)",
                rusqlite::params![n.to_string(), state],
            )
            .expect("a job");
        }
        db.pragma_update(None, "application_id", APPLICATION_ID)
            .expect("ours");
        db.pragma_update(None, "user_version", version)
            .expect("its version");
        db
    }

    #[test]
    fn stores_of_earlier_versions_keep_their_jobs() {
        for version in 1..=MIGRATIONS.len() {
            let mut db = old(version);
            migrate(&mut db).expect("migrated");
            migrate(&mut db).expect("nothing to do");
            let jobs = "SELECT count(*), sum(escrow), count(held_at) FROM jobs";
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let jobs: (u32, u32, u32) = db.query_row(jobs, [], read).expect("read");
            assert_eq!(jobs, (5, 0, 0));
        }
    }

    #[test]
    fn what_an_earlier_version_began_is_not_streamed_again() {
        let mut db = old(2);
        migrate(&mut db).expect("migrated");
        let streamed = "SELECT group_concat(state) FROM jobs WHERE stream = 1";
        let streamed: String = db.query_row(streamed, [], |row| row.get(0)).expect("read");
        assert_eq!(streamed, "done,delivered");
    }
}

//! The seller's memory: one SQLite file with every job it quoted, the channels it made, and what it
//! announced.
//!
//! A job is on record before its invoice leaves the process, so whatever is paid is known. Two programs
//! may read one store; only one may [sell](JobStore::lock) from it.

mod checkup;
mod earnings;
mod escrow;
mod files;
mod rows;
mod said;
mod schema;
mod streamed;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nostr::{Event, EventId, JsonUtil, PublicKey};
use rusqlite::{OptionalExtension, params};
use serde::Serialize;

pub use self::checkup::Checkup;
pub use self::earnings::{Earned, Earnings, OfModel, Periods};
pub use self::escrow::{OpenHold, Unsettled};
use self::files::{connect, make_private, open_private};
use self::rows::{
    SELECT_JOB, all, fund, job_from, nonsense, one, read_unfinished, state_of, summary_from,
    take_step, to_sql,
};
pub use self::streamed::Streamed;
use self::writer::Writer;
use super::job::{Address, Job, JobState, JobStep};
use crate::crash::{self, Point};
use crate::error::{Code, Error};
use crate::ids::{JobId, PaymentHash};
use crate::look::beside;
use crate::units::{Msat, Network, UnixSecs};

/// Why the store did not do what it was asked. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request, its short job id or its payment hash is on record already.
    #[error("this job is on record already")]
    Known,
    /// The job is not in a state that allows this step.
    #[error("a job that is {0} can't take this step")]
    Illegal(JobState),
    /// There is no such job.
    #[error("no such job")]
    NotFound,
    /// The file can't be read or written, or says what makes no sense.
    #[error("the job store can't be used: {0}")]
    Storage(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => Self::Known,
            _ => Self::Storage(error.to_string()),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::new(Code::Ledger, error.to_string())
    }
}

/// Whose jobs these are: a store may hold those of several keys and wallets, and each is resumed only
/// under its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seller {
    /// The key that sells.
    pub key: PublicKey,
    /// The wallet that is paid (`kind:account`); `None` where none takes part.
    pub wallet: Option<String>,
    /// The network of its money.
    pub network: Network,
}

/// A job as `agent-provider jobs` lists it. No prompt, no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobSummary {
    /// What both sides call it.
    pub job_id: JobId,
    /// The event that asked for it.
    pub request_id: EventId,
    /// Who asked.
    pub customer: PublicKey,
    /// Where it stands.
    pub state: JobState,
    /// What did or does it.
    pub model: String,
    /// What was asked for it.
    pub price_msat: Msat,
    /// The network of that money.
    pub network: Network,
    /// The wallet that was paid or is to be (`kind:account`); `None` where none takes part.
    pub wallet: Option<String>,
    /// Whether it is paid into escrow.
    pub escrow: bool,
    /// When the quote was made.
    pub quoted_at: UnixSecs,
    /// When the money was seen to be held, in escrow.
    pub held_at: Option<UnixSecs>,
    /// When the money was seen to be ours.
    pub settled_at: Option<UnixSecs>,
    /// When a relay took the result, or the message that there is none.
    pub published_at: Option<UnixSecs>,
    /// Tokens made, if the backend counts.
    pub tokens: Option<u32>,
    /// What went wrong, for the owner.
    pub error: Option<String>,
}

/// An unpaid quote whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateQuote {
    /// The request.
    pub request: EventId,
    /// Who asked.
    pub customer: PublicKey,
    /// What it would be paid by.
    pub payment_hash: PaymentHash,
    /// When the quote ended.
    pub expires_at: UnixSecs,
    /// Whether money that is only held pays for it.
    pub escrow: bool,
}

/// Messages on record that no relay is known to have taken.
#[derive(Clone, Debug)]
pub struct Unsent {
    /// The job they are about.
    pub address: Address,
    /// What was paid for it.
    pub price: Msat,
    /// Whether they are its result, and not that there is none.
    pub is_result: bool,
    /// Signed, in order.
    pub messages: Vec<Event>,
}

/// What a start finds, by what is to be done.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Open quotes.
    pub quoted: Vec<Job>,
    /// Quotes whose time is over, and that may have been paid all the same.
    pub late: Vec<LateQuote>,
    /// Paid or held and not done, oldest payment first.
    pub paid: Vec<Job>,
    /// Held, and no longer to be worked on, or released already.
    pub holds: Vec<OpenHold>,
    /// The channels in which customers may still release what is, or may come to be, held.
    pub channels: Vec<EventId>,
    /// Done or failed, and the customer was not told.
    pub unsent: Vec<Unsent>,
    /// Ids of requests on record since the moment that was asked about.
    pub recent: Vec<EventId>,
    /// The latest request on record.
    pub last_request: Option<UnixSecs>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// What went wrong, for the owner; `None` for a result.
    pub error: Option<String>,
    /// What the customer is to be told, signed, in order. Empty if all of it has been published.
    pub messages: Vec<Event>,
    /// Tokens made, if the backend counts.
    pub tokens: Option<u32>,
}

/// The exclusive right to sell from a store, until dropped.
#[derive(Debug)]
pub struct SellerLock {
    _file: File,
}

/// The store. Cheap to clone; every change is durable when its call returns.
#[derive(Clone, Debug)]
pub struct JobStore {
    path: Arc<PathBuf>,
    writer: Writer,
}

fn unusable(path: &Path, problem: &dyn std::fmt::Display) -> Error {
    let path = path.display();
    Error::new(
        Code::Ledger,
        format!("the job store {path} can't be used: {problem}"),
    )
}

impl JobStore {
    /// Opens the store at `path`, and makes it, readable by its owner only, if there is none.
    ///
    /// # Errors
    /// [`Code::Ledger`] if the file can't be opened, is damaged or not a job store, or was written by a
    /// later version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |error: std::io::Error| unusable(path, &error);
        make_private(path).map_err(io)?;
        let db = connect(path).map_err(|error| unusable(path, &error))?;
        let writer = Writer::start(db, path).map_err(io)?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            writer,
        })
    }

    /// Takes the exclusive right to sell from this store. The right ends with the process, however that
    /// ends.
    ///
    /// # Errors
    /// [`Code::Ledger`] if another provider has it, or the lock file can't be made.
    pub fn lock(&self) -> Result<SellerLock, Error> {
        let path = beside(&self.path, ".lock");
        let trouble = |why: &dyn std::fmt::Display| {
            let store = self.path.display();
            Error::new(Code::Ledger, format!("the job store {store}: {why}"))
        };
        let file = open_private(&path).map_err(|error| trouble(&error))?;
        crash::before(Point::StoreLock);
        let locked = file.try_lock();
        crash::after(Point::StoreLock);
        match locked {
            Ok(()) => {
                // Of a seller that was killed: there may be no room until then.
                let _ = file.set_len(0);
                Ok(SellerLock { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(trouble(
                &"another provider is selling from it; give this one another --home",
            )),
            Err(TryLockError::Error(error)) => Err(trouble(&error)),
        }
    }

    /// Puts a quoted job on record. From here on its payment is known, whatever happens.
    ///
    /// From here on some room on the disk is kept, too, for what becomes of the jobs there are.
    ///
    /// # Errors
    /// [`StoreError::Known`] if its request, job id or payment hash is on record; [`StoreError::Storage`]
    /// also where there is no such room.
    pub async fn insert(&self, job: &Job, seller: &Seller, at: UnixSecs) -> Result<(), StoreError> {
        let (job, seller) = (job.clone(), seller.clone());
        self.writer
            .write_with_room(move |db| {
                db.prepare_cached(
                    "INSERT INTO jobs (request_id, job_id, provider, customer, channel, wallet, network,
                     state, model, prompt, max_tokens, stream, deployed, price_msat, bolt11,
                     payment_hash, requested_at, quoted_at, changed_at, expires_at, sealed, escrow)
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?18,?19,?20,?21)",
                )?
                .execute(params![
                    job.address.request.to_hex(),
                    job.address.job_id().as_str(),
                    seller.key.to_hex(),
                    job.address.customer.to_hex(),
                    job.address.channel.to_hex(),
                    seller.wallet,
                    seller.network.as_str(),
                    JobState::Quoted.as_str(),
                    job.model,
                    job.prompt,
                    job.max_tokens,
                    job.stream,
                    job.deployed,
                    to_sql(job.price.get()),
                    job.bolt11,
                    job.payment_hash.map(|hash| hash.to_string()),
                    to_sql(job.requested_at.get()),
                    to_sql(at.get()),
                    to_sql(job.expires_at.get()),
                    job.address.sealed,
                    job.escrow,
                ])?;
                Ok(())
            })
            .await
    }

    /// Takes one step, or several at once.
    ///
    /// # Errors
    /// [`StoreError::Illegal`] if the job's state does not allow them; [`StoreError::NotFound`].
    pub async fn step(
        &self,
        request: EventId,
        steps: &'static [JobStep],
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let mut state = state_of(db, request)?;
                for step in steps {
                    state = take_step(db, request, state, *step, at)?;
                }
                Ok(state)
            })
            .await
    }

    /// Takes one step.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn step_by(
        &self,
        request: EventId,
        step: JobStep,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| take_step(db, request, state_of(db, request)?, step, at))
            .await
    }

    /// Puts on record that a job is paid, or held until `held_until`. Nothing changes if that is known.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn fund(
        &self,
        request: EventId,
        held_until: Option<UnixSecs>,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| fund(db, request, held_until, state_of(db, request)?, at))
            .await
    }

    /// Puts on record that a job was begun, and that it is paid or held if that is not on record yet.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn start(
        &self,
        request: EventId,
        held_until: Option<UnixSecs>,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let state = fund(db, request, held_until, state_of(db, request)?, at)?;
                take_step(db, request, state, JobStep::Started, at)
            })
            .await
    }

    /// Puts on record how a paid or held job ended and what its customer is to be told, before anyone is;
    /// and that it was paid or held, and begun, if that is not on record yet. Its chunks are forgotten: what
    /// is left to be said of them is among the messages.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn finish(
        &self,
        request: EventId,
        held_until: Option<UnixSecs>,
        finish: Finish,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let mut state = fund(db, request, held_until, state_of(db, request)?, at)?;
                let step = match (&finish.error, held_until) {
                    (None, _) => JobStep::Finished,
                    (Some(_), None) => JobStep::Broken,
                    (Some(_), Some(_)) => JobStep::Undone,
                };
                let begun = step == JobStep::Finished || held_until.is_none();
                if begun && state != JobState::Running {
                    state = take_step(db, request, state, JobStep::Started, at)?;
                }
                let state = take_step(db, request, state, step, at)?;
                let messages: Vec<String> = finish.messages.iter().map(JsonUtil::as_json).collect();
                db.prepare_cached(
                    "UPDATE jobs SET messages = ?2, tokens = ?3, error = ?4 WHERE request_id = ?1",
                )?
                .execute(params![
                    request.to_hex(),
                    messages.join("\n"),
                    finish.tokens,
                    finish.error,
                ])?;
                db.prepare_cached("DELETE FROM chunks WHERE request_id = ?1")?
                    .execute([request.to_hex()])?;
                Ok(state)
            })
            .await
    }

    /// The job that answers `request`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also when its prompt was dropped.
    pub async fn job(&self, request: EventId) -> Result<Job, StoreError> {
        self.writer
            .write(move |db| {
                let sql = format!("{SELECT_JOB} WHERE request_id = ?1");
                let row = db.prepare_cached(&sql)?;
                one(row, [request.to_hex()], job_from)
            })
            .await
    }

    /// What is to be done after a start, for this seller.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn unfinished(
        &self,
        seller: &Seller,
        now: UnixSecs,
        recent_since: UnixSecs,
    ) -> Result<Unfinished, StoreError> {
        let seller = seller.clone();
        self.writer
            .write(move |db| read_unfinished(db, &seller, now, recent_since))
            .await
    }

    /// The latest jobs, newest first.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn latest(&self, most: usize) -> Result<Vec<JobSummary>, StoreError> {
        self.writer
            .write(move |db| {
                let mut rows = db.prepare_cached(
                    "SELECT job_id, request_id, customer, state, model, price_msat, network, wallet,
                     escrow, quoted_at, held_at, settled_at, published_at, tokens, error
                     FROM jobs ORDER BY quoted_at DESC, rowid DESC LIMIT ?1",
                )?;
                all(
                    &mut rows,
                    [i64::try_from(most).unwrap_or(i64::MAX)],
                    summary_from,
                )
            })
            .await
    }

    /// Drops the texts of jobs that ended before `before`; their figures stay.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn drop_texts(&self, before: UnixSecs) -> Result<usize, StoreError> {
        self.writer
            .write(move |db| {
                let changed = db.execute(
                    "UPDATE jobs SET prompt = NULL, messages = NULL
                     WHERE (prompt IS NOT NULL OR messages IS NOT NULL)
                     AND (published_at < ?1 OR (state IN ('expired', 'cancelled') AND expires_at < ?1)
                     OR (state IN ('settled', 'unreleased') AND changed_at < ?1))",
                    [to_sql(before.get())],
                )?;
                Ok(changed)
            })
            .await
    }

    /// The channel that `provider` made for this set of relays.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn channel(
        &self,
        provider: PublicKey,
        relays: String,
    ) -> Result<Option<Event>, StoreError> {
        self.writer
            .write(move |db| {
                let json: Option<String> = db
                    .query_row(
                        "SELECT event FROM channels WHERE provider = ?1 AND relays = ?2",
                        [provider.to_hex(), relays],
                        |row| row.get(0),
                    )
                    .optional()?;
                json.map(|json| Event::from_json(json).map_err(nonsense))
                    .transpose()
            })
            .await
    }

    /// Remembers the channel that its author made for this set of relays, in place of an earlier one.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn remember_channel(&self, relays: String, made: Event) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.execute(
                    "INSERT INTO channels (provider, relays, event) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET event = excluded.event",
                    [made.pubkey.to_hex(), relays, made.as_json()],
                )?;
                Ok(())
            })
            .await
    }
}

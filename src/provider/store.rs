//! The seller's memory: one SQLite file with every job it quoted, and the channels it made.
//!
//! A job is on record before its invoice leaves the process, so whatever is paid is known. Two programs
//! may read one store; only one may [sell](JobStore::lock) from it.

mod schema;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nostr::{Event, EventId, JsonUtil, PublicKey};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use self::schema::Unusable;
use self::writer::Writer;
use super::job::{Address, Job, JobState, JobStep};
use crate::error::{Code, Error};
use crate::ids::{JobId, PaymentHash};
use crate::units::{Msat, Network, UnixSecs};

/// How long a change waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// The most jobs that a start takes up again; the rest waits for the next one.
const MOST_RESUMED: usize = 10_000;

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
    /// When the quote was made.
    pub quoted_at: UnixSecs,
    /// When the money was seen.
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
    /// Paid and not done, oldest payment first.
    pub paid: Vec<Job>,
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

impl JobStore {
    /// Opens the store at `path`, and makes it, readable by its owner only, if there is none.
    ///
    /// # Errors
    /// [`Code::Ledger`] if the file can't be opened, is damaged or not a job store, or was written by a
    /// later version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |problem: String| {
            let path = path.display();
            Error::new(
                Code::Ledger,
                format!("the job store {path} can't be used: {problem}"),
            )
        };
        make_private(path).map_err(|error| unusable(error.to_string()))?;
        let db = connect(path).map_err(|error| {
            unusable(match error {
                Unusable::Sqlite(error) => format!(
                    "{error}. If the file is damaged, move it away: unfinished jobs are lost with it"
                ),
                Unusable::Foreign => "it is another program's database".into(),
                Unusable::Newer(version) => {
                    format!("a later version of this program wrote it (schema {version}): update")
                }
            })
        })?;
        let writer = Writer::start(db).map_err(|error| unusable(error.to_string()))?;
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
        let mut path = self.path.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let trouble = |why: &dyn std::fmt::Display| {
            let store = self.path.display();
            Error::new(Code::Ledger, format!("the job store {store}: {why}"))
        };
        let file = open_private(&path).map_err(|error| trouble(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(SellerLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(trouble(
                &"another provider is selling from it; give this one another --home",
            )),
            Err(TryLockError::Error(error)) => Err(trouble(&error)),
        }
    }

    /// Puts a quoted job on record. From here on its payment is known, whatever happens.
    ///
    /// # Errors
    /// [`StoreError::Known`] if its request, job id or payment hash is on record.
    pub async fn insert(&self, job: &Job, seller: &Seller, at: UnixSecs) -> Result<(), StoreError> {
        let (job, seller) = (job.clone(), seller.clone());
        self.writer
            .write(move |db| {
                db.prepare_cached(
                    "INSERT INTO jobs (request_id, job_id, provider, customer, channel, wallet, network,
                     state, model, prompt, max_tokens, stream, deployed, price_msat, bolt11,
                     payment_hash, requested_at, quoted_at, changed_at, expires_at)
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?18,?19)",
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

    /// Puts on record that a paid job was begun, and that it is paid if that is not on record yet.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn start(&self, request: EventId, at: UnixSecs) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let mut state = state_of(db, request)?;
                if state.after(JobStep::Settled).is_some() {
                    state = take_step(db, request, state, JobStep::Settled, at)?;
                }
                take_step(db, request, state, JobStep::Started, at)
            })
            .await
    }

    /// Puts on record how a job ended and what its customer is to be told, before anyone is.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn finish(
        &self,
        request: EventId,
        finish: Finish,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let step = match finish.error {
                    None => JobStep::Finished,
                    Some(_) => JobStep::Broken,
                };
                let state = take_step(db, request, state_of(db, request)?, step, at)?;
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
                     quoted_at, settled_at, published_at, tokens, error
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
                     AND (published_at < ?1 OR (state IN ('expired', 'cancelled') AND expires_at < ?1))",
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

    /// When `provider` last published or withdrew its listing; the epoch if it never did.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn listed_at(&self, provider: PublicKey) -> Result<UnixSecs, StoreError> {
        self.writer
            .write(move |db| {
                let at: Option<i64> = db
                    .query_row(
                        "SELECT at FROM listings WHERE provider = ?1",
                        [provider.to_hex()],
                        |row| row.get(0),
                    )
                    .optional()?;
                Ok(UnixSecs::new(at.map_or(0, from_sql)))
            })
            .await
    }

    /// Remembers when `provider` published or withdrew its listing.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn remember_listing(
        &self,
        provider: PublicKey,
        at: UnixSecs,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.execute(
                    "INSERT INTO listings (provider, at) VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET at = excluded.at",
                    params![provider.to_hex(), to_sql(at.get())],
                )?;
                Ok(())
            })
            .await
    }
}

const SELECT_JOB: &str = "SELECT request_id, customer, channel, prompt, model, max_tokens, stream, \
    deployed, price_msat, bolt11, payment_hash, requested_at, expires_at, attempts FROM jobs";

fn read_unfinished(
    db: &Connection,
    seller: &Seller,
    now: UnixSecs,
    recent_since: UnixSecs,
) -> Result<Unfinished, StoreError> {
    let key = seller.key.to_hex();
    let most = i64::try_from(MOST_RESUMED).unwrap_or(i64::MAX);
    let ours = "provider = ?1 AND wallet IS ?2 AND network = ?3 AND published_at IS NULL";
    let (wallet, network) = (&seller.wallet, seller.network.as_str());
    let whose = params![key, wallet, network, most, to_sql(now.get())];

    let sql = format!(
        "{SELECT_JOB} WHERE {ours} AND state = 'quoted' AND expires_at > ?5 ORDER BY quoted_at LIMIT ?4"
    );
    let quoted = all(&mut db.prepare(&sql)?, whose, job_from)?;
    let sql = format!(
        "SELECT request_id, customer, payment_hash, expires_at FROM jobs WHERE {ours}
         AND state = 'quoted' AND expires_at <= ?5 AND payment_hash IS NOT NULL
         ORDER BY expires_at DESC LIMIT ?4"
    );
    let late = all(&mut db.prepare(&sql)?, whose, late_from)?;
    let sql = format!(
        "{SELECT_JOB} WHERE {ours} AND state IN ('paid', 'running')
         ORDER BY settled_at, rowid LIMIT ?4"
    );
    let paid = all(
        &mut db.prepare(&sql)?,
        params![key, wallet, network, most],
        job_from,
    )?;
    // What was signed can be sent whatever wallet is in use now.
    let sql = "SELECT request_id, customer, channel, messages, price_msat, state FROM jobs WHERE provider = ?1
         AND published_at IS NULL AND state IN ('done', 'failed') AND messages IS NOT NULL LIMIT ?2";
    let unsent = all(&mut db.prepare(sql)?, params![key, most], unsent_from)?;
    let sql =
        "SELECT request_id FROM jobs WHERE requested_at >= ?1 ORDER BY requested_at DESC LIMIT ?2";
    let recent = params![to_sql(recent_since.get()), most];
    let recent = all(&mut db.prepare(sql)?, recent, |row| event_id(row, 0))?;
    let last: Option<i64> = db.query_row(
        "SELECT max(requested_at) FROM jobs WHERE provider = ?1",
        [key],
        |row| row.get(0),
    )?;
    Ok(Unfinished {
        quoted,
        late,
        paid,
        unsent,
        recent,
        last_request: last.map(from_sql).map(UnixSecs::new),
    })
}

fn state_of(db: &Connection, request: EventId) -> Result<JobState, StoreError> {
    let row = db.prepare_cached("SELECT state FROM jobs WHERE request_id = ?1")?;
    one(row, [request.to_hex()], |row| state(row, 0))
}

fn take_step(
    db: &Connection,
    request: EventId,
    from: JobState,
    step: JobStep,
    at: UnixSecs,
) -> Result<JobState, StoreError> {
    let to = from.after(step).ok_or(StoreError::Illegal(from))?;
    let also = match step {
        JobStep::Settled => ", settled_at = ?3",
        JobStep::Started => ", attempts = attempts + 1, settled_at = coalesce(settled_at, ?3)",
        // Once delivered the prompt has done its work; of a failed job it is what is owed.
        JobStep::Published if matches!(to, JobState::Delivered) => {
            ", published_at = ?3, prompt = NULL"
        }
        JobStep::Published => ", published_at = ?3",
        JobStep::Finished | JobStep::Broken | JobStep::Lapsed | JobStep::Withdrawn => "",
    };
    db.prepare_cached(&format!(
        "UPDATE jobs SET state = ?2, changed_at = ?3{also} WHERE request_id = ?1"
    ))?
    .execute(params![request.to_hex(), to.as_str(), to_sql(at.get())])?;
    Ok(to)
}

fn connect(path: &Path) -> Result<Connection, Unusable> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    // First of all, so that nothing is changed in a file that is not ours.
    schema::migrate(&mut db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

fn make_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut make, 0o700);
        make.create(folder)?;
    }
    open_private(path).map(drop)
}

fn open_private(path: &Path) -> std::io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
    open.open(path)
}

/// Amounts and times are far below what SQLite's integers hold; what is not stops at their top.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn nonsense(why: impl std::fmt::Display) -> StoreError {
    StoreError::Storage(format!("it holds what makes no sense: {why}"))
}

fn one<T>(
    mut statement: rusqlite::CachedStatement<'_>,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut rows = statement.query(params)?;
    read(rows.next()?.ok_or(StoreError::NotFound)?)
}

fn all<T>(
    statement: &mut rusqlite::Statement<'_>,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

fn parsed<T, E: std::fmt::Display>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    parse(&text).map_err(nonsense)
}

fn event_id(row: &Row<'_>, column: usize) -> Result<EventId, StoreError> {
    parsed(row, column, EventId::from_hex)
}

fn public_key(row: &Row<'_>, column: usize) -> Result<PublicKey, StoreError> {
    parsed(row, column, PublicKey::from_hex)
}

fn state(row: &Row<'_>, column: usize) -> Result<JobState, StoreError> {
    parsed(row, column, |word| {
        JobState::from_word(word).ok_or_else(|| format!("a job that is {word}"))
    })
}

fn at(row: &Row<'_>, column: usize) -> Result<UnixSecs, StoreError> {
    Ok(UnixSecs::new(from_sql(row.get(column)?)))
}

fn maybe_at(row: &Row<'_>, column: usize) -> Result<Option<UnixSecs>, StoreError> {
    let secs: Option<i64> = row.get(column)?;
    Ok(secs.map(from_sql).map(UnixSecs::new))
}

fn job_from(row: &Row<'_>) -> Result<Job, StoreError> {
    let prompt: Option<String> = row.get(3)?;
    let hash: Option<String> = row.get(10)?;
    Ok(Job {
        address: Address {
            request: event_id(row, 0)?,
            customer: public_key(row, 1)?,
            channel: event_id(row, 2)?,
        },
        prompt: prompt.ok_or(StoreError::NotFound)?,
        model: row.get(4)?,
        max_tokens: row.get(5)?,
        stream: row.get(6)?,
        deployed: row.get(7)?,
        price: Msat::new(from_sql(row.get(8)?)),
        bolt11: row.get(9)?,
        payment_hash: hash
            .map(|hash| hash.parse())
            .transpose()
            .map_err(nonsense)?,
        requested_at: at(row, 11)?,
        expires_at: at(row, 12)?,
        attempts: row.get(13)?,
    })
}

fn late_from(row: &Row<'_>) -> Result<LateQuote, StoreError> {
    Ok(LateQuote {
        request: event_id(row, 0)?,
        customer: public_key(row, 1)?,
        payment_hash: parsed(row, 2, str::parse)?,
        expires_at: at(row, 3)?,
    })
}

fn unsent_from(row: &Row<'_>) -> Result<Unsent, StoreError> {
    let address = Address {
        request: event_id(row, 0)?,
        customer: public_key(row, 1)?,
        channel: event_id(row, 2)?,
    };
    let messages: String = row.get(3)?;
    let messages = messages.lines().map(Event::from_json);
    Ok(Unsent {
        address,
        price: Msat::new(from_sql(row.get(4)?)),
        is_result: state(row, 5)? == JobState::Done,
        messages: messages.collect::<Result<_, _>>().map_err(nonsense)?,
    })
}

fn summary_from(row: &Row<'_>) -> Result<JobSummary, StoreError> {
    let job_id: String = row.get(0)?;
    Ok(JobSummary {
        job_id: JobId::from_wire(job_id),
        request_id: event_id(row, 1)?,
        customer: public_key(row, 2)?,
        state: state(row, 3)?,
        model: row.get(4)?,
        price_msat: Msat::new(from_sql(row.get(5)?)),
        network: parsed(row, 6, str::parse)?,
        wallet: row.get(7)?,
        quoted_at: at(row, 8)?,
        settled_at: maybe_at(row, 9)?,
        published_at: maybe_at(row, 10)?,
        tokens: row.get(11)?,
        error: row.get(12)?,
    })
}

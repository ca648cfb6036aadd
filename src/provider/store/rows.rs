//! Rows to types and back, and what is read and stepped with them.

use nostr::{Event, EventId, JsonUtil, PublicKey};
use rusqlite::{Connection, Row, params};

use super::{JobSummary, LateQuote, OpenHold, Seller, StoreError, Unfinished, Unsent};
use crate::ids::JobId;
use crate::provider::job::{Address, Job, JobState, JobStep};
use crate::units::{Msat, UnixSecs};

/// The most jobs that a start takes up again; the rest waits for the next one.
const MOST_RESUMED: usize = 10_000;

pub(super) const SELECT_JOB: &str = "SELECT request_id, customer, channel, prompt, model, max_tokens, stream, \
    deployed, price_msat, bolt11, payment_hash, requested_at, expires_at, attempts, sealed, escrow, \
    held_until FROM jobs";

/// Jobs that ended and whose customers were not told. A result may have its money already, or have lost it,
/// where that was released, or taken back, before a relay took the result.
pub(super) const UNSENT: &str = "published_at IS NULL AND messages IS NOT NULL AND state IN \
    ('done', 'released', 'settled', 'unreleased', 'failed', 'returning', 'returned')";

pub(super) fn read_unfinished(
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
    // Without a wallet nothing can have paid them meanwhile.
    db.execute(
        "UPDATE jobs SET state = 'expired', changed_at = ?1
         WHERE state = 'quoted' AND payment_hash IS NULL AND expires_at <= ?1",
        [to_sql(now.get())],
    )?;
    let quoted = all(&mut db.prepare(&sql)?, whose, job_from)?;
    let sql = format!(
        "SELECT request_id, customer, payment_hash, expires_at, escrow FROM jobs WHERE {ours}
         AND state = 'quoted' AND expires_at <= ?5 AND payment_hash IS NOT NULL
         ORDER BY expires_at DESC LIMIT ?4"
    );
    let late = all(&mut db.prepare(&sql)?, whose, late_from)?;
    // What is paid is owed, and what was signed can be sent, whatever wallet is in use now. Of what is held
    // only the wallet that has it can tell.
    let sql = format!(
        "{SELECT_JOB} WHERE provider = ?1 AND state IN ('paid', 'held', 'running')
         AND (held_until IS NULL OR (wallet IS ?2 AND network = ?3))
         ORDER BY coalesce(held_at, settled_at), rowid LIMIT ?4"
    );
    let paid = all(
        &mut db.prepare(&sql)?,
        params![key, wallet, network, most],
        job_from,
    )?;
    let holds = read_holds(db, seller, most)?;
    let sql =
        "SELECT DISTINCT channel FROM jobs WHERE escrow = 1 AND provider = ?1 AND wallet IS ?2
         AND network = ?3 AND settled_at IS NULL
         AND state IN ('quoted', 'held', 'running', 'done', 'delivered')";
    let ours = params![key, wallet, network];
    let channels = all(&mut db.prepare(sql)?, ours, |row| event_id(row, 0))?;
    let sql = format!(
        "SELECT request_id, customer, channel, messages, price_msat, state, sealed FROM jobs
         WHERE provider = ?1 AND {UNSENT} LIMIT ?2"
    );
    let unsent = all(&mut db.prepare(&sql)?, params![key, most], unsent_from)?;
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
        holds,
        channels,
        unsent,
        recent,
        last_request: last.map(from_sql).map(UnixSecs::new),
    })
}

/// Jobs in escrow whose work is over, and whose money is neither ours nor the customer's again; and those
/// that were released before their work was over.
fn read_holds(db: &Connection, seller: &Seller, most: i64) -> Result<Vec<OpenHold>, StoreError> {
    let mut rows = db.prepare(
        "SELECT request_id, customer, channel, payment_hash, price_msat, held_until, state, preimage,
         changed_at, sealed FROM jobs WHERE escrow = 1 AND provider = ?1 AND wallet IS ?2 AND network = ?3
         AND (state IN ('done', 'delivered', 'released', 'returning')
         OR (state IN ('held', 'running') AND preimage IS NOT NULL)) AND settled_at IS NULL
         ORDER BY held_at, rowid LIMIT ?4",
    )?;
    let (key, network) = (seller.key.to_hex(), seller.network.as_str());
    all(
        &mut rows,
        params![key, seller.wallet, network, most],
        hold_from,
    )
}

pub(super) fn state_of(db: &Connection, request: EventId) -> Result<JobState, StoreError> {
    let row = db.prepare_cached("SELECT state FROM jobs WHERE request_id = ?1")?;
    one(row, [request.to_hex()], |row| state(row, 0))
}

/// Takes the step to *paid*, or to *held* until `held_until`, if it is still to be taken.
pub(super) fn fund(
    db: &Connection,
    request: EventId,
    held_until: Option<UnixSecs>,
    state: JobState,
    at: UnixSecs,
) -> Result<JobState, StoreError> {
    let step = match held_until {
        None => JobStep::Settled,
        Some(_) => JobStep::Locked,
    };
    let state = match state.after(step) {
        Some(_) => take_step(db, request, state, step, at)?,
        None => state,
    };
    if let Some(until) = held_until {
        db.prepare_cached("UPDATE jobs SET held_until = ?2 WHERE request_id = ?1")?
            .execute(params![request.to_hex(), to_sql(until.get())])?;
    }
    Ok(state)
}

pub(super) fn take_step(
    db: &Connection,
    request: EventId,
    from: JobState,
    step: JobStep,
    at: UnixSecs,
) -> Result<JobState, StoreError> {
    let to = from.after(step).ok_or(StoreError::Illegal(from))?;
    let also = match step {
        JobStep::Settled | JobStep::Claimed => ", settled_at = ?3",
        JobStep::Locked => ", held_at = ?3",
        JobStep::Started => ", attempts = attempts + 1",
        // Of a failed job the prompt is what is owed; of all others it has done its work.
        JobStep::Published if matches!(to, JobState::Failed) => ", published_at = ?3",
        JobStep::Published => ", published_at = ?3, prompt = NULL",
        JobStep::Finished
        | JobStep::Broken
        | JobStep::Undone
        | JobStep::Returned
        | JobStep::Released
        | JobStep::Vanished
        | JobStep::Lapsed
        | JobStep::Withdrawn => "",
    };
    db.prepare_cached(&format!(
        "UPDATE jobs SET state = ?2, changed_at = ?3{also} WHERE request_id = ?1"
    ))?
    .execute(params![request.to_hex(), to.as_str(), to_sql(at.get())])?;
    Ok(to)
}

/// Amounts and times are far below what SQLite's integers hold; what is not stops at their top.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn nonsense(why: impl std::fmt::Display) -> StoreError {
    StoreError::Storage(format!("it holds what makes no sense: {why}"))
}

pub(super) fn one<T>(
    mut statement: rusqlite::CachedStatement<'_>,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut rows = statement.query(params)?;
    read(rows.next()?.ok_or(StoreError::NotFound)?)
}

pub(super) fn all<T>(
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

pub(super) fn parsed<T, E: std::fmt::Display>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    parse(&text).map_err(nonsense)
}

pub(super) fn event_id(row: &Row<'_>, column: usize) -> Result<EventId, StoreError> {
    parsed(row, column, EventId::from_hex)
}

pub(super) fn public_key(row: &Row<'_>, column: usize) -> Result<PublicKey, StoreError> {
    parsed(row, column, PublicKey::from_hex)
}

pub(super) fn state(row: &Row<'_>, column: usize) -> Result<JobState, StoreError> {
    parsed(row, column, |word| {
        JobState::from_word(word).ok_or_else(|| format!("a job that is {word}"))
    })
}

pub(super) fn at(row: &Row<'_>, column: usize) -> Result<UnixSecs, StoreError> {
    Ok(UnixSecs::new(from_sql(row.get(column)?)))
}

pub(super) fn maybe_at(row: &Row<'_>, column: usize) -> Result<Option<UnixSecs>, StoreError> {
    let secs: Option<i64> = row.get(column)?;
    Ok(secs.map(from_sql).map(UnixSecs::new))
}

pub(super) fn job_from(row: &Row<'_>) -> Result<Job, StoreError> {
    let prompt: Option<String> = row.get(3)?;
    let hash: Option<String> = row.get(10)?;
    Ok(Job {
        address: Address {
            request: event_id(row, 0)?,
            customer: public_key(row, 1)?,
            channel: event_id(row, 2)?,
            sealed: row.get(14)?,
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
        escrow: row.get(15)?,
        held_until: maybe_at(row, 16)?,
        waited: false,
        resumed: true,
    })
}

pub(super) fn late_from(row: &Row<'_>) -> Result<LateQuote, StoreError> {
    Ok(LateQuote {
        request: event_id(row, 0)?,
        customer: public_key(row, 1)?,
        payment_hash: parsed(row, 2, str::parse)?,
        expires_at: at(row, 3)?,
        escrow: row.get(4)?,
    })
}

fn hold_from(row: &Row<'_>) -> Result<OpenHold, StoreError> {
    let preimage: Option<String> = row.get(7)?;
    Ok(OpenHold {
        address: Address {
            request: event_id(row, 0)?,
            customer: public_key(row, 1)?,
            channel: event_id(row, 2)?,
            sealed: row.get(9)?,
        },
        payment_hash: parsed(row, 3, str::parse)?,
        price: Msat::new(from_sql(row.get(4)?)),
        held_until: at(row, 5)?,
        state: state(row, 6)?,
        preimage: preimage
            .map(|preimage| preimage.parse())
            .transpose()
            .map_err(nonsense)?,
        since: at(row, 8)?,
    })
}

pub(super) fn unsent_from(row: &Row<'_>) -> Result<Unsent, StoreError> {
    let address = Address {
        request: event_id(row, 0)?,
        customer: public_key(row, 1)?,
        channel: event_id(row, 2)?,
        sealed: row.get(6)?,
    };
    let messages: String = row.get(3)?;
    let messages = messages.lines().map(Event::from_json);
    Ok(Unsent {
        address,
        price: Msat::new(from_sql(row.get(4)?)),
        is_result: matches!(
            state(row, 5)?,
            JobState::Done | JobState::Released | JobState::Settled | JobState::Unreleased
        ),
        messages: messages.collect::<Result<_, _>>().map_err(nonsense)?,
    })
}

pub(super) fn summary_from(row: &Row<'_>) -> Result<JobSummary, StoreError> {
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
        escrow: row.get(8)?,
        quoted_at: at(row, 9)?,
        held_at: maybe_at(row, 10)?,
        settled_at: maybe_at(row, 11)?,
        published_at: maybe_at(row, 12)?,
        tokens: row.get(13)?,
        error: row.get(14)?,
    })
}

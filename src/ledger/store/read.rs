//! What is read from the ledger, and how rows become types.

use std::str::FromStr;

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::Fault;
use super::receipt;
use crate::clock::Clock;
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::ledger::{
    Booked, HistoryQuery, LedgerError, LogLine, PurchaseRecord, Reservation, ReservationStatus,
    Scope, StateRow, Status, Usage,
};
use crate::units::{Msat, Network, UnixSecs};

/// The most purchases one listing reads, and the most log lines of one purchase.
const MOST_ROWS: u32 = 10_000;

/// Selects whole purchases, for [`Stored::read`].
macro_rules! record {
    ($which:literal) => {
        concat!(
            "SELECT p.seq, p.id, p.network, p.play_money, p.tick, p.idempotency_key, p.status,
             p.version, p.owner, p.created_at, p.updated_at, p.label, p.state, r.status,
             r.price_msat, r.fee_cap_msat, r.payment_hash, r.wallet_kind, r.wallet_account,
             r.spent_msat, r.fee_msat
             FROM purchases p LEFT JOIN reservations r ON r.purchase = p.seq ",
            $which
        )
    };
}

/// What a scope has settled since a day. SQLite's `sum` fails beyond 63 bits; in two halves it can't, and stays
/// exact.
const SPENT_SINCE: &str = "SELECT coalesce(sum(high), 0), coalesce(sum(low), 0)
     FROM days WHERE network = ?1 AND play_money = ?2 AND day >= ?3";

/// The same of a tick.
const SPENT_IN_TICK: &str =
    "SELECT coalesce(sum(spent_msat >> 32), 0), coalesce(sum(spent_msat & 4294967295), 0)
     FROM reservations
     WHERE status = 'settled' AND network = ?1 AND play_money = ?2 AND tick = ?3";

const OPEN_IN_SCOPE: &str =
    "SELECT price_msat, fee_cap_msat, status = 'unknown', coalesce(tick = ?3, 0)
     FROM reservations WHERE network = ?1 AND play_money = ?2 AND closed_at IS NULL";

const OPEN_ON_WALLET: &str = "SELECT price_msat, fee_cap_msat FROM reservations
     WHERE wallet_kind = ?1 AND wallet_account = ?2 AND closed_at IS NULL";

const UNFINISHED_OWNERS: &str =
    "SELECT DISTINCT owner FROM purchases WHERE status IN ('open', 'undelivered')";

pub(in crate::ledger) fn purchase(
    db: &Connection,
    id: PurchaseId,
) -> Result<PurchaseRecord, Fault> {
    Ok(required(db, id)?.record)
}

/// The purchases that are not over and belong to an owner for whom `may_take` says yes.
pub(in crate::ledger) fn unfinished(
    db: &mut Connection,
    may_take: impl Fn(&str) -> bool,
) -> Result<Vec<PurchaseRecord>, Fault> {
    let tx = db.transaction()?;
    let owners: Vec<String> = tx
        .prepare_cached(UNFINISHED_OWNERS)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for owner in owners.iter().filter(|owner| may_take(owner)) {
        let mut select = tx.prepare_cached(record!(
            "WHERE p.owner = ?1 AND p.status IN ('open', 'undelivered')"
        ))?;
        for stored in select.query_map([owner], Stored::read)? {
            found.push(stored?);
        }
    }
    found.sort_by_key(|it| it.seq);
    Ok(found.into_iter().map(|it| it.record).collect())
}

/// The providers that were sent a sealed request, as hex.
pub(in crate::ledger) fn sealing_providers(db: &Connection) -> Result<Vec<String>, Fault> {
    let mut select = db.prepare_cached("SELECT provider FROM sealing_providers")?;
    let found = select.query_map([], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(in crate::ledger) fn find(db: &Connection, prefix: &str) -> Result<PurchaseRecord, Fault> {
    let wanted = prefix.trim().to_ascii_lowercase();
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(LedgerError::NotFound(prefix.to_owned()).into());
    }
    // Every id that begins so is below the prefix and one letter more than any digit.
    let mut select = db.prepare_cached(record!(
        "WHERE p.id >= ?1 AND p.id < ?1 || 'g' ORDER BY p.id LIMIT 2"
    ))?;
    let mut found = select.query_map([&wanted], Stored::read)?;
    match (found.next().transpose()?, found.next().transpose()?) {
        (Some(only), None) => Ok(only.record),
        (None, _) => Err(LedgerError::NotFound(prefix.to_owned()).into()),
        (Some(_), Some(_)) => Err(LedgerError::Ambiguous(prefix.to_owned()).into()),
    }
}

pub(in crate::ledger) fn by_key(
    db: &Connection,
    key: &str,
) -> Result<Option<PurchaseRecord>, Fault> {
    let found = db
        .prepare_cached(record!(
            "WHERE p.seq = (SELECT purchase FROM idempotency_keys WHERE key = ?1)"
        ))?
        .query_row([key], Stored::read)
        .optional()?;
    Ok(found.map(|it| it.record))
}

pub(in crate::ledger) fn history(
    db: &Connection,
    query: HistoryQuery,
) -> Result<Vec<PurchaseRecord>, Fault> {
    let mut select = db.prepare_cached(record!(
        "WHERE ?1 IS NULL OR (p.network = ?1 AND p.play_money = ?2) ORDER BY p.seq DESC LIMIT ?3"
    ))?;
    let rows = select.query_map(
        params![
            query.scope.map(|scope| scope.network.as_str()),
            query.scope.map(|scope| scope.play_money),
            query.limit.min(MOST_ROWS)
        ],
        Stored::read,
    )?;
    rows.map(|row| Ok(row?.record)).collect()
}

/// The next purchases after this one, oldest first.
pub(in crate::ledger) fn books(
    db: &Connection,
    scope: Option<Scope>,
    after: u64,
    most: u32,
) -> Result<Vec<Booked>, Fault> {
    let mut select = db.prepare_cached(record!(
        "WHERE p.seq > ?1 AND (?2 IS NULL OR (p.network = ?2 AND p.play_money = ?3))
         ORDER BY p.seq LIMIT ?4"
    ))?;
    let rows = select.query_map(
        params![
            after.min(i64::MAX.unsigned_abs()),
            scope.map(|scope| scope.network.as_str()),
            scope.map(|scope| scope.play_money),
            most
        ],
        Stored::read,
    )?;
    rows.map(|row| {
        let Stored { seq, record } = row?;
        Ok(Booked {
            receipt: receipt::latest_of(db, seq)?,
            seq: seq.unsigned_abs(),
            record,
        })
    })
    .collect()
}

pub(in crate::ledger) fn log(db: &Connection, id: PurchaseId) -> Result<Vec<LogLine>, Fault> {
    let Stored { seq, .. } = required(db, id)?;
    let mut select = db.prepare_cached(
        "SELECT at, what, amount_msat, note FROM log WHERE purchase = ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = select.query_map(params![seq, MOST_ROWS], |row| {
        Ok(LogLine {
            at: UnixSecs::new(row.get(0)?),
            what: row.get(1)?,
            amount_msat: row.get::<_, Option<u64>>(2)?.map(Msat::new),
            note: row.get(3)?,
        })
    })?;
    rows.map(|row| Ok(row?)).collect()
}

/// What counts against the limits, as of ledger time.
pub(in crate::ledger) fn usage_now(
    db: &mut Connection,
    clock: &Clock,
    scope: Scope,
    tick: Option<&str>,
) -> Result<Usage, Fault> {
    let tx = db.transaction()?;
    let now = ledger_time(&tx, clock)?;
    usage(&tx, scope, tick, now)
}

pub(super) fn usage(
    db: &Connection,
    scope: Scope,
    tick: Option<&str>,
    now: UnixSecs,
) -> Result<Usage, Fault> {
    let (network, play) = (scope.network.as_str(), scope.play_money);
    let mut usage = Usage {
        spent_today: db
            .prepare_cached(SPENT_SINCE)?
            .query_row(params![network, play, now.utc_day()], both_halves)?,
        ..Usage::default()
    };
    if let Some(tick) = tick {
        usage.tick_spent = db
            .prepare_cached(SPENT_IN_TICK)?
            .query_row(params![network, play, tick], both_halves)?;
    }
    let mut open = db.prepare_cached(OPEN_IN_SCOPE)?;
    let mut rows = open.query(params![network, play, tick])?;
    while let Some(row) = rows.next()? {
        let amount = Msat::new(row.get(0)?).saturating_add(Msat::new(row.get(1)?));
        let (unknown, same_tick) = (row.get(2)?, row.get(3)?);
        add(&mut usage.reserved, amount, true);
        add(&mut usage.unknown, amount, unknown);
        add(&mut usage.tick_reserved, amount, same_tick);
        add(&mut usage.tick_unknown, amount, same_tick && unknown);
    }
    Ok(usage)
}

fn add(total: &mut Msat, amount: Msat, counts: bool) {
    if counts {
        *total = total.saturating_add(amount);
    }
}

fn both_halves(row: &Row<'_>) -> rusqlite::Result<Msat> {
    let (high, low): (u64, u64) = (row.get(0)?, row.get(1)?);
    let exact = (u128::from(high) << 32) + u128::from(low);
    Ok(Msat::new(u64::try_from(exact).unwrap_or(u64::MAX)))
}

pub(super) fn open_on_wallet(db: &Connection, wallet: &WalletId) -> Result<Msat, Fault> {
    let mut select = db.prepare_cached(OPEN_ON_WALLET)?;
    let mut rows = select.query([&wallet.kind, &wallet.account])?;
    let mut total = Msat::ZERO;
    while let Some(row) = rows.next()? {
        total = total
            .saturating_add(Msat::new(row.get(0)?))
            .saturating_add(Msat::new(row.get(1)?));
    }
    Ok(total)
}

pub(in crate::ledger) fn settlements(db: &Connection, wallet: &WalletId) -> Result<u64, Fault> {
    let count = db
        .prepare_cached("SELECT settlements FROM wallets WHERE kind = ?1 AND account = ?2")?
        .query_row([&wallet.kind, &wallet.account], |row| row.get(0))
        .optional()?;
    Ok(count.unwrap_or(0))
}

pub(in crate::ledger) fn hash_used(db: &Connection, hash: PaymentHash) -> Result<bool, Fault> {
    Ok(db
        .prepare_cached("SELECT 1 FROM reservations WHERE payment_hash = ?1")?
        .exists([hash.to_string()])?)
}

/// The number of the latest line of the log. It only grows.
pub(in crate::ledger) fn written(db: &Connection) -> Result<u64, Fault> {
    Ok(db
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM log")?
        .query_row([], |row| row.get(0))?)
}

/// Now, but never earlier than the ledger has been.
pub(in crate::ledger) fn ledger_time(db: &Connection, clock: &Clock) -> Result<UnixSecs, Fault> {
    Ok(clamp_time(clock.now()).max(stored_time(db)?))
}

pub(super) fn stored_time(db: &Connection) -> Result<UnixSecs, Fault> {
    let secs = db
        .prepare_cached("SELECT secs FROM ledger_time")?
        .query_row([], |row| row.get(0))?;
    Ok(UnixSecs::new(secs))
}

/// SQLite's integers have 63 bits for what is not negative.
pub(super) fn clamp_time(at: UnixSecs) -> UnixSecs {
    at.min(UnixSecs::new(i64::MAX.unsigned_abs()))
}

/// A purchase and its row number.
pub(super) struct Stored {
    pub(super) seq: i64,
    pub(super) record: PurchaseRecord,
}

pub(super) fn stored(db: &Connection, id: PurchaseId) -> Result<Option<Stored>, Fault> {
    Ok(db
        .prepare_cached(record!("WHERE p.id = ?1"))?
        .query_row([id.to_string()], Stored::read)
        .optional()?)
}

pub(super) fn required(db: &Connection, id: PurchaseId) -> Result<Stored, Fault> {
    stored(db, id)?.ok_or_else(|| LedgerError::NotFound(id.to_string()).into())
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let scope = Scope {
            network: parsed::<Network>(row, 2)?,
            play_money: row.get(3)?,
        };
        let state = StateRow {
            status: word(row, 6, Status::from_word)?,
            label: row.get(11)?,
            json: row.get(12)?,
        };
        let reservation = match row.get_ref(13)?.data_type() {
            Type::Null => None,
            _ => Some(read_reservation(row)?),
        };
        Ok(Self {
            seq: row.get(0)?,
            record: PurchaseRecord {
                id: parsed(row, 1)?,
                scope,
                tick: row.get(4)?,
                idempotency_key: row.get(5)?,
                state,
                version: row.get(7)?,
                owner: row.get(8)?,
                created_at: UnixSecs::new(row.get(9)?),
                updated_at: UnixSecs::new(row.get(10)?),
                reservation,
            },
        })
    }
}

fn read_reservation(row: &Row<'_>) -> rusqlite::Result<Reservation> {
    Ok(Reservation {
        status: word(row, 13, ReservationStatus::from_word)?,
        price: Msat::new(row.get(14)?),
        fee_cap: Msat::new(row.get(15)?),
        payment_hash: parsed(row, 16)?,
        wallet: WalletId {
            kind: row.get(17)?,
            account: row.get(18)?,
        },
        spent: row.get::<_, Option<u64>>(19)?.map(Msat::new),
        fee: row.get::<_, Option<u64>>(20)?.map(Msat::new),
    })
}

/// A column that was written by the type's `Display`.
pub(super) fn parsed<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    word(row, column, |text| text.parse().ok())
}

pub(super) fn word<T>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    read(text).ok_or_else(|| {
        let strange = Box::new(FromSqlError::InvalidType);
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, strange)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A ledger of years must answer as fast as a new one.
    #[test]
    fn nothing_on_the_way_to_a_payment_reads_a_whole_table() {
        for sql in [
            SPENT_SINCE,
            SPENT_IN_TICK,
            OPEN_IN_SCOPE,
            OPEN_ON_WALLET,
            UNFINISHED_OWNERS,
            record!("WHERE p.id = ?1"),
            record!("WHERE p.owner = ?1 AND p.status IN ('open', 'undelivered')"),
        ] {
            let steps = super::super::plan(sql).unwrap();
            for step in &steps {
                assert!(step.contains(" USING "), "{sql}\n{steps:#?}");
            }
        }
    }
}

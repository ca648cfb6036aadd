//! The ledger's SQL, which blocks. What changes something runs inside a [`Write`], several of them perhaps in the
//! same; every other function is one transaction on one connection.

mod checkup;
mod fault;
mod read;
mod receipt;
mod record;

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, DatabaseName, OpenFlags, OptionalExtension, Transaction, TransactionBehavior,
    params,
};

pub(super) use self::checkup::check_up;
pub(super) use self::fault::Fault;
use self::read::{
    Stored, clamp_time, open_on_wallet, parsed, required, stored, stored_time, usage,
};
pub(super) use self::read::{
    books, by_key, find, hash_used, history, ledger_time, log, purchase, sealing_providers,
    settlements, unfinished, usage_now, written,
};
pub(super) use self::receipt::{receipts_after, receipts_of};
pub(super) use self::record::records;
use super::budget::{self, WalletView};
use super::{
    Entry, LedgerError, NewPurchase, Opened, PurchaseRecord, RefusedBy, Reservation,
    ReservationStatus, Reserve, StateRow, Status, diagram, schema,
};
use crate::clock::Clock;
use crate::crash::{self, Point};
use crate::ids::{PurchaseId, WalletId};
use crate::look;
use crate::units::{Msat, UnixSecs};

/// How long one process waits while others write. Each of them needs about a millisecond.
const BUSY: Duration = Duration::from_secs(10);
/// How long until it asks again: a lock in a file wakes nobody. SQLite's own waiting backs off to 100
/// times this, and then the patient lose to the newcomers.
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// Every statement there is stays prepared.
const STATEMENTS: usize = 52;

/// Opens the file, which must exist, and brings it up to date.
pub(super) fn connect(file: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags)?;
    // SQLite is content with reading, and would make a log that nobody may write to either.
    if db.is_readonly(DatabaseName::Main)? {
        return Err(Fault::read_only());
    }
    db.busy_handler(Some(wait_for_others))?;
    // Many processes may meet at a new file. To switch it to WAL takes it whole for a moment, and for
    // that SQLite does not wait by itself.
    let begun = Instant::now();
    loop {
        match prepare(&mut db) {
            Err(fault) if fault.is_busy() && begun.elapsed() < BUSY => {
                std::thread::sleep(ASK_AGAIN)
            }
            Err(fault) => return Err(fault),
            Ok(()) => return Ok(db),
        }
    }
}

/// Opens the file for reading, whether or not it may be written. What this program can't bring up to date it
/// does not read.
pub(super) fn connect_to_read(file: &Path) -> Result<Connection, Fault> {
    let cannot_write = match connect(file) {
        Err(fault) if fault.is_full() || fault.is_read_only() => fault,
        done => return done,
    };
    match look::open(file) {
        Ok(db) if schema::version(&db).is_ok_and(|version| version == schema::LATEST) => Ok(db),
        _ => Err(cannot_write),
    }
}

/// SQLite calls this when another process has the lock, with how often it did already.
fn wait_for_others(times: i32) -> bool {
    let waited = ASK_AGAIN.saturating_mul(times.unsigned_abs());
    if waited < BUSY {
        std::thread::sleep(ASK_AGAIN);
    }
    waited < BUSY
}

/// An empty ledger that is nowhere, for reading where there is none yet.
pub(super) fn connect_to_nothing() -> Result<Connection, Fault> {
    let mut db = Connection::open_in_memory()?;
    schema::migrate(&mut db)?;
    Ok(db)
}

/// How SQLite would answer a query on an empty ledger.
#[cfg(test)]
fn plan(sql: &str) -> Result<Vec<String>, Fault> {
    let db = connect_to_nothing()?;
    let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let parameters = vec![1; plan.parameter_count()];
    let steps = plan.query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))?;
    Ok(steps.collect::<Result<_, _>>()?)
}

fn prepare(db: &mut Connection) -> Result<(), Fault> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // With FULL a commit is on the disk when it returns (fullfsync: on macOS too); one fsync each.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;
         PRAGMA foreign_keys = ON;",
    )?;
    schema::migrate(db)
}

/// One transaction of changes: it has the file to itself, and knows what time it is.
pub(super) struct Write<'db> {
    tx: Transaction<'db>,
    now: UnixSecs,
    moved_on: bool,
    /// Rows that this connection had changed before.
    before: i64,
}

impl<'db> Write<'db> {
    pub(super) fn begin(db: &'db mut Connection, clock: &Clock) -> Result<Self, Fault> {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let latest = stored_time(&tx)?;
        let now = clamp_time(clock.now()).max(latest);
        Ok(Self {
            now,
            moved_on: now > latest,
            before: rows_changed(&tx)?,
            tx,
        })
    }

    /// Makes one of several changes. If it says that it does not stand, nothing of it is left.
    pub(super) fn one_of_several(
        &self,
        change: impl FnOnce() -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let run = |sql: &str| self.tx.prepare_cached(sql)?.execute([]);
        run("SAVEPOINT change")?;
        if !change()? {
            run("ROLLBACK TO change")?;
        }
        run("RELEASE change")?;
        Ok(())
    }

    /// Makes it all durable, and the time with it. Where nothing changed, nothing is written.
    pub(super) fn end(self) -> Result<(), Fault> {
        if rows_changed(&self.tx)? == self.before {
            return Ok(());
        }
        if self.moved_on {
            self.tx
                .prepare_cached("UPDATE ledger_time SET secs = ?1")?
                .execute([self.now.get()])?;
        }
        crash::before(Point::LedgerCommit);
        self.tx.commit()?;
        crash::after(Point::LedgerCommit);
        Ok(())
    }

    fn log(
        &self,
        purchase: i64,
        what: &str,
        amount: Option<Msat>,
        note: Option<&str>,
    ) -> Result<(), Fault> {
        self.tx
            .prepare_cached(
                "INSERT INTO log (purchase, at, what, amount_msat, note) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                purchase,
                self.now.get(),
                what,
                amount.map(|it| it.min(Msat::MAX).get()),
                note
            ])?;
        Ok(())
    }

    /// Whether this reservation may be made now.
    fn authorise(&self, purchase: &Stored, ask: &Reserve) -> Result<(), Fault> {
        if hash_used(&self.tx, ask.payment_hash)? {
            return Err(LedgerError::HashUsed(ask.payment_hash).into());
        }
        if ask.seen.is_none() && !ask.limits.floor.is_zero() {
            return Err(LedgerError::Illegal(
                "reserve above a floor without having seen the balance".to_owned(),
            )
            .into());
        }
        let seen = ask.seen.filter(|_| !ask.limits.floor.is_zero());
        let view = match seen {
            None => None,
            Some(seen) => Some(WalletView {
                balance: seen.balance,
                reserved: open_on_wallet(&self.tx, &ask.wallet)?,
            }),
        };
        let record = &purchase.record;
        let usage = usage(&self.tx, record.scope, record.tick.as_deref(), self.now)?;
        let asked = ask.price.saturating_add(ask.fee_cap);
        let verdict = budget::check(&ask.limits, &usage, view, asked);
        // A balance that is out of date decides nothing, neither way.
        let another_limit = matches!(verdict, Err(refusal) if refusal.by != RefusedBy::Floor);
        if let Some(seen) = seen.filter(|_| !another_limit)
            && seen.settlements != settlements(&self.tx, &ask.wallet)?
        {
            return Err(LedgerError::StaleBalance.into());
        }
        verdict.map_err(|refusal| LedgerError::Refused(refusal).into())
    }

    fn put_reservation(&self, purchase: &Stored, it: &Reservation) -> Result<(), Fault> {
        let closed_at = (!it.status.is_open()).then_some(self.now.get());
        let (spent, fee) = (it.spent.map(Msat::get), it.fee.map(Msat::get));
        if purchase.record.reservation.is_some() {
            self.tx
                .prepare_cached(
                    "UPDATE reservations SET status = ?2, spent_msat = ?3, fee_msat = ?4,
                     closed_at = ?5 WHERE purchase = ?1",
                )?
                .execute(params![
                    purchase.seq,
                    it.status.as_str(),
                    spent,
                    fee,
                    closed_at
                ])?;
            return Ok(());
        }
        let PurchaseRecord { scope, tick, .. } = &purchase.record;
        self.tx
            .prepare_cached(
                "INSERT INTO reservations (purchase, network, play_money, tick, status, price_msat,
                 fee_cap_msat, payment_hash, wallet_kind, wallet_account, spent_msat, fee_msat,
                 closed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                purchase.seq,
                scope.network.as_str(),
                scope.play_money,
                tick,
                it.status.as_str(),
                it.price.get(),
                it.fee_cap.get(),
                it.payment_hash.to_string(),
                it.wallet.kind,
                it.wallet.account,
                spent,
                fee,
                closed_at
            ])?;
        Ok(())
    }

    fn count_settlement(&self, wallet: &WalletId) -> Result<(), Fault> {
        self.tx
            .prepare_cached(
                "INSERT INTO wallets (kind, account, settlements) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET settlements = settlements + 1",
            )?
            .execute([&wallet.kind, &wallet.account])?;
        Ok(())
    }
}

/// How many rows this connection has changed since it was opened.
fn rows_changed(db: &Connection) -> Result<i64, Fault> {
    let mut count = db.prepare_cached("SELECT total_changes()")?;
    Ok(count.query_row([], |row| row.get(0))?)
}

/// Puts a purchase on record, or finds the one that its key names.
pub(super) fn open_purchase(
    write: &Write<'_>,
    owner: &str,
    new: &NewPurchase,
) -> Result<Opened, Fault> {
    if let Some(wanted) = &new.idempotency {
        let known = write
            .tx
            .prepare_cached(
                "SELECT k.fingerprint, p.id FROM idempotency_keys k
                 JOIN purchases p ON p.seq = k.purchase WHERE k.key = ?1",
            )?
            .query_row([&wanted.key], |row| {
                Ok((row.get::<_, String>(0)?, parsed::<PurchaseId>(row, 1)?))
            })
            .optional()?;
        if let Some((fingerprint, id)) = known {
            if fingerprint != wanted.fingerprint {
                return Err(LedgerError::KeyConflict(id).into());
            }
            let purchase = required(&write.tx, id)?;
            if purchase.record.state.status != Status::Failed {
                return Ok(Opened::Existing(purchase.record));
            }
        }
    }
    if stored(&write.tx, new.id)?.is_some() {
        return Err(LedgerError::Illegal(format!("purchase {} exists", new.id)).into());
    }
    let seq = insert_purchase(write, owner, new)?;
    if let Some(named) = &new.idempotency {
        write
            .tx
            .prepare_cached(
                "INSERT INTO idempotency_keys (key, fingerprint, purchase) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET purchase = excluded.purchase",
            )?
            .execute(params![named.key, named.fingerprint, seq])?;
    }
    write.log(seq, "opened", None, Some(&new.state.label))?;
    let record = PurchaseRecord {
        id: new.id,
        scope: new.scope,
        tick: new.tick.clone(),
        idempotency_key: new.idempotency.as_ref().map(|it| it.key.clone()),
        state: new.state.clone(),
        version: 1,
        owner: owner.to_owned(),
        created_at: write.now,
        updated_at: write.now,
        reservation: None,
    };
    Ok(Opened::New(record))
}

/// Remembers that this provider was sent a sealed request.
pub(super) fn remember_sealing(write: &Write<'_>, provider: &str) -> Result<(), Fault> {
    write
        .tx
        .prepare_cached("INSERT OR IGNORE INTO sealing_providers (provider) VALUES (?1)")?
        .execute([provider])?;
    Ok(())
}

fn insert_purchase(write: &Write<'_>, owner: &str, new: &NewPurchase) -> Result<i64, Fault> {
    write
        .tx
        .prepare_cached(
            "INSERT INTO purchases (id, network, play_money, tick, idempotency_key, status, version,
             owner, created_at, updated_at, label, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?8, ?9, ?10)",
        )?
        .execute(params![
            new.id.to_string(),
            new.scope.network.as_str(),
            new.scope.play_money,
            new.tick,
            new.idempotency.as_ref().map(|it| &it.key),
            new.state.status.as_str(),
            owner,
            write.now.get(),
            new.state.label,
            new.state.json,
        ])?;
    Ok(write.tx.last_insert_rowid())
}

/// Applies `entries` in order and writes `state`, all or nothing, if the purchase is `owner`'s and
/// still at version `expected`.
pub(super) fn commit(
    write: &Write<'_>,
    owner: &str,
    (id, expected): (PurchaseId, u64),
    state: &StateRow,
    entries: &[Entry],
) -> Result<u64, Fault> {
    let purchase = required(&write.tx, id)?;
    let record = &purchase.record;
    if record.owner != owner || record.version != expected {
        return Err(LedgerError::Conflict(id).into());
    }
    let mut money = record.reservation.clone();
    let mut receipt_due = None;
    for entry in entries {
        if let Entry::Observe(seen) = entry {
            record::observe(write, &purchase, seen)?;
            continue;
        }
        if let Entry::Receipt(draft) = entry {
            receipt_due = Some(draft);
            continue;
        }
        let step = diagram::step(money.as_ref(), entry)?;
        if let Entry::Reserve(ask) = entry {
            if record.state.status != Status::Open {
                let word = record.state.status.as_str();
                return Err(LedgerError::Illegal(format!("reserve when {word}")).into());
            }
            write.authorise(&purchase, ask)?;
        }
        if let (Entry::Settle { .. } | Entry::Release { .. }, Some(it)) = (entry, &step.after) {
            write.count_settlement(&it.wallet)?;
        }
        write.log(purchase.seq, step.what, step.amount, step.note.as_deref())?;
        money = step.after;
    }
    agree(record.state.status, state.status, money.as_ref())?;
    if let Some(it) = &money
        && money != record.reservation
    {
        write.put_reservation(&purchase, it)?;
    }
    if let Some(draft) = receipt_due {
        receipt::write(write, &purchase, draft)?;
    }
    if state.label != record.state.label {
        write.log(purchase.seq, "state", None, Some(&state.label))?;
    }
    let version = record.version + 1;
    write
        .tx
        .prepare_cached(
            "UPDATE purchases SET status = ?2, label = ?3, state = ?4, version = ?5, updated_at = ?6
             WHERE seq = ?1",
        )?
        .execute(params![
            purchase.seq,
            state.status.as_str(),
            state.label,
            state.json,
            version,
            write.now.get()
        ])?;
    Ok(version)
}

/// What a purchase says of itself must fit its money. One that is over must leave no money open behind
/// it, where no recovery would look; nor may it say that nothing was paid when something was; nor begin
/// again, for its idempotency key may stand for another by then.
fn agree(before: Status, after: Status, money: Option<&Reservation>) -> Result<(), LedgerError> {
    if after == Status::Open && matches!(before, Status::Delivered | Status::Failed) {
        return Err(LedgerError::Illegal(format!(
            "open again when {}",
            before.as_str()
        )));
    }
    let Some(money) = money else { return Ok(()) };
    let contradicts = match after {
        Status::Open | Status::Undelivered => false,
        Status::Delivered => money.status.is_open(),
        Status::Failed => money.status != ReservationStatus::Released,
    };
    if contradicts {
        return Err(LedgerError::Illegal(format!(
            "{} when its money is {}",
            after.as_str(),
            money.status.as_str()
        )));
    }
    Ok(())
}

/// Takes over a purchase whose owner `is_dead`.
pub(super) fn adopt(
    write: &Write<'_>,
    owner: &str,
    (id, expected): (PurchaseId, u64),
    is_dead: impl Fn(&str) -> bool,
) -> Result<PurchaseRecord, Fault> {
    let Stored { seq, mut record } = required(&write.tx, id)?;
    if record.version != expected {
        return Err(LedgerError::Conflict(id).into());
    }
    if record.owner == owner {
        return Ok(record);
    }
    // The dead stay dead, so asking inside the transaction is asking for good.
    if !is_dead(&record.owner) {
        return Err(LedgerError::Conflict(id).into());
    }
    record.owner = owner.to_owned();
    record.version += 1;
    record.updated_at = write.now;
    write
        .tx
        .prepare_cached(
            "UPDATE purchases SET owner = ?2, version = ?3, updated_at = ?4 WHERE seq = ?1",
        )?
        .execute(params![seq, owner, record.version, write.now.get()])?;
    write.log(seq, "adopted", None, Some("its process is gone"))?;
    Ok(record)
}

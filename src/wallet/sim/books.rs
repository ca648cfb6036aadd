//! The bank's books: the SQL of every move of play money.
//!
//! Money is in an account's balance, held (it has left the payer and not reached the payee), or with the
//! bank as a fee. Each function here runs within one transaction and moves it between these, so that
//!
//! ```text
//!   everything ever funded = all balances + everything held + all fees
//! ```
//!
//! holds before and after, to the millisatoshi.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::bank::Problem;
use crate::ids::{PaymentHash, Preimage};
use crate::units::{Msat, Network, UnixSecs};
use crate::wallet::invoice::{Parsed, SECS_PER_BLOCK};
use crate::wallet::{
    Direction, FailureProof, Incoming, IssuedInvoice, Movement, MovementState, Outgoing, PayRequest,
};

/// The tables. A payment that was refused leaves no row: it never was.
pub(super) const SCHEMA: &str = "
CREATE TABLE bank (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id TEXT NOT NULL,
    fees_msat INTEGER NOT NULL DEFAULT 0 CHECK (fees_msat >= 0)
) STRICT;
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    pubkey TEXT NOT NULL,
    network TEXT NOT NULL,
    node_key BLOB NOT NULL,
    balance_msat INTEGER NOT NULL CHECK (balance_msat >= 0),
    funded_msat INTEGER NOT NULL CHECK (funded_msat >= 0),
    UNIQUE (pubkey, network)
) STRICT;
CREATE TABLE invoice (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    payee INTEGER NOT NULL REFERENCES account (id),
    bolt11 TEXT NOT NULL,
    amount_msat INTEGER NOT NULL CHECK (amount_msat > 0),
    expires_at INTEGER NOT NULL,
    hold INTEGER NOT NULL CHECK (hold IN (0, 1)),
    preimage BLOB CHECK (length(preimage) = 32),
    state TEXT NOT NULL CHECK (state IN ('open', 'held', 'settled', 'cancelled'))
) STRICT;
CREATE TABLE payment (
    payer INTEGER NOT NULL REFERENCES account (id),
    payment_hash BLOB NOT NULL REFERENCES invoice (payment_hash),
    amount_msat INTEGER NOT NULL CHECK (amount_msat > 0),
    fee_msat INTEGER NOT NULL CHECK (fee_msat >= 0),
    state TEXT NOT NULL CHECK (state IN ('held', 'paid', 'returned')),
    hold_deadline INTEGER,
    reason TEXT,
    PRIMARY KEY (payer, payment_hash)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_payer_per_invoice ON payment (payment_hash) WHERE state <> 'returned';
CREATE INDEX held_until ON payment (hold_deadline) WHERE state = 'held';
";

/// What a new account has: 100,000 play sats.
pub(super) const OPENING_BALANCE: Msat = Msat::from_sats_saturating(100_000);

/// An account as a wallet knows it.
pub(super) struct Account {
    pub(super) id: i64,
    pub(super) node_key: [u8; 32],
}

/// What became of an attempt to pay.
pub(super) enum Attempt {
    /// It is on record, now or since an earlier attempt.
    Recorded(Outgoing),
    /// Nothing moved, and this attempt will move nothing.
    Refused(FailureProof),
}

/// An invoice to be put on record.
pub(super) struct NewInvoice<'a> {
    pub(super) payment_hash: PaymentHash,
    pub(super) payee: i64,
    pub(super) bolt11: &'a str,
    pub(super) amount: Msat,
    pub(super) expires_at: UnixSecs,
    /// `None`: a hold invoice, whose preimage the payer has.
    pub(super) preimage: Option<Preimage>,
}

/// Gives the bank its name.
pub(super) fn found(books: &Connection) -> Result<(), Problem> {
    let id: [u8; 8] = rand::random();
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    books.execute("INSERT INTO bank (only, id) VALUES (1, ?1)", [id])?;
    Ok(())
}

pub(super) fn bank_id(books: &Connection) -> Result<String, Problem> {
    Ok(books.query_row("SELECT id FROM bank", [], |row| row.get(0))?)
}

pub(super) fn account(
    books: &Connection,
    pubkey: &str,
    network: Network,
) -> Result<Option<Account>, Problem> {
    let sql = "SELECT id, node_key FROM account WHERE pubkey = ?1 AND network = ?2";
    let mut query = books.prepare_cached(sql)?;
    let account = query
        .query_row(params![pubkey, network.as_str()], |row| {
            Ok(Account {
                id: row.get(0)?,
                node_key: row.get(1)?,
            })
        })
        .optional()?;
    Ok(account)
}

/// Opens an account with the opening balance, unless another process was quicker.
pub(super) fn open_account(
    books: &Connection,
    pubkey: &str,
    network: Network,
    node_key: &[u8; 32],
) -> Result<(), Problem> {
    books.execute(
        "INSERT INTO account (pubkey, network, node_key, balance_msat, funded_msat)
         VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT DO NOTHING",
        params![pubkey, network.as_str(), node_key, OPENING_BALANCE.get()],
    )?;
    Ok(())
}

pub(super) fn balance(books: &Connection, account: i64) -> Result<Msat, Problem> {
    let mut query = books.prepare_cached("SELECT balance_msat FROM account WHERE id = ?1")?;
    Ok(query.query_row([account], |row| msat(row, 0))?)
}

/// Adds new play money to an account; the sum of all of it stays below all bitcoin there is.
pub(super) fn fund(books: &Connection, account: i64, amount: Msat) -> Result<Msat, Problem> {
    let funded = "SELECT coalesce(sum(funded_msat), 0) FROM account";
    let funded = books.query_row(funded, [], |row| msat(row, 0))?;
    if funded.checked_add(amount).is_none_or(|sum| sum > Msat::MAX) {
        return Err(Problem::refused(
            "that would be more play money than there is bitcoin",
        ));
    }
    books.execute(
        "UPDATE account SET balance_msat = balance_msat + ?2, funded_msat = funded_msat + ?2
         WHERE id = ?1",
        params![account, amount.get()],
    )?;
    balance(books, account)
}

pub(super) fn add_invoice(books: &Connection, invoice: &NewInvoice<'_>) -> Result<(), Problem> {
    let sql = "INSERT INTO invoice
            (payment_hash, payee, bolt11, amount_msat, expires_at, hold, preimage, state)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open') ON CONFLICT DO NOTHING";
    let added = books.prepare_cached(sql)?.execute(params![
        invoice.payment_hash.as_bytes(),
        invoice.payee,
        invoice.bolt11,
        invoice.amount.get(),
        invoice.expires_at.get(),
        invoice.preimage.is_none(),
        invoice.preimage.as_ref().map(Preimage::as_bytes),
    ])?;
    if added == 0 {
        return Err(Problem::refused("this payment hash was used before"));
    }
    Ok(())
}

/// The open hold invoice of this account on this hash.
pub(super) fn open_hold(
    books: &Connection,
    payee: i64,
    hash: PaymentHash,
    now: UnixSecs,
) -> Result<Option<IssuedInvoice>, Problem> {
    let sql = "SELECT bolt11, amount_msat, expires_at FROM invoice
        WHERE payment_hash = ?2 AND payee = ?1 AND hold = 1 AND state = 'open' AND expires_at > ?3";
    let found = books
        .prepare_cached(sql)?
        .query_row(params![payee, hash.as_bytes(), now.get()], |row| {
            Ok(IssuedInvoice {
                bolt11: row.get(0)?,
                payment_hash: hash,
                amount: msat(row, 1)?,
                expires_at: UnixSecs::new(row.get(2)?),
            })
        })
        .optional()?;
    Ok(found)
}

/// Pays from `payer` what it has not paid or tried to pay before: a second row for the same hash is an
/// error.
pub(super) fn pay(
    books: &Connection,
    payer: i64,
    request: &PayRequest,
    invoice: &Parsed,
    fee: Msat,
    now: UnixSecs,
) -> Result<Attempt, Problem> {
    let sql = "SELECT payee, bolt11, expires_at, hold, state FROM invoice WHERE payment_hash = ?1";
    let known = books
        .prepare_cached(sql)?
        .query_row([request.payment_hash.as_bytes()], |row| {
            Ok(Payable {
                payee: row.get(0)?,
                bolt11: row.get(1)?,
                expires_at: UnixSecs::new(row.get(2)?),
                hold: row.get(3)?,
                state: row.get(4)?,
            })
        })
        .optional()?;
    // The whole text must be the one that the payee signed: another invoice on the same hash has
    // other terms, or another payee.
    let Some(known) = known.filter(|known| known.bolt11 == invoice.bolt11) else {
        return Ok(refused(
            "no route: nobody at this play-money bank made this invoice",
        ));
    };
    if let Some(why) = known.objection(payer, now) {
        return Ok(refused(why));
    }
    let Some(total) = request.amount.checked_add(fee) else {
        return Ok(refused("the sum of amount and fee is out of range"));
    };
    if balance(books, payer)? < total {
        return Ok(Attempt::Refused(FailureProof {
            reason: format!("the balance is below the {total} that amount and fee come to"),
            insufficient_funds: true,
        }));
    }
    let hold_deadline = known.hold.then(|| {
        let secs = invoice.min_final_cltv.saturating_mul(SECS_PER_BLOCK);
        now.plus(secs)
    });
    move_payment(books, payer, &known, request, fee, hold_deadline)?;
    outgoing(books, payer, request.payment_hash).map(Attempt::Recorded)
}

fn refused(why: impl Into<String>) -> Attempt {
    Attempt::Refused(FailureProof::new(why))
}

struct Payable {
    payee: i64,
    bolt11: String,
    expires_at: UnixSecs,
    hold: bool,
    state: String,
}

impl Payable {
    /// Why it can't be paid.
    fn objection(&self, payer: i64, now: UnixSecs) -> Option<&'static str> {
        match self.state.as_str() {
            _ if self.payee == payer => Some("an account can't pay its own invoice"),
            "held" | "settled" => Some("the invoice has been paid by somebody else"),
            "cancelled" => Some("the payee has cancelled the invoice"),
            _ if now >= self.expires_at => Some("the invoice has expired"),
            _ => None,
        }
    }
}

/// The money leaves the payer, and reaches the payee at once unless it is held.
fn move_payment(
    books: &Connection,
    payer: i64,
    invoice: &Payable,
    request: &PayRequest,
    fee: Msat,
    hold_deadline: Option<UnixSecs>,
) -> Result<(), Problem> {
    let (amount, hash) = (request.amount.get(), request.payment_hash.as_bytes());
    let (sent, received) = match hold_deadline {
        Some(_) => ("held", "held"),
        None => ("paid", "settled"),
    };
    books
        .prepare_cached("UPDATE account SET balance_msat = balance_msat - ?2 WHERE id = ?1")?
        .execute(params![payer, amount + fee.get()])?;
    books
        .prepare_cached(
            "INSERT INTO payment (payer, payment_hash, amount_msat, fee_msat, state, hold_deadline)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            payer,
            hash,
            amount,
            fee.get(),
            sent,
            hold_deadline.map(UnixSecs::get)
        ])?;
    set_invoice_state(books, request.payment_hash, received)?;
    if hold_deadline.is_none() {
        credit(books, invoice.payee, request.amount, fee)?;
    }
    Ok(())
}

/// Money that was on its way arrives: the amount at the payee, the fee at the bank.
fn credit(books: &Connection, payee: i64, amount: Msat, fee: Msat) -> Result<(), Problem> {
    books
        .prepare_cached("UPDATE account SET balance_msat = balance_msat + ?2 WHERE id = ?1")?
        .execute(params![payee, amount.get()])?;
    if !fee.is_zero() {
        books.execute("UPDATE bank SET fees_msat = fees_msat + ?1", [fee.get()])?;
    }
    Ok(())
}

fn set_invoice_state(books: &Connection, hash: PaymentHash, state: &str) -> Result<(), Problem> {
    books
        .prepare_cached("UPDATE invoice SET state = ?2 WHERE payment_hash = ?1")?
        .execute(params![hash.as_bytes(), state])?;
    Ok(())
}

/// What became of a payment of this account.
pub(super) fn outgoing(
    books: &Connection,
    payer: i64,
    hash: PaymentHash,
) -> Result<Outgoing, Problem> {
    let sql = "SELECT payment.state, fee_msat, preimage, reason
        FROM payment JOIN invoice USING (payment_hash)
        WHERE payer = ?1 AND payment_hash = ?2";
    let found = books
        .prepare_cached(sql)?
        .query_row(params![payer, hash.as_bytes()], |row| {
            Ok(match row.get_ref(0)?.as_str()? {
                "paid" => Outgoing::Paid {
                    preimage: row.get::<_, Option<[u8; 32]>>(2)?.map(Preimage::from_bytes),
                    fee: msat(row, 1)?,
                },
                "held" => Outgoing::InFlight,
                _ => Outgoing::Failed(FailureProof::new(row.get::<_, String>(3)?)),
            })
        })
        .optional()?;
    Ok(found.unwrap_or(Outgoing::NotFound))
}

/// What became of an invoice of this account.
/// What an account was paid and has paid, by the text of the invoice. In the order in which the invoices expire,
/// the last first; the tables have no other time.
pub(super) fn movements(
    books: &Connection,
    account: i64,
    now: UnixSecs,
    limit: usize,
) -> Result<Vec<(String, Movement)>, Problem> {
    let sql = "SELECT bolt11, payment_hash, amount_msat, expires_at, 1, state, NULL
            FROM invoice WHERE payee = ?1
        UNION ALL
        SELECT bolt11, payment_hash, payment.amount_msat, expires_at, 0, payment.state, fee_msat
            FROM payment JOIN invoice USING (payment_hash) WHERE payer = ?1
        ORDER BY 4 DESC LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = books.prepare_cached(sql)?;
    let found = query.query_map(params![account, limit], |row| {
        let is_over = now >= UnixSecs::new(row.get(3)?);
        let movement = Movement {
            direction: if row.get(4)? {
                Direction::Incoming
            } else {
                Direction::Outgoing
            },
            state: match row.get_ref(5)?.as_str()? {
                "settled" | "paid" => MovementState::Settled,
                "held" => MovementState::Pending,
                "open" if !is_over => MovementState::Pending,
                _ => MovementState::Failed,
            },
            amount_msat: msat(row, 2)?,
            fee_msat: match row.get_ref(6)? {
                rusqlite::types::ValueRef::Null => None,
                _ => Some(msat(row, 6)?),
            },
            payment_hash: Some(PaymentHash::from_bytes(row.get(1)?)),
            created_at: None,
            description: None,
        };
        Ok((row.get(0)?, movement))
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(super) fn incoming(
    books: &Connection,
    payee: i64,
    hash: PaymentHash,
    now: UnixSecs,
) -> Result<Incoming, Problem> {
    let sql = "SELECT invoice.state, expires_at, hold_deadline
        FROM invoice LEFT JOIN payment
            ON payment.payment_hash = invoice.payment_hash AND payment.state = 'held'
        WHERE invoice.payment_hash = ?2 AND payee = ?1";
    let found = books
        .prepare_cached(sql)?
        .query_row(params![payee, hash.as_bytes()], |row| {
            Ok(match row.get_ref(0)?.as_str()? {
                "held" => Incoming::Held {
                    deadline: UnixSecs::new(row.get(2)?),
                },
                "settled" => Incoming::Settled,
                "cancelled" => Incoming::Cancelled,
                _ if now >= UnixSecs::new(row.get(1)?) => Incoming::Expired,
                _ => Incoming::Open,
            })
        })
        .optional()?;
    Ok(found.unwrap_or(Incoming::NotFound))
}

/// A held payment, as its payee sees it.
struct Held {
    payer: i64,
    amount: Msat,
    fee: Msat,
}

fn held(books: &Connection, hash: PaymentHash) -> Result<Held, Problem> {
    let sql = "SELECT payer, amount_msat, fee_msat FROM payment
        WHERE payment_hash = ?1 AND state = 'held'";
    let mut query = books.prepare_cached(sql)?;
    Ok(query.query_row([hash.as_bytes()], |row| {
        Ok(Held {
            payer: row.get(0)?,
            amount: msat(row, 1)?,
            fee: msat(row, 2)?,
        })
    })?)
}

/// The held money reaches its payee.
pub(super) fn settle(
    books: &Connection,
    payee: i64,
    preimage: &Preimage,
    now: UnixSecs,
) -> Result<(), Problem> {
    let hash = preimage.payment_hash();
    match incoming(books, payee, hash, now)? {
        Incoming::Settled => return Ok(()),
        Incoming::Held { .. } => {}
        Incoming::Cancelled => {
            return Err(Problem::refused(
                "the payment was cancelled, or its deadline has passed: the payer has the money",
            ));
        }
        Incoming::Open | Incoming::Expired | Incoming::NotFound => {
            return Err(Problem::refused(
                "nothing is held under this preimage's hash",
            ));
        }
    }
    let held = held(books, hash)?;
    books.execute(
        "UPDATE payment SET state = 'paid' WHERE payment_hash = ?1 AND state = 'held'",
        [hash.as_bytes()],
    )?;
    books.execute(
        "UPDATE invoice SET preimage = ?2 WHERE payment_hash = ?1",
        params![hash.as_bytes(), preimage.as_bytes()],
    )?;
    set_invoice_state(books, hash, "settled")?;
    credit(books, payee, held.amount, held.fee)
}

/// The held money goes back to its payer, or the open invoice is closed.
pub(super) fn cancel(
    books: &Connection,
    payee: i64,
    hash: PaymentHash,
    now: UnixSecs,
) -> Result<(), Problem> {
    match incoming(books, payee, hash, now)? {
        Incoming::Held { .. } => give_back(books, hash, "the payee cancelled the payment"),
        Incoming::Open => set_invoice_state(books, hash, "cancelled"),
        Incoming::Cancelled | Incoming::Expired => Ok(()),
        Incoming::Settled => Err(Problem::refused(
            "the invoice is settled: the money is here",
        )),
        Incoming::NotFound => Err(Problem::refused("there is no such invoice")),
    }
}

fn give_back(books: &Connection, hash: PaymentHash, reason: &str) -> Result<(), Problem> {
    let held = held(books, hash)?;
    books.execute(
        "UPDATE payment SET state = 'returned', reason = ?2
         WHERE payment_hash = ?1 AND state = 'held'",
        params![hash.as_bytes(), reason],
    )?;
    books.execute(
        "UPDATE account SET balance_msat = balance_msat + ?2 + ?3 WHERE id = ?1",
        params![held.payer, held.amount.get(), held.fee.get()],
    )?;
    set_invoice_state(books, hash, "cancelled")
}

pub(super) fn any_overdue(books: &Connection, now: UnixSecs) -> Result<bool, Problem> {
    let sql = "SELECT EXISTS (SELECT 1 FROM payment WHERE state = 'held' AND hold_deadline <= ?1)";
    let mut query = books.prepare_cached(sql)?;
    Ok(query.query_row([now.get()], |row| row.get(0))?)
}

/// Gives back every held payment whose deadline has passed.
pub(super) fn return_overdue(books: &Connection, now: UnixSecs) -> Result<(), Problem> {
    let sql = "SELECT payment_hash FROM payment WHERE state = 'held' AND hold_deadline <= ?1";
    let mut query = books.prepare_cached(sql)?;
    let overdue: Vec<[u8; 32]> = query
        .query_map([now.get()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for hash in overdue {
        let hash = PaymentHash::from_bytes(hash);
        give_back(
            books,
            hash,
            "the hold's deadline passed before it was settled",
        )?;
    }
    Ok(())
}

fn msat(row: &Row<'_>, column: usize) -> Result<Msat, rusqlite::Error> {
    row.get(column).map(Msat::new)
}

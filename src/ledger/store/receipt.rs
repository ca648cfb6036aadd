//! Receipts: one row each, numbered per customer, never changed.

use nostr::EventId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Write;
use super::fault::Fault;
use super::read::{Stored, parsed};
use crate::ids::PurchaseId;
use crate::ledger::{LedgerError, ReceiptDraft, ReceiptPlace, ReceiptRecord};
use crate::units::UnixSecs;

const LATEST_OF_CUSTOMER: &str =
    "SELECT number, id FROM receipts WHERE customer = ?1 ORDER BY number DESC LIMIT 1";

const LATEST_OF_PURCHASE: &str =
    "SELECT id FROM receipts WHERE purchase = ?1 ORDER BY seq DESC LIMIT 1";

const PAID_AT: &str =
    "SELECT closed_at FROM reservations WHERE purchase = ?1 AND status = 'settled'";

const OF_PURCHASE: &str = "SELECT r.seq, p.id, r.id, r.json FROM receipts r
     JOIN purchases p ON p.seq = r.purchase WHERE p.id = ?1 ORDER BY r.seq";

const AFTER: &str = "SELECT r.seq, p.id, r.id, r.json FROM receipts r
     JOIN purchases p ON p.seq = r.purchase WHERE r.seq > ?1 ORDER BY r.seq LIMIT ?2";

/// Gives the receipt its place, has it signed, and puts it on record. The money of the purchase is booked
/// before, in the same transaction.
pub(super) fn write(
    write: &Write<'_>,
    purchase: &Stored,
    draft: &ReceiptDraft,
) -> Result<(), Fault> {
    let customer = draft.customer.to_hex();
    let latest = write
        .tx
        .prepare_cached(LATEST_OF_CUSTOMER)?
        .query_row([&customer], |row| Ok((row.get::<_, u64>(0)?, id(row, 1)?)))
        .optional()?;
    let replaces = latest_of(&write.tx, purchase.seq)?;
    let paid_at: Option<u64> = write
        .tx
        .prepare_cached(PAID_AT)?
        .query_row([purchase.seq], |row| row.get(0))
        .optional()?;
    let place = ReceiptPlace {
        number: latest.map_or(1, |(number, _)| number + 1),
        previous: latest.map(|(_, id)| id),
        replaces,
        scope: purchase.record.scope,
        requested_at: purchase.record.created_at,
        paid_at: paid_at.map(UnixSecs::new),
        finished_at: write.now,
    };
    let receipt = (draft.sign)(&place)
        .map_err(|why| LedgerError::Illegal(format!("a receipt that can't be signed: {why}")))?;
    write
        .tx
        .prepare_cached(
            "INSERT INTO receipts (purchase, customer, number, id, json) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            purchase.seq,
            customer,
            place.number,
            receipt.id.to_hex(),
            receipt.json
        ])?;
    Ok(())
}

/// The receipt of a purchase that holds.
pub(super) fn latest_of(db: &Connection, purchase: i64) -> Result<Option<EventId>, Fault> {
    Ok(db
        .prepare_cached(LATEST_OF_PURCHASE)?
        .query_row([purchase], |row| id(row, 0))
        .optional()?)
}

/// The receipts of one purchase, the one that holds last.
pub(in crate::ledger) fn receipts_of(
    db: &Connection,
    purchase: PurchaseId,
) -> Result<Vec<ReceiptRecord>, Fault> {
    let mut select = db.prepare_cached(OF_PURCHASE)?;
    let rows = select.query_map([purchase.to_string()], record)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The next receipts after this one, in the order they were written in.
pub(in crate::ledger) fn receipts_after(
    db: &Connection,
    seq: u64,
    most: u32,
) -> Result<Vec<ReceiptRecord>, Fault> {
    let mut select = db.prepare_cached(AFTER)?;
    let rows = select.query_map(params![seq.min(i64::MAX.unsigned_abs()), most], record)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn record(row: &Row<'_>) -> rusqlite::Result<ReceiptRecord> {
    Ok(ReceiptRecord {
        seq: row.get(0)?,
        purchase: parsed(row, 1)?,
        id: id(row, 2)?,
        json: row.get(3)?,
    })
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<EventId> {
    parsed(row, column)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_receipt_is_found_by_reading_a_whole_table() {
        for sql in [
            LATEST_OF_CUSTOMER,
            LATEST_OF_PURCHASE,
            PAID_AT,
            OF_PURCHASE,
            AFTER,
        ] {
            let steps = super::super::plan(sql).unwrap();
            assert!(
                steps.iter().all(|step| step.starts_with("SEARCH")),
                "{sql}\n{steps:#?}"
            );
        }
    }
}

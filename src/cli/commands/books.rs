//! `history --export`: all purchases, oldest first, for the owner's books.

use serde::Serialize;

use super::history::when;
use super::record::Entry;
use crate::cli::customer::Export;
use crate::cli::output::Output;
use crate::error::{Code, Error, Result};
use crate::ledger::{Ledger, Scope};

/// Purchases that are in memory at once, results and all.
const PAGE: u32 = 200;

/// The first line of the CSV. A column that is here stays, and what is added comes after it.
const COLUMNS: [&str; 19] = [
    "created_at",
    "updated_at",
    "purchase_id",
    "state",
    "network",
    "play_money",
    "provider",
    "model",
    "job_id",
    "tick",
    "idempotency_key",
    "price_msat",
    "fee_msat",
    "paid_msat",
    "reserved_msat",
    "payment_hash",
    "wallet",
    "receipt_id",
    "kind",
];

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    receipt_id: Option<String>,
}

/// Writes the books of this budget, or of all, on stdout.
///
/// # Errors
/// If the ledger can't be read, or one purchase in it can't: books with a hole in them are none.
pub(super) async fn export(
    ledger: Option<&Ledger>,
    scope: Option<Scope>,
    form: Export,
    out: &Output,
) -> Result<()> {
    if form == Export::Csv {
        out.raw(&csv_line(COLUMNS)?);
    }
    let Some(ledger) = ledger else {
        return Ok(());
    };
    let mut after = 0;
    loop {
        let page = ledger.books(scope, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.seq;
        for booked in &page {
            let entry = Entry::of(&booked.record)?;
            let receipt_id = booked.receipt.map(|id| id.to_hex());
            match form {
                Export::Csv => out.raw(&csv_line(cells(&entry, receipt_id))?),
                Export::Json => out.raw(&json_line(&Line {
                    entry: &entry,
                    receipt_id,
                })?),
            }
        }
    }
}

fn json_line(line: &Line<'_>) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Versioned<'a> {
        v: u8,
        #[serde(flatten)]
        line: &'a Line<'a>,
    }
    let mut bytes = serde_json::to_vec(&Versioned { v: 1, line }).map_err(|error| bug(&error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn cells(entry: &Entry, receipt_id: Option<String>) -> [String; COLUMNS.len()] {
    let msat = |amount: crate::units::Msat| amount.get().to_string();
    let text = |text: &Option<String>| text.as_deref().map(harmless).unwrap_or_default();
    [
        when(entry.created_at),
        when(entry.updated_at),
        entry.purchase_id.to_string(),
        entry.state.clone(),
        entry.network.as_str().to_owned(),
        entry.play_money.to_string(),
        entry.provider.clone().unwrap_or_default(),
        text(&entry.model),
        entry
            .job_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        text(&entry.tick),
        text(&entry.idempotency_key),
        entry.price_msat.map(msat).unwrap_or_default(),
        msat(entry.fee_msat),
        msat(entry.paid_msat),
        msat(entry.reserved_msat),
        entry
            .payment_hash
            .map(|hash| hash.to_string())
            .unwrap_or_default(),
        text(&entry.wallet),
        receipt_id.unwrap_or_default(),
        entry.kind.as_str().to_owned(),
    ]
}

/// Text that a spreadsheet does not take for a formula, whoever wrote it, and that a terminal does not obey.
fn harmless(text: &str) -> String {
    let text = crate::cli::text::clean(text);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text
    }
}

fn csv_line<T: AsRef<[u8]>>(cells: impl IntoIterator<Item = T>) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| bug(&error))?;
    writer.into_inner().map_err(|error| bug(&error))
}

fn bug(error: &dyn std::fmt::Display) -> Error {
    Error::new(
        Code::Internal,
        format!("the books can't be written: {error}"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_stranger_wrote_is_no_formula_and_stays_one_cell() {
        for formula in ["=1+1", "+1", "-1", "@sum", "\t=1"] {
            let harmless = harmless(formula);
            assert!(
                !harmless.starts_with(['=', '+', '-', '@', '\t']),
                "{formula}"
            );
        }
        assert_eq!(harmless("llama3"), "llama3");
        let line = csv_line(["a,b", "say \"x\"", "two\nlines", ""]).unwrap();
        assert_eq!(line, b"\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\r\n");
    }
}

//! `receipt`: what purchases came to, signed; and whether somebody's receipts hold.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::path::Path;

use nostr::{Event, JsonUtil as _, PublicKey};
use serde::Serialize;

use super::history::when;
use super::record::open_books;
use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::cli::text::entry as as_entry;
use crate::error::{Code, Error, Result};
use crate::ids::PurchaseId;
use crate::ledger::{Ledger, PurchaseRecord, Status};
use crate::purchase::kept::Kept;
use crate::purchase::receipt::verify::{Problem, Row, Verified, verify as verify_one};
use crate::purchase::receipt::{MAX_BYTES, Outcome, ResultDigest, Statement};
use crate::units::{Msat, Network};

/// Receipts that are in memory at once.
const PAGE: u32 = 500;

/// The longest line that is read: a receipt, and what `show --json` says around it.
const MAX_LINE_BYTES: usize = 4 * MAX_BYTES;

/// The longest result that is compared.
const MAX_RESULT_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Serialize)]
struct Shown<'a> {
    receipt: &'a Event,
    statement: &'a Statement,
}

/// Shows the receipt of one purchase.
///
/// # Errors
/// If there is none, it does not hold, or the ledger can't be read.
pub async fn show(settings: Settings, purchase: &str, out: &Output) -> Result<()> {
    let ledger = the_books(&settings).await?;
    let record = ledger.find(purchase).await?;
    let receipts = ledger.receipts_of(record.id).await?;
    let Some(receipt) = receipts.last() else {
        return Err(none(&record));
    };
    let receipt = verify_one(&receipt.json).map_err(|problem| damaged(record.id, &problem))?;
    out.object(&Shown {
        receipt: &receipt.event,
        statement: &receipt.statement,
    });
    if !out.is_json() {
        print(&receipt, out);
    }
    Ok(())
}

fn none(record: &PurchaseRecord) -> Error {
    let id = record.id;
    if let Ok(Kept::Payment(_)) = Kept::from_row(&record.state) {
        let why = "its invoice and its preimage, which `show` prints, are the proof of it";
        let message = format!("payment {id} was made by hand and has no receipt: {why}");
        return Error::new(Code::Usage, message).of(id);
    }
    let why = match record.state.status {
        Status::Open => "it is not over: see `agent-customer recover`",
        Status::Failed => "nothing was paid for it, and nothing came",
        Status::Delivered | Status::Undelivered => {
            "it ended before receipts were kept, its money is locked still, or it was recovered under another key"
        }
    };
    Error::new(Code::Usage, format!("purchase {id} has no receipt: {why}")).of(id)
}

fn damaged(id: PurchaseId, problem: &Problem) -> Error {
    let message = format!("the receipt of purchase {id} in the ledger does not hold: {problem}");
    Error::new(Code::BadReceipt, message)
}

fn print(receipt: &Verified, out: &Output) {
    let it = &receipt.statement;
    let play = if it.play_money { ", play money" } else { "" };
    out.line(&format!("receipt   {}", receipt.event.id.to_hex()));
    out.line(&format!("number    {}", it.number));
    if let Some(replaces) = it.replaces {
        out.line(&format!("replaces  {}", replaces.to_hex()));
    }
    out.line(&format!("customer  {}", receipt.customer().to_hex()));
    out.line(&format!("purchase  {}", it.purchase_id));
    out.line(&format!("outcome   {}", it.outcome.as_str()));
    out.line(&format!("provider  {}", it.provider.to_hex()));
    out.line(&format!(
        "request   {} ({})",
        it.request.to_hex(),
        it.job_id
    ));
    if let Some(model) = &it.model {
        out.line(&as_entry(&format!("model     {model}")));
    }
    let offered = it.listing.price_msat.map(|price| format!("up to {price}"));
    let listing = it.listing.event.map(|event| event.to_hex());
    if offered.is_some() || listing.is_some() {
        let words = [offered, listing].into_iter().flatten().collect::<Vec<_>>();
        out.line(&format!("offer     {}", words.join(", ")));
    }
    out.line(&format!("network   {}{play}", it.network.as_str()));
    match &it.payment {
        None => out.line("payment   none"),
        Some(payment) => {
            out.line(&format!(
                "payment   {} (price {}, fee {})",
                payment.paid_msat, payment.price_msat, payment.fee_msat
            ));
            out.line(&format!("hash      {}", payment.payment_hash));
            if let Some(preimage) = &payment.preimage {
                out.line(&format!("preimage  {}", preimage.reveal()));
            }
            let proof = payment.note.as_deref();
            let proof = proof.unwrap_or("the preimage proves that the invoice was paid");
            out.line(&as_entry(&format!("proof     {proof}")));
            out.line(&as_entry(&format!("invoice   {}", payment.bolt11)));
        }
    }
    if let Some(result) = &it.result {
        out.line(&format!(
            "result    sha256 {}, {} bytes",
            result.sha256, result.bytes
        ));
    }
    out.line(&format!("asked     {}", when(it.requested_at)));
    if let Some(paid_at) = it.paid_at {
        out.line(&format!("paid      {}", when(paid_at)));
    }
    out.line(&format!("ended     {}", when(it.finished_at)));
}

/// Writes all receipts out, one signed event a line.
///
/// # Errors
/// If the ledger can't be read, or the file can't be made.
pub async fn export(settings: Settings, output: Option<&Path>, out: &Output) -> Result<()> {
    let ledger = open_books(&settings).await?;
    let mut file = output.map(new_file).transpose()?;
    let mut after = 0;
    let mut written = 0u64;
    while let Some(ledger) = &ledger {
        let page = ledger.receipts_after(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        for receipt in &page {
            let line = format!("{}\n", receipt.json);
            match &mut file {
                None => out.raw(line.as_bytes()),
                Some(file) => file.write_all(line.as_bytes()).map_err(not_written)?,
            }
            written += 1;
        }
    }
    if let Some(file) = file {
        file.sync_all().map_err(not_written)?;
    }
    let s = if written == 1 { "" } else { "s" };
    out.note(&format!("{written} receipt{s}"));
    Ok(())
}

async fn the_books(settings: &Settings) -> Result<Ledger> {
    open_books(settings).await?.ok_or_else(|| {
        let nothing = "no receipts: nothing was ever bought from this home";
        Error::new(Code::Usage, nothing)
    })
}

/// A file for this user alone: receipts say what somebody bought, and when.
fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| {
        let message = format!("{} can't be made: {error}", path.display());
        Error::new(Code::Usage, message)
    })
}

fn not_written(error: io::Error) -> Error {
    Error::new(
        Code::Usage,
        format!("the receipts can't be written: {error}"),
    )
}

/// A receipt that holds, on a line of its own.
#[derive(Serialize)]
struct Holds {
    receipt_id: String,
    customer: String,
    number: u64,
    purchase_id: PurchaseId,
    outcome: Outcome,
    provider: String,
    network: Network,
    play_money: bool,
    paid_msat: Msat,
    proves_payment: bool,
}

/// What the row came to.
#[derive(Serialize)]
struct Total {
    receipts: u64,
    begins_at: u64,
}

/// Checks the receipts in a file.
///
/// # Errors
/// [`Code::BadReceipt`] with the first thing that is wrong; [`Code::Usage`] if a file can't be read.
pub fn verify(
    file: &Path,
    customer: Option<PublicKey>,
    result: Option<&Path>,
    out: &Output,
) -> Result<()> {
    let mut row = Row::of(customer);
    let mut last = None;
    let mut receipts = 0;
    for_each_receipt(file, |place, json| {
        let receipt = row
            .take(json)
            .map_err(|problem| Error::new(Code::BadReceipt, format!("{place}: {problem}")))?;
        holds(&receipt, out);
        receipts += 1;
        last = Some(receipt);
        Ok(())
    })?;
    let (Some(last), Some(begins_at)) = (last, row.begins_at()) else {
        return Err(Error::new(Code::BadReceipt, "there is no receipt in it"));
    };
    if let Some(path) = result {
        if receipts != 1 {
            let message = "--result is for one receipt, and there are more";
            return Err(Error::new(Code::Usage, message));
        }
        is_result(&last.statement, path)?;
        out.line("the result is the one that the receipt is of");
    }
    out.object(&Total {
        receipts,
        begins_at,
    });
    let count = if receipts == 1 {
        "the receipt holds".to_owned()
    } else {
        format!("all {receipts} receipts hold, in one unbroken row")
    };
    let before = if begins_at > 1 {
        format!("; what came before number {begins_at} is not in it")
    } else {
        String::new()
    };
    out.line(&format!("{count}{before}"));
    Ok(())
}

fn holds(receipt: &Verified, out: &Output) {
    let it = &receipt.statement;
    let payment = it.payment.as_ref();
    let line = Holds {
        receipt_id: receipt.event.id.to_hex(),
        customer: receipt.customer().to_hex(),
        number: it.number,
        purchase_id: it.purchase_id,
        outcome: it.outcome,
        provider: it.provider.to_hex(),
        network: it.network,
        play_money: it.play_money,
        paid_msat: payment.map_or(Msat::ZERO, |payment| payment.paid_msat),
        proves_payment: payment.is_some_and(|payment| payment.proves_payment),
    };
    out.object(&line);
    let play = if it.play_money { " of play money" } else { "" };
    let proof = match payment {
        None => "nothing to be paid",
        Some(payment) if payment.proves_payment => "the preimage proves the payment",
        Some(_) => "no proof of payment",
    };
    out.line(&format!(
        "{}  number {}  {}  {}  paid {}{play} to {}  ({proof})  signed by {}",
        when(it.finished_at),
        it.number,
        it.purchase_id,
        it.outcome.as_str(),
        line.paid_msat,
        line.provider.get(..16).unwrap_or_default(),
        line.customer,
    ));
}

/// Whether the text in this file is the result. The newline that stdout ends with need not be part of it.
fn is_result(it: &Statement, path: &Path) -> Result<()> {
    let mut text = Vec::new();
    let file = open(path)?.take(MAX_RESULT_BYTES);
    io::copy(&mut { file }, &mut text).map_err(|error| not_read(path, &error))?;
    let Some(digest) = &it.result else {
        return Err(Error::new(Code::BadReceipt, "the receipt is of no result"));
    };
    let without_newline = text.strip_suffix(b"\n").unwrap_or(&text);
    if ResultDigest::of(&text) != *digest && ResultDigest::of(without_newline) != *digest {
        let message = format!(
            "the text in {} is not the result of the receipt",
            path.display()
        );
        return Err(Error::new(Code::BadReceipt, message));
    }
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn io::Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| not_read(path, &error))?;
    Ok(Box::new(file))
}

fn not_read(path: &Path, error: &io::Error) -> Error {
    Error::new(
        Code::Usage,
        format!("{} can't be read: {error}", path.display()),
    )
}

/// Reads a file of receipts: one a line, or a single one on several lines.
fn for_each_receipt(path: &Path, mut take: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(open(path)?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let most = MAX_LINE_BYTES as u64 + 1;
        let read = reader.by_ref().take(most).read_until(b'\n', &mut line);
        if read.map_err(|error| not_read(path, &error))? == 0 {
            return Ok(());
        }
        // One that somebody has laid out for reading.
        if number == 1 && line.trim_ascii() == b"{" {
            let rest = reader.by_ref().take(most).read_to_end(&mut line);
            rest.map_err(|error| not_read(path, &error))?;
        }
        let place = format!("line {number}");
        if line.len() > MAX_LINE_BYTES {
            let problem = Problem::TooLong(line.len());
            return Err(Error::new(Code::BadReceipt, format!("{place}: {problem}")));
        }
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            take(&place, &bare(&text))?;
        }
    }
    Ok(())
}

/// The event itself, where `show --json` put it into an object.
fn bare(line: &str) -> String {
    let shown = serde_json::from_str::<serde_json::Value>(line);
    let event = shown.ok().and_then(|mut shown| {
        let event = shown.get_mut("receipt")?.take();
        Event::from_json(event.to_string())
            .ok()
            .map(|event| event.as_json())
    });
    event.unwrap_or_else(|| line.trim().to_owned())
}

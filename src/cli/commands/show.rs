//! `show`: one purchase, its money, its history and its result.

use serde::Serialize;

use super::history::when;
use super::record::{Entry, open_books, read, reason, reason_of_payment};
use crate::cli::output::Output;
use crate::cli::settings::Settings;
use crate::cli::text::entry as as_entry;
use crate::error::{Code, Error, Result};
use crate::ledger::{Ledger, LogLine, PurchaseRecord};
use crate::purchase::kept::Kept;
use crate::purchase::payment::{Payment, Phase};
use crate::purchase::state::State;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    entry: Entry,
    reason: Option<String>,
    /// Whether the money was locked first: then the preimage is the buyer's own.
    escrow: bool,
    /// The node that a payment by hand pays, in hex.
    payee: Option<String>,
    /// What its invoice says that it is for: a stranger's words.
    description: Option<String>,
    bolt11: Option<String>,
    preimage: Option<String>,
    text: Option<String>,
    receipt_id: Option<String>,
    log: Vec<LogLine>,
}

/// Shows one purchase.
///
/// # Errors
/// If there is none with this id, or the ledger can't be read.
pub async fn run(settings: Settings, purchase: &str, out: &Output) -> Result<()> {
    let Some(ledger) = open_books(&settings).await? else {
        let message = format!("no purchase {purchase}: nothing was ever bought from this home");
        return Err(Error::new(Code::Usage, message));
    };
    let record = ledger.find(purchase).await?;
    let shown = match read(&record)? {
        Kept::Purchase(state) => Shown::purchase(&record, &state, &ledger).await?,
        Kept::Payment(payment) => Shown::payment(&record, *payment, &ledger).await?,
    };
    out.object(&shown);
    if !out.is_json() {
        print(&shown, out);
    }
    Ok(())
}

impl Shown {
    async fn purchase(record: &PurchaseRecord, state: &State, ledger: &Ledger) -> Result<Self> {
        // In an escrow that is not settled yet, too: what was let go is no secret any more.
        let receipt = state.receipt();
        let receipts = ledger.receipts_of(record.id).await?;
        Ok(Self {
            entry: Entry::of_purchase(record, state),
            reason: reason(&state.phase).map(str::to_owned),
            escrow: state.terms.pay_by.is_escrow(),
            payee: None,
            description: None,
            bolt11: state.phase.bolt11().map(str::to_owned),
            preimage: state
                .phase
                .settled()
                .and_then(|settled| settled.preimage)
                .map(|preimage| preimage.reveal())
                .or_else(|| receipt.as_ref()?.preimage.clone()),
            text: receipt.map(|receipt| receipt.text),
            receipt_id: receipts.last().map(|receipt| receipt.id.to_hex()),
            log: ledger.log(record.id).await?,
        })
    }

    async fn payment(record: &PurchaseRecord, payment: Payment, ledger: &Ledger) -> Result<Self> {
        let preimage = match &payment.phase {
            Phase::Settled { preimage, .. } => preimage.map(|preimage| preimage.reveal()),
            _ => None,
        };
        Ok(Self {
            entry: Entry::of_payment(record, &payment),
            reason: reason_of_payment(&payment.phase).map(str::to_owned),
            escrow: false,
            payee: Some(payment.payment.payee),
            description: Some(payment.payment.description),
            bolt11: Some(payment.payment.bolt11),
            preimage,
            text: None,
            receipt_id: None,
            log: ledger.log(record.id).await?,
        })
    }
}

fn print(shown: &Shown, out: &Output) {
    let Shown { entry, .. } = shown;
    let play = if entry.play_money { ", play money" } else { "" };
    out.line(&format!("{:<9} {}", entry.kind.as_str(), entry.purchase_id));
    out.line(&format!("state     {}", entry.state));
    if let Some(provider) = &entry.provider {
        out.line(&format!("provider  {provider}"));
    }
    if let Some(payee) = &shown.payee {
        out.line(&format!("payee     {payee}"));
    }
    if let Some(words) = shown.description.as_ref().filter(|words| !words.is_empty()) {
        out.line(&as_entry(&format!("for       {words}")));
    }
    if let Some(model) = &entry.model {
        out.line(&as_entry(&format!("model     {model}")));
    }
    if let Some(job) = &entry.job_id {
        out.line(&format!("job       {job}"));
    }
    out.line(&format!("network   {}{play}", entry.network));
    if let Some(tick) = &entry.tick {
        out.line(&format!("tick      {tick}"));
    }
    out.line(&format!(
        "money     paid {} (fee {}), reserved {}",
        entry.paid_msat, entry.fee_msat, entry.reserved_msat
    ));
    if let Some(hash) = &entry.payment_hash {
        out.line(&format!("hash      {hash}"));
    }
    if let Some(bolt11) = &shown.bolt11 {
        out.line(&format!("invoice   {bolt11}"));
    }
    if let Some(preimage) = &shown.preimage {
        let whose = if shown.escrow {
            " (made by the buyer for the escrow: no proof of payment)"
        } else {
            ""
        };
        out.line(&format!("preimage  {preimage}{whose}"));
    }
    if let Some(id) = &shown.receipt_id {
        out.line(&format!("receipt   {id}"));
    }
    if let Some(reason) = &shown.reason {
        out.line(&as_entry(&format!("reason    {reason}")));
    }
    for line in &shown.log {
        let amount = line
            .amount_msat
            .map(|amount| format!(" {amount}"))
            .unwrap_or_default();
        let note = line
            .note
            .as_ref()
            .map(|note| format!(" ({note})"))
            .unwrap_or_default();
        let line = format!("{}  {}{amount}{note}", when(line.at), line.what);
        out.line(&as_entry(&line));
    }
    if let Some(text) = &shown.text {
        out.line("");
        out.line(text);
    }
}

//! Whether a receipt, or a row of them, holds. Pure: what is needed is in the receipt itself.
//!
//! What is checked, in this order, so that the first thing that is wrong is the one that is named: its form,
//! its id (nothing was changed since it was signed), its signature, then what it says: the job, the
//! invoice, the preimage, the sums, the result, the times; last its place among those before it.

use std::collections::HashMap;

use nostr::{Event, EventId, Kind, PublicKey};
use serde::Deserialize;

use super::{KIND_RECEIPT, MAX_BYTES, Outcome, Payment, Statement, VERSION};
use crate::ids::{JobId, PurchaseId};
use crate::units::{Msat, UnixSecs};
use crate::wallet::invoice::{self, InvoiceProblem};

/// A receipt that holds by itself.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The signed event.
    pub event: Event,
    /// What it says.
    pub statement: Statement,
}

impl Verified {
    /// The key that signed it.
    #[must_use]
    pub const fn customer(&self) -> PublicKey {
        self.event.pubkey
    }
}

/// The first thing that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing of ours is so long.
    #[error("it is too long for a receipt: {0} bytes, of {MAX_BYTES} at most")]
    TooLong(usize),
    /// No event, or not the whole of one.
    #[error("it is no signed event (NIP-01) in JSON: {0}")]
    NotAnEvent(String),
    /// Another kind of event.
    #[error("it is an event of kind {0}, and a receipt is of kind {KIND_RECEIPT}")]
    OtherKind(u16),
    /// The id is not the hash.
    #[error("its id is not the hash of what it says: something in it was changed")]
    Altered,
    /// The signature is not the key's.
    #[error(
        "its signature was not made by {0}: something in it was changed, or another key signed it"
    )]
    Signature(PublicKey),
    /// A later form.
    #[error("it is of version {0}, which this program does not know: update it")]
    Newer(u64),
    /// Signed, and no statement.
    #[error("its content is not a receipt's: {0}")]
    Content(String),
    /// Not dated when it says that the purchase ended.
    #[error("it is dated {date}, and says that the purchase ended at {finished_at}")]
    Date {
        /// The event's own.
        date: u64,
        /// What it says.
        finished_at: u64,
    },
    /// The first has none before it, and every other has one.
    #[error("it is number {0}, and {1}")]
    Number(u64, &'static str),
    /// The job is named after the request.
    #[error("the job id {0} does not belong to the request {1}")]
    Job(JobId, EventId),
    /// Delivered and no result, or the other way round.
    #[error("it says {0}, and {1}")]
    Result(&'static str, &'static str),
    /// Not 64 lower-case hex digits.
    #[error("the result's sha256 is no SHA-256 in hex")]
    ResultHash,
    /// Not an invoice that can be paid.
    #[error("its invoice is none: {0}")]
    Invoice(InvoiceProblem),
    /// The invoice says otherwise.
    #[error("its invoice is {what} {invoice}, and the receipt says {receipt}")]
    OtherThanInvoice {
        /// Of what.
        what: &'static str,
        /// In the invoice.
        invoice: String,
        /// In the receipt.
        receipt: String,
    },
    /// The preimage is another's.
    #[error("the preimage is not that of the payment hash: it unlocks another payment")]
    Preimage,
    /// Claims a proof that is none, or hides one.
    #[error("it says that its preimage {0}, and {1}")]
    Proof(&'static str, &'static str),
    /// The parts don't make the whole.
    #[error("it says that {paid} were paid: not the price of {price} and the fee of {fee}")]
    Sum {
        /// Paid.
        paid: Msat,
        /// The price.
        price: Msat,
        /// The fee.
        fee: Msat,
    },
    /// Dearer than the offer it was made on.
    #[error("the price of {price} is above the {listed} of the offer")]
    AboveListing {
        /// The price.
        price: Msat,
        /// The offer's.
        listed: Msat,
    },
    /// The times are in no order.
    #[error("it says that {0}")]
    Times(&'static str),
    /// Others' receipts.
    #[error("it is signed by {found}, not by {wanted}")]
    OtherCustomer {
        /// Who was expected.
        wanted: PublicKey,
        /// Who signed.
        found: PublicKey,
    },
    /// One or more between are not there.
    #[error(
        "it is number {number} and comes after number {last}: what was between them is missing"
    )]
    Missing {
        /// Its number.
        number: u64,
        /// The number before.
        last: u64,
    },
    /// There twice, or in another order.
    #[error("it is number {number} and comes after number {last}: out of place, or there twice")]
    OutOfPlace {
        /// Its number.
        number: u64,
        /// The number before.
        last: u64,
    },
    /// The row was cut and mended with other receipts.
    #[error("the receipt before it is {found}, and it says {said}: one of them was put in later")]
    Broken {
        /// The one before.
        found: EventId,
        /// The one it names.
        said: EventId,
    },
    /// Time does not run backwards.
    #[error("it is dated before the receipt before it")]
    Backwards,
    /// What it replaces is not what it says.
    #[error("it says that it replaces {0}, {1}")]
    Replaces(EventId, &'static str),
    /// A purchase has one receipt that holds.
    #[error(
        "there is an earlier receipt of the same purchase, {0}, and it does not say that it replaces it"
    )]
    Twice(EventId),
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

/// Whether this receipt, an event in JSON, holds by itself.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(json: &str) -> Result<Verified, Problem> {
    if json.len() > MAX_BYTES {
        return Err(Problem::TooLong(json.len()));
    }
    let event: Event =
        serde_json::from_str(json).map_err(|error| Problem::NotAnEvent(error.to_string()))?;
    if event.kind != Kind::from(KIND_RECEIPT) {
        return Err(Problem::OtherKind(event.kind.as_u16()));
    }
    if !event.verify_id() {
        return Err(Problem::Altered);
    }
    if !event.verify_signature() {
        return Err(Problem::Signature(event.pubkey));
    }
    let content = |error: serde_json::Error| Problem::Content(error.to_string());
    let Versioned { v } = serde_json::from_str(&event.content).map_err(content)?;
    if v != u64::from(VERSION) {
        return Err(Problem::Newer(v));
    }
    let statement: Statement = serde_json::from_str(&event.content).map_err(content)?;
    makes_sense(&statement)?;
    let (date, said) = (event.created_at.as_secs(), statement.finished_at.get());
    if date != said {
        return Err(Problem::Date {
            date,
            finished_at: said,
        });
    }
    Ok(Verified { event, statement })
}

fn makes_sense(it: &Statement) -> Result<(), Problem> {
    match (it.number, it.previous) {
        (0, _) => return Err(Problem::Number(0, "the first is number 1")),
        (1, Some(_)) => return Err(Problem::Number(1, "names one before it")),
        (number, None) if number > 1 => {
            return Err(Problem::Number(number, "does not name the one before it"));
        }
        _ => {}
    }
    if it.job_id != JobId::of_request(&it.request) {
        return Err(Problem::Job(it.job_id.clone(), it.request));
    }
    match (it.outcome, &it.result) {
        (Outcome::Delivered, None) => {
            return Err(Problem::Result("delivered", "tells no result"));
        }
        (Outcome::Undelivered, Some(_)) => {
            return Err(Problem::Result("undelivered", "tells a result"));
        }
        _ => {}
    }
    let is_hex = |text: &str| {
        let digits = text.bytes();
        text.len() == 64
            && digits
                .into_iter()
                .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    if it.result.as_ref().is_some_and(|it| !is_hex(&it.sha256)) {
        return Err(Problem::ResultHash);
    }
    if let Some(payment) = &it.payment {
        payment_makes_sense(it, payment)?;
    }
    let paid = it.payment.as_ref().map_or(Msat::ZERO, |it| it.paid_msat);
    match it.paid_at {
        None if !paid.is_zero() => return Err(Problem::Times("something was paid, and not when")),
        Some(_) if paid.is_zero() => return Err(Problem::Times("nothing was paid, and when")),
        Some(at) if at < it.requested_at => {
            return Err(Problem::Times("it was paid before it was asked for"));
        }
        Some(at) if at > it.finished_at => {
            return Err(Problem::Times("it was paid after it had ended"));
        }
        _ => {}
    }
    if it.finished_at < it.requested_at {
        return Err(Problem::Times("it ended before it was asked for"));
    }
    Ok(())
}

fn payment_makes_sense(it: &Statement, payment: &Payment) -> Result<(), Problem> {
    let invoice = invoice::parse_unchecked(&payment.bolt11).map_err(Problem::Invoice)?;
    let other = |what, invoice: String, receipt: String| {
        Err(Problem::OtherThanInvoice {
            what,
            invoice,
            receipt,
        })
    };
    if invoice.network != it.network {
        let (of_invoice, said) = (invoice.network.as_str(), it.network.as_str());
        return other("on the network", of_invoice.to_owned(), said.to_owned());
    }
    if invoice.payment_hash != payment.payment_hash {
        let said = payment.payment_hash.to_string();
        return other(
            "on the payment hash",
            invoice.payment_hash.to_string(),
            said,
        );
    }
    if invoice.amount != Some(payment.price_msat) {
        let amount = invoice
            .amount
            .map_or("any amount".to_owned(), |it| it.to_string());
        return other("for", amount, payment.price_msat.to_string());
    }
    let preimage = payment.preimage.as_ref();
    if preimage.is_some_and(|preimage| preimage.payment_hash() != payment.payment_hash) {
        return Err(Problem::Preimage);
    }
    let no_proof = Payment::why_no_proof(payment.escrow, preimage);
    match (no_proof, payment.proves_payment) {
        (Some(why), true) => return Err(Problem::Proof("proves the payment", why)),
        (None, false) => {
            let proof = "it does: the seller made it, and it is there";
            return Err(Problem::Proof("does not prove the payment", proof));
        }
        _ if no_proof != payment.note.as_deref() => {
            let why = no_proof.unwrap_or("there is nothing to remark on it");
            return Err(Problem::Proof("needs another note than that", why));
        }
        _ => {}
    }
    let (paid, price, fee) = (payment.paid_msat, payment.price_msat, payment.fee_msat);
    let came_back = payment.escrow && paid.is_zero() && fee.is_zero();
    if !came_back && price.checked_add(fee) != Some(paid) {
        return Err(Problem::Sum { paid, price, fee });
    }
    if let Some(listed) = it.listing.price_msat.filter(|listed| price > *listed) {
        return Err(Problem::AboveListing { price, listed });
    }
    Ok(())
}

/// A row of receipts, read from the first on, one after the other.
#[derive(Debug, Default)]
pub struct Row {
    /// `None`: whoever signed.
    customer: Option<PublicKey>,
    chains: HashMap<PublicKey, Chain>,
}

#[derive(Debug)]
struct Chain {
    first: u64,
    last: u64,
    last_id: EventId,
    last_at: UnixSecs,
    /// The receipt of each purchase that holds so far, and whether a later one may replace it.
    standing: HashMap<PurchaseId, (EventId, Outcome)>,
}

impl Row {
    /// A row that must be this customer's, or anybody's.
    #[must_use]
    pub fn of(customer: Option<PublicKey>) -> Self {
        Self {
            customer,
            chains: HashMap::new(),
        }
    }

    /// The number that the row begins with; `None` while it is empty. Several customers' rows may lie in one
    /// file: then the highest, so that 1 says that all are whole from the beginning.
    #[must_use]
    pub fn begins_at(&self) -> Option<u64> {
        self.chains.values().map(|chain| chain.first).max()
    }

    /// Takes the next receipt of the row.
    ///
    /// # Errors
    /// The first thing that is wrong with it, or with its place.
    pub fn take(&mut self, json: &str) -> Result<Verified, Problem> {
        let receipt = verify(json)?;
        let (id, found) = (receipt.event.id, receipt.customer());
        if let Some(wanted) = self.customer.filter(|wanted| *wanted != found) {
            return Err(Problem::OtherCustomer { wanted, found });
        }
        let it = &receipt.statement;
        let Some(chain) = self.chains.get_mut(&found) else {
            // What it replaces may have come before this row began.
            if let Some(replaced) = it.replaces.filter(|_| it.number == 1) {
                return Err(Problem::Replaces(replaced, "and is the first"));
            }
            let standing = HashMap::from([(it.purchase_id, (id, it.outcome))]);
            let chain = Chain {
                first: it.number,
                last: it.number,
                last_id: id,
                last_at: it.finished_at,
                standing,
            };
            self.chains.insert(found, chain);
            return Ok(receipt);
        };
        chain.follows(it)?;
        chain.replaces(it)?;
        chain.last = it.number;
        chain.last_id = id;
        chain.last_at = it.finished_at;
        chain.standing.insert(it.purchase_id, (id, it.outcome));
        Ok(receipt)
    }
}

impl Chain {
    fn follows(&self, it: &Statement) -> Result<(), Problem> {
        let (number, last) = (it.number, self.last);
        if number <= last {
            return Err(Problem::OutOfPlace { number, last });
        }
        if number - last > 1 {
            return Err(Problem::Missing { number, last });
        }
        if let Some(said) = it.previous.filter(|said| *said != self.last_id) {
            return Err(Problem::Broken {
                found: self.last_id,
                said,
            });
        }
        if it.finished_at < self.last_at {
            return Err(Problem::Backwards);
        }
        Ok(())
    }

    fn replaces(&self, it: &Statement) -> Result<(), Problem> {
        match (self.standing.get(&it.purchase_id), it.replaces) {
            (Some((earlier, _)), None) => Err(Problem::Twice(*earlier)),
            (Some((earlier, _)), Some(said)) if *earlier != said => Err(Problem::Replaces(
                said,
                "which is not the latest of this purchase",
            )),
            (Some((_, Outcome::Delivered)), Some(said)) => {
                Err(Problem::Replaces(said, "and nothing undoes a delivery"))
            }
            (None, Some(said)) if self.first == 1 => Err(Problem::Replaces(
                said,
                "and there is no such receipt of this purchase",
            )),
            _ => Ok(()),
        }
    }
}

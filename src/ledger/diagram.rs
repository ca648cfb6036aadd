//! The reservation diagram of the [module](super) as a pure function: which entry may follow which
//! state, and what the log says about it.

use super::{Entry, LedgerError, Reservation, ReservationStatus as Is};
use crate::units::Msat;

/// The longest note that is kept, in bytes. Notes may quote a wallet or a peer.
const NOTE_BYTES: usize = 2_000;

/// What one entry does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The reservation afterwards.
    pub(super) after: Option<Reservation>,
    /// The log's word for it.
    pub(super) what: &'static str,
    /// The amount it is about.
    pub(super) amount: Option<Msat>,
    /// Why, in words.
    pub(super) note: Option<String>,
}

/// Takes one step. Whether the limits allow a [`Entry::Reserve`] is not decided here.
pub(super) fn step(before: Option<&Reservation>, entry: &Entry) -> Result<Step, LedgerError> {
    let status = before.map(|reservation| reservation.status);
    match (entry, before) {
        (Entry::Note(text), _) => Ok(Step {
            after: before.cloned(),
            what: "note",
            amount: None,
            note: Some(clip(text)),
        }),
        (Entry::Reserve(ask), None) => {
            let reservation = Reservation {
                status: Is::Reserved,
                price: ask.price,
                fee_cap: ask.fee_cap,
                payment_hash: ask.payment_hash,
                wallet: ask.wallet.clone(),
                spent: None,
                fee: None,
            };
            Ok(Step {
                what: "reserve",
                amount: Some(reservation.set_aside()),
                note: None,
                after: Some(reservation),
            })
        }
        (Entry::InFlight, Some(it)) if matches!(it.status, Is::Reserved | Is::Unknown) => {
            Ok(moved(it, Is::InFlight, "in_flight", None))
        }
        (Entry::Unknown { reason }, Some(it))
            if matches!(it.status, Is::InFlight | Is::Unknown) =>
        {
            Ok(moved(it, Is::Unknown, "unknown", Some(clip(reason))))
        }
        (Entry::Settle { price, fee }, Some(it)) if it.status != Is::Settled => {
            Ok(settled(it, *price, *fee))
        }
        (Entry::Release { proof }, Some(it)) if it.status.is_open() => {
            if proof.trim().is_empty() {
                return Err(LedgerError::Illegal(
                    "a release needs words that say what proves it".to_owned(),
                ));
            }
            Ok(moved(it, Is::Released, "release", Some(clip(proof))))
        }
        _ => Err(LedgerError::Illegal(format!(
            "{} when {}",
            word(entry),
            status.map_or("nothing is reserved", Is::as_str)
        ))),
    }
}

fn word(entry: &Entry) -> &'static str {
    match entry {
        Entry::Reserve(_) => "reserve",
        Entry::InFlight => "in_flight",
        Entry::Unknown { .. } => "unknown",
        Entry::Settle { .. } => "settle",
        Entry::Release { .. } => "release",
        Entry::Note(_) => "note",
    }
}

fn moved(it: &Reservation, to: Is, what: &'static str, note: Option<String>) -> Step {
    Step {
        after: Some(Reservation {
            status: to,
            ..it.clone()
        }),
        what,
        amount: Some(it.set_aside()),
        note,
    }
}

/// Books what was spent, whatever was set aside. A sum beyond all bitcoin there is can only be a
/// wallet's mistake; it is booked as [`Msat::MAX`], which stops further spending until someone looks.
fn settled(it: &Reservation, price: Msat, fee: Msat) -> Step {
    let spent = price.saturating_add(fee).min(Msat::MAX);
    let mut notes = Vec::new();
    let late = it.status == Is::Released;
    if late {
        notes.push("PAID ALTHOUGH ITS FAILURE WAS PROVEN BEFORE: the money is gone".to_owned());
    }
    let over = spent.saturating_sub(it.set_aside());
    if !over.is_zero() {
        notes.push(format!("{over} more than was set aside"));
    }
    Step {
        after: Some(Reservation {
            status: Is::Settled,
            spent: Some(spent),
            fee: Some(fee.min(spent)),
            ..it.clone()
        }),
        what: if late {
            "settle_after_release"
        } else {
            "settle"
        },
        amount: Some(spent),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

fn clip(text: &str) -> String {
    if text.len() <= NOTE_BYTES {
        return text.to_owned();
    }
    let mut end = NOTE_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

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
        Entry::Observe(_) => "observe",
        Entry::Receipt(_) => "receipt",
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::{PaymentHash, WalletId};
    use crate::ledger::{Limits, Reserve};

    fn reservation(status: Is) -> Reservation {
        let settled = (status == Is::Settled).then_some(Msat::new(100));
        Reservation {
            status,
            price: Msat::new(90),
            fee_cap: Msat::new(20),
            payment_hash: PaymentHash::from_bytes([1; 32]),
            wallet: WalletId {
                kind: "sim".to_owned(),
                account: "a".to_owned(),
            },
            spent: settled,
            fee: settled.map(|_| Msat::new(10)),
        }
    }

    fn entries() -> [Entry; 6] {
        let it = reservation(Is::Reserved);
        [
            Entry::Reserve(Reserve {
                price: it.price,
                fee_cap: it.fee_cap,
                payment_hash: it.payment_hash,
                wallet: it.wallet,
                limits: Limits {
                    daily: Msat::ZERO,
                    per_tick: Msat::ZERO,
                    per_job: Msat::ZERO,
                    floor: Msat::ZERO,
                },
                seen: None,
            }),
            Entry::InFlight,
            Entry::Unknown {
                reason: "?".to_owned(),
            },
            Entry::Settle {
                price: Msat::new(90),
                fee: Msat::new(10),
            },
            Entry::Release {
                proof: "never seen".to_owned(),
            },
            Entry::Note("hm".to_owned()),
        ]
    }

    #[test]
    fn the_diagram_has_these_steps_and_no_others() {
        use Is::{InFlight, Released, Reserved, Settled, Unknown};
        let (never, stays) = (None, |status| Some(Some(status)));
        // From, and then by entry: reserve, in flight, unknown, settle, release, note.
        let diagram = [
            (
                None,
                [stays(Reserved), never, never, never, never, Some(None)],
            ),
            (
                Some(Reserved),
                [
                    never,
                    stays(InFlight),
                    never,
                    stays(Settled),
                    stays(Released),
                    stays(Reserved),
                ],
            ),
            (
                Some(InFlight),
                [
                    never,
                    never,
                    stays(Unknown),
                    stays(Settled),
                    stays(Released),
                    stays(InFlight),
                ],
            ),
            (
                Some(Unknown),
                [
                    never,
                    stays(InFlight),
                    stays(Unknown),
                    stays(Settled),
                    stays(Released),
                    stays(Unknown),
                ],
            ),
            (
                Some(Settled),
                [never, never, never, never, never, stays(Settled)],
            ),
            (
                Some(Released),
                [never, never, never, stays(Settled), never, stays(Released)],
            ),
        ];
        for (from, steps) in diagram {
            let before = from.map(reservation);
            for (entry, expected) in entries().iter().zip(steps) {
                let after = step(before.as_ref(), entry).ok();
                let status = after.map(|it| it.after.map(|it| it.status));
                assert_eq!(status, expected, "{from:?}: {}", word(entry));
            }
        }
    }

    #[test]
    fn a_step_that_is_not_in_the_diagram_is_named_in_the_refusal() {
        let words = [
            "reserve",
            "in_flight",
            "unknown",
            "settle",
            "release",
            "note",
        ];
        for (entry, word) in entries().iter().zip(words) {
            let settled = reservation(Is::Settled);
            if let Err(refused) = step(Some(&settled), entry) {
                let said = format!("not a step the ledger allows: {word} when settled");
                assert_eq!(refused.to_string(), said);
            }
            if let Err(refused) = step(None, entry) {
                let said = format!("not a step the ledger allows: {word} when nothing is reserved");
                assert_eq!(refused.to_string(), said);
            }
        }
    }

    #[test]
    fn a_note_that_quotes_too_much_is_cut_between_characters() {
        // The cut falls on a boundary, or one or two bytes into a character.
        for (before, character) in [("", "é"), ("x", "é"), ("", "€"), ("x", "€"), ("xy", "🦀")]
        {
            let text = format!("{before}{}", character.repeat(NOTE_BYTES));
            let kept = step(None, &Entry::Note(text)).unwrap().note.unwrap();
            let room = NOTE_BYTES - before.len();
            let whole = before.len() + room / character.len() + 1;
            assert_eq!(kept.chars().count(), whole, "{before}{character}");
            assert!(kept.ends_with(&format!("{character}…")));
        }
    }

    #[test]
    fn what_was_spent_and_what_of_it_was_the_fee_is_on_record() {
        let entry = Entry::Settle {
            price: Msat::new(90),
            fee: Msat::new(11),
        };
        let after = step(Some(&reservation(Is::InFlight)), &entry).unwrap();
        let after = after.after.unwrap();
        assert_eq!(
            (after.spent, after.fee),
            (Some(Msat::new(101)), Some(Msat::new(11)))
        );
        // Of an absurd sum, no more is fee than is booked.
        let absurd = Entry::Settle {
            price: Msat::ZERO,
            fee: Msat::new(u64::MAX),
        };
        let after = step(Some(&reservation(Is::InFlight)), &absurd).unwrap();
        let after = after.after.unwrap();
        assert_eq!((after.spent, after.fee), (Some(Msat::MAX), Some(Msat::MAX)));
    }

    #[test]
    fn only_an_overrun_and_a_late_payment_are_remarked_on() {
        let pay = |status, price| {
            let entry = Entry::Settle {
                price: Msat::new(price),
                fee: Msat::new(10),
            };
            let it = step(Some(&reservation(status)), &entry).unwrap();
            (it.what, it.amount.unwrap().get(), it.note)
        };
        assert_eq!(pay(Is::InFlight, 100), ("settle", 110, None));
        let (_, amount, note) = pay(Is::Unknown, 101);
        assert_eq!(
            (amount, note.as_deref()),
            (111, Some("0.001 sats more than was set aside"))
        );
        assert_eq!(pay(Is::Released, 1).0, "settle_after_release");
        assert_eq!(pay(Is::InFlight, u64::MAX).1, Msat::MAX.get());
    }
}

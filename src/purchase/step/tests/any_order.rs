//! Whatever happens, in whatever order: what must hold of the money.

use proptest::prelude::*;

use super::*;
use crate::purchase::points;

/// Anything that can happen, in any order.
fn any_happening() -> impl Strategy<Value = u8> {
    0..24_u8
}

fn make(kind: u8, s: &State) -> Happening {
    let key = PublicKey::from_str(&"ab".repeat(32)).unwrap_or(s.terms.provider);
    match kind {
        0 => says(AgentMessage::Invoice(invoice(s))),
        1 => Happening::Prepared {
            fee_cap: Msat::new(50),
            seen: None,
        },
        2 => paid(),
        3 => doubt(),
        4 => Happening::PayAnswered(PayOutcome::InFlight),
        5 => Happening::PayAnswered(PayOutcome::Failed(FailureProof::new("no"))),
        6 => Happening::LookedUp {
            found: Outgoing::NotFound,
            authoritative: true,
        },
        7 => Happening::LookedUp {
            found: Outgoing::Paid {
                preimage: None,
                fee: Msat::ZERO,
            },
            authoritative: false,
        },
        8 => result(s, "text"),
        9 => piece(s, Some(0), "text", true),
        10 => Happening::NoWholeText,
        11 => Happening::Deadline,
        12 => Happening::Interrupted,
        13 => Happening::HashUsed,
        14 => Happening::Message {
            from: key,
            message: AgentMessage::Invoice(invoice(s)),
        },
        15 => Happening::LookedUp {
            found: Outgoing::InFlight,
            authoritative: false,
        },
        16 => Happening::GiveUpLooking,
        17 => Happening::Resumed,
        18 => Happening::SayAgain,
        19 => result(s, ""),
        20 => says(AgentMessage::JobError(JobError {
            job_id: s.terms.job_id(),
            code: "failed".into(),
            message: "no".into(),
        })),
        21 => Happening::LookedUp {
            found: Outgoing::Failed(FailureProof::new("back")),
            authoritative: true,
        },
        22 => Happening::NoQuote,
        _ => Happening::LookedUp {
            found: Outgoing::Failed(FailureProof::new("no")),
            authoritative: false,
        },
    }
}

proptest! {
    /// Whatever happens in whatever order: the wallet is told to pay at most once, money is set aside
    /// before, settled or released at most once, never both, and a finished purchase stays finished. The
    /// preimage of an escrow leaves only with a complete result on record, and each step ends on record as
    /// the ledger allows it.
    #[test]
    fn money_moves_at_most_once(
        escrow in any::<bool>(),
        paid_for in any::<bool>(),
        kinds in proptest::collection::vec(any_happening(), 0..40),
    ) {
        let mut s = state(if escrow {
            PayBy::Escrow { wallet: wallet(), preimage: preimage() }
        } else {
            PayBy::Invoice(wallet())
        });
        let secret = preimage().reveal();
        // Half of the time it gets as far as the order to pay, where most can go wrong.
        let begun = if paid_for { vec![0, 1] } else { Vec::new() };
        let kinds = begun.into_iter().chain(kinds);
        let mut may_fly = false;
        let (mut reserved, mut pays, mut settled, mut released) = (0, 0, 0, 0);
        for kind in kinds {
            let closed_before = matches!(s.phase, Phase::Delivered { .. } | Phase::Failed { .. });
            let before = s.phase.clone();
            let happening = make(kind, &s);
            let taken = step(&mut s, happening, now());
            for entry in &taken.entries {
                match entry {
                    Booking::Reserve { .. } => {
                        reserved += 1;
                        may_fly = true;
                    }
                    Booking::Plain(Entry::Settle { .. }) => settled += 1,
                    Booking::Plain(Entry::Release { .. }) => released += 1,
                    // As the ledger's diagram has it: in doubt, and out of it again.
                    Booking::Plain(Entry::Unknown { .. }) => may_fly = true,
                    Booking::Plain(Entry::InFlight) => {
                        prop_assert!(may_fly);
                        may_fly = false;
                    }
                    Booking::Plain(Entry::Note(_) | Entry::Observe(_) | Entry::Receipt(_)) => {}
                    Booking::Plain(Entry::Reserve(_)) => prop_assert!(false, "needs limits"),
                }
            }
            let said = taken.effects.iter().filter_map(|effect| match effect {
                Effect::Say(message) => serde_json::to_string(message).ok(),
                _ => None,
            });
            if said.into_iter().any(|message| message.contains(&secret)) {
                let on_record = match &s.phase {
                    Phase::Released { text, .. } => !text.is_empty(),
                    _ => false,
                };
                // Either it is put on record by this very step, or it was before.
                let was_on_record = matches!(before, Phase::Released { .. });
                prop_assert!(escrow && on_record && (taken.save || was_on_record));
            }
            match s.phase.status() {
                Status::Delivered => prop_assert_eq!(settled + released, 1),
                Status::Failed => prop_assert_eq!((settled, released), (0, reserved)),
                Status::Open | Status::Undelivered => {
                    prop_assert!(released == 0);
                    prop_assert_eq!(s.phase.is_undecided(), reserved > settled);
                }
            }
            let told = taken.effects.iter().filter(|effect| **effect == Effect::Pay).count();
            pays += told;
            prop_assert!(told == 0 || reserved == 1);
            prop_assert!(reserved <= 1 && pays <= 1);
            prop_assert!(settled + released <= reserved);
            prop_assert!(taken.save || taken.entries.is_empty());
            // Whatever outlives the process has a name by which a test can end it there.
            prop_assert!(!taken.save || !points::of_commit(&before, &s.phase).is_empty());
            let unnamed = |effect: &Effect| match effect {
                Effect::Say(message) => points::of_message(message).is_empty(),
                _ => false,
            };
            prop_assert!(!taken.effects.iter().any(unnamed));
            if closed_before {
                prop_assert_eq!(&before, &s.phase);
                prop_assert!(taken.effects.is_empty());
            }
            if let Some(told) = s.phase.settled() {
                // Or the money came back after the delivery.
                prop_assert!(settled == 1 || (released == 1 && told.paid().is_zero()));
            }
        }
    }
}

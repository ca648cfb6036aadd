//! Whatever happens, in whatever order: what must hold of the money.

use proptest::prelude::*;

use super::*;

/// Anything that can happen, in any order.
fn any_happening() -> impl Strategy<Value = u8> {
    0..16_u8
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
        _ => Happening::LookedUp {
            found: Outgoing::Failed(FailureProof::new("no")),
            authoritative: false,
        },
    }
}

proptest! {
    /// Whatever happens in whatever order: the wallet is told to pay at most once, money is set aside
    /// before, settled or released at most once, never both, and a finished purchase stays finished.
    #[test]
    fn money_moves_at_most_once(kinds in proptest::collection::vec(any_happening(), 0..40)) {
        let mut s = state(PayBy::Invoice(wallet()));
        let (mut reserved, mut pays, mut settled, mut released) = (0, 0, 0, 0);
        for kind in kinds {
            let closed_before = matches!(s.phase, Phase::Delivered { .. } | Phase::Failed { .. });
            let before = s.phase.clone();
            let happening = make(kind, &s);
            let taken = step(&mut s, happening, now());
            for entry in &taken.entries {
                match entry {
                    Booking::Reserve { .. } => reserved += 1,
                    Booking::Plain(Entry::Settle { .. }) => settled += 1,
                    Booking::Plain(Entry::Release { .. }) => released += 1,
                    Booking::Plain(_) => {}
                }
            }
            let told = taken.effects.iter().filter(|effect| **effect == Effect::Pay).count();
            pays += told;
            prop_assert!(told == 0 || reserved == 1);
            prop_assert!(reserved <= 1 && pays <= 1);
            prop_assert!(settled + released <= reserved);
            prop_assert!(taken.save || taken.entries.is_empty());
            if closed_before {
                prop_assert_eq!(&before, &s.phase);
                prop_assert!(taken.effects.is_empty());
            }
            if s.phase.settled().is_some() {
                prop_assert_eq!(settled, 1);
            }
        }
    }
}

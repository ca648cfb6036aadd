#![allow(clippy::unwrap_used)]

use super::*;
use crate::ledger::{Refusal, RefusedBy};
use crate::purchase::kept::Kept;
use crate::wallet::Outgoing;

const NOW: UnixSecs = UnixSecs::new(1_000_000);

fn payment() -> (Payment, Preimage) {
    let preimage = Preimage::from_bytes([7; 32]);
    let bill = Bill {
        bolt11: "lnbc1".to_owned(),
        payment_hash: preimage.payment_hash(),
        amount: Msat::new(5_000),
        expires_at: NOW.plus(60),
        hold_secs: 600,
        payee: "02".repeat(33),
        description: "a stranger's words".to_owned(),
    };
    let wallet = WalletId {
        kind: "nwc".to_owned(),
        account: "a".to_owned(),
    };
    let id = PurchaseId::from_bytes([1; 16]);
    (Payment::new(id, bill, wallet, None), preimage)
}

fn paying() -> (Payment, Preimage) {
    let (mut payment, preimage) = payment();
    let prepared = Happening::Prepared {
        fee_cap: Msat::new(100),
        seen: None,
    };
    let step = payment.step(prepared, NOW);
    assert_eq!(step.effects, [Effect::Pay]);
    let reserves = matches!(
        step.entries.as_slice(),
        [Booking::Reserve { .. }, Booking::Plain(Entry::InFlight)]
    );
    assert!(step.save && reserves);
    (payment, preimage)
}

fn look_up(payment: &mut Payment, found: Outgoing, at: UnixSecs) -> Step {
    let looked_up = Happening::LookedUp {
        found,
        authoritative: false,
    };
    payment.step(looked_up, at)
}

fn releases(step: &Step) -> bool {
    let release = |booking: &Booking| matches!(booking, Booking::Plain(Entry::Release { .. }));
    step.entries.iter().any(release)
}

#[test]
fn money_is_set_aside_once_and_only_from_the_start() {
    let (mut payment, _) = paying();
    let again = Happening::Prepared {
        fee_cap: Msat::new(100),
        seen: None,
    };
    let step = payment.step(again, NOW);
    assert!(!step.save && step.effects.is_empty() && step.entries.is_empty());
}

#[test]
fn a_preimage_of_another_hash_is_none() {
    for (told, kept) in [([7; 32], true), ([8; 32], false)] {
        let (mut payment, _) = paying();
        let paid = PayOutcome::Paid {
            preimage: Some(Preimage::from_bytes(told)),
            fee: Msat::new(3),
        };
        let step = payment.step(Happening::PayAnswered(paid), NOW);
        assert!(matches!(
            step.entries.as_slice(),
            [Booking::Plain(Entry::Settle { price, fee })] if price.get() == 5_000 && fee.get() == 3
        ));
        let Phase::Settled { preimage, .. } = &payment.phase else {
            panic!("{payment:?}");
        };
        assert_eq!(preimage.is_some(), kept);
    }
}

#[test]
fn only_proof_frees_the_money() {
    let (mut payment, _) = paying();
    let unknown = PayOutcome::Unknown {
        reason: "silence".to_owned(),
    };
    assert!(!releases(
        &payment.step(Happening::PayAnswered(unknown), NOW)
    ));
    let failed = || Outgoing::Failed(FailureProof::new("no route"));
    assert!(!releases(&look_up(&mut payment, failed(), NOW)));
    assert!(!releases(&look_up(&mut payment, Outgoing::InFlight, NOW)));
    assert!(!releases(&look_up(&mut payment, failed(), NOW)));
    // The payee may hold it for as long as the invoice lets it.
    let held = NOW.plus(60 + 599 + SETTLED_LONG_AGO_SECS);
    for _ in 0..5 {
        assert!(!releases(&look_up(&mut payment, Outgoing::NotFound, held)));
    }
    let over = held.plus(1);
    assert!(!releases(&look_up(&mut payment, Outgoing::NotFound, over)));
    assert!(releases(&look_up(&mut payment, Outgoing::NotFound, over)));
    assert_eq!(payment.phase.label(), "failed");
    // Over is over.
    let paid = Outgoing::Paid {
        preimage: None,
        fee: Msat::ZERO,
    };
    assert!(!look_up(&mut payment, paid, over).save);
}

#[test]
fn what_refuses_it_before_the_order_sets_nothing_aside() {
    let refusal = Refusal {
        by: RefusedBy::Daily,
        asked: Msat::new(5_100),
        allowed: Msat::ZERO,
    };
    for (happening, code) in [
        (Happening::OverBudget(refusal), Code::Budget),
        (Happening::HashUsed, Code::BadInvoice),
        (Happening::Deadline, Code::Timeout),
        (Happening::Interrupted, Code::Interrupted),
    ] {
        let (mut payment, _) = payment();
        let step = payment.step(happening.clone(), NOW);
        assert!(step.save && step.entries.is_empty());
        let Some(Effect::Finish(Finish::Failed {
            code: said,
            message,
        })) = step.effects.last()
        else {
            panic!("{:?}", step.effects);
        };
        assert_eq!(*said, code);
        assert!(message.contains("nothing was paid"), "{message}");
        // Once the wallet has the order, none of them ends it.
        let (mut payment, _) = paying();
        assert!(!releases(&payment.step(happening, NOW)));
        assert!(payment.phase.is_undecided());
    }
}

#[test]
fn a_row_says_which_it_is_and_keeps_all_of_it() {
    let (mut payment, preimage) = paying();
    let failed = Outgoing::Failed(FailureProof::new("no route"));
    look_up(&mut payment, failed, NOW);
    let row = payment.to_row().unwrap();
    assert_eq!(
        (row.label.as_str(), row.status),
        ("payment_unknown", Status::Open)
    );
    let Kept::Payment(read) = Kept::from_row(&row).unwrap() else {
        panic!("{row:?}");
    };
    assert_eq!(*read, payment);
    assert!(!format!("{payment:?}").contains(&preimage.reveal()));
    // A program from before there were payments leaves it alone.
    assert!(matches!(
        crate::purchase::state::State::from_row(&row),
        Err(StateError::Newer(VERSION))
    ));
    let later = StateRow {
        json: row.json.replace("{\"v\":3,", "{\"v\":4,"),
        ..row
    };
    assert!(matches!(Kept::from_row(&later), Err(StateError::Newer(4))));
}

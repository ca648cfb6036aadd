//! The escrow machine, driven by hand.

mod texts;

use super::*;
use crate::protocol::message::{AgentMessage, PreimageRelease};

fn by_escrow() -> PayBy {
    PayBy::Escrow {
        wallet: wallet(),
        preimage: preimage(),
    }
}

fn in_flight() -> Happening {
    Happening::PayAnswered(PayOutcome::InFlight)
}

fn looked_up(found: Outgoing, authoritative: bool) -> Happening {
    Happening::LookedUp {
        found,
        authoritative,
    }
}

fn back() -> Happening {
    let proof = FailureProof::new("the payee cancelled");
    looked_up(Outgoing::Failed(proof), true)
}

fn claimed() -> Happening {
    let (preimage, fee) = (Some(preimage()), Msat::new(21));
    looked_up(Outgoing::Paid { preimage, fee }, true)
}

fn refusal(state: &State) -> Happening {
    says(AgentMessage::JobError(JobError {
        job_id: state.terms.job_id(),
        code: "failed".into(),
        message: "out of memory".into(),
    }))
}

/// A purchase whose wallet has the order to lock the money.
fn ordered() -> State {
    let mut s = state(by_escrow());
    let quote = says(AgentMessage::Invoice(invoice(&s)));
    step(&mut s, quote, now());
    let prepared = Happening::Prepared {
        fee_cap: Msat::new(50),
        seen: None,
    };
    let told = step(&mut s, prepared, now());
    assert_eq!(told.effects, [Effect::Pay, Effect::WatchOrder]);
    assert!(matches!(
        &told.entries[..],
        [Booking::Reserve { .. }, Booking::Plain(Entry::InFlight)]
    ));
    assert!(told.save);
    s
}

/// One whose wallet says that it is on its way.
fn locked() -> State {
    let mut s = ordered();
    step(&mut s, in_flight(), now());
    s
}

/// One whose provider was told the preimage.
fn released() -> State {
    let mut s = locked();
    let text = result(&s, "Paris");
    step(&mut s, text, now());
    assert_eq!(s.phase.label(), "released");
    s
}

/// One whose provider failed after the lock.
fn withheld() -> State {
    let mut s = locked();
    let failed = refusal(&s);
    step(&mut s, failed, now());
    assert_eq!(s.phase.label(), "undelivered");
    s
}

fn lets_go(step: &Step) -> bool {
    step.effects
        .iter()
        .any(|effect| matches!(effect, Effect::Say(AgentMessage::PreimageRelease(_))))
}

#[test]
fn the_provider_is_told_of_the_lock_once_and_a_restart_tells_it_again() {
    let mut s = ordered();
    let answered = step(&mut s, in_flight(), now());
    assert!(matches!(
        &answered.effects[..],
        [
            Effect::Say(AgentMessage::HtlcLocked(locked)),
            Effect::Say(AgentMessage::PaymentSent(_)),
            Effect::LookUp
        ] if locked.payment_hash == hash().to_string() && locked.expiry_secs == 18 * 600
    ));
    assert!(matches!(
        &answered.tell[..],
        [PurchaseEvent::Locked { amount_msat: PRICE, payment_hash, .. }] if *payment_hash == hash()
    ));
    let again = step(&mut s, looked_up(Outgoing::InFlight, true), now());
    assert!(again.effects.is_empty() && again.tell.is_empty());
    step(&mut s, Happening::Resumed, now());
    let after = step(&mut s, looked_up(Outgoing::InFlight, true), now());
    assert_eq!(after.effects, answered.effects[..2]);
}

#[test]
fn an_order_that_is_not_answered_is_as_good_as_a_lock_and_no_look_up_disproves_it() {
    let mut s = ordered();
    let seen = step(&mut s, looked_up(Outgoing::NotFound, true), now());
    assert!(matches!(seen.tell[..], [PurchaseEvent::Locked { .. }]));
    assert!(seen.entries.is_empty());
    let failed = Outgoing::Failed(FailureProof::new("no route yet"));
    assert!(
        step(&mut s, looked_up(failed, true), now())
            .entries
            .is_empty()
    );
    assert_eq!(s.phase.label(), "locked");
    // A wallet that answers when the lock has ended: the result does not wait for it.
    let text = result(&s, "Paris");
    assert!(lets_go(&step(&mut s, text, now())));
    let invoice = s.phase.bolt11().map(str::to_owned);
    let end = step(&mut s, paid(), now());
    assert_eq!(finish(&end), Some(&Finish::Delivered));
    // Who asks later where the money went is shown the invoice, too.
    assert!(invoice.is_some());
    assert_eq!(s.phase.bolt11(), invoice.as_deref());
}

#[test]
fn an_order_that_is_refused_fails_the_purchase_and_frees_the_money() {
    for (short, code) in [(true, Code::Wallet), (false, Code::PaymentFailed)] {
        let mut s = ordered();
        let proof = FailureProof {
            insufficient_funds: short,
            ..FailureProof::new("no")
        };
        let ended = step(
            &mut s,
            Happening::PayAnswered(PayOutcome::Failed(proof)),
            now(),
        );
        assert_eq!(failed_with(&ended), Some(code));
        assert!(matches!(
            ended.entries[..],
            [Booking::Plain(Entry::Release { .. })]
        ));
        assert!(ended.tell.is_empty(), "it was never locked");
    }
}

#[test]
fn an_invoice_on_another_hash_is_no_escrow() {
    let mut s = state(by_escrow());
    let other = PaymentHash::from_bytes([7; 32]);
    let ordinary = says(AgentMessage::Invoice(Invoice {
        bolt11: bolt11(PRICE, Currency::Regtest, other),
        ..invoice(&s)
    }));
    let ended = step(&mut s, ordinary, now());
    assert_eq!(failed_with(&ended), Some(Code::BadInvoice));
    let mut s = state(by_escrow());
    s.terms.max_hold_secs = 18 * 600 - 1;
    let too_long = says(AgentMessage::Invoice(invoice(&s)));
    let ended = step(&mut s, too_long, now());
    assert_eq!(failed_with(&ended), Some(Code::BadInvoice));
}

#[test]
fn the_preimage_goes_out_with_the_result_on_record_and_again_until_it_is_claimed() {
    let mut s = locked();
    let text = result(&s, "Paris");
    let let_go = step(&mut s, text, now());
    assert!(let_go.save);
    assert_eq!(s.phase.status(), Status::Open);
    let release = Effect::Say(AgentMessage::PreimageRelease(PreimageRelease {
        job_id: s.terms.job_id(),
        preimage: preimage().reveal(),
    }));
    assert_eq!(let_go.effects[0], release);
    assert!(matches!(
        let_go.tell[..],
        [PurchaseEvent::Released { payment_hash, .. }] if payment_hash == hash()
    ));
    for again in [Happening::SayAgain, Happening::Resumed] {
        assert!(step(&mut s, again, now()).effects.contains(&release));
    }
    // Slow to claim: the buyer has the result, and the money is still set aside.
    let mut slow = s.clone();
    let end = step(&mut slow, Happening::GiveUpLooking, now());
    assert_eq!(finish(&end), Some(&Finish::Delivered));
    assert!(end.entries.is_empty());
    assert_eq!(slow.receipt().unwrap().paid_msat, Msat::ZERO);
    let end = step(&mut s, claimed(), now());
    assert_eq!(finish(&end), Some(&Finish::Delivered));
    assert!(matches!(
        end.entries[..],
        [Booking::Plain(Entry::Settle { price: PRICE, .. })]
    ));
    let receipt = s.receipt().unwrap();
    assert_eq!(receipt.paid_msat, Msat::new(10_021));
    assert_eq!(receipt.preimage, Some(preimage().reveal()));
    assert!(!lets_go(&step(&mut s, Happening::SayAgain, now())));
}

#[test]
fn no_result_lets_nothing_go_and_keeps_the_money_until_the_wallet_has_it_back() {
    type Make = fn(&mut State) -> Happening;
    let cases: [(&str, Make); 6] = [
        ("a refusal", |s| refusal(s)),
        ("an empty text", |s| result(s, "")),
        ("an error in place of a text", |s| {
            result(s, "Error: no model")
        }),
        ("an error of a deployed provider", |s| {
            s.phase.lock_mut().unwrap().quote.modern = false;
            result(s, "Error: no model")
        }),
        ("a stream that breaks off", |s| {
            let pieces = piece(s, Some(0), "Par", false);
            step(s, pieces, now());
            Happening::Deadline
        }),
        ("silence", |_| Happening::Deadline),
    ];
    for (what, make) in cases {
        let mut s = locked();
        let happening = make(&mut s);
        let at_once = matches!(happening, Happening::Deadline);
        let kept = step(&mut s, happening, now());
        assert!(
            kept.save && kept.entries.is_empty() && !lets_go(&kept),
            "{what}"
        );
        assert_eq!(s.phase.status(), Status::Undelivered, "{what}");
        assert_eq!(finish(&kept).is_some(), at_once, "{what}");
        let mut slow = s.clone();
        let ended = step(&mut slow, Happening::GiveUpLooking, now());
        assert_eq!(failed_with(&ended), Some(Code::Undelivered), "{what}");
        assert!(ended.entries.is_empty() && !ended.save);
        let ended = step(&mut s, back(), now());
        assert_eq!(failed_with(&ended), Some(Code::Undelivered), "{what}");
        assert!(matches!(
            ended.entries[..],
            [Booking::Plain(Entry::Release { .. })]
        ));
        assert_eq!(s.phase.status(), Status::Failed);
        // Its money is back: nothing that comes later is paid for.
        let late = result(&s, "Paris");
        assert!(step(&mut s, late, now()).effects.is_empty());
    }
}

#[test]
fn a_provider_is_told_that_nobody_waits_once_its_time_is_over() {
    let cancels = |at: UnixSecs| {
        let mut s = locked();
        let ended = step(&mut s, Happening::Deadline, Now { at, ..now() });
        assert_eq!(failed_with(&ended), Some(Code::Undelivered));
        let cancel = |effect: &Effect| matches!(effect, Effect::Say(AgentMessage::Cancel(_)));
        ended.effects.iter().any(cancel)
    };
    let over = locked().terms.deadline;
    assert!(cancels(over));
    assert!(!cancels(over.minus(1)), "recovery was in a hurry");
}

#[test]
fn money_that_comes_back_before_any_answer_ends_the_purchase_at_once() {
    let mut s = locked();
    let ended = step(&mut s, back(), now());
    assert_eq!(failed_with(&ended), Some(Code::Undelivered));
    assert_eq!(s.phase.status(), Status::Failed);
}

#[test]
fn a_result_that_nobody_claims_is_free() {
    let mut s = released();
    let end = step(&mut s, back(), now());
    assert_eq!(finish(&end), Some(&Finish::Delivered));
    assert!(matches!(
        end.entries[..],
        [Booking::Plain(Entry::Release { .. })]
    ));
    assert_eq!(s.receipt().unwrap().paid_msat, Msat::ZERO);
}

#[test]
fn what_is_paid_without_a_release_is_booked_all_the_same() {
    let mut s = locked();
    let early = step(&mut s, claimed(), now());
    assert!(matches!(
        early.entries[..],
        [Booking::Plain(Entry::Settle { .. })]
    ));
    assert_eq!(s.phase.label(), "paid");
    let text = result(&s, "Paris");
    let end = step(&mut s, text, now());
    assert_eq!(finish(&end), Some(&Finish::Delivered));
    assert!(!lets_go(&end));
    let mut s = withheld();
    let ended = step(&mut s, claimed(), now());
    assert_eq!(failed_with(&ended), Some(Code::Undelivered));
    assert!(
        matches!(&s.phase, Phase::Undelivered { settled, .. } if settled.paid() == Msat::new(10_021))
    );
}

#[test]
fn doubt_is_booked_and_ended_by_a_sign_of_life_and_a_result_does_not_wait_for_it() {
    for make in [ordered, released, withheld] {
        let mut s = make();
        let unsure = step(&mut s, doubt(), now());
        assert!(matches!(
            unsure.entries[..],
            [Booking::Plain(Entry::Unknown { .. })]
        ));
        let alive = step(&mut s, looked_up(Outgoing::InFlight, false), now());
        assert!(alive.save);
        assert!(matches!(
            alive.entries[..],
            [Booking::Plain(Entry::InFlight)]
        ));
    }
    let mut s = ordered();
    step(&mut s, doubt(), now());
    assert_eq!(s.phase.label(), "payment_unknown");
    let mut asked = s.clone();
    let ended = step(&mut asked, Happening::GiveUpLooking, now());
    assert_eq!(failed_with(&ended), Some(Code::PaymentUnknown));
    let text = result(&s, "Paris");
    assert!(lets_go(&step(&mut s, text, now())));
}

#[test]
fn no_such_payment_counts_only_long_after_the_lock_must_have_ended() {
    let mut s = locked();
    let missing = || looked_up(Outgoing::NotFound, false);
    let at = |secs: u64| Now {
        at: UnixSecs::new(NOW + secs),
        elapsed_ms: 0,
    };
    // Expired long ago, and perhaps held still: an invoice's end is not its payment's.
    for _ in 0..3 {
        let kept = step(&mut s, missing(), at(300 + 2 * 3600));
        assert!(kept.entries.is_empty() && finish(&kept).is_none());
    }
    let over = at(300 + s.terms.max_hold_secs + 3600);
    assert!(step(&mut s, missing(), over).entries.is_empty());
    let freed = step(&mut s, missing(), over);
    assert!(matches!(
        freed.entries[..],
        [Booking::Plain(Entry::Release { .. })]
    ));
}

#[test]
fn a_wallet_that_knows_each_of_its_payments_proves_a_failure_by_knowing_none() {
    let mut doubted = ordered();
    step(&mut doubted, doubt(), now());
    for (mut s, code) in [
        (doubted, Code::PaymentFailed),
        (locked(), Code::Undelivered),
    ] {
        let gone = step(&mut s, looked_up(Outgoing::NotFound, true), now());
        assert_eq!(failed_with(&gone), Some(code));
        assert!(matches!(
            gone.entries[..],
            [Booking::Plain(Entry::Release { .. })]
        ));
    }
}

#[test]
fn look_ups_of_two_kinds_do_not_add_up_to_a_proof() {
    let later = Now {
        at: UnixSecs::new(NOW + 300 + 86_400 + 3600),
        elapsed_ms: 0,
    };
    let mut s = locked();
    let failed = || looked_up(Outgoing::Failed(FailureProof::new("no")), false);
    let missing = || looked_up(Outgoing::NotFound, false);
    for look in [failed(), missing(), failed(), missing()] {
        let counted = step(&mut s, look, later);
        assert!(counted.save && counted.effects.is_empty() && counted.entries.is_empty());
    }
    let proven = step(&mut s, missing(), later);
    assert_eq!(failed_with(&proven), Some(Code::Undelivered));
}

#[test]
fn a_lock_that_turns_out_paid_is_told_once_and_proven_by_its_own_preimage_alone() {
    let paid_with = |s: &mut State, preimage| {
        let fee = Msat::ZERO;
        step(s, looked_up(Outgoing::Paid { preimage, fee }, true), now())
    };
    // Who was told of the lock needs no more.
    for (mut s, told) in [(ordered(), false), (locked(), true)] {
        let paid = paid_with(&mut s, Some(preimage()));
        assert_eq!(paid.effects.is_empty(), told);
        let settled = s.phase.settled().unwrap();
        assert_eq!(settled.preimage, Some(preimage()));
    }
    let mut s = locked();
    paid_with(&mut s, Some(Preimage::from_bytes([8; 32])));
    assert_eq!(s.phase.settled().unwrap().preimage, None);
}

#[test]
fn who_has_the_money_back_is_told_why_there_was_no_result() {
    let mut s = locked();
    let refused = refusal(&s);
    step(&mut s, refused, now());
    let ended = step(&mut s, back(), now());
    let Some(Finish::Failed { code, message }) = finish(&ended) else {
        panic!("{:?}", ended.effects);
    };
    assert_eq!(*code, Code::Undelivered);
    assert!(message.contains("out of memory") && message.contains("the locked money is back"));
}

#[test]
fn who_waits_for_locked_money_is_told_how_much_and_what_frees_it() {
    let mut s = locked();
    let refused = refusal(&s);
    step(&mut s, refused, now());
    let told = step(&mut s, Happening::GiveUpLooking, now());
    let Some(Finish::Failed { code, message }) = finish(&told) else {
        panic!("{:?}", told.effects);
    };
    assert_eq!(*code, Code::Undelivered);
    for part in [
        "out of memory",
        "10 sats stay locked",
        "agent-customer recover",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_sign_of_life_takes_back_on_record_what_was_counted_there() {
    let later = Now {
        at: UnixSecs::new(NOW + 300 + 86_400 + 3600),
        elapsed_ms: 0,
    };
    let alive = || looked_up(Outgoing::InFlight, false);
    let failed = looked_up(Outgoing::Failed(FailureProof::new("no")), false);
    for doubtful in [failed, looked_up(Outgoing::NotFound, false)] {
        let mut s = locked();
        assert!(!step(&mut s, alive(), later).save);
        assert!(step(&mut s, doubtful.clone(), later).save);
        assert!(step(&mut s, alive(), later).save);
        assert!(step(&mut s, doubtful, later).entries.is_empty());
    }
}

#[test]
fn one_failed_look_up_is_no_proof_in_any_phase() {
    for make in [locked, released, withheld] {
        let failed = || {
            let proof = FailureProof::new("gone");
            looked_up(Outgoing::Failed(proof), false)
        };
        let mut s = make();
        assert!(step(&mut s, failed(), now()).entries.is_empty());
        let alive = || looked_up(Outgoing::InFlight, false);
        assert!(step(&mut s, alive(), now()).save, "a restart starts over");
        assert!(!step(&mut s, alive(), now()).save, "known already");
        assert!(step(&mut s, failed(), now()).entries.is_empty());
        let freed = step(&mut s, failed(), now());
        assert!(matches!(
            freed.entries[..],
            [Booking::Plain(Entry::Release { .. })]
        ));
    }
}

#[test]
fn stopping_leaves_a_lock_open_and_a_result_that_is_here_is_handed_over() {
    let mut s = locked();
    let before = s.clone();
    let stopped = step(&mut s, Happening::Interrupted, now());
    assert_eq!(failed_with(&stopped), Some(Code::Interrupted));
    assert_eq!(s, before);
    let stopped = step(&mut released(), Happening::Interrupted, now());
    assert_eq!(finish(&stopped), Some(&Finish::Delivered));
    let stopped = step(&mut withheld(), Happening::Interrupted, now());
    assert_eq!(failed_with(&stopped), Some(Code::Undelivered));
}

#[test]
fn the_owners_word_decides_each_phase() {
    for (make, paid, label) in [
        (locked as fn() -> State, true, "paid"),
        (locked, false, "failed"),
        (released, true, "delivered"),
        (released, false, "delivered"),
        (withheld, true, "undelivered"),
        (withheld, false, "failed"),
    ] {
        let mut s = make();
        let decided = step(&mut s, Happening::Resolved { paid }, now());
        assert_eq!(s.phase.label(), label);
        assert!(!s.phase.is_undecided());
        assert!(matches!(
            decided.entries.last(),
            Some(Booking::Plain(Entry::Note(_)))
        ));
    }
}

#[test]
fn every_phase_survives_its_row_and_shows_no_secret() {
    let mut unsure = ordered();
    step(&mut unsure, doubt(), now());
    for s in [locked(), released(), withheld(), unsure] {
        let mut row = s.to_row().unwrap();
        let read = State::from_row(&row).unwrap();
        let mut on_record = s.clone();
        let lock = on_record.phase.lock_mut().unwrap();
        (lock.announced, lock.unanswered) = (false, false);
        assert_eq!(read, on_record);
        let shown = format!("{s:?}{row:?}{:?}", s.terms.pay_by);
        assert!(!shown.contains(&preimage().reveal()), "{shown}");
        row.json = row.json.replacen("{\"v\":2", "{\"v\":3", 1);
        assert!(State::from_row(&row).is_err());
    }
}

#[test]
fn a_row_from_before_there_was_escrow_is_read_and_written_as_it_was() {
    let s = paying();
    let row = s.to_row().unwrap();
    assert!(row.json.starts_with("{\"v\":1"));
    let old = crate::ledger::StateRow {
        json: row.json.replace(",\"hold_secs\":10800", ""),
        ..row.clone()
    };
    assert_ne!(old.json, row.json);
    let mut read = State::from_row(&old).unwrap();
    let Phase::Paying(quote) = &mut read.phase else {
        panic!("{}", read.phase.label());
    };
    quote.invoice.as_mut().unwrap().hold_secs = 10_800;
    assert_eq!(read, s);
}

#[test]
fn a_provider_whose_lock_is_in_doubt_is_not_told_that_nobody_waits() {
    let mut s = ordered();
    step(&mut s, doubt(), now());
    let late = Now {
        at: s.terms.deadline,
        elapsed_ms: 120_000,
    };
    let ended = step(&mut s, Happening::Deadline, late);
    let cancels = |effect: &Effect| matches!(effect, Effect::Say(AgentMessage::Cancel(_)));
    assert!(!ended.effects.iter().any(cancels), "{ended:?}");
    assert_eq!(failed_with(&ended), Some(Code::PaymentUnknown));
}

#![allow(clippy::unwrap_used)]

use nostr::{EventBuilder, EventId, Keys, Kind};

use super::*;
use crate::ids::PurchaseId;
use crate::purchase::lock::Lock;
use crate::purchase::state::{PayBy, Quote, Settled, Terms};
use crate::units::{Network, UnixSecs};

const PRICE: Msat = Msat::new(10_000);

fn state(phase: Phase) -> State {
    let keys = Keys::generate();
    let request = EventBuilder::new(Kind::ChannelMessage, "")
        .sign_with_keys(&keys)
        .unwrap();
    let mut state = State::new(Terms {
        id: PurchaseId::from_bytes([1; 16]),
        provider: keys.public_key(),
        channel: EventId::from_byte_array([2; 32]),
        model: None,
        request,
        network: Network::Regtest,
        pay_by: PayBy::Nothing,
        listing: None,
        listed: Some(PRICE),
        max_price: None,
        max_fee: None,
        max_hold_secs: 0,
        sealed: false,
        fingerprint: None,
        started_at: UnixSecs::new(0),
        deadline: UnixSecs::new(0),
    });
    state.phase = phase;
    state
}

fn quote() -> Quote {
    Quote {
        amount: PRICE,
        invoice: None,
        modern: true,
    }
}

const fn settled() -> Settled {
    Settled {
        price: PRICE,
        fee: Msat::new(7),
        preimage: None,
    }
}

fn failed(code: Code) -> Phase {
    Phase::Failed {
        code: code.as_str().to_owned(),
        message: String::new(),
    }
}

fn awaiting() -> Phase {
    Phase::Awaiting {
        quote: quote(),
        settled: settled(),
    }
}

fn delivered() -> Phase {
    Phase::Delivered {
        price: PRICE,
        settled: settled(),
        payment_hash: None,
        bolt11: None,
        text: "Paris".to_owned(),
        elapsed_ms: 5,
    }
}

fn outcome(before: &Phase, after: Phase) -> Option<Outcome> {
    observation(before, &state(after), false, None).map(|seen| seen.outcome)
}

#[test]
fn only_what_is_the_providers_doing_speaks_against_it() {
    for (code, expected) in [
        (Code::ProviderRefused, Some(Outcome::Refused)),
        (Code::BadInvoice, Some(Outcome::BadInvoice)),
        (Code::Timeout, Some(Outcome::Unanswered)),
        (Code::Budget, None),
        (Code::Wallet, None),
        (Code::PaymentFailed, None),
        (Code::Network, None),
        (Code::Interrupted, None),
    ] {
        assert_eq!(
            outcome(&Phase::Requested, failed(code)),
            expected,
            "{code:?}"
        );
    }
    // It had answered: our wallet was late.
    assert_eq!(
        outcome(&Phase::Quoted(quote()), failed(Code::Timeout)),
        None
    );
    assert_eq!(outcome(&Phase::Requested, awaiting()), None);
}

#[test]
fn an_invoice_above_what_was_never_listed_is_no_fault() {
    let mut unpriced = state(failed(Code::BadInvoice));
    unpriced.terms.listed = None;
    let seen = observation(&Phase::Requested, &unpriced, false, None).unwrap();
    assert_eq!(seen.outcome, Outcome::Refused);
}

#[test]
fn a_paid_purchase_says_what_it_cost_and_how_long_it_took() {
    let after = state(delivered());
    let seen = observation(&awaiting(), &after, false, Some(3)).unwrap();
    assert_eq!(
        seen,
        Observation {
            provider: after.terms.provider,
            outcome: Outcome::Delivered,
            price: PRICE,
            listed: Some(PRICE),
            first_token_ms: Some(3),
        }
    );
    let nothing = Phase::Undelivered {
        quote: quote(),
        settled: settled(),
        reason: String::new(),
        spoiled: false,
    };
    let seen = observation(&awaiting(), &state(nothing), false, Some(3)).unwrap();
    assert_eq!(
        (seen.outcome, seen.price, seen.first_token_ms),
        (Outcome::Undelivered, PRICE, None)
    );
}

#[test]
fn the_first_token_is_measured_from_the_order_to_pay() {
    let mut seen = FirstToken::default();
    let mut paying = state(Phase::Paying(quote()));
    seen.see(&Phase::Requested, &state(Phase::Quoted(quote())), 10);
    seen.see(&Phase::Quoted(quote()), &paying, 20);
    assert_eq!(seen.ms(), None);
    paying.phase = awaiting();
    paying.shown = 1;
    seen.see(&awaiting(), &paying, 50);
    seen.see(&awaiting(), &state(delivered()), 90);
    assert_eq!(seen.ms(), Some(30));

    // Taken up after a crash: nobody knows when it was paid.
    let mut resumed = FirstToken::default();
    resumed.see(&awaiting(), &state(delivered()), 90);
    assert_eq!(resumed.ms(), None);
}

#[test]
fn escrow_is_judged_by_the_result_and_only_once_the_money_was_on_its_way() {
    let lock = |word| Lock {
        word,
        ..Lock::ordered(quote())
    };
    let released = Phase::Released {
        lock: lock(Word::InFlight),
        text: "Paris".to_owned(),
        elapsed_ms: 5,
    };
    let locked = Phase::Locked(lock(Word::InFlight));
    let seen = observation(&locked, &state(released), false, None).unwrap();
    assert_eq!((seen.outcome, seen.price), (Outcome::Delivered, PRICE));
    let withheld = |word| Phase::Withheld {
        lock: lock(word),
        reason: String::new(),
        spoiled: false,
    };
    assert_eq!(
        outcome(&locked, withheld(Word::InFlight)),
        Some(Outcome::Undelivered)
    );
    for word in [Word::Told, Word::Unknown("?".to_owned())] {
        assert_eq!(outcome(&locked, withheld(word)), None);
    }
    // The money came back and there was no result: whatever was known of it before.
    assert_eq!(
        outcome(&locked, failed(Code::Undelivered)),
        Some(Outcome::Undelivered)
    );
    assert_eq!(outcome(&locked, failed(Code::PaymentFailed)), None);
}

#[test]
fn who_is_given_up_before_its_time_is_not_blamed_and_keeps_its_merit() {
    let nothing = state(Phase::Undelivered {
        quote: quote(),
        settled: settled(),
        reason: String::new(),
        spoiled: false,
    });
    assert_eq!(observation(&awaiting(), &nothing, true, None), None);
    let seen = observation(&awaiting(), &state(delivered()), true, None);
    assert_eq!(seen.unwrap().outcome, Outcome::Delivered);

    let mut waiting = state(awaiting());
    waiting.terms.deadline = UnixSecs::new(100);
    let cut = |happening, at| cuts_short(&happening, &waiting, UnixSecs::new(at));
    assert!(cut(Happening::Deadline, 99));
    assert!(!cut(Happening::Deadline, 100));
    assert!(!cut(Happening::NoWholeText, 0));
    assert!(!cut(Happening::NoQuote, 0), "it had its share of the time");
}

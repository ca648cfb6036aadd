//! The machine, driven by hand.

mod any_order;
mod delivery;
mod escrow;

use std::str::FromStr;

use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nostr::hashes::{Hash, sha256};
use nostr::secp256k1::{Secp256k1, SecretKey};
use nostr::{EventBuilder, EventId, Keys, Kind, PublicKey};

use super::*;
use crate::ids::{JobId, PaymentHash, Preimage, PurchaseId, WalletId};
use crate::ledger::{Entry, Status};
use crate::protocol::message::{AgentMessage, Invoice, JobError, JobResult, StreamChunk};
use crate::purchase::state::{Booking, Finish, Happening, PayBy, Phase, Terms};
use crate::units::{Msat, Network};
use crate::wallet::{FailureProof, Outgoing, PayOutcome};

const NOW: u64 = 1_800_000_000;
const PRICE: Msat = Msat::new(10_000);

fn now() -> Now {
    Now {
        at: UnixSecs::new(NOW),
        elapsed_ms: 7,
    }
}

fn provider() -> Keys {
    Keys::new(nostr::SecretKey::from_slice(&[3; 32]).unwrap())
}

fn preimage() -> Preimage {
    Preimage::from_bytes([9; 32])
}

fn hash() -> PaymentHash {
    preimage().payment_hash()
}

fn wallet() -> WalletId {
    WalletId {
        kind: "sim".into(),
        account: "a".into(),
    }
}

fn state(pay_by: PayBy) -> State {
    let buyer = Keys::new(nostr::SecretKey::from_slice(&[5; 32]).unwrap());
    let request = EventBuilder::new(Kind::ChannelMessage, "{}")
        .sign_with_keys(&buyer)
        .unwrap();
    State::new(Terms {
        id: PurchaseId::from_bytes([1; 16]),
        provider: provider().public_key(),
        channel: EventId::all_zeros(),
        model: None,
        request,
        network: Network::Regtest,
        pay_by,
        listing: None,
        listed: Some(PRICE),
        max_price: None,
        max_fee: None,
        max_hold_secs: 86_400,
        sealed: false,
        fingerprint: None,
        started_at: UnixSecs::new(NOW),
        deadline: UnixSecs::new(NOW + 120),
    })
}

fn bolt11(amount: Msat, currency: Currency, hash: PaymentHash) -> String {
    let key = SecretKey::from_slice(&[4; 32]).unwrap();
    InvoiceBuilder::new(currency)
        .description("job".into())
        .payment_hash(sha256::Hash::from_slice(hash.as_bytes()).unwrap())
        .payment_secret(PaymentSecret([2; 32]))
        .duration_since_epoch(std::time::Duration::from_secs(NOW))
        .expiry_time(std::time::Duration::from_secs(300))
        .min_final_cltv_expiry_delta(18)
        .amount_milli_satoshis(amount.get())
        .build_signed(|message| Secp256k1::new().sign_ecdsa_recoverable(message, &key))
        .unwrap()
        .to_string()
}

fn invoice(state: &State) -> Invoice {
    Invoice {
        expires_at: Some(UnixSecs::new(NOW + 300)),
        ..Invoice::new(
            state.terms.job_id(),
            bolt11(PRICE, Currency::Regtest, hash()),
            PRICE,
        )
    }
}

fn says(message: AgentMessage) -> Happening {
    Happening::Message {
        from: provider().public_key(),
        message,
    }
}

fn result(state: &State, text: &str) -> Happening {
    says(AgentMessage::JobResult(JobResult {
        job_id: state.terms.job_id(),
        result: text.into(),
    }))
}

fn piece(state: &State, seq: Option<u32>, text: &str, is_final: bool) -> Happening {
    says(AgentMessage::StreamChunk(StreamChunk {
        job_id: state.terms.job_id(),
        chunk: text.into(),
        is_final,
        seq,
    }))
}

fn paid() -> Happening {
    Happening::PayAnswered(PayOutcome::Paid {
        preimage: Some(preimage()),
        fee: Msat::new(21),
    })
}

fn paid_at_last() -> Happening {
    Happening::LookedUp {
        found: Outgoing::Paid {
            preimage: None,
            fee: Msat::ZERO,
        },
        authoritative: false,
    }
}

fn doubt() -> Happening {
    Happening::PayAnswered(PayOutcome::Unknown {
        reason: "timed out".into(),
    })
}

/// A purchase whose wallet was told to pay.
fn paying() -> State {
    let mut s = state(PayBy::Invoice(wallet()));
    let quote = says(AgentMessage::Invoice(invoice(&s)));
    let asked = step(&mut s, quote, now());
    assert_eq!(asked.effects, [Effect::Prepare]);
    let prepared = Happening::Prepared {
        fee_cap: Msat::new(50),
        seen: None,
    };
    let told = step(&mut s, prepared, now());
    assert_eq!(told.effects, [Effect::Pay]);
    assert!(told.save);
    assert!(matches!(
        &told.entries[..],
        [
            Booking::Reserve { price: PRICE, payment_hash, .. },
            Booking::Plain(Entry::InFlight)
        ] if *payment_hash == hash()
    ));
    s
}

fn finish(step: &Step) -> Option<&Finish> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::Finish(finish) => Some(finish),
        _ => None,
    })
}

fn failed_with(step: &Step) -> Option<Code> {
    match finish(step)? {
        Finish::Failed { code, .. } => Some(*code),
        Finish::Delivered => None,
    }
}

#[test]
fn a_paid_purchase_is_delivered() {
    let mut s = paying();
    let settled = step(&mut s, paid(), now());
    assert!(matches!(
        settled.entries[..],
        [Booking::Plain(Entry::Settle { price: PRICE, fee })] if fee == Msat::new(21)
    ));
    assert!(matches!(
        settled.effects[..],
        [Effect::Say(AgentMessage::PaymentSent(_))]
    ));
    let text = result(&s, "Paris");
    let delivered = step(&mut s, text, now());
    assert_eq!(finish(&delivered), Some(&Finish::Delivered));
    let receipt = s.receipt().unwrap();
    assert_eq!(receipt.text, "Paris");
    assert_eq!(receipt.paid_msat, Msat::new(10_021));
    assert_eq!(receipt.preimage, Some(preimage().reveal()));
}

#[test]
fn only_the_selected_provider_is_heard_and_only_on_this_job() {
    let stranger = Keys::new(nostr::SecretKey::from_slice(&[8; 32]).unwrap());
    let mut s = state(PayBy::Invoice(wallet()));
    let forged = Happening::Message {
        from: stranger.public_key(),
        message: AgentMessage::Invoice(invoice(&s)),
    };
    let of_another_job = says(AgentMessage::Invoice(Invoice {
        job_id: JobId::from_wire("job_0000000000000000"),
        ..invoice(&s)
    }));
    for happening in [forged, of_another_job] {
        let before = s.clone();
        let ignored = step(&mut s, happening, now());
        assert!(ignored.effects.is_empty() && !ignored.save);
        assert_eq!(s, before);
    }
}

#[test]
fn an_invoice_that_fails_a_check_ends_the_purchase_unpaid() {
    let other = Msat::new(10_001);
    let good = |s: &State| invoice(s);
    type Make = fn(&State) -> Invoice;
    let cases: [(&str, Make); 5] = [
        ("another amount than it says", |s| Invoice {
            amount_msats: Msat::new(9_999),
            ..invoice(s)
        }),
        ("above the listed price", |s| Invoice {
            bolt11: bolt11(Msat::new(10_001), Currency::Regtest, hash()),
            amount_msats: Msat::new(10_001),
            ..invoice(s)
        }),
        ("another network", |s| Invoice {
            bolt11: bolt11(PRICE, Currency::Bitcoin, hash()),
            ..invoice(s)
        }),
        ("a mock", |s| Invoice {
            bolt11: "lnbcrt100n1mock".into(),
            ..invoice(s)
        }),
        ("garbage", |s| Invoice {
            bolt11: "lnbcrt1\u{0}".into(),
            ..invoice(s)
        }),
    ];
    for (what, make) in cases {
        let mut s = state(PayBy::Invoice(wallet()));
        let refused = says(AgentMessage::Invoice(make(&s)));
        let ended = step(&mut s, refused, now());
        assert_eq!(failed_with(&ended), Some(Code::BadInvoice), "{what}");
        assert_eq!(s.phase.status(), Status::Failed);
        // Nothing that comes later revives it.
        let late = says(AgentMessage::Invoice(good(&s)));
        assert!(step(&mut s, late, now()).effects.is_empty());
    }
    let mut s = state(PayBy::Invoice(wallet()));
    s.terms.listed = None;
    s.terms.max_price = Some(PRICE);
    let above_max = says(AgentMessage::Invoice(Invoice {
        bolt11: bolt11(other, Currency::Regtest, hash()),
        amount_msats: other,
        ..invoice(&s)
    }));
    assert_eq!(
        failed_with(&step(&mut s, above_max, now())),
        Some(Code::BadInvoice)
    );
}

#[test]
fn a_second_invoice_changes_nothing() {
    let mut s = paying();
    let before = s.clone();
    let second = says(AgentMessage::Invoice(Invoice {
        bolt11: bolt11(
            Msat::new(1),
            Currency::Regtest,
            PaymentHash::from_bytes([7; 32]),
        ),
        amount_msats: Msat::new(1),
        ..invoice(&s)
    }));
    assert!(step(&mut s, second, now()).effects.is_empty());
    assert_eq!(s, before);
}

#[test]
fn doubt_keeps_the_money_and_only_a_look_up_decides() {
    let mut s = paying();
    let unknown = step(&mut s, doubt(), now());
    assert!(matches!(
        unknown.entries[..],
        [Booking::Plain(Entry::Unknown { .. })]
    ));
    for found in [Outgoing::InFlight, Outgoing::NotFound] {
        let looked = Happening::LookedUp {
            found,
            authoritative: false,
        };
        assert!(step(&mut s, looked, now()).entries.is_empty());
    }
    assert_eq!(
        failed_with(&step(&mut s, Happening::GiveUpLooking, now())),
        Some(Code::PaymentUnknown)
    );
    assert_eq!(s.phase.status(), Status::Open);
    let later = Happening::LookedUp {
        found: Outgoing::Paid {
            preimage: None,
            fee: Msat::ZERO,
        },
        authoritative: false,
    };
    assert!(matches!(
        step(&mut s, later, now()).entries[..],
        [Booking::Plain(Entry::Settle { .. })]
    ));
}

#[test]
fn not_found_proves_failure_only_where_it_can() {
    let found = |authoritative| Happening::LookedUp {
        found: Outgoing::NotFound,
        authoritative,
    };
    let mut s = paying();
    step(&mut s, doubt(), now());
    let mut sure = s.clone();
    assert_eq!(
        failed_with(&step(&mut sure, found(true), now())),
        Some(Code::PaymentFailed)
    );
    // Elsewhere only an hour after the invoice expired, twice.
    let later = Now {
        at: UnixSecs::new(NOW + 300 + 3600),
        elapsed_ms: 0,
    };
    assert!(step(&mut s, found(false), now()).effects.is_empty());
    assert!(step(&mut s, found(false), later).effects.is_empty());
    assert_eq!(
        failed_with(&step(&mut s, found(false), later)),
        Some(Code::PaymentFailed)
    );
}

#[test]
fn a_request_that_no_relay_takes_ends_before_a_quote_and_not_after() {
    let not_sent = || Happening::NotSent("no answer".to_owned());
    let mut s = state(PayBy::Invoice(wallet()));
    let mut quoted = s.clone();
    assert_eq!(
        failed_with(&step(&mut s, not_sent(), now())),
        Some(Code::Network)
    );
    // Who quotes has read it, whatever the relays said.
    let quote = says(AgentMessage::Invoice(invoice(&quoted)));
    step(&mut quoted, quote, now());
    let before = quoted.clone();
    assert!(step(&mut quoted, not_sent(), now()).effects.is_empty());
    assert_eq!(quoted, before);
}

#[test]
fn a_sign_of_life_is_put_on_record_where_it_takes_back_what_is_there() {
    let mut s = paying();
    step(&mut s, doubt(), now());
    let later = Now {
        at: UnixSecs::new(NOW + 300 + 3600),
        elapsed_ms: 0,
    };
    let look = |found| Happening::LookedUp {
        found,
        authoritative: false,
    };
    assert!(!step(&mut s, look(Outgoing::InFlight), later).save);
    assert!(step(&mut s, look(Outgoing::NotFound), later).save);
    assert!(step(&mut s, look(Outgoing::InFlight), later).save);
    // It counts from the beginning again.
    assert!(finish(&step(&mut s, look(Outgoing::NotFound), later)).is_none());
}

#[test]
fn the_owners_word_decides_a_payment_in_doubt_and_is_noted() {
    for (doubted, was_paid) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut s = paying();
        if doubted {
            step(&mut s, doubt(), now());
        }
        let word = step(&mut s, Happening::Resolved { paid: was_paid }, now());
        let booked = match &word.entries[0] {
            Booking::Plain(Entry::Settle { price, .. }) => *price == PRICE && was_paid,
            Booking::Plain(Entry::Release { proof }) => proof.contains("owner") && !was_paid,
            _ => false,
        };
        assert!(booked, "{:?}", word.entries);
        assert!(matches!(
            &word.entries[1..],
            [Booking::Plain(Entry::Note(note))] if note.contains("by the owner")
        ));
        let label = if was_paid { "paid" } else { "failed" };
        assert_eq!(s.phase.label(), label);
        // There is nothing left to decide.
        let again = step(&mut s, Happening::Resolved { paid: !was_paid }, now());
        assert!(again.entries.is_empty() && !again.save);
    }
}

#[test]
fn a_hash_in_the_message_must_be_that_of_its_invoice_and_other_words_there_mean_nothing() {
    let other = PaymentHash::from_bytes([7; 32]).to_string();
    for (said, refused) in [
        (Some(hash().to_string()), None),
        (Some("job_0123456789abcdef".to_owned()), None),
        (None, None),
        (Some(other), Some(Code::BadInvoice)),
    ] {
        let mut s = state(PayBy::Invoice(wallet()));
        let quote = says(AgentMessage::Invoice(Invoice {
            payment_hash: said,
            ..invoice(&s)
        }));
        assert_eq!(failed_with(&step(&mut s, quote, now())), refused);
        assert_eq!(s.phase.quote().is_some(), refused.is_none());
    }
}

#[test]
fn without_a_wallet_only_a_placeholder_within_the_price_is_taken() {
    for (bolt11, msat, refused) in [
        ("lnbcrt100n1mock", 10_000, None),
        ("lnbcrt100n1mock", 10_001, Some(Code::BadInvoice)),
        ("lnbc100n1mock", 10_000, Some(Code::Wallet)),
        ("lnbcrt100n1pay", 10_000, Some(Code::Wallet)),
    ] {
        let mut s = state(PayBy::Nothing);
        let quote = Invoice::new(s.terms.job_id(), bolt11, Msat::new(msat));
        let taken = step(&mut s, says(AgentMessage::Invoice(quote)), now());
        assert_eq!(failed_with(&taken), refused, "{bolt11} {msat}");
        assert!(taken.entries.is_empty());
    }
}

#[test]
fn a_failure_that_a_wallet_proves_without_words_frees_the_money_all_the_same() {
    let escrow = PayBy::Escrow {
        wallet: wallet(),
        preimage: preimage(),
    };
    for pay_by in [PayBy::Invoice(wallet()), escrow] {
        let mut s = state(pay_by);
        let quote = says(AgentMessage::Invoice(invoice(&s)));
        step(&mut s, quote, now());
        let prepared = Happening::Prepared {
            fee_cap: Msat::ZERO,
            seen: None,
        };
        step(&mut s, prepared, now());
        let silent = Happening::PayAnswered(PayOutcome::Failed(FailureProof::new(" ")));
        let failed = step(&mut s, silent, now());
        assert_eq!(failed_with(&failed), Some(Code::PaymentFailed));
        // The ledger takes no release without words.
        assert!(matches!(
            &failed.entries[..],
            [Booking::Plain(Entry::Release { proof })] if !proof.trim().is_empty()
        ));
    }
}

#[test]
fn one_failed_look_up_is_not_proof_and_a_sign_of_life_starts_over() {
    let failed = || Happening::LookedUp {
        found: Outgoing::Failed(FailureProof::new("no route")),
        authoritative: false,
    };
    let alive = || Happening::LookedUp {
        found: Outgoing::InFlight,
        authoritative: false,
    };
    let mut s = paying();
    step(&mut s, doubt(), now());
    assert!(finish(&step(&mut s, failed(), now())).is_none());
    // On record: a restart must not count on from the failure before.
    assert!(step(&mut s, alive(), now()).save);
    assert!(!step(&mut s, alive(), now()).save, "known already");
    assert!(finish(&step(&mut s, failed(), now())).is_none());
    assert_eq!(
        failed_with(&step(&mut s, failed(), now())),
        Some(Code::PaymentFailed)
    );
}

#[test]
fn what_a_crash_may_have_kept_from_being_said_is_said_again() {
    let mut s = paying();
    assert_eq!(step(&mut s, Happening::Resumed, now()).effects, []);
    let said = step(&mut s, paid(), now()).effects;
    let again = step(&mut s, Happening::Resumed, now());
    assert_eq!((again.save, again.effects), (false, said));
}

#[test]
fn time_and_the_owner_end_each_phase_as_the_money_allows() {
    let mut requested = state(PayBy::Invoice(wallet()));
    let mut in_flight = paying();
    let mut awaiting = paying();
    step(&mut awaiting, paid(), now());
    let mut interrupted = awaiting.clone();
    let ends = |s: &mut State, happening| failed_with(&step(s, happening, now()));
    assert_eq!(
        ends(&mut requested, Happening::Deadline),
        Some(Code::Timeout)
    );
    assert_eq!(
        ends(&mut in_flight, Happening::Deadline),
        Some(Code::PaymentUnknown)
    );
    assert_eq!(
        ends(&mut awaiting, Happening::Deadline),
        Some(Code::Undelivered)
    );
    assert_eq!(
        ends(&mut interrupted, Happening::Interrupted),
        Some(Code::Interrupted)
    );
    assert_eq!(interrupted.phase.status(), Status::Open);
}

#[test]
fn who_has_not_quoted_is_given_up_for_another_and_told_so_and_who_has_is_not() {
    let mut s = state(PayBy::Invoice(wallet()));
    let given_up = step(&mut s, Happening::NoQuote, now());
    assert_eq!(failed_with(&given_up), Some(Code::Timeout));
    assert!(given_up.save && s.phase.status() == Status::Failed);
    let told = given_up
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Say(AgentMessage::Cancel(_))));
    assert!(told);
    let late = says(AgentMessage::Invoice(invoice(&s)));
    assert!(step(&mut s, late, now()).effects.is_empty());

    let mut quoted = state(PayBy::Invoice(wallet()));
    let in_time = says(AgentMessage::Invoice(invoice(&quoted)));
    step(&mut quoted, in_time, now());
    for mut s in [quoted, paying()] {
        let before = s.clone();
        let ignored = step(&mut s, Happening::NoQuote, now());
        assert!(!ignored.save && ignored.effects.is_empty());
        assert_eq!(s, before);
    }
}

#[test]
fn a_state_survives_its_row_and_a_newer_one_is_refused() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let row = s.to_row().unwrap();
    assert_eq!(State::from_row(&row).unwrap(), s);
    let newer = crate::ledger::StateRow {
        json: row.json.replacen("{\"v\":1", "{\"v\":3", 1),
        ..row
    };
    assert!(State::from_row(&newer).is_err());
}

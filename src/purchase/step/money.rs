//! What the wallet and the ledger say.

use super::Now;
use super::ending::payment_sent;
use super::escrow;
use super::provider::conclude;
use crate::config::SETTLED_LONG_AGO_SECS;
use crate::error::Code;
use crate::ids::Preimage;
use crate::ledger::{Entry, SeenBalance};
use crate::purchase::doubt::{Doubt, Verdict};
use crate::purchase::event::PurchaseEvent;
use crate::purchase::lock::Lock;
use crate::purchase::state::{Booking, Effect, Finish, Phase, Quote, Settled, State, Step};
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing, PayOutcome};

pub(super) fn prepared(state: &mut State, fee_cap: Msat, seen: Option<SeenBalance>) -> Step {
    let Phase::Quoted(quote) = &state.phase else {
        return Step::ignored();
    };
    let pay_by = &state.terms.pay_by;
    let (Some(invoice), Some(wallet)) = (quote.invoice.clone(), pay_by.wallet().cloned()) else {
        return Step::ignored();
    };
    let (id, price) = (state.terms.id, quote.amount);
    let escrow = pay_by.is_escrow();
    state.phase = if escrow {
        Phase::Locked(Lock::ordered(quote.clone()))
    } else {
        Phase::Paying(quote.clone())
    };
    let mut step = Step::saved()
        .tell(PurchaseEvent::Reserved {
            purchase_id: id,
            reserved_msat: price.saturating_add(fee_cap),
        })
        .tell(PurchaseEvent::Paying {
            purchase_id: id,
            payment_hash: invoice.payment_hash,
        })
        .then(Effect::Pay);
    if escrow {
        step = step.then(Effect::WatchOrder);
    }
    // One transaction: what is set aside and that a payment begins. Nothing lies between the two
    // that could fail.
    step.entries = vec![
        Booking::Reserve {
            price,
            fee_cap,
            payment_hash: invoice.payment_hash,
            wallet,
            seen,
        },
        Booking::Plain(Entry::InFlight),
    ];
    step
}

pub(super) fn pay_answered(state: &mut State, outcome: PayOutcome, now: Now) -> Step {
    let Phase::Paying(quote) = &state.phase else {
        return escrow::pay_answered(state, outcome);
    };
    let quote = quote.clone();
    match outcome {
        PayOutcome::Paid { preimage, fee } => paid(state, &quote, preimage, fee, now),
        PayOutcome::InFlight => Step::unsaved().then(Effect::LookUp),
        PayOutcome::Failed(proof) => proven_failed(state, proof),
        PayOutcome::Unknown { reason } => in_doubt(state, quote, reason),
    }
}

fn in_doubt(state: &mut State, quote: Quote, reason: String) -> Step {
    state.phase = Phase::Unknown {
        quote,
        reason: reason.clone(),
        doubt: Doubt::default(),
    };
    let mut step = Step::saved().then(Effect::LookUp);
    step.entries = vec![Booking::Plain(Entry::Unknown { reason })];
    step
}

fn paid(state: &mut State, quote: &Quote, preimage: Option<Preimage>, fee: Msat, now: Now) -> Step {
    let hash = quote.invoice.as_ref().map(|invoice| invoice.payment_hash);
    let settled = Settled {
        price: quote.amount,
        fee,
        // A preimage of another hash proves nothing.
        preimage: preimage.filter(|preimage| Some(preimage.payment_hash()) == hash),
    };
    let tell = PurchaseEvent::Paid {
        purchase_id: state.terms.id,
        price_msat: settled.price,
        fee_msat: settled.fee,
    };
    let booking = Booking::Plain(Entry::Settle {
        price: settled.price,
        fee,
    });
    let say = hash.map(|hash| payment_sent(state, &hash.to_string()));
    let mut step = match state.answer.take() {
        Some(answer) => conclude(state, quote.clone(), settled, answer, now),
        None => {
            state.phase = Phase::Awaiting {
                quote: quote.clone(),
                settled,
            };
            let mut step = Step::saved();
            step.effects.extend(say);
            step
        }
    };
    step.tell.insert(0, tell);
    step.entries.insert(0, booking);
    step
}

fn proven_failed(state: &mut State, proof: FailureProof) -> Step {
    let code = if proof.insufficient_funds {
        Code::Wallet
    } else {
        Code::PaymentFailed
    };
    let why = proof.words().to_owned();
    let message = format!("the payment failed: {why}; nothing was paid");
    state.phase = Phase::Failed {
        code: code.as_str().to_owned(),
        message: message.clone(),
    };
    let mut step = Step::saved().then(Effect::Finish(Finish::Failed { code, message }));
    step.entries = vec![Booking::Plain(Entry::Release { proof: why })];
    step
}

pub(super) fn looked_up(state: &mut State, found: Outgoing, authoritative: bool, now: Now) -> Step {
    let (Phase::Paying(quote) | Phase::Unknown { quote, .. }) = &state.phase else {
        return escrow::looked_up(state, found, authoritative, now);
    };
    let quote = quote.clone();
    let doubt = match &state.phase {
        Phase::Unknown { doubt, .. } => *doubt,
        _ => Doubt::default(),
    };
    let expired_long_ago = quote
        .invoice
        .as_ref()
        .is_some_and(|invoice| now.at >= invoice.expires_at.plus(SETTLED_LONG_AGO_SECS));
    match doubt.hear(found, authoritative, expired_long_ago) {
        Verdict::Paid { preimage, fee } => paid(state, &quote, preimage, fee, now),
        Verdict::InFlight => {
            // What was counted must not count after a crash either.
            let mut step = Step::unsaved();
            if let Phase::Unknown { doubt, .. } = &mut state.phase {
                step.save = std::mem::take(doubt).is_any();
            }
            step
        }
        Verdict::Failed(proof) => proven_failed(state, proof),
        Verdict::Nearer(doubt, reason) => counted(state, quote, reason, doubt),
        Verdict::Nothing => Step::unsaved(),
    }
}

fn counted(state: &mut State, quote: Quote, reason: String, doubt: Doubt) -> Step {
    let first = matches!(state.phase, Phase::Paying(_));
    state.phase = Phase::Unknown {
        quote,
        reason: reason.clone(),
        doubt,
    };
    let mut step = Step::saved();
    if first {
        step.entries = vec![Booking::Plain(Entry::Unknown { reason })];
    }
    step
}

pub(super) fn give_up_looking(state: &mut State) -> Step {
    let (quote, reason, first) = match &state.phase {
        Phase::Unknown { quote, reason, .. } => (quote.clone(), reason.clone(), false),
        Phase::Paying(quote) => (
            quote.clone(),
            "the payment is still on its way".to_owned(),
            true,
        ),
        _ => return escrow::give_up(state),
    };
    let got = if state.answer.is_some() {
        " The provider answered; `recover` will show it."
    } else {
        ""
    };
    let message = format!(
        "the wallet can't say whether {} were paid ({reason}); they stay reserved. Run `agent-customer recover`.{got}",
        quote.amount
    );
    if first {
        state.phase = Phase::Unknown {
            quote,
            reason: reason.clone(),
            doubt: Doubt::default(),
        };
    }
    let mut step = Step::saved().then(Effect::Finish(Finish::Failed {
        code: Code::PaymentUnknown,
        message,
    }));
    if first {
        step.entries = vec![Booking::Plain(Entry::Unknown { reason })];
    }
    step
}

pub(super) fn resolved(state: &mut State, paid_: bool, now: Now) -> Step {
    let mut step = match &state.phase {
        phase if !phase.is_undecided() => return Step::ignored(),
        Phase::Paying(quote) | Phase::Unknown { quote, .. } if paid_ => {
            let quote = quote.clone();
            paid(state, &quote, None, Msat::ZERO, now)
        }
        Phase::Paying(_) | Phase::Unknown { .. } => {
            proven_failed(state, FailureProof::new("the owner said so"))
        }
        _ => escrow::resolved(state, paid_),
    };
    let word = if paid_ { "paid" } else { "failed" };
    step.entries.push(Booking::Plain(Entry::Note(format!(
        "resolved by the owner: {word}"
    ))));
    step
}

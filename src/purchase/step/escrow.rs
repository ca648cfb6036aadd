//! Escrow: the money is locked to the hash of a preimage of ours, and the preimage is let go for a
//! complete result and for nothing else. Whoever lacks it can't claim the money, so whatever the provider
//! does before it delivers costs the buyer time at most.

use super::Now;
use super::ending::{cancel, payment_sent};
use super::provider::{rest_of_stream, undelivered_message};
use crate::config::{RETURN_PATIENCE, SETTLE_PATIENCE, SETTLED_LONG_AGO_SECS};
use crate::error::Code;
use crate::ids::Preimage;
use crate::ledger::Entry;
use crate::protocol::message::{AgentMessage, HtlcLocked, PreimageRelease};
use crate::purchase::doubt::Verdict;
use crate::purchase::event::PurchaseEvent;
use crate::purchase::lock::{Lock, Word};
use crate::purchase::state::{Answer, Booking, Effect, Finish, Phase, Settled, State, Step};
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing, PayOutcome};

/// The wallet answered the order to pay: at once, or when the lock has ended.
pub(super) fn pay_answered(state: &mut State, outcome: PayOutcome) -> Step {
    let Some(lock) = state.phase.lock_mut() else {
        return Step::ignored();
    };
    lock.unanswered = false;
    match outcome {
        PayOutcome::Paid { preimage, fee } => paid(state, preimage, fee),
        PayOutcome::InFlight => in_flight(state).then(Effect::LookUp),
        PayOutcome::Failed(proof) => returned(state, &proof),
        PayOutcome::Unknown { reason } => in_doubt(state, reason),
    }
}

/// The wallet answered a look-up of the payment.
pub(super) fn looked_up(state: &mut State, found: Outgoing, authoritative: bool, now: Now) -> Step {
    let max_hold = state.terms.max_hold_secs;
    let Some(lock) = state.phase.lock_mut() else {
        return Step::ignored();
    };
    // A payment may be held for long after its invoice expired, and not every wallet lists it then.
    let ended_long_ago = lock.quote.invoice.as_ref().is_some_and(|invoice| {
        let ends = invoice.expires_at.plus(invoice.hold_secs.max(max_hold));
        now.at >= ends.plus(SETTLED_LONG_AGO_SECS)
    });
    match found {
        // The wallet may be about to begin. That it has not refused is all that is known.
        Outgoing::Failed(_) | Outgoing::NotFound if lock.unanswered => announce(state),
        found => match lock.doubt.hear(found, authoritative, ended_long_ago) {
            Verdict::Paid { preimage, fee } => paid(state, preimage, fee),
            Verdict::InFlight => in_flight(state),
            Verdict::Failed(proof) => returned(state, &proof),
            Verdict::Nearer(doubt, _) => {
                lock.doubt = doubt;
                Step::saved()
            }
            Verdict::Nothing => Step::unsaved(),
        },
    }
}

/// The money is on its way, for all the wallet knows. Whatever was counted towards a proof of failure no
/// longer counts, nor after a crash.
fn in_flight(state: &mut State) -> Step {
    let Some(lock) = state.phase.lock_mut() else {
        return Step::ignored();
    };
    let before = std::mem::replace(&mut lock.word, Word::InFlight);
    let counted = std::mem::take(&mut lock.doubt).is_any();
    let mut step = announce(state);
    step.save = counted;
    if matches!(before, Word::Unknown(_)) {
        step.save = true;
        step.entries.push(Booking::Plain(Entry::InFlight));
    }
    step
}

/// Tells the provider, once, that the money is locked. It starts on its own wallet's word; deployed ones
/// start on these messages.
fn announce(state: &mut State) -> Step {
    let Phase::Locked(lock) = &mut state.phase else {
        return Step::unsaved();
    };
    let (amount, invoice) = (lock.quote.amount, lock.quote.invoice.clone());
    let Some(invoice) = invoice.filter(|_| !lock.announced) else {
        return Step::unsaved();
    };
    lock.announced = true;
    let hash = invoice.payment_hash;
    Step::unsaved()
        .tell(PurchaseEvent::Locked {
            purchase_id: state.terms.id,
            payment_hash: hash,
            amount_msat: amount,
        })
        .then(Effect::Say(AgentMessage::HtlcLocked(HtlcLocked {
            job_id: state.terms.job_id(),
            payment_hash: hash.to_string(),
            amount_msats: amount,
            expiry_secs: invoice.hold_secs,
            token: None,
        })))
        .then(payment_sent(state, &hash.to_string()))
}

fn in_doubt(state: &mut State, reason: String) -> Step {
    let Some(lock) = state.phase.lock_mut() else {
        return Step::ignored();
    };
    lock.word = Word::Unknown(reason.clone());
    let mut step = Step::saved().then(Effect::LookUp);
    step.entries = vec![Booking::Plain(Entry::Unknown { reason })];
    step
}

/// The payee has the money.
fn paid(state: &mut State, preimage: Option<Preimage>, fee: Msat) -> Step {
    let Some(lock) = state.phase.lock().cloned() else {
        return Step::ignored();
    };
    let (price, hash) = (lock.quote.amount, lock.hash());
    // A preimage of another hash proves nothing.
    let told = preimage.filter(|preimage| Some(preimage.payment_hash()) == hash);
    let ours = state.terms.pay_by.preimage();
    let bolt11 = state.phase.bolt11().map(str::to_owned);
    let settled = |preimage| Settled {
        price,
        fee,
        preimage,
    };
    let mut step = match state.phase.clone() {
        Phase::Released {
            text, elapsed_ms, ..
        } => {
            state.phase = Phase::Delivered {
                price,
                settled: settled(ours),
                payment_hash: hash,
                bolt11,
                text,
                elapsed_ms,
            };
            Step::saved().then(Effect::Finish(Finish::Delivered))
        }
        // Nobody had the preimage from us. It is paid all the same, and what is paid is booked.
        Phase::Withheld {
            reason, spoiled, ..
        } => {
            let settled = settled(told);
            let message = undelivered_message(&settled, &reason, spoiled);
            state.phase = Phase::Undelivered {
                quote: lock.quote,
                settled,
                reason,
                spoiled,
            };
            Step::saved().then(undelivered(message))
        }
        _ => {
            state.phase = Phase::Awaiting {
                quote: lock.quote,
                settled: settled(told),
            };
            let mut step = Step::saved();
            if let Some(hash) = hash.filter(|_| !lock.announced) {
                step = step.then(payment_sent(state, &hash.to_string()));
            }
            step
        }
    };
    step.entries
        .push(Booking::Plain(Entry::Settle { price, fee }));
    step.tell(PurchaseEvent::Paid {
        purchase_id: state.terms.id,
        price_msat: price,
        fee_msat: fee,
    })
}

/// The wallet has the money back, or never let it go.
fn returned(state: &mut State, proof: &FailureProof) -> Step {
    let Some(lock) = state.phase.lock().cloned() else {
        return Step::ignored();
    };
    let why = proof.words();
    let (code, message) = match state.phase.clone() {
        // Delivered, and never claimed: the provider's loss.
        Phase::Released {
            text, elapsed_ms, ..
        } => {
            state.phase = Phase::Delivered {
                price: lock.quote.amount,
                settled: Settled::nothing(state.terms.pay_by.preimage()),
                payment_hash: lock.hash(),
                bolt11: state.phase.bolt11().map(str::to_owned),
                text,
                elapsed_ms,
            };
            return freed(proof).then(Effect::Finish(Finish::Delivered));
        }
        Phase::Withheld { reason, .. } => (
            Code::Undelivered,
            format!("no result: {reason}; the locked money is back ({why}): nothing was paid"),
        ),
        _ if lock.word == Word::InFlight => (
            Code::Undelivered,
            format!("no result, and the locked money is back ({why}): nothing was paid"),
        ),
        _ => (
            if proof.insufficient_funds {
                Code::Wallet
            } else {
                Code::PaymentFailed
            },
            format!("the payment into escrow failed: {why}; nothing was paid"),
        ),
    };
    state.phase = Phase::Failed {
        code: code.as_str().to_owned(),
        message: message.clone(),
    };
    freed(proof).then(Effect::Finish(Finish::Failed { code, message }))
}

fn freed(proof: &FailureProof) -> Step {
    let mut step = Step::saved();
    step.entries = vec![Booking::Plain(Entry::Release {
        proof: proof.words().to_owned(),
    })];
    step
}

/// The provider answered the request while its money is locked. The first complete result counts, also
/// after a failure.
pub(super) fn answered(state: &mut State, answer: Answer, now: Now) -> Step {
    match (&state.phase, answer) {
        (phase, Answer::Text(text)) if phase.takes_results() && !text.is_empty() => {
            release(state, text, now)
        }
        (Phase::Locked(_), Answer::Text(_)) => withhold(state, "its result is empty"),
        (Phase::Locked(_), Answer::Failure(said) | Answer::TakenBack(said)) => {
            withhold(state, &said)
        }
        _ => Step::ignored(),
    }
}

/// The provider's final text is another than the one it streamed. What it says from here on is worth as
/// little, so that nothing is ever let go for it.
pub(super) fn contradicted(state: &mut State, problem: &str) -> Step {
    let step = match state.phase {
        Phase::Locked(_) => withhold(state, problem),
        Phase::Withheld { spoiled: false, .. } => Step::saved(),
        _ => return Step::ignored(),
    };
    if let Phase::Withheld { spoiled, .. } = &mut state.phase {
        *spoiled = true;
    }
    step
}

/// The one place that lets the preimage go: with the result on record, and after it.
fn release(state: &mut State, text: String, now: Now) -> Step {
    let Some(lock) = state.phase.lock().cloned() else {
        return Step::ignored();
    };
    let last = rest_of_stream(state, &text);
    let hash = lock.hash();
    state.phase = Phase::Released {
        lock,
        text,
        elapsed_ms: now.elapsed_ms,
    };
    let mut step = Step::saved();
    step.tell.extend(last);
    step.tell
        .extend(hash.map(|payment_hash| PurchaseEvent::Released {
            purchase_id: state.terms.id,
            payment_hash,
        }));
    step.effects.extend(preimage_release(state));
    step.then(Effect::LookUp)
        .then(Effect::WaitForWallet(SETTLE_PATIENCE))
}

/// What claims the money, once the result is on record.
pub(super) fn preimage_release(state: &State) -> Option<Effect> {
    let Phase::Released { .. } = &state.phase else {
        return None;
    };
    let preimage = state.terms.pay_by.preimage()?;
    Some(Effect::Say(AgentMessage::PreimageRelease(
        PreimageRelease {
            job_id: state.terms.job_id(),
            preimage: preimage.reveal(),
        },
    )))
}

/// There is no result. The preimage stays here; the money stays set aside until the wallet has it back.
fn withhold(state: &mut State, problem: &str) -> Step {
    let Phase::Locked(lock) = &state.phase else {
        return Step::ignored();
    };
    state.phase = Phase::Withheld {
        lock: lock.clone(),
        reason: problem.to_owned(),
        spoiled: false,
    };
    Step::saved()
        .then(Effect::LookUp)
        .then(Effect::WaitForWallet(RETURN_PATIENCE))
}

/// The buyer's patience is over. A provider that has not begun is told so: it works for nothing, and gives
/// the money back at once.
pub(super) fn deadline(state: &mut State, now: Now) -> Step {
    match &state.phase {
        Phase::Locked(lock) if matches!(lock.word, Word::Unknown(_)) => give_up(state),
        Phase::Locked(_) => {
            let said = if state.stream.text().is_empty() {
                "the provider had the money locked and sent nothing in time"
            } else {
                "the provider's stream broke off"
            };
            let mut step = withhold(state, said);
            // Recovery at a start is in a hurry, and the provider has its time.
            let over = now.at >= state.terms.deadline;
            step.effects = over.then(|| cancel(state)).into_iter().collect();
            step.effects.extend(give_up(state).effects);
            step
        }
        _ => give_up(state),
    }
}

/// The wallet has been asked long enough: how it stands now is what the buyer is told.
pub(super) fn give_up(state: &State) -> Step {
    let finish = match &state.phase {
        Phase::Locked(lock) => {
            let (amount, word) = (lock.quote.amount, &lock.word);
            match word {
                Word::Told | Word::InFlight => return Step::ignored(),
                Word::Unknown(reason) => Finish::Failed {
                    code: Code::PaymentUnknown,
                    message: format!(
                        "the wallet can't say whether {amount} were locked ({reason}); they stay reserved, and nothing is released without a result. Run `agent-customer recover`"
                    ),
                },
            }
        }
        Phase::Withheld { lock, reason, .. } => Finish::Failed {
            code: Code::Undelivered,
            message: withheld_message(lock, reason),
        },
        Phase::Released { .. } => Finish::Delivered,
        _ => return Step::ignored(),
    };
    Step::unsaved().then(Effect::Finish(finish))
}

pub(super) fn withheld_message(lock: &Lock, reason: &str) -> String {
    format!(
        "no result: {reason}; nothing was paid, and {} stay locked until they come back. `agent-customer recover` frees them then, or fetches a late result",
        lock.quote.amount
    )
}

fn undelivered(message: String) -> Effect {
    Effect::Finish(Finish::Failed {
        code: Code::Undelivered,
        message,
    })
}

/// The owner stopped it.
pub(super) fn interrupted(state: &State) -> Step {
    let Phase::Locked(lock) = &state.phase else {
        return give_up(state);
    };
    Step::unsaved().then(Effect::Finish(Finish::Failed {
        code: Code::Interrupted,
        message: format!(
            "stopped while {} were locked, before the result came; nothing was paid, and they stay reserved. Run `agent-customer recover` to fetch it",
            lock.quote.amount
        ),
    }))
}

/// Taken up again: what a crash may have kept from being said is said again.
pub(super) fn resumed(state: &mut State) -> Step {
    if let Some(lock) = state.phase.lock_mut() {
        lock.announced = false;
    }
    let step = Step::unsaved().then(Effect::LookUp);
    match preimage_release(state) {
        Some(release) => step
            .then(release)
            .then(Effect::WaitForWallet(SETTLE_PATIENCE)),
        None => step,
    }
}

/// The owner's word.
pub(super) fn resolved(state: &mut State, was_paid: bool) -> Step {
    if was_paid {
        paid(state, None, Msat::ZERO)
    } else {
        returned(state, &FailureProof::new("the owner said so"))
    }
}

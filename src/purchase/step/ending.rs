//! What time and the owner say, and how a purchase ends before anything was paid.

use super::Now;
use super::escrow;
use super::money::give_up_looking;
use super::provider::{no_whole_text, undelivered_message};
use crate::error::Code;
use crate::protocol::message::{AgentMessage, Cancel, PaymentSent};
use crate::purchase::state::{Effect, Finish, Phase, State, Step};

/// What deployed customers send in place of a payment where none is made.
pub(super) const MOCK_PAYMENT_ID: &str = "mock-payment-id";

const UNANSWERED: &str =
    "the provider did not answer in time: it may be gone, or too busy; nothing was paid";

pub(super) fn not_sent(state: &mut State, reason: &str) -> Step {
    match state.phase {
        Phase::Requested => {
            let message = format!("the request reached no relay: {reason}; nothing was paid");
            before_payment(state, Code::Network, message)
        }
        _ => Step::ignored(),
    }
}

/// Somebody else is asked instead. A provider that has quoted by now is not given up.
pub(super) fn no_quote(state: &mut State) -> Step {
    match state.phase {
        Phase::Requested => before_payment(state, Code::Timeout, UNANSWERED.to_owned()),
        _ => Step::ignored(),
    }
}

pub(super) fn deadline(state: &mut State, now: Now) -> Step {
    let undecided = matches!(state.phase, Phase::Paying(_) | Phase::Unknown { .. });
    let awaits = state.phase.takes_results() && !undecided;
    let stream = &state.stream;
    let has_all = stream.is_numbered() && stream.is_complete() && !stream.text().is_empty();
    if awaits && has_all {
        // All of it is here. Only a whole text that says it again is not, and may never come.
        return no_whole_text(state, now);
    }
    match &state.phase {
        Phase::Requested | Phase::Quoted(_) => {
            before_payment(state, Code::Timeout, UNANSWERED.to_owned())
        }
        Phase::Paying(_) | Phase::Unknown { .. } => give_up_looking(state),
        Phase::Locked(_) | Phase::Released { .. } | Phase::Withheld { .. } => {
            escrow::deadline(state, now)
        }
        Phase::Awaiting { .. } => {
            let said = if state.stream.text().is_empty() {
                "the provider took the payment and sent nothing in time"
            } else {
                "the provider's stream broke off"
            };
            no_result(state, said)
        }
        Phase::Undelivered {
            settled,
            reason,
            spoiled,
            ..
        } => {
            let message = undelivered_message(settled, reason, *spoiled);
            Step::unsaved().then(Effect::Finish(Finish::Failed {
                code: Code::Undelivered,
                message,
            }))
        }
        Phase::Delivered { .. } | Phase::Failed { .. } => Step::ignored(),
    }
}

fn no_result(state: &mut State, problem: &str) -> Step {
    let Phase::Awaiting { quote, settled } = &state.phase else {
        return Step::ignored();
    };
    let message = undelivered_message(settled, problem, false);
    state.phase = Phase::Undelivered {
        quote: quote.clone(),
        settled: settled.clone(),
        reason: problem.to_owned(),
        spoiled: false,
    };
    Step::saved().then(Effect::Finish(Finish::Failed {
        code: Code::Undelivered,
        message,
    }))
}

pub(super) fn interrupted(state: &mut State) -> Step {
    let (code, message) = match &state.phase {
        Phase::Requested | Phase::Quoted(_) => {
            let stopped = "stopped before any payment; nothing was paid".to_owned();
            return before_payment(state, Code::Interrupted, stopped);
        }
        Phase::Paying(quote) | Phase::Unknown { quote, .. } => (
            Code::Interrupted,
            format!(
                "stopped while {} were being paid; they stay reserved. Run `agent-customer recover`",
                quote.amount
            ),
        ),
        Phase::Awaiting { settled, .. } => (
            Code::Interrupted,
            format!(
                "stopped after {} were paid, before the result came. Run `agent-customer recover` to fetch it",
                settled.paid()
            ),
        ),
        Phase::Locked(_) | Phase::Released { .. } | Phase::Withheld { .. } => {
            return escrow::interrupted(state);
        }
        Phase::Delivered { .. } | Phase::Undelivered { .. } | Phase::Failed { .. } => {
            return Step::ignored();
        }
    };
    Step::unsaved().then(Effect::Finish(Finish::Failed { code, message }))
}

/// Says again what a crash may have kept from being said: deployed providers begin on `PaymentSent` alone.
pub(super) fn resumed(state: &mut State) -> Step {
    if state.phase.lock().is_some() {
        return escrow::resumed(state);
    }
    let Phase::Awaiting { quote, .. } = &state.phase else {
        return Step::ignored();
    };
    let payment_id = quote.invoice.as_ref().map_or_else(
        || MOCK_PAYMENT_ID.to_owned(),
        |invoice| invoice.payment_hash.to_string(),
    );
    Step::unsaved().then(payment_sent(state, &payment_id))
}

/// Ends a purchase for which nothing was paid and nothing set aside, and tells the provider so.
pub(super) fn before_payment(state: &mut State, code: Code, message: String) -> Step {
    if !matches!(state.phase, Phase::Requested | Phase::Quoted(_)) {
        return Step::ignored();
    }
    let asked = !matches!(code, Code::Network | Code::ProviderRefused);
    state.phase = Phase::Failed {
        code: code.as_str().to_owned(),
        message: message.clone(),
    };
    let mut step = Step::saved();
    if asked {
        step = step.then(cancel(state));
    }
    step.then(Effect::Finish(Finish::Failed { code, message }))
}

pub(super) fn cancel(state: &State) -> Effect {
    Effect::Say(AgentMessage::Cancel(Cancel {
        job_id: state.terms.job_id(),
    }))
}

pub(super) fn payment_sent(state: &State, payment_id: &str) -> Effect {
    Effect::Say(AgentMessage::PaymentSent(PaymentSent {
        job_id: state.terms.job_id(),
        payment_id: payment_id.to_owned(),
    }))
}

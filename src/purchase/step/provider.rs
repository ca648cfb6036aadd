//! What the provider says: an invoice to be authorised, pieces of a result, a result, a failure.

use nostr::PublicKey;

use super::Now;
use super::ending::{MOCK_PAYMENT_ID, before_payment, payment_sent};
use super::escrow;
use crate::config::MIN_INVOICE_LIFE_SECS;
use crate::error::Code;
use crate::ids::PaymentHash;
use crate::protocol::message::{AgentMessage, Invoice};
use crate::purchase::assembly::{Added, Whole};
use crate::purchase::event::PurchaseEvent;
use crate::purchase::state::{
    Answer, Effect, Finish, PayBy, Phase, Quote, QuotedInvoice, Settled, State, Step,
};
use crate::units::{Msat, UnixSecs};
use crate::wallet::invoice::{self, SECS_PER_BLOCK};

/// The `bolt11` that deployed providers without a wallet send, up to the amount.
const MOCK_INVOICE_MARK: &str = "1mock";

/// How deployed providers begin the text that says that there is no result.
const FAILED: &str = "Error: ";

/// What is said of a provider whose whole text and numbered pieces disagree.
const CONTRADICTED: &str = "its final text is not what it streamed";

pub(super) fn heard(state: &mut State, from: PublicKey, message: AgentMessage, now: Now) -> Step {
    let ours = message.job_id() == Some(&state.terms.job_id());
    if from != state.terms.provider || !ours {
        return Step::ignored();
    }
    match message {
        AgentMessage::Invoice(invoice) => quoted(state, &invoice, now),
        AgentMessage::StreamChunk(piece) => {
            chunk(state, piece.seq, &piece.chunk, piece.is_final, now)
        }
        AgentMessage::JobResult(result) => whole_text(state, result.result, now),
        AgentMessage::JobError(error) => {
            let said = format!("{} ({})", error.message, error.code);
            answered(state, Answer::Failure(said), now)
        }
        AgentMessage::JobAccepted(_)
        | AgentMessage::ServiceAnnouncement(_)
        | AgentMessage::JobRequest(_)
        | AgentMessage::PaymentSent(_)
        | AgentMessage::HtlcLocked(_)
        | AgentMessage::PreimageRelease(_)
        | AgentMessage::Cancel(_)
        | AgentMessage::Sealed(_) => Step::ignored(),
    }
}

fn quoted(state: &mut State, message: &Invoice, now: Now) -> Step {
    // One invoice counts: the first. Whatever comes after it, from whomever, changes nothing.
    if !matches!(state.phase, Phase::Requested) {
        return Step::ignored();
    }
    let quote = match authorise(state, message, now.at) {
        Ok(quote) => quote,
        Err((code, problem)) => return before_payment(state, code, problem),
    };
    let tell = PurchaseEvent::Quoted {
        purchase_id: state.terms.id,
        price_msat: quote.amount,
        payment_hash: quote.invoice.as_ref().map(|invoice| invoice.payment_hash),
        expires_at: quote.invoice.as_ref().map(|invoice| invoice.expires_at),
    };
    if quote.invoice.is_some() {
        state.phase = Phase::Quoted(quote);
        return Step::unsaved().tell(tell).then(Effect::Prepare);
    }
    let settled = Settled {
        price: Msat::ZERO,
        fee: Msat::ZERO,
        preimage: None,
    };
    let paid = payment_sent(state, MOCK_PAYMENT_ID);
    state.phase = Phase::Awaiting { quote, settled };
    Step::saved().tell(tell).then(paid)
}

/// Decides whether an invoice may be paid: it is the invoice that is authorised, not the message.
fn authorise(state: &State, message: &Invoice, now: UnixSecs) -> Result<Quote, (Code, String)> {
    let terms = &state.terms;
    let mock = message.bolt11.starts_with("lnbcrt") && message.bolt11.ends_with(MOCK_INVOICE_MARK);
    let ceiling = [terms.listed, terms.max_price]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Msat::MAX);
    let modern = message.expires_at.is_some();
    match (&terms.pay_by, mock) {
        (PayBy::Nothing, false) => Err((
            Code::Wallet,
            "the provider wants a real payment, and --no-wallet pays nothing: use a wallet, or another provider".to_owned(),
        )),
        (PayBy::Nothing, true) if message.amount_msats > ceiling => Err((
            Code::BadInvoice,
            format!(
                "the provider asks {}, more than the {ceiling} agreed; nothing was paid",
                message.amount_msats
            ),
        )),
        (PayBy::Nothing, true) => Ok(Quote {
            amount: message.amount_msats,
            invoice: None,
            modern,
        }),
        (PayBy::Invoice(_) | PayBy::Escrow { .. }, _) => {
            let terms = invoice::Terms {
                amount: message.amount_msats,
                ceiling,
                network: terms.network,
                now,
                min_time_left_secs: MIN_INVOICE_LIFE_SECS,
                max_hold_secs: state.terms.max_hold_secs,
                on_hash: terms.pay_by.preimage().map(|ours| ours.payment_hash()),
            };
            let checked = invoice::check(&message.bolt11, &terms).map_err(|problem| {
                let refused = format!("the provider's invoice was refused: {problem}; nothing was paid");
                (Code::BadInvoice, refused)
            })?;
            // Deployed providers write other things than a hash here. One that writes a hash means it.
            let said = message.payment_hash.as_ref().and_then(|hash| hash.parse().ok());
            if said.is_some_and(|said: PaymentHash| said != checked.payment_hash) {
                return Err((
                    Code::BadInvoice,
                    "the provider's invoice was refused: its payment hash is not the one in the message; nothing was paid".to_owned(),
                ));
            }
            Ok(Quote {
                amount: checked.amount,
                invoice: Some(QuotedInvoice {
                    bolt11: checked.bolt11,
                    payment_hash: checked.payment_hash,
                    expires_at: checked.expires_at,
                    hold_secs: checked.min_final_cltv.saturating_mul(SECS_PER_BLOCK),
                }),
                modern,
            })
        }
    }
}

fn chunk(state: &mut State, seq: Option<u32>, chunk: &str, is_final: bool, now: Now) -> Step {
    if !state.phase.takes_results() {
        return Step::ignored();
    }
    let mut tell = None;
    match state.stream.add(seq, chunk, is_final) {
        Added::TooMuch => {
            let said = "it streams more than any result may have".to_owned();
            return answered(state, Answer::Failure(said), now);
        }
        Added::Text(text) => tell = Some(show(state, text)),
        Added::Nothing => {}
    }
    let ended = is_final || state.stream.is_numbered();
    let complete = ended && state.stream.is_complete();
    let mut step = Step::unsaved();
    step.tell.extend(tell);
    if complete {
        step = step.then(Effect::AwaitWholeText);
    }
    step
}

fn show(state: &mut State, text: String) -> PurchaseEvent {
    let seq = state.shown;
    state.shown = state.shown.saturating_add(1);
    PurchaseEvent::Chunk {
        purchase_id: state.terms.id,
        seq,
        text,
        in_order: state.stream.is_numbered(),
    }
}

fn whole_text(state: &mut State, text: String, now: Now) -> Step {
    if let Some(said) = failure(state, &text) {
        let said = said.to_owned();
        return answered(state, Answer::Failure(said), now);
    }
    if contradicts(state, &text) {
        if state.phase.lock().is_some() {
            return escrow::contradicted(state, CONTRADICTED);
        }
        return answered(state, Answer::TakenBack(CONTRADICTED.to_owned()), now);
    }
    answered(state, Answer::Text(text), now)
}

/// Why there is no result, of a text that says so as deployed providers do. Modern ones have a message of its
/// own for that, so their word is taken for a text; but in escrow nothing is let go for such a text alone: only
/// where it was streamed whole, as no failure is.
fn failure<'a>(state: &State, text: &'a str) -> Option<&'a str> {
    let said = text.strip_prefix(FAILED)?;
    let modern = state.phase.quote().is_some_and(|quote| quote.modern);
    let stream = &state.stream;
    let streamed = stream.is_numbered() && stream.is_complete() && stream.text() == text;
    let is_text = modern && (streamed || state.phase.lock().is_none());
    (!is_text).then_some(said)
}

/// Numbered pieces are the provider's signed word on the order of the text; a whole that is not their
/// continuation takes that word back. Pieces without numbers may have been reordered by a relay, and of those
/// that say two things it is up to the relays which comes first, so there the whole text is right.
fn contradicts(state: &State, whole: &str) -> bool {
    state.stream.is_numbered() && state.stream.compare(whole) == Whole::Contradicts
}

pub(super) fn no_whole_text(state: &mut State, now: Now) -> Step {
    // Without numbers nobody can tell whether relays have kept pieces back. What is paid already is better
    // delivered so than not at all; what is only locked is let go for a whole text.
    let may_lack_pieces = !state.stream.is_numbered();
    if may_lack_pieces && state.phase.lock().is_some() {
        return Step::ignored();
    }
    let is_answered = state.answer.as_ref().is_some_and(Answer::is_last);
    if !state.stream.is_complete() || !state.phase.takes_results() || is_answered {
        return Step::ignored();
    }
    let text = state.stream.text().to_owned();
    answered(state, Answer::Text(text), now)
}

fn answered(state: &mut State, answer: Answer, now: Now) -> Step {
    match (&state.phase, answer) {
        (Phase::Requested | Phase::Quoted(_), Answer::Failure(said)) => before_payment(
            state,
            Code::ProviderRefused,
            format!("the provider refused: {said}; nothing was paid"),
        ),
        // A result before a payment is nobody's promise kept: not asked for, not trusted.
        (Phase::Requested | Phase::Quoted(_), Answer::Text(_) | Answer::TakenBack(_))
        | (Phase::Delivered { .. } | Phase::Failed { .. }, _) => Step::ignored(),
        (Phase::Locked(_) | Phase::Released { .. } | Phase::Withheld { .. }, answer) => {
            escrow::answered(state, answer, now)
        }
        (Phase::Paying(_) | Phase::Unknown { .. }, answer) => {
            // The provider's wallet was quicker than ours. The first result counts, also after a failure, but
            // none after a word taken back: as if the wallet had answered first.
            let is_answered = state.answer.as_ref().is_some_and(Answer::is_last);
            if state.answer.is_none() || (!is_answered && answer.is_last()) {
                state.answer = Some(answer);
            }
            Step::unsaved()
        }
        // That there is no result is known. A failure that is read once more must not hide the result
        // that came after it: relays tell what they have stored in no order to rely on.
        (Phase::Undelivered { spoiled: true, .. }, _) => Step::ignored(),
        (Phase::Undelivered { .. }, Answer::TakenBack(_)) => spoil(state),
        (Phase::Undelivered { .. }, answer) if !answer.is_result() => Step::ignored(),
        (
            Phase::Awaiting { quote, settled } | Phase::Undelivered { quote, settled, .. },
            answer,
        ) => {
            let (quote, settled) = (quote.clone(), settled.clone());
            conclude(state, quote, settled, answer, now)
        }
    }
}

/// What was given up for another reason turns out to be worth nothing, whatever comes.
fn spoil(state: &mut State) -> Step {
    if let Phase::Undelivered { spoiled, .. } = &mut state.phase {
        *spoiled = true;
    }
    Step::saved()
}

/// The payment is settled and the answer is in.
pub(super) fn conclude(
    state: &mut State,
    quote: Quote,
    settled: Settled,
    answer: Answer,
    now: Now,
) -> Step {
    let answer = match answer {
        // It may have come before the pieces that it disagrees with, while the wallet had yet to answer.
        Answer::Text(text) if contradicts(state, &text) => {
            Answer::TakenBack(CONTRADICTED.to_owned())
        }
        answer => answer,
    };
    let spoiled = matches!(answer, Answer::TakenBack(_));
    let problem = match answer {
        Answer::Text(text) if !text.is_empty() => {
            let last = rest_of_stream(state, &text);
            state.answer = None;
            let (payment_hash, bolt11) = quote
                .invoice
                .map(|invoice| (invoice.payment_hash, invoice.bolt11))
                .unzip();
            state.phase = Phase::Delivered {
                price: quote.amount,
                settled,
                payment_hash,
                bolt11,
                text,
                elapsed_ms: now.elapsed_ms,
            };
            let mut step = Step::saved();
            step.tell.extend(last);
            return step.then(Effect::Finish(Finish::Delivered));
        }
        Answer::Text(_) => "its result is empty".to_owned(),
        Answer::Failure(said) | Answer::TakenBack(said) => said,
    };
    let message = undelivered_message(&settled, &problem, spoiled);
    state.phase = Phase::Undelivered {
        quote,
        settled,
        reason: problem,
        spoiled,
    };
    Step::saved().then(Effect::Finish(Finish::Failed {
        code: Code::Undelivered,
        message,
    }))
}

/// What was shown in pieces is shown to its end; what came whole is in the receipt.
pub(super) fn rest_of_stream(state: &mut State, whole: &str) -> Option<PurchaseEvent> {
    let rest = match state.stream.compare(whole) {
        Whole::Continues(rest) => rest,
        // It is not what was shown; it is in the receipt.
        Whole::Replaces | Whole::Contradicts => String::new(),
    };
    let streamed = state.shown > 0 && !rest.is_empty();
    streamed.then(|| show(state, rest))
}

pub(super) fn undelivered_message(settled: &Settled, problem: &str, spoiled: bool) -> String {
    let paid = if settled.paid().is_zero() {
        "nothing was paid (no wallet)".to_owned()
    } else {
        format!("{} were paid", settled.paid())
    };
    let later = if spoiled {
        "Nothing else that it says of this job is taken"
    } else {
        "A late result is fetched by `agent-customer recover`"
    };
    format!("no result: {problem}; {paid}. {later}")
}

//! What a buyer has been told, kept apart from the machine under test: what its provider said that could be
//! a result, and what its wallet said that could prove a failure.

use std::collections::BTreeMap;

use agent_compute::config::SETTLED_LONG_AGO_SECS;
use agent_compute::protocol::message::AgentMessage;
use agent_compute::purchase::state::{Happening, State};
use agent_compute::units::UnixSecs;
use agent_compute::wallet::{Outgoing, PayOutcome};

use super::world::World;

/// What the provider said of the result in the present run, in the order in which it was heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Numbered pieces: of each number the first.
    pieces: BTreeMap<u32, String>,
    last: Option<u32>,
    /// Whether pieces came without numbers.
    loose: bool,
    wholes: Vec<String>,
}

impl Heard {
    fn hear(&mut self, message: &AgentMessage) {
        match message {
            AgentMessage::JobResult(result) => self.wholes.push(result.result.clone()),
            AgentMessage::StreamChunk(piece) => match piece.seq {
                Some(seq) => {
                    if piece.is_final && self.last.is_none() {
                        self.last = Some(seq);
                    }
                    if self.last.is_none_or(|last| seq <= last) {
                        self.pieces
                            .entry(seq)
                            .or_insert_with(|| piece.chunk.clone());
                    }
                }
                None => self.loose = true,
            },
            _ => {}
        }
    }

    /// The pieces from the first on without a gap, and those after the gap.
    fn parts(&self) -> (String, Vec<(u32, &str)>) {
        let (mut text, mut rest, mut next) = (String::new(), Vec::new(), 0);
        for (seq, piece) in &self.pieces {
            if *seq == next {
                text.push_str(piece);
                next += 1;
            } else if self.last.is_none_or(|last| *seq <= last) {
                rest.push((*seq, piece.as_str()));
            }
        }
        (text, rest)
    }

    fn is_complete(&self) -> bool {
        let Some(last) = self.last else { return false };
        (0..=last).all(|seq| self.pieces.contains_key(&seq))
    }

    /// Why `text` is not a result that its provider has signed in full; `None`: it is one.
    pub fn objection(&self, text: &str) -> Option<String> {
        if text.is_empty() {
            return Some("it is empty".to_owned());
        }
        let said_whole = self.wholes.iter().any(|whole| whole == text);
        if !said_whole && (!self.is_complete() || self.parts().0 != text) {
            return Some("the provider never said it whole".to_owned());
        }
        self.contradiction(text)
    }

    /// Whether there is a text among what was heard that nothing speaks against, and nothing else does.
    pub fn has_result(&self, modern: bool) -> bool {
        let is_text =
            |whole: &&String| !whole.is_empty() && (modern || !whole.starts_with("Error: "));
        let mut texts = self.wholes.iter().filter(is_text).peekable();
        texts.peek().is_some() && texts.all(|text| self.contradiction(text).is_none())
    }

    /// In what the numbered pieces disagree with `text` as the whole of them.
    fn contradiction(&self, text: &str) -> Option<String> {
        if self.loose || self.pieces.is_empty() {
            return None;
        }
        let (begun, rest) = self.parts();
        if self.is_complete() {
            return (begun != text).then(|| "its pieces say another text".to_owned());
        }
        let Some(mut after) = text.strip_prefix(begun.as_str()) else {
            return Some("it does not begin as its pieces do".to_owned());
        };
        for (seq, piece) in rest {
            if Some(seq) == self.last {
                return (!after.ends_with(piece)).then(|| "its last piece is not in it".to_owned());
            }
            match after.find(piece) {
                Some(at) => after = &after[at + piece.len()..],
                None => return Some(format!("its piece {seq} is not in it")),
            }
        }
        None
    }
}

/// What the wallet said of the payment, over all runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof {
    /// That it failed, so many times without a sign of life in between.
    failed: u32,
    /// That there is no such payment, long after there could have been one.
    missing: u32,
}

impl Proof {
    /// Whether this answer, after the earlier ones, proves that the payment did not and will not happen.
    pub fn is_proven_by(
        &self,
        happening: &Happening,
        state: &State,
        now: UnixSecs,
        ordered: bool,
    ) -> bool {
        match happening {
            Happening::PayAnswered(PayOutcome::Failed(_)) | Happening::Resolved { paid: false } => {
                true
            }
            Happening::LookedUp { .. } if ordered => false,
            Happening::LookedUp {
                found: Outgoing::Failed(_),
                authoritative,
            } => *authoritative || self.failed > 0,
            Happening::LookedUp {
                found: Outgoing::NotFound,
                authoritative,
            } => *authoritative || (self.missing > 0 && is_long_ago(state, now)),
            _ => false,
        }
    }

    pub fn hear(&mut self, happening: &Happening, state: &State, now: UnixSecs, ordered: bool) {
        match happening {
            Happening::PayAnswered(PayOutcome::InFlight)
            | Happening::LookedUp {
                found: Outgoing::InFlight,
                ..
            } => *self = Self::default(),
            Happening::LookedUp { .. } if ordered => {}
            Happening::LookedUp {
                found: Outgoing::Failed(_),
                ..
            } => {
                *self = Self {
                    failed: self.failed + 1,
                    missing: 0,
                }
            }
            Happening::LookedUp {
                found: Outgoing::NotFound,
                ..
            } if is_long_ago(state, now) => {
                *self = Self {
                    failed: 0,
                    missing: self.missing + 1,
                }
            }
            _ => {}
        }
    }
}

/// Whether a payment that was made would long be decided, by the buyer's clock.
fn is_long_ago(state: &State, now: UnixSecs) -> bool {
    let Some(invoice) = state.phase.quote().and_then(|quote| quote.invoice.as_ref()) else {
        return false;
    };
    let held = if state.terms.pay_by.is_escrow() {
        invoice.hold_secs
    } else {
        0
    };
    now >= invoice.expires_at.plus(held).plus(SETTLED_LONG_AGO_SECS)
}

impl World {
    /// What the wallet said last never got on record, and nobody remembers it. Not even the most confused
    /// wallet takes that for an occasion to be wrong once more.
    pub fn forget_last_word(&mut self, b: usize) {
        let buyer = &mut self.buyers[b];
        buyer.proof = buyer.proof_before;
        buyer.spoiled = buyer.spoiled_before;
        let was_wrong = buyer.proof.failed > 0;
        let money = self.books.accounts[buyer.account].money.as_ref();
        let payment = money.and_then(|money| self.bank.payments.get_mut(&money.hash));
        if let Some(payment) = payment {
            payment.misread |= was_wrong;
        }
    }

    /// Writes down what a buyer is about to hear, as far as it can count.
    pub fn hear_evidence(&mut self, b: usize, before: &State, happening: &Happening) {
        if let Happening::Message { from, message } = happening
            && *from == before.terms.provider
            && message.job_id() == Some(&before.terms.job_id())
            && before.phase.takes_results()
        {
            let buyer = &mut self.buyers[b];
            buyer.spoiled_before = buyer.spoiled;
            if let AgentMessage::JobResult(result) = message
                && buyer.heard.contradiction(&result.result).is_some()
            {
                buyer.spoiled = true;
            }
            buyer.heard.hear(message);
        }
    }
}

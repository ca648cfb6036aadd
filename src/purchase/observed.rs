//! What a step of a purchase says of the provider, for the ledger's record of it.

use super::lock::Word;
use super::state::{Happening, Phase, State};
use crate::error::Code;
use crate::protocol::record::{Observation, Outcome};
use crate::units::{Msat, UnixSecs};

/// What it says of the provider that a purchase went from `before` to `after`; `None`: nothing, for it is
/// not over, or what ended it was our own doing. `cut_short` is from [`cuts_short`], `first_token_ms` from
/// [`FirstToken::ms`].
///
/// No observation is made of a payment that failed (routes fail, and nothing tells whose), nor of a
/// purchase that was stopped, refused by a limit, or that no wallet or relay would carry.
#[must_use]
pub fn observation(
    before: &Phase,
    after: &State,
    cut_short: bool,
    first_token_ms: Option<u64>,
) -> Option<Observation> {
    let terms = &after.terms;
    let (outcome, price) = match &after.phase {
        Phase::Delivered { settled, .. } => (Outcome::Delivered, settled.price),
        // In escrow the result is judged, whatever becomes of the money then.
        Phase::Released { lock, .. } => (Outcome::Delivered, lock.quote.amount),
        _ if cut_short => return None,
        Phase::Undelivered { settled, .. } => (Outcome::Undelivered, settled.price),
        // Before the wallet has seen it on its way, the provider may not have seen it either.
        Phase::Withheld { lock, .. } if lock.word == Word::InFlight => {
            (Outcome::Undelivered, lock.quote.amount)
        }
        Phase::Failed { code, .. } => {
            let asked_only = matches!(before, Phase::Requested);
            let outcome = match Code::from_word(code)? {
                Code::ProviderRefused => Outcome::Refused,
                // It listed no price that its invoice could keep to: no deal, and no fault.
                Code::BadInvoice if terms.listed.is_none() => Outcome::Refused,
                Code::BadInvoice => Outcome::BadInvoice,
                // In escrow, and the money is back.
                Code::Undelivered => Outcome::Undelivered,
                // Later than that, it is our wallet that is late.
                Code::Timeout if asked_only => Outcome::Unanswered,
                _ => return None,
            };
            (outcome, Msat::ZERO)
        }
        _ => return None,
    };
    Some(Observation {
        provider: terms.provider,
        outcome,
        price,
        listed: terms.listed,
        first_token_ms: first_token_ms.filter(|_| outcome == Outcome::Delivered),
    })
}

/// Whether the purchase ends because a run of it that was taken up after a crash, or after it was stopped,
/// waits no longer, while the provider still has time: recovery at the start of a program is in a hurry.
#[must_use]
pub fn cuts_short(happening: &Happening, state: &State, now: UnixSecs) -> bool {
    matches!(happening, Happening::Deadline) && now < state.terms.deadline
}

/// Measures from the order to pay to the first piece of text. A purchase that is taken up after a crash is
/// not measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstToken {
    ordered: Option<u64>,
    came: Option<u64>,
}

impl FirstToken {
    /// Looks at a step from `before` to `after`, `elapsed_ms` after the purchase began.
    pub fn see(&mut self, before: &Phase, after: &State, elapsed_ms: u64) {
        let unpaid = |phase: &Phase| matches!(phase, Phase::Requested | Phase::Quoted(_));
        if unpaid(before) && !unpaid(&after.phase) {
            self.ordered.get_or_insert(elapsed_ms);
        }
        let is_here = matches!(
            after.phase,
            Phase::Delivered { .. } | Phase::Released { .. }
        );
        if after.shown > 0 || is_here {
            self.came.get_or_insert(elapsed_ms);
        }
    }

    /// How long it took, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> Option<u64> {
        Some(self.came?.saturating_sub(self.ordered?))
    }
}

#[cfg(test)]
mod tests;

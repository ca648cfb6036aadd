//! The purchase machine: pure. What happened, in a state, at a time, gives the next state, what to book,
//! and what to do. Everything that decides whether money moves is in here or in what it calls
//! ([`crate::wallet::invoice`], [`crate::ledger::budget`]).

mod ending;
mod escrow;
mod money;
mod provider;
#[cfg(test)]
mod tests;

use self::ending::{before_payment, deadline, interrupted, no_quote, not_sent, resumed};
use self::money::{give_up_looking, looked_up, pay_answered, prepared, resolved};
use self::provider::{heard, no_whole_text};
use super::event::PurchaseEvent;
use super::state::{Effect, Happening, State, Step};
use crate::error::Code;
use crate::units::UnixSecs;

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time.
    pub at: UnixSecs,
    /// Since the purchase began, on a clock that does not jump.
    pub elapsed_ms: u64,
}

/// Takes one step. See the diagram in [`super`].
pub fn step(state: &mut State, happening: Happening, now: Now) -> Step {
    match happening {
        Happening::Message { from, message } => heard(state, from, message, now),
        Happening::NotSent(reason) => not_sent(state, &reason),
        Happening::NoQuote => no_quote(state),
        Happening::Prepared { fee_cap, seen } => prepared(state, fee_cap, seen),
        Happening::CannotPay { code, message } => before_payment(state, code, message),
        Happening::OverBudget(refusal) => before_payment(
            state,
            Code::Budget,
            format!("{refusal}; nothing was paid. See `agent-customer budget`"),
        ),
        Happening::HashUsed => before_payment(
            state,
            Code::BadInvoice,
            "the invoice's payment hash was used in an earlier payment: refused, nothing was paid"
                .to_owned(),
        ),
        Happening::PayAnswered(outcome) => pay_answered(state, outcome, now),
        Happening::LookedUp {
            found,
            authoritative,
        } => looked_up(state, found, authoritative, now),
        Happening::GiveUpLooking => give_up_looking(state),
        Happening::NoWholeText => no_whole_text(state, now),
        Happening::SayAgain => said_again(state),
        Happening::Deadline => deadline(state, now),
        Happening::Interrupted => interrupted(state),
        Happening::Resumed => resumed(state),
        Happening::Resolved { paid } => resolved(state, paid, now),
    }
}

/// The provider has not claimed the money: perhaps it missed what it was told.
fn said_again(state: &State) -> Step {
    let mut step = Step::unsaved();
    step.effects.extend(escrow::preimage_release(state));
    step
}

impl Step {
    pub(super) const fn unsaved() -> Self {
        Self {
            save: false,
            entries: Vec::new(),
            tell: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Nothing changes.
    pub(super) const fn ignored() -> Self {
        Self::unsaved()
    }

    pub(super) fn saved() -> Self {
        Self {
            save: true,
            ..Self::unsaved()
        }
    }

    fn tell(mut self, event: PurchaseEvent) -> Self {
        self.tell.push(event);
        self
    }

    pub(super) fn then(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }
}

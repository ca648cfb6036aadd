//! What may happen to a purchase, and what it may ask for.

use std::time::Duration;

use nostr::PublicKey;

use super::event::PurchaseEvent;
use crate::error::Code;
use crate::ids::{PaymentHash, WalletId};
use crate::ledger::{Entry, Limits, Refusal, Reserve, SeenBalance};
use crate::protocol::message::AgentMessage;
use crate::units::Msat;
use crate::wallet::{Outgoing, PayOutcome};

/// What can happen to a purchase.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A message in the channel, of a verified author.
    Message {
        /// The key that signed it.
        from: PublicKey,
        /// What it says.
        message: AgentMessage,
    },
    /// The relays would not take the request.
    NotSent(String),
    /// The provider has not answered the request for a while, and there is another to ask.
    NoQuote,
    /// The wallet is ready to pay the quote.
    Prepared {
        /// What routing may cost: the wallet's binding word, or the cap.
        fee_cap: Msat,
        /// The wallet's balance, where the floor needs it.
        seen: Option<SeenBalance>,
    },
    /// The wallet can't pay the quote, and nothing was begun.
    CannotPay {
        /// Why, as a stable word.
        code: Code,
        /// Why, in words.
        message: String,
    },
    /// A limit refused the reservation.
    OverBudget(Refusal),
    /// The invoice's hash was in a payment before.
    HashUsed,
    /// The wallet answered the order to pay.
    PayAnswered(PayOutcome),
    /// The wallet answered a look-up of the payment.
    LookedUp {
        /// What it said.
        found: Outgoing,
        /// Whether "no such payment" proves that there was and will be none.
        authoritative: bool,
    },
    /// The wallet has been asked long enough; the payment stays in doubt, for recovery to decide.
    GiveUpLooking,
    /// The stream was over a while ago, and no whole text followed.
    NoWholeText,
    /// The provider was told something a while ago that it may have missed.
    SayAgain,
    /// The buyer's patience is over.
    Deadline,
    /// The owner stopped it.
    Interrupted,
    /// It is taken up again after a crash.
    Resumed,
    /// The owner's word on a payment in doubt.
    Resolved {
        /// Whether it was paid.
        paid: bool,
    },
}

/// What a step asks the driver to do, after the new state is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this to the provider in the channel.
    Say(AgentMessage),
    /// Ask the wallet whether it could pay, and what routing would cost.
    Prepare,
    /// Tell the wallet to pay.
    Pay,
    /// Ask the wallet what became of the payment, again and again until it is decided.
    LookUp,
    /// The same while the order to pay is with the wallet, which may answer no earlier than the lock ends:
    /// begin in a moment.
    WatchOrder,
    /// Come back with [`Happening::GiveUpLooking`] after this long.
    WaitForWallet(Duration),
    /// Come back with [`Happening::NoWholeText`] in a while.
    AwaitWholeText,
    /// Tell the buyer how it stands: done, or left to recovery.
    Finish(Finish),
}

/// How this run of it ended. A payment in doubt, or a result that is late, is left to recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With a result.
    Delivered,
    /// Without one.
    Failed {
        /// The stable word.
        code: Code,
        /// What happened and what to do next.
        message: String,
    },
}

/// One step: besides the new state, the money to be booked with it, and what to do then.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whether the new state must be on record before anything else happens.
    pub save: bool,
    /// Booked in the same transaction.
    pub entries: Vec<Booking>,
    /// Told to the buyer once it is on record.
    pub tell: Vec<PurchaseEvent>,
    /// Done once it is on record.
    pub effects: Vec<Effect>,
}

/// What to book. The driver makes a ledger [`Entry`] of it, adding the limits, which are not the
/// purchase's to know.
#[derive(Clone, Debug)]
pub enum Booking {
    /// Set aside.
    Reserve {
        /// The invoice's amount.
        price: Msat,
        /// What routing may cost.
        fee_cap: Msat,
        /// The payment.
        payment_hash: PaymentHash,
        /// The wallet.
        wallet: WalletId,
        /// The balance, where the floor needs it.
        seen: Option<SeenBalance>,
    },
    /// Anything that needs no limits.
    Plain(Entry),
}

impl Booking {
    /// What the ledger is told, with the limits of now.
    #[must_use]
    pub fn entry(&self, limits: Limits) -> Entry {
        match self {
            Self::Plain(entry) => entry.clone(),
            Self::Reserve {
                price,
                fee_cap,
                payment_hash,
                wallet,
                seen,
            } => Entry::Reserve(Reserve {
                price: *price,
                fee_cap: *fee_cap,
                payment_hash: *payment_hash,
                wallet: wallet.clone(),
                limits,
                seen: *seen,
            }),
        }
    }
}

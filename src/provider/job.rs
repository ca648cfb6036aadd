//! One job as the seller sees it: its persisted states, and the only ways between them.
//!
//! ```text
//!              the wallet says paid        a slot is free         the backend answered
//!   quoted ──────────────────────► paid ──────────────► running ─────────────────────► done
//!     │  ▲                          ▲                    │    ▲ restart                 │ a relay took it
//!     │  └── quote on record        │ paid after all     │    └──┘                      ▼
//!     │      before it is sent      │                    │ the backend failed       delivered
//!     ├──────────► expired ─────────┤                    ▼
//!     └──────────► cancelled ───────┘                  failed (the money is owed; the customer was told)
//! ```
//!
//! Money wins over time: a payment that settles after its quote has expired, or crosses a cancellation,
//! is served all the same.
//!
//! # After a restart
//!
//! | found | done |
//! |---|---|
//! | `quoted` | the wallet is asked at once; paid: the job runs. Still open: its invoice is sent again, and the quote holds its slot until it expires. Over: looked up for an hour, then `expired` |
//! | `paid` | waits for a slot, oldest payment first |
//! | `running` | runs again. After [`MAX_ATTEMPTS`] runs it fails, so that a prompt that kills the process does so a few times only |
//! | `done` | the messages on record, already signed, are published again: the same events, so that a customer sees one result |
//! | `failed`, not yet told | as `done` |
//! | `delivered`, `failed`, `expired`, `cancelled` | nothing; after a week the texts are dropped and the figures stay |
//!
//! A job that a restart takes up is not streamed: chunks of an earlier run may be out, cut elsewhere.
//!
//! # What is on disk when
//!
//! The quote is, before its invoice is sent; the result is, before it is sent. Between them nothing has to
//! be: the quote and the wallet's memory of the payment say all. So *paid* and *running* are put on record
//! with the result where that comes at once, and by themselves where it takes a while.

use std::fmt;

use nostr::{EventId, PublicKey};
use serde::Serialize;

use crate::ids::{JobId, PaymentHash};
use crate::units::{Msat, UnixSecs};

/// How often a paid job is begun before it counts as failed.
pub const MAX_ATTEMPTS: u32 = 3;

/// Where a job stands. See the [module](self)'s diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// An invoice was made; nobody has paid it as far as we know.
    Quoted,
    /// The money is here; the job waits for a slot.
    Paid,
    /// The backend is at work.
    Running,
    /// The result is on record and is being published.
    Done,
    /// A relay took the whole result.
    Delivered,
    /// Paid, and the backend could not do it. The money is owed.
    Failed,
    /// Never paid.
    Expired,
    /// The customer no longer wanted it, before paying.
    Cancelled,
}

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// The wallet says that it is paid.
    Settled,
    /// The backend is set to work.
    Started,
    /// The backend's result is here.
    Finished,
    /// The backend can't do it.
    Broken,
    /// A relay took all that there is to say.
    Published,
    /// The quote's time, and the time for late payments, is over.
    Lapsed,
    /// The customer cancelled and the invoice can no longer be paid.
    Withdrawn,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Quoted,
        Self::Paid,
        Self::Running,
        Self::Done,
        Self::Delivered,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word in the store and in `jobs`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quoted => "quoted",
            Self::Paid => "paid",
            Self::Running => "running",
            Self::Done => "done",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that this word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The state after `step`; `None` if the diagram has no such way, and then nothing may change.
    #[must_use]
    pub const fn after(self, step: JobStep) -> Option<Self> {
        match (self, step) {
            (Self::Quoted | Self::Expired | Self::Cancelled, JobStep::Settled) => Some(Self::Paid),
            (Self::Paid | Self::Running, JobStep::Started) => Some(Self::Running),
            (Self::Running, JobStep::Finished) => Some(Self::Done),
            (Self::Paid | Self::Running, JobStep::Broken) => Some(Self::Failed),
            (Self::Done, JobStep::Published) => Some(Self::Delivered),
            (Self::Failed, JobStep::Published) => Some(Self::Failed),
            (Self::Quoted, JobStep::Lapsed) => Some(Self::Expired),
            (Self::Quoted, JobStep::Withdrawn) => Some(Self::Cancelled),
            _ => None,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the messages about a job go: its channel, and the request that they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The channel of the request.
    pub channel: EventId,
    /// The request; its whole id is the job's key.
    pub request: EventId,
    /// Who asked, and the only key that may speak for the job.
    pub customer: PublicKey,
    /// Whether the request came sealed: then every answer is sealed to the customer, too.
    pub sealed: bool,
}

impl Address {
    /// What both sides call the job on the wire.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        JobId::of_request(&self.request)
    }
}

/// A quoted job, with all that it takes to do it. `Debug` does not show the prompt.
#[derive(Clone, PartialEq, Eq)]
pub struct Job {
    /// Who asked, where.
    pub address: Address,
    /// The work.
    pub prompt: String,
    /// The model that does it.
    pub model: String,
    /// The most tokens the result may have.
    pub max_tokens: u32,
    /// Whether chunks are sent as they come.
    pub stream: bool,
    /// Whether the customer speaks the deployed protocol only, and reads failures as `Error: …`.
    pub deployed: bool,
    /// What was asked for it.
    pub price: Msat,
    /// The invoice.
    pub bolt11: String,
    /// Its payment hash; `None` where no wallet takes part.
    pub payment_hash: Option<PaymentHash>,
    /// The request's own time.
    pub requested_at: UnixSecs,
    /// When the quote ends.
    pub expires_at: UnixSecs,
    /// How often it was begun, as far as is on record.
    pub attempts: u32,
    /// Whether it was read back from the store: an earlier run may have begun it, and may have sent chunks.
    pub resumed: bool,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("address", &self.address)
            .field("model", &self.model)
            .field("price", &self.price)
            .field("payment_hash", &self.payment_hash)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for state in JobState::ALL {
            assert_eq!(JobState::from_word(state.as_str()), Some(state));
        }
    }

    #[test]
    fn work_starts_only_after_the_money_is_here() {
        for state in JobState::ALL {
            let may_start = matches!(state, JobState::Paid | JobState::Running);
            assert_eq!(
                state.after(JobStep::Started).is_some(),
                may_start,
                "{state}"
            );
        }
    }

    #[test]
    fn a_settlement_counts_once_and_is_never_too_late() {
        for state in JobState::ALL {
            let unpaid = matches!(
                state,
                JobState::Quoted | JobState::Expired | JobState::Cancelled
            );
            assert_eq!(state.after(JobStep::Settled).is_some(), unpaid, "{state}");
        }
    }

    #[test]
    fn nothing_paid_is_ever_forgotten() {
        for state in [
            JobState::Paid,
            JobState::Running,
            JobState::Done,
            JobState::Failed,
        ] {
            assert_eq!(state.after(JobStep::Lapsed), None);
            assert_eq!(state.after(JobStep::Withdrawn), None);
        }
    }
}

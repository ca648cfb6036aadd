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
//! A job in escrow is paid by a hold invoice on the customer's hash. Its money is ours only when the
//! customer releases the preimage, which it does after delivery:
//!
//! ```text
//!            the wallet says held              the backend         a relay        the customer's      the wallet
//!            with time enough      a slot      answered            took it        preimage on record  says settled
//!   quoted ──────────────────► held ──► running ──────► done ──► delivered ──► released ──────────► settled
//!                               │          │             └────────────┴─────────────┤
//!                               │          │ no result    the hold ends and nothing was settled
//!                               ▼          ▼                                        ▼
//!                             returning: the wallet is told to give it back      unreleased
//!                               │
//!                               ▼ the wallet says returned (or settled: then failed, and owed)
//!                             returned
//! ```
//!
//! `returning` and `released` exclude each other, and both are on record before the wallet is told
//! anything: no hold is both settled and cancelled. A hold that is too short for the work and one that is
//! taken back while we work go through `returning` as well. A result that was released before its
//! relay said OK goes from `done` to `released`.
//!
//! # After a restart
//!
//! | found | done |
//! |---|---|
//! | `quoted` | the wallet is asked at once; paid or held: the job runs. Still open: its invoice is sent again, and the quote holds its slot until it expires. Over: looked up for an hour, then `expired` |
//! | `paid` | waits for a slot, oldest payment first |
//! | `held` | the same; the wallet is asked again before the work begins |
//! | `running` | runs again, in escrow only if the wallet says that the money is still held. After [`MAX_ATTEMPTS`] runs it fails, so that a prompt that kills the process does so a few times only |
//! | `done` | the messages on record, already signed, are published again: the same events, so that a customer sees one result. In escrow also as `delivered` |
//! | `delivered`, in escrow | the release is awaited; one that was sent while we were away is looked for at the relays |
//! | `released` | the wallet is told to settle until it says that it has, or that the hold is over |
//! | `returning` | the wallet is told to give the money back until it says that it has |
//! | `released`, `settled`, `unreleased`, `failed`, `returning`, `returned`, not yet told | as `done` |
//! | `delivered` and paid, `failed`, `settled`, `unreleased`, `returned`, `expired`, `cancelled` | nothing; after a week the texts are dropped and the figures stay |
//!
//! A hold is taken up only with the wallet that has it; in the meantime it stays on record.
//!
//! # What is on disk when
//!
//! The quote is, before its invoice is sent; each chunk is, before it is sent; the result is, before it is
//! sent. Between quote and result nothing else has to be: the quote and the wallet's memory of the
//! payment say all. So *paid*, *held* and *running* are put on record with the result where that comes at
//! once, and by themselves where it takes a while.
//!
//! A run that was cut off may have streamed a part of its text. That part can't be taken back, so the next
//! run's result begins with it: where the backend makes the same text again the stream goes on as if
//! nothing had happened, and where it makes another one, that follows whole after an empty line. Chunks
//! survive the end of the process, not that of the machine.
//!
//! A released preimage is on record before the wallet is told; the wallet's answer is on record after it
//! was given, and asked for again until it is.
//!
//! Where the disk is full there are no new quotes: each needs room for what follows. A job that is paid is done
//! and delivered all the same, and what became of it is put on record as soon as the store takes it. Until then
//! the quote on record and the wallet's word stand for it: a restart finds it paid, and does it again.
//!
//! # Crash points
//!
//! What the seller does that outlives the process, by the names of [`crash`](crate::crash), and what becomes
//! of it when the process dies right before or right after. `tests/it/crash/matrix` kills at all of them, with
//! the customer alive and with it killed too, and after a restart once more, and then counts the money.
//!
//! | point | effect | died before it | died after it |
//! |---|---|---|---|
//! | `store.create` | the store's empty file | there is none, and the next start makes it | an empty file, which the next start makes a store |
//! | `store.migrate` | the tables, or their next version | rolled back, and done by the next start | there |
//! | `store.lock` | the lock of the one that sells | free | free: it ends with the process |
//! | `store.room` | room kept on the disk | none is kept | the next start keeps the same |
//! | `store.commit` | any commit, seen from inside SQLite | rolled back: as before the points that it belongs to | as after those points |
//! | `provider.channel` | a new channel, on record | another channel is made; nobody has heard of this one | the next start comes back to it, and makes it known |
//! | `provider.channel-said` | the channel known | made known by the next start | published again: the same event |
//! | `provider.listing` | the time of what is said next about ourselves, on record | announced anew | announced anew, dated later |
//! | `provider.listing-said` | the listing | announced anew | replaced by the next start's |
//! | `provider.announcement` | the announcement, on record | announced anew | nothing to take back, which does no harm |
//! | `provider.announcement-said` | the announcement, said | announced anew | customers take the next start's, which is later |
//! | `provider.withdrawal-said` | what takes listing and announcements back | they fade by themselves, or are taken back by the next run that leaves | the same events may be taken back again |
//! | `provider.withdrawn` | on record that they are taken back | taken back again by the next run that leaves | nothing is left to take back |
//! | `provider.refusal-said` | `JobError` to a request without a quote | the request is read again, and refused again | refused, possibly twice |
//! | `provider.invoice` | the invoice in the wallet | the request is read again, and quoted | the same: a plain invoice that nobody has seen is forgotten; a hold invoice is asked for again, and is the same where the wallet can tell it |
//! | `provider.quote` | the quoted job, on record | as after `provider.invoice` | `quoted`: its invoice is sent |
//! | `provider.invoice-said` | `Invoice` said | `quoted`: its invoice is sent | sent again: the customer takes the first |
//! | `provider.quote-cancel` | the invoice of an unpaid quote cancelled in the wallet | `quoted`, until it expires | `quoted`, and nobody can pay it: looked up until it is over |
//! | `provider.closed` | the end of a quote, or of a hold that ended by itself, on record | found again by the wallet's word | over |
//! | `provider.funded` | a waiting job `paid` or `held` on record | `quoted`, and the wallet says that it is paid or held | waits for a slot |
//! | `provider.position-said` | `JobAccepted` said | not said: it is a courtesy | said |
//! | `provider.begin` | `running` on record | begun, and counted then | runs again, up to [`MAX_ATTEMPTS`] times |
//! | `provider.work` | the backend's work | runs | runs again |
//! | `provider.chunk` | a chunk on record | nobody has seen it: runs again | the next result begins with it |
//! | `provider.chunk-said` | the chunk said | said again, with its number | the same: a customer knows it by its number |
//! | `provider.result` | the result, signed, on record | runs again | published |
//! | `provider.result-said` | the result said | published | published again: the same events |
//! | `provider.delivered` | on record that a relay took it | published again | over; in escrow the release is awaited |
//! | `provider.preimage` | the customer's preimage on record | looked for at the relays, or said again by the customer | the wallet is told to settle |
//! | `provider.settle` | the held money claimed in the wallet | `released`: claimed | claimed again: the wallet says that it is ours |
//! | `provider.settled` | what became of the claim, on record | the wallet is asked again | over |
//! | `provider.failed` | on record that a paid job has no result | runs again | the customer is told |
//! | `provider.returning` | on record that a held job has no result | runs again, while the money is held | the money is given back, the customer told |
//! | `provider.give-back` | the held money given back in the wallet | `returning`: given back | given back again: the wallet says that it is theirs |
//! | `provider.returned` | what became of that, on record | the wallet is asked again | over |
//! | `provider.failure-said` | on the relays that there is no result | published | published again: the same events |
//! | `provider.told` | on record that a relay took that | published again | over |

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
    /// The money is locked on its way to us; the job waits for a slot.
    Held,
    /// The backend is at work.
    Running,
    /// The result is on record and is being published.
    Done,
    /// A relay took the whole result. In escrow: and the customer's release is awaited.
    Delivered,
    /// The customer has released the money, and our wallet is to settle.
    Released,
    /// Delivered, released, and the money is ours.
    Settled,
    /// Delivered, and the held money went back to the customer: never released, or too late.
    Unreleased,
    /// Held, and there will be no result; the wallet is to give the money back.
    Returning,
    /// Held, no result, and the customer has the money.
    Returned,
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
    /// The wallet says that the money is held.
    Locked,
    /// The backend is set to work.
    Started,
    /// The backend's result is here.
    Finished,
    /// The backend can't do it.
    Broken,
    /// There will be no result, and the money is only held.
    Undone,
    /// The wallet says that the customer has its money back.
    Returned,
    /// The customer's preimage is here.
    Released,
    /// The wallet says that what was held is ours.
    Claimed,
    /// The wallet says that what was held is gone.
    Vanished,
    /// A relay took all that there is to say.
    Published,
    /// The quote's time, and the time for late payments, is over.
    Lapsed,
    /// The customer cancelled and the invoice can no longer be paid.
    Withdrawn,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Quoted,
        Self::Paid,
        Self::Held,
        Self::Running,
        Self::Done,
        Self::Delivered,
        Self::Released,
        Self::Settled,
        Self::Unreleased,
        Self::Returning,
        Self::Returned,
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
            Self::Held => "held",
            Self::Running => "running",
            Self::Done => "done",
            Self::Delivered => "delivered",
            Self::Released => "released",
            Self::Settled => "settled",
            Self::Unreleased => "unreleased",
            Self::Returning => "returning",
            Self::Returned => "returned",
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
            (Self::Quoted | Self::Expired | Self::Cancelled, JobStep::Locked) => Some(Self::Held),
            (Self::Paid | Self::Held | Self::Running, JobStep::Started) => Some(Self::Running),
            (Self::Running, JobStep::Finished) => Some(Self::Done),
            (Self::Paid | Self::Running, JobStep::Broken)
            | (Self::Returning, JobStep::Claimed)
            | (Self::Failed, JobStep::Published) => Some(Self::Failed),
            (Self::Done, JobStep::Published) => Some(Self::Delivered),
            (Self::Done | Self::Delivered, JobStep::Released)
            | (Self::Released, JobStep::Published) => Some(Self::Released),
            (Self::Done | Self::Delivered | Self::Released, JobStep::Claimed)
            | (Self::Settled, JobStep::Published) => Some(Self::Settled),
            (Self::Done | Self::Delivered | Self::Released, JobStep::Vanished)
            | (Self::Unreleased, JobStep::Published) => Some(Self::Unreleased),
            (Self::Held | Self::Running, JobStep::Undone)
            | (Self::Returning, JobStep::Published) => Some(Self::Returning),
            (Self::Returning, JobStep::Returned) | (Self::Returned, JobStep::Published) => {
                Some(Self::Returned)
            }
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
    /// Whether it is paid into escrow: the invoice is a hold invoice, and the hash is the customer's.
    pub escrow: bool,
    /// Until when the money is held; `None` while it is not, and where it was paid for good.
    pub held_until: Option<UnixSecs>,
    /// The request's own time.
    pub requested_at: UnixSecs,
    /// When the quote ends.
    pub expires_at: UnixSecs,
    /// Whether it has waited for a slot since the wallet told of its money.
    pub waited: bool,
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
            let may_start = matches!(state, JobState::Paid | JobState::Held | JobState::Running);
            assert_eq!(
                state.after(JobStep::Started).is_some(),
                may_start,
                "{state}"
            );
        }
    }

    #[test]
    fn money_counts_once_and_is_never_too_late() {
        for state in JobState::ALL {
            let unpaid = matches!(
                state,
                JobState::Quoted | JobState::Expired | JobState::Cancelled
            );
            assert_eq!(state.after(JobStep::Settled).is_some(), unpaid, "{state}");
            assert_eq!(state.after(JobStep::Locked).is_some(), unpaid, "{state}");
        }
    }

    #[test]
    fn nothing_paid_or_held_is_ever_forgotten() {
        for state in JobState::ALL {
            if state != JobState::Quoted {
                assert_eq!(state.after(JobStep::Lapsed), None, "{state}");
                assert_eq!(state.after(JobStep::Withdrawn), None, "{state}");
            }
        }
    }

    /// All states that can follow this one.
    fn reachable(from: JobState) -> Vec<JobState> {
        let mut all = vec![from];
        let mut next = 0;
        while next < all.len() {
            let state = all[next];
            next += 1;
            for step in STEPS {
                if let Some(after) = state.after(step)
                    && !all.contains(&after)
                {
                    all.push(after);
                }
            }
        }
        all
    }

    const STEPS: [JobStep; 13] = [
        JobStep::Settled,
        JobStep::Locked,
        JobStep::Started,
        JobStep::Finished,
        JobStep::Broken,
        JobStep::Undone,
        JobStep::Returned,
        JobStep::Released,
        JobStep::Claimed,
        JobStep::Vanished,
        JobStep::Published,
        JobStep::Lapsed,
        JobStep::Withdrawn,
    ];

    #[test]
    fn a_hold_that_is_released_is_not_given_back_and_the_other_way_round() {
        let from_release = reachable(JobState::Released);
        assert!(!from_release.contains(&JobState::Returning));
        let from_return = reachable(JobState::Returning);
        assert!(!from_return.contains(&JobState::Released));
        assert!(!from_return.contains(&JobState::Running));
        for end in [
            JobState::Settled,
            JobState::Unreleased,
            JobState::Returned,
            JobState::Failed,
        ] {
            assert_eq!(reachable(end), [end], "an end is an end");
        }
    }
}

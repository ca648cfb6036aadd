//! The seller's dealings with its wallet over money that is held: whether to work for it, and how it is
//! settled or given back. See [`job`](super::job) for the states.

use std::sync::Arc;
use std::time::Duration;

use nostr::{EventId, Filter, Kind, PublicKey, Timestamp};

use super::job::{Address, Job, JobState, JobStep};
use super::pricing::Refusal;
use super::shop::{LEAVING_PATIENCE, Outcome, Shop, answer};
use super::store::{StoreError, Unsettled};
use super::work::WORK;
use crate::crash::{self, Point};
use crate::ids::{PaymentHash, Preimage};
use crate::relay;
use crate::units::UnixSecs;
use crate::wallet::{Incoming, WalletError};

/// What must be left of a hold when work begins, on top of the longest that work may take, in seconds: for
/// the customer to read and release, and for our wallet to settle before the payer's side gives up.
const MARGIN_SECS: u64 = 300;

/// How long customers are remembered to have kept results without releasing the money, in seconds.
const MEMORY_SECS: u64 = 30 * 86_400;

/// A result that has been out for this long and is not released counts as kept, in seconds. The customer
/// can still release it.
const RELEASE_GRACE_SECS: u64 = 600;

/// Between tries to settle or to give back: twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_SLOWEST: Duration = Duration::from_secs(30);

/// How long a wallet that does not answer is asked whether the money of a job is still held.
const DOUBT: Duration = Duration::from_secs(60);

/// What is read of what one customer said while we were away, and for how long.
const MOST_MISSED: usize = 2_000;
const MISSED: Duration = Duration::from_secs(30);

/// What became of held money, by our wallet's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldEnd {
    /// It is ours.
    Ours,
    /// The customer has it.
    Theirs,
    /// Not known yet: the next start asks again.
    Open,
}

/// Why there is no work for held money: what the customer is told, and what the owner.
#[derive(Debug)]
pub(super) struct NoHold {
    pub(super) refusal: Refusal,
    pub(super) reason: String,
}

impl NoHold {
    pub(super) fn gone() -> Self {
        Self {
            refusal: Refusal::new("escrow", "the money is no longer held"),
            reason: "the customer's money is no longer held".into(),
        }
    }

    fn too_short(left: u64) -> Self {
        let least = WORK.as_secs() + MARGIN_SECS;
        Self {
            refusal: Refusal::new(
                "escrow",
                format!("the money is held for {left} s more, and {least} s are needed"),
            ),
            reason: format!("the money was held for {left} s more only"),
        }
    }

    pub(super) fn unwanted() -> Self {
        Self {
            refusal: Refusal::new("escrow", "cancelled, and the held money goes back"),
            reason: "the customer cancelled before the work began".into(),
        }
    }

    fn unknown() -> Self {
        Self {
            refusal: Refusal::new("failed", "the provider's wallet can't see the held money"),
            reason: "the wallet did not say whether the money is held".into(),
        }
    }
}

/// The refusal of a hash that another request has come with.
pub(super) fn hash_used() -> Refusal {
    let why = "this payment_hash was used before: every job needs a new one";
    Refusal::new("escrow", why)
}

/// Whether money that is held until `held_until` is held long enough to work for it.
pub(super) fn lasts(held_until: UnixSecs, now: UnixSecs) -> Result<(), NoHold> {
    let left = held_until.get().saturating_sub(now.get());
    if left < WORK.as_secs() + MARGIN_SECS {
        return Err(NoHold::too_short(left));
    }
    Ok(())
}

impl Shop {
    /// Whether we would do a job for this customer for money that is held under this hash.
    pub(super) async fn may_escrow(
        &self,
        address: Address,
        hash: PaymentHash,
    ) -> Result<(), Refusal> {
        let no_records = |error: StoreError| {
            tracing::error!(job_id = %address.job_id(), %error, "no quote");
            Refusal::new("failed", "the provider can't read its records now")
        };
        if self.store.knows_hash(hash).await.map_err(no_records)? {
            return Err(hash_used());
        }
        let now = self.now();
        let (since, overdue) = (now.minus(MEMORY_SECS), now.minus(RELEASE_GRACE_SECS));
        let standing = self
            .store
            .standing(self.seller.key, address.customer, since, overdue);
        standing.await.map_err(no_records)?.check()
    }

    /// Asks the wallet, right before work begins, whether the money of a job is still held, and for long
    /// enough. Until when comes back.
    pub(super) async fn still_held(&self, job: &Job) -> Result<Option<UnixSecs>, NoHold> {
        let (Some(_), Some(wallet), Some(hash)) = (job.held_until, &self.wallet, job.payment_hash)
        else {
            return Ok(job.held_until);
        };
        let asking = async {
            let mut pause = RETRY_FIRST;
            loop {
                match answer(wallet.incoming(hash)).await {
                    Ok(found) => return found,
                    Err(trouble) => {
                        tracing::warn!(job_id = %job.address.job_id(), %trouble, "is it held?");
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_SLOWEST);
            }
        };
        match tokio::time::timeout(DOUBT, asking).await {
            Ok(Incoming::Held { deadline }) => lasts(deadline, self.now()).map(|()| Some(deadline)),
            // Ours already, however that came about.
            Ok(Incoming::Settled) => Ok(job.held_until),
            Ok(_) => Err(NoHold::gone()),
            Err(_) => Err(NoHold::unknown()),
        }
    }

    /// Ends a job whose money is held, without work: on record, to be told.
    pub(super) async fn give_up(self: Arc<Self>, job: Box<Job>, why: NoHold) -> Outcome {
        let finish = self.workshop.failure(&job, &why.refusal, why.reason);
        self.ended(job, finish).await
    }

    /// Puts a preimage on record that came before the result.
    pub(super) async fn keep_preimage(
        self: Arc<Self>,
        request: EventId,
        preimage: Preimage,
    ) -> Outcome {
        let kept = self.store.release(request, preimage, self.now());
        if let Err(error) = crash::around(Point::ProviderPreimage, kept).await {
            // It stays in memory, and the customer repeats it.
            tracing::info!(%request, %error, "an early release is not on record");
        }
        Outcome::Nothing
    }

    /// Claims the money of a delivered job: puts the preimage on record, and settles until the wallet says
    /// that it has, or that there is nothing to settle any more.
    pub(super) async fn claim(self: Arc<Self>, hold: Unsettled, preimage: Preimage) -> Outcome {
        let request = hold.request;
        let released = self.store.release(request, preimage, self.now());
        match crash::around(Point::ProviderPreimage, released).await {
            Ok(_) => {}
            Err(StoreError::Illegal(state @ (JobState::Returning | JobState::Returned))) => {
                tracing::warn!(%request, %state, "a release of what goes back");
                return Outcome::HoldEnded(request, HoldEnd::Open);
            }
            // The money counts for more than the record of it.
            Err(error) => tracing::error!(%request, %error, "a release is not on record yet"),
        }
        let end = self.insist(&hold, Some(preimage)).await;
        self.decided(request, Some(preimage), end, JobStep::Vanished)
            .await
    }

    /// Gives the money of a job that there is no result for back, until the wallet says that it has.
    pub(super) async fn give_back(self: Arc<Self>, hold: Unsettled) -> Outcome {
        let end = self.insist(&hold, None).await;
        if end == HoldEnd::Ours {
            tracing::error!(request = %hold.request, "settled without a result: its money is owed");
        }
        self.decided(hold.request, None, end, JobStep::Returned)
            .await
    }

    /// Puts what became of held money on record, and the preimage that it was released by. What comes before
    /// that may still be on its way there. Where it fails to the end the next start asks again.
    async fn decided(
        &self,
        request: EventId,
        released: Option<Preimage>,
        end: HoldEnd,
        theirs: JobStep,
    ) -> Outcome {
        let step = match end {
            HoldEnd::Ours => JobStep::Claimed,
            HoldEnd::Theirs => theirs,
            HoldEnd::Open => return Outcome::HoldEnded(request, end),
        };
        let point = match theirs {
            JobStep::Returned => Point::ProviderReturned,
            _ => Point::ProviderSettled,
        };
        let write = || {
            let write = async {
                if let Some(preimage) = released {
                    let kept = self.store.release(request, preimage, self.now()).await;
                    kept.map_err(still_to_end)?;
                }
                let ended = self.store.step_by(request, step, self.now()).await;
                ended.map_err(still_to_end)
            };
            crash::around(point, write)
        };
        if let Err(error) = self
            .insist_on_record("the end of a hold", request, write)
            .await
        {
            tracing::error!(%request, %error, "the end of a hold is not on record");
        }
        Outcome::HoldEnded(request, end)
    }

    /// Settles (with a preimage) or cancels, and asks what came of it, until the wallet knows. A call that
    /// failed may have done its work, and one that succeeded may not: only the look-up counts.
    async fn insist(&self, hold: &Unsettled, preimage: Option<Preimage>) -> HoldEnd {
        let Some(wallet) = &self.wallet else {
            return HoldEnd::Open;
        };
        let insisting = async {
            let mut pause = RETRY_FIRST;
            loop {
                let done = match preimage {
                    Some(preimage) => {
                        let settled = answer(wallet.settle(preimage));
                        crash::around(Point::ProviderSettle, settled).await
                    }
                    None => {
                        let cancelled = answer(wallet.cancel(hold.payment_hash));
                        crash::around(Point::ProviderGiveBack, cancelled).await
                    }
                };
                let found = answer(wallet.incoming(hold.payment_hash)).await;
                if let Some(end) = self.end_of(hold, &found) {
                    return end;
                }
                tracing::warn!(request = %hold.request, ?done, ?found, "a hold is not decided yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_SLOWEST);
            }
        };
        let leaving = async {
            self.finish.cancelled().await;
            tokio::time::sleep(LEAVING_PATIENCE).await;
        };
        tokio::select! {
            end = insisting => end,
            () = leaving => HoldEnd::Open,
        }
    }

    /// What a look-up says has become of a hold; `None` while it is undecided.
    pub(super) fn end_of(
        &self,
        hold: &Unsettled,
        found: &Result<Incoming, WalletError>,
    ) -> Option<HoldEnd> {
        match found {
            Ok(Incoming::Settled) => Some(HoldEnd::Ours),
            Ok(Incoming::Cancelled | Incoming::Expired) => Some(HoldEnd::Theirs),
            // A wallet may forget what is over; before that it may be behind.
            Ok(Incoming::NotFound) if self.now() > hold.held_until => Some(HoldEnd::Theirs),
            Ok(_) | Err(_) => None,
        }
    }

    /// What this customer said in these channels since `since`: a release may be among it. Asked for by
    /// itself, since only so much is read: nobody's release is to be lost among the words of others.
    pub(super) async fn missed(
        self: Arc<Self>,
        customer: PublicKey,
        channels: Vec<EventId>,
        since: UnixSecs,
    ) -> Outcome {
        let filter = Filter::new()
            .kind(Kind::ChannelMessage)
            .author(customer)
            .events(channels)
            .since(Timestamp::from_secs(since.get()));
        let relays = self.workshop.voice.relay.as_ref();
        let stored = relay::fetch(relays, filter, MISSED, MOST_MISSED).await;
        Outcome::Missed(stored.map_or_else(
            |trouble| {
                tracing::warn!(%customer, %trouble, "a release of the time before was not looked for");
                Vec::new()
            },
            |stored| stored.events,
        ))
    }
}

/// That the end of the work is not on record yet is the store's trouble, and passes.
fn still_to_end(error: StoreError) -> StoreError {
    match error {
        StoreError::Illegal(
            state @ (JobState::Quoted | JobState::Paid | JobState::Held | JobState::Running),
        ) => StoreError::Storage(format!("the job is still on record as {state}")),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_must_outlast_the_longest_work_and_a_margin() {
        let now = UnixSecs::new(1_000_000);
        let least = WORK.as_secs() + MARGIN_SECS;
        assert!(lasts(now.plus(least), now).is_ok());
        assert!(lasts(now.plus(least - 1), now).is_err());
        assert!(lasts(now.minus(1), now).is_err());
        assert!(lasts(UnixSecs::new(u64::MAX), now).is_ok());
    }
}

//! Money in escrow: watched while we work for it, claimed when the customer releases it, given back when
//! there is no result. See [`job`](crate::provider::job) for the states.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nostr::EventId;
use nostr::PublicKey;
use tokio::time::Instant;

use super::{Engine, Phase};
use crate::ids::{JobId, PaymentHash, Preimage};
use crate::protocol::message::PreimageRelease;
use crate::provider::escrow::{HoldEnd, NoHold, lasts};
use crate::provider::event::ProviderEvent;
use crate::provider::job::{Address, Job, JobState, JobStep};
use crate::provider::pricing::Refusal;
use crate::provider::store::{OpenHold, Unsettled};
use crate::units::{Msat, UnixSecs};
use crate::wallet::{Incoming, WalletError};

/// How long after a result leaving waits for its release: customers release at once.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// With so many jobs in escrow that are not settled, no more are taken: of all, and of one customer, quotes
/// included. What one customer gets before it has released anything is bounded by it.
const MOST_HOLDS: usize = 4_096;
const MOST_HOLDS_PER_CUSTOMER: usize = 64;

/// How far back from what we know the customers' words are read again, in seconds: clocks differ.
const MISSED_OVERLAP_SECS: u64 = 600;

/// Customers whose words of the time before are looked for at once. Relays allow a connection some ten
/// subscriptions.
const MISSED_AT_ONCE: usize = 4;

/// What held money is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The work.
    Working,
    /// The customer's release. Since then the result is on record.
    Delivered(Instant),
    /// The wallet, which was told to settle.
    Claiming,
    /// The wallet, which was told to give it back.
    Returning,
}

/// Money that is held for a job.
#[derive(Debug)]
pub(super) struct Hold {
    address: Address,
    payment_hash: PaymentHash,
    price: Msat,
    held_until: UnixSecs,
    stage: Stage,
    /// What the customer has released.
    preimage: Option<Preimage>,
    /// Whether the wallet was asked what became of it when its time was over.
    was_overdue: bool,
}

impl Hold {
    fn unsettled(&self) -> Unsettled {
        Unsettled {
            request: self.address.request,
            payment_hash: self.payment_hash,
            held_until: self.held_until,
        }
    }
}

impl Engine {
    /// Whether there is room for one more job in escrow of this customer, who has so many unpaid quotes.
    pub(super) fn may_hold(&self, customer: PublicKey, quotes: usize) -> Result<(), Refusal> {
        let theirs = self.holds.values();
        let theirs = theirs.filter(|hold| hold.address.customer == customer);
        if quotes + theirs.count() >= MOST_HOLDS_PER_CUSTOMER {
            let why =
                "too many of your jobs in escrow are not released: release them, or pay first";
            return Err(Refusal::new("busy", why));
        }
        if self.holds.len() >= MOST_HOLDS {
            let why = "too many results await their release: pay first";
            return Err(Refusal::new("busy", why));
        }
        Ok(())
    }

    /// Keeps an eye on the money of a job, if that is held.
    pub(super) fn keep_hold(&mut self, job: &Job, now: std::time::Instant) {
        let (Some(held_until), Some(payment_hash)) = (job.held_until, job.payment_hash) else {
            return;
        };
        let request = job.address.request;
        self.lookups.watch(payment_hash, request, now);
        let hold = Hold {
            address: job.address,
            payment_hash,
            price: job.price,
            held_until,
            stage: Stage::Working,
            preimage: None,
            was_overdue: false,
        };
        self.holds.insert(request, hold);
    }

    /// Takes up what an earlier run left between result and settlement, and looks for what their customers
    /// said meanwhile.
    pub(super) fn resume_holds(&mut self, left: Vec<OpenHold>) {
        let now = Instant::now();
        self.missed = missed(&left);
        for open in left {
            let request = open.address.request;
            if let Some(working) = self.holds.get_mut(&request) {
                working.preimage = open.preimage;
                continue;
            }
            let hold = Hold {
                address: open.address,
                payment_hash: open.payment_hash,
                price: open.price,
                held_until: open.held_until,
                stage: Stage::Delivered(now),
                preimage: open.preimage,
                was_overdue: false,
            };
            self.by_job_id.insert(open.address.job_id(), request);
            self.lookups
                .watch_late(hold.payment_hash, request, now.into_std());
            self.holds.insert(request, hold);
            match (open.state, open.preimage) {
                (JobState::Returning, _) => self.give_back(request),
                (_, Some(preimage)) => self.claim(request, preimage),
                (_, None) => {}
            }
        }
        for _ in 0..MISSED_AT_ONCE {
            self.look_for_missed();
        }
    }

    /// Looks for what one more customer said while we were away.
    pub(super) fn look_for_missed(&mut self) {
        let Some((customer, since)) = self.missed.pop_front().filter(|_| !self.leaving) else {
            return;
        };
        let (shop, channels) = (Arc::clone(&self.shop), self.channels.clone());
        let since = since.minus(MISSED_OVERLAP_SECS);
        self.spawn(None, shop.missed(customer, channels, since));
    }

    /// The wallet says that the money for a job is held.
    pub(super) fn on_held(&mut self, request: EventId, held_until: UnixSecs) {
        if let Some(hold) = self.holds.get_mut(&request) {
            hold.held_until = held_until;
            return;
        }
        if let Some(late) = self.late.get(&request) {
            // Money on its way to an ordinary invoice may look held, and is looked up until it is paid.
            if late.escrow {
                self.lookups.forget(&late.payment_hash);
                let task = Arc::clone(&self.shop).load(request, Some(held_until));
                self.spawn(Some(request), task);
            }
            return;
        }
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Quoted { mut job, .. } if job.escrow => {
                job.held_until = Some(held_until);
                self.on_funded(job);
            }
            other => live.phase = other,
        }
    }

    /// Takes a job whose money is held, unless that is for too short a time.
    pub(super) fn accept_hold(&mut self, job: Box<Job>, held_until: UnixSecs) -> Option<Box<Job>> {
        self.keep_hold(&job, Instant::now().into_std());
        match lasts(held_until, self.shop.now()) {
            Ok(()) => Some(job),
            Err(why) => {
                self.give_up(job, why);
                None
            }
        }
    }

    /// Ends a job that was not begun.
    fn give_up(&mut self, job: Box<Job>, why: NoHold) {
        let request = job.address.request;
        self.occupy(job.address, Phase::Working);
        let task = Arc::clone(&self.shop).give_up(job, why);
        self.spawn(Some(request), task);
    }

    /// Takes a job that waits for a slot out of the queue, and gives its money back.
    pub(super) fn give_up_waiting(&mut self, request: EventId, why: NoHold) {
        if !self.holds.contains_key(&request) || !self.waiting.remove(request) {
            return;
        }
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Waiting(job) => self.give_up(job, why),
            other => live.phase = other,
        }
    }

    /// A look-up about money that is held.
    pub(super) fn on_hold_looked_up(
        &mut self,
        request: EventId,
        found: &Result<Incoming, WalletError>,
    ) {
        let Some(hold) = self.holds.get_mut(&request) else {
            return;
        };
        if let Ok(Incoming::Held { deadline }) = found {
            hold.held_until = *deadline;
        }
        let Some(end) = self.shop.end_of(&hold.unsettled(), found) else {
            return;
        };
        match (hold.stage, end) {
            (Stage::Working, HoldEnd::Theirs) => {
                if let Some(lost) = self.running.get(&request) {
                    lost.cancel();
                } else {
                    self.give_up_waiting(request, NoHold::gone());
                }
            }
            (Stage::Delivered(_), HoldEnd::Theirs) => {
                self.close(request, &[JobStep::Vanished]);
                self.on_hold_ended(request, HoldEnd::Theirs);
            }
            (Stage::Delivered(_), HoldEnd::Ours) => {
                self.close(request, &[JobStep::Claimed]);
                self.on_hold_ended(request, HoldEnd::Ours);
            }
            _ => {}
        }
    }

    /// The result of a job in escrow is on record: claims its money if that is released, or waits for that.
    pub(super) fn on_hold_earned(&mut self, request: EventId) {
        let Some(hold) = self.holds.get_mut(&request) else {
            return;
        };
        let now = Instant::now();
        hold.stage = Stage::Delivered(now);
        match hold.preimage {
            Some(preimage) => self.claim(request, preimage),
            None => self.lookups.slow_down(hold.payment_hash, now.into_std()),
        }
    }

    /// A customer releases the money of a job. Heard from its author only, and only if it is the preimage;
    /// what comes before the result is kept until there is one.
    pub(super) fn on_release(&mut self, author: PublicKey, release: &PreimageRelease) {
        let Some(request) = self.by_job_id.get(&release.job_id).copied() else {
            return;
        };
        let Some(hold) = self.holds.get_mut(&request) else {
            return;
        };
        if hold.address.customer != author {
            return;
        }
        let Some(preimage) = parse(&release.preimage, hold.payment_hash) else {
            tracing::info!(%request, "a release that is not the preimage");
            return;
        };
        match hold.stage {
            Stage::Delivered(_) => self.claim(request, preimage),
            Stage::Working if hold.preimage.is_none() => {
                hold.preimage = Some(preimage);
                let task = Arc::clone(&self.shop).keep_preimage(request, preimage);
                self.spawn(None, task);
            }
            Stage::Working | Stage::Claiming | Stage::Returning => {}
        }
    }

    fn claim(&mut self, request: EventId, preimage: Preimage) {
        let Some(hold) = self.holds.get_mut(&request) else {
            return;
        };
        hold.stage = Stage::Claiming;
        hold.preimage = Some(preimage);
        let unsettled = hold.unsettled();
        self.lookups.forget(&unsettled.payment_hash);
        self.report(ProviderEvent::Released {
            job_id: JobId::of_request(&request),
        });
        let task = Arc::clone(&self.shop).claim(unsettled, preimage);
        self.spawn(Some(request), task);
    }

    /// There is no result: the customer's money goes back.
    pub(super) fn give_back(&mut self, request: EventId) {
        let Some(hold) = self.holds.get_mut(&request) else {
            return;
        };
        hold.stage = Stage::Returning;
        let unsettled = hold.unsettled();
        self.lookups.forget(&unsettled.payment_hash);
        let task = Arc::clone(&self.shop).give_back(unsettled);
        self.spawn(Some(request), task);
    }

    pub(super) fn on_hold_ended(&mut self, request: EventId, end: HoldEnd) {
        let Some(hold) = self.forget_hold(request) else {
            return;
        };
        let (job_id, price_msat) = (hold.address.job_id(), hold.price);
        match (hold.stage, end) {
            (_, HoldEnd::Open) => {}
            (Stage::Returning, HoldEnd::Theirs) => {
                self.report(ProviderEvent::Returned { job_id, price_msat });
            }
            (Stage::Returning, HoldEnd::Ours) => self.report(ProviderEvent::Failed {
                job_id,
                price_msat,
                reason: "settled without a result".into(),
            }),
            (_, HoldEnd::Ours) => self.report(ProviderEvent::Settled { job_id, price_msat }),
            (_, HoldEnd::Theirs) => {
                tracing::warn!(%job_id, customer = %hold.address.customer, price = %price_msat,
                    released = hold.preimage.is_some(), "a result was delivered and is not paid");
                self.report(ProviderEvent::Unreleased { job_id, price_msat });
            }
        }
    }

    /// Forgets money in escrow. What there is to know of it is on record.
    pub(super) fn forget_hold(&mut self, request: EventId) -> Option<Hold> {
        let hold = self.holds.remove(&request)?;
        self.lookups.forget(&hold.payment_hash);
        if !self.live.contains_key(&request) {
            self.by_job_id.remove(&hold.address.job_id());
        }
        Some(hold)
    }

    /// Asks what became of the money whose time is over.
    pub(super) fn mind_holds(&mut self, now: Instant) {
        let today = self.shop.now();
        for hold in self.holds.values_mut() {
            if hold.held_until <= today && !hold.was_overdue {
                hold.was_overdue = true;
                self.lookups.speed_up(hold.payment_hash, now.into_std());
            }
        }
    }

    /// Whether a result is so new that its release may come any moment.
    pub(super) fn expects_release(&self, now: Instant) -> bool {
        self.holds.values().any(|hold| match hold.stage {
            Stage::Delivered(at) => now < at + RELEASE_PATIENCE,
            _ => false,
        })
    }
}

/// Whose release may have been missed, and since when: who came last first.
fn missed(left: &[OpenHold]) -> VecDeque<(PublicKey, UnixSecs)> {
    let mut first = BTreeMap::new();
    for hold in left {
        if hold.preimage.is_none() && hold.state != JobState::Returning {
            let since = first.entry(hold.address.customer).or_insert(hold.since);
            *since = hold.since.min(*since);
        }
    }
    let mut missed: Vec<_> = first.into_iter().collect();
    missed.sort_by_key(|(_, since)| std::cmp::Reverse(*since));
    missed.into()
}

/// The preimage behind `hash`, as the customer wrote it.
fn parse(text: &str, hash: PaymentHash) -> Option<Preimage> {
    let preimage: Preimage = text.parse().ok()?;
    (preimage.payment_hash() == hash).then_some(preimage)
}

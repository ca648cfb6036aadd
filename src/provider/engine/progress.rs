//! A job on its way: quoted, paid, done, told. Each step answers what a task found out.

use std::sync::Arc;
use std::time::Duration;

use nostr::EventId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Engine, Phase};
use crate::ids::{JobId, PaymentHash};
use crate::provider::event::ProviderEvent;
use crate::provider::job::{Job, JobStep};
use crate::provider::pricing::Refusal;
use crate::provider::shop::{Late, Recorded, Shop};
use crate::provider::store::{Finish, LateQuote, StoreError, Unsent};
use crate::relay::RelayError;
use crate::units::UnixSecs;
use crate::wallet::{Incoming, WalletError};

/// How long after its end a quote is still looked up.
const LATE_SECS: u64 = 3_600;

impl Engine {
    pub(super) fn on_quoted(&mut self, job: Box<Job>, now: Instant) {
        let (address, invoice) = (job.address, Shop::invoice_of(&job));
        self.report(ProviderEvent::Quoted {
            job_id: address.job_id(),
            customer: address.customer,
            price_msat: job.price,
            payment_hash: job.payment_hash,
            expires_at: job.expires_at,
        });
        if let Some(hash) = job.payment_hash {
            let first = now + Duration::from_millis(250);
            self.lookups.watch(hash, address.request, first.into_std());
        }
        if let Some(live) = self.live.get_mut(&address.request) {
            live.phase = Phase::Quoted {
                job,
                cancelling: false,
            };
        }
        if self.leaving {
            return self.cancel(address.request);
        }
        let task = Arc::clone(&self.shop).send_invoice(address, invoice);
        self.spawn(Some(address.request), task);
    }

    pub(super) fn on_looked_up(
        &mut self,
        hash: PaymentHash,
        request: EventId,
        found: &Result<Incoming, WalletError>,
        now: Instant,
    ) {
        if !self.lookups.answered(hash, now.into_std()) {
            return;
        }
        if self.holds.contains_key(&request) {
            return self.on_hold_looked_up(request, found);
        }
        match found {
            Ok(Incoming::Settled) => self.on_settled(request),
            Ok(Incoming::Held { deadline }) => self.on_held(request, *deadline),
            Ok(answer) => {
                let Some(late) = self.late.get(&request) else {
                    return;
                };
                let given_up = self.shop.now() > late.expires_at.plus(LATE_SECS);
                if given_up || *answer == Incoming::Cancelled {
                    self.forget_late(request);
                    self.close(request, &[JobStep::Lapsed]);
                }
            }
            Err(trouble) => {
                tracing::warn!(%request, %trouble, "the wallet can't say whether a job is paid")
            }
        }
    }

    /// The money for a job is here.
    pub(super) fn on_settled(&mut self, request: EventId) {
        if let Some(late) = self.late.get(&request) {
            self.lookups.forget(&late.payment_hash);
            let task = Arc::clone(&self.shop).load(request, None);
            self.spawn(Some(request), task);
            return;
        }
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Quoted { job, .. } => self.on_funded(job),
            other => live.phase = other,
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        request: EventId,
        held_until: Option<UnixSecs>,
        job: Result<Box<Job>, StoreError>,
    ) {
        let late = self.forget_late(request);
        match (job, late) {
            (Ok(mut job), _) => {
                job.held_until = held_until;
                self.on_funded(job);
            }
            (Err(error), Some(late)) => {
                tracing::error!(%request, %error, "a paid job can't be read");
                self.watch_late(late);
            }
            (Err(_), None) => {}
        }
    }

    /// A job is paid, or its money is held.
    pub(super) fn on_funded(&mut self, job: Box<Job>) {
        let address = job.address;
        let (job_id, price_msat) = (address.job_id(), job.price);
        let job = match (job.held_until, job.payment_hash) {
            (Some(held_until), Some(payment_hash)) => {
                self.report(ProviderEvent::Held {
                    job_id,
                    price_msat,
                    payment_hash,
                    held_until,
                });
                self.accept_hold(job, held_until)
            }
            (_, payment_hash) => {
                if let Some(hash) = &payment_hash {
                    self.lookups.forget(hash);
                }
                self.report(ProviderEvent::Paid {
                    job_id,
                    price_msat,
                    payment_hash,
                });
                Some(job)
            }
        };
        if let Some(job) = job {
            self.queue_up(job);
        }
    }

    fn queue_up(&mut self, mut job: Box<Job>) {
        let (address, held_until) = (job.address, job.held_until);
        let starts = self.waiting.is_empty() && self.running.len() < self.max_jobs;
        job.waited = !starts;
        self.occupy(address, Phase::Waiting(job));
        self.waiting.push(address.request, address.customer);
        if starts {
            // The loop starts it before it does anything else.
            return;
        }
        let position = self.waiting.tell(address.request);
        let position = position.unwrap_or(u32::MAX);
        self.report(ProviderEvent::Queued {
            job_id: address.job_id(),
            position,
        });
        let task = Arc::clone(&self.shop).accept(address, held_until, position);
        self.spawn(None, task);
    }

    /// Tells those who have come much nearer to their turn.
    pub(super) fn tell_positions(&mut self) {
        for (request, position) in self.waiting.news() {
            let Some(live) = self.live.get(&request) else {
                continue;
            };
            let address = live.address;
            self.report(ProviderEvent::Queued {
                job_id: address.job_id(),
                position,
            });
            let task = Arc::clone(&self.shop).tell_position(address, position);
            self.spawn(None, task);
        }
    }

    pub(super) fn start_work(&mut self, request: EventId) {
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        let job = match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Waiting(job) => job,
            other => {
                live.phase = other;
                return;
            }
        };
        let lost = CancellationToken::new();
        self.running.insert(request, lost.clone());
        self.report(ProviderEvent::Started {
            job_id: job.address.job_id(),
            model: job.model.clone(),
        });
        let doubtful = job.held_until.is_some() && (job.resumed || job.waited);
        let task = Arc::clone(&self.shop).work(job, doubtful, lost);
        self.spawn(Some(request), task);
    }

    pub(super) fn on_worked(&mut self, job: &Job, finish: Finish, recorded: Recorded) {
        let late = (recorded == Recorded::Later).then(|| Late {
            held_until: job.held_until,
            finish: finish.clone(),
        });
        let address = job.address;
        let (job_id, price_msat) = (address.job_id(), job.price);
        self.drop_job(address.request);
        let is_result = finish.error.is_none();
        match (finish.error, job.held_until) {
            (None, None) => {}
            (None, Some(_)) => self.on_hold_earned(address.request),
            (Some(reason), None) => {
                tracing::error!(%job_id, customer = %address.customer, price = %job.price, %reason,
                    "a paid job failed: its money is owed");
                self.report(ProviderEvent::Failed {
                    job_id,
                    price_msat,
                    reason,
                });
            }
            (Some(reason), Some(_)) => {
                tracing::warn!(%job_id, customer = %address.customer, price = %job.price, %reason,
                    "a job in escrow has no result: the money goes back");
                self.report(ProviderEvent::Undone {
                    job_id,
                    price_msat,
                    reason,
                });
                self.give_back(address.request);
            }
        }
        let unsent = Unsent {
            address,
            price: job.price,
            is_result,
            messages: finish.messages,
        };
        self.tell(unsent, late);
    }

    pub(super) fn tell(&mut self, unsent: Unsent, late: Option<Late>) {
        self.telling += 1;
        let task = Arc::clone(&self.shop).tell(unsent, late);
        self.spawn(None, task);
    }

    pub(super) fn on_told(&mut self, what: &Unsent, told: Result<(), RelayError>) {
        self.telling -= 1;
        let job_id = what.address.job_id();
        match told {
            Ok(()) if what.is_result => self.report(ProviderEvent::Delivered {
                job_id,
                price_msat: what.price,
            }),
            Ok(()) => {}
            Err(trouble) => {
                tracing::error!(%job_id, %trouble, "a result was not taken; the next start tries again");
            }
        }
    }

    /// Gives a quote up, if the wallet agrees that it can no longer be paid.
    pub(super) fn cancel(&mut self, request: EventId) {
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        let Phase::Quoted { job, cancelling } = &mut live.phase else {
            return;
        };
        if std::mem::replace(cancelling, true) {
            return;
        }
        let task = Arc::clone(&self.shop).cancel(request, job.payment_hash);
        self.spawn(Some(request), task);
    }

    pub(super) fn on_cancelled(
        &mut self,
        request: EventId,
        done: &Result<(), WalletError>,
        now: Instant,
    ) {
        let Some(hash) = self.quoted_hash(request) else {
            // Paid meanwhile.
            return;
        };
        let job_id = JobId::of_request(&request);
        if let Err(why) = done {
            // Paid at the last moment, or the wallet can't cancel: look, and go on looking.
            tracing::info!(%job_id, %why, "a quote can't be cancelled");
            self.end_quote(request, now);
        } else {
            if let Some(hash) = &hash {
                self.lookups.forget(hash);
            }
            self.say_withdrawn(request);
            self.drop_job(request);
            self.close(request, &[JobStep::Withdrawn]);
        }
        self.report(ProviderEvent::Cancelled { job_id });
    }

    /// Money may have been locked to a quote that we take back because we leave: whose it is should know
    /// that it comes back.
    fn say_withdrawn(&mut self, request: EventId) {
        let Some(live) = self.live.get(&request).filter(|_| self.leaving) else {
            return;
        };
        if matches!(&live.phase, Phase::Quoted { job, .. } if job.escrow) {
            let refusal = Refusal::new("busy", "this provider stops: nothing is held any more");
            let task = Arc::clone(&self.shop).refuse(live.address, refusal);
            self.spawn(None, task);
        }
    }

    /// The payment hash of a live quote; `None` if there is no such quote.
    pub(super) fn quoted_hash(&self, request: EventId) -> Option<Option<PaymentHash>> {
        match &self.live.get(&request)?.phase {
            Phase::Quoted { job, .. } => Some(job.payment_hash),
            _ => None,
        }
    }

    pub(super) fn end_quotes(&mut self) {
        let now = self.shop.now();
        let over: Vec<EventId> = self
            .live
            .iter()
            .filter(|(_, live)| match &live.phase {
                Phase::Quoted { job, .. } => job.expires_at <= now,
                _ => false,
            })
            .map(|(request, _)| *request)
            .collect();
        for request in over {
            let job_id = JobId::of_request(&request);
            self.end_quote(request, Instant::now());
            self.report(ProviderEvent::Expired { job_id });
        }
    }

    /// Frees the place of a quote, and looks on whether it is paid all the same.
    pub(super) fn end_quote(&mut self, request: EventId, now: Instant) {
        let Some(live) = self.live.remove(&request) else {
            return;
        };
        let Phase::Quoted { job, .. } = live.phase else {
            return;
        };
        match job.payment_hash {
            Some(payment_hash) => {
                let late = LateQuote {
                    request,
                    customer: live.address.customer,
                    payment_hash,
                    expires_at: job.expires_at,
                    escrow: job.escrow,
                };
                self.late.insert(request, late);
                self.lookups.slow_down(payment_hash, now.into_std());
            }
            None => {
                self.by_job_id.remove(&live.address.job_id());
                self.close(request, &[JobStep::Lapsed]);
            }
        }
    }

    pub(super) fn watch_late(&mut self, quote: LateQuote) {
        let now = Instant::now().into_std();
        let (request, hash) = (quote.request, quote.payment_hash);
        if self.lookups.watch_late(hash, request, now) {
            let job_id = JobId::of_request(&request);
            self.by_job_id.insert(job_id, request);
            self.late.insert(request, quote);
        }
    }

    pub(super) fn forget_late(&mut self, request: EventId) -> Option<LateQuote> {
        let late = self.late.remove(&request)?;
        self.lookups.forget(&late.payment_hash);
        self.by_job_id.remove(&JobId::of_request(&request));
        Some(late)
    }

    /// Forgets a job that is not a quote any more. What there is to know of it is on record.
    pub(super) fn drop_job(&mut self, request: EventId) {
        self.live.remove(&request);
        self.running.remove(&request);
        if !self.holds.contains_key(&request) {
            self.by_job_id.remove(&JobId::of_request(&request));
        }
    }

    pub(super) fn close(&mut self, request: EventId, why: &'static [JobStep]) {
        let task = Arc::clone(&self.shop).close(request, why);
        self.spawn(None, task);
    }
}

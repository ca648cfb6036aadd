//! One purchase: choose, and buy from the best, or from the next best once that has failed for certain.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failover::{self, Queue, Tried};
use super::request::LONGEST;
use super::survey::{Candidate, survey, survey_but};
use super::{PurchaseEvent, PurchaseRequest, Ready, Receipt};
use crate::config::{LEAST_TIME_FOR_ANOTHER, MAX_IDEMPOTENCY_KEY_BYTES, MAX_TICK_BYTES};
use crate::error::{Code, Error, Result};
use crate::market::Select;
use crate::purchase::watcher::Watcher;

/// Buys one job.
pub(super) async fn buy(
    ready: &Ready,
    request: PurchaseRequest,
    watcher: &Watcher,
    stop: &CancellationToken,
) -> Result<Receipt> {
    let started = Instant::now();
    check(&request)?;
    if request.escrow && ready.buys && ready.engine.wallet.is_none() {
        return Err(Error::new(
            Code::Usage,
            "escrow locks real or play money, and without a wallet nothing is paid: choose one",
        ));
    }
    if !ready.buys {
        return Err(Error::new(
            Code::Wallet,
            "this client only looks: it has no way to pay",
        ));
    }
    let buyer = Buyer {
        ready,
        request: &request,
        watcher,
        stop,
        started,
        deadline: started + request.timeout,
    };
    if let Some(receipt) = buyer.earlier().await? {
        return Ok(receipt);
    }
    let candidates = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(stopped()),
        candidates = buyer.look_around() => candidates?,
    };
    buyer.buy_from_one_of(candidates).await
}

pub(super) fn stopped() -> Error {
    Error::new(
        Code::Interrupted,
        "stopped before any payment; nothing was paid",
    )
}

/// Stopped between two attempts: the earlier one is over, and the later one is none.
fn stopped_after(earlier: &Error) -> Error {
    match earlier.purchase() {
        Some(attempt) => stopped().of(attempt),
        None => stopped(),
    }
}

/// Whether this names a tick, if it names anything.
pub(super) fn check_tick(tick: Option<&str>) -> Result<()> {
    let bounds = 1..=MAX_TICK_BYTES;
    if tick.is_some_and(|tick| !bounds.contains(&tick.len())) {
        let message = format!("a tick id has 1 to {MAX_TICK_BYTES} bytes");
        return Err(Error::new(Code::Usage, message));
    }
    Ok(())
}

fn check(request: &PurchaseRequest) -> Result<()> {
    let usage = |message: &str| Err(Error::new(Code::Usage, message));
    if request.prompt.is_empty() {
        return usage("the prompt is empty");
    }
    if request.max_tokens == 0 {
        return usage("max_tokens must be at least 1");
    }
    if request.timeout > LONGEST {
        return usage("a purchase may take a day at most: the timeout is longer");
    }
    check_tick(request.tick.as_deref())?;
    if request
        .idempotency_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES)
    {
        return usage("an idempotency key has 1 to 256 bytes");
    }
    Ok(())
}

/// Who buys, what, and until when. Whatever is attempted shares these.
pub(super) struct Buyer<'a> {
    pub(super) ready: &'a Ready,
    pub(super) request: &'a PurchaseRequest,
    pub(super) watcher: &'a Watcher,
    pub(super) stop: &'a CancellationToken,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

impl Buyer<'_> {
    pub(super) async fn tell(&self, event: PurchaseEvent) {
        self.watcher.tell(event).await;
    }

    pub(super) fn left(&self) -> std::time::Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Finds the offers to take, the best first, within the limits and the buyer's wishes.
    async fn look_around(&self) -> Result<Vec<Candidate>> {
        let ends = self.deadline.min(self.request.looks_until(self.started));
        let survey = survey(self.ready, self.request, ends).await?;
        for seen in survey.seen {
            self.tell(PurchaseEvent::Provider(seen)).await;
        }
        survey.candidates
    }

    /// Buys from the first candidate; from the next, as often as the request allows, when the attempt before
    /// is dead beyond doubt. Each attempt is a purchase of its own, and never two have money at once.
    async fn buy_from_one_of(&self, candidates: Vec<Candidate>) -> Result<Receipt> {
        let takes_first = matches!(self.request.select, Select::First);
        let may_find_more = takes_first && self.request.offer.is_none();
        let mut queue = Queue::new(candidates, self.request.retries, may_find_more);
        let mut before: Vec<Tried> = Vec::new();
        let Some(mut candidate) = queue.next() else {
            return Err(Error::new(Code::Internal, "a choice without an offer"));
        };
        loop {
            let error = match self.buy_from(&candidate, queue.behind()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            if queue.behind().at_most == 0 || !self.may_ask_another(&error).await {
                return Err(failover::sum_up(error, &before, queue.suitable()));
            }
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(stopped_after(&error)),
                next = self.next_of(&mut queue) => next,
            };
            let Some(next) = next else {
                return Err(failover::sum_up(error, &before, queue.suitable()));
            };
            self.tell_failure(&error, &candidate, &next).await;
            before.push(Tried {
                provider: candidate.offer.provider.to_hex(),
                message: error.message().to_owned(),
            });
            candidate = next;
        }
    }

    /// Who is asked next. Who takes the first that is heard of has heard of nobody else: the others are looked
    /// for when they are needed.
    async fn next_of(&self, queue: &mut Queue) -> Option<Candidate> {
        if queue.behind().known == 0 {
            let within = self.request.discovery_time.min(self.left());
            let ends = Instant::now() + within;
            let others = survey_but(self.ready, self.request, queue.asked(), ends).await;
            // That nobody else was found is not what failed.
            let others = others.ok()?;
            for seen in others.seen.into_iter().filter(|seen| seen.matches) {
                self.tell(PurchaseEvent::Provider(seen)).await;
            }
            queue.add(others.candidates.ok()?);
        }
        queue.next().filter(|_| self.has_time())
    }

    fn has_time(&self) -> bool {
        self.left() >= LEAST_TIME_FOR_ANOTHER
    }

    /// Whether an attempt that ended so is dead, and there is time for another one.
    async fn may_ask_another(&self, error: &Error) -> bool {
        let engine = &self.ready.engine;
        if !failover::leads_on(error.code(), engine.wallet.is_some()) {
            return false;
        }
        let Some(attempt) = error.purchase() else {
            return false;
        };
        // What can't be read proves nothing.
        let record = engine.ledger.purchase(attempt).await;
        self.has_time() && record.is_ok_and(|record| failover::is_dead(&record))
    }

    async fn tell_failure(&self, error: &Error, failed: &Candidate, next: &Candidate) {
        if let Some(purchase_id) = error.purchase() {
            self.tell(PurchaseEvent::FailedOver {
                purchase_id,
                provider: failed.offer.provider.to_hex(),
                code: error.code(),
                message: error.message().to_owned(),
                next_provider: next.offer.provider.to_hex(),
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_purchase_may_take_a_day_and_no_time_is_too_long_to_be_told() {
        let lasting = |timeout| PurchaseRequest {
            timeout,
            discovery_time: timeout,
            ..PurchaseRequest::new("x")
        };
        assert!(check(&lasting(LONGEST)).is_ok());
        for timeout in [LONGEST + Duration::from_nanos(1), Duration::MAX] {
            let request = lasting(timeout);
            let refused = check(&request).map_err(|error| error.code());
            assert_eq!(refused, Err(Code::Usage));
            let now = Instant::now();
            assert_eq!(request.looks_until(now), now + LONGEST);
        }
    }
}

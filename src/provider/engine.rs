//! The loop: holds what is going on in memory, and decides what happens next.

mod holds;
mod intake;
mod progress;
mod returns;
mod start;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nostr::{EventId, Filter, Kind, PublicKey, Timestamp};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::holds::Hold;
use self::intake::STALE_SECS;
use self::returns::Returns;
use super::admission::{Credit, Seen};
use super::announce::{Announcer, START};
use super::event::ProviderEvent;
use super::job::{Address, Job};
use super::lookups::LookUps;
use super::pricing::Terms;
use super::queue::Queue;
use super::shop::{Outcome, Shop};
use super::store::{LateQuote, Unsent};
use crate::error::{Code, Error};
use crate::ids::{JobId, PaymentHash};
use crate::relay::{Incoming as FromRelay, RelayError, Subscription};
use crate::units::UnixSecs;

/// How often quotes are checked for their end, and relays for having come back.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Between tries to announce or subscribe: twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_SLOWEST: Duration = Duration::from_secs(30);

/// With this many tasks under way, nothing new is read from the channel.
const MOST_TASKS: usize = 512;

/// Results of earlier runs that are published at a time.
const MOST_LEFTOVERS: usize = 16;

/// A job that holds a place in the queue.
#[derive(Debug)]
struct Live {
    address: Address,
    phase: Phase,
}

/// What a job in memory is waiting for.
#[derive(Debug)]
enum Phase {
    /// Its invoice; in escrow, on this hash.
    Quoting { hold: Option<PaymentHash> },
    /// Its payment.
    Quoted { job: Box<Job>, cancelling: bool },
    /// A slot.
    Waiting(Box<Job>),
    /// The backend.
    Working,
}

/// All that goes on.
#[derive(Debug)]
pub(super) struct Engine {
    shop: Arc<Shop>,
    terms: Terms,
    channel: EventId,
    /// Where releases may come from: our channel, and those of jobs in escrow that earlier runs left.
    channels: Vec<EventId>,
    max_live: usize,
    max_quotes_per_customer: usize,
    max_jobs: usize,
    announce_every: Duration,
    announcer: Arc<Announcer>,

    live: HashMap<EventId, Live>,
    late: HashMap<EventId, LateQuote>,
    by_job_id: HashMap<JobId, EventId>,
    lookups: LookUps,
    waiting: Queue,
    /// What the backend works on, and how to tell that the money is gone.
    running: HashMap<EventId, CancellationToken>,
    /// Money in escrow, by the request that it is to pay for.
    holds: HashMap<EventId, Hold>,
    /// Customers whose release may have been missed, and since when.
    missed: VecDeque<(PublicKey, UnixSecs)>,
    leftovers: VecDeque<Unsent>,
    telling: usize,

    seen: Seen,
    credit: Credit,
    /// Whether the relays have sent all that they had stored.
    caught_up: bool,
    serve_stored_since: UnixSecs,
    leaving: bool,

    tasks: JoinSet<Outcome>,
    task_jobs: HashMap<task::Id, EventId>,
    subscription: Option<Subscription>,
    subscribe_pause: Duration,
    announce_due: Option<Instant>,
    announce_pause: Duration,
    ready: bool,
    returns: Returns,
    changes: Option<watch::Receiver<u64>>,
    housekeeping_due: Instant,
}

impl Engine {
    /// Runs until told to leave, and all that is paid is done.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let finish = self.shop.finish.clone();
        while !(self.leaving && self.is_idle()) {
            self.advance();
            let wake = self.next_wake();
            let room = self.tasks.len() < MOST_TASKS;
            tokio::select! {
                biased;
                () = finish.cancelled(), if !self.leaving => self.leave(),
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.on_ended(ended)?;
                }
                said = changed(&mut self.changes) => match said {
                    Ok(()) => self.lookups.wake(Instant::now().into_std()),
                    Err(_) => self.changes = None,
                },
                incoming = next(&mut self.subscription), if room => match incoming {
                    Some(FromRelay::Event(event)) => {
                        self.on_event(&event, Instant::now().into_std());
                    }
                    Some(FromRelay::StoredDone { .. }) => self.caught_up = true,
                    None => self.subscribe_again(),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// Whether nothing that was paid or is held is still to be done, and no release is worth waiting for.
    fn is_idle(&self) -> bool {
        self.tasks.is_empty()
            && self.waiting.is_empty()
            && self.running.is_empty()
            && self.leftovers.is_empty()
            && !self.expects_release(Instant::now())
    }

    /// Begins whatever its time has come for.
    fn advance(&mut self) {
        let now = Instant::now();
        if now >= self.housekeeping_due {
            self.housekeeping_due = now + HOUSEKEEPING;
            self.end_quotes();
            self.mind_holds(now);
            self.tell_positions();
            self.mind_relays(now);
        }
        while let Some((hash, job)) = self.lookups.next(now.into_std()) {
            let task = Arc::clone(&self.shop).look_up(hash, job);
            self.spawn(Some(job), task);
        }
        while self.running.len() < self.max_jobs
            && let Some(request) = self.waiting.pop()
        {
            self.start_work(request);
        }
        while self.telling < MOST_LEFTOVERS
            && let Some(unsent) = self.leftovers.pop_front()
        {
            self.tell(unsent, None);
        }
        if !self.leaving && self.announce_due.is_some_and(|due| due <= now) {
            self.announce();
        }
    }

    fn next_wake(&self) -> Instant {
        let look_up = self.lookups.next_due().map(Instant::from_std);
        let announce = self.announce_due.filter(|_| !self.leaving);
        let others = look_up.into_iter().chain(announce);
        others.fold(self.housekeeping_due, Instant::min)
    }

    /// Begins a task. One that is about a job says so, so that it is known whose it was if it panics.
    fn spawn(
        &mut self,
        job: Option<EventId>,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let id = self.tasks.spawn(task).id();
        if let Some(job) = job {
            self.task_jobs.insert(id, job);
        }
    }

    fn on_ended(&mut self, ended: Result<(task::Id, Outcome), JoinError>) -> Result<(), Error> {
        match ended {
            Ok((id, outcome)) => {
                self.task_jobs.remove(&id);
                self.on_outcome(outcome)
            }
            Err(error) => {
                // A bug of ours. The job stays on record as it is, and the next start takes it up.
                let job = self.task_jobs.remove(&error.id());
                tracing::error!(?job, %error, "a task of the provider failed");
                if let Some(request) = job {
                    self.forget_hold(request);
                    self.drop_job(request);
                }
                Ok(())
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        let now = Instant::now();
        match outcome {
            Outcome::Quoted(job) => self.on_quoted(job, now),
            Outcome::NotQuoted(address, refusal) => {
                self.drop_job(address.request);
                if let Some(refusal) = refusal {
                    self.refuse(address, refusal, now.into_std());
                }
            }
            Outcome::LookedUp(hash, request, found) => {
                self.on_looked_up(hash, request, &found, now)
            }
            Outcome::Loaded(request, held_until, job) => self.on_loaded(request, held_until, job),
            Outcome::Cancelled(request, done) => self.on_cancelled(request, &done, now),
            Outcome::Worked(job, finish, recorded) => self.on_worked(&job, finish, recorded),
            Outcome::Told(what, told) => self.on_told(&what, told),
            Outcome::Announced(said) => self.on_announced(said, now),
            Outcome::Subscribed(Ok(subscription)) => {
                self.subscribe_pause = RETRY_FIRST;
                self.subscription = Some(subscription);
            }
            Outcome::Subscribed(Err(RelayError::Closed)) => {
                return Err(Error::new(Code::Network, "the relay session is closed"));
            }
            Outcome::Subscribed(Err(trouble)) => {
                tracing::warn!(%trouble, "can't subscribe");
                self.subscribe_again();
            }
            Outcome::HoldEnded(request, end) => self.on_hold_ended(request, end),
            Outcome::Missed(events) => {
                for event in events {
                    self.on_event(&event, now.into_std());
                }
                self.look_for_missed();
            }
            Outcome::Nothing => {}
        }
        Ok(())
    }

    fn on_announced(&mut self, said: Result<(), String>, now: Instant) {
        match said {
            Ok(()) => {
                self.announce_pause = RETRY_FIRST;
                self.announce_due = Some(now + self.announce_every);
                if !std::mem::replace(&mut self.ready, true) {
                    self.report(ProviderEvent::Ready {
                        pubkey: self.shop.seller.key,
                        channel: self.channel,
                    });
                }
            }
            Err(trouble) => {
                tracing::warn!(%trouble, "not announced");
                self.announce_due = Some(now + self.announce_pause);
                self.announce_pause = (self.announce_pause * 2).min(RETRY_SLOWEST);
            }
        }
    }

    fn announce(&mut self) {
        self.announce_due = None;
        let forgotten = self.returns.told(Instant::now());
        let (shop, announcer) = (Arc::clone(&self.shop), Arc::clone(&self.announcer));
        self.spawn(None, async move {
            let voice = &shop.workshop.voice;
            Outcome::Announced(announcer.announce(voice, &shop.store, forgotten).await)
        });
    }

    /// A relay that comes back is told again, soon. While an announcement is under way this waits for its
    /// end.
    fn mind_relays(&mut self, now: Instant) {
        self.returns.look(self.shop.workshop.voice.relay.as_ref());
        let due = self.announce_due;
        self.announce_due = due.map(|due| self.returns.due(due, now));
    }

    fn subscribe_again(&mut self) {
        self.subscription = None;
        if self.leaving {
            return;
        }
        let (shop, pause) = (Arc::clone(&self.shop), self.subscribe_pause);
        let channels = self.channels.clone();
        self.subscribe_pause = (pause * 2).min(RETRY_SLOWEST);
        self.spawn(None, async move {
            tokio::time::sleep(pause).await;
            let filter = said_in(channels, shop.now());
            Outcome::Subscribed(shop.workshop.voice.relay.subscribe(filter, START).await)
        });
    }

    /// Withdraws the listing and gives up what nobody has paid.
    fn leave(&mut self) {
        self.leaving = true;
        let (shop, announcer) = (Arc::clone(&self.shop), Arc::clone(&self.announcer));
        self.spawn(None, async move {
            let voice = &shop.workshop.voice;
            if let Err(trouble) = announcer.withdraw(voice, &shop.store).await {
                tracing::warn!(%trouble, "the listing was not withdrawn; it expires by itself");
            }
            Outcome::Nothing
        });
        let quoted: Vec<EventId> = self.live.keys().copied().collect();
        for request in quoted {
            self.cancel(request);
        }
    }

    fn report(&self, event: ProviderEvent) {
        self.shop.workshop.reporter.say(event);
    }
}

async fn changed(
    changes: &mut Option<watch::Receiver<u64>>,
) -> Result<(), watch::error::RecvError> {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

async fn next(subscription: &mut Option<Subscription>) -> Option<FromRelay> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// What is said in these channels, from as far back as requests are served.
fn said_in(channels: Vec<EventId>, now: UnixSecs) -> Filter {
    Filter::new()
        .kind(Kind::ChannelMessage)
        .events(channels)
        .since(Timestamp::from_secs(now.minus(STALE_SECS).get()))
}

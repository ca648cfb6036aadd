//! Runs the machine: puts each step on record, then acts, then feeds back what came of it.
//!
//! The one order that matters is kept here and nowhere else: *reserve → persist → pay → settle*. A step
//! that moves money is committed before its effects begin, and its effects begin only if the commit
//! succeeded.

mod wallet;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ears::{Answers, Ears};
use super::event::{PurchaseEvent, Receipt};
use super::observed::{FirstToken, cuts_short, observation};
use super::state::{Effect, Finish, Happening, Phase, State, Step};
use super::step::{Now, step};
use super::watcher::Watcher;
use super::{notary, points};
use crate::clock::Clock;
use crate::config;
use crate::crash::{self, Point};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::ledger::{DriveGuard, Entry, Ledger, LedgerError, Limits};
use crate::protocol::message::AgentMessage;
use crate::protocol::record::Observation;
use crate::protocol::{channel, codec};
use crate::relay::seal::{self, Sealer};
use crate::relay::{Incoming, RelayError, RelaySession};
use crate::units::Msat;
use crate::wallet::Wallet;

/// Whatever a purchase needs to run.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Signs what we say.
    pub identity: Identity,
    /// Seals what only the provider may read, and opens what it sealed.
    pub sealer: Arc<Sealer>,
    /// Carries it.
    pub relays: Arc<dyn RelaySession>,
    /// Listens to providers, once for all purchases.
    pub ears: Arc<Ears>,
    /// Pays; `None`: nothing is ever paid.
    pub wallet: Option<Arc<dyn Wallet>>,
    /// Keeps the books.
    pub ledger: Ledger,
    /// The owner's limits.
    pub limits: Limits,
    /// Tells the time.
    pub clock: Clock,
}

/// How long a provider may take to quote, while there is another to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotePatience {
    /// From when its request is at a relay.
    pub once_sent: Duration,
    /// In any case.
    pub until: Instant,
}

/// One purchase under way.
pub struct Run<'a> {
    engine: &'a Engine,
    /// Keeps this process's own recovery away.
    driving: Arc<DriveGuard>,
    state: State,
    version: u64,
    watcher: &'a Watcher,
    started: Instant,
    deadline: Instant,
    /// Things under way that come back as something that happened.
    work: JoinSet<Option<Happening>>,
    /// What we say, on its way to the relays.
    said: JoinSet<()>,
    queue: VecDeque<Happening>,
    /// When a stream that is over counts as the whole text.
    whole_text_by: Option<Instant>,
    /// When a payment that its wallet has not decided is left to `recover`.
    doubt_until: Option<Instant>,
    look_after: Duration,
    /// The one look-up that is under way.
    looking: Option<AbortHandle>,
    /// When the preimage is said again, and the pause before the next time.
    release_again: Option<(Instant, Duration)>,
    /// How often a floor was tried again, and the pause before the next time.
    floor_tries: u32,
    prepare_after: Duration,
    /// `None`: the provider may quote until the deadline.
    quote_patience: Option<QuotePatience>,
    /// It was left by an earlier run: nobody waits for the result beyond the time that recovery has.
    resumed: bool,
    first_token: FirstToken,
    /// Nothing live is expected: what the relays have stored is all there is.
    stored_only: bool,
    finished: Option<Finish>,
}

impl<'a> Run<'a> {
    /// A purchase that is on record in `state` at `version`, owned by this process and driven by it.
    #[must_use]
    pub fn new(
        engine: &'a Engine,
        driving: Arc<DriveGuard>,
        state: State,
        version: u64,
        watcher: &'a Watcher,
        started: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            engine,
            driving,
            state,
            version,
            watcher,
            started,
            deadline,
            work: JoinSet::new(),
            said: JoinSet::new(),
            queue: VecDeque::new(),
            whole_text_by: None,
            doubt_until: None,
            look_after: config::LOOK_UP_FIRST,
            looking: None,
            release_again: None,
            floor_tries: 0,
            prepare_after: Duration::ZERO,
            quote_patience: None,
            resumed: false,
            first_token: FirstToken::default(),
            stored_only: false,
            finished: None,
        }
    }

    /// Ends as if time had run out once the relays have said all that they have stored.
    #[must_use]
    pub const fn stored_only(mut self, yes: bool) -> Self {
        self.stored_only = yes;
        self
    }

    /// Gives up a provider that does not quote in this time.
    #[must_use]
    pub const fn quote_within(mut self, patience: Option<QuotePatience>) -> Self {
        self.quote_patience = patience;
        self
    }

    /// Publishes the request and sees the purchase through. `answers` must be subscribed already.
    ///
    /// # Errors
    /// With the code of `cli.md`, what was paid, and what is still reserved.
    pub async fn buy(mut self, answers: Answers, stop: &CancellationToken) -> Result<Receipt> {
        self.publish_request();
        self.tell(PurchaseEvent::Requested {
            purchase_id: self.state.terms.id,
            job_id: self.state.terms.job_id(),
            encrypted: self.state.terms.sealed,
        })
        .await;
        self.drive(answers, stop).await
    }

    /// Ends a purchase whose request could not even be sent.
    ///
    /// # Errors
    /// Always: with what kept it from being sent.
    pub async fn abandon(mut self, error: Error) -> Result<Receipt> {
        self.take(Happening::NotSent(error.message().to_owned()))
            .await?;
        self.outcome().await
    }

    /// Ends a purchase that an earlier run left before any payment, and tells the provider, for whom it
    /// holds a place in the queue.
    ///
    /// # Errors
    /// If the ledger can't be written.
    pub async fn give_up(mut self) -> Result<()> {
        self.take(Happening::Interrupted).await?;
        self.last_words().await;
        Ok(())
    }

    /// Sees a purchase through that an earlier run left: what that one may not have said is said again.
    ///
    /// # Errors
    /// As [`Self::buy`].
    pub async fn resume(mut self, answers: Answers, stop: &CancellationToken) -> Result<Receipt> {
        self.resumed = true;
        self.queue.push_back(Happening::Resumed);
        self.drive(answers, stop).await
    }

    /// Sees a purchase through, from wherever it stands, until the buyer can be told how it stands.
    ///
    /// # Errors
    /// As [`Self::buy`].
    async fn drive(mut self, mut answers: Answers, stop: &CancellationToken) -> Result<Receipt> {
        let mut listening = true;
        while self.finished.is_none() {
            if let Some(happening) = self.queue.pop_front() {
                self.take(happening).await?;
                continue;
            }
            let happening = tokio::select! {
                biased;
                () = stop.cancelled() => Some(Happening::Interrupted),
                Some(done) = self.work.join_next() => done.ok().flatten(),
                Some(_) = self.said.join_next() => None,
                // Before what comes in: a provider that never stops talking must not put these off.
                () = sleep_until(self.deadline) => Some(Happening::Deadline),
                () = at(self.doubt_until) => {
                    self.doubt_until = None;
                    Some(Happening::GiveUpLooking)
                }
                incoming = answers.next(&*self.engine.relays, &self.state.terms), if listening => match incoming {
                    Some(Incoming::StoredDone { .. }) => self.over_with_the_stored(),
                    Some(Incoming::Event(event)) => heard(self.engine, &self.state, &event),
                    None => {
                        listening = false;
                        Some(Happening::NotSent("the relay session ended".to_owned()))
                    }
                },
                () = at(self.whole_text_by) => {
                    self.whole_text_by = None;
                    Some(Happening::NoWholeText)
                }
                () = at(self.release_again.map(|(moment, _)| moment)) => {
                    Some(Happening::SayAgain)
                }
            };
            self.queue.extend(happening);
        }
        self.last_words().await;
        self.outcome().await
    }

    /// The relays have said all that they have stored. A result among it is seen through.
    fn over_with_the_stored(&self) -> Option<Happening> {
        let found = matches!(self.state.phase, Phase::Released { .. });
        (self.stored_only && !found).then_some(Happening::Deadline)
    }

    fn now(&self) -> Now {
        let elapsed = self.started.elapsed().as_millis();
        Now {
            at: self.engine.clock.now(),
            elapsed_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
        }
    }

    /// Takes one step: decide, commit, act.
    async fn take(&mut self, happening: Happening) -> Result<()> {
        let looked_up_in_flight = matches!(
            happening,
            Happening::LookedUp {
                found: crate::wallet::Outgoing::InFlight,
                ..
            }
        );
        let looked_up = matches!(happening, Happening::LookedUp { .. });
        let before = self.state.phase.clone();
        let now = self.now();
        let cut_short = cuts_short(&happening, &self.state, now.at);
        let next = step(&mut self.state, happening, now);
        self.first_token.see(&before, &self.state, now.elapsed_ms);
        let seen = observation(&before, &self.state, cut_short, self.first_token.ms());
        let Some(Step { tell, effects, .. }) = self.commit(before, next, seen).await? else {
            return Ok(());
        };
        let phase = &self.state.phase;
        let in_doubt = phase.is_in_doubt();
        let waits = matches!(phase, Phase::Released { .. } | Phase::Withheld { .. });
        if looked_up_in_flight && !waits {
            // It is on its way: that is no doubt, and only the buyer's patience bounds the wait.
            self.doubt_until = None;
        } else if in_doubt && self.doubt_until.is_none() && !looked_up {
            self.doubt_until = Some(Instant::now() + config::DOUBT_PATIENCE);
        }
        for event in tell {
            self.tell(event).await;
        }
        let undecided = self.state.phase.is_undecided();
        if looked_up && undecided && !effects.contains(&Effect::LookUp) {
            self.look_up();
        }
        for effect in effects {
            self.act(effect);
        }
        Ok(())
    }

    /// Puts a step on record. `None`: it was refused, the phase is as before, and what refused it is
    /// queued as the next thing that happened.
    async fn commit(
        &mut self,
        before: Phase,
        next: Step,
        seen: Option<Observation>,
    ) -> Result<Option<Step>> {
        if !next.save {
            return Ok(Some(next));
        }
        let row = match self.state.to_row() {
            Ok(row) => row,
            Err(error) => return Err(Error::new(Code::Internal, error.to_string())),
        };
        let entries: Vec<Entry> = next
            .entries
            .iter()
            .map(|booking| booking.entry(self.engine.limits))
            .chain(seen.map(Entry::Observe))
            .chain(notary::receipt(&before, &self.state, &self.engine.identity))
            .collect();
        let id = self.state.terms.id;
        let commit = self.engine.ledger.commit(id, self.version, row, entries);
        let points = points::of_commit(&before, &self.state.phase);
        let committed = crash::around(points, commit).await;
        let refused_as = match committed {
            Ok(version) => {
                self.version = version;
                return Ok(Some(next));
            }
            Err(LedgerError::Refused(refusal))
                if self.floor_tries < config::FLOOR_TRIES && self.may_be_twice(&next, refusal) =>
            {
                self.state.phase = before;
                self.prepare_after = config::LOOK_UP_FIRST * 2_u32.pow(self.floor_tries);
                self.floor_tries += 1;
                self.act(Effect::Prepare);
                return Ok(None);
            }
            Err(LedgerError::Refused(refusal)) => Happening::OverBudget(refusal),
            Err(LedgerError::HashUsed(_)) => Happening::HashUsed,
            Err(LedgerError::StaleBalance) => {
                self.state.phase = before;
                self.act(Effect::Prepare);
                return Ok(None);
            }
            Err(error) => {
                self.state.phase = before;
                return Err(self.books_closed(error).await);
            }
        };
        self.state.phase = before;
        self.queue.push_front(refused_as);
        Ok(None)
    }

    /// The ledger can't be written. What it says already is still true, and the money is where it says.
    async fn books_closed(&self, error: LedgerError) -> Error {
        let reserved = self.reserved().await;
        if self.state.phase.is_undecided() {
            let message = format!(
                "{error}; a payment was begun and stays reserved. Mend the ledger, then run `agent-customer recover`"
            );
            return Error::new(Code::PaymentUnknown, message)
                .of(self.state.terms.id)
                .with_money(Msat::ZERO, reserved);
        }
        let paid = self.state.phase.paid();
        if !paid.is_zero() {
            let message = format!(
                "{error}; {paid} were paid, and the result can't be kept. Mend the ledger, then run `agent-customer recover`"
            );
            return Error::new(Code::Undelivered, message)
                .of(self.state.terms.id)
                .with_money(paid, reserved);
        }
        let nothing = if reserved.is_zero() {
            "; nothing was paid"
        } else {
            ""
        };
        let message = format!("{error}{nothing}");
        let code = Error::from(error).code();
        Error::new(code, message)
            .of(self.state.terms.id)
            .with_money(paid, reserved)
    }

    async fn tell(&self, event: PurchaseEvent) {
        self.watcher.tell(event).await;
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Say(message) => {
                if matches!(message, AgentMessage::PreimageRelease(_)) {
                    self.release_again_later();
                }
                self.say(&message);
            }
            Effect::Prepare => self.prepare(),
            Effect::Pay => self.pay(),
            Effect::LookUp => self.look_up_soon(),
            Effect::WatchOrder => self.watch_order(),
            Effect::WaitForWallet(patience) => {
                let until = Instant::now() + patience;
                self.doubt_until = Some(until);
                if !self.resumed {
                    // What the provider did is known; how the money stands may take a moment longer.
                    self.deadline = self.deadline.max(until);
                }
            }
            Effect::AwaitWholeText => {
                self.whole_text_by
                    .get_or_insert(Instant::now() + config::WHOLE_TEXT_PATIENCE);
            }
            Effect::Finish(finish) => self.finished = Some(finish),
        }
    }

    fn publish_request(&mut self) {
        let relays = Arc::clone(&self.engine.relays);
        let request = self.state.terms.request.clone();
        let within = self.deadline.saturating_duration_since(Instant::now());
        let patience = self.quote_patience;
        self.work.spawn(async move {
            let publish = relays.publish(&request, within);
            if let Err(error) = crash::around(Point::CustomerRequest, publish).await {
                return Some(Happening::NotSent(error.to_string()));
            }
            sleep(patience?.once_sent).await;
            Some(Happening::NoQuote)
        });
        if let Some(QuotePatience { until, .. }) = patience {
            self.work.spawn(async move {
                sleep_until(until).await;
                Some(Happening::NoQuote)
            });
        }
    }

    /// A provider that has missed the preimage is told again, after growing pauses.
    fn release_again_later(&mut self) {
        let pause = self
            .release_again
            .map_or(config::RELEASE_AGAIN_FIRST, |(_, pause)| pause);
        let next = (pause * 2).min(config::RETRY_LONGEST);
        self.release_again = Some((Instant::now() + pause, next));
    }

    /// Says something in the channel, and again until a relay takes it: deployed providers start on
    /// `PaymentSent` alone.
    fn say(&mut self, message: &AgentMessage) {
        let terms = &self.state.terms;
        let content = if terms.sealed {
            self.engine.sealer.seal(&terms.provider, message).ok()
        } else {
            codec::encode(message).ok()
        };
        let Some(content) = content else {
            return;
        };
        let relay = self
            .engine
            .relays
            .relays()
            .first()
            .map_or_else(String::new, |relay| relay.url.to_string());
        let to = channel::ReplyTo {
            event: terms.request.id,
            author: terms.provider,
        };
        let event = channel::message(terms.channel, &relay, content, Some(to));
        // Never before the request, whatever became of the clock since: a provider listens from a while
        // before that on, and what seems older does not reach it.
        let at = self.engine.clock.now().max(terms.started_at);
        let Ok(event) = seal::sign(&self.engine.identity, event, at) else {
            return;
        };
        let relays = Arc::clone(&self.engine.relays);
        let until = self.deadline.max(Instant::now() + config::LAST_WORDS);
        let points = points::of_message(message);
        self.said
            .spawn(crash::around(points, publish_until(relays, event, until)));
    }

    /// Gives what is still to be said a moment to leave.
    async fn last_words(&mut self) {
        let _ = timeout(config::LAST_WORDS, async {
            while self.said.join_next().await.is_some() {}
        })
        .await;
    }

    async fn outcome(self) -> Result<Receipt> {
        match (&self.finished, self.state.receipt()) {
            (Some(Finish::Delivered), Some(receipt)) => Ok(Receipt {
                reserved_msat: self.reserved().await,
                ..receipt
            }),
            (Some(Finish::Failed { code, message }), _) => Err(Error::new(*code, message.clone())
                .of(self.state.terms.id)
                .with_money(self.state.phase.paid(), self.reserved().await)),
            _ => Err(Error::new(
                Code::Internal,
                "a purchase ended without an outcome",
            )),
        }
    }

    async fn reserved(&self) -> Msat {
        // What is over holds nothing: the ledger takes no end with money open behind it.
        if matches!(
            self.state.phase,
            Phase::Delivered { .. } | Phase::Failed { .. }
        ) {
            return Msat::ZERO;
        }
        let record = self.engine.ledger.purchase(self.state.terms.id).await;
        record.map_or(Msat::ZERO, |record| record.reserved())
    }
}

/// Publishes again and again until a relay has taken it, or time is up.
async fn publish_until(relays: Arc<dyn RelaySession>, event: nostr::Event, until: Instant) {
    let mut pause = config::RETRY_FIRST;
    loop {
        let within = until.saturating_duration_since(Instant::now());
        match relays.publish(&event, within).await {
            Ok(_) | Err(RelayError::Closed | RelayError::NoRelay(_)) => return,
            Err(RelayError::NotPublished(_) | RelayError::Unreachable(_)) => {}
        }
        if Instant::now() + pause >= until {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(config::RETRY_LONGEST);
    }
}

/// What a relay brought, if it could be for this purchase.
fn heard(engine: &Engine, state: &State, event: &nostr::Event) -> Option<Happening> {
    if event.pubkey != state.terms.provider
        || channel::channel_of(event) != Some(state.terms.channel)
    {
        return None;
    }
    let message = match codec::decode(&event.content).ok()? {
        AgentMessage::Sealed(sealed) => {
            // A busy provider's answers to others need not be tried.
            let request = state.terms.request.id;
            if channel::answered(event).is_some_and(|answered| answered != request) {
                return None;
            }
            engine.sealer.open(&event.pubkey, &sealed).ok()?
        }
        message => message,
    };
    // The session has verified it. An invoice is verified again, here, whoever made the session.
    let is_invoice = matches!(message, AgentMessage::Invoice(_));
    if is_invoice && event.verify().is_err() {
        return None;
    }
    Some(Happening::Message {
        from: event.pubkey,
        message,
    })
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

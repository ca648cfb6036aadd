//! Runs the machine: puts each step on record, then acts, then feeds back what came of it.
//!
//! The one order that matters is kept here and nowhere else: *reserve → persist → pay → settle*. A step
//! that moves money is committed before its effects begin, and its effects begin only if the commit
//! succeeded.

mod wallet;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(super) use self::wallet::look_up;
use self::wallet::{Claim, ordered, prepare};
use super::event::{PurchaseEvent, Receipt};
use super::state::{Booking, Effect, Finish, Happening, PayBy, Phase, Quote, State, Step};
use super::step::{Now, step};
use super::watcher::Watcher;
use crate::clock::Clock;
use crate::config::{self, default_fee_cap};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::ledger::{DriveGuard, Entry, Ledger, LedgerError, Limits, Reserve};
use crate::protocol::message::AgentMessage;
use crate::protocol::{channel, codec};
use crate::relay::seal::{self, Sealer};
use crate::relay::{Incoming, RelayError, RelaySession, Subscription};
use crate::units::Msat;
use crate::wallet::{PayRequest, Wallet};

/// Whatever a purchase needs to run.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Signs what we say.
    pub identity: Identity,
    /// Seals what only the provider may read, and opens what it sealed.
    pub sealer: Arc<Sealer>,
    /// Carries it.
    pub relays: Arc<dyn RelaySession>,
    /// Pays; `None`: nothing is ever paid.
    pub wallet: Option<Arc<dyn Wallet>>,
    /// Keeps the books.
    pub ledger: Ledger,
    /// The owner's limits.
    pub limits: Limits,
    /// Tells the time.
    pub clock: Clock,
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
    /// When a payment in doubt is left to `recover`.
    doubt_until: Option<Instant>,
    look_after: Duration,
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

    /// Publishes the request and sees the purchase through. `answers` must be subscribed already.
    ///
    /// # Errors
    /// With the code of `cli.md`, what was paid, and what is still reserved.
    pub async fn buy(mut self, answers: Subscription, stop: &CancellationToken) -> Result<Receipt> {
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
    pub async fn resume(
        mut self,
        answers: Subscription,
        stop: &CancellationToken,
    ) -> Result<Receipt> {
        self.queue.push_back(Happening::Resumed);
        self.drive(answers, stop).await
    }

    /// Sees a purchase through, from wherever it stands, until the buyer can be told how it stands.
    ///
    /// # Errors
    /// As [`Self::buy`].
    async fn drive(
        mut self,
        mut answers: Subscription,
        stop: &CancellationToken,
    ) -> Result<Receipt> {
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
                () = at(self.doubt_until) => Some(Happening::GiveUpLooking),
                incoming = answers.next(), if listening => match incoming {
                    Some(Incoming::StoredDone { .. }) => self.stored_only.then_some(Happening::Deadline),
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
            };
            self.queue.extend(happening);
        }
        self.last_words().await;
        self.outcome().await
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
        let next = step(&mut self.state, happening, now);
        let Some(Step { tell, effects, .. }) = self.commit(before, next).await? else {
            return Ok(());
        };
        let in_doubt = matches!(self.state.phase, Phase::Unknown { .. });
        if looked_up_in_flight {
            // It is on its way: that is no doubt, and only the buyer's patience bounds the wait.
            self.doubt_until = None;
        } else if in_doubt && self.doubt_until.is_none() && !looked_up {
            self.doubt_until = Some(Instant::now() + config::DOUBT_PATIENCE);
        }
        for event in tell {
            self.tell(event).await;
        }
        let undecided = in_doubt || matches!(self.state.phase, Phase::Paying(_));
        if looked_up && undecided && effects.is_empty() {
            self.look_up();
        }
        for effect in effects {
            self.act(effect);
        }
        Ok(())
    }

    /// Puts a step on record. `None`: it was refused, the phase is as before, and what refused it is
    /// queued as the next thing that happened.
    async fn commit(&mut self, before: Phase, next: Step) -> Result<Option<Step>> {
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
            .map(|booking| self.entry(booking))
            .collect();
        let id = self.state.terms.id;
        let committed = self
            .engine
            .ledger
            .commit(id, self.version, row, entries)
            .await;
        let refused_as = match committed {
            Ok(version) => {
                self.version = version;
                return Ok(Some(next));
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
        let at_stake = matches!(self.state.phase, Phase::Paying(_) | Phase::Unknown { .. });
        if at_stake {
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
        Error::from(error)
            .of(self.state.terms.id)
            .with_money(paid, reserved)
    }

    fn entry(&self, booking: &Booking) -> Entry {
        match booking {
            Booking::Plain(entry) => entry.clone(),
            Booking::Reserve {
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
                limits: self.engine.limits,
                seen: *seen,
            }),
        }
    }

    async fn tell(&self, event: PurchaseEvent) {
        self.watcher.tell(event).await;
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Say(message) => self.say(&message),
            Effect::Prepare => self.prepare(),
            Effect::Pay => self.pay(),
            Effect::LookUp => self.look_up(),
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
        self.work.spawn(async move {
            match relays.publish(&request, within).await {
                Ok(_) => None,
                Err(error) => Some(Happening::NotSent(error.to_string())),
            }
        });
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
        let Ok(event) = seal::sign(&self.engine.identity, event, self.engine.clock.now()) else {
            return;
        };
        let relays = Arc::clone(&self.engine.relays);
        let until = self.deadline.max(Instant::now() + config::LAST_WORDS);
        self.said.spawn(async move {
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
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(config::RETRY_LONGEST);
            }
        });
    }

    fn wallet_and_quote(&self) -> Option<(Arc<dyn Wallet>, Quote)> {
        let wallet = Arc::clone(self.engine.wallet.as_ref()?);
        let quote = self.state.phase.quote()?.clone();
        let PayBy::Invoice(id) = &self.state.terms.pay_by else {
            return None;
        };
        (wallet.id() == id).then_some((wallet, quote))
    }

    fn prepare(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let cap = self
            .state
            .terms
            .max_fee
            .unwrap_or_else(|| default_fee_cap(quote.amount));
        let ledger = self.engine.ledger.clone();
        let floor = self.engine.limits.floor;
        self.work.spawn(async move {
            Some(match prepare(&*wallet, &ledger, &quote, cap, floor).await {
                Ok((fee_cap, seen)) => Happening::Prepared { fee_cap, seen },
                Err((code, message)) => Happening::CannotPay { code, message },
            })
        });
    }

    fn pay(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let request = PayRequest {
            bolt11: invoice.bolt11,
            payment_hash: invoice.payment_hash,
            amount: quote.amount,
            max_fee: Msat::ZERO,
            purchase: self.state.terms.id,
        };
        let claim = Claim::new(&self.engine.ledger, &self.driving);
        let answer = ordered(wallet, request, claim);
        self.work
            .spawn(async move { Some(Happening::PayAnswered(answer.await)) });
    }

    /// Asks the wallet once more, after a hint or a growing pause.
    fn look_up(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let first_pause = self.look_after;
        self.look_after = (first_pause * 2).min(config::LOOK_UP_LONGEST);
        self.work
            .spawn(async move { Some(look_up(&*wallet, invoice.payment_hash, first_pause).await) });
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
            (Some(Finish::Delivered), Some(receipt)) => Ok(receipt),
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
        let record = self.engine.ledger.purchase(self.state.terms.id).await;
        record.map_or(Msat::ZERO, |record| record.reserved())
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

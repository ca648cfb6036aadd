//! One purchase: choose, put on record, and drive.

use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::survey::{Chosen, encryption, survey};
use super::{PurchaseEvent, PurchaseRequest, Ready, Receipt};
use crate::config::{Encrypt, MAX_IDEMPOTENCY_KEY_BYTES, MAX_TICK_BYTES};
use crate::error::{Code, Error, Result};
use crate::ids::{Preimage, PurchaseId};
use crate::ledger::{Idempotency, LedgerError, NewPurchase, Opened, PurchaseRecord, Status};
use crate::protocol::message::{AgentMessage, JobRequest};
use crate::protocol::{Feature, KIND_TEXT_GENERATION, channel, codec};
use crate::purchase::driver::Run;
use crate::purchase::listen::{Since, listen};
use crate::purchase::lock::Word;
use crate::purchase::recover::{Depth, recover_one};
use crate::purchase::state::{PayBy, Phase, State, Terms};
use crate::purchase::watcher::Watcher;
use crate::relay::seal;
use crate::units::{Msat, UnixSecs};

/// The first and the longest pause between looks at a purchase that another process runs.
const WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Buys one job.
pub(super) async fn buy(
    ready: &Ready,
    request: PurchaseRequest,
    watcher: &Watcher,
    stop: &CancellationToken,
) -> Result<Receipt> {
    let started = Instant::now();
    let deadline = started + request.timeout;
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
    let attempt = Attempt {
        ready,
        request: &request,
        watcher,
        stop,
        started,
        deadline,
    };
    if let Some(receipt) = attempt.earlier().await? {
        return Ok(receipt);
    }
    let chosen = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(stopped()),
        chosen = attempt.choose() => chosen?,
    };
    loop {
        if let Some(receipt) = attempt.buy_from(&chosen).await? {
            return Ok(receipt);
        }
    }
}

fn stopped() -> Error {
    Error::new(
        Code::Interrupted,
        "stopped before any payment; nothing was paid",
    )
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

struct Attempt<'a> {
    ready: &'a Ready,
    request: &'a PurchaseRequest,
    watcher: &'a Watcher,
    stop: &'a CancellationToken,
    started: Instant,
    deadline: Instant,
}

impl Attempt<'_> {
    fn idempotency(&self) -> Option<Idempotency> {
        let key = self.request.idempotency_key.clone()?;
        let paid = self.ready.engine.wallet.is_some();
        Some(Idempotency {
            key,
            fingerprint: self.request.fingerprint(self.ready.scope, paid),
        })
    }

    /// What an earlier purchase with the same idempotency key came to. `None`: there is none, or it
    /// failed unpaid, so that a new attempt is due.
    async fn earlier(&self) -> Result<Option<Receipt>> {
        let Some(wanted) = self.idempotency() else {
            return Ok(None);
        };
        let ledger = &self.ready.engine.ledger;
        let Some(record) = ledger.by_key(&wanted.key).await? else {
            return Ok(None);
        };
        let state = read(&record)?;
        if state.terms.fingerprint.as_ref() != Some(&wanted.fingerprint) {
            return Err(LedgerError::KeyConflict(record.id).into());
        }
        self.await_outcome(record).await
    }

    /// Waits for a purchase that may be running elsewhere; recovers it if nobody runs it.
    async fn await_outcome(&self, mut record: PurchaseRecord) -> Result<Option<Receipt>> {
        let engine = &self.ready.engine;
        let mut recovered = false;
        let mut pause = WATCH_PAUSE.0;
        loop {
            let state = read(&record)?;
            match record.state.status {
                Status::Failed => return Ok(None),
                Status::Delivered => return self.tell_again(&record, &state).await.map(Some),
                Status::Open | Status::Undelivered if !recovered => {
                    recovered = recover_one(engine, record.clone(), Depth::All)
                        .await?
                        .is_some();
                    if recovered {
                        record = engine.ledger.purchase(record.id).await?;
                        continue;
                    }
                }
                // Delivered, and the provider has yet to claim the money.
                Status::Open if state.receipt().is_some() && recovered => {
                    return self.tell_again(&record, &state).await.map(Some);
                }
                Status::Open | Status::Undelivered => return Err(unsettled(&record, &state)),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(stopped().of(record.id)),
                () = tokio::time::sleep_until(self.deadline) => return match state.receipt() {
                    Some(_) => self.tell_again(&record, &state).await.map(Some),
                    None => Err(unsettled(&record, &state)),
                },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(WATCH_PAUSE.1);
            record = engine.ledger.purchase(record.id).await?;
        }
    }

    async fn tell_again(&self, record: &PurchaseRecord, state: &State) -> Result<Receipt> {
        let mut receipt = state
            .receipt()
            .ok_or_else(|| Error::new(Code::Internal, "a delivered purchase has no receipt"))?;
        receipt.reserved_msat = record.reserved();
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(receipt.purchase_id),
            provider: receipt.provider.clone(),
            price_msat: state.terms.listed,
        })
        .await;
        Ok(receipt)
    }

    async fn tell(&self, event: PurchaseEvent) {
        self.watcher.tell(event).await;
    }

    /// Finds an offer to take, within the limits and the buyer's wishes.
    async fn choose(&self) -> Result<Chosen> {
        let ends = self
            .deadline
            .min(self.started + self.request.discovery_time);
        let survey = survey(self.ready, self.request, ends).await?;
        for seen in survey.seen {
            self.tell(PurchaseEvent::Provider(seen)).await;
        }
        survey.chosen
    }

    /// Puts the purchase on record and sees it through. `None`: another process was quicker with the same
    /// key, and failed unpaid, so that it is our turn.
    async fn buy_from(&self, chosen: &Chosen) -> Result<Option<Receipt>> {
        let Self { ready, request, .. } = self;
        let offer = &chosen.offer;
        let engine = &ready.engine;
        let id = random_purchase_id();
        let listed = offer.expected_price(request.max_tokens);
        let terms = self.terms(id, chosen, listed)?;
        let state = State::new(terms);
        let row = state
            .to_row()
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        let new = NewPurchase {
            id,
            scope: ready.scope,
            tick: request.tick.clone(),
            idempotency: self.idempotency(),
            state: row,
        };
        if state.terms.sealed {
            engine.ledger.remember_sealing(offer.provider).await?;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let driving = engine
            .ledger
            .drive(id)
            .ok_or_else(|| Error::new(Code::Internal, "a random purchase id came twice"))?;
        // Asking the relays for answers and putting the purchase on record don't wait for each other;
        // the request leaves after both.
        let (opened, answers) = tokio::join!(
            engine.ledger.open_purchase(new),
            listen(&*engine.relays, &state.terms, Since::Now, left)
        );
        let record = match opened? {
            Opened::New(record) => record,
            Opened::Existing(record) => return self.await_outcome(record).await,
        };
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(id),
            provider: offer.provider.to_hex(),
            price_msat: listed,
        })
        .await;
        let run = Run::new(
            engine,
            Arc::new(driving),
            state,
            record.version,
            self.watcher,
            self.started,
            self.deadline,
        );
        let receipt = match answers {
            Ok(answers) => run.buy(answers, self.stop).await,
            Err(error) => run.abandon(error).await,
        };
        receipt.map(Some)
    }

    fn terms(&self, id: PurchaseId, chosen: &Chosen, listed: Option<Msat>) -> Result<Terms> {
        let Self { ready, request, .. } = self;
        let Chosen { offer, max_price } = chosen;
        let engine = &ready.engine;
        let Some(channel) = offer.channel else {
            return Err(Error::new(Code::NoProvider, "the provider has no channel"));
        };
        let now = engine.clock.now();
        let sealed =
            encryption(ready, request)? != Encrypt::Off && offer.features.contains(&Feature::Nip44);
        let pay_by = self.pay_by();
        let request_event = self.request_event(chosen, channel, &pay_by, sealed, now)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(Terms {
            id,
            provider: offer.provider,
            channel,
            model: request
                .model
                .clone()
                .or_else(|| offer.models.first().cloned()),
            request: request_event,
            network: ready.scope.network,
            pay_by,
            listed,
            max_price: *max_price,
            max_fee: request.max_fee,
            max_hold_secs: ready.max_hold_secs,
            sealed,
            fingerprint: self.idempotency().map(|key| key.fingerprint),
            started_at: now,
            deadline: now.plus(left.as_secs()),
        })
    }

    /// How it is paid. The secret of an escrow is made here, and is on record before its hash is sent.
    fn pay_by(&self) -> PayBy {
        let Some(wallet) = &self.ready.engine.wallet else {
            return PayBy::Nothing;
        };
        let wallet = wallet.id().clone();
        if !self.request.escrow {
            return PayBy::Invoice(wallet);
        }
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        PayBy::Escrow {
            wallet,
            preimage: Preimage::from_bytes(secret),
        }
    }

    fn request_event(
        &self,
        chosen: &Chosen,
        channel: nostr::EventId,
        pay_by: &PayBy,
        sealed: bool,
        now: UnixSecs,
    ) -> Result<nostr::Event> {
        let Self { ready, request, .. } = self;
        let Chosen { offer, max_price } = chosen;
        let mut nonce = [0; 16];
        rand::rng().fill_bytes(&mut nonce);
        let job = JobRequest {
            nonce: Some(PurchaseId::from_bytes(nonce).to_string()),
            model: request.model.clone(),
            stream: Some(request.stream),
            escrow: pay_by.is_escrow().then_some(Feature::HoldInvoice),
            payment_hash: pay_by
                .preimage()
                .map(|preimage| preimage.payment_hash().to_string()),
            max_price_msats: [offer.expected_price(request.max_tokens), *max_price]
                .into_iter()
                .flatten()
                .min(),
            ..JobRequest::new(
                KIND_TEXT_GENERATION,
                request.prompt.clone(),
                request.max_tokens,
                offer.provider,
            )
        };
        let job = AgentMessage::JobRequest(job);
        let too_long = |error| Error::new(Code::Usage, format!("the prompt is too long: {error}"));
        let relay = ready.engine.relays.relays();
        let relay = relay
            .first()
            .map_or_else(String::new, |relay| relay.url.to_string());
        let event = if sealed {
            let content = ready.engine.sealer.seal(&offer.provider, &job);
            let content = content.map_err(|error| too_long(error.to_string()))?;
            channel::addressed(channel, &relay, content, offer.provider)
        } else {
            let content = codec::encode(&job).map_err(|error| too_long(error.to_string()))?;
            channel::message(channel, &relay, content, None)
        };
        seal::sign(&ready.engine.identity, event, now)
            .map_err(|error| Error::new(Code::Internal, error.to_string()))
    }
}

fn read(record: &PurchaseRecord) -> Result<State> {
    State::from_row(&record.state)
        .map_err(|error| Error::new(Code::Ledger, format!("purchase {}: {error}", record.id)))
}

/// A purchase of this key is on record and can't be brought to an end now.
fn unsettled(record: &PurchaseRecord, state: &State) -> Error {
    let (paid, reserved) = (state.phase.paid(), record.reserved());
    let (code, message) = match &state.phase {
        Phase::Paying(_) | Phase::Unknown { .. } => (
            Code::PaymentUnknown,
            "the purchase with this key may have been paid; run `agent-customer recover`",
        ),
        Phase::Locked(lock) if matches!(lock.word, Word::Unknown(_)) => (
            Code::PaymentUnknown,
            "the wallet can't say whether the money of the purchase with this key is locked; run `agent-customer recover`",
        ),
        Phase::Locked(_) | Phase::Withheld { .. } => (
            Code::Undelivered,
            "the purchase with this key has its money locked, nothing paid, and no result yet; run `agent-customer recover`",
        ),
        Phase::Awaiting { .. } | Phase::Undelivered { .. } => (
            Code::Undelivered,
            "the purchase with this key was paid and has no result yet; run `agent-customer recover`",
        ),
        Phase::Requested
        | Phase::Quoted(_)
        | Phase::Released { .. }
        | Phase::Delivered { .. }
        | Phase::Failed { .. } => (
            Code::Timeout,
            "the purchase with this key is still running in another process; nothing was paid here",
        ),
    };
    Error::new(code, message)
        .of(record.id)
        .with_money(paid, reserved)
}

fn random_purchase_id() -> PurchaseId {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    PurchaseId::from_bytes(bytes)
}

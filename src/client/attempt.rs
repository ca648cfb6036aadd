//! One attempt: a purchase of its own, from one provider.

use std::sync::Arc;

use rand::RngCore;
use tokio::time::Instant;

use super::buy::{Buyer, stopped};
use super::failover::{self, Behind};
use super::survey::{Candidate, encryption};
use super::{PurchaseEvent, Receipt};
use crate::config::Encrypt;
use crate::error::{Code, Error, Result};
use crate::ids::{Preimage, PurchaseId};
use crate::ledger::{NewPurchase, Opened};
use crate::protocol::message::{AgentMessage, JobRequest};
use crate::protocol::{Feature, KIND_TEXT_GENERATION, channel, codec};
use crate::purchase::driver::Run;
use crate::purchase::ears::Answers;
use crate::purchase::state::{PayBy, State, Terms};
use crate::relay::seal;
use crate::units::{Msat, UnixSecs};

impl Buyer<'_> {
    /// Buys from this candidate; those `behind` it may be asked if it fails.
    ///
    /// # Errors
    /// With the purchase that failed, if it came to one; of another process's, where that has this key.
    pub(super) async fn buy_from(&self, candidate: &Candidate, behind: Behind) -> Result<Receipt> {
        loop {
            // Another process may be quicker with the same key. If that fails unpaid, it is our turn.
            if let Some(receipt) = self.attempt(candidate, behind).await? {
                return Ok(receipt);
            }
        }
    }

    /// Puts the purchase on record and sees it through. `None`: another process was quicker with the same
    /// key, and failed unpaid.
    async fn attempt(&self, candidate: &Candidate, behind: Behind) -> Result<Option<Receipt>> {
        let Self { ready, request, .. } = self;
        let offer = &candidate.offer;
        let engine = &ready.engine;
        let id = PurchaseId::random();
        let listed = offer.expected_price(request.max_tokens);
        let terms = self.terms(id, candidate, listed)?;
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
        let driving = engine
            .ledger
            .drive(id)
            .ok_or_else(|| Error::new(Code::Internal, "a random purchase id came twice"))?;
        let patience = failover::quote_patience(behind, Instant::now(), self.left());
        // Asking the relays for answers and putting the purchase on record don't wait for each other;
        // the request leaves after both.
        let (opened, answers) =
            tokio::join!(engine.ledger.open_purchase(new), self.answers(&state.terms));
        let record = match opened? {
            Opened::New(record) => record,
            Opened::Existing(record) => return self.await_outcome(record).await,
        };
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(id),
            provider: offer.provider.to_hex(),
            price_msat: listed,
            others: behind.at_most,
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
            Some(Ok(answers)) => {
                let run = run.quote_within(patience);
                run.buy(answers, self.stop).await
            }
            Some(Err(error)) => run.abandon(error).await,
            None => {
                run.give_up().await?;
                Err(stopped().of(id))
            }
        };
        receipt.map(Some)
    }

    /// What the provider says from now on. `None`: stopped, while no relay could be reached.
    async fn answers(&self, terms: &Terms) -> Option<Result<Answers>> {
        let engine = &self.ready.engine;
        tokio::select! {
            biased;
            answers = engine.ears.listen(&*engine.relays, terms, self.left()) => Some(answers),
            () = self.stop.cancelled() => None,
        }
    }

    fn terms(&self, id: PurchaseId, candidate: &Candidate, listed: Option<Msat>) -> Result<Terms> {
        let Self { ready, request, .. } = self;
        let Candidate { offer, max_price } = candidate;
        let engine = &ready.engine;
        let Some(channel) = offer.channel else {
            return Err(Error::new(Code::NoProvider, "the provider has no channel"));
        };
        let now = engine.clock.now();
        let sealed =
            encryption(ready, request)? != Encrypt::Off && offer.features.contains(&Feature::Nip44);
        let pay_by = self.pay_by();
        let request_event = self.request_event(candidate, channel, &pay_by, sealed, now)?;
        let left = self.left();
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
            listing: offer.event,
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
        candidate: &Candidate,
        channel: nostr::EventId,
        pay_by: &PayBy,
        sealed: bool,
        now: UnixSecs,
    ) -> Result<nostr::Event> {
        let Self { ready, request, .. } = self;
        let Candidate { offer, max_price } = candidate;
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

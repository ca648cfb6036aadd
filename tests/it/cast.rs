//! Peers played by the test: keys, a wallet and a tongue. What they say is signed, and nothing else
//! about them is to be trusted.

use std::sync::Arc;

use agent_compute::clock::Clock;
use agent_compute::ids::{JobId, PaymentHash, Preimage, PurchaseId};
use agent_compute::protocol::listing::{ListingContent, listing};
use agent_compute::protocol::message::{
    AgentMessage, Invoice, JobError, JobRequest, JobResult, PaymentSent, StreamChunk,
};
use agent_compute::protocol::{KIND_TEXT_GENERATION, Price, channel, codec};
use agent_compute::relay::{Incoming, RelayPoolSession, RelaySession, Subscription};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::sim::SimWallet;
use agent_compute::wallet::{
    Incoming as Money, InvoiceRequest, IssuedInvoice, PayOutcome, PayRequest, Wallet,
};
use nostr::{Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, Timestamp};

use crate::stage::{PRICE, SOON, Stage};

/// Somebody who speaks in a channel.
pub(crate) struct Peer {
    pub(crate) keys: Keys,
    pub(crate) wallet: SimWallet,
    pub(crate) session: Arc<RelayPoolSession>,
    pub(crate) channel: EventId,
    url: String,
    heard: Subscription,
}

/// A job that a fake provider was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: JobId,
    pub(crate) request: JobRequest,
}

impl Peer {
    /// With this key, hearing all that others say in the channel from now on, and what was said.
    pub(crate) async fn join(stage: &Stage, keys: Keys, channel: EventId) -> Self {
        let session = stage.session();
        let filter = Filter::new().kind(Kind::ChannelMessage).event(channel);
        let heard = session.subscribe(filter, SOON).await.unwrap();
        Self {
            wallet: stage.wallet(keys.public_key()),
            keys,
            session,
            channel,
            url: stage.relay.url().to_string(),
            heard,
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.keys.public_key()
    }

    /// Signs any content as a message of the channel.
    pub(crate) fn sign_raw(&self, content: String, at: Timestamp) -> Event {
        channel::message(self.channel, &self.url, content, None)
            .custom_created_at(at)
            .sign_with_keys(&self.keys)
            .unwrap()
    }

    pub(crate) fn sign(&self, message: &AgentMessage) -> Event {
        self.sign_raw(serde_json::to_string(message).unwrap(), Timestamp::now())
    }

    pub(crate) async fn publish(&self, event: &Event) {
        self.session.publish(event, SOON).await.unwrap();
    }

    /// Publishes many events at once. What the relay refuses is its loss.
    pub(crate) async fn publish_all(&self, events: &[Event]) {
        use futures_util::stream::{self, StreamExt};
        let published = stream::iter(events).map(|event| self.session.publish(event, SOON));
        published
            .buffer_unordered(64)
            .for_each(|_| std::future::ready(()))
            .await;
    }

    pub(crate) async fn say(&self, message: AgentMessage) -> Event {
        let event = self.sign(&message);
        self.publish(&event).await;
        event
    }

    /// The next message in the channel that `is` picks; others are skipped.
    pub(crate) async fn hear<T>(&mut self, is: impl Fn(&Event, AgentMessage) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let Some(Incoming::Event(event)) = self.heard.next().await else {
                    continue;
                };
                if let Ok(message) = codec::decode(&event.content)
                    && let Some(found) = is(&event, message)
                {
                    return found;
                }
            }
        };
        let heard = tokio::time::timeout(SOON, waiting).await;
        heard.expect("in time")
    }

    // What a provider does.

    /// A provider in a channel of its own, listed at [`PRICE`].
    pub(crate) async fn provider(stage: &Stage) -> Self {
        let provider = Self::unlisted(stage).await;
        provider.list(|_| {}).await;
        provider
    }

    /// A provider in a channel of its own that nobody has heard of.
    pub(crate) async fn unlisted(stage: &Stage) -> Self {
        let keys = Keys::generate();
        let event = channel::create("fake", "a test", &[]).sign_with_keys(&keys);
        let event = event.unwrap();
        let peer = Self::join(stage, keys, event.id).await;
        peer.publish(&event).await;
        peer
    }

    /// What an honest provider would say of itself.
    pub(crate) fn listing_content(&self) -> ListingContent {
        ListingContent {
            name: "fake".into(),
            about: "a test".into(),
            channel: Some(self.channel),
            relays: vec![self.url.clone()],
            price: Price::per_request(Msat::new(PRICE)),
            models: vec!["m".into()],
            network: Network::Regtest,
            features: [].into(),
            expires_at: Some(now().plus(3600)),
        }
    }

    /// Lists itself, with changes.
    pub(crate) async fn list(&self, change: impl FnOnce(&mut ListingContent)) {
        let mut content = self.listing_content();
        change(&mut content);
        let event = listing(&content).sign_with_keys(&self.keys).unwrap();
        self.publish(&event).await;
    }

    /// Lists itself, with these tags changed: each replaces all of its name.
    pub(crate) async fn list_with(&self, content: &str, tags: &[&[&str]]) {
        let honest = listing(&self.listing_content()).sign_with_keys(&self.keys);
        let honest = honest.unwrap();
        let replaced = |name: &str| tags.iter().any(|tag| tag[0] == name);
        let kept = honest
            .tags
            .iter()
            .filter(|tag| !replaced(&tag.as_slice()[0]));
        let new = tags.iter().filter(|tag| tag.len() > 1);
        let new = new.map(|tag| nostr::Tag::parse(tag.iter().copied()).unwrap());
        let content = if content.is_empty() {
            honest.content.as_str()
        } else {
            content
        };
        let event = EventBuilder::new(honest.kind, content)
            .tags(kept.cloned().chain(new))
            .sign_with_keys(&self.keys);
        // What a relay does not take is left out already.
        let _ = self.session.publish(&event.unwrap(), SOON).await;
    }

    /// The next job that is asked of this provider.
    pub(crate) async fn asked(&mut self) -> Asked {
        let us = self.key().to_hex();
        self.hear(|event, message| match message {
            AgentMessage::JobRequest(request) if request.target_provider.as_ref() == Some(&us) => {
                Some(Asked {
                    id: JobId::of_request(&event.id),
                    request,
                })
            }
            _ => None,
        })
        .await
    }

    /// A true invoice of this provider's wallet.
    pub(crate) async fn issue(&self, msat: u64) -> IssuedInvoice {
        self.issue_on(msat, None).await
    }

    /// One that holds the money until settled or cancelled, if there is a hash.
    pub(crate) async fn issue_on(&self, msat: u64, hold: Option<PaymentHash>) -> IssuedInvoice {
        let request = InvoiceRequest {
            amount: Msat::new(msat),
            expiry_secs: 600,
            hold,
            description: "a fake's".into(),
        };
        self.wallet.invoice(request).await.unwrap()
    }

    pub(crate) async fn quote(&self, job: &JobId, bolt11: &str, msat: u64) {
        let invoice = Invoice::new(job.clone(), bolt11, Msat::new(msat));
        self.say(AgentMessage::Invoice(invoice)).await;
    }

    /// The same in the words of a provider that knows our additions.
    pub(crate) async fn quote_modern(&self, job: &JobId, invoice: &IssuedInvoice) {
        let invoice = Invoice {
            expires_at: Some(invoice.expires_at),
            ..Invoice::new(job.clone(), invoice.bolt11.clone(), invoice.amount)
        };
        self.say(AgentMessage::Invoice(invoice)).await;
    }

    /// Waits until an invoice of this provider is paid, or its payment is held.
    pub(crate) async fn until_money(&self, hash: PaymentHash) -> Money {
        let waiting = async {
            let mut changes = self.wallet.changes().unwrap();
            loop {
                match self.wallet.incoming(hash).await.unwrap() {
                    Money::Open => {}
                    found => return found,
                }
                // A hint may be lost between processes: look again all the same.
                let again = std::time::Duration::from_millis(20);
                let _ = tokio::time::timeout(again, changes.changed()).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("in time")
    }

    /// Takes the next job and its money, as far as [`PRICE`] goes; what follows is up to the attack.
    pub(crate) async fn paid_job(&mut self) -> Asked {
        self.paid_job_in(false).await
    }

    /// The same, with or without our additions.
    pub(crate) async fn paid_job_in(&mut self, modern: bool) -> Asked {
        let job = self.asked().await;
        let invoice = self.issue(PRICE).await;
        if modern {
            self.quote_modern(&job.id, &invoice).await;
        } else {
            self.quote(&job.id, &invoice.bolt11, PRICE).await;
        }
        assert_eq!(self.until_money(invoice.payment_hash).await, Money::Settled);
        job
    }

    pub(crate) async fn result(&self, job: &JobId, text: &str) {
        self.say(result(job, text)).await;
    }

    pub(crate) async fn chunk(&self, job: &JobId, seq: Option<u32>, text: &str, is_final: bool) {
        self.say(chunk(job, seq, text, is_final)).await;
    }

    pub(crate) async fn refuse(&self, job: &JobId, message: &str) {
        self.say(AgentMessage::JobError(JobError::new(
            job.clone(),
            "failed",
            message,
        )))
        .await;
    }

    /// Sells one job honestly.
    pub(crate) async fn sell(&mut self, text: &str) {
        let job = self.paid_job().await;
        self.result(&job.id, text).await;
    }

    // What a customer does.

    /// A request to `provider`, as an honest customer would make it.
    pub(crate) fn request(provider: PublicKey, prompt: &str) -> JobRequest {
        JobRequest {
            nonce: Some(format!("{:032x}", rand::random::<u128>())),
            ..JobRequest::new(KIND_TEXT_GENERATION, prompt, 500, provider)
        }
    }

    pub(crate) async fn ask(&self, request: JobRequest) -> JobId {
        JobId::of_request(&self.say(AgentMessage::JobRequest(request)).await.id)
    }

    /// The invoice for a job, or the code of a refusal.
    pub(crate) async fn answer(&mut self, job: &JobId) -> Result<Invoice, String> {
        self.hear(|_, message| match message {
            AgentMessage::Invoice(invoice) if invoice.job_id == *job => Some(Ok(invoice)),
            AgentMessage::JobError(error) if error.job_id == *job => Some(Err(error.code)),
            _ => None,
        })
        .await
    }

    /// The whole text of a job.
    pub(crate) async fn whole_text(&mut self, job: &JobId) -> String {
        self.hear(|_, message| match message {
            AgentMessage::JobResult(result) if result.job_id == *job => Some(result.result),
            _ => None,
        })
        .await
    }

    pub(crate) async fn pay(&self, invoice: &Invoice) -> PayOutcome {
        let parsed = parse_unchecked(&invoice.bolt11).unwrap();
        let request = PayRequest {
            bolt11: invoice.bolt11.clone(),
            payment_hash: parsed.payment_hash,
            amount: invoice.amount_msats,
            max_fee: Msat::ZERO,
            purchase: PurchaseId::from_bytes(rand::random()),
        };
        self.wallet.pay(request).await
    }

    pub(crate) async fn says_paid(&self, job: &JobId, payment_id: &str) {
        self.say(AgentMessage::PaymentSent(PaymentSent {
            job_id: job.clone(),
            payment_id: payment_id.into(),
        }))
        .await;
    }
}

pub(crate) fn now() -> UnixSecs {
    Clock::system().now()
}

pub(crate) fn result(job: &JobId, text: &str) -> AgentMessage {
    AgentMessage::JobResult(JobResult {
        job_id: job.clone(),
        result: text.into(),
    })
}

pub(crate) fn chunk(job: &JobId, seq: Option<u32>, text: &str, is_final: bool) -> AgentMessage {
    AgentMessage::StreamChunk(StreamChunk {
        job_id: job.clone(),
        chunk: text.into(),
        is_final,
        seq,
    })
}

/// The draft of an invoice that no wallet made: signed, well-formed, and nobody's.
pub(crate) fn draft(msat: u64) -> Draft {
    Draft {
        network: Network::Regtest,
        amount: Some(Msat::new(msat)),
        payment_hash: Preimage::from_bytes(rand::random()).payment_hash(),
        payment_secret: rand::random(),
        description: "forged".into(),
        created_at: now(),
        expiry_secs: 600,
        min_final_cltv: 18,
    }
}

pub(crate) fn signed(draft: &Draft) -> String {
    sign(draft, Keys::generate().secret_key()).unwrap()
}

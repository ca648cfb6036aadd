//! Peers played by the simulator: keys, a wallet and a tongue. What they say is signed, sealed where that was
//! asked for, and nothing else about them is to be trusted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::identity::Identity;
use agent_compute::ids::{JobId, PaymentHash, Preimage, PurchaseId};
use agent_compute::protocol::listing::{ListingContent, listing};
use agent_compute::protocol::message::{AgentMessage, Invoice, JobRequest, JobResult, StreamChunk};
use agent_compute::protocol::{Feature, Price, channel, codec};
use agent_compute::relay::seal::Sealer;
use agent_compute::relay::{Incoming, RelayPoolSession, RelaySession, Subscription};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{InvoiceRequest, IssuedInvoice, PayOutcome, PayRequest, Wallet};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nostr::{Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, RelayUrl, Timestamp};
use rand::Rng;
use rand::rngs::StdRng;

use super::world::{SOON, World};

/// Somebody who speaks in a channel.
pub struct Peer {
    pub keys: Keys,
    pub wallet: SimWallet,
    pub session: Arc<RelayPoolSession>,
    pub channel: EventId,
    pub world: Arc<World>,
    pub rng: StdRng,
    sealer: Sealer,
    relay: RelayUrl,
    heard: Subscription,
    /// All that it said, to be said again.
    pub said: Vec<Event>,
}

/// A job that a provider was asked for, or that a customer asked for.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub event: EventId,
    /// The other side.
    pub with: PublicKey,
    pub sealed: bool,
    pub request: JobRequest,
}

impl Job {
    /// The hash that a request in escrow names.
    pub fn hash(&self) -> Option<PaymentHash> {
        self.request.payment_hash.as_ref()?.parse().ok()
    }
}

/// Something that was heard in the channel.
pub struct Heard {
    pub event: Event,
    pub message: AgentMessage,
    pub sealed: bool,
}

impl Peer {
    /// Hears all that is said in a channel, from now on and before.
    pub async fn join(
        world: &Arc<World>,
        relay: &RelayUrl,
        keys: Keys,
        channel: EventId,
        rng: StdRng,
    ) -> Self {
        let session = world.session(relay);
        let filter = Filter::new().kind(Kind::ChannelMessage).event(channel);
        let heard = session.subscribe(filter, SOON).await.unwrap();
        Self {
            wallet: world.wallet(keys.public_key(), SimOptions::default()).await,
            sealer: Sealer::new(Identity::from_keys(keys.clone())),
            keys,
            session,
            channel,
            world: Arc::clone(world),
            rng,
            relay: relay.clone(),
            heard,
            said: Vec::new(),
        }
    }

    /// In a channel of its own that nobody has heard of.
    pub async fn found(world: &Arc<World>, relay: &RelayUrl, keys: Keys, rng: StdRng) -> Self {
        let event = channel::create("a shop", "words for money", &[])
            .custom_created_at(at(world.clock.now()))
            .sign_with_keys(&keys)
            .unwrap();
        let peer = Self::join(world, relay, keys, event.id, rng).await;
        peer.publish(&event).await;
        peer
    }

    pub fn key(&self) -> PublicKey {
        self.keys.public_key()
    }

    pub fn now(&self) -> UnixSecs {
        self.world.clock.now()
    }

    /// Publishes. What a relay does not take is this peer's loss.
    pub async fn publish(&self, event: &Event) {
        let _ = self.session.publish(event, Duration::from_secs(2)).await;
    }

    /// Publishes many events at once.
    pub async fn publish_all(&self, events: &[Event]) {
        let mut sending = FuturesUnordered::new();
        for event in events {
            sending.push(self.publish(event));
        }
        while sending.next().await.is_some() {}
    }

    /// The event of these words in the channel.
    pub fn sign_raw(&self, content: String) -> Event {
        channel::message(self.channel, self.relay.as_str(), content, None)
            .custom_created_at(at(self.now()))
            .sign_with_keys(&self.keys)
            .unwrap()
    }

    /// The event of a message about a job, sealed as the job is, where it can be.
    pub fn sign(&self, job: &Job, message: &AgentMessage) -> Event {
        let plain = || serde_json::to_string(message).unwrap();
        let content = if job.sealed {
            self.sealer
                .seal(&job.with, message)
                .unwrap_or_else(|_| plain())
        } else {
            plain()
        };
        let reply = channel::ReplyTo {
            event: job.event,
            author: job.with,
        };
        channel::message(self.channel, self.relay.as_str(), content, Some(reply))
            .custom_created_at(at(self.now()))
            .sign_with_keys(&self.keys)
            .unwrap()
    }

    pub async fn say(&mut self, job: &Job, message: AgentMessage) {
        let event = self.sign(job, &message);
        self.publish(&event).await;
        self.said.push(event);
    }

    /// The next thing that somebody else says and this one can read.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let event = match self.heard.next().await {
                Some(Incoming::Event(event)) => *event,
                Some(Incoming::StoredDone { .. }) => continue,
                // The session is over; so is the market.
                None => std::future::pending().await,
            };
            if event.pubkey == self.key() {
                continue;
            }
            let (message, sealed) = match codec::decode(&event.content) {
                Ok(AgentMessage::Sealed(sealed)) => {
                    match self.sealer.open(&event.pubkey, &sealed) {
                        Ok(message) => (message, true),
                        Err(_) => continue,
                    }
                }
                Ok(message) => (message, false),
                Err(_) => continue,
            };
            return Heard {
                event,
                message,
                sealed,
            };
        }
    }

    // What a provider does.

    /// What an honest provider would say of itself.
    pub fn about(&self, price: u64) -> ListingContent {
        ListingContent {
            name: "a shop".into(),
            about: "words for money".into(),
            channel: Some(self.channel),
            relays: vec![self.relay.to_string()],
            price: Price::per_request(Msat::new(price)),
            models: vec!["m".into()],
            network: Network::Regtest,
            features: BTreeSet::from([Feature::Stream]),
            expires_at: Some(self.now().plus(3600)),
        }
    }

    pub async fn list(&self, content: &ListingContent) {
        let event = self.stamped(listing(content));
        self.publish(&event).await;
    }

    /// Lists everything but the price.
    pub async fn list_unpriced(&self, content: &ListingContent) {
        let priced = self.stamped(listing(content));
        let rest = priced
            .tags
            .iter()
            .filter(|tag| tag.as_slice()[0] != "price");
        let unpriced = EventBuilder::new(priced.kind, priced.content.clone());
        let event = self.stamped(unpriced.tags(rest.cloned()));
        self.publish(&event).await;
    }

    fn stamped(&self, event: EventBuilder) -> Event {
        let event = event.custom_created_at(at(self.now()));
        event.sign_with_keys(&self.keys).unwrap()
    }

    /// The job that a request makes, if it is one for us.
    pub fn asked(&self, heard: &Heard) -> Option<Job> {
        let AgentMessage::JobRequest(request) = &heard.message else {
            return None;
        };
        let ours = request.target_provider == Some(self.key().to_hex());
        ours.then(|| Job {
            id: JobId::of_request(&heard.event.id),
            event: heard.event.id,
            with: heard.event.pubkey,
            sealed: heard.sealed,
            request: request.clone(),
        })
    }

    /// A true invoice of this peer's wallet; on a hash, one that holds the money until settled or cancelled.
    pub async fn issue(&self, msat: u64, hold: Option<PaymentHash>) -> Option<IssuedInvoice> {
        let request = InvoiceRequest {
            amount: Msat::new(msat),
            expiry_secs: 600,
            hold,
            description: "words".into(),
        };
        self.wallet.invoice(request).await.ok()
    }

    /// The draft of an invoice that no wallet made: signed, well-formed, and nobody's.
    pub fn draft(&mut self, msat: u64, hash: Option<PaymentHash>) -> Draft {
        let preimage = Preimage::from_bytes(self.rng.random());
        Draft {
            network: Network::Regtest,
            amount: Some(Msat::new(msat)),
            payment_hash: hash.unwrap_or_else(|| preimage.payment_hash()),
            payment_secret: self.rng.random(),
            description: "forged".into(),
            created_at: self.now(),
            expiry_secs: 600,
            min_final_cltv: 18,
        }
    }

    pub fn signed_draft(&mut self, draft: &Draft) -> String {
        let keys = super::world::keys(&mut self.rng);
        sign(draft, keys.secret_key()).unwrap()
    }

    /// Quotes in the words of a provider that knows our additions.
    pub async fn quote(&mut self, job: &Job, bolt11: &str, msat: u64) {
        let invoice = Invoice {
            expires_at: Some(self.now().plus(600)),
            ..Invoice::new(job.id.clone(), bolt11, Msat::new(msat))
        };
        self.say(job, AgentMessage::Invoice(invoice)).await;
    }

    /// Quotes as deployed providers do.
    pub async fn quote_deployed(&mut self, job: &Job, bolt11: &str, msat: u64) {
        let invoice = Invoice::new(job.id.clone(), bolt11, Msat::new(msat));
        self.say(job, AgentMessage::Invoice(invoice)).await;
    }

    /// Delivers a whole text.
    pub async fn result(&mut self, job: &Job, text: &str) {
        self.world.signed(&job.request.prompt, text);
        self.say(job, result(job, text)).await;
    }

    /// Delivers a piece.
    pub async fn piece(&mut self, job: &Job, seq: Option<u32>, text: &str, is_final: bool) {
        self.say(job, piece(job, seq, text, is_final)).await;
    }

    // What a customer does.

    /// Asks a provider for a job.
    pub async fn ask(&mut self, request: JobRequest, sealed: bool) -> Job {
        let with: PublicKey = request.target_provider.as_ref().unwrap().parse().unwrap();
        let message = AgentMessage::JobRequest(request.clone());
        let content = if sealed {
            self.sealer.seal(&with, &message).unwrap()
        } else {
            serde_json::to_string(&message).unwrap()
        };
        let builder = channel::addressed(self.channel, self.relay.as_str(), content, with);
        let event = self.stamped(builder);
        self.publish(&event).await;
        let job = Job {
            id: JobId::of_request(&event.id),
            event: event.id,
            with,
            sealed,
            request,
        };
        self.said.push(event);
        job
    }

    /// Pays an invoice that is not looked at.
    pub async fn pay(&mut self, bolt11: &str) -> Option<PayOutcome> {
        let parsed = agent_compute::wallet::invoice::parse_unchecked(bolt11).ok()?;
        let request = PayRequest {
            bolt11: bolt11.to_owned(),
            payment_hash: parsed.payment_hash,
            amount: parsed.amount?,
            max_fee: Msat::ZERO,
            purchase: PurchaseId::from_bytes(self.rng.random()),
        };
        Some(self.wallet.pay(request).await)
    }
}

pub fn at(time: UnixSecs) -> Timestamp {
    Timestamp::from_secs(time.get())
}

pub fn result(job: &Job, text: &str) -> AgentMessage {
    AgentMessage::JobResult(JobResult {
        job_id: job.id.clone(),
        result: text.into(),
    })
}

pub fn piece(job: &Job, seq: Option<u32>, text: &str, is_final: bool) -> AgentMessage {
    AgentMessage::StreamChunk(StreamChunk {
        job_id: job.id.clone(),
        chunk: text.into(),
        is_final,
        seq,
    })
}

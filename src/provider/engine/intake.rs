//! What comes in from the channel, and what is made of it. Everything here is hostile until shown
//! otherwise, and nothing here waits.

use std::sync::Arc;
use std::time::Instant;

use nostr::{Event, PublicKey};

use super::{Engine, Live, Phase};
use crate::ids::{JobId, PaymentHash};
use crate::protocol::message::{AgentMessage, HtlcLocked, JobRequest, Sealed};
use crate::protocol::{KIND_TEXT_GENERATION, channel, codec};
use crate::provider::escrow::{NoHold, hash_used};
use crate::provider::event::ProviderEvent;
use crate::provider::job::Address;
use crate::provider::pricing::{self, Refusal};
use crate::units::UnixSecs;

/// Requests older than this are not served: nobody waits for them any more.
pub(super) const STALE_SECS: u64 = 600;

/// Requests dated further ahead than this are not served: clocks differ by minutes, not more.
pub(super) const FUTURE_SECS: u64 = 900;

/// The code of the refusal of a seal that does not open.
const UNREADABLE: &str = "unreadable";

impl Engine {
    /// Takes an event of the channel. What is not for us is ignored in silence.
    pub(super) fn on_event(&mut self, event: &Event, now: Instant) {
        let us = self.shop.seller.key;
        let Some(channel) = channel::channel_of(event) else {
            return;
        };
        if event.pubkey == us || !self.channels.contains(&channel) {
            return;
        }
        let (message, sealed) = match codec::decode(&event.content) {
            Ok(AgentMessage::Sealed(sealed)) => match self.open(event, &sealed, now) {
                Some(message) => (message, true),
                None => return,
            },
            Ok(message) => (message, false),
            Err(_) => return,
        };
        if channel != self.channel && !matches!(message, AgentMessage::PreimageRelease(_)) {
            return;
        }
        match message {
            AgentMessage::JobRequest(request) => self.on_request(event, request, sealed, now),
            AgentMessage::PaymentSent(sent) => {
                self.on_payment_sent(event.pubkey, &sent.job_id, now)
            }
            AgentMessage::HtlcLocked(locked) => self.on_locked(event.pubkey, &locked, now),
            AgentMessage::PreimageRelease(release) => self.on_release(event.pubkey, &release),
            AgentMessage::Cancel(cancel) => self.on_cancel(event.pubkey, &cancel.job_id, now),
            // A seal holds no seal: opened above.
            AgentMessage::Sealed(_) => {}
            // What providers say.
            AgentMessage::ServiceAnnouncement(_)
            | AgentMessage::Invoice(_)
            | AgentMessage::JobResult(_)
            | AgentMessage::StreamChunk(_)
            | AgentMessage::JobError(_)
            | AgentMessage::JobAccepted(_) => {}
        }
    }

    /// The message in a seal that is addressed to us. A request that can't be read is told so: its author
    /// waits for an answer.
    fn open(&mut self, event: &Event, sealed: &Sealed, now: Instant) -> Option<AgentMessage> {
        let us = self.shop.seller.key;
        if !event.tags.public_keys().any(|addressee| *addressee == us) {
            return None;
        }
        let opened = self
            .shop
            .workshop
            .voice
            .sealer
            .open(&event.pubkey, sealed)
            .ok();
        let at = UnixSecs::new(event.created_at.as_secs());
        let begins = channel::answered(event).is_none();
        let here = channel::channel_of(event) == Some(self.channel);
        if opened.is_none() && here && begins && self.is_timely(at) && self.seen.is_new(event.id) {
            let address = self.address(event, false);
            let refusal = Refusal::new(UNREADABLE, "this sealed message can't be opened");
            self.refuse(address, refusal, now);
        }
        opened
    }

    fn address(&self, event: &Event, sealed: bool) -> Address {
        Address {
            channel: self.channel,
            request: event.id,
            customer: event.pubkey,
            sealed,
        }
    }

    fn on_request(&mut self, event: &Event, request: JobRequest, sealed: bool, now: Instant) {
        let us = self.shop.seller.key.to_hex();
        let asked_by_name = match &request.target_provider {
            Some(target) if !target.eq_ignore_ascii_case(&us) => return,
            target => target.is_some(),
        };
        if request.kind != KIND_TEXT_GENERATION && !asked_by_name {
            return;
        }
        let at = UnixSecs::new(event.created_at.as_secs());
        if !self.is_timely(at) || !self.seen.is_new(event.id) {
            return;
        }
        let address = self.address(event, sealed);
        if self.by_job_id.contains_key(&address.job_id()) {
            // Any answer would bear the other job's name: say nothing.
            tracing::warn!(job_id = %address.job_id(), "two requests with one job id");
            return;
        }
        // Priced first: what we would not take anyway takes nobody's place.
        let quote = match pricing::quote(&request, &self.terms)
            .and_then(|quote| self.admit(address, quote.escrow, now).map(|()| quote))
        {
            Ok(quote) => quote,
            Err(refusal) => return self.refuse(address, refusal, now),
        };
        self.by_job_id.insert(address.job_id(), address.request);
        self.live.insert(
            address.request,
            Live {
                address,
                phase: Phase::Quoting { hold: quote.escrow },
            },
        );
        let JobRequest {
            prompt, max_tokens, ..
        } = request;
        let shop = Arc::clone(&self.shop);
        let task = shop.quote(address, prompt, max_tokens, at, quote);
        self.spawn(Some(address.request), task);
    }

    /// Whether somebody may still wait for what was asked then.
    fn is_timely(&self, at: UnixSecs) -> bool {
        let now = self.shop.now();
        let stored_before_us = !self.caught_up && at < self.serve_stored_since;
        at >= now.minus(STALE_SECS) && at <= now.plus(FUTURE_SECS) && !stored_before_us
    }

    /// Finds a place for one more quote.
    fn admit(
        &mut self,
        address: Address,
        hold: Option<PaymentHash>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let busy = |why: &str| Err(Refusal::new("busy", why));
        if self.leaving {
            return busy("this provider is about to stop");
        }
        let unpaid_of_this_customer = self.live.values().filter(|live| {
            live.address.customer == address.customer
                && matches!(live.phase, Phase::Quoting { .. } | Phase::Quoted { .. })
        });
        let unpaid = unpaid_of_this_customer.count();
        if unpaid >= self.max_quotes_per_customer {
            return busy("too many of your quotes are unpaid");
        }
        let of_this_customer = self.live.values();
        let of_this_customer =
            of_this_customer.filter(|live| live.address.customer == address.customer);
        if of_this_customer.count() >= self.max_live.div_ceil(2) {
            return busy("too many of your jobs are under way");
        }
        if let Some(hash) = hold {
            self.may_hold(address.customer, unpaid)?;
            self.is_first(hash)?;
        }
        let is_full = self.live.len() >= self.max_live;
        if is_full && (unpaid > 0 || !self.make_room(now)) {
            return busy("the queue is full");
        }
        Ok(())
    }

    /// A request that is not sealed shows its hash to all, and whoever copies it under another key must not
    /// be quoted in its stead: of those that are in the making the first that came has it. What has been
    /// quoted is on record, and found there.
    fn is_first(&self, hash: PaymentHash) -> Result<(), Refusal> {
        let ours = |live: &Live| matches!(live.phase, Phase::Quoting { hold: Some(theirs) } if theirs == hash);
        if self.live.values().any(ours) {
            return Err(hash_used());
        }
        Ok(())
    }

    /// Takes its place from the oldest unpaid quote, for a customer who has none: keys cost nothing, and
    /// a queue full of quotes that nobody means to pay must not close the shop until they expire. Who
    /// pays a quote that has lost its place is served all the same, as after its expiry.
    fn make_room(&mut self, now: Instant) -> bool {
        let unpaid = self.live.values().filter_map(|live| match &live.phase {
            Phase::Quoted {
                job,
                cancelling: false,
            } => Some((job.expires_at, live.address.request)),
            _ => None,
        });
        let Some((_, oldest)) = unpaid.min() else {
            return false;
        };
        let may = self.credit.take_place(now);
        if may {
            self.end_quote(oldest, now.into());
        }
        may
    }

    /// Says no, unless this peer was told so too often.
    pub(super) fn refuse(&mut self, address: Address, refusal: Refusal, now: Instant) {
        if !self.credit.take(address.customer, now) {
            return;
        }
        self.report(ProviderEvent::Refused {
            job_id: address.job_id(),
            customer: address.customer,
            code: refusal.code,
        });
        let task = Arc::clone(&self.shop).refuse(address, refusal);
        self.spawn(None, task);
    }

    /// A customer says that it paid: a reason to look, and where there is no wallet, the payment itself.
    fn on_payment_sent(&mut self, author: PublicKey, job_id: &JobId, now: Instant) {
        let Some(request) = self.by_job_id.get(job_id).copied() else {
            return;
        };
        if let Some(late) = self.late.get(&request) {
            if late.customer == author {
                self.lookups.hint(late.payment_hash, now);
            }
            return;
        }
        let Some(live) = self.live.get(&request) else {
            return;
        };
        let Phase::Quoted { job, .. } = &live.phase else {
            return;
        };
        if live.address.customer != author {
            return;
        }
        match job.payment_hash {
            Some(hash) => self.lookups.hint(hash, now),
            None => self.on_settled(request),
        }
    }

    /// A customer says that it locked the money of a job in escrow: a reason to look, and nothing more.
    /// Whatever else it says, how much and for how long, the wallet knows better.
    fn on_locked(&mut self, author: PublicKey, locked: &HtlcLocked, now: Instant) {
        let quoted = self
            .by_job_id
            .get(&locked.job_id)
            .and_then(|request| self.live.get(request));
        let Some(Live {
            address,
            phase: Phase::Quoted { job, .. },
        }) = quoted
        else {
            // Late ones are asked about by themselves, and after a `PaymentSent`.
            return;
        };
        if let Some(hash) = job.payment_hash
            && job.escrow
            && address.customer == author
            && locked.payment_hash.parse() == Ok(hash)
        {
            self.lookups.hint(hash, now);
        }
    }

    /// The customer no longer wants a job that it has not paid.
    fn on_cancel(&mut self, author: PublicKey, job_id: &JobId, now: Instant) {
        let Some(request) = self.by_job_id.get(job_id).copied() else {
            return;
        };
        let is_theirs = |live: &Live| live.address.customer == author;
        // Without credit the quote holds its place until it expires: quoting and cancelling in turns
        // must not fill the store.
        if self.live.get(&request).is_some_and(is_theirs) && self.credit.take(author, now) {
            self.cancel(request);
            // What is only held costs nobody anything yet.
            self.give_up_waiting(request, NoHold::unwanted());
        }
    }
}

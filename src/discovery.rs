//! Finding providers: NIP-89 listings, and the announcements of a channel.
//!
//! [`discover`] asks all relays for both at once and keeps what counts: of several versions the
//! newest, one offer per provider and channel. It ends as soon as the answer can't improve:
//! when all relays have said what they have stored and something acceptable was among it, or, for a
//! buyer who takes the first, with the first acceptable offer. Else it listens until its time is up,
//! for a provider that announces in that time.
//!
//! What a flood of listings can cost is bounded, in events and in memory ([`MAX_EVENTS`]).

mod heard;

use std::time::Duration;

use nostr::{Alphabet, Event, EventId, Filter, Kind, PublicKey, SingleLetterTag, Timestamp};
use tokio::time::Instant;

use self::heard::Heard;
use crate::clock::Clock;
use crate::protocol::listing::KIND_LISTING;
use crate::protocol::offer::{
    ANNOUNCEMENT_MAX_AGE_SECS, LISTING_MAX_AGE_SECS, MAX_CLOCK_SKEW_SECS,
};
use crate::protocol::{Offer, channel};
use crate::relay::{Incoming, Refusal, RelayError, RelaySession, Stored, Subscription, fetch};
use crate::units::UnixSecs;

/// Events asked for at once. Relays cap an answer at about this many; with a cap stated, a full
/// answer tells that there may be more.
const PAGE: usize = 500;

/// The most events one discovery looks at.
pub const MAX_EVENTS: usize = 10_000;

/// Where to look for providers, and for how long.
#[derive(Clone, Debug)]
pub struct DiscoveryRequest {
    /// Read NIP-89 listings.
    pub listings: bool,
    /// Read announcements in this channel, and keep only what is offered in it.
    pub channel: Option<EventId>,
    /// Only this provider's, where its whole key is known.
    pub provider: Option<PublicKey>,
    /// End with the first acceptable offer, not only when all relays have answered.
    pub first: bool,
    /// The upper bound.
    pub within: Duration,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// One offer per provider and channel, in the order in which they were first heard. Nothing was
    /// held against them yet but that their provider has taken them back.
    pub offers: Vec<Offer>,
    /// Relays that answered in full.
    pub answered: usize,
    /// Relays that did not, and why.
    pub failed: Vec<Refusal>,
}

/// Finds providers. `enough` says whether one of these offers is acceptable, so that there is no need
/// to wait for more. `heard` is told of each offer as it comes or changes; a later one from the same
/// provider in the same channel replaces it, and a withdrawal may take it back, so that only the
/// returned offers are final.
///
/// # Errors
/// [`RelayError::Unreachable`] if no relay could be asked.
pub async fn discover(
    session: &dyn RelaySession,
    clock: &Clock,
    request: &DiscoveryRequest,
    enough: impl Fn(&[Offer]) -> bool + Send,
    heard: impl FnMut(&Offer) + Send,
) -> Result<Found, RelayError> {
    let mut discovery = Discovery {
        session,
        clock,
        request,
        ends: Instant::now() + request.within,
        enough,
        tell: heard,
        heard: Heard::default(),
        seen: 0,
        acceptable: false,
    };
    discovery.run().await
}

/// A subscription, and whether its stored events are all in.
struct Source {
    filter: Filter,
    subscription: Subscription,
    /// Times of what it has yielded so far, for the next page.
    times: Vec<Timestamp>,
    done: bool,
}

struct Discovery<'a, Enough, Tell> {
    session: &'a dyn RelaySession,
    clock: &'a Clock,
    request: &'a DiscoveryRequest,
    ends: Instant,
    enough: Enough,
    tell: Tell,
    heard: Heard,
    seen: usize,
    acceptable: bool,
}

impl<Enough, Tell> Discovery<'_, Enough, Tell>
where
    Enough: Fn(&[Offer]) -> bool + Send,
    Tell: FnMut(&Offer) + Send,
{
    async fn run(&mut self) -> Result<Found, RelayError> {
        let mut found = Found::default();
        let of_listings = self.request.listings.then(|| self.listings_filter());
        let in_channel = self.request.channel;
        let of_channel = in_channel.map(|channel| self.announcements_filter(channel));
        let (mut listings, mut announcements) =
            tokio::try_join!(self.open(of_listings), self.open(of_channel))?;
        while !self.is_over(&[&listings, &announcements]) {
            let (source, incoming) = tokio::select! {
                incoming = next(&mut listings) => (&mut listings, incoming),
                incoming = next(&mut announcements) => (&mut announcements, incoming),
                () = tokio::time::sleep_until(self.ends) => break,
            };
            let Some(open) = source else { break };
            match incoming {
                // The session was closed: nothing more will come.
                None => *source = None,
                Some(Incoming::Event(event)) => {
                    open.times.push(event.created_at);
                    self.take(&event);
                }
                Some(Incoming::StoredDone { answered, failed }) => {
                    open.done = true;
                    found.answered = found.answered.max(answered);
                    merge(&mut found.failed, failed);
                    self.read_on(open).await;
                    self.look();
                }
            }
        }
        self.finish(found)
    }

    fn finish(&mut self, mut found: Found) -> Result<Found, RelayError> {
        found.offers = self.offers();
        let relays = self.session.relays();
        if found.answered == 0 && found.offers.is_empty() && !relays.iter().any(|r| r.connected) {
            let reason = |trouble: Option<String>| trouble.unwrap_or("not connected".to_owned());
            let unreachable = relays.into_iter().map(|relay| Refusal {
                url: relay.url,
                reason: reason(relay.trouble),
            });
            return Err(RelayError::Unreachable(unreachable.collect()));
        }
        Ok(found)
    }

    /// Whether waiting longer can't better the answer, or would cost too much.
    fn is_over(&self, sources: &[&Option<Source>]) -> bool {
        let mut open = sources
            .iter()
            .filter_map(|source| source.as_ref())
            .peekable();
        let none_open = open.peek().is_none();
        let all_stored_in = open.all(|source| source.done);
        let good = self.acceptable && (self.request.first || all_stored_in);
        good || none_open || self.seen >= MAX_EVENTS
    }

    async fn open(&self, filter: Option<Filter>) -> Result<Option<Source>, RelayError> {
        let Some(filter) = filter else {
            return Ok(None);
        };
        let subscription = self.session.subscribe(filter.clone(), self.left()).await?;
        Ok(Some(Source {
            filter,
            subscription,
            times: Vec::new(),
            done: false,
        }))
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    fn listings_filter(&self) -> Filter {
        let filter = Filter::new().kind(Kind::from(KIND_LISTING)).limit(PAGE);
        match self.request.provider {
            // Whoever is asked for by name is found, and, if it is too old, left out with that reason.
            Some(provider) => filter.author(provider),
            None => filter.since(self.ago(LISTING_MAX_AGE_SECS)),
        }
    }

    fn announcements_filter(&self, channel: EventId) -> Filter {
        let filter = Filter::new()
            .kind(Kind::ChannelMessage)
            .custom_tag(SingleLetterTag::lowercase(Alphabet::E), channel.to_hex())
            .since(self.ago(ANNOUNCEMENT_MAX_AGE_SECS))
            .limit(PAGE);
        match self.request.provider {
            Some(provider) => filter.author(provider),
            None => filter,
        }
    }

    fn ago(&self, secs: u64) -> Timestamp {
        Timestamp::from_secs(self.clock.now().minus(secs).get())
    }

    /// Reads the older pages behind a full first one.
    ///
    /// Every relay gave its newest events, so what all of them have given reaches back to the
    /// [`PAGE`]th newest of all: the next page starts there, and what comes twice is told apart later.
    async fn read_on(&mut self, source: &mut Source) {
        let mut times = std::mem::take(&mut source.times);
        let mut until = None;
        while times.len() >= PAGE && self.seen < MAX_EVENTS && !self.left().is_zero() {
            times.sort_unstable_by(|a, b| b.cmp(a));
            let reached = times[PAGE - 1];
            // A page full of one second would be asked for again and again.
            let next = match until {
                Some(last) if reached >= last => {
                    Timestamp::from_secs(last.as_secs().saturating_sub(1))
                }
                _ => reached,
            };
            until = Some(next);
            let page = source.filter.clone().until(next);
            let most = MAX_EVENTS - self.seen;
            // What was read so far is worth having even if the relays are gone now.
            let Ok(older) = fetch(self.session, page, self.left(), most).await else {
                return;
            };
            let Stored { events, .. } = older;
            times = events.iter().map(|event| event.created_at).collect();
            for event in &events {
                self.take(event);
            }
        }
    }

    /// Takes in one event, and looks whether what it offers will do.
    fn take(&mut self, event: &Event) {
        self.seen += 1;
        let at = UnixSecs::new(event.created_at.as_secs());
        if at > self.clock.now().plus(MAX_CLOCK_SKEW_SECS) {
            return;
        }
        let changed = match event.kind {
            Kind::ChannelMessage => channel::channel_of(event)
                .filter(|channel| self.request.channel == Some(*channel))
                .and_then(|channel| self.heard.message(event, channel)),
            _ => self.heard.listing(event),
        };
        let Some(offer) = changed.filter(|offer| self.is_asked_for(offer)) else {
            return;
        };
        (self.tell)(&offer);
        // What was not acceptable without this offer is so with it only if this offer itself is.
        self.acceptable = self.acceptable || (self.enough)(std::slice::from_ref(&offer));
    }

    /// Looks at the offers as a whole, as one that was acceptable may have been taken back since.
    fn look(&mut self) {
        self.acceptable = (self.enough)(&self.offers());
    }

    fn offers(&self) -> Vec<Offer> {
        let mut offers = self.heard.offers();
        offers.retain(|offer| self.is_asked_for(offer));
        offers
    }

    fn is_asked_for(&self, offer: &Offer) -> bool {
        let in_channel = self
            .request
            .channel
            .is_none_or(|only| offer.channel == Some(only));
        let by_provider = self
            .request
            .provider
            .is_none_or(|only| offer.provider == only);
        in_channel && by_provider
    }
}

/// The next thing from a source; never, if there is no source.
async fn next(source: &mut Option<Source>) -> Option<Incoming> {
    match source {
        Some(source) => source.subscription.next().await,
        None => std::future::pending().await,
    }
}

fn merge(known: &mut Vec<Refusal>, more: Vec<Refusal>) {
    for refusal in more {
        if !known.iter().any(|other| other.url == refusal.url) {
            known.push(refusal);
        }
    }
}

#[cfg(test)]
mod tests;

//! What was heard so far, and what it amounts to: the newest version of each thing, one offer per
//! provider and channel.

use std::cmp::Reverse;
use std::collections::HashMap;

use nostr::{Event, EventId, PublicKey};

use crate::protocol::message::AgentMessage;
use crate::protocol::offer::{self, ANNOUNCEMENT_MAX_AGE_SECS, NotAnOffer};
use crate::protocol::{Offer, OfferSource, codec};
use crate::units::UnixSecs;

/// The most listings, and the most channels, that are kept of one author. An honest one has one.
const MAX_PER_AUTHOR: usize = 16;

/// The most bytes of offers that are kept. Ten thousand common offers are a tenth of it.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The longest `d` tag of a listing that is looked at, in bytes.
const MAX_LISTING_ID_BYTES: usize = 256;

/// The versions that were heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    authors: HashMap<PublicKey, Author>,
    /// Authors in the order in which they were first heard.
    order: Vec<PublicKey>,
    /// Bytes taken in so far, and never given back: a bound, not a measure.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Author {
    /// The newest version of each listing, by its `d` tag.
    listings: Vec<Latest<String, Result<Offer, NotAnOffer>>>,
    /// The newest announcement in each channel.
    announcements: Vec<Latest<EventId, Offer>>,
}

#[derive(Debug)]
struct Latest<K, V> {
    key: K,
    version: Version,
    value: V,
}

/// Of two versions the greater holds: the newer one, and of two from one second the one with the lower
/// id, as NIP-01 has it for relays.
type Version = (UnixSecs, Reverse<EventId>);

fn version(event: &Event) -> Version {
    (UnixSecs::new(event.created_at.as_secs()), Reverse(event.id))
}

impl Heard {
    /// Takes in an event of the listings' kind. Returns the offer as it stands now if this changed it.
    pub(super) fn listing(&mut self, event: &Event) -> Option<Offer> {
        let id = event.tags.identifier().unwrap_or_default();
        if id.len() > MAX_LISTING_ID_BYTES {
            return None;
        }
        let listing = offer::from_listing(event);
        let size = id.len() + listing.as_ref().map_or(0, bytes);
        let channel = listing.as_ref().ok().map(|offer| offer.channel);
        let author = self.author(event.pubkey, size)?;
        let is_new = keep(&mut author.listings, id.to_owned(), version(event), listing);
        author.offer_in(channel.filter(|_| is_new)?)
    }

    /// Takes in a message of `channel`. Returns the offer as it stands now if this changed it.
    pub(super) fn message(&mut self, event: &Event, channel: EventId) -> Option<Offer> {
        let Ok(AgentMessage::ServiceAnnouncement(said)) = codec::decode(&event.content) else {
            return None;
        };
        let offer = offer::from_announcement(event, &said, channel).ok()?;
        let author = self.author(event.pubkey, bytes(&offer))?;
        let is_new = keep(&mut author.announcements, channel, version(event), offer);
        is_new.then(|| author.offer_in(Some(channel)))?
    }

    /// What is offered, as far as heard.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let authors = self.order.iter().filter_map(|key| self.authors.get(key));
        authors.flat_map(Author::offers).collect()
    }

    fn author(&mut self, key: PublicKey, more_bytes: usize) -> Option<&mut Author> {
        self.bytes += more_bytes;
        if self.bytes > MAX_BYTES {
            return None;
        }
        Some(self.authors.entry(key).or_insert_with(|| {
            self.order.push(key);
            Author::default()
        }))
    }
}

impl Author {
    fn offers(&self) -> Vec<Offer> {
        let listed = self.listings.iter().filter_map(|listing| {
            let offer = listing.value.as_ref().ok()?;
            Some(offer.channel)
        });
        let announced = self.announcements.iter().map(|said| Some(said.key));
        let mut channels: Vec<Option<EventId>> = Vec::new();
        for channel in listed.chain(announced) {
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        let offers = channels.into_iter().map(|channel| self.offer_in(channel));
        offers.flatten().collect()
    }

    /// What this author offers in `channel` (or in none), if anything.
    fn offer_in(&self, channel: Option<EventId>) -> Option<Offer> {
        let listings = self.listings.iter().filter_map(|listing| {
            let offer = listing.value.as_ref().ok()?;
            (offer.channel == channel).then_some((listing.version, offer))
        });
        let listing = listings.max_by_key(|(version, _)| *version);
        let withdrawn = self.withdrawn_at();
        let announcement = self
            .announcements
            .iter()
            .find(|said| Some(said.key) == channel)
            .filter(|said| withdrawn.is_none_or(|at| said.version.0 > at));
        match (listing, announcement) {
            (Some((_, listing)), Some(said)) => Some(combine(listing, &said.value)),
            (Some((_, listing)), None) => Some(listing.clone()),
            (None, Some(said)) => Some(said.value.clone()),
            (None, None) => None,
        }
    }

    /// When the author last took its listing down, unless it has listed itself anew since.
    fn withdrawn_at(&self) -> Option<UnixSecs> {
        let withdrawn = |listing: &&Latest<String, Result<Offer, NotAnOffer>>| {
            matches!(listing.value, Err(NotAnOffer::Withdrawn))
        };
        let withdrawn = self.listings.iter().filter(withdrawn);
        withdrawn.map(|listing| listing.version.0).max()
    }
}

/// One offer of what a provider said in two ways: the newer one counts, and the other fills in what
/// it left open. It holds for as long as either of them does.
fn combine(listing: &Offer, announcement: &Offer) -> Offer {
    let listing_is_newer = listing.at > announcement.at;
    let (newer, older) = if listing_is_newer {
        (listing, announcement)
    } else {
        (announcement, listing)
    };
    let filled = |new: &[String], old: &[String]| {
        let said = if new.is_empty() { old } else { new };
        said.to_vec()
    };
    let alive_until = announcement.at.plus(ANNOUNCEMENT_MAX_AGE_SECS);
    Offer {
        provider: listing.provider,
        name: listing.name.clone(),
        channel: listing.channel,
        relays: filled(&newer.relays, &older.relays),
        price: newer.price.or(older.price),
        models: filled(&newer.models, &older.models),
        network: newer.network.or(older.network),
        features: if newer.features.is_empty() {
            older.features.clone()
        } else {
            newer.features.clone()
        },
        at: newer.at,
        expires_at: listing.expires_at.map(|end| end.max(alive_until)),
        source: OfferSource::Listing,
        event: if newer.price.is_some() || older.price.is_none() {
            newer.event
        } else {
            older.event
        },
    }
}

/// Puts the value in its place unless a newer one is there, or there is no place left.
fn keep<K: PartialEq, V>(kept: &mut Vec<Latest<K, V>>, key: K, version: Version, value: V) -> bool {
    let new = Latest {
        key,
        version,
        value,
    };
    let full = kept.len() >= MAX_PER_AUTHOR;
    match kept.iter_mut().find(|old| old.key == new.key) {
        Some(old) if old.version >= version => return false,
        Some(old) => *old = new,
        None if full => return false,
        None => kept.push(new),
    }
    true
}

/// About how much memory an offer takes.
fn bytes(offer: &Offer) -> usize {
    let texts = offer.models.iter().chain(&offer.relays);
    let heap: usize = texts.map(|text| size_of::<String>() + text.len()).sum();
    size_of::<Offer>() + offer.name.len() + heap
}

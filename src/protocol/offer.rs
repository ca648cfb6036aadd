//! Reading what providers publish: a listing or an announcement becomes an [`Offer`], or is none.
//!
//! Read are the deployed form (`handler`, or `handler_type` as its document says) and generic NIP-89
//! listings of text generation services (`["k","5050"]`). All of it is text from strangers:
//!
//! * The author of the event is the provider, whatever key the content names.
//! * A price counts when it is a whole number of `msats` that was said outright; a deployed provider
//!   writes millisatoshi under the unit `sats`, so that unit says nothing. No price, or one that can't
//!   be read, is unknown and never zero. A stated price of 0 msats is one.
//! * What is too long or too much is left out (models, relays) or cut (the name).
//! * Control characters stay: whoever writes to a terminal strips them.

use nostr::{Event, EventId, Kind};
use serde_json::{Map, Value};

use super::codec::MAX_MESSAGE_BYTES;
use super::listing::{CAPABILITY, HANDLER, KIND_LISTING, WITHDRAWN};
use super::message::ServiceAnnouncement;
use super::{Feature, KIND_TEXT_GENERATION, Offer, OfferSource, Price};
use crate::units::{Msat, Network, UnixSecs};

/// How old an announcement may be, in seconds. Deployed customers look back this far, so a provider
/// that lives announces more often.
pub const ANNOUNCEMENT_MAX_AGE_SECS: u64 = 300;
/// How old a listing that names no expiry may be, in seconds (7 days). Deployed providers publish one
/// at start and never take it down; a week spares a server that runs on, and drops what was abandoned.
pub const LISTING_MAX_AGE_SECS: u64 = 7 * 86_400;
/// How far ahead a provider's clock may be, in seconds. What is dated later is not believed: it would
/// outlive every correction.
pub const MAX_CLOCK_SKEW_SECS: u64 = 15 * 60;

/// The most bytes of a provider's name that are kept.
pub const MAX_NAME_BYTES: usize = 256;
/// The most models of one provider that are kept.
pub const MAX_MODELS: usize = 256;
/// The most bytes a model's name may have. A longer one is left out: cut, it would name another model.
pub const MAX_MODEL_BYTES: usize = 256;
/// The most bytes that the names of one provider's models may have in sum. With the other limits it
/// bounds an offer at about 16 KiB, so that thousands of them fit in memory.
pub const MAX_MODELS_BYTES: usize = 8192;
/// The most relays of one provider that are kept.
pub const MAX_RELAYS: usize = 16;
/// The most bytes a relay's address may have.
pub const MAX_RELAY_BYTES: usize = 256;

/// Why an event offers nothing that could be bought here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnOffer {
    /// Not the kind of event that listings are.
    #[error("not a listing")]
    NotAListing,
    /// A handler of something other than jobs: most of kind 31990 is.
    #[error("not a compute provider")]
    NotCompute,
    /// A compute provider that does not generate text.
    #[error("not for text generation")]
    OtherKind,
    /// The provider took its listing down.
    #[error("withdrawn by the provider")]
    Withdrawn,
    /// It names a network that is none of ours.
    #[error("on an unknown network")]
    UnknownNetwork,
}

/// What a listing offers.
///
/// # Errors
/// If it offers no text generation. See the module's documentation for what is read.
pub fn from_listing(event: &Event) -> Result<Offer, NotAnOffer> {
    if event.kind != Kind::from(KIND_LISTING) {
        return Err(NotAnOffer::NotAListing);
    }
    if first(event, "status") == Some(WITHDRAWN) {
        return Err(NotAnOffer::Withdrawn);
    }
    let ours = is_compute_provider(event);
    check_kind(event, ours)?;
    let network = first(event, "network")
        .map(str::parse::<Network>)
        .transpose()
        .map_err(|_| NotAnOffer::UnknownNetwork)?;
    let content = content_of(event);
    let text = |key: &str| content.get(key).and_then(Value::as_str);
    let name = text("name").or_else(|| text("display_name"));
    let mut models = kept_models(values(event, "model"));
    if models.is_empty() {
        models = kept_models(listed_models(&content));
    }
    Ok(Offer {
        provider: event.pubkey,
        name: cut(name.unwrap_or_default(), MAX_NAME_BYTES).to_owned(),
        channel: first(event, "channel").and_then(|id| EventId::from_hex(id).ok()),
        relays: relays(event),
        price: if ours || has(event, "price") {
            price_of_tags(event)
        } else {
            price_of_amount(content.get("amount"))
        },
        models,
        network,
        features: values(event, "feature")
            .filter_map(Feature::from_word)
            .collect(),
        at: UnixSecs::new(event.created_at.as_secs()),
        expires_at: first(event, "expiration")
            .and_then(whole_number)
            .map(UnixSecs::new),
        source: OfferSource::Listing,
        event: Some(event.id),
    })
}

/// What an announcement offers; `event` carried it in `channel`.
///
/// # Errors
/// If it offers no text generation.
pub fn from_announcement(
    event: &Event,
    said: &ServiceAnnouncement,
    channel: EventId,
) -> Result<Offer, NotAnOffer> {
    let mut capabilities = said.capabilities.iter();
    let generates_text =
        said.capabilities.is_empty() || capabilities.any(|capability| capability == CAPABILITY);
    if said.kind != KIND_TEXT_GENERATION || !generates_text {
        return Err(NotAnOffer::OtherKind);
    }
    let features = said.features.iter();
    Ok(Offer {
        provider: event.pubkey,
        name: String::new(),
        channel: Some(channel),
        relays: Vec::new(),
        price: Some(Price {
            per_request: said.price_msats,
            per_1k_tokens: said.price_per_1k_msats.unwrap_or(Msat::ZERO),
        }),
        models: kept_models(said.models.iter().map(String::as_str)),
        network: Some(said.network),
        features: features
            .filter_map(|word| Feature::from_word(word))
            .collect(),
        at: UnixSecs::new(event.created_at.as_secs()),
        expires_at: None,
        source: OfferSource::Announcement,
        event: Some(event.id),
    })
}

/// Whether the listing has the deployed form's tag.
fn is_compute_provider(event: &Event) -> bool {
    values(event, "handler")
        .chain(values(event, "handler_type"))
        .any(|handler| handler == HANDLER)
}

/// Text generation, by `k` where there is one, else by capability where there is one. The deployed
/// form needs neither; anything else needs the `k`, or it is some other kind of handler.
fn check_kind(event: &Event, ours: bool) -> Result<(), NotAnOffer> {
    let sold = KIND_TEXT_GENERATION.to_string();
    let says = |name: &str, value: &str| values(event, name).any(|said| said == value);
    if !ours && !has(event, "k") {
        return Err(NotAnOffer::NotCompute);
    }
    if has(event, "k") && !says("k", &sold) {
        // NIP-90 has 5000 to 5999 for jobs; a handler of other kinds is no provider at all.
        let is_job = |kind: &str| kind.len() == 4 && kind.starts_with('5');
        return Err(if ours || values(event, "k").any(is_job) {
            NotAnOffer::OtherKind
        } else {
            NotAnOffer::NotCompute
        });
    }
    if has(event, "capability") && !says("capability", CAPABILITY) {
        return Err(NotAnOffer::OtherKind);
    }
    Ok(())
}

/// The price that the `price` tags state: the first per-request one, and the first per-1k-tokens one.
fn price_of_tags(event: &Event) -> Option<Price> {
    let stated = |per: &str| {
        event.tags.iter().find_map(|tag| match tag.as_slice() {
            [name, amount, period, rest @ ..] if name == "price" && period == per => Some(
                rest.first()
                    .filter(|unit| *unit == "msats")
                    .and_then(|_| whole_number(amount)),
            ),
            _ => None,
        })
    };
    let per_request = stated("per-request")??;
    let per_1k_tokens = match stated("per-1k-tokens") {
        None => 0,
        // A second part that can't be read leaves the whole unknown.
        Some(amount) => amount?,
    };
    Some(Price {
        per_request: Msat::new(per_request),
        per_1k_tokens: Msat::new(per_1k_tokens),
    })
}

/// The price in a generic listing's content: millisatoshi, as a number or in digits. Frameworks write
/// 0 where no price was set, so there 0 is unknown.
fn price_of_amount(amount: Option<&Value>) -> Option<Price> {
    let msats = match amount? {
        Value::Number(number) => number.as_u64(),
        Value::String(digits) => whole_number(digits),
        _ => None,
    };
    msats
        .filter(|msats| *msats > 0)
        .map(|msats| Price::per_request(Msat::new(msats)))
}

/// The models of a generic listing: `nip90Params.model.values`.
fn listed_models(content: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let values = content
        .get("nip90Params")
        .and_then(|params| params.get("model"))
        .and_then(|model| model.get("values"))
        .and_then(Value::as_array);
    values.into_iter().flatten().filter_map(Value::as_str)
}

/// The content as a JSON object; empty if it is none (NIP-89 allows that) or too large to look at.
fn content_of(event: &Event) -> Map<String, Value> {
    if event.content.len() > MAX_MESSAGE_BYTES {
        return Map::new();
    }
    serde_json::from_str(&event.content).unwrap_or_default()
}

fn relays(event: &Event) -> Vec<String> {
    values(event, "relay")
        .filter(|url| url.len() <= MAX_RELAY_BYTES)
        .take(MAX_RELAYS)
        .map(str::to_owned)
        .collect()
}

/// The models that an offer keeps of these.
pub(super) fn kept_models<'a>(named: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut bytes = 0;
    for model in named.filter(|name| !name.is_empty() && name.len() <= MAX_MODEL_BYTES) {
        bytes += model.len();
        if kept.len() == MAX_MODELS || bytes > MAX_MODELS_BYTES {
            break;
        }
        kept.push(model.to_owned());
    }
    kept
}

fn values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    event
        .tags
        .iter()
        .filter_map(move |tag| match tag.as_slice() {
            [tag_name, value, ..] if tag_name == name => Some(value.as_str()),
            _ => None,
        })
}

fn first<'a>(event: &'a Event, name: &'a str) -> Option<&'a str> {
    values(event, name).next()
}

fn has(event: &Event, name: &str) -> bool {
    first(event, name).is_some()
}

/// Digits and nothing else: no sign, no point, no blank.
fn whole_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// At most `most` bytes of `text`, in whole characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

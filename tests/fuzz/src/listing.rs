//! What providers say about themselves: listings and announcements, the offers made of them, the choice among
//! those.

use std::collections::BTreeSet;

use agent_compute::cli::text::one_line;
use agent_compute::market::{self, History, Policy, Verdict};
use agent_compute::protocol::codec::{self, MAX_MESSAGE_BYTES};
use agent_compute::protocol::listing::{ListingContent, listing as written};
use agent_compute::protocol::message::AgentMessage;
use agent_compute::protocol::offer::{
    MAX_CLOCK_SKEW_SECS, MAX_MODEL_BYTES, MAX_MODELS, MAX_MODELS_BYTES, MAX_NAME_BYTES,
    MAX_RELAY_BYTES, MAX_RELAYS, from_announcement, from_listing,
};
use agent_compute::protocol::{Feature, Offer, OfferSource, Price};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{Event, EventId};
use serde_json::Value;

use super::tape::Tape;
use super::wire::{event, keys};

const NOW: u64 = 1_800_000_000;

/// A few words that listings are made of; the tape has the others.
const NAMES: [&str; 16] = [
    "handler",
    "handler_type",
    "capability",
    "price",
    "channel",
    "relay",
    "network",
    "model",
    "d",
    "k",
    "feature",
    "expiration",
    "status",
    "amount",
    "e",
    "p",
];
const VALUES: [&str; 20] = [
    "compute_provider",
    "text-generation",
    "per-request",
    "per-1k-tokens",
    "msats",
    "sats",
    "5050",
    "5100",
    "regtest",
    "mainnet",
    "bitcoin",
    "nip44",
    "stream",
    "hold-invoice",
    "0",
    "10000",
    "007",
    "18446744073709551615",
    "18446744073709551616",
    "withdrawn",
];

/// Tags and content: a line of JSON, each tag an array, and the content on the lines after the empty one; or
/// decisions of the tape.
pub fn listing(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.byte() % 4 {
        0 => announced(&mut tape),
        1 => round_trip(&mut tape),
        2 => {
            let text = String::from_utf8_lossy(tape.rest()).into_owned();
            let (tags, content) = text.split_once('\n').unwrap_or((&text, ""));
            let tags: Vec<Vec<String>> = serde_json::from_str(tags).unwrap_or_default();
            listed(
                &event(keys(3).public_key(), 31_990, NOW, &tags, content),
                NOW,
            );
        }
        _ => {
            let at = NOW.wrapping_add(tape.amount()).wrapping_sub(30_000);
            let mut tags = Vec::new();
            for _ in 0..tape.below(40) {
                let values = tape.below(5);
                let word = |tape: &mut Tape<'_>, words: &[&str]| match tape.below(32) {
                    at if at < words.len() => words[at].to_owned(),
                    _ => tape.text(),
                };
                let mut tag = vec![word(&mut tape, &NAMES)];
                tag.extend((0..values).map(|_| word(&mut tape, &VALUES)));
                tags.push(tag);
            }
            let content = String::from_utf8_lossy(tape.rest()).into_owned();
            listed(
                &event(keys(3).public_key(), 31_990, at, &tags, &content),
                at,
            );
        }
    }
}

fn listed(event: &Event, at: u64) {
    let Ok(offer) = from_listing(event) else {
        return;
    };
    bounded(&offer, event);
    assert_eq!(offer.price, price_of(event), "the price, read by another");
    assert_eq!(offer.source, OfferSource::Listing);
    chosen(offer, UnixSecs::new(at));
}

/// What holds of every offer, whoever made it.
fn bounded(offer: &Offer, event: &Event) {
    assert_eq!(offer.provider, event.pubkey, "the author is the provider");
    assert_eq!(offer.at.get(), event.created_at.as_secs());
    assert!(offer.name.len() <= MAX_NAME_BYTES);
    assert!(offer.models.len() <= MAX_MODELS && offer.relays.len() <= MAX_RELAYS);
    let sizes = || offer.models.iter().map(String::len);
    assert!(sizes().all(|size| (1..=MAX_MODEL_BYTES).contains(&size)));
    assert!(sizes().sum::<usize>() <= MAX_MODELS_BYTES);
    assert!(offer.relays.iter().all(|url| url.len() <= MAX_RELAY_BYTES));
    assert!(!offer.features.contains(&Feature::Other));
    let shown = one_line(&offer.name, 40);
    assert!(!shown.chars().any(char::is_control) && shown.chars().count() <= 41);
}

/// The price as the module's documentation says it is read, written down once more.
fn price_of(event: &Event) -> Option<Price> {
    let tags: Vec<&[String]> = event.tags.iter().map(|tag| tag.as_slice()).collect();
    let has = |name: &str, value: &str| {
        tags.iter()
            .any(|tag| tag.len() > 1 && tag[0] == name && tag[1] == value)
    };
    let ours = has("handler", "compute_provider") || has("handler_type", "compute_provider");
    let number = |text: &str| {
        let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok())?
    };
    if ours || tags.iter().any(|tag| tag.len() > 1 && tag[0] == "price") {
        let stated = |per: &str| {
            let tag = tags
                .iter()
                .find(|tag| tag.len() > 2 && tag[0] == "price" && tag[2] == per)?;
            let in_msats = tag.get(3).is_some_and(|unit| unit == "msats");
            Some(number(&tag[1]).filter(|_| in_msats))
        };
        let per_1k_tokens = stated("per-1k-tokens").unwrap_or(Some(0))?;
        return Some(Price {
            per_request: Msat::new(stated("per-request")??),
            per_1k_tokens: Msat::new(per_1k_tokens),
        });
    }
    if event.content.len() > MAX_MESSAGE_BYTES {
        return None;
    }
    let content: Value = serde_json::from_str(&event.content).ok()?;
    let amount = match content.as_object()?.get("amount")? {
        Value::Number(amount) => amount.as_u64(),
        Value::String(digits) => number(digits),
        _ => None,
    };
    let amount = amount.filter(|amount| *amount != 0)?;
    Some(Price::per_request(Msat::new(amount)))
}

/// An offer that is taken is one that was asked for.
fn chosen(offer: Offer, now: UnixSecs) {
    let mut policy = Policy::new(keys(5).public_key(), 500);
    policy.network = Some(Network::Regtest);
    policy.max_price = Some(Msat::new(10_000));
    policy.needs = BTreeSet::from([Feature::Nip44]);
    policy.needs_channel = true;
    let choice = market::choose(vec![offer], &policy, &History::new(), now);
    assert_eq!(choice.ranked.len() + choice.left_out.len(), 1);
    for offer in &choice.ranked {
        assert!(
            offer
                .network
                .is_none_or(|network| network == Network::Regtest)
        );
        assert!(offer.price.is_none_or(|price| {
            price
                .of_job(500)
                .is_some_and(|price| price <= Msat::new(10_000))
        }));
        assert!(offer.features.contains(&Feature::Nip44) && offer.channel.is_some());
        assert!(offer.expires_at.is_none_or(|end| end > now));
        assert!(offer.at <= now.plus(MAX_CLOCK_SKEW_SECS));
    }
    for (_, reason) in &choice.left_out {
        assert!(!reason.as_str().is_empty() && !reason.to_string().is_empty());
    }
    assert_eq!(choice.verdict() == Verdict::Ok, choice.ranked.len() == 1);
}

/// An announcement in a channel.
fn announced(tape: &mut Tape<'_>) {
    let text = String::from_utf8_lossy(tape.bytes(usize::MAX)).into_owned();
    let Ok(AgentMessage::ServiceAnnouncement(said)) = codec::decode(&text) else {
        return;
    };
    let channel = EventId::from_byte_array([1; 32]);
    let event = event(keys(3).public_key(), 42, NOW, &[], &text);
    let Ok(offer) = from_announcement(&event, &said, channel) else {
        return;
    };
    bounded(&offer, &event);
    assert_eq!(offer.channel, Some(channel));
    assert_eq!(offer.network, Some(said.network));
    assert_eq!(
        offer.price.map(|price| price.per_request),
        Some(said.price_msats)
    );
    chosen(offer, UnixSecs::new(NOW));
}

/// What we list is read back as what we meant.
fn round_trip(tape: &mut Tape<'_>) {
    let meant = ListingContent {
        name: tape.text(),
        about: tape.text(),
        channel: tape.maybe(|tape| EventId::from_byte_array(tape.array())),
        relays: vec!["wss://relay.example".to_owned()],
        price: Price {
            per_request: Msat::new(tape.amount()),
            per_1k_tokens: Msat::new(tape.amount()),
        },
        models: (0..tape.below(6)).map(|_| tape.text()).collect(),
        network: tape.one_of(&Network::ALL),
        features: Feature::ALL.into_iter().filter(|_| tape.flag()).collect(),
        expires_at: tape.maybe(|tape| UnixSecs::new(tape.amount())),
    };
    let event = written(&meant)
        .sign_with_keys(keys(3))
        .expect("tags of ours");
    let offer = from_listing(&event).expect("a listing of ours is read");
    bounded(&offer, &event);
    let cut_short = offer.name.len() < meant.name.len();
    assert!(meant.name.starts_with(&offer.name));
    assert!(
        !cut_short || offer.name.len() + 4 > MAX_NAME_BYTES,
        "cut more than it must be"
    );
    assert_eq!(offer.channel, meant.channel);
    assert_eq!(offer.relays, meant.relays);
    assert_eq!(offer.price, Some(meant.price));
    let models: Vec<_> = meant
        .models
        .into_iter()
        .filter(|model| (1..=MAX_MODEL_BYTES).contains(&model.len()))
        .collect();
    assert_eq!(offer.models, models);
    assert_eq!(
        (offer.network, offer.features),
        (Some(meant.network), meant.features)
    );
    assert_eq!(offer.expires_at, meant.expires_at);
}

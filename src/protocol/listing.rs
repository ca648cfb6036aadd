//! What a provider publishes about itself: its NIP-89 listing (kind 31990), the announcement that
//! repeats it in the channel, and the withdrawal of both. `offer` reads them back.
//!
//! A listing carries the deployed tags first and in the deployed order, because deployed customers
//! take the first `price` tag they see. Generic NIP-89 tags and what this project adds come after.

use std::collections::BTreeSet;

use nostr::{EventBuilder, EventId, Kind, PublicKey, Tag, TagKind};
use serde::Serialize;

use super::message::ServiceAnnouncement;
use super::offer::{MAX_NAME_BYTES, cut, kept_models};
use super::{Feature, KIND_TEXT_GENERATION, Price};
use crate::units::{Network, UnixSecs};

/// NIP-89 "handler information", the kind of a listing.
pub const KIND_LISTING: u16 = 31_990;

/// The `d` tag of our listings: one provider key has one of them, and a newer one replaces it.
pub const LISTING_ID: &str = "agent-compute";

/// Value of the `handler` tag: who deployed customers look for.
pub(super) const HANDLER: &str = "compute_provider";
/// The capability that is sold here, in listings and announcements.
pub(super) const CAPABILITY: &str = "text-generation";
/// The `status` of a listing that was withdrawn.
pub(super) const WITHDRAWN: &str = "withdrawn";

/// The most bytes of the sentence about itself that a listing carries.
const MAX_ABOUT_BYTES: usize = 1024;

/// How long an emptied listing stays on relays, in seconds (a day): longer than any listing that it
/// could have failed to replace. It can't expire at once, as relays refuse what has expired.
const WITHDRAWN_KEPT_SECS: u64 = 86_400;

/// What a provider says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingContent {
    /// What it calls itself.
    pub name: String,
    /// One sentence for people.
    pub about: String,
    /// The NIP-28 channel it works in.
    pub channel: Option<EventId>,
    /// The relays it listens on. Deployed customers use the first.
    pub relays: Vec<String>,
    /// What it asks.
    pub price: Price,
    /// The models it serves.
    pub models: Vec<String>,
    /// The network of its invoices.
    pub network: Network,
    /// What it can do beyond the plain protocol.
    pub features: BTreeSet<Feature>,
    /// When this stops being true unless it is said again (NIP-40).
    pub expires_at: Option<UnixSecs>,
}

/// The `content` of a listing. Deployed customers need `name` and `description`; generic NIP-89
/// readers use the rest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    name: &'a str,
    description: &'a str,
    about: &'a str,
    nip90_params: Params<'a>,
    encryption_supported: bool,
}

#[derive(Serialize)]
struct Params<'a> {
    model: Param<'a>,
    max_tokens: Param<'a>,
}

#[derive(Serialize)]
struct Param<'a> {
    required: bool,
    values: &'a [String],
}

/// The NIP-89 listing of a provider. Sign it anew, with a later time, whenever something changes and
/// well before it expires. Names and models beyond what readers keep are left out here already.
#[must_use]
pub fn listing(of: &ListingContent) -> EventBuilder {
    let mut tags = vec![
        tag("handler", [HANDLER]),
        tag("capability", [CAPABILITY]),
        price_tag(of.price.per_request.get(), "per-request"),
    ];
    tags.extend(of.channel.map(|channel| tag("channel", [channel.to_hex()])));
    tags.extend(of.relays.iter().map(|url| tag("relay", [url])));
    tags.push(tag("network", [of.network.as_str()]));
    let models = kept_models(of.models.iter().map(String::as_str));
    tags.extend(models.iter().map(|model| tag("model", [model])));
    // From here on it is ours, and ignored by deployed customers.
    if !of.price.per_1k_tokens.is_zero() {
        let per_1k = of.price.per_1k_tokens.get();
        tags.push(price_tag(per_1k, "per-1k-tokens"));
    }
    tags.push(tag("d", [LISTING_ID]));
    tags.push(tag("k", [KIND_TEXT_GENERATION.to_string()]));
    let features = of.features.iter();
    tags.extend(features.map(|feature| tag("feature", [feature.as_str()])));
    tags.extend(of.expires_at.map(expiration));
    EventBuilder::new(Kind::from(KIND_LISTING), content(of, &models)).tags(tags)
}

fn content(of: &ListingContent, models: &[String]) -> String {
    let about = cut(&of.about, MAX_ABOUT_BYTES);
    let content = Content {
        name: cut(&of.name, MAX_NAME_BYTES),
        description: about,
        about,
        nip90_params: Params {
            model: Param {
                required: false,
                values: models,
            },
            max_tokens: Param {
                required: false,
                values: &[],
            },
        },
        encryption_supported: of.features.contains(&Feature::Nip44),
    };
    serde_json::to_string(&content).unwrap_or_default()
}

/// Takes a listing down: the events to publish, in this order, and the times to sign them as of.
/// `listed_at` is the `created_at` of the listing's last version, `now` the present.
///
/// 1. An empty listing that says so replaces the last one, on relays that don't delete. It also hides
///    what other relays still hold of the listing, and the announcements before it.
/// 2. A deletion (NIP-09) of the listing and of the empty one, so that nothing is left on relays that do.
/// 3. A deletion of these `announcements`, so that customers who read the channel alone don't find them.
///
/// Times matter. Of two versions from one second, relays keep the one with the lower id, so the empty
/// listing is later than the last. A deletion holds for versions up to its own time. So whatever follows
/// must be later than [`withdrawn_at`]: the listing, to be taken at all, and the announcement, which from
/// the same second would be the very event that was deleted.
#[must_use]
pub fn withdraw(
    provider: PublicKey,
    announcements: &[EventId],
    listed_at: UnixSecs,
    now: UnixSecs,
) -> Vec<(EventBuilder, UnixSecs)> {
    let at = withdrawn_at(listed_at, now);
    let emptied = EventBuilder::new(Kind::from(KIND_LISTING), "").tags([
        tag("d", [LISTING_ID]),
        tag("status", [WITHDRAWN]),
        expiration(at.plus(WITHDRAWN_KEPT_SECS)),
    ]);
    let address = format!("{KIND_LISTING}:{}:{LISTING_ID}", provider.to_hex());
    let listing = deletion(vec![tag("a", [address])], KIND_LISTING);
    let mut events = vec![(emptied, at), (listing, at)];
    if !announcements.is_empty() {
        let ids = announcements.iter().map(|id| tag("e", [id.to_hex()]));
        let announced = deletion(ids.collect(), Kind::ChannelMessage.as_u16());
        events.push((announced, at));
    }
    events
}

fn deletion(mut of: Vec<Tag>, kind: u16) -> EventBuilder {
    of.push(tag("k", [kind.to_string()]));
    EventBuilder::new(Kind::EventDeletion, "no longer offered").tags(of)
}

/// The `created_at` of the empty listing that replaces one from `listed_at`, and of the deletions.
#[must_use]
pub fn withdrawn_at(listed_at: UnixSecs, now: UnixSecs) -> UnixSecs {
    now.max(listed_at.plus(1))
}

/// The announcement that says in the channel what the listing says to the world. `spark_address` may
/// be any text where the provider has none; deployed peers need the field.
#[must_use]
pub fn announcement(
    of: &ListingContent,
    provider: PublicKey,
    spark_address: impl Into<String>,
) -> ServiceAnnouncement {
    let per_1k = of.price.per_1k_tokens;
    ServiceAnnouncement {
        kind: KIND_TEXT_GENERATION,
        price_msats: of.price.per_request,
        spark_address: spark_address.into(),
        network: of.network,
        provider_pubkey: Some(provider.to_hex()),
        models: kept_models(of.models.iter().map(String::as_str)),
        capabilities: vec![CAPABILITY.to_owned()],
        price_per_1k_msats: (!per_1k.is_zero()).then_some(per_1k),
        features: of
            .features
            .iter()
            .map(|feature| feature.as_str().to_owned())
            .collect(),
    }
}

fn price_tag(msats: u64, per: &str) -> Tag {
    tag("price", [msats.to_string().as_str(), per, "msats"])
}

fn expiration(at: UnixSecs) -> Tag {
    tag("expiration", [at.get().to_string()])
}

fn tag<const N: usize>(name: &str, values: [impl Into<String>; N]) -> Tag {
    Tag::custom(TagKind::from(name), values.map(Into::into))
}

//! Which offer to take: pure, so that every choice can be tested and explained.
//!
//! [`choose`] splits what was found into offers to try, in order, and offers left out, each with the
//! one [`Reason`] that rules it out. Nothing is chosen silently instead of what was asked for: when
//! nothing is left, [`Choice::verdict`] says why, with counts and the nearest miss.
//!
//! [`record`] says what a provider's past is worth: for [`Select::Best`], and for
//! [`Policy::unproven_limit`].
//!
//! Reasons are tested in a fixed order, from who it is, over what it sells, to what it costs. The
//! budget comes last, so an offer left out for [`Reason::Budget`] would have been taken but for the
//! owner's limits.

pub mod record;
mod verdict;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use nostr::{EventId, PublicKey};

pub use self::record::History;
use self::record::Rank;
pub use self::verdict::Verdict;
pub use crate::config::{KeyPattern, MIN_PREFIX_DIGITS, NotASelection, Select};
use crate::protocol::offer::{
    ANNOUNCEMENT_MAX_AGE_SECS, LISTING_MAX_AGE_SECS, MAX_CLOCK_SKEW_SECS,
};
use crate::protocol::record::Record;
use crate::protocol::{Feature, Offer, OfferSource};
use crate::units::{Msat, Network, UnixSecs};

/// What the owner's limits still allow for one price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The highest price that still fits, routing fee left aside: the reservation decides to the msat.
    pub most: Msat,
    /// The limit that binds, in words for a person: `per_job_limit_sats`.
    pub limit: String,
}

/// What a buyer asks for.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How to rank what qualifies.
    pub select: Select,
    /// Only providers that say they serve this model.
    pub model: Option<String>,
    /// The tokens to be asked for; prices may grow with them.
    pub max_tokens: u32,
    /// Only invoices of this network. Offers that name none qualify: the invoice decides.
    pub network: Option<Network>,
    /// The highest price the buyer wants to pay. Unknown prices qualify: the invoice is held to it.
    pub max_price: Option<Msat>,
    /// What the owner's limits still allow.
    pub headroom: Option<Headroom>,
    /// The most that a provider without a good record is paid. Unknown prices qualify, unless it is zero:
    /// the invoice is held to [`Policy::invoice_cap`]. `None` where nothing is paid outside of escrow.
    pub unproven_limit: Option<Msat>,
    /// Only these providers; all if empty.
    pub allow: Vec<PublicKey>,
    /// Never these providers, allowed or not.
    pub deny: Vec<PublicKey>,
    /// The buyer, who does not buy from itself.
    pub own: PublicKey,
    /// What the provider must be able to do.
    pub needs: BTreeSet<Feature>,
    /// Providers that took sealed messages before: not taken where they no longer list it.
    pub sealed_before: BTreeSet<PublicKey>,
    /// Only providers that work in a channel.
    pub needs_channel: bool,
    /// Only providers in this channel.
    pub only_channel: Option<EventId>,
}

impl Policy {
    /// The cheapest of all, for a job of up to `max_tokens`, bought by `own`.
    #[must_use]
    pub const fn new(own: PublicKey, max_tokens: u32) -> Self {
        Self {
            select: Select::Cheapest,
            model: None,
            max_tokens,
            network: None,
            max_price: None,
            headroom: None,
            unproven_limit: None,
            allow: Vec::new(),
            deny: Vec::new(),
            own,
            needs: BTreeSet::new(),
            sealed_before: BTreeSet::new(),
            needs_channel: false,
            only_channel: None,
        }
    }

    /// What the invoice for `offer` may come to at most because its provider is not proven; `None` if that
    /// is no matter. A listed price was looked at already, and the invoice is held to it; of an unknown one
    /// it could be anything up to the other limits.
    #[must_use]
    pub fn invoice_cap(&self, offer: &Offer, history: &History, now: UnixSecs) -> Option<Msat> {
        let limit = self.unproven_limit?;
        let most = match Asks::of(offer, self.max_tokens) {
            Asks::Known(price) => price,
            Asks::Unknown | Asks::Absurd => {
                [self.max_price, self.headroom.as_ref().map(|it| it.most)]
                    .into_iter()
                    .flatten()
                    .min()
                    .unwrap_or(Msat::MAX)
            }
        };
        let proven = record::is_proven(record_of(offer, history), most, now);
        (!proven).then_some(limit)
    }
}

/// What is known of who makes this offer.
#[must_use]
pub fn record_of<'a>(offer: &Offer, history: &'a History) -> &'a Record {
    static STRANGER: Record = Record {
        counts: std::collections::BTreeMap::new(),
        recent: Vec::new(),
    };
    history.get(&offer.provider).unwrap_or(&STRANGER)
}

/// What an offer asks for the job at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asks {
    /// So much.
    Known(Msat),
    /// It did not say: after all that did.
    Unknown,
    /// More money than there is.
    Absurd,
}

impl Asks {
    fn of(offer: &Offer, max_tokens: u32) -> Self {
        match &offer.price {
            None => Self::Unknown,
            Some(price) => price.of_job(max_tokens).map_or(Self::Absurd, Self::Known),
        }
    }

    fn exceeds(self, most: Msat) -> bool {
        match self {
            Self::Known(price) => price > most,
            // Bounded by the checks on the invoice, which can't pass where nothing may be paid.
            Self::Unknown => most.is_zero(),
            Self::Absurd => true,
        }
    }

    const fn known(self) -> Option<Msat> {
        match self {
            Self::Known(price) => Some(price),
            Self::Unknown | Self::Absurd => None,
        }
    }
}

/// Why an offer is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the buyer's own.
    Own,
    /// Its author is on the deny list.
    Denied,
    /// There is an allow list, and its author is not on it.
    NotAllowed,
    /// Another provider was asked for.
    Key {
        /// The key that was asked for.
        wanted: KeyPattern,
    },
    /// The key that was asked for fits several providers.
    Ambiguous {
        /// The key that was asked for.
        wanted: KeyPattern,
    },
    /// Its own expiry is past.
    Expired,
    /// Too old to be believed, or dated too far ahead.
    Stale,
    /// Its invoices are of another network.
    Network {
        /// Theirs.
        offers: Network,
        /// Ours.
        wanted: Network,
    },
    /// It works in no channel.
    NoChannel,
    /// It works in another channel.
    OtherChannel,
    /// It does not offer the model.
    Model {
        /// The model that was asked for.
        wanted: String,
        /// One that it offers, if it says.
        offers: Option<String>,
    },
    /// It lacks something that is needed.
    Feature {
        /// The first thing that it lacks.
        lacks: Feature,
    },
    /// It took sealed messages before, and lists that no longer.
    Unsealed,
    /// It asks more than the buyer wants to pay.
    Price {
        /// What it asks; `None` if it did not say, or that is more money than there is.
        asks: Option<Msat>,
        /// What the buyer wants to pay.
        most: Msat,
    },
    /// It asks more than the owner lets a provider without a good record be paid outside of escrow.
    Unproven {
        /// What it asks; `None` if it did not say.
        asks: Option<Msat>,
        /// The owner's `unproven_limit_sats`.
        limit: Msat,
    },
    /// It asks more than the owner's limits still allow.
    Budget {
        /// What it asks; `None` if it did not say, or that is more money than there is.
        asks: Option<Msat>,
        /// What is left.
        headroom: Headroom,
    },
}

impl Reason {
    /// The stable word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
            Self::Key { .. } => "key",
            Self::Ambiguous { .. } => "ambiguous",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::Network { .. } => "network",
            Self::NoChannel => "no_channel",
            Self::OtherChannel => "other_channel",
            Self::Model { .. } => "model",
            Self::Feature { .. } => "feature",
            Self::Unsealed => "unsealed",
            Self::Price { .. } => "price",
            Self::Unproven { .. } => "unproven",
            Self::Budget { .. } => "budget",
        }
    }
}

impl fmt::Display for Reason {
    /// For a person, to follow the provider's name and a colon. May quote text from the network.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let price = |asks: &Option<Msat>| match asks {
            Some(asks) => format!("asks {asks}"),
            None => "asks more".to_owned(),
        };
        match self {
            Self::Own => f.write_str("this is your own key"),
            Self::Denied => f.write_str("on the deny list"),
            Self::NotAllowed => f.write_str("not on the allow list"),
            Self::Key { wanted } => write!(f, "not the provider asked for ({wanted})"),
            Self::Ambiguous { wanted } => write!(f, "{wanted} fits several providers"),
            Self::Expired => f.write_str("its listing has expired"),
            Self::Stale => f.write_str("not heard of lately"),
            Self::Network { offers, wanted } => write!(f, "on {offers}, not on {wanted}"),
            Self::NoChannel => f.write_str("works in no channel"),
            Self::OtherChannel => f.write_str("works in another channel"),
            Self::Model { wanted, .. } => write!(f, "does not offer the model {wanted}"),
            Self::Feature { lacks } => write!(f, "lacks {}", needed(*lacks)),
            Self::Unsealed => {
                f.write_str("took encrypted messages before and lists that no longer (--plaintext buys all the same)")
            }
            Self::Price { asks, most } => write!(f, "{}, --max-price is {most}", price(asks)),
            Self::Unproven { asks, limit } => write!(
                f,
                "{}, and without a good record unproven_limit_sats leaves {limit} (--htlc pays into escrow)",
                price(asks)
            ),
            Self::Budget {
                asks: None,
                headroom,
            } => {
                write!(f, "{} leaves {}", headroom.limit, headroom.most)
            }
            Self::Budget { asks, headroom } => {
                let Headroom { most, limit } = headroom;
                write!(f, "{}, {limit} leaves {most}", price(asks))
            }
        }
    }
}

/// What is missing, in words.
fn needed(feature: Feature) -> String {
    match feature {
        Feature::HoldInvoice => "escrow (hold-invoice)".to_owned(),
        Feature::Nip44 => "encryption (nip44)".to_owned(),
        feature => feature.as_str().to_owned(),
    }
}

/// Offers, sorted by whether and in which order to try them.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those that qualify, the one to take first.
    pub ranked: Vec<Offer>,
    /// The others, in the order they were heard, each with the reason.
    pub left_out: Vec<(Offer, Reason)>,
}

/// Sorts `offers`, given in the order they were heard. `history` is what is known of the providers. The same
/// input gives the same choice.
#[must_use]
pub fn choose(offers: Vec<Offer>, policy: &Policy, history: &History, now: UnixSecs) -> Choice {
    let ambiguous = ambiguous(&offers, policy);
    let mut choice = Choice::default();
    for offer in offers {
        let mut reason = left_out(&offer, policy, history, now);
        if reason.is_none() {
            reason.clone_from(&ambiguous);
        }
        match reason {
            Some(reason) => choice.left_out.push((offer, reason)),
            None => choice.ranked.push(offer),
        }
    }
    let asks = |offer: &Offer| Asks::of(offer, policy.max_tokens);
    match policy.select {
        Select::First => {}
        Select::Cheapest | Select::Provider(_) => choice
            .ranked
            .sort_by_key(|offer| (asks(offer), Reverse(offer.at), offer.provider)),
        Select::Best => {
            let rank = |offer: Offer| {
                let known = record_of(&offer, history);
                (Rank::of(&offer, asks(&offer), known, now), offer)
            };
            let mut ranked: Vec<(Rank, Offer)> = choice.ranked.drain(..).map(rank).collect();
            ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
            choice.ranked = ranked.into_iter().map(|(_, offer)| offer).collect();
        }
    }
    choice
}

/// Why `offer` does not qualify, seen by itself; `None` if it does.
#[must_use]
pub fn left_out(
    offer: &Offer,
    policy: &Policy,
    history: &History,
    now: UnixSecs,
) -> Option<Reason> {
    who(offer, policy)
        .or_else(|| when(offer, now))
        .or_else(|| what(offer, policy))
        .or_else(|| how_much(offer, policy, history, now))
}

fn who(offer: &Offer, policy: &Policy) -> Option<Reason> {
    let provider = &offer.provider;
    if *provider == policy.own {
        return Some(Reason::Own);
    }
    if let Select::Provider(wanted) = &policy.select
        && !wanted.matches(provider)
    {
        let wanted = wanted.clone();
        return Some(Reason::Key { wanted });
    }
    if policy.deny.contains(provider) {
        return Some(Reason::Denied);
    }
    let allowed = policy.allow.is_empty() || policy.allow.contains(provider);
    (!allowed).then_some(Reason::NotAllowed)
}

fn when(offer: &Offer, now: UnixSecs) -> Option<Reason> {
    if offer.expires_at.is_some_and(|end| end <= now) {
        return Some(Reason::Expired);
    }
    let from_the_future = offer.at > now.plus(MAX_CLOCK_SKEW_SECS);
    let max_age = match offer.source {
        OfferSource::Announcement => Some(ANNOUNCEMENT_MAX_AGE_SECS),
        OfferSource::Listing if offer.expires_at.is_none() => Some(LISTING_MAX_AGE_SECS),
        OfferSource::Listing => None,
    };
    let too_old = max_age.is_some_and(|max| now.since(offer.at) > max);
    (from_the_future || too_old).then_some(Reason::Stale)
}

fn what(offer: &Offer, policy: &Policy) -> Option<Reason> {
    if let (Some(offers), Some(wanted)) = (offer.network, policy.network)
        && offers != wanted
    {
        return Some(Reason::Network { offers, wanted });
    }
    if let Some(only) = policy.only_channel {
        if offer.channel != Some(only) {
            return Some(match offer.channel {
                Some(_) => Reason::OtherChannel,
                None => Reason::NoChannel,
            });
        }
    } else if policy.needs_channel && offer.channel.is_none() {
        return Some(Reason::NoChannel);
    }
    if let Some(wanted) = &policy.model
        && !offer.models.contains(wanted)
    {
        let (wanted, offers) = (wanted.clone(), nearest_model(wanted, &offer.models));
        return Some(Reason::Model { wanted, offers });
    }
    let mut lacks = policy.needs.difference(&offer.features).copied();
    let lacks = lacks.next().map(|lacks| Reason::Feature { lacks });
    let seals = offer.features.contains(&Feature::Nip44);
    let unsealed = !seals && policy.sealed_before.contains(&offer.provider);
    lacks.or_else(|| unsealed.then_some(Reason::Unsealed))
}

fn how_much(offer: &Offer, policy: &Policy, history: &History, now: UnixSecs) -> Option<Reason> {
    let price = Asks::of(offer, policy.max_tokens);
    let asks = price.known();
    // A price of more money than there is exceeds whatever anybody wants to pay.
    let most = policy.max_price.unwrap_or(Msat::MAX);
    if price.exceeds(most) {
        return Some(Reason::Price { asks, most });
    }
    if let Some(limit) = policy.invoice_cap(offer, history, now)
        && price.exceeds(limit)
    {
        return Some(Reason::Unproven { asks, limit });
    }
    let headroom = policy.headroom.as_ref()?;
    price.exceeds(headroom.most).then(|| Reason::Budget {
        asks,
        headroom: headroom.clone(),
    })
}

/// The offered model most like the wanted one: the one that shares the longest beginning.
fn nearest_model(wanted: &str, offered: &[String]) -> Option<String> {
    let shared = |model: &&String| {
        let pairs = wanted.chars().zip(model.chars());
        pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
    };
    // The first of several equals, not the last.
    offered.iter().rev().max_by_key(shared).cloned()
}

/// The reason that holds for every offer if the key that was asked for fits two providers. Any two
/// that were heard of count, bad offers too: what a short key means must not depend on prices.
fn ambiguous(offers: &[Offer], policy: &Policy) -> Option<Reason> {
    let Select::Provider(wanted) = &policy.select else {
        return None;
    };
    let fits = |offer: &&Offer| offer.provider != policy.own && wanted.matches(&offer.provider);
    let keys: BTreeSet<PublicKey> = offers
        .iter()
        .filter(fits)
        .map(|offer| offer.provider)
        .collect();
    (keys.len() > 1).then(|| Reason::Ambiguous {
        wanted: wanted.clone(),
    })
}

#[cfg(test)]
mod tests;

//! Who is on offer, who of them suits, and who would be bought from. Asks nobody for anything.

use std::collections::BTreeSet;

use nostr::PublicKey;
use tokio::time::Instant;

use super::{ProviderSeen, PurchaseRequest, Ready};
use crate::config::Encrypt;
use crate::discovery::{DiscoveryRequest, discover};
use crate::error::{Code, Error, Result};
use crate::ledger::RefusedBy;
use crate::market::record::summary;
use crate::market::{self, Headroom, History, Policy, Select, Verdict};
use crate::protocol::record::Summary;
use crate::protocol::{Feature, Offer};
use crate::relay::RelayError;
use crate::units::Msat;

/// Every offer that suits this client.
pub(super) async fn offers(ready: &Ready, request: &PurchaseRequest) -> Result<Vec<Offer>> {
    let policy = policy(ready, request, None).await?;
    let ends = request.looks_until(Instant::now());
    let found = look_around(ready, request, &policy, ends).await?;
    let history = records(ready, found.iter().map(|offer| offer.provider)).await?;
    let now = ready.engine.clock.now();
    Ok(market::choose(found, &policy, &history, now).ranked)
}

/// Whether messages are sealed: the owner's word, lowered by this request where that leaves a choice.
pub(super) fn encryption(ready: &Ready, request: &PurchaseRequest) -> Result<Encrypt> {
    match (ready.encrypt, request.plaintext) {
        (Encrypt::Required, true) => Err(Error::new(
            Code::Usage,
            "--plaintext: [policy] encrypt = \"required\" forbids plain text",
        )),
        (_, true) => Ok(Encrypt::Off),
        (encrypt, false) => Ok(encrypt),
    }
}

async fn policy(
    ready: &Ready,
    request: &PurchaseRequest,
    headroom: Option<Headroom>,
) -> Result<Policy> {
    // A client that only looks says what one that pays would do.
    let pays = ready.engine.wallet.is_some() || !ready.buys;
    let pays_first = pays && !request.escrow;
    let own = ready.engine.identity.public_key();
    let mut policy = Policy::new(own, request.max_tokens);
    policy.select = request.select.clone();
    policy.model.clone_from(&request.model);
    policy.network = ready.network;
    policy.max_price = request.max_price;
    policy.headroom = headroom;
    policy.unproven_limit = ready.unproven_limit.filter(|_| pays_first);
    policy.allow.clone_from(&ready.allow);
    policy.deny.clone_from(&ready.deny);
    policy.needs_channel = true;
    policy.only_channel = request.channel;
    if request.escrow {
        policy.needs.insert(Feature::HoldInvoice);
    }
    match encryption(ready, request)? {
        Encrypt::Off => {}
        Encrypt::Prefer => {
            policy.sealed_before = ready.engine.ledger.sealing_providers().await?;
        }
        Encrypt::Required => {
            policy.needs.insert(Feature::Nip44);
        }
    }
    Ok(policy)
}

/// What is on offer.
async fn look_around(
    ready: &Ready,
    request: &PurchaseRequest,
    policy: &Policy,
    ends: Instant,
) -> Result<Vec<Offer>> {
    let clock = &ready.engine.clock;
    let exact = match &request.select {
        Select::Provider(pattern) => pattern.exact(),
        _ => None,
    };
    let wanted = DiscoveryRequest {
        listings: request.discover,
        channel: request.channel,
        provider: exact,
        first: matches!(request.select, Select::First),
        within: ends.saturating_duration_since(Instant::now()),
    };
    // Who else may be heard of is a stranger here: where records decide who suits, looking ends late
    // rather than early.
    let history = records(ready, exact).await?;
    let enough = |offers: &[Offer]| {
        let now = clock.now();
        offers
            .iter()
            .any(|offer| market::left_out(offer, policy, &history, now).is_none())
    };
    let relays = &*ready.engine.relays;
    let found = discover(relays, clock, &wanted, enough, |_| {})
        .await
        .map_err(unreachable)?;
    Ok(found.offers)
}

/// What our own purchases say of these providers.
async fn records(ready: &Ready, providers: impl IntoIterator<Item = PublicKey>) -> Result<History> {
    let providers: Vec<PublicKey> = providers.into_iter().collect();
    if providers.is_empty() {
        return Ok(History::new());
    }
    let Ready { engine, books, .. } = ready;
    Ok(engine.ledger.records(*books, providers).await?)
}

fn unreachable(error: RelayError) -> Error {
    Error::new(Code::Network, format!("{error}; nothing was paid"))
}

/// Who is on offer, and who of them would be bought from.
pub(super) struct Survey {
    /// All of them, the suitable ones first and in order of preference.
    pub(super) seen: Vec<ProviderSeen>,
    /// The suitable ones, the best first, each provider with its best offer; or why there is none.
    pub(super) candidates: Result<Vec<Candidate>>,
}

/// An offer to take.
pub(super) struct Candidate {
    pub(super) offer: Offer,
    /// The most that its invoice may come to, besides the price that it lists: what the buyer said, and what
    /// the owner lets a provider without a good record be paid.
    pub(super) max_price: Option<Msat>,
}

/// Looks around without asking anybody for anything.
pub(super) async fn survey(
    ready: &Ready,
    request: &PurchaseRequest,
    ends: Instant,
) -> Result<Survey> {
    survey_but(ready, request, &[], ends).await
}

/// The same as if these providers, which were asked already, were denied.
pub(super) async fn survey_but(
    ready: &Ready,
    request: &PurchaseRequest,
    asked: &[PublicKey],
    ends: Instant,
) -> Result<Survey> {
    let headroom = headroom(ready, request).await?;
    let mut policy = policy(ready, request, Some(headroom)).await?;
    policy.deny.extend(asked);
    let found = match &request.offer {
        Some(offer) => vec![offer.clone()],
        None => look_around(ready, request, &policy, ends).await?,
    };
    let history = records(ready, found.iter().map(|offer| offer.provider)).await?;
    let now = ready.engine.clock.now();
    let choice = market::choose(found, &policy, &history, now);
    let suitable = choice.ranked.iter().map(|offer| (offer, None));
    let left_out = choice
        .left_out
        .iter()
        .map(|(offer, why)| (offer, Some(why.as_str())));
    let seen = suitable
        .chain(left_out)
        .map(|(offer, reason)| {
            let price = offer.expected_price(request.max_tokens);
            let record = summary(market::record_of(offer, &history), price, now);
            provider_seen(offer, price, reason, record)
        })
        .collect();
    let none = |code, why: String| Err(Error::new(code, format!("{why}; nothing was paid")));
    let candidates = match choice.verdict() {
        Verdict::Ok => Ok(one_of_each(choice.ranked)
            .map(|offer| Candidate {
                max_price: [request.max_price, policy.invoice_cap(&offer, &history, now)]
                    .into_iter()
                    .flatten()
                    .min(),
                offer,
            })
            .collect()),
        Verdict::NoProvider(why) | Verdict::Ambiguous(why) => none(Code::NoProvider, why),
        Verdict::Budget(why) => none(Code::Budget, why),
    };
    Ok(Survey { seen, candidates })
}

/// The one that is bought from first.
pub(super) fn best(candidates: Vec<Candidate>) -> Result<Offer> {
    let best = candidates.into_iter().next();
    best.map(|best| best.offer)
        .ok_or_else(|| Error::new(Code::Internal, "a choice without an offer"))
}

/// The first offer of each provider: who fails in one channel is not asked again in another.
fn one_of_each(ranked: Vec<Offer>) -> impl Iterator<Item = Offer> {
    let mut known = BTreeSet::new();
    ranked
        .into_iter()
        .filter(move |offer| known.insert(offer.provider))
}

/// What the limits still allow, so that no provider is asked for what can't be paid anyway.
async fn headroom(ready: &Ready, request: &PurchaseRequest) -> Result<Headroom> {
    let Ready { engine, books, .. } = ready;
    if ready.buys && engine.wallet.is_none() {
        return Ok(Headroom {
            most: Msat::MAX,
            limit: String::new(),
        });
    }
    let tick = request.tick.as_deref();
    let report = engine.ledger.budget(*books, tick, engine.limits).await?;
    let (most, by) = report.headroom();
    let limit = match by {
        RefusedBy::PerJob => "per_job_limit_sats",
        RefusedBy::PerTick => "per_tick_limit_sats",
        RefusedBy::Daily => "daily_limit_sats",
        RefusedBy::Floor => "reserve_sats",
    };
    // Who only looks is told of each provider that nothing is left for it.
    if most.is_zero() && ready.buys {
        let message = format!(
            "[runway] {limit} allows nothing more; nothing was paid. See `agent-customer budget`"
        );
        return Err(Error::new(Code::Budget, message));
    }
    Ok(Headroom {
        most,
        limit: limit.to_owned(),
    })
}

fn provider_seen(
    offer: &Offer,
    price_msat: Option<Msat>,
    reason: Option<&str>,
    record: Summary,
) -> ProviderSeen {
    ProviderSeen {
        provider: offer.provider.to_hex(),
        name: offer.name.clone(),
        price_msat,
        models: offer.models.clone(),
        network: offer.network,
        channel: offer.channel.map(|channel| channel.to_hex()),
        features: offer.features.iter().copied().collect::<Vec<Feature>>(),
        matches: reason.is_none(),
        reason: reason.map(str::to_owned),
        record,
    }
}

//! A crowd of listings, most of them bait: whatever they say, the choice is one that the buyer's wishes and
//! the owner's limits allow, each offer is ranked or left out for a reason, and the cheapest comes first.

use std::collections::BTreeSet;

use agent_compute::Code;
use agent_compute::config::Select;
use agent_compute::market::{Choice, Headroom, History, Policy, Verdict, choose};
use agent_compute::protocol::record::{Outcome as Deed, Past, Record};
use agent_compute::protocol::{Feature, Offer, OfferSource, Price};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{EventId, PublicKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::report::Outcome;

const NOW: UnixSecs = UnixSecs::new(1_800_000_000);
const TOKENS: u32 = 500;
const OWN: u8 = 0;

const fn key(of: u8) -> PublicKey {
    PublicKey::from_byte_array([of; 32])
}

/// One choice out of one crowd.
pub fn choose_among_liars(seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0ff3_0ff3);
    let count = rng.random_range(0..16);
    let offers: Vec<Offer> = (0..count).map(|_| offer(&mut rng)).collect();
    let policy = policy(&mut rng);
    let history = history(&mut rng);
    let choice = choose(offers.clone(), &policy, &history, NOW);
    let ended = match choice.verdict() {
        Verdict::Ok => Ok(()),
        Verdict::Budget(_) => Err(Code::Budget),
        Verdict::NoProvider(_) | Verdict::Ambiguous(_) => Err(Code::NoProvider),
    };
    Outcome {
        adversary: "lying_listings",
        seed,
        ended,
        lost: Msat::ZERO,
        at_risk: Msat::ZERO,
        broken: faults(&offers, &choice, &policy, &history),
    }
}

fn offer(rng: &mut StdRng) -> Offer {
    let price = |rng: &mut StdRng| match rng.random_range(0..8) {
        0 => 0,
        1 => u64::MAX,
        2 => Msat::MAX.get(),
        _ => rng.random_range(0..30_000),
    };
    let per_request = Msat::new(price(rng));
    let per_1k_tokens = match rng.random_range(0..4) {
        0 => Msat::new(price(rng)),
        _ => Msat::ZERO,
    };
    let ages = [0, 299, 301, 6 * 86_400, 8 * 86_400];
    let age = ages[rng.random_range(0..ages.len())];
    let is_announced = rng.random_range(0..3) == 0;
    Offer {
        event: None,
        provider: key(rng.random_range(0..7)),
        name: "\u{1b}[2Jthe best\r".to_owned(),
        channel: (rng.random_range(0..6) > 0)
            .then(|| EventId::from_byte_array([rng.random_range(0..2); 32])),
        relays: Vec::new(),
        price: (rng.random_range(0..6) > 0).then_some(Price {
            per_request,
            per_1k_tokens,
        }),
        models: ["llama", "echo"][..rng.random_range(0..3)]
            .iter()
            .map(|it| (*it).to_owned())
            .collect(),
        network: (rng.random_range(0..4) > 0)
            .then(|| Network::ALL[rng.random_range(0..Network::ALL.len())]),
        features: Feature::ALL
            .into_iter()
            .filter(|_| rng.random_range(0..4) > 0)
            .collect(),
        at: if rng.random_range(0..12) == 0 {
            NOW.plus(86_400)
        } else {
            NOW.minus(age)
        },
        expires_at: (rng.random_range(0..3) == 0)
            .then(|| UnixSecs::new(NOW.get() - 50 + rng.random_range(0..200))),
        source: if is_announced {
            OfferSource::Announcement
        } else {
            OfferSource::Listing
        },
    }
}

fn policy(rng: &mut StdRng) -> Policy {
    let mut some = |odds: u32| rng.random_range(0..odds) == 0;
    let needs = if some(3) {
        BTreeSet::from([Feature::HoldInvoice])
    } else {
        BTreeSet::new()
    };
    Policy {
        select: match (some(4), some(4)) {
            (true, _) => Select::First,
            (_, true) => Select::Best,
            _ => Select::Cheapest,
        },
        model: some(4).then(|| "llama".to_owned()),
        network: Some(Network::Regtest),
        max_price: some(2).then_some(Msat::new(12_000)),
        headroom: some(2).then(|| Headroom {
            most: Msat::new(9_000),
            limit: "per_job_limit_sats".to_owned(),
        }),
        unproven_limit: some(3).then_some(Msat::new(5_000)),
        allow: if some(5) {
            vec![key(1), key(2)]
        } else {
            Vec::new()
        },
        deny: if some(3) {
            vec![key(2), key(3)]
        } else {
            Vec::new()
        },
        needs,
        sealed_before: if some(3) {
            BTreeSet::from([key(4)])
        } else {
            BTreeSet::new()
        },
        needs_channel: true,
        ..Policy::new(key(OWN), TOKENS)
    }
}

fn history(rng: &mut StdRng) -> History {
    let mut history = History::new();
    for of in 1..7 {
        let mut record = Record::default();
        for _ in 0..rng.random_range(0..12) {
            let outcome = match rng.random_range(0..4) {
                0 => Deed::Undelivered,
                _ => Deed::Delivered,
            };
            *record.counts.entry(outcome).or_default() += 1;
            record.recent.push(Past {
                at: NOW.minus(rng.random_range(0..90 * 86_400)),
                outcome,
                price: Msat::new(rng.random_range(0..20_000)),
                listed: None,
                first_token_ms: None,
            });
        }
        history.insert(key(of), record);
    }
    history
}

fn faults(offers: &[Offer], choice: &Choice, policy: &Policy, history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |broken: bool, what: &str| {
        if broken {
            faults.push(what.to_owned());
        }
    };
    let all = choice.ranked.len() + choice.left_out.len();
    fault(
        all != offers.len(),
        "an offer is neither ranked nor left out",
    );
    let price = |offer: &Offer| offer.expected_price(TOKENS);
    for offer in &choice.ranked {
        let most = [policy.max_price, policy.headroom.as_ref().map(|it| it.most)];
        let most = most.into_iter().flatten().min().unwrap_or(Msat::MAX);
        let known = price(offer);
        fault(known.is_some_and(|it| it > most), "an offer over a limit");
        fault(
            offer.price.is_some() && known.is_none(),
            "an offer of more money than there is",
        );
        let listed = offer.provider;
        fault(listed == key(OWN), "the buyer's own offer");
        fault(policy.deny.contains(&listed), "a denied provider");
        let allowed = policy.allow.is_empty() || policy.allow.contains(&listed);
        fault(!allowed, "a provider that is not allowed");
        let network = offer.network.is_some_and(|it| it != Network::Regtest);
        fault(network, "an offer of another network");
        let over = offer.expires_at.is_some_and(|it| it <= NOW);
        fault(over || offer.at > NOW.plus(900), "an offer out of its time");
        fault(offer.channel.is_none(), "an offer without a channel");
        let model = policy.model.as_ref();
        fault(
            model.is_some_and(|it| !offer.models.contains(it)),
            "an offer without the model",
        );
        fault(
            !policy.needs.is_subset(&offer.features),
            "an offer without what is needed",
        );
        let sealed = policy.sealed_before.contains(&listed);
        fault(
            sealed && !offer.features.contains(&Feature::Nip44),
            "a provider that once took sealed messages gets a plain one",
        );
        let cap = policy.invoice_cap(offer, history, NOW);
        fault(
            cap.is_some_and(|cap| known.is_some_and(|it| it > cap)),
            "a stranger gets more than strangers get",
        );
    }
    if policy.select == Select::Cheapest {
        let order = |offer: &Offer| price(offer).map_or(u64::MAX, Msat::get);
        fault(
            !choice.ranked.is_sorted_by_key(order),
            "the cheapest does not come first",
        );
    }
    faults
}

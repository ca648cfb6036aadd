use super::*;
use crate::protocol::Price;
use crate::protocol::record::{Outcome, Past};

const NOW: UnixSecs = UnixSecs::new(1_795_210_000);

fn key(first: u8) -> PublicKey {
    PublicKey::from_byte_array([first; 32])
}

const fn channel(of: u8) -> EventId {
    EventId::from_byte_array([of; 32])
}

/// An offer by `key(by)`, heard just now, in channel 1, at `msats` per request.
fn offer(by: u8, msats: u64) -> Offer {
    Offer {
        provider: key(by),
        name: String::new(),
        channel: Some(channel(1)),
        relays: Vec::new(),
        price: Some(Price::per_request(Msat::new(msats))),
        models: vec!["echo".into()],
        network: Some(Network::Regtest),
        features: BTreeSet::new(),
        at: NOW,
        expires_at: None,
        source: OfferSource::Listing,
        event: None,
    }
}

fn unpriced(by: u8) -> Offer {
    Offer {
        price: None,
        ..offer(by, 0)
    }
}

fn policy() -> Policy {
    Policy::new(key(0xff), 500)
}

fn headroom(msats: u64) -> Option<Headroom> {
    Some(Headroom {
        most: Msat::new(msats),
        limit: "per_job_limit_sats".into(),
    })
}

fn ranked(offers: &[Offer], policy: &Policy) -> Vec<u8> {
    let choice = choose(offers.to_vec(), policy, &History::new(), NOW);
    let first_byte = |offer: &Offer| offer.provider.to_bytes()[0];
    choice.ranked.iter().map(first_byte).collect()
}

fn word(offer: &Offer, policy: &Policy) -> Option<&'static str> {
    left_out(offer, policy, &History::new(), NOW).map(|reason| reason.as_str())
}

#[test]
fn the_cheapest_for_this_job_comes_first_and_the_unpriced_last() {
    let by_tokens = Offer {
        price: Some(Price {
            per_request: Msat::ZERO,
            per_1k_tokens: Msat::new(8_000),
        }),
        ..offer(4, 0)
    };
    let offers = [unpriced(1), offer(2, 5_000), offer(3, 3_000), by_tokens];
    assert_eq!(ranked(&offers, &policy()), [3, 4, 2, 1]);
    let longer = Policy::new(key(0xff), 1_000);
    assert_eq!(ranked(&offers, &longer), [3, 2, 4, 1]);
}

#[test]
fn of_equal_prices_the_newer_wins_then_the_lower_key_in_any_input_order() {
    let mut older = offer(1, 10);
    older.at = NOW.minus(1);
    let mut offers = [older, offer(3, 10), offer(2, 10)];
    for _ in 0..3 {
        assert_eq!(ranked(&offers, &policy()), [2, 3, 1]);
        offers.rotate_left(1);
    }
}

#[test]
fn first_keeps_the_order_of_hearing() {
    let first = Policy {
        select: Select::First,
        ..policy()
    };
    let offers = [offer(3, 30), unpriced(2), offer(1, 10)];
    assert_eq!(ranked(&offers, &first), [3, 2, 1]);
}

#[test]
fn a_provider_is_taken_by_key_and_never_by_price() {
    let by_key = |pattern: &str| Policy {
        select: Select::Provider(pattern.parse().unwrap()),
        ..policy()
    };
    let offers = [offer(0xaa, 10), offer(0xbb, 99)];
    assert_eq!(ranked(&offers, &by_key("bbbbbbbb")), [0xbb]);
    assert_eq!(ranked(&offers, &by_key("BBBBBBBBBB")), [0xbb]);
    let none = choose(offers.to_vec(), &by_key("cccccccc"), &History::new(), NOW);
    assert_eq!(
        none.verdict(),
        Verdict::NoProvider(
            "2 providers found, none matches: 2 with a key other than cccccccc".into()
        )
    );
}

#[test]
fn a_prefix_that_fits_two_keys_chooses_neither() {
    let mut twin = [0xaa; 32];
    twin[31] = 0;
    let twin = Offer {
        provider: PublicKey::from_byte_array(twin),
        ..offer(0, 1)
    };
    // The twin can't be afforded, and still makes the prefix ambiguous.
    let policy = Policy {
        select: Select::Provider("aaaaaaaa".parse().unwrap()),
        max_price: Some(Msat::new(5)),
        ..policy()
    };
    let offers = vec![
        offer(0xaa, 2),
        offer(0xbb, 1),
        Offer {
            price: None,
            ..twin
        },
    ];
    let choice = choose(offers, &policy, &History::new(), NOW);
    assert!(choice.ranked.is_empty());
    let Verdict::Ambiguous(text) = choice.verdict() else {
        panic!("{:?}", choice.verdict());
    };
    assert!(
        text.contains(&key(0xaa).to_hex()) && !text.contains(&key(0xbb).to_hex()),
        "{text}"
    );

    // One key in two channels is no ambiguity.
    let elsewhere = Offer {
        channel: Some(channel(2)),
        ..offer(0xaa, 3)
    };
    assert_eq!(ranked(&[offer(0xaa, 2), elsewhere], &policy), [0xaa, 0xaa]);
}

#[test]
fn each_cause_has_its_word() {
    let with = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        policy
    };
    let plain = offer(1, 10_000);
    assert_eq!(word(&plain, &policy()), None);
    for (expected, policy) in [
        ("own", with(&|p| p.own = key(1))),
        (
            "denied",
            with(&|p| (p.allow, p.deny) = (vec![key(1)], vec![key(1)])),
        ),
        ("not_allowed", with(&|p| p.allow = vec![key(2)])),
        ("key", with(&|p| p.select = Select::Provider(key(2).into()))),
        ("network", with(&|p| p.network = Some(Network::Mainnet))),
        (
            "other_channel",
            with(&|p| p.only_channel = Some(channel(2))),
        ),
        ("model", with(&|p| p.model = Some("llama3".into()))),
        (
            "feature",
            with(&|p| p.needs = BTreeSet::from([Feature::HoldInvoice])),
        ),
        ("price", with(&|p| p.max_price = Some(Msat::new(9_999)))),
        ("budget", with(&|p| p.headroom = headroom(9_999))),
    ] {
        assert_eq!(word(&plain, &policy), Some(expected));
        let reason = left_out(&plain, &policy, &History::new(), NOW).unwrap();
        assert!(!reason.to_string().is_empty());
    }
    let homeless = Offer {
        channel: None,
        ..plain.clone()
    };
    assert_eq!(word(&homeless, &policy()), None);
    assert_eq!(
        word(&homeless, &with(&|p| p.needs_channel = true)),
        Some("no_channel")
    );
    let only = with(&|p| p.only_channel = Some(channel(1)));
    assert_eq!(word(&homeless, &only), Some("no_channel"));
    assert_eq!(word(&plain, &only), None);
}

#[test]
fn a_price_at_the_limit_fits() {
    let exact = Policy {
        max_price: Some(Msat::new(10_000)),
        headroom: headroom(10_000),
        ..policy()
    };
    assert_eq!(word(&offer(1, 10_000), &exact), None);
    assert_eq!(word(&offer(1, 10_001), &exact), Some("price"));
}

#[test]
fn an_unknown_price_or_network_is_for_the_invoice_to_tell() {
    let strict = Policy {
        max_price: Some(Msat::new(1)),
        headroom: headroom(1),
        network: Some(Network::Mainnet),
        ..policy()
    };
    let silent = Offer {
        network: None,
        ..unpriced(1)
    };
    assert_eq!(word(&silent, &strict), None);
    // With nothing left to spend there is nothing to ask for.
    let broke = Policy {
        headroom: headroom(0),
        ..policy()
    };
    assert_eq!(word(&silent, &broke), Some("budget"));
    assert_eq!(word(&offer(1, 0), &broke), None);
}

#[test]
fn more_money_than_there_is_is_too_much_for_anybody() {
    assert_eq!(word(&offer(1, u64::MAX), &policy()), Some("price"));
    assert_eq!(
        word(&offer(1, Msat::MAX.get() + 1), &policy()),
        Some("price")
    );
    assert_eq!(word(&offer(1, Msat::MAX.get()), &policy()), None);
}

#[test]
fn what_is_old_expired_or_from_the_future_is_not_believed() {
    let at = |source, at| Offer {
        source,
        at,
        ..offer(1, 1)
    };
    use OfferSource::{Announcement, Listing};
    for (offer, expected) in [
        (at(Announcement, NOW.minus(300)), None),
        (at(Announcement, NOW.minus(301)), Some("stale")),
        (at(Listing, NOW.minus(301)), None),
        (at(Listing, NOW.minus(7 * 86_400)), None),
        (at(Listing, NOW.minus(7 * 86_400 + 1)), Some("stale")),
        (at(Listing, NOW.plus(900)), None),
        (at(Listing, NOW.plus(901)), Some("stale")),
        (at(Announcement, NOW.plus(901)), Some("stale")),
    ] {
        assert_eq!(word(&offer, &policy()), expected, "{offer:?}");
    }
    let until = |end, at| Offer {
        expires_at: Some(end),
        at,
        ..offer(1, 1)
    };
    let long_ago = NOW.minus(90 * 86_400);
    assert_eq!(word(&until(NOW.plus(1), long_ago), &policy()), None);
    assert_eq!(word(&until(NOW, NOW), &policy()), Some("expired"));
}

fn verdict(offers: &[Offer], policy: &Policy) -> Verdict {
    choose(offers.to_vec(), policy, &History::new(), NOW).verdict()
}

#[test]
fn no_provider_is_explained_with_counts_and_the_nearest_miss() {
    let none = "no provider found";
    assert_eq!(verdict(&[], &policy()), Verdict::NoProvider(none.into()));

    let picky = Policy {
        max_price: Some(Msat::new(5_000)),
        model: Some("llama3".into()),
        ..policy()
    };
    let llama = |by, msats| Offer {
        models: vec!["llama3".into()],
        ..offer(by, msats)
    };
    let other = Offer {
        models: vec!["mistral".into(), "llama3.2".into()],
        ..offer(3, 1)
    };
    assert_eq!(
        verdict(&[other, llama(1, 12_000), llama(2, 10_000)], &picky),
        Verdict::NoProvider(
            "3 providers found, none matches: \
             2 too expensive (cheapest asks 10 sats, --max-price is 5 sats), \
             1 without model llama3 (one offers llama3.2)"
                .into()
        )
    );

    let elsewhere = Policy {
        network: Some(Network::Mainnet),
        ..policy()
    };
    assert_eq!(
        verdict(&[offer(1, 1)], &elsewhere),
        Verdict::NoProvider("1 provider found, none matches: 1 not on mainnet (regtest)".into())
    );
}

#[test]
fn a_provider_in_two_channels_is_counted_once() {
    let policy = Policy {
        deny: vec![key(1)],
        ..policy()
    };
    let elsewhere = Offer {
        channel: None,
        ..offer(1, 1)
    };
    assert_eq!(
        verdict(&[offer(1, 1), elsewhere], &policy),
        Verdict::NoProvider("1 provider found, none matches: 1 on the deny list".into())
    );
}

#[test]
fn budget_is_the_verdict_when_only_the_owners_limits_rule_out_what_matches() {
    let poor = Policy {
        headroom: headroom(5_000),
        deny: vec![key(2)],
        ..policy()
    };
    assert_eq!(
        verdict(&[offer(1, 10_000), offer(2, 1)], &poor),
        Verdict::Budget(
            "2 providers found, none within budget: \
             1 over budget (cheapest asks 10 sats, per_job_limit_sats leaves 5 sats), \
             1 on the deny list"
                .into()
        )
    );
    assert_eq!(
        verdict(&[offer(1, 10_000), offer(3, 1)], &poor),
        Verdict::Ok
    );
    // What the buyer does not want to pay is no matter of the budget.
    let both = Policy {
        max_price: Some(Msat::new(4_000)),
        ..poor
    };
    assert!(matches!(
        verdict(&[offer(1, 10_000)], &both),
        Verdict::NoProvider(_)
    ));
}

/// What `deliveries` jobs at `msats`, and then `thefts`, leave behind.
fn record(msats: u64, deliveries: usize, thefts: usize) -> Record {
    let past = |outcome| Past {
        at: NOW,
        outcome,
        price: Msat::new(msats),
        listed: None,
        first_token_ms: None,
    };
    let mut recent = vec![past(Outcome::Undelivered); thefts];
    recent.extend(vec![past(Outcome::Delivered); deliveries]);
    Record {
        counts: [(Outcome::Delivered, 1)].into(),
        recent,
    }
}

fn best_of(offers: &[Offer], history: &History) -> Vec<u8> {
    let best = Policy {
        select: Select::Best,
        ..policy()
    };
    let choice = choose(offers.to_vec(), &best, history, NOW);
    let first_byte = |offer: &Offer| offer.provider.to_bytes()[0];
    choice.ranked.iter().map(first_byte).collect()
}

#[test]
fn best_takes_the_good_before_strangers_and_strangers_before_the_bad() {
    let history: History = [
        (key(1), record(10_000, 0, 1)),
        (key(3), record(10_000, 5, 0)),
        (key(4), record(10_000, 1, 0)),
    ]
    .into();
    let offers: Vec<Offer> = (1..=4).map(|by| offer(by, 10_000)).collect();
    assert_eq!(best_of(&offers, &history), [3, 4, 2, 1]);
    // Whoever took money for nothing is last at any price, and whoever names none before it.
    let offers = [offer(1, 1), unpriced(2), offer(5, 500_000)];
    assert_eq!(best_of(&offers, &history), [5, 2, 1]);
    // Among the unpriced, too, the record decides; among equals the price, then as ever.
    assert_eq!(best_of(&[unpriced(2), unpriced(3)], &history), [3, 2]);
    assert_eq!(
        best_of(&[offer(6, 9), offer(5, 9), offer(7, 8)], &history),
        [7, 5, 6]
    );
}

#[test]
fn best_does_not_pay_any_price_for_a_better_record() {
    let history: History = [
        (key(1), record(100_000, 50, 0)),
        (key(2), record(100_000, 10, 0)),
    ]
    .into();
    // A proven provider before a stranger who asks half, not before one who asks a tenth.
    assert_eq!(
        best_of(&[offer(1, 100_000), offer(3, 50_000)], &history),
        [1, 3]
    );
    assert_eq!(
        best_of(&[offer(1, 100_000), offer(3, 10_000)], &history),
        [3, 1]
    );
    // Fifty deliveries are hardly better than ten.
    assert_eq!(
        best_of(&[offer(1, 110_000), offer(2, 100_000)], &history),
        [2, 1]
    );
    // A stranger who gives it away is no bargain beside an ordinary price.
    assert_eq!(best_of(&[offer(1, 10_000), offer(3, 0)], &history), [1, 3]);
}

#[test]
fn a_large_sum_goes_only_to_who_has_proven_worth_it() {
    let careful = Policy {
        unproven_limit: Some(Msat::new(20_000)),
        ..policy()
    };
    let history: History = [
        (key(1), record(50_000, 2, 0)),
        (key(2), record(1_000, 10, 0)),
        (key(3), record(50_000, 2, 1)),
    ]
    .into();
    let reason =
        |offer: &Offer| left_out(offer, &careful, &history, NOW).map(|reason| reason.as_str());
    let cap = |offer: &Offer| careful.invoice_cap(offer, &history, NOW).map(Msat::get);
    for by in 1..=4 {
        assert_eq!(reason(&offer(by, 20_000)), None);
    }
    let large = |by| reason(&offer(by, 50_000));
    assert_eq!(large(1), None);
    assert_eq!([large(2), large(3), large(4)], [Some("unproven"); 3]);
    // What lists no price is held to the limit when its invoice comes, unless it is proven for all that
    // could be asked.
    assert_eq!(reason(&unpriced(4)), None);
    assert_eq!(cap(&unpriced(4)), Some(20_000));
    assert_eq!(cap(&unpriced(1)), Some(20_000));
    let bounded = Policy {
        headroom: headroom(50_000),
        ..careful.clone()
    };
    assert_eq!(bounded.invoice_cap(&unpriced(1), &history, NOW), None);
    assert_eq!(cap(&offer(1, 50_000)), None);
    // Nothing at all outside of escrow.
    let nothing = Policy {
        unproven_limit: Some(Msat::ZERO),
        ..careful.clone()
    };
    let reason = |offer: &Offer| left_out(offer, &nothing, &history, NOW);
    assert!(reason(&offer(4, 1)).is_some() && reason(&unpriced(4)).is_some());

    // No matter of the budget, and the way out is named.
    let choice = choose(vec![offer(4, 50_000)], &careful, &history, NOW);
    assert_eq!(
        choice.verdict(),
        Verdict::NoProvider(
            "1 provider found, none matches: 1 without a good record (cheapest asks 50 sats, \
             unproven_limit_sats leaves them 20 sats: --htlc pays into escrow)"
                .into()
        )
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_offer() -> impl Strategy<Value = Offer> {
        let price = prop::option::of((0..4_u64, 0..3_u64));
        let network = prop::option::of(prop::sample::select(Network::ALL.to_vec()));
        let rest = (any::<bool>(), any::<bool>(), 0..700_u64);
        (0..5_u8, price, network, rest).prop_map(|(by, price, network, rest)| {
            let (in_channel, announced, age) = rest;
            Offer {
                price: price.map(|(request, tokens)| Price {
                    per_request: Msat::new(request),
                    per_1k_tokens: Msat::new(tokens),
                }),
                network,
                channel: in_channel.then(|| channel(1)),
                source: if announced {
                    OfferSource::Announcement
                } else {
                    OfferSource::Listing
                },
                at: NOW.minus(age),
                ..offer(by, 0)
            }
        })
    }

    proptest! {
        #[test]
        fn every_offer_is_ranked_or_left_out_and_the_order_of_hearing_does_not_matter(
            offers in prop::collection::vec(any_offer(), 0..12),
            most in prop::option::of(0..5_u64),
            select in prop::sample::select(vec![Select::Cheapest, Select::Best]),
            limit in prop::option::of(0..5_u64),
        ) {
            let history: History = [(key(1), record(2, 3, 0)), (key(2), record(2, 3, 2))].into();
            let policy = Policy {
                select,
                unproven_limit: limit.map(Msat::new),
                max_price: most.map(Msat::new),
                network: Some(Network::Regtest),
                needs_channel: true,
                deny: vec![key(3)],
                own: key(4),
                ..policy()
            };
            let choice = choose(offers.clone(), &policy, &history, NOW);
            prop_assert_eq!(choice.ranked.len() + choice.left_out.len(), offers.len());
            prop_assert_eq!(choice.ranked.is_empty(), choice.verdict() != Verdict::Ok);
            for offer in &choice.ranked {
                prop_assert_eq!(left_out(offer, &policy, &history, NOW), None);
            }
            let mut reversed = offers;
            reversed.reverse();
            let keys = |choice: &Choice| -> Vec<(PublicKey, UnixSecs, Option<Msat>)> {
                let key = |offer: &Offer| (offer.provider, offer.at, offer.expected_price(500));
                choice.ranked.iter().map(key).collect()
            };
            prop_assert_eq!(keys(&choose(reversed, &policy, &history, NOW)), keys(&choice));
        }
    }
}

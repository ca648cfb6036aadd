use super::*;
use crate::protocol::Price;

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
        ) {
            let policy = Policy {
                max_price: most.map(Msat::new),
                network: Some(Network::Regtest),
                needs_channel: true,
                deny: vec![key(3)],
                own: key(4),
                ..policy()
            };
            let choice = choose(offers.clone(), &policy, &History::new(), NOW);
            prop_assert_eq!(choice.ranked.len() + choice.left_out.len(), offers.len());
            prop_assert_eq!(choice.ranked.is_empty(), choice.verdict() != Verdict::Ok);
            for offer in &choice.ranked {
                prop_assert_eq!(left_out(offer, &policy, &History::new(), NOW), None);
            }
            let mut reversed = offers;
            reversed.reverse();
            let keys = |choice: &Choice| -> Vec<(PublicKey, UnixSecs, Option<Msat>)> {
                let key = |offer: &Offer| (offer.provider, offer.at, offer.expected_price(500));
                choice.ranked.iter().map(key).collect()
            };
            prop_assert_eq!(keys(&choose(reversed, &policy, &History::new(), NOW)), keys(&choice));
        }
    }
}

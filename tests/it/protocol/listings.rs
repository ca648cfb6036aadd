//! Listings and announcements: the deployed ones, ours, and those of strangers.

use std::collections::BTreeSet;

use agent_compute::protocol::listing::{self, ListingContent};
use agent_compute::protocol::message::AgentMessage;
use agent_compute::protocol::offer::{self, NotAnOffer};
use agent_compute::protocol::{Feature, Offer, OfferSource, Price, channel, codec};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{Event, EventBuilder, EventId, JsonUtil, Keys, Kind, Tag};

use super::{CHANNEL, DIRECT, FOREIGN, events, said, signed};

fn listings(capture: &str) -> Vec<Offer> {
    let of = |event: &Event| offer::from_listing(event).ok();
    events(capture).iter().filter_map(of).collect()
}

#[test]
fn captured_listings_are_read() {
    let deployed = listings(CHANNEL);
    assert_eq!(deployed.len(), 1);
    let offer = &deployed[0];
    assert_eq!(offer.name, "OpenAgents Compute Provider");
    assert_eq!(offer.price, Some(Price::per_request(Msat::new(10_000))));
    assert_eq!(offer.network, Some(Network::Regtest));
    assert_eq!(offer.models, ["mock:latest"]);
    assert_eq!(offer.relays, ["ws://127.0.0.1:7462"]);
    let channel = "2f103ab3314d686c4b2ce6dd5994af5dac234df42e6a7cae1e477871fed0d2ba";
    assert_eq!(offer.channel, Some(EventId::from_hex(channel).unwrap()));
    assert_eq!(offer.expires_at, None);
    assert!(offer.features.is_empty());

    // The later version has its tags in another order.
    let later = listings(DIRECT);
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].price, offer.price);
    assert!(later[0].channel.is_some());

    // NDK writes the amount as a number, nostr-dvm as digits; both mean millisatoshi.
    let foreign = listings(FOREIGN);
    let names: Vec<&str> = foreign.iter().map(|offer| offer.name.as_str()).collect();
    assert_eq!(names, ["ndk-provider", "nostr-dvm text"]);
    for offer in &foreign {
        assert_eq!(offer.price, Some(Price::per_request(Msat::new(5_000))));
        assert_eq!((offer.network, offer.channel), (None, None));
    }
}

#[test]
fn a_captured_announcement_is_read() {
    for capture in [CHANNEL, DIRECT] {
        let all = events(capture);
        let announced: Vec<Offer> = all
            .iter()
            .filter(|event| event.kind == Kind::ChannelMessage)
            .filter_map(|event| match said(event) {
                AgentMessage::ServiceAnnouncement(said) => {
                    let channel = channel::channel_of(event).unwrap();
                    Some(offer::from_announcement(event, &said, channel).unwrap())
                }
                _ => None,
            })
            .collect();
        let listed = &listings(capture)[0];
        assert_eq!(announced.len(), 1);
        let offer = &announced[0];
        assert_eq!(offer.source, OfferSource::Announcement);
        assert_eq!(offer.provider, listed.provider);
        assert_eq!(offer.channel, listed.channel);
        assert_eq!(offer.price, listed.price);
        assert_eq!(offer.models, listed.models);
        assert_eq!(offer.network, listed.network);
    }
}

fn content() -> ListingContent {
    ListingContent {
        name: "Ada's \"GPU\"".into(),
        about: "Text, by the word".into(),
        channel: Some(EventId::from_byte_array([0x2f; 32])),
        relays: vec!["wss://a.example".into(), "wss://b.example".into()],
        price: Price {
            per_request: Msat::new(10_000),
            per_1k_tokens: Msat::new(250),
        },
        models: vec!["llama3".into(), "echo".into()],
        network: Network::Regtest,
        features: BTreeSet::from([Feature::Stream, Feature::Nip44]),
        expires_at: Some(UnixSecs::new(1_795_211_000)),
    }
}

fn tags(event: &Event) -> Vec<Vec<String>> {
    event
        .tags
        .iter()
        .map(|tag| tag.as_slice().to_vec())
        .collect()
}

#[test]
fn our_listing_has_the_deployed_tags_first_and_in_their_order() {
    let event = signed(listing::listing(&content()), 1);
    let channel = "2f".repeat(32);
    let expected: Vec<Vec<&str>> = vec![
        vec!["handler", "compute_provider"],
        vec!["capability", "text-generation"],
        vec!["price", "10000", "per-request", "msats"],
        vec!["channel", &channel],
        vec!["relay", "wss://a.example"],
        vec!["relay", "wss://b.example"],
        vec!["network", "regtest"],
        vec!["model", "llama3"],
        vec!["model", "echo"],
        vec!["price", "250", "per-1k-tokens", "msats"],
        vec!["d", "agent-compute"],
        vec!["k", "5050"],
        vec!["feature", "nip44"],
        vec!["feature", "stream"],
        vec!["expiration", "1795211000"],
    ];
    assert_eq!(tags(&event), expected);
    assert_eq!(
        event.content,
        concat!(
            r#"{"name":"Ada's \"GPU\"","description":"Text, by the word","about":"Text, by the word","#,
            r#""nip90Params":{"model":{"required":false,"values":["llama3","echo"]},"#,
            r#""max_tokens":{"required":false,"values":[]}},"encryptionSupported":true}"#
        )
    );
    assert_eq!(event.kind, Kind::from(31_990));

    // The part that deployed customers know is what a deployed provider would have written.
    let deployed = events(CHANNEL);
    let deployed = deployed
        .iter()
        .find(|event| event.kind == Kind::from(31_990))
        .unwrap();
    let names = |tags: Vec<Vec<String>>| -> Vec<String> {
        let mut names: Vec<String> = tags.into_iter().map(|tag| tag[0].clone()).collect();
        names.dedup();
        names
    };
    let theirs = names(tags(deployed));
    assert_eq!(names(tags(&event))[..theirs.len()], theirs);
}

#[test]
fn our_listing_and_announcement_read_back() {
    let said = content();
    let event = signed(listing::listing(&said), 1_795_210_000);
    let read = offer::from_listing(&event).unwrap();
    let expected = Offer {
        provider: event.pubkey,
        name: said.name.clone(),
        channel: said.channel,
        relays: said.relays.clone(),
        price: Some(said.price),
        models: said.models.clone(),
        network: Some(said.network),
        features: said.features.clone(),
        at: UnixSecs::new(1_795_210_000),
        expires_at: said.expires_at,
        source: OfferSource::Listing,
        event: Some(event.id),
    };
    assert_eq!(read, expected);

    let message = listing::announcement(&said, event.pubkey, "");
    let channel = said.channel.unwrap();
    let announced = offer::from_announcement(&event, &message, channel).unwrap();
    let expected = Offer {
        name: String::new(),
        relays: Vec::new(),
        expires_at: None,
        source: OfferSource::Announcement,
        event: Some(event.id),
        ..expected
    };
    assert_eq!(announced, expected);
}

#[test]
fn a_withdrawn_listing_is_gone() {
    let keys = Keys::generate();
    let last_words = [EventId::from_byte_array([7; 32])];
    let now = UnixSecs::new(1_795_210_000);
    let withdrawal = listing::withdraw(keys.public_key(), &last_words, now.minus(60), now);
    let times: Vec<UnixSecs> = withdrawal.iter().map(|(_, at)| *at).collect();
    assert_eq!(times, [now, now, now]);
    let events: Vec<Event> = withdrawal
        .into_iter()
        .map(|(event, at)| signed(event, at.get()))
        .collect();

    assert_eq!(offer::from_listing(&events[0]), Err(NotAnOffer::Withdrawn));
    assert_eq!(events[0].tags.identifier(), Some("agent-compute"));
    let address = format!("31990:{}:agent-compute", keys.public_key().to_hex());
    let pair = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    assert_eq!(tags(&events[1]), [pair("a", &address), pair("k", "31990")]);
    let announced = "07".repeat(32);
    assert_eq!(tags(&events[2]), [pair("e", &announced), pair("k", "42")]);
    let deletions = events[1..].iter();
    assert!(
        deletions
            .map(|event| event.kind)
            .all(|kind| kind == Kind::EventDeletion)
    );
}

#[test]
fn a_withdrawal_within_the_second_of_the_listing_comes_after_it() {
    let (key, now) = (Keys::generate().public_key(), UnixSecs::new(1_795_210_000));
    let withdrawal = listing::withdraw(key, &[], now, now);
    let times: Vec<UnixSecs> = withdrawal.iter().map(|(_, at)| *at).collect();
    assert_eq!(times, [now.plus(1), now.plus(1)]);
}

#[test]
fn a_provider_of_any_size_writes_what_can_be_sent_and_reads_back_the_same() {
    let large = ListingContent {
        name: "é".repeat(10_000),
        about: "é".repeat(100_000),
        models: (0..5_000).map(|n| format!("{n:0>100}")).collect(),
        ..content()
    };
    let event = signed(listing::listing(&large), 1);
    assert!(event.as_json().len() < 64 * 1024);
    let read = offer::from_listing(&event).unwrap();
    let said = listing::announcement(&large, event.pubkey, "");
    assert!(codec::encode(&AgentMessage::ServiceAnnouncement(said.clone())).is_ok());
    assert_eq!((read.models.len(), read.name.len()), (81, 256));
    assert_eq!(read.models, said.models);
}

/// A listing with these tags and this content.
fn written(tags: &[&[&str]], content: &str) -> Event {
    let tags = tags
        .iter()
        .map(|tag| Tag::parse(tag.iter().copied()).unwrap());
    signed(EventBuilder::new(Kind::from(31_990), content).tags(tags), 1)
}

#[test]
fn a_price_is_known_only_if_it_was_said_in_msats() {
    let sats = |per_request, per_1k| {
        Some(Price {
            per_request: Msat::new(per_request),
            per_1k_tokens: Msat::new(per_1k),
        })
    };
    let per_request: &[&str] = &["price", "7", "per-request", "msats"];
    for (price_tags, expected) in [
        (&[per_request] as &[&[&str]], sats(7, 0)),
        (&[&["price", "0", "per-request", "msats"]], sats(0, 0)),
        (
            &[per_request, &["price", "3", "per-1k-tokens", "msats"]],
            sats(7, 3),
        ),
        (
            &[&["price", "3", "per-1k-tokens", "msats"], per_request],
            sats(7, 3),
        ),
        (
            &[per_request, &["price", "9", "per-request", "msats"]],
            sats(7, 0),
        ),
        (
            &[per_request, &["price", "9", "per-hour", "msats"]],
            sats(7, 0),
        ),
        (&[], None),
        (&[&["price"]], None),
        (&[&["price", "7"]], None),
        (&[&["price", "7", "per-request"]], None),
        (&[&["price", "7", "per-request", "sats"]], None),
        (&[&["price", "7", "per-request", "sats"], per_request], None),
        (&[&["price", "", "per-request", "msats"]], None),
        (&[&["price", "-7", "per-request", "msats"]], None),
        (&[&["price", "+7", "per-request", "msats"]], None),
        (&[&["price", "7.0", "per-request", "msats"]], None),
        (&[&["price", "７", "per-request", "msats"]], None),
        (
            &[&["price", "18446744073709551616", "per-request", "msats"]],
            None,
        ),
        (&[&["price", "3", "per-1k-tokens", "msats"]], None),
        (
            &[per_request, &["price", "3", "per-1k-tokens", "sats"]],
            None,
        ),
        (
            &[per_request, &["price", "x", "per-1k-tokens", "msats"]],
            None,
        ),
    ] {
        let mut tags: Vec<&[&str]> = vec![&["handler", "compute_provider"]];
        tags.extend(price_tags);
        // What the content says of a price does not count beside the deployed form.
        let read = offer::from_listing(&written(&tags, r#"{"name":"n","amount":5}"#)).unwrap();
        assert_eq!(read.price, expected, "{price_tags:?}");
    }
    for (amount, expected) in [
        ("5000", sats(5000, 0)),
        ("\"5000\"", sats(5000, 0)),
        ("0", None),
        ("\"0\"", None),
        ("\"free\"", None),
        ("-5", None),
        ("5.5", None),
        ("null", None),
        ("[5]", None),
    ] {
        let content = format!(r#"{{"name":"n","amount":{amount}}}"#);
        let read = offer::from_listing(&written(&[&["k", "5050"]], &content)).unwrap();
        assert_eq!(read.price, expected, "{amount}");
    }
}

#[test]
fn only_text_generation_is_an_offer() {
    let handler: &[&str] = &["handler", "compute_provider"];
    let documented: &[&str] = &["handler_type", "compute_provider"];
    let (text, image): (&[&str], &[&str]) = (&["k", "5050"], &["k", "5100"]);
    let run: &[&str] = &["capability", "sandbox-run"];
    for (tags, expected) in [
        (&[handler] as &[&[&str]], Ok(())),
        (&[documented], Ok(())),
        (&[text], Ok(())),
        (&[image, text], Ok(())),
        (&[handler, run, &["capability", "text-generation"]], Ok(())),
        (&[], Err(NotAnOffer::NotCompute)),
        (&[&["handler", "skill"]], Err(NotAnOffer::NotCompute)),
        (&[&["k", "1"]], Err(NotAnOffer::NotCompute)),
        (&[image], Err(NotAnOffer::OtherKind)),
        (&[handler, image], Err(NotAnOffer::OtherKind)),
        (&[handler, run], Err(NotAnOffer::OtherKind)),
        (&[text, run], Err(NotAnOffer::OtherKind)),
        (
            &[handler, &["network", "bitcoin"]],
            Err(NotAnOffer::UnknownNetwork),
        ),
        (
            &[handler, &["status", "withdrawn"]],
            Err(NotAnOffer::Withdrawn),
        ),
    ] {
        let read = offer::from_listing(&written(tags, "")).map(|_| ());
        assert_eq!(read, expected, "{tags:?}");
    }
    let note = signed(EventBuilder::new(Kind::TextNote, ""), 1);
    assert_eq!(offer::from_listing(&note), Err(NotAnOffer::NotAListing));

    let mut said = listing::announcement(&content(), note.pubkey, "");
    said.kind = 5930;
    let channel = EventId::all_zeros();
    assert_eq!(
        offer::from_announcement(&note, &said, channel),
        Err(NotAnOffer::OtherKind)
    );
    said.kind = 5050;
    said.capabilities = vec!["sandbox-run".into()];
    assert_eq!(
        offer::from_announcement(&note, &said, channel),
        Err(NotAnOffer::OtherKind)
    );
    said.capabilities.clear();
    assert!(offer::from_announcement(&note, &said, channel).is_ok());
}

#[test]
fn the_author_is_the_provider_whatever_the_content_says() {
    let victim = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";
    let content = format!(r#"{{"name":"n","pubkey":"{victim}"}}"#);
    let event = written(&[&["k", "5050"], &["p", victim]], &content);
    assert_eq!(offer::from_listing(&event).unwrap().provider, event.pubkey);

    let mut said = listing::announcement(&self::content(), event.pubkey, "");
    said.provider_pubkey = Some(victim.into());
    let read = offer::from_announcement(&event, &said, EventId::all_zeros()).unwrap();
    assert_eq!(read.provider, event.pubkey);
}

#[test]
fn a_listing_of_any_size_makes_a_bounded_offer() {
    let long = "x".repeat(60_000);
    let models: Vec<String> = (0..5_000).map(|i| format!("model-{i}")).collect();
    let mut tags: Vec<Vec<&str>> = vec![
        vec!["k", "5050"],
        vec!["model", &long],
        vec!["relay", &long],
    ];
    tags.extend(models.iter().map(|model| vec!["model", model]));
    tags.extend((0..500).map(|_| vec!["relay", "wss://a.example"]));
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let name = format!(r#"{{"name":"{}"}}"#, "é".repeat(1_000));
    let read = offer::from_listing(&written(&tags, &name)).unwrap();
    assert_eq!(read.models.len(), offer::MAX_MODELS);
    assert_eq!(read.models[0], "model-0");
    assert_eq!(read.relays.len(), offer::MAX_RELAYS);
    assert_eq!(read.name, "é".repeat(128));

    // Content too large to look at counts as empty.
    let large = format!(r#"{{"name":"n","about":"{long}"}}"#);
    assert_eq!(
        offer::from_listing(&written(&[&["k", "5050"]], &large))
            .unwrap()
            .name,
        ""
    );
}

#[test]
fn a_generic_listing_names_its_models_in_its_parameters() {
    let content =
        r#"{"name":"n","nip90Params":{"model":{"required":false,"values":["a",1,"b",""]}}}"#;
    let read = offer::from_listing(&written(&[&["k", "5050"]], content)).unwrap();
    assert_eq!(read.models, ["a", "b"]);
}

//! Listings that lie, and listings without number.

use agent_compute::protocol::Price;
use agent_compute::protocol::message::{AgentMessage, ServiceAnnouncement};
use agent_compute::units::{Msat, Network};
use nostr::{Event, EventId, Keys, PublicKey, Timestamp};
use serde_json::Value;

use crate::cast::{Peer, now};
use crate::stage::{Books, Customer, PRICE, Stage};

/// What `providers` says of each key.
async fn seen(stage: &Stage, customer: &Customer) -> Vec<Value> {
    let ran = stage.run(customer, &["--json", "providers", "--discovery-time", "5"]);
    ran.await.expect(0).events()
}

fn of<'a>(seen: &'a [Value], key: &PublicKey) -> Option<&'a Value> {
    let key = key.to_hex();
    seen.iter().find(|one| one["provider"] == key.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_that_are_none_are_unknown_or_too_much_and_never_free() {
    let stage = Stage::new().await;
    let customer = stage.customer();
    let lists = [
        (&["price", "-1", "per-request", "msats"][..], Value::Null),
        (&["price", "NaN", "per-request", "msats"], Value::Null),
        (&["price", "1e3", "per-request", "msats"], Value::Null),
        (&["price", "", "per-request", "msats"], Value::Null),
        (&["price", "10", "per-request", "sats"], Value::Null),
        (
            &[
                "price",
                "99999999999999999999999999",
                "per-request",
                "msats",
            ],
            Value::Null,
        ),
        (&["price"], Value::Null),
        (
            &["price", "18446744073709551615", "per-request", "msats"],
            Value::Null,
        ),
        (&["price", "0", "per-request", "msats"], 0.into()),
    ];
    let mut cast = Vec::new();
    for (tag, price) in lists {
        let provider = Peer::unlisted(&stage).await;
        provider.list_with("", &[tag]).await;
        cast.push((provider, tag, price));
    }
    let seen = seen(&stage, &customer).await;
    for (provider, tag, price) in &cast {
        let line = of(&seen, &provider.key()).unwrap();
        assert_eq!(&line["price_msat"], price, "{tag:?}");
    }
    // More money than there is: nobody buys at that price, whatever the invoice says.
    let absurd = &cast[7].0;
    let ran = stage
        .buy(&customer, absurd.key(), &["--discovery-time", "1"])
        .await;
    ran.expect(3);
    // Listed at nothing and asking for something: refused.
    let (free, ..) = &mut cast[8];
    let (ran, ()) = tokio::join!(stage.buy(&customer, free.key(), &[]), async {
        let job = free.asked().await;
        let invoice = free.issue(1).await;
        free.quote(&job.id, &invoice.bolt11, 1).await;
    });
    ran.expect(11);
    // An unknown price is bounded by the owner's limits alone.
    stage
        .world
        .config(&customer.home, "[runway]\nper_job_limit_sats = 10\n");
    let (unknown, ..) = &mut cast[0];
    let (ran, ()) = tokio::join!(stage.buy(&customer, unknown.key(), &[]), async {
        let job = unknown.asked().await;
        let invoice = unknown.issue(PRICE + 1).await;
        unknown.quote(&job.id, &invoice.bolt11, PRICE + 1).await;
    });
    assert_eq!(ran.expect(4).last()["code"], "budget");
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_speaks_for_the_key_that_signed_it() {
    let stage = Stage::new().await;
    let customer = stage.customer();
    let honest = Peer::provider(&stage).await;
    let liar = Peer::unlisted(&stage).await;
    let content = format!(
        "{{\"name\":\"n\",\"description\":\"d\",\"pubkey\":\"{0}\",\"provider_pubkey\":\"{0}\"}}",
        honest.key().to_hex()
    );
    let key = honest.key().to_hex();
    let ours = customer.keys.public_key().to_hex();
    let tags = [
        &["p", &key][..],
        &["pubkey", &key],
        &["price", "1", "per-request", "msats"],
    ];
    liar.list_with(&content, &tags).await;
    let echo = Peer::unlisted(&stage).await;
    echo.list_with(&content.replace(&key, &ours), &[&["p", &ours]])
        .await;
    // Our own key sells, too: we don't buy from ourselves.
    let own = Peer::join(&stage, customer.keys.clone(), honest.channel).await;
    own.list(|listing| listing.price = Price::per_request(Msat::new(1)))
        .await;
    // In the channel, an announcement that names the honest one as who sells for less.
    let announcer = Peer::join(&stage, Keys::generate(), honest.channel).await;
    let lie = ServiceAnnouncement {
        kind: 5050,
        price_msats: Msat::new(2),
        spark_address: key.clone(),
        network: Network::Regtest,
        provider_pubkey: Some(key.clone()),
        models: vec![],
        capabilities: vec![],
        price_per_1k_msats: None,
        features: vec![],
    };
    announcer.say(AgentMessage::ServiceAnnouncement(lie)).await;

    let seen = seen(&stage, &customer).await;
    assert_eq!(of(&seen, &honest.key()).unwrap()["price_msat"], PRICE);
    assert_eq!(of(&seen, &liar.key()).unwrap()["price_msat"], 1);
    assert_eq!(of(&seen, &echo.key()).unwrap()["price_msat"], PRICE);
    assert_eq!(
        of(&seen, &customer.keys.public_key()).unwrap()["reason"],
        "own"
    );
    let channel = honest.channel.to_hex();
    let dry = [
        "--json",
        "--dry-run",
        "--prompt",
        "x",
        "--channel",
        &channel,
    ];
    let ran = stage.run(&customer, &dry).await.expect(0);
    assert_eq!(ran.last()["provider"], announcer.key().to_hex());
    let in_channel = ["--dry-run", "--channel", &channel];
    // As a listing is not read in a channel alone, the honest one is not known by the lie.
    let ran = stage.buy(&customer, honest.key(), &in_channel).await;
    ran.expect(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_listings_by_one_author_the_newer_price_binds() {
    let stage = Stage::new().await;
    let mut provider = Peer::unlisted(&stage).await;
    let list = async |price: &str, id: &str, age: u64| {
        let at = Timestamp::from_secs(now().minus(age).get());
        let honest = provider.listing_content();
        let event = agent_compute::protocol::listing::listing(&honest);
        let event = event.sign_with_keys(&provider.keys).unwrap();
        let mut tags: Vec<_> = event.tags.to_vec();
        tags.retain(|tag| !["d", "price"].contains(&tag.as_slice()[0].as_str()));
        tags.push(nostr::Tag::identifier(id));
        tags.push(nostr::Tag::parse(["price", price, "per-request", "msats"]).unwrap());
        let event = nostr::EventBuilder::new(event.kind, event.content)
            .tags(tags)
            .custom_created_at(at)
            .sign_with_keys(&provider.keys);
        provider.publish(&event.unwrap()).await;
    };
    list("5", "bait", 60).await;
    list("10000", "switch", 30).await;
    list("7", "older bait", 90).await;
    let customer = stage.customer();
    let seen = seen(&stage, &customer).await;
    let own: Vec<_> = seen
        .iter()
        .filter(|one| one["provider"] == provider.key().to_hex().as_str())
        .collect();
    assert_eq!(own.len(), 1, "one offer per provider and channel");
    assert_eq!(own[0]["price_msat"], PRICE);
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &[]),
        provider.sell("sold")
    );
    ran.expect(0);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_expired_foreign_and_garbled_listings_are_left_out() {
    let stage = Stage::new().await;
    let customer = stage.customer();
    let mut cast = Vec::new();
    for tags in [
        &[&["expiration", "1"][..]][..],
        &[&["network", "mainnet"]],
        &[&["network", "bitcoin"]],
        &[&["channel", "not a channel"]],
        &[&["handler", "something"], &["k", "1"]],
        &[&["status", "withdrawn"]],
        &[&["capability", "image-generation"]],
    ] {
        let provider = Peer::unlisted(&stage).await;
        provider.list_with("", tags).await;
        cast.push(provider);
    }
    for provider in &cast {
        let quick = ["--discovery-time", "1"];
        let ran = stage.buy(&customer, provider.key(), &quick).await;
        assert_eq!(ran.expect(3).last()["code"], "no_provider");
    }
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_can_neither_paint_the_terminal_nor_add_lines_to_it() {
    let stage = Stage::new().await;
    let customer = stage.customer();
    let provider = Peer::unlisted(&stage).await;
    provider
        .list(|listing| {
            listing.name = "\u{1b}]0;owned\u{7}Best\u{202e}\r\n0000  1 sat  regtest  cheap".into();
            listing.models = vec!["\u{1b}[2Jm\nnext".into()];
        })
        .await;
    let plain = |text: &str| {
        let bad = |c: &char| (c.is_control() && *c != '\n') || *c == '\u{202e}';
        assert_eq!(text.chars().find(bad), None, "{text:?}");
    };
    let ran = stage
        .run(&customer, &["providers", "--discovery-time", "2"])
        .await
        .expect(0);
    plain(&ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let ran = stage
        .run(&customer, &["--dry-run", "--prompt", "x"])
        .await
        .expect(0);
    plain(&ran.stdout);
    plain(&ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let ran = stage.run(
        &customer,
        &["--model", "none", "--discovery-time", "1", "--prompt", "x"],
    );
    let ran = ran.await.expect(3);
    plain(&ran.stderr);
}

/// Listings that are none of any use, newer than the honest one.
fn junk(keys: &[Keys], count: usize, template: &Peer) -> Vec<Event> {
    let channel = EventId::from_byte_array([3; 32]).to_hex();
    let at = Timestamp::from_secs(now().plus(1).get());
    (0..count)
        .map(|n| {
            let mut content = template.listing_content();
            content.name = format!("junk {n}");
            match n % 4 {
                0 => content.channel = None,
                1 => content.network = Network::Mainnet,
                2 => content.price = Price::per_request(Msat::new(u64::MAX)),
                _ => content.models = (0..100).map(|m| format!("{channel}{m}")).collect(),
            }
            if n % 4 == 3 {
                content.channel = None;
            }
            let listing = agent_compute::protocol::listing::listing(&content);
            let mut tags = listing
                .clone()
                .sign_with_keys(&keys[0])
                .unwrap()
                .tags
                .to_vec();
            tags.retain(|tag| tag.as_slice()[0] != "d");
            tags.push(nostr::Tag::identifier(n.to_string()));
            let content = format!("{{\"name\":\"junk {n}\",\"description\":\"j\"}}");
            nostr::EventBuilder::new(nostr::Kind::from(31_990), content)
                .tags(tags)
                .custom_created_at(at)
                .sign_with_keys(&keys[n % keys.len()])
                .unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_honest_one_is_bought_from_among_five_thousand_junk_listings() {
    let stage = Stage::new().await;
    let mut honest = Peer::provider(&stage).await;
    let one = [Keys::generate()];
    let many: Vec<Keys> = (0..250).map(|_| Keys::generate()).collect();
    let mut events = junk(&one, 2500, &honest);
    events.extend(junk(&many, 2500, &honest));
    honest.publish_all(&events).await;
    let customer = stage.customer();
    let args = ["--json", "--discovery-time", "30", "--prompt", "x"];
    let started = std::time::Instant::now();
    let (ran, ()) = tokio::join!(stage.run(&customer, &args), honest.sell("found"));
    eprintln!("bought among 5,000 in {:?}", started.elapsed());
    assert_eq!(ran.expect(0).last()["provider"], honest.key().to_hex());
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

//! Discovery and choice over real relays.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::discovery::{DiscoveryRequest, Found, discover};
use agent_compute::market::{self, Policy, Verdict};
use agent_compute::protocol::listing::{self, ListingContent};
use agent_compute::protocol::message::AgentMessage;
use agent_compute::protocol::{Offer, Price, channel, codec};
use agent_compute::relay::{
    EmbeddedRelay, PoolOptions, RelayError, RelayPoolSession, RelaySession,
};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{Event, EventBuilder, EventId, JsonUtil, Keys, Kind, RelayUrl, Tag, Timestamp};

/// What a discovery may take that has no reason to use all its time.
const SOON: Duration = Duration::from_secs(20);
/// More than that, so that a discovery which waits out its time fails its test.
const LONG: Duration = Duration::from_secs(600);

async fn relay() -> EmbeddedRelay {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    EmbeddedRelay::listen(loopback).await.unwrap()
}

fn session(urls: &[RelayUrl]) -> Arc<RelayPoolSession> {
    RelayPoolSession::connect(urls, PoolOptions::default()).unwrap()
}

/// An address at which nobody listens.
async fn nobody() -> RelayUrl {
    let relay = relay().await;
    let url = relay.url();
    relay.shutdown().await;
    url
}

/// A provider that publishes what it is told to.
struct Provider {
    keys: Keys,
    session: Arc<RelayPoolSession>,
    content: ListingContent,
}

impl Provider {
    fn at(urls: &[RelayUrl], msats: u64) -> Self {
        Self {
            keys: Keys::generate(),
            session: session(urls),
            content: ListingContent {
                name: format!("asks {msats}"),
                about: String::new(),
                channel: Some(EventId::from_byte_array([1; 32])),
                relays: urls.iter().map(ToString::to_string).collect(),
                price: Price::per_request(Msat::new(msats)),
                models: vec!["echo".into()],
                network: Network::Regtest,
                features: BTreeSet::new(),
                expires_at: None,
            },
        }
    }

    async fn publish(&self, at: UnixSecs, event: EventBuilder) -> Event {
        let event = event.custom_created_at(Timestamp::from_secs(at.get()));
        let event = event.sign_with_keys(&self.keys).unwrap();
        self.session.publish(&event, SOON).await.unwrap();
        event
    }

    async fn list(&self, at: UnixSecs) -> Event {
        self.publish(at, listing::listing(&self.content)).await
    }

    async fn announce(&self, at: UnixSecs) -> Event {
        let said = listing::announcement(&self.content, self.keys.public_key(), "");
        let text = codec::encode(&AgentMessage::ServiceAnnouncement(said)).unwrap();
        let channel = self.content.channel.unwrap();
        self.publish(at, channel::message(channel, "", text, None))
            .await
    }

    async fn withdraw(&self, announced: &Event, listed_at: UnixSecs, now: UnixSecs) {
        let key = self.keys.public_key();
        for (event, at) in listing::withdraw(key, &[announced.id], listed_at, now) {
            self.publish(at, event).await;
        }
    }
}

fn listings() -> DiscoveryRequest {
    DiscoveryRequest {
        listings: true,
        channel: None,
        provider: None,
        first: false,
        within: LONG,
    }
}

fn in_channel() -> DiscoveryRequest {
    DiscoveryRequest {
        listings: false,
        channel: Some(EventId::from_byte_array([1; 32])),
        ..listings()
    }
}

async fn find(
    urls: &[RelayUrl],
    request: &DiscoveryRequest,
    enough: impl Fn(&[Offer]) -> bool + Send,
) -> Result<Found, RelayError> {
    find_at(Clock::system(), urls, request, enough).await
}

async fn find_at(
    clock: Clock,
    urls: &[RelayUrl],
    request: &DiscoveryRequest,
    enough: impl Fn(&[Offer]) -> bool + Send,
) -> Result<Found, RelayError> {
    let session = session(urls);
    let found = discover(session.as_ref(), &clock, request, enough, |_| ());
    let found = tokio::time::timeout(SOON, found).await;
    session.close().await;
    found.unwrap()
}

fn some(offers: &[Offer]) -> bool {
    !offers.is_empty()
}

fn prices(found: &Found) -> Vec<u64> {
    let price = |offer: &Offer| offer.expected_price(0).unwrap().get();
    let mut prices: Vec<u64> = found.offers.iter().map(price).collect();
    prices.sort_unstable();
    prices
}

#[tokio::test]
async fn providers_on_different_relays_are_found_once_each() {
    let (here, there) = (relay().await, relay().await);
    let both = [here.url(), there.url()];
    let now = Clock::system().now();
    Provider::at(&both[..1], 10).list(now).await;
    Provider::at(&both[1..], 20).list(now).await;
    let everywhere = Provider::at(&both, 30);
    everywhere.list(now.minus(5)).await;
    everywhere.announce(now).await;

    let enough = |offers: &[Offer]| offers.len() == 3;
    let found = find(&both, &listings(), enough).await.unwrap();
    assert_eq!(prices(&found), [10, 20, 30]);
    assert_eq!((found.answered, found.failed.len()), (2, 0));

    let found = find(&both, &in_channel(), some).await.unwrap();
    assert_eq!(prices(&found), [30]);
    let merged = DiscoveryRequest {
        listings: true,
        ..in_channel()
    };
    let found = find(&both, &merged, enough).await.unwrap();
    assert_eq!(prices(&found), [10, 20, 30]);
}

#[tokio::test]
async fn a_provider_that_comes_later_is_found_when_it_comes() {
    let relay = relay().await;
    let urls = [relay.url()];
    let (early, late) = (Provider::at(&urls, 100), Provider::at(&urls, 5));
    let now = Clock::system().now();
    early.list(now).await;
    let cheap = |offers: &[Offer]| {
        let price = |offer: &Offer| offer.expected_price(0);
        offers
            .iter()
            .any(|offer| price(offer) < Some(Msat::new(10)))
    };
    let request = listings();
    let (found, _) = tokio::join!(find(&urls, &request, cheap), async {
        late.list(now).await;
    });
    assert_eq!(prices(&found.unwrap()), [5, 100]);
}

#[tokio::test]
async fn a_relay_that_is_down_is_reported_and_does_no_harm() {
    let relay = relay().await;
    let down = nobody().await;
    let urls = [relay.url(), down.clone()];
    Provider::at(&urls[..1], 10)
        .list(Clock::system().now())
        .await;
    let found = find(&urls, &listings(), some).await.unwrap();
    assert_eq!(prices(&found), [10]);
    assert_eq!(found.answered, 1);
    assert!(
        found.failed.iter().all(|failed| failed.url == down),
        "{found:?}"
    );

    let short = DiscoveryRequest {
        within: Duration::from_millis(300),
        ..listings()
    };
    let refused = find(&[down], &short, some).await.unwrap_err();
    assert!(matches!(refused, RelayError::Unreachable(_)), "{refused:?}");
}

#[tokio::test]
async fn a_provider_withdraws_and_may_come_back_at_once() {
    let relay = relay().await;
    let urls = [relay.url()];
    let provider = Provider::at(&urls, 10);
    let now = Clock::system().now();
    // The last announcement may be from this very second.
    let announced = provider.announce(now).await;
    provider.list(now.minus(10)).await;
    assert!(some(
        &find(&urls, &in_channel(), some).await.unwrap().offers
    ));

    provider.withdraw(&announced, now.minus(10), now).await;
    let either_way = |_: &[Offer]| true;
    for request in [listings(), in_channel()] {
        let found = find(&urls, &request, either_way).await.unwrap();
        assert!(found.offers.is_empty(), "{found:?}");
    }

    provider.list(now.plus(1)).await;
    assert_eq!(prices(&find(&urls, &listings(), some).await.unwrap()), [10]);
}

#[tokio::test]
async fn a_provider_is_found_behind_a_crowd_of_other_listings() {
    let relay = relay().await;
    let urls = [relay.url()];
    let now = Clock::system().now();
    let (provider, crowd) = (Provider::at(&urls, 10), Provider::at(&urls, 0));
    provider.list(now.minus(3_600)).await;
    for n in 0..620 {
        let tags = [
            Tag::identifier(n.to_string()),
            Tag::parse(["k", "30023"]).unwrap(),
        ];
        let other = EventBuilder::new(Kind::from(31_990), "{}").tags(tags);
        crowd.publish(now.minus(n), other).await;
    }
    assert_eq!(prices(&find(&urls, &listings(), some).await.unwrap()), [10]);
}

#[tokio::test]
async fn what_was_found_is_ranked_and_what_was_not_taken_is_explained() {
    let relay = relay().await;
    let urls = [relay.url()];
    let now = Clock::system().now();
    Provider::at(&urls, 20_000).list(now).await;
    Provider::at(&urls, 10_000).list(now).await;
    let mut elsewhere = Provider::at(&urls, 1_000);
    elsewhere.content.network = Network::Mainnet;
    elsewhere.list(now).await;

    let all = |offers: &[Offer]| offers.len() == 3;
    let found = find(&urls, &listings(), all).await.unwrap();
    let mut policy = Policy::new(Keys::generate().public_key(), 500);
    policy.network = Some(Network::Regtest);
    let choice = market::choose(found.offers.clone(), &policy, &market::History::new(), now);
    let ranked: Vec<&str> = choice
        .ranked
        .iter()
        .map(|offer| offer.name.as_str())
        .collect();
    assert_eq!(ranked, ["asks 10000", "asks 20000"]);

    policy.max_price = Some(Msat::new(5_000));
    let choice = market::choose(found.offers, &policy, &market::History::new(), now);
    let expected = "3 providers found, none matches: \
                    2 too expensive (cheapest asks 10 sats, --max-price is 5 sats), \
                    1 not on regtest (mainnet)";
    assert_eq!(choice.verdict(), Verdict::NoProvider(expected.into()));
}

#[tokio::test]
async fn a_deployed_provider_is_found_on_our_relay() {
    let relay = relay().await;
    let urls = [relay.url()];
    let capture = include_str!("../fixtures/captures/original-channel.ndjson");
    let mut events = capture.lines().map(|line| Event::from_json(line).unwrap());
    let listing = events.find(|event| event.kind == Kind::from(31_990));
    let listing = listing.unwrap();
    assert_eq!(listing.tags.identifier(), None);
    session(&urls).publish(&listing, SOON).await.unwrap();
    // A listing without an expiration counts for a week, and this one was captured.
    let then = Clock::fixed(UnixSecs::new(listing.created_at.as_secs()));
    let found = find_at(then, &urls, &listings(), some).await.unwrap();
    assert_eq!(found.offers[0].provider, listing.pubkey);
    assert_eq!(found.offers[0].name, "OpenAgents Compute Provider");
}

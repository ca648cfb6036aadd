use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nostr::filter::MatchEventOptions;
use nostr::{EventBuilder, Keys, RelayUrl};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::protocol::listing::{self, ListingContent};
use crate::protocol::message::AgentMessage;
use crate::protocol::{OfferSource, Price, codec};
use crate::relay::{Published, RelayState};
use crate::units::{Msat, Network};

const NOW: u64 = 1_795_210_000;

/// Relays in memory: what they have stored, newest first and capped as relays do, then the end of it,
/// then what comes later.
#[derive(Debug, Default)]
struct Relays {
    stored: Vec<Event>,
    later: Vec<Event>,
    /// Never says that the stored events are all in.
    is_mute: bool,
    is_down: bool,
    asked: AtomicUsize,
    /// Subscriptions stay open while these are held.
    held: Mutex<Vec<mpsc::Sender<Incoming>>>,
}

impl Relays {
    fn url() -> RelayUrl {
        RelayUrl::parse("ws://relay.example").unwrap()
    }
}

#[async_trait::async_trait]
impl RelaySession for Relays {
    fn relays(&self) -> Vec<RelayState> {
        vec![RelayState {
            url: Self::url(),
            connected: !self.is_down,
            connections: u64::from(!self.is_down),
            trouble: None,
        }]
    }

    async fn publish(&self, _: &Event, _: Duration) -> Result<Published, RelayError> {
        Err(RelayError::Closed)
    }

    async fn subscribe(&self, filter: Filter, _: Duration) -> Result<Subscription, RelayError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let matches = |event: &&Event| filter.match_event(event, MatchEventOptions::new());
        let mut stored: Vec<&Event> = self.stored.iter().filter(matches).collect();
        stored.sort_by_key(|event| std::cmp::Reverse(event.created_at));
        stored.truncate(filter.limit.unwrap_or(PAGE));
        let (to, incoming) = mpsc::channel(stored.len() + self.later.len() + 1);
        let send = |what| to.try_send(what).unwrap();
        let all = |event: &Event| send(Incoming::Event(Box::new(event.clone())));
        stored.into_iter().for_each(all);
        if !self.is_mute {
            let failed = Vec::new();
            let answered = usize::from(!self.is_down);
            send(Incoming::StoredDone { answered, failed });
        }
        if filter.until.is_none() {
            self.later.iter().filter(matches).for_each(all);
        }
        self.held.lock().unwrap().push(to);
        let ends = CancellationToken::new().drop_guard();
        Ok(Subscription::new(incoming, ends))
    }

    async fn close(&self) {}
}

fn channel_id(of: u8) -> EventId {
    EventId::from_byte_array([of; 32])
}

fn content(msats: u64) -> ListingContent {
    ListingContent {
        name: "provider".into(),
        about: String::new(),
        channel: Some(channel_id(1)),
        relays: Vec::new(),
        price: Price::per_request(Msat::new(msats)),
        models: vec!["echo".into()],
        network: Network::Regtest,
        features: BTreeSet::new(),
        expires_at: None,
    }
}

fn signed(by: &Keys, at: u64, builder: EventBuilder) -> Event {
    let at = Timestamp::from_secs(at);
    builder.custom_created_at(at).sign_with_keys(by).unwrap()
}

fn listed(by: &Keys, at: u64, msats: u64) -> Event {
    signed(by, at, listing::listing(&content(msats)))
}

fn announced(by: &Keys, at: u64, msats: u64, channel: EventId) -> Event {
    let said = listing::announcement(&content(msats), by.public_key(), "");
    let text = codec::encode(&AgentMessage::ServiceAnnouncement(said)).unwrap();
    signed(by, at, channel::message(channel, "", text, None))
}

/// Whole listings, a bound that no passing test reaches.
fn request() -> DiscoveryRequest {
    DiscoveryRequest {
        listings: true,
        channel: None,
        provider: None,
        first: false,
        within: Duration::from_secs(60),
    }
}

fn in_channel(of: u8) -> DiscoveryRequest {
    DiscoveryRequest {
        listings: false,
        channel: Some(channel_id(of)),
        ..request()
    }
}

async fn found(relays: &Relays, request: &DiscoveryRequest) -> Vec<Offer> {
    discovered(relays, request).await.unwrap().offers
}

async fn discovered(relays: &Relays, request: &DiscoveryRequest) -> Result<Found, RelayError> {
    let clock = Clock::fixed(UnixSecs::new(NOW));
    let any = |offers: &[Offer]| !offers.is_empty();
    discover(relays, &clock, request, any, |_| ()).await
}

/// The same, for relays on which there may be nothing: no need to wait for it to come.
async fn found_at_once(relays: &Relays, request: &DiscoveryRequest) -> Vec<Offer> {
    let clock = Clock::fixed(UnixSecs::new(NOW));
    let found = discover(relays, &clock, request, |_| true, |_| ()).await;
    found.unwrap().offers
}

fn prices(offers: &[Offer]) -> Vec<u64> {
    let msats = |offer: &Offer| offer.expected_price(0).map_or(u64::MAX, Msat::get);
    offers.iter().map(msats).collect()
}

#[tokio::test]
async fn the_newest_listing_counts_in_whatever_order_versions_come() {
    let (ada, bob) = (Keys::generate(), Keys::generate());
    let old = listed(&ada, NOW - 20, 10);
    let new = listed(&ada, NOW - 10, 20);
    let other = listed(&bob, NOW - 15, 30);
    for order in [[&old, &new, &other], [&new, &other, &old]] {
        let relays = Relays {
            stored: order.into_iter().cloned().collect(),
            ..Relays::default()
        };
        let mut prices = prices(&found(&relays, &request()).await);
        prices.sort_unstable();
        assert_eq!(prices, [20, 30]);
    }
}

#[tokio::test]
async fn of_two_listings_from_one_second_the_lower_id_counts_as_on_relays() {
    let ada = Keys::generate();
    let versions = [listed(&ada, NOW, 10), listed(&ada, NOW, 20)];
    let lower = versions.iter().min_by_key(|event| event.id).unwrap();
    let expected = offer_of(lower).price;
    for stored in [versions.to_vec(), versions.iter().rev().cloned().collect()] {
        let relays = Relays {
            stored,
            ..Relays::default()
        };
        assert_eq!(found(&relays, &request()).await[0].price, expected);
    }
}

fn offer_of(event: &Event) -> Offer {
    crate::protocol::offer::from_listing(event).unwrap()
}

#[tokio::test]
async fn a_listing_and_an_announcement_in_its_channel_are_one_offer() {
    let ada = Keys::generate();
    for (said_at, expected) in [(NOW - 5, 7), (NOW - 15, 10)] {
        let relays = Relays {
            stored: vec![
                listed(&ada, NOW - 10, 10),
                announced(&ada, said_at, 7, channel_id(1)),
            ],
            ..Relays::default()
        };
        let both = DiscoveryRequest {
            channel: Some(channel_id(1)),
            ..request()
        };
        let offers = found(&relays, &both).await;
        assert_eq!(prices(&offers), [expected]);
        assert_eq!(offers[0].name, "provider");
        assert_eq!(offers[0].source, OfferSource::Listing);
    }
}

#[tokio::test]
async fn an_announcement_keeps_an_offer_alive_whose_listing_ends() {
    let ada = Keys::generate();
    let short = ListingContent {
        expires_at: Some(UnixSecs::new(NOW - 1)),
        ..content(10)
    };
    let relays = Relays {
        stored: vec![
            signed(&ada, NOW - 100, listing::listing(&short)),
            announced(&ada, NOW - 50, 7, channel_id(1)),
        ],
        ..Relays::default()
    };
    let both = DiscoveryRequest {
        channel: Some(channel_id(1)),
        ..request()
    };
    let offers = found(&relays, &both).await;
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].expires_at, Some(UnixSecs::new(NOW + 250)));
}

#[tokio::test]
async fn a_withdrawn_listing_hides_older_ones_and_older_announcements() {
    let ada = Keys::generate();
    let (listed_at, now) = (UnixSecs::new(NOW - 20), UnixSecs::new(NOW - 5));
    let (emptied, at) = listing::withdraw(ada.public_key(), &[], listed_at, now).remove(0);
    let mut relays = Relays {
        stored: vec![
            signed(&ada, at.get(), emptied),
            listed(&ada, NOW - 20, 10),
            announced(&ada, NOW - 10, 10, channel_id(1)),
        ],
        ..Relays::default()
    };
    let both = DiscoveryRequest {
        channel: Some(channel_id(1)),
        ..request()
    };
    assert!(found_at_once(&relays, &both).await.is_empty());
    // Until it says something new.
    relays
        .stored
        .push(announced(&ada, NOW - 4, 20, channel_id(1)));
    assert_eq!(prices(&found(&relays, &both).await), [20]);
    relays.stored.push(listed(&ada, NOW - 3, 30));
    assert_eq!(prices(&found(&relays, &both).await), [30]);
}

#[tokio::test]
async fn a_newer_version_that_offers_nothing_hides_the_older() {
    let ada = Keys::generate();
    let nothing = EventBuilder::new(Kind::from(KIND_LISTING), "")
        .tag(nostr::Tag::identifier(listing::LISTING_ID));
    let relays = Relays {
        stored: vec![listed(&ada, NOW - 20, 10), signed(&ada, NOW - 10, nothing)],
        ..Relays::default()
    };
    assert!(found_at_once(&relays, &request()).await.is_empty());
}

#[tokio::test]
async fn only_the_channel_that_was_asked_for_is_heard() {
    let (ada, bob, eve) = (Keys::generate(), Keys::generate(), Keys::generate());
    let old = NOW - ANNOUNCEMENT_MAX_AGE_SECS - 1;
    let elsewhere = announced(&bob, NOW, 2, channel_id(2));
    let relays = Relays {
        stored: vec![
            announced(&ada, NOW, 1, channel_id(1)),
            elsewhere,
            announced(&eve, old, 3, channel_id(1)),
            listed(&eve, NOW, 4),
        ],
        ..Relays::default()
    };
    assert_eq!(prices(&found(&relays, &in_channel(1)).await), [1]);
    assert_eq!(prices(&found(&relays, &in_channel(2)).await), [2]);
    let both = DiscoveryRequest {
        listings: true,
        ..in_channel(2)
    };
    assert_eq!(prices(&found(&relays, &both).await), [2]);
}

#[tokio::test]
async fn a_provider_asked_for_by_key_is_found_however_old_its_listing() {
    let (ada, bob) = (Keys::generate(), Keys::generate());
    let long_ago = NOW - LISTING_MAX_AGE_SECS - 1;
    let relays = Relays {
        stored: vec![listed(&ada, long_ago, 1), listed(&bob, NOW, 2)],
        ..Relays::default()
    };
    let by_key = DiscoveryRequest {
        provider: Some(ada.public_key()),
        ..request()
    };
    assert_eq!(prices(&found(&relays, &by_key).await), [1]);
    assert_eq!(prices(&found(&relays, &request()).await), [2]);
}

#[tokio::test]
async fn what_is_dated_far_ahead_is_not_heard() {
    let ada = Keys::generate();
    let relays = Relays {
        stored: vec![
            listed(&ada, NOW + MAX_CLOCK_SKEW_SECS + 1, 1),
            listed(&ada, NOW + MAX_CLOCK_SKEW_SECS, 2),
        ],
        ..Relays::default()
    };
    assert_eq!(prices(&found(&relays, &request()).await), [2]);
}

#[tokio::test]
async fn it_waits_for_a_provider_that_comes_while_it_listens() {
    let (ada, bob) = (Keys::generate(), Keys::generate());
    let relays = Relays {
        stored: vec![listed(&ada, NOW - 9, 100)],
        later: vec![listed(&bob, NOW, 5)],
        ..Relays::default()
    };
    let clock = Clock::fixed(UnixSecs::new(NOW));
    let cheap = |offers: &[Offer]| prices(offers).iter().any(|price| *price < 10);
    let mut told = Vec::new();
    let tell = |offer: &Offer| told.extend(prices(std::slice::from_ref(offer)));
    let found = discover(&relays, &clock, &request(), cheap, tell)
        .await
        .unwrap();
    assert_eq!(prices(&found.offers), [100, 5]);
    assert_eq!(told, [100, 5]);
    assert_eq!(found.answered, 1);
}

#[tokio::test]
async fn the_first_acceptable_offer_ends_it_even_when_a_relay_stays_mute() {
    let (ada, bob) = (Keys::generate(), Keys::generate());
    let relays = Relays {
        stored: vec![listed(&ada, NOW, 1), listed(&bob, NOW - 1, 2)],
        is_mute: true,
        ..Relays::default()
    };
    let first = DiscoveryRequest {
        first: true,
        ..request()
    };
    assert_eq!(prices(&found(&relays, &first).await), [1]);
}

#[tokio::test]
async fn a_mute_relay_costs_no_more_than_the_time_allowed() {
    let ada = Keys::generate();
    let relays = Relays {
        stored: vec![listed(&ada, NOW, 1)],
        is_mute: true,
        ..Relays::default()
    };
    let short = DiscoveryRequest {
        within: Duration::from_millis(50),
        ..request()
    };
    let found = discovered(&relays, &short).await.unwrap();
    assert_eq!(prices(&found.offers), [1]);
    assert_eq!(found.answered, 0);
}

#[tokio::test]
async fn relays_that_are_all_down_are_an_error() {
    let relays = Relays {
        is_down: true,
        ..Relays::default()
    };
    let short = DiscoveryRequest {
        within: Duration::from_millis(50),
        ..request()
    };
    let refused = discovered(&relays, &short).await.unwrap_err();
    let RelayError::Unreachable(relays) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(relays[0].url, Relays::url());
}

#[tokio::test]
async fn a_session_that_closes_ends_it() {
    let relays = Relays::default();
    let request = request();
    let listening = found(&relays, &request);
    let closing = async {
        while relays.held.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        relays.held.lock().unwrap().clear();
    };
    let (offers, ()) = tokio::join!(listening, closing);
    assert!(offers.is_empty());
}

/// A listing of another program, as most of the kind are.
fn foreign(by: &Keys, at: u64, id: usize) -> Event {
    let tags = [
        nostr::Tag::identifier(id.to_string()),
        nostr::Tag::parse(["k", "1"]).unwrap(),
    ];
    let builder = EventBuilder::new(Kind::from(KIND_LISTING), "").tags(tags);
    signed(by, at, builder)
}

#[tokio::test]
async fn a_provider_behind_pages_of_other_listings_is_found() {
    let (ada, others) = (Keys::generate(), Keys::generate());
    let mut stored = vec![listed(&ada, NOW - 5_000, 1)];
    let count = 2 * PAGE + 10;
    stored.extend((0..count).map(|i| foreign(&others, NOW - i as u64, i)));
    let relays = Relays {
        stored,
        ..Relays::default()
    };
    assert_eq!(prices(&found(&relays, &request()).await), [1]);
    assert_eq!(relays.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_page_full_of_one_second_does_not_hold_it_up() {
    let (ada, others) = (Keys::generate(), Keys::generate());
    let mut stored = vec![listed(&ada, NOW - 5_000, 1)];
    stored.extend((0..PAGE + 50).map(|i| foreign(&others, NOW - 9, i)));
    let relays = Relays {
        stored,
        ..Relays::default()
    };
    assert_eq!(prices(&found(&relays, &request()).await), [1]);
}

#[test]
fn one_author_takes_a_bounded_place() {
    let ada = Keys::generate();
    let mut heard = Heard::default();
    for id in 0..100_u8 {
        heard.message(&announced(&ada, NOW, 1, channel_id(id)), channel_id(id));
    }
    assert_eq!(heard.offers().len(), 16);
}

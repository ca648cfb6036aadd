//! Requests without number, which nobody means to pay.

use agent_compute::ids::JobId;
use agent_compute::protocol::message::AgentMessage;
use agent_compute::wallet::PayOutcome;
use nostr::{Event, EventId, Keys};

use crate::cast::Peer;
use crate::stage::{Books, PRICE, SOON, Stage};

async fn shop() -> (Stage, Keys, crate::harness::Provider, EventId) {
    let (stage, keys) = (Stage::new().await, Keys::generate());
    let provider = stage.provider(&keys, &[]).await;
    let channel = EventId::from_hex(provider.channel.as_ref().unwrap()).unwrap();
    (stage, keys, provider, channel)
}

/// Requests of these keys in turn.
fn requests(crowd: &[Keys], count: usize, provider: &Keys, voice: &mut Peer) -> Vec<Event> {
    (0..count)
        .map(|n| {
            let request = Peer::request(provider.public_key(), "for free");
            voice.keys = crowd[n % crowd.len()].clone();
            voice.sign(&AgentMessage::JobRequest(request))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_from_one_key_keeps_nobody_from_buying() {
    let (stage, keys, _provider, channel) = shop().await;
    let crowd = [Keys::generate()];
    let mut voice = Peer::join(&stage, crowd[0].clone(), channel).await;
    let flood = requests(&crowd, 1000, &keys, &mut voice);
    let (before, during) = flood.split_at(500);
    voice.publish_all(before).await;
    let ((), ()) = tokio::join!(stage.serves(&keys), voice.publish_all(during));
    stage.serves(&keys).await;
    assert_eq!(stage.earned(&keys).await, 2 * PRICE);
}

/// While keys without number ask, nobody can be told from them. But what they asked for and don't pay
/// gives way to whoever comes next, and does not close the shop until the quotes expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_from_many_keys_is_over_when_it_is_over() {
    let (stage, keys, _provider, channel) = shop().await;
    let crowd: Vec<Keys> = (0..300).map(|_| Keys::generate()).collect();
    let mut voice = Peer::join(&stage, crowd[0].clone(), channel).await;
    let flood = requests(&crowd, 1000, &keys, &mut voice);
    voice.publish_all(&flood).await;
    let customer = stage.customer();
    let serving = async {
        let try_for = &["--timeout", "3"];
        while stage.buy(&customer, keys.public_key(), try_for).await.code != 0 {}
    };
    tokio::time::timeout(SOON, serving).await.expect("in time");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    assert_eq!(stage.earned(&keys).await, PRICE);
}

/// A quote that has lost its place to others is a quote still.
#[tokio::test(flavor = "multi_thread")]
async fn who_pays_after_losing_the_place_in_a_flood_is_served() {
    let (stage, keys, _provider, channel) = shop().await;
    let mut slow = Peer::join(&stage, Keys::generate(), channel).await;
    let request = Peer::request(keys.public_key(), "slow but honest");
    let job = slow.ask(request).await;
    let invoice = slow.answer(&job).await.unwrap();
    let crowd: Vec<Keys> = (0..280).map(|_| Keys::generate()).collect();
    let mut voice = Peer::join(&stage, crowd[0].clone(), channel).await;
    // More than there are places for, all with their quotes: the first one's place is gone.
    for request in requests(&crowd, 280, &keys, &mut voice) {
        voice.publish(&request).await;
        let job = JobId::of_request(&request.id);
        voice.answer(&job).await.unwrap();
    }
    assert!(matches!(slow.pay(&invoice).await, PayOutcome::Paid { .. }));
    slow.says_paid(&job, "paid").await;
    assert_eq!(slow.whole_text(&job).await, "slow but honest");
    assert_eq!(stage.earned(&keys).await, PRICE);
}

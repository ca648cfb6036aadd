//! Requests without number, which nobody means to pay.

use agent_compute::protocol::message::AgentMessage;
use nostr::{Event, EventId, Keys};

use super::cast::Peer;
use super::stage::{PRICE, Stage};

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

async fn survives(crowd: usize, count: usize) {
    let (stage, keys, provider, channel) = shop().await;
    let crowd: Vec<Keys> = (0..crowd).map(|_| Keys::generate()).collect();
    let mut voice = Peer::join(&stage, crowd[0].clone(), channel).await;
    let flood = requests(&crowd, count, &keys, &mut voice);
    let (before, during) = flood.split_at(count / 2);
    voice.publish_all(before).await;
    let ((), ()) = tokio::join!(stage.serves(&keys), voice.publish_all(during));
    stage.serves(&keys).await;
    assert_eq!(stage.earned(&keys).await, 2 * PRICE);
    drop(provider);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_from_one_key_keeps_nobody_from_buying() {
    survives(1, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_from_many_keys_keeps_nobody_from_buying() {
    survives(300, 1000).await;
}

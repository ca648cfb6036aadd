//! The relay session against real sockets: our embedded relay, relays that follow a script, and none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::relay::{
    EmbeddedRelay, Incoming, PoolOptions, RelayPoolSession, RelaySession, Subscription,
};
use nostr::{Event, EventBuilder, Filter, Keys, Kind, RelayUrl};

/// The bound of everything that should happen at once.
const SOON: Duration = Duration::from_secs(10);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn embedded() -> EmbeddedRelay {
    EmbeddedRelay::listen(loopback()).await.unwrap()
}

fn session(urls: &[RelayUrl]) -> Arc<RelayPoolSession> {
    RelayPoolSession::connect(urls, PoolOptions::default()).unwrap()
}

fn message(keys: &Keys, content: &str) -> Event {
    EventBuilder::new(Kind::ChannelMessage, content)
        .sign_with_keys(keys)
        .unwrap()
}

/// The next event, past a `StoredDone`.
async fn event(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(SOON, async {
        loop {
            match subscription.next().await {
                Some(Incoming::Event(event)) => return *event,
                Some(Incoming::StoredDone { .. }) => {}
                None => panic!("the subscription ended"),
            }
        }
    })
    .await
    .expect("an event comes soon")
}

#[tokio::test]
async fn subscribing_before_publishing_never_misses_the_answer() {
    let relay = embedded().await;
    let (buyer, seller) = (session(&[relay.url()]), session(&[relay.url()]));
    let (buyer_keys, seller_keys) = (Keys::generate(), Keys::generate());
    let mut requests = seller
        .subscribe(Filter::new().author(buyer_keys.public_key()), SOON)
        .await
        .unwrap();
    let answering = async {
        loop {
            let request = event(&mut requests).await;
            let answer = EventBuilder::new(Kind::ChannelMessage, "answer")
                .tag(nostr::Tag::event(request.id))
                .sign_with_keys(&seller_keys)
                .unwrap();
            seller.publish(&answer, SOON).await.unwrap();
        }
    };
    let asking = async {
        let start = std::time::Instant::now();
        for turn in 0..200 {
            let request = message(&buyer_keys, &turn.to_string());
            let filter = Filter::new()
                .author(seller_keys.public_key())
                .event(request.id);
            let mut answers = buyer.subscribe(filter, SOON).await.unwrap();
            buyer.publish(&request, SOON).await.unwrap();
            assert_eq!(event(&mut answers).await.content, "answer");
        }
        println!("200 request-answer pairs: {:?}", start.elapsed());
    };
    tokio::select! {
        () = answering => {}
        () = asking => {}
    }
}

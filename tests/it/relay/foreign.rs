//! A client that nobody here wrote, on our relay: nostr-sdk publishes what we read, and reads what we
//! publish.

use nostr_sdk::Client;

use super::*;

async fn foreign_client(relay: &EmbeddedRelay, keys: &Keys) -> Client {
    let client = Client::new(keys.clone());
    client.add_relay(relay.url()).await.unwrap();
    client.connect().await;
    client.wait_for_connection(SOON).await;
    client
}

#[tokio::test]
async fn what_a_foreign_client_publishes_is_read() {
    let relay = embedded().await;
    let keys = Keys::generate();
    let client = foreign_client(&relay, &keys).await;
    let session = session(&[relay.url()]);
    let filter = Filter::new().author(keys.public_key());
    let mut subscription = session.subscribe(filter, SOON).await.unwrap();
    let sent = client
        .send_event_builder(EventBuilder::new(Kind::ChannelMessage, "from outside"))
        .await
        .unwrap();
    assert!(!sent.success.is_empty(), "{sent:?}");
    let heard = soon(async {
        loop {
            if let Incoming::Event(event) = subscription.next().await.unwrap() {
                return event;
            }
        }
    })
    .await;
    assert_eq!(
        (heard.id, heard.content.as_str()),
        (*sent.id(), "from outside")
    );
}

#[tokio::test]
async fn what_we_publish_is_read_by_a_foreign_client() {
    let relay = embedded().await;
    let session = session(&[relay.url()]);
    let ours = Keys::generate();
    let event = message(&ours, "from inside");
    session.publish(&event, SOON).await.unwrap();
    let client = foreign_client(&relay, &Keys::generate()).await;
    let filter = Filter::new().author(ours.public_key());
    let read = client.fetch_events(filter, SOON).await.unwrap();
    assert_eq!(read.to_vec(), [event]);
}

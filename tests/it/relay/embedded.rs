//! The embedded relay itself.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::*;

async fn http(relay: &EmbeddedRelay, request: &str) -> String {
    let mut stream = TcpStream::connect(relay.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_browser_is_told_what_this_is() {
    let relay = embedded().await;
    let answer = http(&relay, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("Nostr relay"), "{answer}");
}

#[tokio::test]
async fn it_describes_itself_as_nip_11_says() {
    let relay = embedded().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/nostr+json\r\n\r\n";
    let answer = http(&relay, request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/nostr+json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(
        body["supported_nips"]
            .as_array()
            .unwrap()
            .contains(&1.into())
    );
}

#[tokio::test]
async fn what_is_no_request_is_turned_away() {
    let relay = embedded().await;
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    for request in ["POST / HTTP/1.1\r\n\r\n", "\0\0\0\0\r\n\r\n", &long] {
        let mut stream = TcpStream::connect(relay.addr()).await.unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 101"));
    }
    let session = session(&[relay.url()]);
    session.subscribe(Filter::new(), SOON).await.unwrap();
}

#[tokio::test]
async fn a_newer_listing_replaces_the_older() {
    let relay = embedded().await;
    let session = session(&[relay.url()]);
    let keys = Keys::generate();
    let listing = |content: &str, at: u64| {
        EventBuilder::new(Kind::Custom(31990), content)
            .tag(Tag::identifier("agent-compute"))
            .custom_created_at(Timestamp::from_secs(1_700_000_000 + at))
            .sign_with_keys(&keys)
            .unwrap()
    };
    for (content, at) in [("old", 0), ("new", 10)] {
        let listing = listing(content, at);
        session.publish(&listing, SOON).await.unwrap();
    }
    let there = fetch(&*session, by(&keys), SOON, 10).await.unwrap();
    let contents: Vec<_> = there.events.iter().map(|e| e.content.as_str()).collect();
    assert_eq!(contents, ["new"]);
    let older = session.publish(&listing("older", 5), SOON).await;
    let Err(RelayError::NotPublished(refusals)) = older else {
        panic!("it was taken");
    };
    assert!(refusals[0].reason.contains("newer"), "{refusals:?}");
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused() {
    let relay = embedded().await;
    let session = session(&[relay.url()]);
    let large = message(&Keys::generate(), &"x".repeat(65 * 1024));
    let Err(RelayError::NotPublished(refusals)) = session.publish(&large, SOON).await else {
        panic!("it was taken");
    };
    assert!(refusals[0].reason.contains("larger"), "{refusals:?}");
}

#[tokio::test]
async fn it_keeps_its_events_and_its_port_over_a_restart() {
    let relay = embedded().await;
    let event = message(&Keys::generate(), "kept");
    session(&[relay.url()]).publish(&event, SOON).await.unwrap();
    relay.shutdown().await;
    assert!(TcpStream::connect(relay.addr()).await.is_err());
    relay.resume().await.unwrap();
    let session = session(&[relay.url()]);
    let there = fetch(&*session, Filter::new(), SOON, 10).await.unwrap();
    assert_eq!(there.events, [event]);
}

#[tokio::test]
async fn dropping_it_frees_the_port() {
    let relay = embedded().await;
    let addr = relay.addr();
    drop(relay);
    soon(async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_is_cut_off() {
    let relay = embedded().await;
    let (mut socket, _) = tokio_tungstenite::connect_async(relay.url().as_str())
        .await
        .unwrap();
    // It may hang up before all is written.
    let _ = socket.send(Message::text("x".repeat(1024 * 1024))).await;
    soon(async { while let Some(Ok(_)) = socket.next().await {} }).await;
}

//! Relays that go away and come back.

use super::*;

#[tokio::test]
async fn nothing_is_missed_across_restarts_of_the_relay() {
    let relay = embedded().await;
    let (reader, writer) = (session(&[relay.url()]), session(&[relay.url()]));
    let keys = Keys::generate();
    let mut subscription = reader.subscribe(by(&keys), SOON).await.unwrap();
    for round in 0..5 {
        assert_eq!(reader.relays()[0].connections, round + 1);
        let before = message(&keys, &format!("before {round}"));
        writer.publish(&before, SOON).await.unwrap();
        assert_eq!(event(&mut subscription).await, before);
        relay.shutdown().await;
        connected(&reader, 0).await;
        let during = message(&keys, &format!("during {round}"));
        let (published, resumed) = tokio::join!(writer.publish(&during, SOON), relay.resume());
        published.unwrap();
        resumed.unwrap();
        assert_eq!(event(&mut subscription).await, during);
    }
}

#[tokio::test]
async fn what_came_while_we_were_away_is_fetched_with_an_overlap() {
    let keys = Keys::generate();
    let known = old_message(&keys, "known", 30);
    let dated_back = old_message(&keys, "dated back by a slow clock", 300);
    let sent = [known.clone(), dated_back.clone()];
    let connection = std::sync::atomic::AtomicUsize::new(0);
    let relay = ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Req {
            subscription_id, ..
        } => {
            let [known, dated_back] = &sent;
            let mut say = vec![Say::event(subscription_id, known)];
            if connection.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                say.extend([Say::eose(subscription_id), Say::HangUp]);
            } else {
                say.extend([
                    Say::event(subscription_id, dated_back),
                    Say::eose(subscription_id),
                ]);
            }
            say
        }
        _ => vec![],
    })
    .await;
    let session = session(&[relay.url()]);
    let filter = by(&keys).since(Timestamp::now() - Duration::from_secs(86_400));
    let mut subscription = session.subscribe(filter.limit(1), SOON).await.unwrap();
    assert_eq!(event(&mut subscription).await, known);
    assert_eq!(event(&mut subscription).await, dated_back);
    let requests = relay.requests();
    let [(first, _), (second, filter), ..] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(first, second);
    let since = filter.since.unwrap();
    assert!(since < Timestamp::now() - Duration::from_secs(300));
    assert!(since > Timestamp::now() - Duration::from_secs(3600));
    assert_ne!(filter.limit, Some(1), "a limit counts from the newest");
}

#[tokio::test]
async fn a_relay_that_does_not_answer_the_upgrade_is_given_up_in_time() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let options = PoolOptions {
        connect_within: Duration::from_millis(100),
        ..PoolOptions::default()
    };
    let session = RelayPoolSession::connect(&[url(addr)], options).unwrap();
    trouble(&session, "timed out").await;
}

#[tokio::test]
async fn a_relay_that_does_not_speak_tls_is_in_trouble_and_no_more() {
    let plain = embedded().await;
    let address = plain.url().to_string().replace("ws://", "wss://");
    let session = session(&[RelayUrl::parse(&address).unwrap(), plain.url()]);
    let mut subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    let (_, answered, failed) = stored(&mut subscription).await;
    assert_eq!((answered, failed.len()), (1, 1));
}

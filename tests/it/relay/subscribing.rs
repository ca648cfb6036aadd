//! Subscribing: in place before it returns, merged, ended.

use super::*;

#[tokio::test]
async fn subscribing_before_publishing_never_misses_the_answer() {
    let relay = embedded().await;
    let (buyer, seller) = (session(&[relay.url()]), session(&[relay.url()]));
    let (buyer_keys, seller_keys) = (Keys::generate(), Keys::generate());
    let mut requests = seller.subscribe(by(&buyer_keys), SOON).await.unwrap();
    let answering = async {
        loop {
            let request = event(&mut requests).await;
            let answer = EventBuilder::new(Kind::ChannelMessage, "answer")
                .tag(Tag::event(request.id))
                .sign_with_keys(&seller_keys)
                .unwrap();
            seller.publish(&answer, SOON).await.unwrap();
        }
    };
    let asking = async {
        let start = std::time::Instant::now();
        for turn in 0..200 {
            let request = message(&buyer_keys, &turn.to_string());
            let filter = by(&seller_keys).event(request.id);
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

#[tokio::test]
async fn an_event_at_two_relays_comes_once() {
    let relays = [embedded().await, embedded().await];
    let session = session(&relays.each_ref().map(EmbeddedRelay::url));
    connected(&session, 2).await;
    let keys = Keys::generate();
    let mut live = session.subscribe(by(&keys), SOON).await.unwrap();
    assert_eq!(stored(&mut live).await, (vec![], 2, vec![]));
    let events = ["a", "b", "c"].map(|content| message(&keys, content));
    for event in &events {
        session.publish(event, SOON).await.unwrap();
        // Until both relays have it.
        for relay in &relays {
            let there = super::session(&[relay.url()]);
            let mut seen = there
                .subscribe(Filter::new().id(event.id), SOON)
                .await
                .unwrap();
            super::event(&mut seen).await;
        }
    }
    let mut late = session.subscribe(by(&keys), SOON).await.unwrap();
    let (there, answered, failed) = stored(&mut late).await;
    assert_eq!((there.len(), answered, failed), (3, 2, vec![]));
    for expected in &events {
        assert_eq!(&event(&mut live).await, expected);
    }
    let last = message(&keys, "last");
    session.publish(&last, SOON).await.unwrap();
    assert_eq!(
        event(&mut live).await,
        last,
        "nothing came twice in between"
    );
    assert_eq!(event(&mut late).await, last);
}

#[tokio::test]
async fn a_dead_relay_does_not_hold_up_the_stored_events() {
    let dead = url(nobody().await);
    let good = embedded().await;
    let session = session(&[dead.clone(), good.url()]);
    let mut subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    let (_, answered, failed) = stored(&mut subscription).await;
    assert_eq!(answered, 1);
    assert_eq!(failed[0].url, dead);
    assert!(failed[0].reason.contains("refused"), "{failed:?}");
}

#[tokio::test]
async fn without_any_relay_it_says_why() {
    let session = session(&[url(nobody().await)]);
    let outcome = session
        .subscribe(Filter::new(), Duration::from_millis(100))
        .await;
    let Err(RelayError::Unreachable(why)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(why[0].reason.contains("refused"), "{why:?}");
}

#[tokio::test]
async fn a_relay_that_comes_up_late_is_asked_then() {
    let addr = nobody().await;
    let good = embedded().await;
    let session = session(&[good.url(), url(addr)]);
    let keys = Keys::generate();
    let mut subscription = session.subscribe(by(&keys), SOON).await.unwrap();
    let (_, answered, _) = stored(&mut subscription).await;
    assert_eq!(answered, 1);
    let late = EmbeddedRelay::listen(addr).await.unwrap();
    let only_there = message(&keys, "only there");
    let publisher = super::session(&[late.url()]);
    publisher.publish(&only_there, SOON).await.unwrap();
    assert_eq!(event(&mut subscription).await, only_there);
}

#[tokio::test]
async fn a_relay_that_comes_up_while_we_wait_answers_in_full() {
    let addr = nobody().await;
    let session = session(&[url(addr)]);
    trouble(&session, "refused").await;
    let (subscription, relay) = tokio::join!(
        session.subscribe(Filter::new(), SOON),
        EmbeddedRelay::listen(addr)
    );
    let _relay = relay.unwrap();
    let done = stored(&mut subscription.unwrap()).await;
    assert_eq!(done, (vec![], 1, vec![]));
}

#[tokio::test]
async fn a_closed_subscription_is_made_again() {
    let keys = Keys::generate();
    let after = message(&keys, "after");
    let (first, sent) = (std::sync::atomic::AtomicBool::new(true), after.clone());
    let relay = ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Req {
            subscription_id, ..
        } => {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                let closed = Say::closed(subscription_id, "error: out of memory");
                return vec![Say::eose(subscription_id), closed];
            }
            vec![Say::event(subscription_id, &sent)]
        }
        _ => vec![],
    })
    .await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(by(&keys), SOON).await.unwrap();
    assert_eq!(event(&mut subscription).await, after);
    let ids = relay.requests().into_iter().map(|(id, _)| id);
    assert_eq!(ids.collect::<HashSet<_>>().len(), 1, "under the same id");
}

#[tokio::test]
async fn a_relay_that_wants_authentication_has_failed() {
    let relay = ScriptedRelay::start(|heard| match heard {
        ClientMessage::Req {
            subscription_id, ..
        } => vec![
            Say::text(&RelayMessage::auth("challenge")),
            Say::closed(subscription_id, "auth-required: members only"),
        ],
        _ => vec![],
    })
    .await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    let (_, answered, failed) = stored(&mut subscription).await;
    assert_eq!(answered, 0);
    assert_eq!(failed[0].reason, "auth-required: members only");
    trouble(&session, "auth-required").await;
}

#[tokio::test]
async fn dropping_it_ends_it_at_the_relay() {
    let relay = ScriptedRelay::start(polite).await;
    let session = session(&[relay.url()]);
    let subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    relay.until(|heard| !heard.is_empty()).await;
    let (id, _) = relay.requests().remove(0);
    drop(subscription);
    relay
        .until(|heard| heard.contains(&ClientMessage::close(id.clone())))
        .await;
}

#[tokio::test]
async fn ids_are_short_and_distinct() {
    let relay = ScriptedRelay::start(polite).await;
    let session = session(&[relay.url()]);
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(session.subscribe(Filter::new(), SOON).await.unwrap());
    }
    relay.until(|heard| heard.len() >= 20).await;
    let ids: HashSet<_> = relay.requests().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 20);
    assert!(ids.iter().all(|id| id.as_str().len() <= 64));
}

#[tokio::test]
async fn closing_ends_subscriptions_and_refuses_new_work() {
    let relay = embedded().await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    stored(&mut subscription).await;
    session.close().await;
    assert!(soon(subscription.next()).await.is_none());
    let event = message(&Keys::generate(), "hi");
    assert_eq!(session.publish(&event, SOON).await, Err(RelayError::Closed));
    let again = session.subscribe(Filter::new(), SOON).await;
    assert!(matches!(again, Err(RelayError::Closed)));
    session.close().await;
}

#[tokio::test]
async fn dropping_the_session_ends_its_connections() {
    let relay = ScriptedRelay::start(polite).await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    stored(&mut subscription).await;
    drop(session);
    assert!(soon(subscription.next()).await.is_none());
    relay.until_left().await;
}

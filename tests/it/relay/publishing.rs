//! Publishing: who takes it, who refuses, who is told later.

use super::*;

#[tokio::test]
async fn the_first_ok_wins_over_a_dead_and_a_mute_relay() {
    let mute = ScriptedRelay::start(|_| vec![]).await;
    let good = embedded().await;
    let session = session(&[url(nobody().await), mute.url(), good.url()]);
    let published = soon(session.publish(&message(&Keys::generate(), "hi"), SOON)).await;
    assert_eq!(published.unwrap().by, good.url());
}

#[tokio::test]
async fn refusals_by_every_relay_are_reported_at_once() {
    let first = ScriptedRelay::start(refuse_with("blocked: not here")).await;
    let second = ScriptedRelay::start(refuse_with("pow: 28 bits needed")).await;
    let session = session(&[first.url(), second.url()]);
    let outcome = soon(session.publish(&message(&Keys::generate(), "hi"), SOON * 10)).await;
    let Err(RelayError::NotPublished(mut refusals)) = outcome else {
        panic!("{outcome:?}");
    };
    refusals.sort_by(|a, b| a.reason.cmp(&b.reason));
    let expected = [
        (first.url(), "blocked: not here"),
        (second.url(), "pow: 28 bits needed"),
    ];
    let expected = expected.map(|(url, reason)| Refusal {
        url,
        reason: reason.into(),
    });
    assert_eq!(refusals, expected);
}

#[tokio::test]
async fn a_refusal_in_the_background_is_the_relays_trouble() {
    let good = embedded().await;
    let bad = ScriptedRelay::start(refuse_with("blocked: not here")).await;
    let session = session(&[good.url(), bad.url()]);
    session
        .publish(&message(&Keys::generate(), "hi"), SOON)
        .await
        .unwrap();
    trouble(&session, "blocked: not here").await;
}

#[tokio::test]
async fn a_duplicate_counts_as_taken() {
    let relay = embedded().await;
    let odd = ScriptedRelay::start(refuse_with("duplicate: have it")).await;
    let event = message(&Keys::generate(), "hi");
    for relay in [relay.url(), odd.url()] {
        let session = session(&[relay]);
        for _ in 0..2 {
            soon(session.publish(&event, SOON)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_rate_limited_event_is_sent_again() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let relay = ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Event(event) => {
            let first = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            let words = if first { "rate-limited: slow down" } else { "" };
            vec![Say::ok(event.id, !first, words)]
        }
        _ => vec![],
    })
    .await;
    let session = session(&[relay.url()]);
    soon(session.publish(&message(&Keys::generate(), "hi"), SOON))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_event_waits_for_its_relay_to_come_up() {
    let addr = nobody().await;
    let session = session(&[url(addr)]);
    trouble(&session, "refused").await;
    let event = message(&Keys::generate(), "hi");
    let (published, relay) = tokio::join!(
        soon(session.publish(&event, SOON)),
        EmbeddedRelay::listen(addr)
    );
    assert_eq!(published.unwrap().by, relay.unwrap().url());
}

#[tokio::test]
async fn what_was_not_published_in_time_is_not_sent_later() {
    let addr = nobody().await;
    let session = session(&[url(addr)]);
    let (late, kept) = (Keys::generate(), Keys::generate());
    let outcome = session
        .publish(&message(&late, "late"), Duration::from_millis(20))
        .await;
    assert!(matches!(outcome, Err(RelayError::NotPublished(_))));
    let relay = EmbeddedRelay::listen(addr).await.unwrap();
    soon(session.publish(&message(&kept, "kept"), SOON))
        .await
        .unwrap();
    let stored = fetch(&*super::session(&[relay.url()]), Filter::new(), SOON, 10).await;
    let authors: Vec<_> = stored.unwrap().events.iter().map(|e| e.pubkey).collect();
    assert_eq!(authors, [kept.public_key()]);
}

#[tokio::test]
async fn an_event_cut_off_by_the_connection_is_sent_again() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let relay = ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Event(_) if first.swap(false, std::sync::atomic::Ordering::SeqCst) => {
            vec![Say::HangUp]
        }
        other => polite(other),
    })
    .await;
    let session = session(&[relay.url()]);
    soon(session.publish(&message(&Keys::generate(), "hi"), SOON))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_mute_relay_alone_is_not_published_within_the_bound() {
    let mute = ScriptedRelay::start(|_| vec![]).await;
    let session = session(&[mute.url()]);
    let outcome = session
        .publish(
            &message(&Keys::generate(), "hi"),
            Duration::from_millis(100),
        )
        .await;
    let Err(RelayError::NotPublished(refusals)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(refusals[0].url, mute.url());
}

#[tokio::test]
async fn closing_waits_for_the_slower_relays() {
    let fast = embedded().await;
    let slow = ScriptedRelay::start(polite).await;
    let session = session(&[fast.url(), slow.url()]);
    let event = message(&Keys::generate(), "last words");
    session.publish(&event, SOON).await.unwrap();
    session.close().await;
    let heard = slow.heard();
    assert!(heard.contains(&ClientMessage::event(event)), "{heard:?}");
}

fn refuse_with(words: &'static str) -> impl Fn(&ClientMessage<'_>) -> Vec<Say> {
    move |heard| match heard {
        ClientMessage::Event(event) => vec![Say::ok(event.id, false, words)],
        _ => vec![],
    }
}

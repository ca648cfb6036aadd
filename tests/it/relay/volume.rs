//! More events than anyone takes at once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

async fn publish_all(relay: &EmbeddedRelay, events: &[Event]) {
    let writer = session(&[relay.url()]);
    for event in events {
        writer.publish(event, SOON).await.unwrap();
    }
}

#[tokio::test]
async fn more_stored_events_than_a_relay_gives_at_once_are_fetched_in_pages() {
    let relay = embedded().await;
    let keys = Keys::generate();
    let events: Vec<Event> = (0..1300)
        .map(|i| old_message(&keys, &i.to_string(), i / 3))
        .collect();
    publish_all(&relay, &events).await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(by(&keys), SOON).await.unwrap();
    let (got, answered, _) = stored(&mut subscription).await;
    assert_eq!(answered, 1);
    let ids = |events: &[Event]| events.iter().map(|e| e.id).collect::<HashSet<EventId>>();
    assert_eq!(got.len(), events.len());
    assert_eq!(ids(&got), ids(&events));
}

#[tokio::test]
async fn a_subscriber_that_looks_away_gets_everything_in_the_end() {
    let relay = embedded().await;
    let session = session(&[relay.url()]);
    let (keys, others) = (Keys::generate(), Keys::generate());
    let mut slow = session.subscribe(by(&keys), SOON).await.unwrap();
    let mut quick = session.subscribe(by(&others), SOON).await.unwrap();
    let events: Vec<Event> = (0..3000).map(|i| message(&keys, &i.to_string())).collect();
    publish_all(&relay, &events).await;
    let aside = message(&others, "aside");
    session.publish(&aside, SOON).await.unwrap();
    assert_eq!(event(&mut quick).await, aside, "others are not held up");
    let mut got = HashSet::new();
    while got.len() < events.len() {
        assert!(got.insert(event(&mut slow).await.id), "each comes once");
    }
    assert!(events.iter().all(|event| got.contains(&event.id)));
}

#[tokio::test]
async fn a_page_that_a_relay_could_not_give_at_once_is_asked_for_again() {
    let keys = Keys::generate();
    let newer: Vec<Event> = (0..100)
        .map(|i| old_message(&keys, &i.to_string(), i))
        .collect();
    let oldest = old_message(&keys, "oldest", 1000);
    let (first_page, last_page) = (newer.clone(), oldest.clone());
    let failed = AtomicBool::new(false);
    let relay = ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Req {
            subscription_id: id,
            filters,
        } => {
            let mut say = Vec::new();
            if filters[0].until.is_none() {
                say.extend(first_page.iter().map(|event| Say::event(id, event)));
            } else if !failed.swap(true, Ordering::SeqCst) {
                return vec![Say::closed(id, "error: try again")];
            } else {
                say.push(Say::event(id, &last_page));
            }
            say.push(Say::eose(id));
            say
        }
        _ => vec![],
    })
    .await;
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(by(&keys), SOON).await.unwrap();
    for expected in newer.iter().chain([&oldest]) {
        assert_eq!(&event(&mut subscription).await, expected);
    }
}

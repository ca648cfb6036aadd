//! Relays that lie, babble and flood.

use super::*;

/// A relay that answers every request with these, once, then ends the stored events.
async fn relay_that_sends(
    say: impl Fn(&SubscriptionId) -> Vec<Say> + Send + Sync + 'static,
) -> ScriptedRelay {
    ScriptedRelay::start(move |heard| match heard {
        ClientMessage::Req {
            subscription_id, ..
        } => {
            let mut all = say(subscription_id);
            all.push(Say::eose(subscription_id));
            all
        }
        _ => vec![],
    })
    .await
}

/// What a subscriber gets who asks for everything by `keys`.
async fn received(relay: &ScriptedRelay, keys: &Keys) -> Vec<Event> {
    let session = session(&[relay.url()]);
    let mut subscription = session.subscribe(by(keys), SOON).await.unwrap();
    stored(&mut subscription).await.0
}

#[tokio::test]
async fn an_altered_event_under_a_genuine_id_never_comes_through() {
    let keys = Keys::generate();
    let genuine = message(&keys, "pay 10");
    let mut altered = genuine.clone();
    altered.content = "pay 10000".into();
    let orders = [
        vec![altered.clone(), genuine.clone()],
        vec![genuine.clone(), altered.clone()],
        vec![altered.clone(), altered.clone(), genuine.clone(), altered],
    ];
    for order in orders {
        let relay =
            relay_that_sends(move |id| order.iter().map(|e| Say::event(id, e)).collect()).await;
        assert_eq!(
            received(&relay, &keys).await,
            std::slice::from_ref(&genuine)
        );
    }
}

#[tokio::test]
async fn an_id_that_one_relay_made_known_does_not_vouch_for_another_relays_content() {
    let keys = Keys::generate();
    let genuine = message(&keys, "pay 10");
    let mut altered = genuine.clone();
    altered.content = "pay 10000".into();
    let (honest, liar) = (embedded().await, {
        relay_that_sends(move |id| vec![Say::event(id, &altered)]).await
    });
    let session = session(&[honest.url(), liar.url()]);
    connected(&session, 2).await;
    session.publish(&genuine, SOON).await.unwrap();
    for _ in 0..20 {
        let mut subscription = session.subscribe(by(&keys), SOON).await.unwrap();
        let there = stored(&mut subscription).await;
        assert_eq!(there, (vec![genuine.clone()], 2, vec![]));
    }
}

#[tokio::test]
async fn a_forged_signature_is_refused() {
    let keys = Keys::generate();
    let mut forged = message(&keys, "forged");
    forged.sig = message(&Keys::generate(), "forged").sig;
    let relay = relay_that_sends(move |id| vec![Say::event(id, &forged)]).await;
    assert_eq!(received(&relay, &keys).await, []);
}

#[tokio::test]
async fn an_event_that_was_not_asked_for_is_refused() {
    let keys = Keys::generate();
    let other = message(&Keys::generate(), "not asked for");
    let asked = message(&keys, "asked for");
    let sent = [other, asked.clone()];
    let relay = relay_that_sends(move |id| sent.each_ref().map(|e| Say::event(id, e)).into());
    assert_eq!(received(&relay.await, &keys).await, [asked]);
}

#[tokio::test]
async fn garbage_is_passed_over() {
    let keys = Keys::generate();
    let good = message(&keys, "good");
    let sent = good.clone();
    let relay = relay_that_sends(move |id| {
        let nested = "[".repeat(100_000);
        let texts = [
            "",
            " ",
            "null",
            "[]",
            "{}",
            "[1,2,3]",
            "\u{0}\u{7}",
            r#"["EVENT"]"#,
            r#"["EVENT","x"]"#,
            r#"["EVENT","x",{}]"#,
            r#"["EOSE"]"#,
            r#"["EOSE",7]"#,
            r#"["OK"]"#,
            r#"["OK","00",true,""]"#,
            r#"["CLOSED"]"#,
            r#"["NOTICE",{}]"#,
            r#"["AUTH"]"#,
            r#"["WHAT","is","this"]"#,
            r#"["COUNT","x",{"count":-1}]"#,
            nested.as_str(),
        ];
        let mut say: Vec<Say> = texts.map(|text| Say::Text(text.into())).into();
        for strange in ["ac", "ac00000000-", "ac00000000-1-1-1", "ac00000000-x"] {
            let strange = SubscriptionId::new(strange);
            say.extend([Say::eose(&strange), Say::event(&strange, &sent)]);
        }
        let id_like = SubscriptionId::new(format!("{id}-99999999999999999999"));
        say.extend([
            Say::eose(&id_like),
            Say::eose(&SubscriptionId::new(format!("{id}-5"))),
            Say::closed(&SubscriptionId::new(format!("{id}-5")), ""),
            Say::Binary(vec![0xff; 100]),
            Say::text(&RelayMessage::notice("\u{1b}[31mred\u{1b}[0m".repeat(100))),
            Say::event(id, &sent),
        ]);
        say
    })
    .await;
    assert_eq!(received(&relay, &keys).await, [good]);
}

#[tokio::test]
async fn words_of_a_relay_are_kept_short_and_plain() {
    let words = "\u{1b}[31mred\u{7}\n".repeat(1000);
    let relay =
        relay_that_sends(move |_| vec![Say::text(&RelayMessage::notice(words.clone()))]).await;
    let session = session(&[relay.url()]);
    let _subscription = session.subscribe(Filter::new(), SOON).await.unwrap();
    trouble(&session, "notice:").await;
    let words = session.relays().remove(0).trouble.unwrap();
    assert!(words.len() <= 400 && !words.contains(char::is_control));
}

#[tokio::test]
async fn an_oversized_event_costs_itself_alone() {
    let keys = Keys::generate();
    let large = message(&keys, &"x".repeat(300 * 1024));
    let good = message(&keys, "good");
    let sent = [large, good.clone()];
    let relay = relay_that_sends(move |id| sent.each_ref().map(|e| Say::event(id, e)).into());
    assert_eq!(received(&relay.await, &keys).await, [good]);
}

#[tokio::test]
async fn an_endless_message_costs_the_connection_and_no_more() {
    let keys = Keys::generate();
    let good = message(&keys, "good");
    let sent = good.clone();
    let first = std::sync::atomic::AtomicBool::new(true);
    let relay = relay_that_sends(move |id| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return vec![Say::Text("x".repeat(3 * 1024 * 1024))];
        }
        vec![Say::event(id, &sent)]
    })
    .await;
    assert_eq!(received(&relay, &keys).await, [good]);
}

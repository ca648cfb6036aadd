//! Purchases from one provider listen together: over real relays, with what goes wrong on the way.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::ids::PurchaseId;
use agent_compute::protocol::channel::{self, ReplyTo};
use agent_compute::purchase::ears::{Answers, Ears};
use agent_compute::purchase::state::{PayBy, Terms};
use agent_compute::relay::{EmbeddedRelay, Incoming, PoolOptions, RelayPoolSession, RelaySession};
use agent_compute::units::{Network, UnixSecs};
use nostr::{
    ClientMessage, Event, EventBuilder, EventId, Keys, Kind, RelayMessage, SubscriptionId,
};

use crate::relay::{Say, ScriptedRelay, polite};

const SOON: Duration = Duration::from_secs(20);

/// A provider on a relay, and a buyer's session with it.
struct Scene {
    session: Arc<RelayPoolSession>,
    ears: Ears,
    provider: Keys,
    channel: EventId,
    buyer: Keys,
}

impl Scene {
    fn on(relay: &str) -> Self {
        let url = nostr::RelayUrl::parse(relay).unwrap();
        Self {
            session: RelayPoolSession::connect(&[url], PoolOptions::default()).unwrap(),
            ears: Ears::default(),
            provider: Keys::generate(),
            channel: EventId::from_byte_array([9; 32]),
            buyer: Keys::generate(),
        }
    }

    fn purchase(&self) -> Terms {
        let now = UnixSecs::new(nostr::Timestamp::now().as_secs());
        let nonce = rand::random::<u64>().to_string();
        Terms {
            id: PurchaseId::from_bytes(rand::random()),
            provider: self.provider.public_key(),
            channel: self.channel,
            model: None,
            request: EventBuilder::new(Kind::ChannelMessage, nonce)
                .sign_with_keys(&self.buyer)
                .unwrap(),
            network: Network::Regtest,
            pay_by: PayBy::Nothing,
            listing: None,
            listed: None,
            max_price: None,
            max_fee: None,
            max_hold_secs: 600,
            sealed: false,
            fingerprint: None,
            started_at: now,
            deadline: now.plus(60),
        }
    }

    async fn listen(&self, terms: &Terms) -> Answers {
        let listening = self.ears.listen(&*self.session, terms, SOON);
        listening.await.unwrap()
    }

    /// What the provider says in answer to this request, or to nothing in particular.
    fn answer(&self, to: Option<&Terms>, words: &str) -> Event {
        let to = to.map(|terms| ReplyTo {
            event: terms.request.id,
            author: terms.request.pubkey,
        });
        channel::message(self.channel, "", words.to_owned(), to)
            .sign_with_keys(&self.provider)
            .unwrap()
    }

    async fn say(&self, to: Option<&Terms>, words: &str) {
        let event = self.answer(to, words);
        self.session.publish(&event, SOON).await.unwrap();
    }

    async fn hear(&self, answers: &mut Answers, terms: &Terms) -> String {
        loop {
            let next = tokio::time::timeout(SOON, answers.next(&*self.session, terms));
            match next.await.expect("it comes soon") {
                Some(Incoming::Event(event)) => return event.content,
                Some(Incoming::StoredDone { .. }) => {}
                None => panic!("the session has ended"),
            }
        }
    }
}

async fn relay() -> (EmbeddedRelay, String) {
    let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let url = relay.url().to_string();
    (relay, url)
}

#[tokio::test]
async fn each_purchase_hears_what_answers_it_and_what_says_not_whom() {
    let (_relay, url) = relay().await;
    let scene = Scene::on(&url);
    let (one, two) = (scene.purchase(), scene.purchase());
    let mut of_one = scene.listen(&one).await;
    let mut of_two = scene.listen(&two).await;
    scene.say(Some(&one), "for one").await;
    scene.say(Some(&two), "for two").await;
    scene.say(None, "for somebody").await;
    // Some say which of our messages they answer, and it need not be the request.
    scene
        .say(Some(&scene.purchase()), "for another event")
        .await;
    for (answers, terms, own) in [
        (&mut of_one, &one, "for one"),
        (&mut of_two, &two, "for two"),
    ] {
        for words in [own, "for somebody", "for another event"] {
            assert_eq!(scene.hear(answers, terms).await, words);
        }
    }
}

#[tokio::test]
async fn one_subscription_serves_all_purchases_from_a_provider() {
    let relay = ScriptedRelay::start(polite).await;
    let scene = Scene::on(relay.url().as_str());
    let mut kept = Vec::new();
    for _ in 0..8 {
        let terms = scene.purchase();
        kept.push(scene.listen(&terms).await);
    }
    drop(kept);
    // And one that comes when the others are over.
    let terms = scene.purchase();
    let _later = scene.listen(&terms).await;
    let other = Terms {
        channel: EventId::from_byte_array([8; 32]),
        ..scene.purchase()
    };
    let _elsewhere = scene.listen(&other).await;
    let asks = |heard: &&ClientMessage<'_>| matches!(heard, ClientMessage::Req { .. });
    relay
        .until(|heard| heard.iter().filter(asks).count() >= 2)
        .await;
    assert_eq!(relay.requests().len(), 2, "one for each channel");
}

#[tokio::test]
async fn who_can_not_keep_up_reads_again_what_it_missed_and_nothing_twice() {
    let (_relay, url) = relay().await;
    let scene = Scene::on(&url);
    let (slow, quick) = (scene.purchase(), scene.purchase());
    let mut of_slow = scene.listen(&slow).await;
    let mut of_quick = scene.listen(&quick).await;
    let said: Vec<String> = (0..400).map(|nth| nth.to_string()).collect();
    for words in &said {
        scene.say(None, words).await;
        assert_eq!(&scene.hear(&mut of_quick, &quick).await, words);
    }
    let mut heard = Vec::new();
    for _ in &said {
        heard.push(scene.hear(&mut of_slow, &slow).await);
    }
    heard.sort_by_key(|words| words.parse::<u32>().unwrap());
    assert_eq!(heard, said);
    scene.say(Some(&slow), "the last").await;
    assert_eq!(scene.hear(&mut of_slow, &slow).await, "the last");
}

/// Sends the first subscription nothing but that it is in place, and the others this event.
fn forgetful(stored: &Event) -> impl Fn(&ClientMessage<'_>) -> Vec<Say> + Send + Sync + 'static {
    let stored = stored.clone();
    let first = std::sync::OnceLock::<SubscriptionId>::new();
    move |heard| match heard {
        ClientMessage::Req {
            subscription_id, ..
        } => {
            let id = first.get_or_init(|| subscription_id.as_ref().clone());
            let mut says = vec![Say::text(&RelayMessage::eose(
                subscription_id.as_ref().clone(),
            ))];
            if id != subscription_id.as_ref() {
                says.insert(0, Say::event(subscription_id, &stored));
            }
            says
        }
        other => polite(other),
    }
}

#[tokio::test]
async fn a_relay_that_forgets_the_shared_subscription_is_asked_anew() {
    let provider = Keys::generate();
    let channel_id = EventId::from_byte_array([9; 32]);
    let answer = channel::message(channel_id, "", "what it had".to_owned(), None)
        .sign_with_keys(&provider)
        .unwrap();
    let relay = ScriptedRelay::start(forgetful(&answer)).await;
    let scene = Scene {
        provider,
        ..Scene::on(relay.url().as_str())
    };
    let terms = scene.purchase();
    let mut answers = scene.listen(&terms).await;
    assert_eq!(scene.hear(&mut answers, &terms).await, "what it had");
}

#[tokio::test]
async fn when_the_session_is_closed_nothing_more_is_to_come() {
    let (_relay, url) = relay().await;
    let scene = Scene::on(&url);
    let terms = scene.purchase();
    let mut answers = scene.listen(&terms).await;
    scene.session.close().await;
    let next = tokio::time::timeout(SOON, answers.next(&*scene.session, &terms));
    assert!(next.await.expect("at once").is_none());
}

//! Attacks on the encryption: downgrades, seals that don't open, seals for others.

use agent_compute::identity::Identity;
use agent_compute::ids::JobId;
use agent_compute::protocol::Feature;
use agent_compute::protocol::channel;
use agent_compute::protocol::codec;
use agent_compute::protocol::listing::listing;
use agent_compute::protocol::message::{AgentMessage, JobError, Sealed};
use agent_compute::relay::seal::Sealer;
use nostr::{Event, Keys, PublicKey, Timestamp};

use crate::cast::{Peer, now, result};
use crate::stage::{Books, PRICE, Stage};

fn sealer(keys: &Keys) -> Sealer {
    Sealer::new(Identity::from_keys(keys.clone()))
}

/// Signs a content as a message to one reader.
fn addressed(from: &Peer, content: String, to: PublicKey) -> Event {
    channel::addressed(from.channel, "", content, to)
        .custom_created_at(Timestamp::now())
        .sign_with_keys(&from.keys)
        .unwrap()
}

/// The next sealed request to this provider: its event, and what is in it.
async fn asked_sealed(peer: &mut Peer) -> (Event, AgentMessage) {
    let us = sealer(&peer.keys);
    let own = peer.key();
    peer.hear(|event, message| match message {
        AgentMessage::Sealed(sealed) if event.pubkey != own => {
            let opened = us.open(&event.pubkey, &sealed).ok()?;
            Some((event.clone(), opened))
        }
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_once_sent_seals_gets_no_plain_text_when_it_lists_none() {
    let stage = Stage::new().await;
    let mut peer = Peer::unlisted(&stage).await;
    peer.list(|listing| {
        listing.features.insert(Feature::Nip44);
    })
    .await;
    let customer = stage.customer();
    let buyer = {
        let key = peer.key();
        let buying = stage.buy(&customer, key, &[]);
        let (ran, ()) = tokio::join!(buying, async {
            let (event, request) = asked_sealed(&mut peer).await;
            assert!(matches!(request, AgentMessage::JobRequest(_)));
            // A refusal in the open is read as well: it tells nothing.
            let job = JobId::of_request(&event.id);
            let no = JobError::new(job, "busy", "not today");
            peer.say(AgentMessage::JobError(no)).await;
        });
        ran
    };
    assert_eq!(buyer.expect(10).last()["code"], "provider_refused");

    // From here on it says that it can't: whoever made it say so wants to read the prompt.
    // Later than the first by its own date: of two from one second a relay keeps either.
    let at = Timestamp::from_secs(now().plus(2).get());
    let downgraded = listing(&peer.listing_content()).custom_created_at(at);
    peer.publish(&downgraded.sign_with_keys(&peer.keys).unwrap())
        .await;
    let refused = stage.buy(&customer, peer.key(), &[]).await.expect(3);
    let said = refused.last()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("--plaintext"), "{said}");
    assert_eq!(stage.books(&customer).await, Books::untouched());

    // The owner may insist.
    let key = peer.key();
    let buying = stage.buy(&customer, key, &["--plaintext"]);
    let (ran, ()) = tokio::join!(buying, peer.sell("in the open"));
    assert_eq!(ran.expect(0).last()["text"], "in the open");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));

    // Somebody who never sealed anything to it has nothing to fall back from.
    let other = stage.customer();
    let buying = stage.buy(&other, key, &[]);
    let (ran, ()) = tokio::join!(buying, peer.sell("as it lists"));
    assert_eq!(ran.expect(0).last()["text"], "as it lists");
}

#[tokio::test(flavor = "multi_thread")]
async fn seals_that_do_not_open_change_nothing_for_the_customer() {
    let stage = Stage::new().await;
    let mut peer = Peer::unlisted(&stage).await;
    peer.list(|listing| {
        listing.features.insert(Feature::Nip44);
    })
    .await;
    let customer = stage.customer();
    let key = peer.key();
    let buying = stage.buy(&customer, key, &[]);
    let (ran, ()) = tokio::join!(buying, async {
        let (event, _) = asked_sealed(&mut peer).await;
        let job = JobId::of_request(&event.id);
        let us = sealer(&peer.keys);
        let buyer = event.pubkey;
        // Nonsense, a seal for somebody else, and a seal by somebody else under our signature.
        let nonsense = AgentMessage::Sealed(Sealed {
            payload: "A".repeat(1000),
        });
        let stranger = Keys::generate();
        let to_other = us.seal(&stranger.public_key(), &result(&job, "not yours"));
        let by_other = sealer(&stranger).seal(&buyer, &result(&job, "not mine"));
        for content in [
            codec::encode(&nonsense).unwrap(),
            to_other.unwrap(),
            by_other.unwrap(),
        ] {
            peer.publish(&addressed(&peer, content, buyer)).await;
        }
        // And then the job as it should be.
        let invoice = peer.issue(PRICE).await;
        let quote = AgentMessage::Invoice(agent_compute::protocol::message::Invoice::new(
            job.clone(),
            invoice.bolt11.clone(),
            invoice.amount,
        ));
        let content = us.seal(&buyer, &quote).unwrap();
        peer.publish(&addressed(&peer, content, buyer)).await;
        peer.until_money(invoice.payment_hash).await;
        let content = us.seal(&buyer, &result(&job, "done")).unwrap();
        peer.publish(&addressed(&peer, content, buyer)).await;
    });
    assert_eq!(ran.expect(0).last()["text"], "done");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_says_so_when_a_sealed_request_does_not_open_and_ignores_those_for_others() {
    let stage = Stage::new().await;
    let keys = Keys::generate();
    let provider = stage.provider(&keys, &[]).await;
    let channel = nostr::EventId::from_hex(provider.channel.as_ref().unwrap()).unwrap();
    let mut peer = Peer::join(&stage, Keys::generate(), channel).await;
    let request = AgentMessage::JobRequest(Peer::request(keys.public_key(), "hello"));

    // For another reader, though it names ours inside: not answered, as the next answer shows.
    let stranger = Keys::generate().public_key();
    let content = sealer(&peer.keys).seal(&stranger, &request).unwrap();
    let to_other = addressed(&peer, content.clone(), stranger);
    peer.publish(&to_other).await;
    // Addressed to ours, sealed to another.
    let unreadable = addressed(&peer, content, keys.public_key());
    peer.publish(&unreadable).await;
    let (job, code) = peer
        .hear(|_, message| match message {
            AgentMessage::JobError(error) => Some((error.job_id, error.code)),
            _ => None,
        })
        .await;
    assert_eq!(job, JobId::of_request(&unreadable.id));
    assert_eq!(code, "unreadable");

    // What opens is answered, and so that only the customer can read it.
    let content = sealer(&peer.keys).seal(&keys.public_key(), &request);
    let readable = addressed(&peer, content.unwrap(), keys.public_key());
    peer.publish(&readable).await;
    let us = sealer(&peer.keys);
    let answer = peer
        .hear(|event, message| match message {
            AgentMessage::Sealed(sealed) => us.open(&event.pubkey, &sealed).ok(),
            AgentMessage::Invoice(_) => panic!("answered in the open"),
            _ => None,
        })
        .await;
    let AgentMessage::Invoice(invoice) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(invoice.job_id, JobId::of_request(&readable.id));
    stage.serves(&keys).await;
}

//! Sealed messages: who can read them, and who can't.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_compute::identity::Identity;
use agent_compute::protocol::codec;
use agent_compute::protocol::message::{AgentMessage, Sealed};
use agent_compute::relay::seal::Sealer;
use agent_compute::relay::{
    EmbeddedRelay, Incoming, PoolOptions, RelayPoolSession, RelaySession, Subscription,
};
use nostr::{Event, Filter, Keys, Kind, SecretKey};
use serde_json::Value;

use crate::harness::{Provider, Ran, World, run};

/// Made by another implementation of NIP-44, from the golden vectors of plain messages: the customer's
/// secret key is 32 times 0x11, the provider's 32 times 0x22.
const SEALED: &str = include_str!("../fixtures/sealed.ndjson");

const PROMPT: &str = "a secret that nobody else may read";

fn identity(byte: u8) -> Identity {
    let secret = SecretKey::from_slice(&[byte; 32]).unwrap();
    Identity::from_keys(Keys::new(secret))
}

#[test]
fn golden_seals_open_to_golden_messages() {
    let (customer, provider) = (identity(0x11), identity(0x22));
    let mut count = 0;
    for line in SEALED.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| vector[key].as_str().unwrap().to_owned();
        let (from, to) = match text("from").as_str() {
            "customer" => (&customer, &provider),
            _ => (&provider, &customer),
        };
        let sealed = Sealed {
            payload: text("payload"),
        };
        let opened = Sealer::new(to.clone()).open(&from.public_key(), &sealed);
        assert_eq!(codec::encode(&opened.unwrap()).unwrap(), text("plaintext"));
        let stranger = Sealer::new(identity(0x33));
        assert!(stranger.open(&from.public_key(), &sealed).is_err());
        count += 1;
    }
    assert!(count >= 11, "{count} vectors");
}

#[test]
fn the_same_message_sealed_twice_looks_different() {
    let (customer, provider) = (Sealer::new(identity(0x11)), identity(0x22).public_key());
    let line = SEALED.lines().next().unwrap();
    let vector: Value = serde_json::from_str(line).unwrap();
    let message = codec::decode(vector["plaintext"].as_str().unwrap()).unwrap();
    let once = customer.seal(&provider, &message).unwrap();
    assert_ne!(once, customer.seal(&provider, &message).unwrap());
}

/// A market, and a third party who reads all that passes the relay.
struct Eavesdropped {
    world: World,
    heard: Subscription,
    _session: Arc<RelayPoolSession>,
    _relay: EmbeddedRelay,
}

impl Eavesdropped {
    async fn new() -> Self {
        let relay = EmbeddedRelay::listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let relay = relay.await.unwrap();
        let session = RelayPoolSession::connect(&[relay.url()], PoolOptions::default()).unwrap();
        let all = Filter::new().kind(Kind::ChannelMessage);
        let heard = session.subscribe(all, Duration::from_secs(60)).await;
        Self {
            world: World::on(relay.url().to_string()),
            heard: heard.unwrap(),
            _session: session,
            _relay: relay,
        }
    }

    async fn provider(&self, args: &'static [&str]) -> Provider {
        let mut command = self.world.bare_provider("seller", &["--create-channel"]);
        command.args(["--relay", &self.world.relay, "--backend", "echo"]);
        command.args(args);
        let starting = tokio::task::spawn_blocking(move || Provider::start(&mut command));
        starting.await.unwrap()
    }

    async fn buy(&self, args: &[&str]) -> Ran {
        let all = [&["--json", "--prompt", PROMPT], args].concat();
        let mut command = self.world.customer("buyer", &all);
        let running = tokio::task::spawn_blocking(move || run(&mut command));
        running.await.unwrap()
    }

    /// All that was said in channels, up to the whole text of the job.
    async fn overheard(&mut self, until: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        let listening = async {
            while !until(&events) {
                if let Some(Incoming::Event(event)) = self.heard.next().await {
                    events.push(*event);
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), listening).await;
        heard.unwrap_or_else(|_| panic!("not all was heard in time"));
        events
    }
}

fn type_of(event: &Event) -> String {
    let content: Value = serde_json::from_str(&event.content).unwrap();
    content["type"].as_str().unwrap().to_owned()
}

fn count(events: &[Event], wanted: &str) -> usize {
    events.iter().filter(|one| type_of(one) == wanted).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_sees_neither_prompt_nor_invoice_nor_result() {
    let mut market = Eavesdropped::new().await;
    let provider = market.provider(&["--wallet", "sim", "--stream"]).await;
    let ran = market.buy(&[]).await.expect(0);
    assert_eq!(ran.last()["text"], PROMPT);
    assert_eq!(ran.event("requested").unwrap()["encrypted"], true);

    // Request, invoice, payment sent, chunks, whole text.
    let words = PROMPT.split(' ').count();
    let events = market
        .overheard(|all| count(all, "Sealed") >= words + 4)
        .await;
    for event in &events {
        match type_of(event).as_str() {
            "ServiceAnnouncement" => continue,
            "Sealed" => {}
            other => panic!("{other} was said in the open: {}", event.content),
        }
        for secret in ["secret", "lnbcrt", "job_", "bolt11"] {
            assert!(!event.content.contains(secret), "{}", event.content);
        }
        // To one reader: the other of the two.
        let readers: Vec<_> = event.tags.public_keys().collect();
        assert_eq!(readers.len(), 1);
        let from_provider = event.pubkey.to_hex() == provider.pubkey;
        assert_eq!(readers[0].to_hex() == provider.pubkey, !from_provider);
        // A third key opens nothing.
        let AgentMessage::Sealed(sealed) = codec::decode(&event.content).unwrap() else {
            unreachable!()
        };
        let stranger = Sealer::new(Identity::from_keys(Keys::generate()));
        assert!(stranger.open(&event.pubkey, &sealed).is_err());
        assert!(stranger.open(readers[0], &sealed).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_for_those_who_ask_for_it() {
    let mut market = Eavesdropped::new().await;
    let _provider = market.provider(&["--wallet", "sim"]).await;
    let ran = market.buy(&["--plaintext"]).await.expect(0);
    assert_eq!(ran.event("requested").unwrap()["encrypted"], false);
    let events = market.overheard(|all| count(all, "JobResult") == 1).await;
    assert_eq!(count(&events, "Sealed"), 0);
    assert!(events.iter().any(|event| event.content.contains(PROMPT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_can_switch_encryption_off_or_forbid_plain_text() {
    let mut market = Eavesdropped::new().await;
    let _provider = market.provider(&["--wallet", "sim"]).await;
    market
        .world
        .config("buyer", "[policy]\nencrypt = \"required\"\n");
    let forbidden = market.buy(&["--plaintext"]).await.expect(2);
    let said = forbidden.last()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("encrypt = \"required\""), "{said}");
    let sealed = market.buy(&[]).await.expect(0);
    assert_eq!(sealed.event("requested").unwrap()["encrypted"], true);
    let events = market.overheard(|all| count(all, "Sealed") >= 4).await;
    assert_eq!(count(&events, "JobRequest"), 0);

    market
        .world
        .config("buyer", "[policy]\nencrypt = \"off\"\n");
    let plain = market.buy(&[]).await.expect(0);
    assert_eq!(plain.event("requested").unwrap()["encrypted"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_wallet_messages_are_sealed_all_the_same() {
    let mut market = Eavesdropped::new().await;
    let _provider = market.provider(&["--no-wallet"]).await;
    let mut command = market.world.bare_customer(
        "buyer",
        &["--json", "--no-wallet", "--relay", &market.world.relay],
    );
    command.args(["--prompt", PROMPT]);
    let running = tokio::task::spawn_blocking(move || run(&mut command));
    assert_eq!(running.await.unwrap().expect(0).last()["text"], PROMPT);
    let events = market.overheard(|all| count(all, "Sealed") >= 4).await;
    assert_eq!(count(&events, "Invoice"), 0);
}

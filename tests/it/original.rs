//! The deployed original as provider and as customer. Its programs are played by [`peers`], in the order
//! and with the filters of its source; what they say is held against what was recorded from them.

mod peers;

use std::sync::Arc;

use agent_compute::clock::Clock;
use agent_compute::identity::Identity;
use agent_compute::provider::backend::{Backend, BackendError, GenerateRequest, Generated};
use agent_compute::provider::store::JobStore;
use agent_compute::provider::{self, ChannelChoice, Parts, ProviderConfig};
use agent_compute::relay::{PoolOptions, RelayPoolSession};
use agent_compute::units::Network;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::{Event, JsonUtil};
use serde_json::Value;

use self::peers::{Flags, Provider, Said, Served, agent, customer};
use crate::harness::{Ran, World, assert_conserved, run};

const PROMPT: &str = "What is 2+2?";

/// Our customer, paying nothing.
fn buy_unpaid(world: &World, args: &[&str]) -> Ran {
    let relay = world.relay.clone();
    let mut all = vec![
        "--json",
        "--relay",
        &relay,
        "--no-wallet",
        "--prompt",
        PROMPT,
    ];
    all.extend_from_slice(args);
    run(&mut world.bare_customer("buyer", &all))
}

fn tokens() -> Option<Vec<String>> {
    Some((0..20).map(|n| format!("tok{n} ")).collect())
}

fn wallet(world: &World) -> SimWallet {
    let identity = Identity::from_keys(nostr::Keys::generate());
    SimWallet::open(&world.bank(), identity.public_key(), SimOptions::default()).unwrap()
}

#[test]
fn the_peers_speak_as_was_recorded() {
    let capture = include_str!("../fixtures/captures/original-channel.ndjson");
    let mut kinds = std::collections::BTreeSet::new();
    for line in capture.lines() {
        let event = Event::from_json(line).unwrap();
        if event.kind.as_u16() != 42 {
            continue;
        }
        let said: Said = serde_json::from_str(&event.content).unwrap();
        assert_eq!(serde_json::to_string(&said).unwrap(), event.content);
        let value: Value = serde_json::from_str(&event.content).unwrap();
        kinds.insert(value["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

mod their_customer {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn discovers_and_buys_plain() {
        let world = World::new();
        let seller = world.provider("seller", &["--no-wallet"]);
        let shown = customer(&Flags::new(&world.relay, PROMPT)).await.unwrap();
        assert_eq!(shown.result, PROMPT);
        assert_eq!(shown.streamed, "");
        assert_eq!(shown.bolt11, "lnbcrt100n1mock");
        assert_eq!(shown.payment_hash.as_deref(), Some("mock_payment_hash"));
        assert_eq!(shown.amount_msats, 10_000);
        drop(seller);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sees_the_text_grow_and_then_whole() {
        let world = World::new();
        let seller = world.provider("seller", &["--no-wallet", "--stream"]);
        let channel = seller.channel.clone().unwrap();
        let flags = Flags {
            channel: Some(&channel),
            ..Flags::new(&world.relay, "one two three four five")
        };
        let shown = customer(&flags).await.unwrap();
        assert_eq!(shown.streamed, "one two three four five");
        assert_eq!(shown.result, shown.streamed);
        assert_eq!(shown.finals, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn locks_nothing_pays_nothing_and_is_served() {
        let world = World::new();
        let seller = world.provider("seller", &["--no-wallet", "--stream"]);
        let flags = Flags {
            htlc: true,
            select: &seller.pubkey[..8],
            ..Flags::new(&world.relay, PROMPT)
        };
        assert_eq!(customer(&flags).await.unwrap().result, PROMPT);
        // And again: nothing of the first is left over.
        assert_eq!(customer(&flags).await.unwrap().result, PROMPT);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn finds_the_cheapest_of_ours_and_theirs() {
        let world = World::new();
        let served = Served {
            model: tokens(),
            ..Served::default()
        };
        let _theirs = Provider::start(&world.relay, served).await;
        let _ours = world.provider("seller", &["--no-wallet", "--price", "9999"]);
        let flags = Flags {
            select: "cheapest",
            ..Flags::new(&world.relay, PROMPT)
        };
        let shown = customer(&flags).await.unwrap();
        assert_eq!((shown.amount_msats, shown.result.as_str()), (9_999, PROMPT));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_not_served_on_its_word_where_money_is_asked() {
        let world = World::new();
        let seller = world.provider("seller", &[]);
        let channel = seller.channel.clone();
        let flags = Flags {
            channel: channel.as_deref(),
            ..Flags::new(&world.relay, PROMPT)
        };
        // It says that it paid, and has not.
        let wait = customer(&flags);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(4), wait).await;
        assert!(waited.is_err(), "{waited:?}");
        let jobs = run(&mut world.bare_provider("seller", &["--json", "jobs"])).expect(0);
        assert_eq!(jobs.last()["state"], "quoted");
    }
}

mod their_agent {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn buys_for_money_and_has_the_whole_text_at_the_last_chunk() {
        let world = World::new();
        for (home, args) in [("plain", &[][..]), ("streaming", &["--stream"][..])] {
            let mut seller = world.provider(home, args);
            let wallet = wallet(&world);
            let text = "a b c d e f g h i j";
            assert_eq!(agent(&world.relay, text, &wallet).await, text);
            assert_eq!(world.provider_balance(home), 100_010_000);
            // Its listing goes with it, so that the next agent finds the next one.
            seller.process.signal("TERM");
            assert_eq!(seller.process.exit_code(), Some(0));
        }
        assert_conserved(&world.bank());
    }

    /// A model that is out of order.
    #[derive(Debug)]
    struct Broken;

    #[async_trait::async_trait]
    impl Backend for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        async fn models(&self) -> Result<Vec<String>, BackendError> {
            Ok(vec!["broken".into()])
        }

        async fn generate(
            &self,
            _request: GenerateRequest,
            _chunks: tokio::sync::mpsc::Sender<String>,
        ) -> Result<Generated, BackendError> {
            Err(BackendError::Failed("no memory left on device 0".into()))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_told_of_a_failure_in_the_words_it_knows() {
        let world = World::new();
        let relay = nostr::RelayUrl::parse(&world.relay).unwrap();
        let relays =
            RelayPoolSession::connect(std::slice::from_ref(&relay), PoolOptions::default());
        let parts = Parts {
            identity: Identity::from_keys(nostr::Keys::generate()),
            relays: relays.unwrap(),
            wallet: Some(Arc::new(wallet(&world))),
            backend: Arc::new(Broken),
            store: JobStore::open(&world.home("jobs.sqlite")).unwrap(),
            clock: Clock::system(),
        };
        let channel = ChannelChoice::Create { renew: false };
        let config = ProviderConfig::new(channel, vec![relay], Network::Regtest);
        let ours = provider::Provider::start(config, parts).await.unwrap();
        let told = agent(&world.relay, PROMPT, &wallet(&world)).await;
        assert!(told.starts_with("Error: "), "{told}");
        assert!(!told.contains("device 0"), "{told}");
        ours.stop().await.unwrap();
    }
}

mod their_provider {
    use super::*;

    async fn theirs(world: &World, stream: bool) -> Provider {
        let served = Served {
            stream,
            model: tokens(),
            ..Served::default()
        };
        Provider::start(&world.relay, served).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_discovered_and_bought_from_plain_and_streaming() {
        let text = tokens().unwrap().concat();
        for stream in [false, true] {
            let world = World::new();
            let theirs = theirs(&world, stream).await;
            let ran = buy_unpaid(&world, &[]).expect(0);
            let last = ran.last();
            assert_eq!(last["text"], text.as_str());
            assert_eq!(last["provider"], theirs.pubkey.as_str());
            assert_eq!(last["model"], "mock:latest");
            assert_eq!(
                (&last["paid_msat"], &last["preimage"]),
                (&0.into(), &Value::Null)
            );
            let streamed: String = ran
                .events()
                .iter()
                .filter(|event| event["event"] == "chunk")
                .map(|event| event["text"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(streamed, if stream { &text } else { "" });
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_bought_from_in_its_channel_by_key_and_by_model() {
        let world = World::new();
        let theirs = theirs(&world, true).await;
        let channel = theirs.channel.as_str();
        for args in [
            &["--channel", channel][..],
            &["--channel", channel, "--discover", "--model", "mock:latest"],
            &["--channel", channel, "--select", &theirs.pubkey[..8]],
        ] {
            let ran = buy_unpaid(&world, args).expect(0);
            assert_eq!(ran.last()["text"], tokens().unwrap().concat().as_str());
        }
        buy_unpaid(&world, &["--model", "other"]).expect(3);
        buy_unpaid(&world, &["--max-price", "9999"]).expect(3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_has_no_model_fails_as_undelivered() {
        let world = World::new();
        let theirs = Provider::start(&world.relay, Served::default()).await;
        let ran = buy_unpaid(&world, &["--channel", &theirs.channel]).expect(7);
        let last = ran.last();
        let message = last["message"].as_str().unwrap();
        assert!(message.contains("No inference backend"), "{message}");
        assert_eq!(last["paid_msat"], 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_gives_no_real_invoice_is_not_paid() {
        let world = World::new();
        let _theirs = theirs(&world, false).await;
        let ran = world.buy("buyer", &["--prompt", PROMPT]).expect(11);
        assert_eq!(ran.last()["code"], "bad_invoice");
        assert_eq!(world.daily("buyer"), (0, 0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_gives_a_real_invoice_is_paid_once() {
        let world = World::new();
        let served = Served {
            stream: true,
            wallet: Some(wallet(&world)),
            model: tokens(),
            ..Served::default()
        };
        let theirs = Provider::start(&world.relay, served).await;
        let ran = world.buy("buyer", &["--prompt", PROMPT]).expect(0);
        let last = ran.last();
        assert_eq!(last["text"], tokens().unwrap().concat().as_str());
        assert_eq!(last["provider"], theirs.pubkey.as_str());
        assert_eq!(last["paid_msat"], 10_000);
        assert_eq!(world.daily("buyer"), (10_000, 0, 0));
        assert_eq!(world.balance("buyer"), 99_990_000);
        assert_conserved(&world.bank());
    }

    /// It works on every `PaymentSent` it hears, in whoever's name: on a prompt of its own if it has none.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_answers_for_another_in_its_channel_is_not_heard() {
        let world = World::new();
        let theirs = theirs(&world, true).await;
        let args = ["--no-wallet", "--stream", "--channel", &theirs.channel];
        let ours = world.provider("seller", &args);
        for (key, says) in [
            (&ours.pubkey, PROMPT.to_owned()),
            (&theirs.pubkey, tokens().unwrap().concat()),
        ] {
            let args = ["--channel", &theirs.channel, "--select", &key[..16]];
            let last = buy_unpaid(&world, &args).expect(0).last();
            assert_eq!(last["text"], says.as_str());
            assert_eq!(last["provider"], key.as_str());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn can_use_our_relay_with_the_long_names_of_its_later_version() {
        let world = World::new();
        assert!(peers::hears_direct_requests(&world.relay).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn holds_no_escrow_and_is_not_asked_to() {
        let world = World::new();
        let _theirs = theirs(&world, false).await;
        let ran = world.buy("buyer", &["--htlc", "--prompt", PROMPT]);
        assert_ne!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.last()["paid_msat"], 0);
        assert_eq!(world.daily("buyer"), (0, 0, 0));
    }
}

//! Messages that a relay took and lost, told twice, or let others overtake.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::harness::PATIENCE;

/// What happens to the first messages of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Taken, and forgotten.
    Lost,
    /// Told on twice.
    Twice,
    /// Told on after the next message of the same program, whatever that is.
    Overtaken,
}

/// Stands between a program and the relay and harms what the program says.
struct Proxy {
    url: String,
    harmed: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// What is harmed: messages with this word in them, so many of them, in this way.
#[derive(Clone)]
struct Order {
    word: String,
    harm: Harm,
    most: usize,
    harmed: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(relay: &str, message: &str, harm: Harm, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let harmed = Arc::new(AtomicUsize::new(0));
        let order = Order {
            word: format!(r#"{{\"type\":\"{message}\""#),
            harm,
            most,
            harmed: Arc::clone(&harmed),
        };
        let relay = relay.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                conversations.spawn(converse(stream, relay.clone(), order.clone()));
            }
        });
        Self {
            url,
            harmed,
            _serving: serving,
        }
    }
}

async fn converse(stream: TcpStream, relay: String, order: Order) {
    let Ok(client) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let Ok((server, _)) = tokio_tungstenite::connect_async(relay).await else {
        return;
    };
    let (mut to_client, mut from_client) = client.split();
    let (mut to_server, mut from_server) = server.split();
    let mut held_back = None;
    loop {
        let said = tokio::select! {
            said = from_client.next() => said,
            told = from_server.next() => {
                let Some(Ok(told)) = told else { return };
                if to_client.send(told).await.is_err() { return }
                continue;
            }
        };
        let Some(Ok(said)) = said else { return };
        let mut on = Vec::new();
        if order.wants(&said) {
            match order.harm {
                Harm::Lost => {
                    let _ = to_client.send(taken(&said)).await;
                }
                Harm::Twice => on.extend([said.clone(), said]),
                Harm::Overtaken => {
                    let _ = to_client.send(taken(&said)).await;
                    held_back = Some(said);
                }
            }
        } else {
            let is_event = matches!(&said, Message::Text(text) if text.starts_with("[\"EVENT\""));
            on.push(said);
            if is_event {
                on.extend(held_back.take());
            }
        }
        for message in on {
            if to_server.send(message).await.is_err() {
                return;
            }
        }
    }
}

impl Order {
    fn wants(&self, said: &Message) -> bool {
        let Message::Text(text) = said else {
            return false;
        };
        text.starts_with("[\"EVENT\"")
            && text.contains(&self.word)
            && self
                .harmed
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |so_far| {
                    (so_far < self.most).then_some(so_far + 1)
                })
                .is_ok()
    }
}

/// What a relay says that has taken an event.
fn taken(said: &Message) -> Message {
    let event: Value = serde_json::from_str(said.to_text().unwrap()).unwrap();
    let ok = serde_json::json!(["OK", event[1]["id"], true, ""]);
    Message::text(ok.to_string())
}

const ALL: [Harm; 3] = [Harm::Lost, Harm::Twice, Harm::Overtaken];

async fn blocking<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(what))
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_relay_does_to_the_customers_words_the_money_is_settled_once() {
    let world = Arc::new(blocking(World::new).await);
    let there = Arc::clone(&world);
    let _seller = blocking(move || Seller::start(&there, &[])).await;
    let mut buying = JoinSet::new();
    for message in ["HtlcLocked", "PaymentSent", "PreimageRelease"] {
        for harm in ALL {
            let world = Arc::clone(&world);
            buying.spawn(async move {
                let proxy = Proxy::start(&world.relay, message, harm, 1).await;
                let (url, home) = (proxy.url.clone(), format!("buyer-{message}-{harm:?}"));
                blocking(move || {
                    let args = ["--json", "--htlc", "--plaintext", "--prompt", TEXT];
                    let mut command = world.bare_customer(&home, &args);
                    let ran = run(command.args(["--relay", &url, "--wallet", "sim"])).expect(0);
                    assert_eq!(ran.last()["text"], TEXT);
                    settle(&world, &home);
                    assert_eq!(assert_one_story(&world, &home), PRICE);
                })
                .await;
                assert_eq!(proxy.harmed.load(Ordering::SeqCst), 1, "{message} {harm:?}");
            });
        }
    }
    let all = buying.join_all().await.len() as u64;
    blocking(move || {
        until_sold(&world);
        let earned = world.provider_balance("seller") - OPENING_BALANCE;
        assert_eq!(earned, all * PRICE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_never_arrives_is_said_again_by_recover() {
    let world = Arc::new(blocking(World::new).await);
    let there = Arc::clone(&world);
    let _seller = blocking(move || Seller::start(&there, &[])).await;
    let proxy = Proxy::start(&world.relay, "PreimageRelease", Harm::Lost, usize::MAX).await;
    let url = proxy.url.clone();
    blocking(move || {
        let args = ["--json", "--htlc", "--plaintext", "--prompt", TEXT];
        let mut command = world.bare_customer("buyer", &args);
        let ran = run(command.args(["--relay", &url, "--wallet", "sim"])).expect(0);
        let result = ran.last();
        assert_eq!(
            (&result["text"], &result["paid_msat"]),
            (&TEXT.into(), &0.into())
        );
        assert_eq!(result["reserved_msat"], PRICE);
        assert_eq!(world.daily("buyer"), (0, PRICE, 0));
        assert_eq!(held_at_bank(&world), PRICE);
        assert_eq!(assert_all_delivered(&world, "buyer"), PRICE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_relay_does_to_the_providers_words_nothing_is_paid_for_nothing() {
    let mut selling = JoinSet::new();
    for message in ["Invoice", "StreamChunk", "JobResult"] {
        for harm in ALL {
            if (message, harm) == ("Invoice", Harm::Overtaken) {
                // Nothing follows before it is paid.
                continue;
            }
            selling.spawn(async move {
                let world = blocking(World::new).await;
                let proxy = Proxy::start(&world.relay, message, harm, 1).await;
                let url = proxy.url.clone();
                blocking(move || {
                    let _seller = Seller::on(&url, &world, &["--backend", "echo"]);
                    let args = ["--plaintext", "--timeout", "4"];
                    let mut buying = start_buying(&world, "buyer", &args);
                    let code = buying.exit_code();
                    let lost_invoice = (message, harm) == ("Invoice", Harm::Lost);
                    // Of everything else one copy, or the whole text, arrives.
                    let expected = if lost_invoice { 9 } else { 0 };
                    assert_eq!(code, Some(expected), "{message} {harm:?}");
                    let spent = assert_all_delivered(&world, "buyer");
                    assert_eq!(spent, PRICE * u64::from(!lost_invoice));
                    let earned = world.provider_balance("seller") - OPENING_BALANCE;
                    assert_eq!(earned, spent);
                })
                .await;
                assert_eq!(proxy.harmed.load(Ordering::SeqCst), 1, "{message} {harm:?}");
            });
        }
    }
    selling.join_all().await;
}

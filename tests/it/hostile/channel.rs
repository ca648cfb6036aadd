//! A third key in the channel: it forges, replays and shouts.

use agent_compute::ids::JobId;
use agent_compute::protocol::message::{AgentMessage, HtlcLocked, PreimageRelease, Sealed};
use agent_compute::units::Msat;
use agent_compute::wallet::{Incoming as Money, Wallet};
use nostr::{Event, EventId, Keys, Timestamp};

use crate::cast::{Peer, chunk, result};
use crate::harness::Provider;
use crate::stage::{Books, PRICE, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_third_key_says_of_our_job_is_believed() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let forger = Peer::join(&stage, Keys::generate(), provider.channel).await;
    let customer = stage.customer();
    let mut forged = Vec::new();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        // Before the real invoice: a refusal, and an invoice of the agreed amount to another payee.
        forger.refuse(&job.id, "go away").await;
        forged.push(forger.issue(PRICE).await);
        forger.quote_modern(&job.id, &forged[0]).await;
        let invoice = provider.issue(PRICE).await;
        provider.quote_modern(&job.id, &invoice).await;
        // After it, and after the payment.
        forged.push(forger.issue(PRICE).await);
        forger.quote_modern(&job.id, &forged[1]).await;
        forger.chunk(&job.id, Some(0), "forged ", false).await;
        forger.result(&job.id, "forged").await;
        provider.until_money(invoice.payment_hash).await;
        forger.chunk(&job.id, Some(0), "forged ", true).await;
        forger.result(&job.id, "forged").await;
        forger.refuse(&job.id, "sorry").await;
        provider.result(&job.id, "true").await;
    });
    let ran = ran.expect(0);
    assert_eq!(ran.last()["text"], "true");
    assert!(ran.event("chunk").is_none());
    for invoice in forged {
        let money = forger.wallet.incoming(invoice.payment_hash).await.unwrap();
        assert_eq!(money, Money::Open);
    }
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_said_for_an_earlier_job_counts_for_that_job_only() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let mut said: Vec<Event> = Vec::new();
    let (ran, old) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        let invoice = provider.issue(PRICE).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
        provider.until_money(invoice.payment_hash).await;
        said.push(provider.say(chunk(&job.id, Some(0), "old", true)).await);
        said.push(provider.say(result(&job.id, "old")).await);
        (job, invoice)
    });
    assert_eq!(ran.expect(0).last()["text"], "old");
    let replayer = Peer::join(&stage, Keys::generate(), provider.channel).await;
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        assert_ne!(job.id, old.0.id);
        // The very events again, and the provider itself saying them once more.
        replayer.publish_all(&said).await;
        provider.quote(&old.0.id, &old.1.bolt11, PRICE).await;
        provider.say(result(&old.0.id, "old again")).await;
        let invoice = provider.issue(PRICE).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
        provider.until_money(invoice.payment_hash).await;
        replayer.publish_all(&said).await;
        provider.say(result(&old.0.id, "old, later")).await;
        provider.result(&job.id, "new").await;
    });
    assert_eq!(ran.expect(0).last()["text"], "new");
    assert_eq!(stage.books(&customer).await, Books::paid(2 * PRICE));
}

/// Everything that is no message of ours, and some that is.
fn noise(shouter: &Peer, provider: &Provider, count: usize) -> Vec<Event> {
    let deep = |open: &str| format!("{{\"type\":\"Invoice\",\"x\":{}", open.repeat(4_000));
    let job_id = JobId::from_wire("job_0000000000000000");
    let now = Timestamp::now();
    (0..count)
        .map(|n| {
            let content = match n % 12 {
                0 => format!("{n} good morning"),
                1 => format!("{{\"type\":\"JobRequest\",\"n\":{n}"),
                2 => format!("{n}{}", "z".repeat(40_000)),
                3 => format!("{}{n}", deep("[")),
                4 => format!("{}{n}", deep("{\"a\":")),
                5 => format!("[{n},null,\"\u{1b}[2J\\u0000\"]"),
                6 => format!("{{\"type\":\"Invoice\",\"job_id\":{n},\"amount_msats\":-1}}"),
                7 => format!("{{\"type\":\"Nonsense\",\"n\":{n}}}"),
                8 => format!("{{\"type\":\"JobRequest\",\"kind\":99999999,\"prompt\":\"{n}\",\"max_tokens\":1e400}}"),
                9 => encoded(AgentMessage::Sealed(Sealed {
                    payload: format!("{n}{}", "A".repeat(30_000)),
                })),
                10 => encoded(AgentMessage::HtlcLocked(HtlcLocked {
                    job_id: job_id.clone(),
                    payment_hash: format!("{n}"),
                    amount_msats: Msat::new(u64::MAX),
                    expiry_secs: u64::MAX,
                    token: None,
                })),
                _ => encoded(AgentMessage::PreimageRelease(PreimageRelease {
                    job_id: JobId::from_wire(format!("{}{n}", provider.pubkey)),
                    preimage: "00".repeat(32),
                })),
            };
            shouter.sign_raw(content, now)
        })
        .collect()
}

fn encoded(message: AgentMessage) -> String {
    serde_json::to_string(&message).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_full_of_noise_is_traded_in_all_the_same() {
    let stage = Stage::new().await;
    let keys = Keys::generate();
    let mut provider = stage.provider(&keys, &["--stream"]).await;
    let channel = provider.channel.clone().unwrap();
    let id = EventId::from_hex(&channel).unwrap();
    let shouter = Peer::join(&stage, Keys::generate(), id).await;
    let before = noise(&shouter, &provider, 1200);
    let (during, rest) = before.split_at(400);
    shouter.publish_all(rest).await;
    let customer = stage.customer();
    // Found by its announcement among the noise, and heard through it.
    let args = ["--discovery-time", "30", "--channel", &channel];
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, keys.public_key(), &args),
        shouter.publish_all(during)
    );
    assert_eq!(ran.expect(0).last()["text"], "hello");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    assert!(provider.process.child.try_wait().unwrap().is_none());
}

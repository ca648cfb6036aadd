//! Customers that want work for nothing, or want to be in the way.

use agent_compute::ids::{JobId, Preimage};
use agent_compute::protocol::message::{
    AgentMessage, Cancel, HtlcLocked, Invoice, JobRequest, PreimageRelease, Sealed,
};
use agent_compute::units::Msat;
use agent_compute::wallet::PayOutcome;
use nostr::{Event, EventId, Keys, Timestamp};

use crate::cast::{Peer, now};
use crate::harness::assert_conserved;
use crate::stage::{PRICE, SOON, Stage};

/// The real provider, and what is needed to attack it.
struct Shop {
    stage: Stage,
    keys: Keys,
    channel: EventId,
    provider: crate::harness::Provider,
}

impl Shop {
    async fn open() -> Self {
        let (stage, keys) = (Stage::new().await, Keys::generate());
        let provider = stage.provider(&keys, &[]).await;
        let channel = EventId::from_hex(provider.channel.as_ref().unwrap()).unwrap();
        Self {
            stage,
            keys,
            channel,
            provider,
        }
    }

    async fn peer(&self) -> Peer {
        Peer::join(&self.stage, Keys::generate(), self.channel).await
    }

    fn request(&self, prompt: &str) -> JobRequest {
        Peer::request(self.keys.public_key(), prompt)
    }

    /// Still there, still serving, and every msat accounted for: `sold` jobs so far, and one more.
    async fn stands(&mut self, sold: u64) {
        self.stage.serves(&self.keys).await;
        assert_eq!(self.stage.earned(&self.keys).await, (sold + 1) * PRICE);
        assert_conserved(&self.stage.world.bank());
        assert!(self.provider.process.child.try_wait().unwrap().is_none());
    }
}

async fn quoted(peer: &mut Peer, request: JobRequest) -> (JobId, Invoice) {
    let job = peer.ask(request).await;
    let invoice = peer.answer(&job).await.unwrap();
    (job, invoice)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_work_by_talking() {
    let mut shop = Shop::open().await;
    let (mut payer, mut rider) = (shop.peer().await, shop.peer().await);
    let (paid_job, paid) = quoted(&mut payer, shop.request("paid")).await;
    assert!(matches!(payer.pay(&paid).await, PayOutcome::Paid { .. }));
    payer.says_paid(&paid_job, "true").await;
    assert_eq!(payer.whole_text(&paid_job).await, "paid");

    let (job, invoice) = quoted(&mut rider, shop.request("free")).await;
    let someone_elses = paid.payment_hash.clone().unwrap();
    let own = invoice.payment_hash.clone().unwrap();
    for payment_id in ["", "mock-payment-id", &someone_elses, &own, "x\n\u{1b}[2J"] {
        rider.says_paid(&job, payment_id).await;
    }
    // Another's job, which is paid and done.
    rider.says_paid(&paid_job, &someone_elses).await;
    for payment_hash in [own, "zz".into(), String::new()] {
        rider
            .say(AgentMessage::HtlcLocked(HtlcLocked {
                job_id: job.clone(),
                payment_hash,
                amount_msats: Msat::new(u64::MAX),
                expiry_secs: u64::MAX,
                token: Some("cashuA".repeat(100)),
            }))
            .await;
    }
    for preimage in [
        "00".repeat(32),
        "not hex".into(),
        Preimage::from_bytes([1; 32]).reveal(),
    ] {
        let job_id = job.clone();
        rider
            .say(AgentMessage::PreimageRelease(PreimageRelease {
                job_id,
                preimage,
            }))
            .await;
    }
    for payload in ["", "AAAA", "?iv=", &"A".repeat(40_000)] {
        let payload = payload.to_owned();
        rider.say(AgentMessage::Sealed(Sealed { payload })).await;
    }
    shop.stands(1).await;
    assert_eq!(shop.stage.job_state(&job).await.as_deref(), Some("quoted"));
    assert_eq!(
        shop.stage.job_state(&paid_job).await.as_deref(),
        Some("delivered")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_its_customers_alone_to_cancel_and_anybodys_to_pay_once() {
    let mut shop = Shop::open().await;
    let (mut victim, mut other) = (shop.peer().await, shop.peer().await);
    let (job, invoice) = quoted(&mut victim, shop.request("mine")).await;
    let (others_job, others_invoice) = quoted(&mut other, shop.request("other")).await;
    other
        .say(AgentMessage::Cancel(Cancel {
            job_id: job.clone(),
        }))
        .await;
    other.says_paid(&job, "mine").await;
    // Two pay for one invoice: the second keeps its money.
    assert!(matches!(other.pay(&invoice).await, PayOutcome::Paid { .. }));
    assert!(matches!(victim.pay(&invoice).await, PayOutcome::Failed(_)));
    // The invoice is of the victim's job, so that is what was paid for.
    other
        .says_paid(&others_job, &invoice.payment_hash.unwrap())
        .await;
    victim.says_paid(&job, "late").await;
    assert_eq!(victim.whole_text(&job).await, "mine");
    assert_eq!(
        shop.stage.job_state(&others_job).await.as_deref(),
        Some("quoted")
    );
    // Cancelled by its own customer, and paid all the same: the bank does not take it.
    other
        .say(AgentMessage::Cancel(Cancel {
            job_id: others_job.clone(),
        }))
        .await;
    let cancelled = async {
        let state = async || shop.stage.job_state(&others_job).await;
        while state().await.as_deref() != Some("cancelled") {}
    };
    tokio::time::timeout(SOON, cancelled)
        .await
        .expect("in time");
    assert!(matches!(
        other.pay(&others_invoice).await,
        PayOutcome::Failed(_)
    ));
    shop.stands(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_edges_are_served_refused_or_ignored() {
    let mut shop = Shop::open().await;
    let mut peer = shop.peer().await;
    let with = |change: fn(&mut JobRequest)| {
        let mut request = shop.request("edge");
        change(&mut request);
        request
    };
    for (request, code) in [
        (with(|r| r.prompt = String::new()), "invalid"),
        (with(|r| r.prompt = " \n\t".into()), "invalid"),
        (with(|r| r.max_tokens = 0), "invalid"),
        (with(|r| r.max_tokens = u32::MAX), "invalid"),
        (with(|r| r.kind = 5930), "invalid"),
        (with(|r| r.model = Some("\u{1b}[2J".into())), "model"),
        (
            with(|r| r.max_price_msats = Some(Msat::new(PRICE - 1))),
            "price",
        ),
        (with(|r| r.payment_hash = Some("00".repeat(32))), "escrow"),
    ] {
        let job = peer.ask(request).await;
        assert_eq!(peer.answer(&job).await.unwrap_err(), code);
    }
    let mut silent = vec![
        peer.sign(&AgentMessage::JobRequest(with(|r| {
            r.target_provider = Some("00".repeat(32))
        }))),
        peer.sign(&AgentMessage::JobRequest(with(|r| {
            r.prompt = "x".repeat(32 * 1024)
        }))),
        peer.sign(&AgentMessage::JobRequest(with(|r| {
            r.nonce = Some("n".repeat(1000))
        }))),
    ];
    let at = |secs| Timestamp::from_secs(secs);
    let dated = |secs| {
        let request = AgentMessage::JobRequest(shop.request("dated"));
        peer.sign_raw(serde_json::to_string(&request).unwrap(), at(secs))
    };
    silent.extend([
        dated(1),
        dated(now().minus(3600).get()),
        dated(now().plus(86_400).get()),
    ]);
    peer.publish_all(&silent).await;
    // From the provider's own key, and in another channel.
    let itself = Peer::join(&shop.stage, shop.keys.clone(), shop.channel).await;
    let elsewhere = EventId::from_byte_array([5; 32]);
    let elsewhere = Peer::join(&shop.stage, Keys::generate(), elsewhere).await;
    for stray in [&itself, &elsewhere] {
        let event = stray.sign(&AgentMessage::JobRequest(shop.request("stray")));
        stray.publish(&event).await;
        silent.push(event);
    }
    // A prompt of almost 32 KiB, and one of control characters, are prompts.
    let long = format!("{} end", "y".repeat(31 * 1024));
    for prompt in [&long, "a\0b\u{1b}[2J\u{202e}"] {
        let (job, invoice) = quoted(&mut peer, shop.request(prompt)).await;
        assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
        peer.says_paid(&job, "paid").await;
        if prompt != long {
            assert_eq!(peer.whole_text(&job).await, prompt);
        }
    }
    let ids: Vec<JobId> = silent
        .iter()
        .map(|event| JobId::of_request(&event.id))
        .collect();
    for job in &ids {
        assert_eq!(shop.stage.job_state(job).await, None);
    }
    shop.stands(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_one_job_however_often_it_is_sent() {
    let mut shop = Shop::open().await;
    let mut peer = shop.peer().await;
    let event = peer.sign(&AgentMessage::JobRequest(shop.request("once")));
    for _ in 0..20 {
        peer.publish(&event).await;
    }
    let job = JobId::of_request(&event.id);
    let invoice = peer.answer(&job).await.unwrap();
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    peer.says_paid(&job, "paid").await;
    assert_eq!(peer.whole_text(&job).await, "once");
    // The same words from another key are another job, to be paid by itself.
    let mut copier = shop.peer().await;
    let copy: Event = copier.sign_raw(event.content.clone(), event.created_at);
    copier.publish(&copy).await;
    let copied = JobId::of_request(&copy.id);
    copier.answer(&copied).await.unwrap();
    copier.says_paid(&copied, "as before").await;
    copier.says_paid(&job, "as before").await;
    peer.publish(&event).await;
    shop.stands(1).await;
    assert_eq!(
        shop.stage.job_state(&copied).await.as_deref(),
        Some("quoted")
    );
}

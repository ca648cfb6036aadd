//! Customers that want work for nothing, or want to be in the way, of a real provider that others buy from.

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::protocol::message::{
    AgentMessage, Cancel, HtlcLocked, Invoice, JobRequest, PaymentSent, PreimageRelease,
};
use agent_compute::protocol::{Feature, KIND_TEXT_GENERATION};
use agent_compute::units::Msat;
use agent_compute::wallet::PayOutcome;
use nostr::PublicKey;
use rand::Rng;

use super::peer::{Job, Peer};

/// How a customer misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rogue {
    /// Says that it paid.
    ClaimsPayment,
    /// Locks, takes the result, and keeps the preimage.
    NeverReleases,
    /// Asks and asks.
    Floods,
    /// Asks for a job on the hash of somebody else's.
    OthersHash,
    /// Speaks for somebody else's job.
    OthersJob,
    /// Says that money is locked.
    LockLies,
    /// Locks, takes the result, and releases what is no preimage of it.
    WrongPreimages,
    /// Locks, and cancels.
    CancelsAfterLock,
    /// Says again what others said.
    Replays,
    /// Pays somebody else's invoice.
    PaysForOthers,
}

/// Requests of a flood.
const FLOOD: usize = 40;

impl Rogue {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ClaimsPayment,
        Self::NeverReleases,
        Self::Floods,
        Self::OthersHash,
        Self::OthersJob,
        Self::LockLies,
        Self::WrongPreimages,
        Self::CancelsAfterLock,
        Self::Replays,
        Self::PaysForOthers,
    ];

    /// The stable word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ClaimsPayment => "customer: claims payment",
            Self::NeverReleases => "customer: never releases",
            Self::Floods => "customer: floods",
            Self::OthersHash => "customer: others' hashes",
            Self::OthersJob => "customer: others' jobs",
            Self::LockLies => "customer: lies of locks",
            Self::WrongPreimages => "customer: wrong preimages",
            Self::CancelsAfterLock => "customer: cancels a lock",
            Self::Replays => "customer: replays",
            Self::PaysForOthers => "customer: pays for others",
        }
    }

    /// Whether it acts on what it overhears of others.
    pub const fn overhears(self) -> bool {
        matches!(
            self,
            Self::OthersHash | Self::OthersJob | Self::Replays | Self::PaysForOthers
        )
    }
}

/// A customer that misbehaves with this provider.
pub struct Attack {
    pub rogue: Rogue,
    pub peer: Peer,
    pub provider: PublicKey,
}

impl Attack {
    /// Does what it does. Those who overhear others do it for as long as the market stands.
    pub async fn run(mut self) {
        match self.rogue {
            Rogue::ClaimsPayment => self.claim_payment().await,
            Rogue::LockLies => self.lie_of_locks().await,
            Rogue::Floods => self.flood().await,
            Rogue::NeverReleases | Rogue::WrongPreimages | Rogue::CancelsAfterLock => {
                self.lock().await;
            }
            Rogue::OthersHash | Rogue::OthersJob | Rogue::Replays | Rogue::PaysForOthers => loop {
                self.overhear().await;
            },
        }
    }

    fn request(&mut self, on: Option<PaymentHash>) -> JobRequest {
        let prompt = format!("rogue {:016x}", self.peer.rng.random::<u64>());
        JobRequest {
            nonce: Some(format!("{:032x}", self.peer.rng.random::<u128>())),
            escrow: on.map(|_| Feature::HoldInvoice),
            payment_hash: on.map(|hash| hash.to_string()),
            ..JobRequest::new(KIND_TEXT_GENERATION, prompt, 100, self.provider)
        }
    }

    /// Asks, and waits for the invoice; `None`: refused.
    async fn quoted(&mut self, request: JobRequest) -> Option<(Job, Invoice)> {
        let sealed = self.peer.rng.random();
        let job = self.peer.ask(request, sealed).await;
        loop {
            match self.peer.hear().await.message {
                AgentMessage::Invoice(invoice) if invoice.job_id == job.id => {
                    return Some((job, invoice));
                }
                AgentMessage::JobError(error) if error.job_id == job.id => return None,
                _ => {}
            }
        }
    }

    async fn claim_payment(&mut self) {
        let request = self.request(None);
        let Some((job, invoice)) = self.quoted(request).await else {
            return;
        };
        let hash = invoice.payment_hash.unwrap_or_default();
        for payment_id in ["", "mock-payment-id", &hash, "x\n\u{1b}[2J"] {
            let said = PaymentSent {
                job_id: job.id.clone(),
                payment_id: payment_id.into(),
            };
            self.peer.say(&job, AgentMessage::PaymentSent(said)).await;
        }
    }

    async fn lie_of_locks(&mut self) {
        let preimage = Preimage::from_bytes(self.peer.rng.random());
        let request = self.request(Some(preimage.payment_hash()));
        let Some((job, _)) = self.quoted(request).await else {
            return;
        };
        for payment_hash in [preimage.payment_hash().to_string(), "zz".into()] {
            let said = HtlcLocked {
                job_id: job.id.clone(),
                payment_hash,
                amount_msats: Msat::new(u64::MAX),
                expiry_secs: u64::MAX,
                token: Some("cashuA".repeat(100)),
            };
            self.peer.say(&job, AgentMessage::HtlcLocked(said)).await;
        }
        self.release(&job, preimage.reveal()).await;
    }

    async fn release(&mut self, job: &Job, preimage: String) {
        let said = PreimageRelease {
            job_id: job.id.clone(),
            preimage,
        };
        self.peer
            .say(job, AgentMessage::PreimageRelease(said))
            .await;
    }

    async fn flood(&mut self) {
        let requests: Vec<JobRequest> = (0..FLOOD)
            .map(|n| {
                let preimage = Preimage::from_bytes(self.peer.rng.random());
                self.request((n % 2 == 1).then(|| preimage.payment_hash()))
            })
            .collect();
        let events: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let words = serde_json::to_string(&AgentMessage::JobRequest(request));
                self.peer.sign_raw(words.unwrap())
            })
            .collect();
        self.peer.publish_all(&events).await;
        self.peer.publish_all(&events).await;
    }

    /// Locks the money for a job, and then does not do its part.
    async fn lock(&mut self) {
        let preimage = Preimage::from_bytes(self.peer.rng.random());
        let request = self.request(Some(preimage.payment_hash()));
        let prompt = request.prompt.clone();
        let Some((job, invoice)) = self.quoted(request).await else {
            return;
        };
        self.peer.world.may_work_on(&prompt);
        let paid = self.peer.pay(&invoice.bolt11).await;
        if !matches!(paid, Some(PayOutcome::InFlight)) {
            self.peer
                .world
                .mishap("the rogue's money could not be locked");
            return;
        }
        if self.rogue == Rogue::CancelsAfterLock {
            let cancel = Cancel {
                job_id: job.id.clone(),
            };
            self.peer.say(&job, AgentMessage::Cancel(cancel)).await;
            return;
        }
        loop {
            match self.peer.hear().await.message {
                AgentMessage::JobResult(result) if result.job_id == job.id => break,
                AgentMessage::JobError(error) if error.job_id == job.id => return,
                _ => {}
            }
        }
        if self.rogue == Rogue::WrongPreimages {
            let wrong = Preimage::from_bytes(self.peer.rng.random()).reveal();
            for preimage in [wrong, "00".repeat(32), "not hex".into(), String::new()] {
                self.release(&job, preimage).await;
            }
            // At last it pays after all.
            if self.peer.rng.random() {
                self.release(&job, preimage.reveal()).await;
            }
        }
    }

    /// Hears what somebody else says, and makes use of it.
    async fn overhear(&mut self) {
        let heard = self.peer.hear().await;
        if self.rogue == Rogue::Replays {
            // The very event, and its words under another name.
            self.peer.publish(&heard.event).await;
            let copy = self.peer.sign_raw(heard.event.content.clone());
            self.peer.publish(&copy).await;
            return;
        }
        match &heard.message {
            AgentMessage::JobRequest(request) if self.rogue == Rogue::OthersHash => {
                let on = request
                    .payment_hash
                    .as_ref()
                    .and_then(|hash| hash.parse().ok());
                let request = self.request(on);
                self.peer.ask(request, false).await;
            }
            AgentMessage::Invoice(invoice) => {
                let job = Job {
                    id: invoice.job_id.clone(),
                    event: heard.event.id,
                    with: self.provider,
                    sealed: false,
                    request: self.request(None),
                };
                if self.rogue == Rogue::PaysForOthers {
                    let bolt11 = invoice.bolt11.clone();
                    self.peer.pay(&bolt11).await;
                } else if self.rogue == Rogue::OthersJob {
                    self.speak_for(&job).await;
                }
            }
            _ => {}
        }
    }

    async fn speak_for(&mut self, job: &Job) {
        let job_id = job.id.clone();
        let payment_id = "mine".to_owned();
        let words = [
            AgentMessage::Cancel(Cancel {
                job_id: job_id.clone(),
            }),
            AgentMessage::PaymentSent(PaymentSent { job_id, payment_id }),
        ];
        for message in words {
            self.peer.say(job, message).await;
        }
        self.release(job, "00".repeat(32)).await;
    }
}

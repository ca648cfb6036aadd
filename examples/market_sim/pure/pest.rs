//! A customer without honour, beside an honest one: it pays with words, locks nothing or never lets go, and
//! speaks about jobs and hashes that are not its own.

use agent_compute::ids::{JobId, Preimage};
use agent_compute::protocol::message::{
    AgentMessage, Cancel, HtlcLocked, JobRequest, PaymentSent, PreimageRelease,
};
use agent_compute::protocol::{Feature, KIND_TEXT_GENERATION};
use agent_compute::units::Msat;
use nostr::{EventId, PublicKey};

use super::bank::Party;
use super::wire::Letter;
use super::world::World;

/// The most jobs that it asks for.
const MOST_JOBS: usize = 12;

#[derive(Clone, Debug)]
pub struct Pest {
    key: PublicKey,
    jobs: Vec<EventId>,
}

impl Pest {
    pub fn new() -> Self {
        Self {
            key: PublicKey::from_byte_array([0xbb; 32]),
            jobs: Vec::new(),
        }
    }

    /// Does one more thing that it should not.
    pub fn annoy(&mut self, world: &mut World) {
        let theirs = world.buyers[0].terms.job_id();
        let secret = Preimage::from_bytes(world.bytes());
        let message = match world.below(7) {
            0 if self.jobs.len() < MOST_JOBS => return self.ask(world, secret),
            1 => return self.lock(world),
            2 => AgentMessage::PaymentSent(PaymentSent {
                job_id: self.some_job(world, theirs),
                payment_id: secret.payment_hash().to_string(),
            }),
            3 => AgentMessage::Cancel(Cancel {
                job_id: self.some_job(world, theirs),
            }),
            4 => AgentMessage::PreimageRelease(PreimageRelease {
                job_id: self.some_job(world, theirs),
                preimage: secret.reveal(),
            }),
            _ => {
                let buyer = world.buyers[0].terms.pay_by.preimage();
                AgentMessage::HtlcLocked(HtlcLocked {
                    job_id: self.some_job(world, theirs),
                    payment_hash: buyer.unwrap_or(secret).payment_hash().to_string(),
                    amount_msats: Msat::new(1_000_000),
                    expiry_secs: 86_400,
                    token: None,
                })
            }
        };
        self.say(world, message);
    }

    fn some_job(&self, world: &mut World, theirs: JobId) -> JobId {
        if self.jobs.is_empty() || world.flip() {
            return theirs;
        }
        JobId::of_request(&self.jobs[world.below(self.jobs.len())])
    }

    fn say(&self, world: &mut World, message: AgentMessage) {
        world.post_to_seller(Letter {
            from: self.key,
            event: EventId::all_zeros(),
            message,
        });
    }

    /// Asks for a job: in escrow on a hash of its own or of the honest buyer's, or for cash.
    fn ask(&mut self, world: &mut World, secret: Preimage) {
        let event = EventId::from_byte_array(world.bytes());
        let buyers = world.buyers[0].terms.pay_by.preimage();
        let hash = match world.below(4) {
            0 => None,
            1 => buyers.map(|it| it.payment_hash()),
            _ => Some(secret.payment_hash()),
        };
        let request = JobRequest {
            nonce: Some("11".repeat(16)),
            escrow: hash.is_some().then_some(Feature::HoldInvoice),
            payment_hash: hash.map(|hash| hash.to_string()),
            ..JobRequest::new(KIND_TEXT_GENERATION, "for nothing", 100, world.provider)
        };
        self.jobs.push(event);
        world.post_to_seller(Letter {
            from: self.key,
            event,
            message: AgentMessage::JobRequest(request),
        });
    }

    /// Locks or pays what one of its jobs costs, and lets nothing go.
    fn lock(&self, world: &mut World) {
        let Some(event) = self.jobs.last().copied() else {
            return;
        };
        let Some(job) = world.shop().and_then(|shop| shop.jobs.get(&event)).cloned() else {
            return;
        };
        if !world.bank.payments.contains_key(&job.hash) {
            world.log(|| "the pest pays for its job".to_owned());
            world.bank.pay(Party::Pest, job.hash, job.price, Msat::ZERO);
        }
    }
}

//! An honest seller: `provider::job`'s states, `provider::pricing`'s quotes and the table of what a restart
//! does, one small act at a time, so that it may die between any two.

use std::collections::{BTreeMap, BTreeSet};

use agent_compute::ids::{JobId, PaymentHash, Preimage};
use agent_compute::protocol::Price;
use agent_compute::protocol::message::{
    AgentMessage, Invoice, JobError, JobRequest, JobResult, StreamChunk,
};
use agent_compute::provider::job::{JobState, JobStep, MAX_ATTEMPTS};
use agent_compute::provider::pricing::{self, Standing};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{EventId, PublicKey};

use super::bank::{Bill, Facts, Party, Stand};
use super::wire::Letter;
use super::world::{LISTED, Seller, World};

/// How long a quote stands, in seconds.
const QUOTE_SECS: u64 = 300;

/// How long after its end a quote is still looked up, in seconds.
const LATE_SECS: u64 = 3_600;

/// What must be left of a hold when work begins, in seconds.
const WORK_AND_MARGIN: u64 = 900;

/// A job on record.
#[derive(Clone, Debug)]
pub struct Job {
    pub state: JobState,
    pub customer: PublicKey,
    pub price: Msat,
    pub hash: PaymentHash,
    pub escrow: bool,
    pub invoice: Invoice,
    pub expires_at: UnixSecs,
    pub preimage: Option<Preimage>,
    pub text: String,
    attempts: u32,
    /// Whether a relay took all that there is to say.
    published: bool,
    /// Whether its money was seen, paid or held; then released, or given up.
    funded: bool,
    released: bool,
    undone: bool,
}

/// All of it but `is_up` is on disk.
#[derive(Clone, Debug)]
pub struct Shop {
    pub is_up: bool,
    pub jobs: BTreeMap<EventId, Job>,
    hashes: BTreeSet<PaymentHash>,
}

impl Shop {
    pub const fn new() -> Self {
        Self {
            is_up: true,
            jobs: BTreeMap::new(),
            hashes: BTreeSet::new(),
        }
    }

    fn by_job_id(&self, job_id: &JobId) -> Option<EventId> {
        let mut all = self.jobs.keys();
        all.find(|id| JobId::of_request(id) == *job_id).copied()
    }

    fn standing(&self, customer: PublicKey) -> Standing {
        let theirs = self.jobs.values().filter(|job| job.customer == customer);
        let mut standing = Standing::default();
        for job in theirs {
            standing.released += u64::from(job.state == JobState::Settled);
            standing.kept += u64::from(job.state == JobState::Unreleased);
        }
        standing
    }
}

impl World {
    pub fn shop(&mut self) -> Option<&mut Shop> {
        match &mut self.seller {
            Seller::Honest(shop) => Some(shop),
            Seller::Rogue(_) => None,
        }
    }

    fn job(&mut self, id: EventId) -> &mut Job {
        self.shop().and_then(|shop| shop.jobs.get_mut(&id)).unwrap()
    }

    pub fn kill_seller(&mut self) {
        if let Some(shop) = self.shop()
            && shop.is_up
        {
            shop.is_up = false;
            self.wire.to_seller.clear();
            self.log(|| "the seller is killed".to_owned());
        }
    }

    /// It starts again, and looks for what was said while it was away.
    pub fn revive_seller(&mut self) {
        let Some(shop) = self.shop() else { return };
        if shop.is_up {
            return;
        }
        shop.is_up = true;
        let running: Vec<EventId> = shop
            .jobs
            .iter()
            .filter(|(_, job)| job.state == JobState::Running)
            .map(|(id, _)| *id)
            .collect();
        self.log(|| "the seller starts again".to_owned());
        self.wire.to_seller = self.wire.said_to_seller.clone();
        for id in running {
            self.start(id);
        }
    }

    fn answer(&mut self, id: EventId, message: AgentMessage) {
        let from = self.provider;
        self.post_to_buyers(Letter {
            from,
            event: id,
            message,
        });
    }

    pub fn hear_shop(&mut self, letter: Letter) {
        let Letter {
            from,
            event,
            message,
        } = letter;
        if let AgentMessage::JobRequest(request) = &message {
            return self.quote(from, event, request);
        }
        let Some(job_id) = message.job_id() else {
            return;
        };
        let Some(id) = self.shop().and_then(|shop| shop.by_job_id(job_id)) else {
            return;
        };
        if self.job(id).customer != from {
            return;
        }
        match message {
            AgentMessage::PaymentSent(_) | AgentMessage::HtlcLocked(_) => self.look_for_money(id),
            AgentMessage::PreimageRelease(release) => {
                let preimage: Option<Preimage> = release.preimage.parse().ok();
                let job = self.job(id);
                let fits = preimage.filter(|it| it.payment_hash() == job.hash && job.escrow);
                job.preimage = job.preimage.or(fits);
            }
            AgentMessage::Cancel(_) => self.cancelled(id),
            _ => {}
        }
    }

    fn quote(&mut self, customer: PublicKey, id: EventId, request: &JobRequest) {
        let now = self.true_now();
        let Some(shop) = self.shop() else { return };
        if shop.jobs.contains_key(&id) {
            return;
        }
        let terms = pricing::Terms {
            price: Price::per_request(LISTED),
            models: vec!["echo".to_owned()],
            max_tokens: 1_000,
            stream: true,
            escrow: true,
        };
        let standing = shop.standing(customer);
        let quoted = pricing::quote(request, &terms).and_then(|quote| {
            if quote.escrow.is_some() {
                standing.check()?;
            }
            let used = quote.escrow.is_some_and(|hash| shop.hashes.contains(&hash));
            if used {
                return Err(pricing::Refusal::new(
                    "escrow",
                    "this payment_hash was used before",
                ));
            }
            Ok(quote)
        });
        let quote = match quoted {
            Ok(quote) => quote,
            Err(refusal) => {
                let no = JobError::new(JobId::of_request(&id), refusal.code, &refusal.message);
                return self.answer(id, AgentMessage::JobError(no));
            }
        };
        self.check_quote(request, &quote, standing);
        let own = Preimage::from_bytes(self.bytes());
        let hash = quote.escrow.unwrap_or_else(|| own.payment_hash());
        let facts = Facts {
            amount: Some(quote.price),
            hash,
            network: Network::Regtest,
            created_at: now,
            expires_at: now.plus(QUOTE_SECS),
            hold_secs: [1_800, 14_400, 86_400][self.below(3)],
        };
        let bolt11 = self.mint(&facts);
        let bill = Bill {
            facts,
            payee: Party::Seller,
            holds: quote.escrow.is_some(),
            preimage: quote.escrow.is_none().then_some(own),
            stand: Stand::Open,
        };
        self.bank.bills.insert(hash, bill);
        let invoice = Invoice {
            payment_hash: Some(hash.to_string()),
            expires_at: Some(facts.expires_at),
            ..Invoice::new(JobId::of_request(&id), bolt11, quote.price)
        };
        let job = Job {
            state: JobState::Quoted,
            customer,
            price: quote.price,
            hash,
            escrow: quote.escrow.is_some(),
            invoice: invoice.clone(),
            expires_at: facts.expires_at,
            preimage: None,
            text: String::new(),
            attempts: 0,
            published: false,
            funded: false,
            released: false,
            undone: false,
        };
        if let Some(shop) = self.shop() {
            shop.hashes.insert(hash);
            shop.jobs.insert(id, job);
        }
        self.answer(id, AgentMessage::Invoice(invoice));
    }

    /// One step of a job, as its diagram has it.
    fn step_job(&mut self, id: EventId, step: JobStep) {
        let before = self.job(id).state;
        let Some(after) = before.after(step) else {
            return self.broke(format!(
                "a job is {before}, and {step:?} is no way from there"
            ));
        };
        self.log(|| {
            format!(
                "job {}: {step:?}: {before} -> {after}",
                JobId::of_request(&id)
            )
        });
        self.job(id).state = after;
        let job = self.job(id);
        job.funded |= matches!(step, JobStep::Settled | JobStep::Locked);
        job.released |= step == JobStep::Released;
        job.undone |= step == JobStep::Undone;
        self.check_ways(id);
        let hash = self.job(id).hash;
        let stand = self.bank.bills.get(&hash).map(|bill| bill.stand);
        let funded = matches!(stand, Some(Stand::Held { .. } | Stand::Settled));
        if step == JobStep::Started && !funded {
            self.broke(format!("work begins when its invoice is {stand:?}"));
        }
    }

    fn look_for_money(&mut self, id: EventId) {
        let (job, now) = (self.job(id).clone(), self.true_now());
        let unpaid = matches!(
            job.state,
            JobState::Quoted | JobState::Expired | JobState::Cancelled
        );
        let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
        match stand {
            Some(Stand::Settled) if unpaid => self.step_job(id, JobStep::Settled),
            Some(Stand::Held { until }) if unpaid && job.escrow => {
                self.step_job(id, JobStep::Locked);
                if until.since(now) < WORK_AND_MARGIN {
                    self.step_job(id, JobStep::Undone);
                }
            }
            Some(Stand::Open | Stand::Cancelled)
                if job.state == JobState::Quoted && now > job.expires_at.plus(LATE_SECS) =>
            {
                self.step_job(id, JobStep::Lapsed);
            }
            _ => {}
        }
    }

    fn cancelled(&mut self, id: EventId) {
        let job = self.job(id).clone();
        match job.state {
            JobState::Quoted => {
                let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
                // What is held already goes another way; what is paid can't be cancelled.
                if stand == Some(Stand::Open) {
                    self.bank.cancel(job.hash);
                    self.step_job(id, JobStep::Withdrawn);
                }
            }
            JobState::Held => self.step_job(id, JobStep::Undone),
            _ => {}
        }
    }

    /// Something for some job.
    pub fn act_shop(&mut self) {
        let Some(shop) = self.shop() else { return };
        if !shop.is_up {
            return self.revive_seller();
        }
        let ids: Vec<EventId> = shop.jobs.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.below(ids.len())];
        let state = self.job(id).state;
        match state {
            JobState::Quoted if self.hits(50) => {
                let invoice = self.job(id).invoice.clone();
                self.answer(id, AgentMessage::Invoice(invoice));
            }
            JobState::Quoted | JobState::Expired | JobState::Cancelled => self.look_for_money(id),
            JobState::Paid | JobState::Held => self.start(id),
            JobState::Running => self.work(id),
            JobState::Done | JobState::Delivered => self.deliver(id),
            JobState::Released | JobState::Returning => self.insist(id),
            JobState::Settled | JobState::Unreleased | JobState::Failed | JobState::Returned => {
                self.say(id);
            }
        }
    }

    fn start(&mut self, id: EventId) {
        let (job, now) = (self.job(id).clone(), self.true_now());
        let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
        let lasts = match stand {
            Some(Stand::Held { until }) => until.since(now) >= WORK_AND_MARGIN,
            Some(Stand::Settled) => true,
            _ => false,
        };
        if !lasts {
            return self.step_job(id, JobStep::Undone);
        }
        self.step_job(id, JobStep::Started);
        self.job(id).attempts += 1;
    }

    fn work(&mut self, id: EventId) {
        let job = self.job(id).clone();
        let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
        let gone = job.escrow && matches!(stand, Some(Stand::Cancelled));
        let broken = job.attempts > MAX_ATTEMPTS || self.hits(self.case.adversary.odds.backend);
        if gone || broken {
            let step = if job.escrow {
                JobStep::Undone
            } else {
                JobStep::Broken
            };
            return self.step_job(id, step);
        }
        let words = ["It", " was", " the", " best", " of", " times"];
        let count = 1 + self.below(words.len());
        self.job(id).text = words[..count].concat();
        self.step_job(id, JobStep::Finished);
    }

    fn deliver(&mut self, id: EventId) {
        self.say(id);
        let job = self.job(id).clone();
        if !job.escrow {
            return;
        }
        let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
        match stand {
            Some(Stand::Cancelled) => self.step_job(id, JobStep::Vanished),
            Some(Stand::Settled) => self.step_job(id, JobStep::Claimed),
            _ if job.preimage.is_some() => self.step_job(id, JobStep::Released),
            _ => {}
        }
    }

    /// Settles or gives back until the wallet says that it is done.
    fn insist(&mut self, id: EventId) {
        let job = self.job(id).clone();
        self.say(id);
        if job.state == JobState::Released {
            let claimed = job.preimage.is_some_and(|it| self.bank.settle(it));
            let step = if claimed {
                JobStep::Claimed
            } else {
                JobStep::Vanished
            };
            return self.step_job(id, step);
        }
        let returned = self.bank.cancel(job.hash);
        let step = if returned {
            JobStep::Returned
        } else {
            JobStep::Claimed
        };
        self.step_job(id, step);
    }

    /// Publishes what there is to say about a job that is done, or will not be.
    fn say(&mut self, id: EventId) {
        let job = self.job(id).clone();
        if job.published {
            return;
        }
        self.job(id).published = true;
        let job_id = JobId::of_request(&id);
        if job.text.is_empty() {
            let no = JobError::new(job_id, "failed", "there is no result");
            self.answer(id, AgentMessage::JobError(no));
        } else {
            for message in told(&job_id, &job.text) {
                self.answer(id, message);
            }
        }
        self.step_job(id, JobStep::Published);
    }

    /// A quote is what was asked for, and nobody gets on credit what it does not deserve.
    fn check_quote(&mut self, request: &JobRequest, quote: &pricing::Quote, standing: Standing) {
        let asked = request
            .payment_hash
            .as_ref()
            .and_then(|hash| hash.parse().ok());
        if quote.price != LISTED || quote.escrow != asked {
            self.broke(format!("{quote:?} is no answer to what was asked"));
        }
        if asked.is_some() && standing.kept * 10 > standing.released {
            self.broke(format!("escrow for a customer of {standing:?}"));
        }
    }

    /// What the diagram would allow now, held against the bank: whatever the shop does next.
    pub fn check_ways(&mut self, id: EventId) {
        let job = self.job(id).clone();
        let may = |step: JobStep| job.state.after(step).is_some();
        let broken = [
            (
                may(JobStep::Started) && !job.funded,
                "work could begin that nobody paid for",
            ),
            (
                may(JobStep::Released) && job.text.is_empty(),
                "a claim could precede the result",
            ),
            (
                job.funded && (may(JobStep::Lapsed) || may(JobStep::Withdrawn)),
                "a job that was paid could be forgotten",
            ),
            (
                job.released && may(JobStep::Undone),
                "what is claimed could be given back",
            ),
            (
                job.undone && may(JobStep::Released),
                "what is given back could be claimed",
            ),
            (
                !job.funded && (!may(JobStep::Settled) || !may(JobStep::Locked)),
                "money that comes late could not be served",
            ),
        ];
        for (_, what) in broken.iter().filter(|(broken, _)| *broken) {
            self.broke(format!("{what}: the job is {}", job.state));
        }
    }

    /// In the end nothing that was paid or held is left undecided.
    pub fn check_shop_end(&mut self) {
        let Some(shop) = self.shop() else { return };
        let jobs: Vec<(EventId, Job)> = shop
            .jobs
            .iter()
            .map(|(id, job)| (*id, job.clone()))
            .collect();
        for (id, job) in jobs {
            let stand = self.bank.bills.get(&job.hash).map(|bill| bill.stand);
            let ours = stand == Some(Stand::Settled);
            let agrees = match job.state {
                JobState::Settled => ours,
                JobState::Failed => ours && job.text.is_empty(),
                JobState::Delivered => ours && !job.escrow && !job.text.is_empty(),
                JobState::Unreleased | JobState::Returned => !ours,
                JobState::Expired | JobState::Cancelled => !ours,
                _ => false,
            };
            if !agrees {
                let job_id = JobId::of_request(&id);
                self.broke(format!(
                    "{job_id} ends as {} when its invoice is {stand:?}",
                    job.state
                ));
            }
        }
    }
}

/// A text as an honest seller sends it: numbered pieces, and the whole.
pub fn told(job_id: &JobId, text: &str) -> Vec<AgentMessage> {
    let pieces: Vec<&str> = text.split_inclusive(' ').collect();
    let last = pieces.len() - 1;
    let mut all: Vec<AgentMessage> = pieces
        .iter()
        .enumerate()
        .map(|(at, piece)| {
            AgentMessage::StreamChunk(StreamChunk {
                job_id: job_id.clone(),
                chunk: (*piece).to_owned(),
                is_final: at == last,
                seq: u32::try_from(at).ok(),
            })
        })
        .collect();
    all.push(AgentMessage::JobResult(JobResult {
        job_id: job_id.clone(),
        result: text.to_owned(),
    }));
    all
}

//! A provider that is up to something. It knows the protocol and keeps to as much of it as suits it.

use agent_compute::ids::{JobId, PaymentHash, Preimage};
use agent_compute::protocol::message::{AgentMessage, Invoice, JobError, JobResult, StreamChunk};
use agent_compute::units::{Msat, Network};
use nostr::{EventId, PublicKey};

use super::bank::{Bill, Facts, Party, Stand};
use super::case::{Answers, Quotes};
use super::shop::told;
use super::wire::Letter;
use super::world::{LISTED, Seller, World, used};

/// The text that it was asked for.
const TEXT: &str = "It was the best of times";

/// How often one deal is answered: it repeats itself.
const MOST_ANSWERS: u32 = 3;

/// How often somebody else speaks about one deal.
const MOST_FORGERIES: u32 = 12;

/// A request that it has heard.
#[derive(Clone, Copy, Debug)]
struct Deal {
    event: EventId,
    /// The buyer's hash, where it asked for escrow.
    lock: Option<PaymentHash>,
    /// What its own invoice is on.
    own: Preimage,
    quoted: bool,
    answers: u32,
    forgeries: u32,
}

impl Deal {
    fn hash(&self) -> PaymentHash {
        self.lock.unwrap_or_else(|| self.own.payment_hash())
    }
}

#[derive(Clone, Debug)]
pub struct Rogue {
    key: PublicKey,
    quotes: Quotes,
    answers: Answers,
    deals: Vec<Deal>,
}

impl Rogue {
    pub const fn new(key: PublicKey, quotes: Quotes, answers: Answers) -> Self {
        Self {
            key,
            quotes,
            answers,
            deals: Vec::new(),
        }
    }
}

impl World {
    fn rogue(&mut self) -> &mut Rogue {
        match &mut self.seller {
            Seller::Rogue(rogue) => rogue,
            Seller::Honest(_) => unreachable!("asked of the honest seller"),
        }
    }

    pub fn hear_rogue(&mut self, letter: Letter) {
        match letter.message {
            AgentMessage::JobRequest(request) => {
                let own = Preimage::from_bytes(self.bytes());
                let rogue = self.rogue();
                if rogue.deals.iter().any(|deal| deal.event == letter.event) {
                    return;
                }
                rogue.deals.push(Deal {
                    event: letter.event,
                    lock: request.payment_hash.and_then(|hash| hash.parse().ok()),
                    own,
                    quoted: false,
                    answers: 0,
                    forgeries: 0,
                });
            }
            AgentMessage::PreimageRelease(release) => {
                // It takes what it can, whoever says it.
                if let Ok(preimage) = release.preimage.parse() {
                    self.bank.settle(preimage);
                }
            }
            _ => {}
        }
    }

    pub fn act_rogue(&mut self) {
        let count = self.rogue().deals.len();
        if count == 0 {
            return;
        }
        let at = self.below(count);
        let deal = self.rogue().deals[at];
        if self.case.adversary.forger && deal.forgeries < MOST_FORGERIES && self.below(3) == 0 {
            self.rogue().deals[at].forgeries += 1;
            return self.forge(deal);
        }
        if !deal.quoted {
            self.rogue().deals[at].quoted = true;
            return self.quote_ill(deal);
        }
        let stand = self.bank.bills.get(&deal.hash()).map(|bill| bill.stand);
        if self.case.adversary.leaks && self.below(20) == 0 {
            let of = self
                .buyers
                .iter()
                .find(|it| it.terms.request.id == deal.event);
            if let Some(secret) = of.and_then(|buyer| buyer.terms.pay_by.preimage()) {
                self.bank.settle(secret);
            }
        }
        if self.case.adversary.sits && deal.lock.is_none() {
            self.sit(deal, stand);
        }
        let likes = matches!(stand, Some(Stand::Held { .. } | Stand::Settled))
            || self.rogue().answers == Answers::Early
            || self.below(40) == 0;
        if likes && deal.answers < MOST_ANSWERS {
            self.rogue().deals[at].answers += 1;
            self.answer_ill(deal);
        }
    }

    fn speak(&mut self, deal: Deal, message: AgentMessage) {
        let from = self.rogue().key;
        self.post_to_buyers(Letter {
            from,
            event: deal.event,
            message,
        });
    }

    /// Somebody else would like to be paid for this, or to spoil it.
    fn forge(&mut self, deal: Deal) {
        let job_id = JobId::of_request(&deal.event);
        let message = match self.below(4) {
            0 => {
                let own = Preimage::from_bytes(self.bytes());
                let hash = deal.lock.unwrap_or_else(|| own.payment_hash());
                let facts = self.fair(hash);
                let bolt11 = self.mint(&facts);
                AgentMessage::Invoice(Invoice {
                    expires_at: Some(facts.expires_at),
                    ..Invoice::new(job_id, bolt11, LISTED)
                })
            }
            1 => AgentMessage::JobResult(JobResult {
                job_id,
                result: "a forged text".to_owned(),
            }),
            2 => AgentMessage::JobError(JobError::new(job_id, "failed", "a forged error")),
            _ => AgentMessage::StreamChunk(StreamChunk {
                job_id,
                chunk: "a forged piece".to_owned(),
                is_final: true,
                seq: Some(0),
            }),
        };
        let from = self.forger;
        self.post_to_buyers(Letter {
            from,
            event: deal.event,
            message,
        });
    }

    fn fair(&mut self, hash: PaymentHash) -> Facts {
        let now = self.true_now();
        Facts {
            amount: Some(LISTED),
            hash,
            network: Network::Regtest,
            created_at: now,
            expires_at: now.plus(300),
            hold_secs: [1_800, 14_400, 86_400][self.below(3)],
        }
    }

    fn quote_ill(&mut self, deal: Deal) {
        let job_id = JobId::of_request(&deal.event);
        let now = self.true_now();
        let mut facts = self.fair(deal.hash());
        let mut said = LISTED;
        let mut said_hash = None;
        match self.rogue().quotes {
            Quotes::Never => return,
            Quotes::Refuses => {
                let no = JobError::new(job_id, "busy", "not today");
                return self.speak(deal, AgentMessage::JobError(no));
            }
            Quotes::Garbage => return self.quote_garbage(deal),
            Quotes::Mock => {
                let dear = self.below(2) as u64;
                let amount = Msat::new(LISTED.get() + dear);
                let invoice = Invoice::new(job_id, "lnbcrt100n1mock", amount);
                return self.speak(deal, AgentMessage::Invoice(invoice));
            }
            Quotes::Fair => {}
            Quotes::Twice => {
                let first = self.issue(deal, facts, said, said_hash);
                self.speak(deal, first);
                if deal.lock.is_none() {
                    facts.hash = Preimage::from_bytes(self.bytes()).payment_hash();
                }
            }
            Quotes::Dearer => {
                facts.amount = Some(Msat::new(LISTED.get() + 1 + self.random(0, 50_000)));
                said = facts.amount.unwrap_or(LISTED);
            }
            Quotes::Disagrees => facts.amount = Some(Msat::new(LISTED.get() - 1)),
            Quotes::OtherNetwork => {
                let others = [Network::Mainnet, Network::Testnet, Network::Signet];
                facts.network = others[self.below(3)];
            }
            Quotes::Expired => {
                (facts.created_at, facts.expires_at) = (now.minus(600), now.minus(1));
            }
            Quotes::Amountless => facts.amount = None,
            Quotes::UsedHash if deal.lock.is_none() => facts.hash = used().payment_hash(),
            Quotes::UsedHash => {}
            Quotes::OtherHash => {
                facts.hash = deal.own.payment_hash();
                // An honest word on it may come with the wrong lock, but not with the right one.
                if deal.lock.is_none() {
                    said_hash = Some(PaymentHash::from_bytes(self.bytes()));
                }
            }
            Quotes::Future => {
                (facts.created_at, facts.expires_at) = (now.plus(90_000), now.plus(93_000));
            }
            Quotes::LongHold => facts.hold_secs = 30 * 86_400,
            Quotes::LongLife => facts.expires_at = now.plus(90 * 86_400),
        }
        let invoice = self.issue(deal, facts, said, said_hash);
        self.speak(deal, invoice);
    }

    /// An invoice that can be paid, whatever it says, and the message that brings it.
    fn issue(
        &mut self,
        deal: Deal,
        facts: Facts,
        said: Msat,
        said_hash: Option<PaymentHash>,
    ) -> AgentMessage {
        let bolt11 = self.mint(&facts);
        let knows = (facts.hash == deal.own.payment_hash()).then_some(deal.own);
        let bill = Bill {
            facts,
            payee: Party::Seller,
            holds: deal.lock.is_some() || self.case.adversary.sits,
            preimage: knows,
            stand: Stand::Open,
        };
        self.bank.bills.entry(facts.hash).or_insert(bill);
        let modern = self.below(4) > 0;
        AgentMessage::Invoice(Invoice {
            payment_hash: said_hash.map(|hash| hash.to_string()),
            expires_at: modern.then_some(facts.expires_at),
            ..Invoice::new(JobId::of_request(&deal.event), bolt11, said)
        })
    }

    fn quote_garbage(&mut self, deal: Deal) {
        let facts = self.fair(deal.hash());
        let real = self.bank.sign(&facts);
        let altered = match self.below(5) {
            0 => "lnbcrt100n1mock".to_owned(),
            1 => "sp1pgss8u5vh4cldqxarcl2hnqgqelhupdt6g9e9y5x489t8ky355f3veh6dln5pf".to_owned(),
            2 => String::new(),
            3 => real.replacen("lnbcrt", "lnbc", 1),
            _ => {
                let at = 20 + self.below(real.len() - 20);
                let other = if real.as_bytes()[at] == b'q' {
                    "p"
                } else {
                    "q"
                };
                format!("{}{other}{}", &real[..at], &real[at + 1..])
            }
        };
        let invoice = Invoice::new(JobId::of_request(&deal.event), altered, LISTED);
        self.speak(deal, AgentMessage::Invoice(invoice));
    }

    /// What it does with money that it could claim and that is nobody's yet.
    fn sit(&mut self, deal: Deal, stand: Option<Stand>) {
        if !matches!(stand, Some(Stand::Held { .. })) {
            return;
        }
        match self.below(60) {
            0 => {
                self.bank.settle(deal.own);
            }
            1 => {
                self.bank.cancel(deal.hash());
            }
            _ => {}
        }
    }

    fn answer_ill(&mut self, deal: Deal) {
        let job_id = JobId::of_request(&deal.event);
        let piece = |seq: Option<u32>, chunk: &str, is_final: bool| {
            AgentMessage::StreamChunk(StreamChunk {
                job_id: job_id.clone(),
                chunk: chunk.to_owned(),
                is_final,
                seq,
            })
        };
        let whole = |result: &str| {
            AgentMessage::JobResult(JobResult {
                job_id: job_id.clone(),
                result: result.to_owned(),
            })
        };
        let error = || AgentMessage::JobError(JobError::new(job_id.clone(), "failed", "no"));
        let mut all = match self.rogue().answers {
            Answers::Never => Vec::new(),
            Answers::Fair | Answers::Early => told(&job_id, TEXT),
            Answers::Duplicated => [told(&job_id, TEXT), told(&job_id, TEXT)].concat(),
            Answers::Reordered => {
                let mut all = told(&job_id, TEXT);
                for at in (1..all.len()).rev() {
                    let other = self.below(at + 1);
                    all.swap(at, other);
                }
                all
            }
            Answers::Empty => vec![piece(Some(0), "", true), whole("")],
            Answers::Truncated => {
                let mut all = told(&job_id, TEXT);
                all.truncate(3);
                all
            }
            Answers::Oversized => vec![whole_of_much(&job_id)],
            Answers::Contradicts => vec![
                piece(Some(0), "It was the best", false),
                piece(Some(1), " of times", true),
                whole("It was the worst of times"),
                whole("It was"),
            ],
            Answers::Gap => vec![
                piece(Some(0), "It was", false),
                piece(Some(2), " of times", true),
                whole("It was the best"),
            ],
            Answers::Unnumbered => {
                vec![piece(None, "It was", false), piece(None, " of times", true)]
            }
            Answers::Fails => vec![error(), whole("Error: no model")],
            Answers::FailsAtFirst => {
                let mut all = vec![error()];
                all.extend(told(&job_id, TEXT));
                all
            }
            Answers::Endless => (0..60).map(|seq| piece(Some(seq), " and", false)).collect(),
        };
        // It may break off anywhere, and go on another time.
        if self.rogue().answers == Answers::Contradicts && self.flip() {
            all.reverse();
        }
        for message in all {
            self.speak(deal, message);
        }
    }
}

/// A piece of more than anybody takes.
fn whole_of_much(job_id: &JobId) -> AgentMessage {
    AgentMessage::StreamChunk(StreamChunk {
        job_id: job_id.clone(),
        chunk: "x".repeat(agent_compute::config::MAX_RESULT_BYTES + 1),
        is_final: true,
        seq: Some(0),
    })
}

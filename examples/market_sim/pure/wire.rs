//! The channel, as hostile relays carry it: nothing forged, since the session verifies signatures, and
//! everything else possible.

use agent_compute::ids::JobId;
use agent_compute::protocol::message::AgentMessage;
use nostr::{EventId, PublicKey};

use super::world::World;

/// One message in the channel.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: PublicKey,
    /// Of the event that carries it: names a job where it is a request.
    pub event: EventId,
    pub message: AgentMessage,
}

/// Everybody hears everything; whose it is, is for the hearer to tell.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    /// On its way to each buyer that listens.
    pub to_buyers: Vec<Vec<Letter>>,
    pub to_seller: Vec<Letter>,
    /// What relays keep, of either side.
    pub said_to_buyers: Vec<Letter>,
    pub said_to_seller: Vec<Letter>,
}

/// No side is sent more than this in one attempt: the longest stream and all its copies fit.
const MOST_STORED: usize = 400;

impl World {
    /// A provider, or somebody who would like to be taken for it, says something.
    pub fn post_to_buyers(&mut self, letter: Letter) {
        let odds = self.case.adversary.odds;
        self.log(|| format!("provider says {}", brief(&letter)));
        if self.hits(odds.lose) {
            self.log(|| "  and the relay loses it".to_owned());
            return;
        }
        if self.wire.said_to_buyers.len() < MOST_STORED {
            self.wire.said_to_buyers.push(letter.clone());
        }
        let mut copies = vec![letter.clone()];
        if self.hits(odds.double) {
            copies.push(letter.clone());
        }
        if self.hits(odds.alter) {
            copies.push(self.altered(letter));
        }
        for (at, buyer) in self.buyers.iter().enumerate() {
            if buyer.run.is_some() {
                self.wire.to_buyers[at].extend(copies.iter().cloned());
            }
        }
    }

    /// Somebody says something that the provider may care for.
    pub fn post_to_seller(&mut self, letter: Letter) {
        let odds = self.case.adversary.odds;
        self.log(|| format!("customer says {}", brief(&letter)));
        if self.hits(odds.lose) {
            self.log(|| "  and the relay loses it".to_owned());
            return;
        }
        if self.wire.said_to_seller.len() < MOST_STORED {
            self.wire.said_to_seller.push(letter.clone());
        }
        if self.hits(odds.double) {
            self.wire.to_seller.push(letter.clone());
        }
        if self.hits(odds.alter) && !matches!(letter.message, AgentMessage::JobRequest(_)) {
            let altered = self.altered(letter.clone());
            self.wire.to_seller.push(altered);
        }
        self.wire.to_seller.push(letter);
    }

    /// The same by another author, or about another job: all that who lacks the key can do.
    fn altered(&mut self, letter: Letter) -> Letter {
        if self.flip() {
            let from = self.forger;
            return Letter { from, ..letter };
        }
        let other = JobId::from_wire("job_ffffffffffffffff");
        let mut message = letter.message;
        match &mut message {
            AgentMessage::Invoice(m) => m.job_id = other,
            AgentMessage::JobResult(m) => m.job_id = other,
            AgentMessage::StreamChunk(m) => m.job_id = other,
            AgentMessage::JobError(m) => m.job_id = other,
            AgentMessage::PreimageRelease(m) => m.job_id = other,
            AgentMessage::Cancel(m) => m.job_id = other,
            AgentMessage::PaymentSent(m) => m.job_id = other,
            _ => {
                return Letter {
                    from: self.forger,
                    message,
                    ..letter
                };
            }
        }
        Letter { message, ..letter }
    }

    /// Takes the next of these letters off the wire; with `reorder`, any.
    pub fn next_letter(&mut self, of: impl Fn(&mut Wire) -> &mut Vec<Letter>) -> Option<Letter> {
        let waiting = of(&mut self.wire).len();
        if waiting == 0 {
            return None;
        }
        let reorder = self.case.adversary.odds.reorder;
        let at = if self.hits(reorder) {
            self.below(waiting)
        } else {
            0
        };
        Some(of(&mut self.wire).remove(at))
    }

    /// The relay replays, dies, comes back.
    pub fn relay_trouble(&mut self) {
        let odds = self.case.adversary.odds;
        if self.hits(odds.replay) && !self.wire.said_to_buyers.is_empty() {
            let at = self.below(self.wire.said_to_buyers.len());
            let old = self.wire.said_to_buyers[at].clone();
            self.log(|| format!("the relay says again: {}", brief(&old)));
            for (at, buyer) in self.buyers.iter().enumerate() {
                if buyer.run.is_some() {
                    self.wire.to_buyers[at].push(old.clone());
                }
            }
        }
        if self.hits(odds.replay) && !self.wire.said_to_seller.is_empty() {
            let at = self.below(self.wire.said_to_seller.len());
            let old = self.wire.said_to_seller[at].clone();
            self.wire.to_seller.push(old);
        }
        if self.hits(odds.die) {
            self.log(|| "the relay dies and comes back".to_owned());
            for (at, buyer) in self.buyers.iter().enumerate() {
                if buyer.run.is_some() {
                    self.wire.to_buyers[at] = self.wire.said_to_buyers.clone();
                }
            }
            self.wire.to_seller = self.wire.said_to_seller.clone();
        }
    }
}

/// A message in a few words.
pub fn brief(letter: &Letter) -> String {
    let mut text = format!("{:?}", letter.message);
    if let AgentMessage::Invoice(invoice) = &letter.message {
        text = format!(
            "Invoice of {} {} hash said {:?}",
            invoice.job_id, invoice.amount_msats, invoice.payment_hash
        );
    }
    let end = text.floor_char_boundary(160);
    format!("[{}] {}", &letter.from.to_hex()[..4], &text[..end])
}

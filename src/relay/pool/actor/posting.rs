//! Postings at one relay: sending, hearing its verdict, trying again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nostr::EventId;
use nostr::message::MachineReadablePrefix as Prefix;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Actor, Due, RATE_LIMIT_FIRST, RATE_LIMIT_MOST, presentable};
use crate::relay::pool::agenda::backoff;

/// Postings that wait for one relay's answer.
const MOST_POSTINGS: usize = 4096;

/// An event on its way.
#[derive(Debug)]
pub(in crate::relay::pool) struct Posting {
    pub(in crate::relay::pool) id: EventId,
    /// The whole message.
    pub(in crate::relay::pool) text: String,
    /// Set when its publisher has given up: it must not be sent any more.
    pub(in crate::relay::pool) withdrawn: AtomicBool,
}

/// How a relay decided on a posting: `Err` has its reason.
#[derive(Debug)]
pub(in crate::relay::pool) struct Verdict {
    pub(in crate::relay::pool) relay: usize,
    pub(in crate::relay::pool) taken: Result<(), String>,
}

/// A posting that this relay has not answered.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its place in the order of publishing.
    place: u64,
    posting: Arc<Posting>,
    until: Instant,
    answers: Vec<mpsc::Sender<Verdict>>,
    pub(super) sent: bool,
    /// Waiting for its turn after the relay said that there were too many.
    pub(super) resting: bool,
    tries: u32,
}

impl Actor {
    pub(super) fn publish(
        &mut self,
        posting: Arc<Posting>,
        until: Instant,
        answer: mpsc::Sender<Verdict>,
    ) {
        let id = posting.id;
        if self.postings.len() >= MOST_POSTINGS && !self.postings.contains_key(&id) {
            let _ = answer.try_send(Verdict {
                relay: self.index,
                taken: Err("too many events wait for its answer".into()),
            });
            return;
        }
        self.published += 1;
        let pending = self.postings.entry(id).or_insert_with(|| Pending {
            place: self.published,
            posting: Arc::clone(&posting),
            until,
            answers: Vec::new(),
            sent: false,
            resting: false,
            tries: 0,
        });
        // The same event, published again: one answer will do for both.
        pending.posting = posting;
        pending.until = pending.until.max(until);
        pending.answers.retain(|answer| !answer.is_closed());
        pending.answers.push(answer);
        pending.sent = false;
        self.agenda.add(until, Due::PostingExpires(id));
        self.post(&id);
        self.nudge();
    }

    /// Sends what waits for the relay, in the order of publishing.
    pub(super) fn post_all(&mut self) {
        let waiting = self.postings.iter();
        let mut waiting: Vec<_> = waiting.map(|(id, pending)| (pending.place, *id)).collect();
        waiting.sort_unstable();
        for (_, id) in waiting {
            self.post(&id);
        }
    }

    /// Sends a posting, if the relay is there and it is time.
    pub(super) fn post(&mut self, id: &EventId) {
        let (Some(socket), Some(pending)) = (self.link.up(), self.postings.get_mut(id)) else {
            return;
        };
        if pending.posting.withdrawn.load(Ordering::SeqCst) {
            self.postings.remove(id);
            return;
        }
        if pending.sent || pending.resting {
            return;
        }
        pending.sent = socket.write(pending.posting.text.clone());
        if !pending.sent {
            self.decide(id, &Err("takes nothing in".into()));
        }
    }

    /// The relay had said that there were too many: it has had its rest.
    pub(super) fn post_again(&mut self, id: &EventId) {
        if let Some(pending) = self.postings.get_mut(id) {
            pending.resting = false;
            self.post(id);
        }
    }

    pub(super) fn verdict(&mut self, id: &EventId, status: bool, message: &str) {
        let Some(pending) = self.postings.get_mut(id) else {
            return;
        };
        let prefix = Prefix::parse(message);
        if status || prefix == Some(Prefix::Duplicate) {
            return self.decide(id, &Ok(()));
        }
        if prefix == Some(Prefix::RateLimited) {
            if pending.resting {
                return;
            }
            let again = backoff(RATE_LIMIT_FIRST, RATE_LIMIT_MOST, pending.tries);
            let at = Instant::now() + again;
            if at < pending.until {
                pending.tries = pending.tries.saturating_add(1);
                (pending.sent, pending.resting) = (false, true);
                self.agenda.add(at, Due::PostAgain(*id));
                return self.trouble(message);
            }
        }
        let reason = if message.is_empty() {
            "refused without a reason"
        } else {
            message
        };
        self.trouble(&format!("refused an event: {reason}"));
        self.decide(id, &Err(presentable(reason)));
    }

    pub(super) fn posting_expires(&mut self, id: &EventId) {
        let due = |pending: &Pending| pending.until <= Instant::now();
        let Some(pending) = self.postings.get(id).filter(|pending| due(pending)) else {
            return;
        };
        if pending.sent {
            self.trouble("did not answer to an event");
            self.decide(id, &Err("no answer".into()));
        } else {
            self.decide(id, &Err("not connected".into()));
        }
    }

    fn decide(&mut self, id: &EventId, taken: &Result<(), String>) {
        let pending = self.postings.remove(id);
        for answer in pending.into_iter().flat_map(|pending| pending.answers) {
            // The publisher may have gone on after another relay's answer.
            let _ = answer.try_send(Verdict {
                relay: self.index,
                taken: taken.clone(),
            });
        }
    }
}

//! What a shop that is played does with the money: deliver, or something else.

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::protocol::message::{AgentMessage, JobError};
use agent_compute::wallet::Wallet;
use rand::Rng;
use rand::seq::SliceRandom;

use super::peer::{Job, piece, result};
use super::quoting::Shop;
use super::sellers::Seller;

/// The text that a job is worth: of its prompt, so that no two jobs have the same.
pub fn text_of(job: &Job, word: &str) -> String {
    format!("{word}: {} {}", job.request.prompt, job.id)
}

/// Bytes of a message that no reader takes, and of a piece that every reader takes.
const TOO_LARGE: usize = 33 * 1024;
const LARGE: usize = 28 * 1024;

/// Pieces of an endless stream: more than any result may have, and the end is up to the buyer.
const PIECES: u32 = 400;

/// The most pieces of a stream that ends.
const MOST_PIECES: usize = 12;

impl Shop {
    /// The money is here, or locked.
    pub async fn deliver(&mut self, job: &Job, hash: PaymentHash) {
        let text = text_of(job, "answer");
        match self.seller {
            Seller::GhostAfter | Seller::Trap => self.give_back_perhaps(hash).await,
            Seller::ErrorText => self.fail(job, hash).await,
            Seller::Empty => {
                self.peer.say(job, result(job, "")).await;
                self.give_back_perhaps(hash).await;
            }
            Seller::Truncated => self.truncate(job, &text).await,
            Seller::Reordered => self.stream(job, &text, true, false).await,
            Seller::Duplicated => self.stream(job, &text, false, true).await,
            Seller::Oversized => {
                let much = "x".repeat(TOO_LARGE);
                self.peer.say(job, result(job, &much)).await;
            }
            Seller::Endless => self.pour(job).await,
            Seller::Contradicting => {
                self.peer.piece(job, Some(0), "one thing", true).await;
                // Whoever hears both takes neither. Who is kept from hearing one may take the other.
                if self.rough {
                    for text in ["one thing", "another"] {
                        self.peer.world.signed(&job.request.prompt, text);
                    }
                }
                self.peer.say(job, result(job, "another")).await;
            }
            Seller::Escapes => {
                let text =
                    format!("\u{1b}]0;owned\u{7}a\u{1b}[2J\u{9b}31mb\r\u{202e}c\0\u{1b}{text}");
                self.stream(job, &text, false, false).await;
            }
            Seller::Late => {
                self.peer.world.over.cancelled().await;
                self.peer.result(job, &text).await;
                self.peer.world.late.cancel();
            }
            Seller::ClaimsEarly => self.guess(hash).await,
            _ if self.peer.rng.random() => self.stream(job, &text, false, false).await,
            _ => self.peer.result(job, &text).await,
        }
    }

    /// Some that do not deliver give locked money back, and some keep it locked for as long as they can.
    async fn give_back_perhaps(&mut self, hash: PaymentHash) {
        if self.peer.rng.random() {
            // What is settled stays so.
            let _ = self.peer.wallet.cancel(hash).await;
        }
    }

    async fn fail(&mut self, job: &Job, hash: PaymentHash) {
        if self.speaks_as_deployed() {
            let said = "Error: out of memory\u{1b}[2J\nPaid: 0 sats.";
            self.peer.say(job, result(job, said)).await;
        } else {
            let no = JobError::new(job.id.clone(), "failed", "out of\u{1b}[2J\nmemory");
            self.peer.say(job, AgentMessage::JobError(no)).await;
        }
        self.give_back_perhaps(hash).await;
    }

    /// Cuts a text in pieces, numbers them, sends them in some order, some twice, and the whole at the end.
    async fn stream(&mut self, job: &Job, text: &str, shuffled: bool, repeated: bool) {
        // Complete pieces are a result, too, where the whole is slow to follow.
        self.peer.world.signed(&job.request.prompt, text);
        let mut pieces = self.cut(text);
        if repeated {
            // Under a number that is taken, other words count for nothing.
            let again = pieces
                .iter()
                .map(|(seq, _, last)| (*seq, "again".to_owned(), *last));
            let again: Vec<_> = again.collect();
            pieces = pieces
                .iter()
                .cloned()
                .chain(again)
                .chain(pieces.clone())
                .collect();
        }
        if shuffled {
            pieces.shuffle(&mut self.peer.rng);
        }
        for (seq, words, last) in &pieces {
            self.peer.piece(job, Some(*seq), words, *last).await;
        }
        self.peer.result(job, text).await;
    }

    fn cut(&mut self, text: &str) -> Vec<(u32, String, bool)> {
        let characters: Vec<char> = text.chars().collect();
        let most = MOST_PIECES.min(characters.len());
        let size = characters
            .len()
            .div_ceil(self.peer.rng.random_range(1..=most));
        let pieces: Vec<String> = characters
            .chunks(size)
            .map(|each| each.iter().collect())
            .collect();
        let last = pieces.len().saturating_sub(1);
        let numbered = pieces.into_iter().zip(0u32..);
        numbered
            .map(|(words, seq)| (seq, words, seq as usize == last))
            .collect()
    }

    /// A stream with a hole in it, or without its end.
    async fn truncate(&mut self, job: &Job, text: &str) {
        let pieces = self.cut(text);
        let hole = self.peer.rng.random_range(0..pieces.len());
        for (seq, words, last) in &pieces {
            if *seq as usize != hole {
                self.peer.piece(job, Some(*seq), words, *last).await;
            }
        }
    }

    /// Does not stop for as long as the market stands, or until there is more than any buyer takes.
    async fn pour(&mut self, job: &Job) {
        let numbered: bool = self.peer.rng.random();
        // In the open: sealing so much takes longer than all the rest.
        let job = &Job {
            sealed: false,
            ..job.clone()
        };
        let ended = self.peer.world.ended.subscribe();
        for seq in 0..PIECES {
            if ended.has_changed().unwrap_or(true) {
                return;
            }
            let words = format!("{seq:0width$}", width = LARGE);
            let said = piece(job, numbered.then_some(seq), &words, false);
            let event = self.peer.sign(job, &said);
            self.peer.publish(&event).await;
        }
    }

    /// Tries to claim what is locked with what it has.
    async fn guess(&mut self, hash: PaymentHash) {
        let mut guesses = vec![*hash.as_bytes(), [0; 32], [0xff; 32]];
        guesses.extend((0..4).map(|_| self.peer.rng.random::<[u8; 32]>()));
        for guess in guesses {
            let claimed = self.peer.wallet.settle(Preimage::from_bytes(guess)).await;
            if claimed.is_ok() {
                self.peer.world.mishap("a guess claimed what was locked");
            }
        }
        self.give_back_perhaps(hash).await;
    }
}

//! Whether somebody else is asked when a provider has failed: pure.
//!
//! Two things must hold. The money is provably here, which is the ledger's to say and not the error's
//! ([`is_dead`]): the purchase is on record as failed, and either nothing was ever set aside for it or that was
//! released. And another provider could do better, which the code tells ([`leads_on`]):
//!
//! | code | on? | why |
//! |---|---|---|
//! | `internal` | no | a bug of ours would meet the next one too |
//! | `usage` | no | so would what was asked for wrongly |
//! | `no_provider` | no | there is nobody to ask |
//! | `budget` | no | the owner's limits have the last word, and the next one costs no less |
//! | `payment_failed` | yes | proven: nothing left the wallet, and another payee has other routes |
//! | `payment_unknown` | no | it may have been paid |
//! | `undelivered` | yes | only where the record says that the locked money is back; what is paid or locked stops |
//! | `network` | no | all providers are behind the same relays, and before the same wallet |
//! | `timeout` | yes | it did not quote; once it has, only time that is over for all ends a purchase so |
//! | `provider_refused` | yes | nothing was paid |
//! | `bad_invoice` | yes | nothing was paid |
//! | `wallet` | no | our own wallet's trouble; but without a wallet (`--no-wallet`) it says that this provider wants real money: yes |
//! | `ledger` | no | what can't be put on record is not bought |
//! | `bad_receipt` | no | no purchase ends so |
//! | `interrupted` | no | the owner stopped it |

use std::collections::VecDeque;
use std::time::Duration;

use nostr::PublicKey;
use tokio::time::Instant;

use super::survey::Candidate;
use crate::config::{LEAST_TIME_FOR_ANOTHER, QUOTE_PATIENCE};
use crate::error::{Code, Error};
use crate::ledger::{PurchaseRecord, ReservationStatus, Status};
use crate::purchase::driver::QuotePatience;

/// The most failures that the last error retells, and the most characters of each.
const RETOLD: usize = 4;
const RETOLD_CHARS: usize = 200;

/// Whether an attempt that is on record like this is over, with all its money here.
pub(super) fn is_dead(record: &PurchaseRecord) -> bool {
    let money = record.reservation.as_ref().map(|money| money.status);
    let is_here = matches!(money, None | Some(ReservationStatus::Released));
    record.state.status == Status::Failed && is_here
}

/// Whether another provider could do better where one failed with this code. `pays`: there is a wallet.
pub(super) const fn leads_on(code: Code, pays: bool) -> bool {
    match code {
        Code::PaymentFailed
        | Code::Undelivered
        | Code::Timeout
        | Code::ProviderRefused
        | Code::BadInvoice => true,
        Code::Wallet => !pays,
        Code::Internal
        | Code::Usage
        | Code::NoProvider
        | Code::Budget
        | Code::PaymentUnknown
        | Code::Network
        | Code::Ledger
        | Code::BadReceipt
        | Code::Interrupted => false,
    }
}

/// Who may be asked after the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// So many are known.
    pub(super) known: usize,
    /// So many at most, found or yet to be found.
    pub(super) at_most: usize,
}

/// How long a provider may take to quote when these may be asked after it and `left` is left for all: never
/// more than its share, and not for long where it is known that there is somebody else. The last one has all
/// the time there is.
pub(super) fn quote_patience(
    behind: Behind,
    now: Instant,
    left: Duration,
) -> Option<QuotePatience> {
    if behind.at_most == 0 {
        return None;
    }
    let others = u32::try_from(behind.known.max(1)).unwrap_or(u32::MAX);
    let share = left / others.saturating_add(1);
    let most = if behind.known > 0 {
        QUOTE_PATIENCE
    } else {
        share
    };
    // Nobody is given up for somebody there would be no time for.
    (left - share >= LEAST_TIME_FOR_ANOTHER).then(|| QuotePatience {
        once_sent: most.min(share),
        until: now + share,
    })
}

/// The providers to ask, in order, as far as the retries go.
pub(super) struct Queue {
    waiting: VecDeque<Candidate>,
    asked: Vec<PublicKey>,
    /// How many may be asked yet.
    left: usize,
    suitable: usize,
    may_find_more: bool,
}

impl Queue {
    /// One of these is asked, and then `retries` others; there may be more of them to be found.
    pub(super) fn new(found: Vec<Candidate>, retries: u32, may_find_more: bool) -> Self {
        let retries = usize::try_from(retries).unwrap_or(usize::MAX);
        Self {
            suitable: found.len(),
            waiting: found.into(),
            asked: Vec::new(),
            left: retries.saturating_add(1),
            may_find_more,
        }
    }

    /// The next one to ask.
    pub(super) fn next(&mut self) -> Option<Candidate> {
        self.left = self.left.checked_sub(1)?;
        let next = self.waiting.pop_front()?;
        self.asked.push(next.offer.provider);
        Some(next)
    }

    /// More to ask were found.
    pub(super) fn add(&mut self, found: Vec<Candidate>) {
        self.suitable += found.len();
        self.waiting.extend(found);
    }

    /// Who may be asked yet.
    pub(super) fn behind(&self) -> Behind {
        let known = self.waiting.len().min(self.left);
        Behind {
            known,
            at_most: if self.may_find_more { self.left } else { known },
        }
    }

    /// Who was asked already.
    pub(super) fn asked(&self) -> &[PublicKey] {
        &self.asked
    }

    /// How many were found.
    pub(super) const fn suitable(&self) -> usize {
        self.suitable
    }
}

/// A provider that failed, and after which another one was asked.
pub(super) struct Tried {
    pub(super) provider: String,
    pub(super) message: String,
}

/// The last failure, with what those said who were tried before, and how many others of `suitable` there were.
pub(super) fn sum_up(last: Error, before: &[Tried], suitable: usize) -> Error {
    if before.is_empty() {
        return last;
    }
    let tried = before.len() + 1;
    let mut message = format!(
        "{}. {tried} of {suitable} providers that suit were tried; before this one:",
        last.message().trim_end_matches('.')
    );
    for (i, one) in before.iter().take(RETOLD).enumerate() {
        let key = one.provider.get(..16).unwrap_or_default();
        let said = in_a_line(&one.message);
        message.push_str(&format!(" ({}) {key}: {said}", i + 1));
    }
    if let more @ 1.. = before.len().saturating_sub(RETOLD) {
        message.push_str(&format!(" … and {more} more"));
    }
    last.in_words(message)
}

/// Some of a text that may be a stranger's, on one line.
fn in_a_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(RETOLD_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;

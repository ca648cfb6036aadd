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
//! | `interrupted` | no | the owner stopped it |

use std::time::Duration;

use tokio::time::Instant;

use crate::config::QUOTE_PATIENCE;
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
        | Code::Interrupted => false,
    }
}

/// How long a provider may take to quote if `others` may be asked after it and `left` is left for all: never
/// more than its share. The last one has all the time there is.
pub(super) fn quote_patience(others: usize, now: Instant, left: Duration) -> Option<QuotePatience> {
    let sharing = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    let share = left / sharing;
    (others > 0).then(|| QuotePatience {
        once_sent: QUOTE_PATIENCE.min(share),
        until: now + share,
    })
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
        last.message()
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

//! What a provider's record is worth: how surely it delivers a job of some price, and what trying it
//! costs.
//!
//! # The score
//!
//! ```text
//! score = (½ + deliveries) / (1 + deliveries + faults)        a stranger: ½
//! ```
//!
//! the mean of a Beta distribution that begins with half a success and half a failure. What counts as how
//! much:
//!
//! * A delivery counts 1 if the job was at least as dear as the one at hand, and else in proportion: ten
//!   deliveries at a tenth of the price are one. So whoever wants to be trusted with a sum has to have
//!   delivered work of about that sum, and cheap jobs buy no dear theft.
//! * Money taken and nothing delivered counts 4 faults whatever the sum; an invoice that failed the checks,
//!   1; a refusal, and no answer at all, ¼ (a provider may be busy).
//! * Everything fades: after [`HALF_LIFE_SECS`] it counts half. What is long past says nothing, and the
//!   provider is a stranger again.
//! * Only the latest [`MEMORY`] of it count, deliveries and faults together. So the score is a rate that
//!   follows what the provider does now: one that has delivered a thousand jobs and begins to steal is
//!   below a stranger after three thefts; one that fails now and then is not condemned for its years.
//!
//! # The cost
//!
//! ```text
//! cost = (price + 10 sats + 1 sat per second until the first piece of text) / score²
//! ```
//!
//! `--select best` takes the lowest. A try costs its price (the listed one, times what the provider's
//! invoices came to in percent of its listings), some trouble, and the wait. Dividing by the score once
//! gives what a *result* costs, tries that fail included; dividing once more is for the money that a
//! stranger may steal. Hence the most that a good record is worth: no more than four times the price of a
//! stranger, and 30 sats. With a score below [`BAD`] a provider comes after all others, at any price: else
//! a thief would be cheap enough in the end.
//!
//! A new key has no past. Whoever throws a bad record away is a stranger, and a stranger does not come
//! before a good record by asking nothing: that saves the price, and not the trouble or the doubt.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use nostr::PublicKey;

use super::Asks;
use crate::protocol::Offer;
use crate::protocol::record::{Outcome, Past, Record, Summary};
use crate::units::{Msat, UnixSecs};

/// The records of the providers we have bought from; who is not in it is a stranger.
pub type History = BTreeMap<PublicKey, Record>;

/// After so long, in seconds, what happened counts half (30 days): models, prices and operators change
/// within months.
pub const HALF_LIFE_SECS: u64 = 30 * 86_400;
/// How much evidence counts, in deliveries of the price at hand.
pub const MEMORY: f64 = 20.0;
/// From this score on, in percent, a provider is proven: a delivery and a half as dear as the job at hand.
pub const PROVEN: u8 = 80;
/// Below this score, in percent, a provider comes last: one theft and nothing else keeps it here for 60
/// days.
pub const BAD: u8 = 25;

/// What a try costs besides its price, in msat: about an ordinary job. Prices much below it hardly differ.
const TROUBLE_MSAT: f64 = 10_000.0;
/// What a second of waiting costs, in msat per millisecond.
const WAIT_MSAT_PER_MS: f64 = 1.0;
/// Half a success and half a failure to begin with (Jeffreys' prior).
const PRIOR: f64 = 0.5;

/// How surely the provider of this record delivers a job of this price, from 0 to 100; 50 is a stranger.
#[must_use]
pub fn score(record: &Record, price: Msat, now: UnixSecs) -> u8 {
    percent(likelihood(record, price, now))
}

/// Whether the provider of this record has shown that it can be trusted with `price`.
#[must_use]
pub fn is_proven(record: &Record, price: Msat, now: UnixSecs) -> bool {
    score(record, price, now) >= PROVEN
}

/// The record in numbers, for a job of this price. Where the price is unknown, deliveries of any price
/// count, and none proves anything.
#[must_use]
pub fn summary(record: &Record, price: Option<Msat>, now: UnixSecs) -> Summary {
    Summary {
        attempts: record.attempts(),
        delivered: record.count(Outcome::Delivered),
        undelivered: record.count(Outcome::Undelivered),
        refused: record.count(Outcome::Refused),
        bad_invoices: record.count(Outcome::BadInvoice),
        unanswered: record.count(Outcome::Unanswered),
        first_token_ms: first_token_ms(record, now).map(whole),
        invoice_percent: invoice_share(record, Msat::ZERO, now).map(|share| whole(share * 100.0)),
        score: score(record, price.unwrap_or(Msat::ZERO), now),
        proven: price.is_some_and(|price| is_proven(record, price, now)),
    }
}

/// A place in the order of `--select best`: the less the better.
#[derive(Debug)]
pub(super) struct Rank {
    bad: bool,
    /// Infinite where the price is unknown: after all that said one.
    cost: f64,
    /// What decides among those.
    likelihood: f64,
    at: Reverse<UnixSecs>,
    provider: PublicKey,
}

impl Rank {
    pub(super) fn of(offer: &Offer, asks: Asks, record: &Record, now: UnixSecs) -> Self {
        let price = asks.known();
        let likelihood = likelihood(record, price.unwrap_or(Msat::ZERO), now);
        Self {
            bad: percent(likelihood) < BAD,
            cost: price.map_or(f64::INFINITY, |price| cost(record, price, likelihood, now)),
            likelihood,
            at: Reverse(offer.at),
            provider: offer.provider,
        }
    }

    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        self.bad
            .cmp(&other.bad)
            .then_with(|| self.cost.total_cmp(&other.cost))
            .then_with(|| other.likelihood.total_cmp(&self.likelihood))
            .then_with(|| (self.at, self.provider).cmp(&(other.at, other.provider)))
    }
}

fn cost(record: &Record, price: Msat, likelihood: f64, now: UnixSecs) -> f64 {
    let expected = amount(price) * invoice_share(record, price, now).unwrap_or(1.0);
    let wait = first_token_ms(record, now).unwrap_or(0.0) * WAIT_MSAT_PER_MS;
    (expected + TROUBLE_MSAT + wait) / (likelihood * likelihood)
}

/// The score, from 0 to 1 and neither.
fn likelihood(record: &Record, price: Msat, now: UnixSecs) -> f64 {
    let (mut deliveries, mut faults, mut room) = (0.0, 0.0, MEMORY);
    for past in &record.recent {
        let counted = f64::min(worth(past, price) * faded(past, now), room);
        room -= counted;
        match past.outcome {
            Outcome::Delivered => deliveries += counted,
            _ => faults += counted,
        }
    }
    (PRIOR + deliveries) / (2.0 * PRIOR + deliveries + faults)
}

/// How much one purchase says on a job of this price.
fn worth(past: &Past, price: Msat) -> f64 {
    match past.outcome {
        Outcome::Delivered if past.price >= price => 1.0,
        Outcome::Delivered => amount(past.price) / amount(price),
        Outcome::Undelivered => 4.0,
        Outcome::BadInvoice => 1.0,
        Outcome::Refused | Outcome::Unanswered => 0.25,
    }
}

/// What is left of it after all this time, from 1 down to 0.
fn faded(past: &Past, now: UnixSecs) -> f64 {
    let half_lives = number(now.since(past.at)) / number(HALF_LIFE_SECS);
    (-half_lives).exp2()
}

/// What its invoices came to, as a share of what was listed, in sums: a discount on cheap jobs is none on
/// dear ones. One job at the listed price is added to what was seen. `None`: nothing to tell from.
fn invoice_share(record: &Record, listed_price: Msat, now: UnixSecs) -> Option<f64> {
    let (mut paid, mut listed) = (amount(listed_price), amount(listed_price));
    for past in &record.recent {
        if let Some(asked) = past.listed.filter(|_| !past.price.is_zero()) {
            paid += amount(past.price.min(asked)) * faded(past, now);
            listed += amount(asked) * faded(past, now);
        }
    }
    (listed > 0.0).then(|| paid / listed)
}

fn first_token_ms(record: &Record, now: UnixSecs) -> Option<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for past in &record.recent {
        if let Some(ms) = past.first_token_ms {
            sum += number(ms) * faded(past, now);
            weights += faded(past, now);
        }
    }
    (weights > 0.0).then(|| sum / weights)
}

fn amount(of: Msat) -> f64 {
    number(of.get())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "weights; money is never computed from them"
)]
fn number(of: u64) -> f64 {
    of as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and nothing here is negative"
)]
fn whole(of: f64) -> u64 {
    of.round() as u64
}

fn percent(likelihood: f64) -> u8 {
    u8::try_from(whole(likelihood * 100.0)).unwrap_or(100)
}

#[cfg(test)]
mod tests;

//! What purchases say of their providers: one row each, and tallies that triggers keep.

use std::collections::BTreeMap;

use nostr::PublicKey;
use rusqlite::{Connection, Row, params};

use super::Write;
use super::fault::Fault;
use super::read::{Stored, word};
use crate::ledger::Scope;
use crate::protocol::record::{Observation, Outcome, Past, Record};
use crate::units::{Msat, UnixSecs};

/// The latest so many of each outcome are read: more than the market looks at, and no more than the oldest
/// ledger takes no longer for.
const RECENT: u32 = 100;

const OBSERVE: &str =
    "INSERT INTO observations (purchase, network, play_money, provider, outcome, at,
     price_msat, listed_msat, first_token_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
     ON CONFLICT DO UPDATE SET outcome = excluded.outcome, at = excluded.at,
        price_msat = excluded.price_msat, first_token_ms = excluded.first_token_ms
     WHERE outcome NOT IN ('delivered', excluded.outcome)";

const TALLIES: &str = "SELECT outcome, count FROM tallies
     WHERE network = ?1 AND play_money = ?2 AND provider = ?3 AND count > 0";

const LATEST: &str = "SELECT at, price_msat, listed_msat, first_token_ms FROM observations
     WHERE network = ?1 AND play_money = ?2 AND provider = ?3 AND outcome = ?4
     ORDER BY at DESC, purchase DESC LIMIT ?5";

/// Puts on record what this purchase says of its provider.
pub(super) fn observe(
    write: &Write<'_>,
    purchase: &Stored,
    seen: &Observation,
) -> Result<(), Fault> {
    let Scope {
        network,
        play_money,
    } = purchase.record.scope;
    // SQLite's integers have 63 bits for what is not negative.
    let clamped = |amount: Msat| amount.min(Msat::MAX).get();
    write.tx.prepare_cached(OBSERVE)?.execute(params![
        purchase.seq,
        network.as_str(),
        play_money,
        seen.provider.to_hex(),
        seen.outcome.as_str(),
        write.now.get(),
        clamped(seen.price),
        seen.listed.map(clamped),
        seen.first_token_ms
            .map(|ms| ms.min(i64::MAX.unsigned_abs())),
    ])?;
    Ok(())
}

/// The records of those of `providers` that were ever bought from.
pub(in crate::ledger) fn records(
    db: &mut Connection,
    scope: Scope,
    providers: &[PublicKey],
) -> Result<BTreeMap<PublicKey, Record>, Fault> {
    let tx = db.transaction()?;
    let mut known = BTreeMap::new();
    for provider in providers {
        if known.contains_key(provider) {
            continue;
        }
        if let Some(record) = record(&tx, scope, provider)? {
            known.insert(*provider, record);
        }
    }
    Ok(known)
}

fn record(db: &Connection, scope: Scope, provider: &PublicKey) -> Result<Option<Record>, Fault> {
    let (network, play, key) = (scope.network.as_str(), scope.play_money, provider.to_hex());
    let mut tallies = db.prepare_cached(TALLIES)?;
    let counts: BTreeMap<Outcome, u64> = tallies
        .query_map(params![network, play, key], |row| {
            Ok((word(row, 0, Outcome::from_word)?, row.get(1)?))
        })?
        .collect::<Result<_, _>>()?;
    if counts.is_empty() {
        return Ok(None);
    }
    let mut recent = Vec::new();
    let mut latest = db.prepare_cached(LATEST)?;
    for outcome in counts.keys().copied() {
        let rows = latest.query_map(
            params![network, play, key, outcome.as_str(), RECENT],
            |row| past(row, outcome),
        )?;
        for row in rows {
            recent.push(row?);
        }
    }
    // Stable: of the same second, what speaks against the provider counts as the later.
    recent.sort_by_key(|past: &Past| {
        (
            std::cmp::Reverse(past.at),
            past.outcome == Outcome::Delivered,
        )
    });
    Ok(Some(Record { counts, recent }))
}

fn past(row: &Row<'_>, outcome: Outcome) -> rusqlite::Result<Past> {
    Ok(Past {
        at: UnixSecs::new(row.get(0)?),
        outcome,
        price: Msat::new(row.get(1)?),
        listed: row.get::<_, Option<u64>>(2)?.map(Msat::new),
        first_token_ms: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_record_is_found_by_reading_a_whole_table() {
        for sql in [TALLIES, LATEST] {
            let steps = super::super::plan(sql).unwrap();
            assert!(
                steps.iter().all(|step| step.starts_with("SEARCH")),
                "{sql}\n{steps:#?}"
            );
        }
    }
}

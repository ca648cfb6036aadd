//! A ledger as a check-up finds it. Nothing is made or changed.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::Fault;
use super::read::stored_time;
use crate::ledger::{Checkup, LedgerError, schema};
use crate::look::{self, Soundness};
use crate::units::Msat;

/// Days of which the sum and the payments say two things.
const MISCOUNTED: &str = "
    WITH paid AS (
        SELECT network, play_money, closed_at / 86400, sum(spent_msat >> 32), sum(spent_msat & 4294967295)
        FROM reservations WHERE status = 'settled' GROUP BY 1, 2, 3
    )
    SELECT * FROM (SELECT * FROM paid EXCEPT SELECT * FROM days)
    UNION ALL SELECT * FROM (SELECT * FROM days EXCEPT SELECT * FROM paid)";

/// Looks into the file. `None` if there is none.
pub(in crate::ledger) fn check_up(
    file: &Path,
    within: Duration,
) -> Result<Option<Checkup>, LedgerError> {
    // What can't be looked for can't be opened either, and that says why.
    if matches!(file.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let looked = look::twice(
        || read(&look::open(file)?, within),
        |found| found.as_ref().is_ok_and(|it| it.soundness.is_well()),
    );
    looked.map(Some).map_err(|fault| fault.of(file))
}

fn read(db: &Connection, within: Duration) -> Result<Checkup, Fault> {
    let mut found = Checkup {
        version: schema::version(db)?,
        latest_version: schema::LATEST,
        ..Checkup::default()
    };
    if found.version == 0 {
        // Made, and cut off before anything was written.
        return Ok(found);
    }
    found.soundness = look::soundness(db, within)?;
    if let Soundness::Damaged(_) = found.soundness {
        return Ok(found);
    }
    if found.version == schema::LATEST && db.prepare(MISCOUNTED)?.exists([])? {
        let what = "what it has down as spent on a day is not what that day's payments come to";
        found.soundness = Soundness::Damaged(what.to_owned());
        return Ok(found);
    }
    found.time = stored_time(db)?;
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u64>(0));
    found.open = count("SELECT count(*) FROM purchases WHERE status = 'open'")?;
    found.undelivered = count("SELECT count(*) FROM purchases WHERE status = 'undelivered'")?;
    let mut open = db.prepare(
        "SELECT price_msat, fee_cap_msat, status = 'unknown' FROM reservations
         WHERE closed_at IS NULL",
    )?;
    let mut rows = open.query([])?;
    while let Some(row) = rows.next()? {
        let amount = Msat::new(row.get(0)?).saturating_add(Msat::new(row.get(1)?));
        found.reserved = found.reserved.saturating_add(amount);
        found.in_doubt += u64::from(row.get::<_, bool>(2)?);
    }
    Ok(found)
}

//! The ledger's tables and their migrations.
//!
//! The list is append-only: a step that was released is never edited, only followed. What the Rust
//! code promises about money is written here once more as constraints, so that no bug can break it
//! without an error.

use rusqlite::{Connection, TransactionBehavior};

use super::store::Fault;
use crate::crash::{self, Point};

/// "acLG": tells our files from any other program's.
const APPLICATION_ID: i64 = 0x6163_4c47;

const MIGRATIONS: &[&str] = &[FIRST, SEALING, RECORD, RECEIPTS, DAYS];

/// The version of files that this program writes.
pub(super) const LATEST: usize = MIGRATIONS.len();

const FIRST: &str = "
-- The latest ledger time there was. It never runs backwards.
CREATE TABLE ledger_time (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    secs INTEGER NOT NULL CHECK (secs >= 0)
) STRICT;
INSERT INTO ledger_time VALUES (1, 0);

CREATE TABLE purchases (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 32),
    network TEXT NOT NULL,
    play_money INTEGER NOT NULL CHECK (play_money IN (0, 1)),
    tick TEXT,
    idempotency_key TEXT,
    status TEXT NOT NULL CHECK (status IN ('open', 'delivered', 'undelivered', 'failed')),
    version INTEGER NOT NULL CHECK (version >= 1),
    owner TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX unfinished_by_owner ON purchases (owner) WHERE status IN ('open', 'undelivered');

-- A key names the latest purchase that was made with it.
CREATE TABLE idempotency_keys (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    purchase INTEGER NOT NULL REFERENCES purchases (seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservations (
    purchase INTEGER PRIMARY KEY REFERENCES purchases (seq),
    -- The budget it counts against, as in the purchase: what the limits ask for is in one row.
    network TEXT NOT NULL,
    play_money INTEGER NOT NULL CHECK (play_money IN (0, 1)),
    tick TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('reserved', 'in_flight', 'unknown', 'settled', 'released')),
    price_msat INTEGER NOT NULL CHECK (price_msat >= 0),
    fee_cap_msat INTEGER NOT NULL CHECK (fee_cap_msat >= 0),
    payment_hash TEXT NOT NULL UNIQUE CHECK (length(payment_hash) = 64),
    wallet_kind TEXT NOT NULL,
    wallet_account TEXT NOT NULL,
    spent_msat INTEGER CHECK (spent_msat >= 0),
    fee_msat INTEGER CHECK (fee_msat BETWEEN 0 AND spent_msat),
    -- Ledger time of settling or releasing.
    closed_at INTEGER,
    CHECK ((status IN ('settled', 'released')) = (closed_at IS NOT NULL)),
    CHECK ((status = 'settled') = (spent_msat IS NOT NULL)),
    CHECK ((status = 'settled') = (fee_msat IS NOT NULL))
) STRICT;
CREATE INDEX open_by_scope ON reservations (network, play_money) WHERE closed_at IS NULL;
CREATE INDEX open_by_wallet ON reservations (wallet_kind, wallet_account) WHERE closed_at IS NULL;
CREATE INDEX settled_by_time ON reservations (network, play_money, closed_at, spent_msat)
    WHERE status = 'settled';
CREATE INDEX settled_by_tick ON reservations (network, play_money, tick, spent_msat)
    WHERE status = 'settled';

CREATE TRIGGER settled_is_final BEFORE UPDATE ON reservations WHEN OLD.status = 'settled'
BEGIN SELECT RAISE(ABORT, 'nothing leaves settled'); END;
CREATE TRIGGER reservations_stay BEFORE DELETE ON reservations
BEGIN SELECT RAISE(ABORT, 'a reservation is never deleted'); END;
CREATE TRIGGER reservations_keep_their_terms
BEFORE UPDATE OF purchase, network, play_money, tick, price_msat, fee_cap_msat, payment_hash,
    wallet_kind, wallet_account ON reservations
BEGIN SELECT RAISE(ABORT, 'the terms of a reservation never change'); END;

-- How many reservations of a wallet were closed: a balance seen before the last one is out of date.
CREATE TABLE wallets (
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    settlements INTEGER NOT NULL CHECK (settlements >= 0),
    PRIMARY KEY (kind, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    purchase INTEGER NOT NULL REFERENCES purchases (seq),
    at INTEGER NOT NULL,
    what TEXT NOT NULL,
    amount_msat INTEGER CHECK (amount_msat >= 0),
    note TEXT
) STRICT;
CREATE INDEX log_by_purchase ON log (purchase);
CREATE TRIGGER log_stays BEFORE DELETE ON log
BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
CREATE TRIGGER log_lines_stay BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
";

/// Providers that were sent a sealed request. A later listing of theirs without `nip44` is not believed
/// over this: prompts must not fall back to plain text because somebody says so.
const SEALING: &str = "
CREATE TABLE sealing_providers (
    provider TEXT PRIMARY KEY CHECK (length(provider) = 64)
) STRICT, WITHOUT ROWID;
";

/// What our own purchases say of their providers. Those that ended before this was kept are counted as far
/// as their states tell: this looks into them once, and at what is damaged or strange not at all.
const RECORD: &str = "
CREATE TABLE observations (
    purchase INTEGER PRIMARY KEY REFERENCES purchases (seq),
    network TEXT NOT NULL,
    play_money INTEGER NOT NULL CHECK (play_money IN (0, 1)),
    provider TEXT NOT NULL CHECK (length(provider) = 64),
    outcome TEXT NOT NULL
        CHECK (outcome IN ('delivered', 'undelivered', 'refused', 'bad_invoice', 'unanswered')),
    -- Ledger time of the outcome.
    at INTEGER NOT NULL CHECK (at >= 0),
    price_msat INTEGER NOT NULL CHECK (price_msat >= 0),
    listed_msat INTEGER CHECK (listed_msat >= 0),
    first_token_ms INTEGER CHECK (first_token_ms >= 0)
) STRICT;
CREATE INDEX observed_of_provider ON observations (network, play_money, provider, outcome, at);

CREATE TRIGGER delivered_is_final BEFORE UPDATE ON observations WHEN OLD.outcome = 'delivered'
BEGIN SELECT RAISE(ABORT, 'nothing undoes a delivery'); END;
CREATE TRIGGER observations_stay BEFORE DELETE ON observations
BEGIN SELECT RAISE(ABORT, 'an observation is never deleted'); END;

-- How many there are of each: counting them anew takes as long as there are many.
CREATE TABLE tallies (
    network TEXT NOT NULL,
    play_money INTEGER NOT NULL,
    provider TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    PRIMARY KEY (network, play_money, provider, outcome)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tally_new AFTER INSERT ON observations BEGIN
    INSERT INTO tallies VALUES (NEW.network, NEW.play_money, NEW.provider, NEW.outcome, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER tally_changed AFTER UPDATE ON observations BEGIN
    UPDATE tallies SET count = count - 1 WHERE network = OLD.network AND play_money = OLD.play_money
        AND provider = OLD.provider AND outcome = OLD.outcome;
    INSERT INTO tallies VALUES (NEW.network, NEW.play_money, NEW.provider, NEW.outcome, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;

INSERT INTO observations
SELECT seq, network, play_money, provider, outcome, at, price,
    CASE WHEN typeof(listed) = 'integer' AND listed >= 0 THEN listed END, NULL
FROM (
    SELECT p.seq, p.network, p.play_money, max(p.updated_at, 0) AS at,
        json_extract(p.json, '$.terms.provider') AS provider,
        json_extract(p.json, '$.terms.listed') AS listed,
        coalesce(r.spent_msat - r.fee_msat, 0) AS price,
        CASE p.status
            WHEN 'failed' THEN CASE json_extract(p.json, '$.phase.failed.code')
                WHEN 'provider_refused' THEN 'refused'
                WHEN 'bad_invoice' THEN
                    iif(json_extract(p.json, '$.terms.listed') IS NULL, 'refused', 'bad_invoice')
            END
            WHEN 'open' THEN NULL
            ELSE p.status
        END AS outcome
    FROM (SELECT *, CASE WHEN json_valid(state) THEN state ELSE '{}' END AS json FROM purchases) p
    LEFT JOIN reservations r ON r.purchase = p.seq
)
WHERE outcome IS NOT NULL AND typeof(provider) = 'text' AND length(provider) = 64
    AND provider NOT GLOB '*[^0-9a-f]*';
";

/// Receipts, one row each. A customer's are numbered without a gap, and each names the one before.
const RECEIPTS: &str = "
CREATE TABLE receipts (
    seq INTEGER PRIMARY KEY,
    purchase INTEGER NOT NULL REFERENCES purchases (seq),
    customer TEXT NOT NULL CHECK (length(customer) = 64),
    number INTEGER NOT NULL CHECK (number >= 1),
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 64),
    json TEXT NOT NULL,
    UNIQUE (customer, number)
) STRICT;
CREATE INDEX receipts_of_purchase ON receipts (purchase, seq);

CREATE TRIGGER receipts_have_no_gap BEFORE INSERT ON receipts
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM receipts WHERE customer = NEW.customer)
BEGIN SELECT RAISE(ABORT, 'a receipt takes the next number'); END;
CREATE TRIGGER receipts_never_change BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt never changes'); END;
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'a receipt is never deleted'); END;
";

/// What each day, UTC, has spent: a limit must cost a busy day no more than a new one. In two halves, as SQLite's
/// integers have 63 bits.
const DAYS: &str = "
CREATE TABLE days (
    network TEXT NOT NULL,
    play_money INTEGER NOT NULL CHECK (play_money IN (0, 1)),
    day INTEGER NOT NULL CHECK (day >= 0),
    high INTEGER NOT NULL CHECK (high >= 0),
    low INTEGER NOT NULL CHECK (low >= 0),
    PRIMARY KEY (network, play_money, day)
) STRICT, WITHOUT ROWID;
INSERT INTO days
SELECT network, play_money, closed_at / 86400, sum(spent_msat >> 32), sum(spent_msat & 4294967295)
FROM reservations WHERE status = 'settled' GROUP BY 1, 2, 3;

CREATE TRIGGER spent_on_a_day AFTER UPDATE OF status ON reservations WHEN NEW.status = 'settled' BEGIN
    INSERT INTO days VALUES (NEW.network, NEW.play_money, NEW.closed_at / 86400,
        NEW.spent_msat >> 32, NEW.spent_msat & 4294967295)
    ON CONFLICT DO UPDATE SET high = high + excluded.high, low = low + excluded.low;
END;
CREATE TRIGGER spent_at_once AFTER INSERT ON reservations WHEN NEW.status = 'settled' BEGIN
    INSERT INTO days VALUES (NEW.network, NEW.play_money, NEW.closed_at / 86400,
        NEW.spent_msat >> 32, NEW.spent_msat & 4294967295)
    ON CONFLICT DO UPDATE SET high = high + excluded.high, low = low + excluded.low;
END;
CREATE TRIGGER days_only_grow BEFORE UPDATE ON days
WHEN NEW.high < OLD.high OR NEW.low < OLD.low OR NEW.network <> OLD.network
    OR NEW.play_money <> OLD.play_money OR NEW.day <> OLD.day
BEGIN SELECT RAISE(ABORT, 'what a day has spent only grows'); END;
CREATE TRIGGER days_stay BEFORE DELETE ON days
BEGIN SELECT RAISE(ABORT, 'what a day has spent is never deleted'); END;

DROP INDEX settled_by_time;
DROP INDEX settled_by_tick;
CREATE INDEX settled_by_tick ON reservations (network, play_money, tick, spent_msat)
    WHERE status = 'settled' AND tick IS NOT NULL;
";

/// Brings the file up to this program's version. A file that is there already costs one read.
pub(super) fn migrate(db: &mut Connection) -> Result<(), Fault> {
    let latest = MIGRATIONS.len();
    if version(db)? == latest {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have done it while we waited.
    for step in &MIGRATIONS[version(&tx)?..] {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", latest)?;
    crash::before(Point::LedgerMigrate);
    tx.commit()?;
    crash::after(Point::LedgerMigrate);
    Ok(())
}

/// How many of the migrations the file has had.
pub(super) fn version(db: &Connection) -> Result<usize, Fault> {
    let (version, application, tables): (i64, i64, i64) = db.query_row(
        "SELECT (SELECT user_version FROM pragma_user_version),
                (SELECT application_id FROM pragma_application_id),
                (SELECT count(*) FROM sqlite_schema)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    if (version, application, tables) == (0, 0, 0) {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Fault::Unusable(
            "it is another program's database. Give this one a folder of its own".to_owned(),
        ));
    }
    match usize::try_from(version) {
        Ok(version) if (1..=MIGRATIONS.len()).contains(&version) => Ok(version),
        Ok(version) if version > MIGRATIONS.len() => Err(Fault::Unusable(
            "it was written by a newer version of agent-compute. Update the program".to_owned(),
        )),
        _ => Err(Fault::Unusable(format!(
            "it is damaged (version {version}). Restore it from a backup"
        ))),
    }
}

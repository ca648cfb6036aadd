//! What is on record of money in escrow: holds that are neither settled nor returned, released preimages,
//! and how customers have behaved.

use nostr::{EventId, PublicKey};
use rusqlite::params;

use super::rows::{from_sql, state_of, take_step, to_sql};
use super::{JobStore, StoreError};
use crate::ids::{PaymentHash, Preimage};
use crate::provider::job::{Address, JobState, JobStep};
use crate::provider::pricing::Standing;
use crate::units::{Msat, UnixSecs};

/// As many as are looked at: who buys a lot must not have to wait for it.
const STANDING: &str = "SELECT coalesce(sum(state = 'settled'), 0),
     coalesce(sum(preimage IS NULL AND (state = 'unreleased'
         OR (state = 'delivered' AND published_at < ?4))), 0)
     FROM (SELECT state, preimage, published_at FROM jobs
         WHERE escrow = 1 AND customer = ?2 AND provider = ?1 AND held_at >= ?3
         ORDER BY held_at DESC LIMIT 1000)";

/// A job in escrow whose work is over, or that is released already, and whose money is neither ours nor the
/// customer's again.
#[derive(Clone, Debug)]
pub struct OpenHold {
    /// The job.
    pub address: Address,
    /// What the money is locked to.
    pub payment_hash: PaymentHash,
    /// How much it is.
    pub price: Msat,
    /// When the customer gets it back unless it is settled.
    pub held_until: UnixSecs,
    /// `done`, `delivered`, `released` or `returning`; `held` or `running` if it was released early.
    pub state: JobState,
    /// What the customer has released. Possibly before the work was done.
    pub preimage: Option<Preimage>,
    /// Since when it stands there.
    pub since: UnixSecs,
}

/// Which hold is to be settled or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The job.
    pub request: EventId,
    /// What the money is locked to.
    pub payment_hash: PaymentHash,
    /// When the customer gets it back unless it is settled.
    pub held_until: UnixSecs,
}

impl JobStore {
    /// Whether a job of any customer is or was to be paid under this hash.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn knows_hash(&self, hash: PaymentHash) -> Result<bool, StoreError> {
        self.writer
            .write(move |db| {
                let mut found =
                    db.prepare_cached("SELECT 1 FROM jobs WHERE payment_hash = ?1 LIMIT 1")?;
                Ok(found.exists([hash.to_string()])?)
            })
            .await
    }

    /// How `customer` has behaved towards `provider` since `since`, or in its latest thousand jobs. Results that were delivered before
    /// `overdue` and are not released count as kept. A job that was released and that we were too late to
    /// settle is no fault of the customer.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn standing(
        &self,
        provider: PublicKey,
        customer: PublicKey,
        since: UnixSecs,
        overdue: UnixSecs,
    ) -> Result<Standing, StoreError> {
        self.writer
            .write(move |db| {
                let mut counts = db.prepare_cached(STANDING)?;
                let whose = params![
                    provider.to_hex(),
                    customer.to_hex(),
                    to_sql(since.get()),
                    to_sql(overdue.get()),
                ];
                Ok(counts.query_row(whose, |row| {
                    Ok(Standing {
                        released: from_sql(row.get(0)?),
                        kept: from_sql(row.get(1)?),
                    })
                })?)
            })
            .await
    }

    /// Puts a released preimage on record. The caller has checked that it is this job's. One that comes
    /// before the result is kept until there is one.
    ///
    /// # Errors
    /// [`StoreError::Illegal`] if the job's money is not held, or on its way back; [`StoreError::NotFound`].
    pub async fn release(
        &self,
        request: EventId,
        preimage: Preimage,
        at: UnixSecs,
    ) -> Result<JobState, StoreError> {
        self.writer
            .write(move |db| {
                let state = match state_of(db, request)? {
                    early @ (JobState::Held | JobState::Running | JobState::Released) => early,
                    state => take_step(db, request, state, JobStep::Released, at)?,
                };
                db.prepare_cached("UPDATE jobs SET preimage = ?2 WHERE request_id = ?1")?
                    .execute([request.to_hex(), preimage.reveal()])?;
                Ok(state)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::STANDING;
    use crate::provider::store::schema::migrate;

    #[test]
    fn a_customers_standing_is_found_without_reading_its_jobs() {
        let mut db = Connection::open_in_memory().expect("memory");
        migrate(&mut db).expect("migrated");
        let mut plan = db
            .prepare(&format!("EXPLAIN QUERY PLAN {STANDING}"))
            .expect("a query");
        let steps: Vec<String> = plan
            .query_map([0, 0, 0, 0], |row| row.get(3))
            .and_then(Iterator::collect)
            .expect("a plan");
        let index = "SEARCH jobs USING COVERING INDEX jobs_standing";
        assert!(
            steps.iter().any(|step| step.starts_with(index)),
            "{steps:?}"
        );
        assert!(
            !steps.iter().any(|step| step.contains("B-TREE")),
            "{steps:?}"
        );
    }
}

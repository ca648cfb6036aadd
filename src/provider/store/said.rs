//! What a provider said about itself: what a later run must be later than, and takes back.

use nostr::{EventId, PublicKey};
use rusqlite::{OptionalExtension, params};

use super::rows::{from_sql, nonsense, to_sql};
use super::{JobStore, StoreError};
use crate::units::UnixSecs;

/// The most announcements that are taken back at once, by one event. Few are younger than customers look
/// for, and relays take this many tags.
const MOST_TAKEN_BACK: u32 = 400;

impl JobStore {
    /// The time of what `provider` last said about itself, or withdrew; the epoch if it never did.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn listed_at(&self, provider: PublicKey) -> Result<UnixSecs, StoreError> {
        self.writer
            .write(move |db| {
                let at: Option<i64> = db
                    .query_row(
                        "SELECT at FROM listings WHERE provider = ?1",
                        [provider.to_hex()],
                        |row| row.get(0),
                    )
                    .optional()?;
                Ok(UnixSecs::new(at.map_or(0, from_sql)))
            })
            .await
    }

    /// Remembers the time of what `provider` says about itself, or withdraws.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn remember_listing(
        &self,
        provider: PublicKey,
        at: UnixSecs,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.execute(
                    "INSERT INTO listings (provider, at) VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET at = excluded.at",
                    params![provider.to_hex(), to_sql(at.get())],
                )?;
                Ok(())
            })
            .await
    }

    /// Remembers an announcement of `provider` in its channel, and forgets those from before `recent`.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn remember_announcement(
        &self,
        provider: PublicKey,
        announcement: EventId,
        at: UnixSecs,
        recent: UnixSecs,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.execute(
                    "DELETE FROM announcements WHERE provider = ?1 AND at < ?2",
                    params![provider.to_hex(), to_sql(recent.get())],
                )?;
                db.execute(
                    "INSERT INTO announcements (provider, at, event) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO NOTHING",
                    params![provider.to_hex(), to_sql(at.get()), announcement.to_hex()],
                )?;
                Ok(())
            })
            .await
    }

    /// The announcements of `provider` since `recent` that it has not taken back, the latest first.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn announcements(
        &self,
        provider: PublicKey,
        recent: UnixSecs,
    ) -> Result<Vec<EventId>, StoreError> {
        self.writer
            .write(move |db| {
                let mut rows = db.prepare_cached(
                    "SELECT event FROM announcements WHERE provider = ?1 AND at >= ?2
                     ORDER BY at DESC LIMIT ?3",
                )?;
                let whose = params![provider.to_hex(), to_sql(recent.get()), MOST_TAKEN_BACK];
                let ids = rows.query_map(whose, |row| row.get::<_, String>(0))?;
                ids.map(|id| EventId::from_hex(&id?).map_err(nonsense))
                    .collect()
            })
            .await
    }

    /// Forgets the announcements of `provider`: they were taken back.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn forget_announcements(&self, provider: PublicKey) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.execute(
                    "DELETE FROM announcements WHERE provider = ?1",
                    [provider.to_hex()],
                )?;
                Ok(())
            })
            .await
    }
}

//! The chunks of jobs that are not done yet, on record before they are sent.

use nostr::EventId;
use rusqlite::params;

use super::{JobStore, StoreError};

/// What earlier runs of a job have sent of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    /// All chunks together.
    pub text: String,
    /// How many there are: the number of the next one.
    pub chunks: u32,
    /// The last one, which may be on record and not sent.
    pub last: String,
}

impl JobStore {
    /// Puts a chunk on record. It survives the end of the process; the machine's may take it along.
    ///
    /// # Errors
    /// If the store can't be written, or has another chunk of this number.
    pub async fn remember_chunk(
        &self,
        request: EventId,
        seq: u32,
        text: String,
    ) -> Result<(), StoreError> {
        self.writer
            .write_lightly(move |db| {
                db.prepare_cached(
                    "INSERT INTO chunks (request_id, seq, text) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![request.to_hex(), seq, text])?;
                Ok(())
            })
            .await
    }

    /// The chunks of a job that is not done yet.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn streamed(&self, request: EventId) -> Result<Streamed, StoreError> {
        self.writer
            .write(move |db| {
                let mut rows = db
                    .prepare_cached("SELECT text FROM chunks WHERE request_id = ?1 ORDER BY seq")?;
                let mut streamed = Streamed::default();
                let texts = rows.query_map([request.to_hex()], |row| row.get::<_, String>(0))?;
                for text in texts {
                    streamed.last = text?;
                    streamed.text.push_str(&streamed.last);
                    streamed.chunks += 1;
                }
                Ok(streamed)
            })
            .await
    }
}

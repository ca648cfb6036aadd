//! What a provider reports while it runs, and the way that takes.

use std::time::Duration;

use nostr::{EventId, PublicKey};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::ids::{JobId, PaymentHash};
use crate::units::{Msat, UnixSecs};

/// Something that happened. Never a prompt, a result or a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProviderEvent {
    /// A channel was made. Not sent when an earlier one is joined again.
    ChannelCreated {
        /// Its id.
        channel: EventId,
    },
    /// Subscribed and announced: customers find us. Comes once.
    Ready {
        /// Our key.
        pubkey: PublicKey,
        /// The channel we work in.
        channel: EventId,
    },
    /// An invoice is on record and goes out.
    Quoted {
        /// The job.
        job_id: JobId,
        /// Who asked.
        customer: PublicKey,
        /// What the invoice asks for.
        price_msat: Msat,
        /// Its payment hash; `None` where no wallet takes part.
        payment_hash: Option<PaymentHash>,
        /// When the quote ends.
        expires_at: UnixSecs,
    },
    /// The money is here.
    Paid {
        /// The job.
        job_id: JobId,
        /// How much.
        price_msat: Msat,
        /// The payment; `None` where no wallet takes part.
        payment_hash: Option<PaymentHash>,
    },
    /// The money is locked on its way to us: the job is in escrow.
    Held {
        /// The job.
        job_id: JobId,
        /// How much.
        price_msat: Msat,
        /// What it is locked to.
        payment_hash: PaymentHash,
        /// When the customer gets it back unless it is settled.
        held_until: UnixSecs,
    },
    /// The job waits for a slot. Said again when it has come much nearer to its turn.
    Queued {
        /// The job.
        job_id: JobId,
        /// How many wait before it.
        position: u32,
    },
    /// The backend is at work.
    Started {
        /// The job.
        job_id: JobId,
        /// The model that does it.
        model: String,
    },
    /// A chunk was published.
    Chunk {
        /// The job.
        job_id: JobId,
        /// Its place, from 0.
        seq: u32,
    },
    /// A relay took the whole result.
    Delivered {
        /// The job.
        job_id: JobId,
        /// What was paid for it, or is held.
        price_msat: Msat,
    },
    /// The customer has released the money of a job in escrow.
    Released {
        /// The job.
        job_id: JobId,
    },
    /// The money of a job in escrow is ours.
    Settled {
        /// The job.
        job_id: JobId,
        /// How much.
        price_msat: Msat,
    },
    /// A result was delivered, and the money that was held for it went back to the customer.
    Unreleased {
        /// The job.
        job_id: JobId,
        /// How much.
        price_msat: Msat,
    },
    /// There is no result of a job in escrow. Nothing is owed: the money goes back.
    Undone {
        /// The job.
        job_id: JobId,
        /// What is held for it.
        price_msat: Msat,
        /// Why, for the owner.
        reason: String,
    },
    /// The money of such a job is back.
    Returned {
        /// The job.
        job_id: JobId,
        /// How much.
        price_msat: Msat,
    },
    /// A request was not taken. A peer that floods is reported, and answered, a few times only.
    Refused {
        /// The job.
        job_id: JobId,
        /// Who asked.
        customer: PublicKey,
        /// The stable word for why.
        code: &'static str,
    },
    /// Paid, and there is no result: the money is owed.
    Failed {
        /// The job.
        job_id: JobId,
        /// What was paid for it.
        price_msat: Msat,
        /// Why, for the owner.
        reason: String,
    },
    /// Nobody paid in time. A payment that settles late is still served.
    Expired {
        /// The job.
        job_id: JobId,
    },
    /// The customer no longer wants it.
    Cancelled {
        /// The job.
        job_id: JobId,
    },
}

/// Reports that may wait for a reader that is slow.
const WAITING: usize = 1_024;

/// How long the last reports may take to be read.
const LAST_REPORTS: Duration = Duration::from_secs(1);

/// Hands reports on without ever waiting: work does not depend on who reads of it.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    waiting: mpsc::Sender<ProviderEvent>,
}

/// The task that carries reports to their reader. Ends with the last [`Reporter`].
#[derive(Debug)]
pub(super) struct Carrier(JoinHandle<()>);

impl Reporter {
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle is owned by the carrier, which ends the task when dropped"
    )]
    pub(super) fn start(reader: mpsc::Sender<ProviderEvent>) -> (Self, Carrier) {
        let (waiting, mut reports) = mpsc::channel(WAITING);
        let carry = async move {
            while let Some(report) = reports.recv().await {
                if reader.send(report).await.is_err() {
                    // Nobody reads: fine, and nothing may pile up.
                    reports.close();
                }
            }
        };
        (Self { waiting }, Carrier(tokio::spawn(carry)))
    }

    pub(super) fn say(&self, report: ProviderEvent) {
        if let Err(mpsc::error::TrySendError::Full(lost)) = self.waiting.try_send(report) {
            tracing::warn!(?lost, "nobody reads the provider's reports");
        }
    }
}

impl Carrier {
    /// Waits, not for long, until the last reports are read.
    pub(super) async fn finish(mut self) {
        let _ = tokio::time::timeout(LAST_REPORTS, &mut self.0).await;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_flat_snake_case_objects() {
        let id = EventId::from_byte_array([0x11; 32]);
        let report = ProviderEvent::ChannelCreated { channel: id };
        assert_eq!(
            serde_json::to_string(&report).ok(),
            Some(format!(
                r#"{{"event":"channel_created","channel":"{}"}}"#,
                "11".repeat(32)
            ))
        );
        let report = ProviderEvent::Queued {
            job_id: JobId::of_request(&id),
            position: 2,
        };
        assert_eq!(
            serde_json::to_string(&report).ok().as_deref(),
            Some(r#"{"event":"queued","job_id":"job_1111111111111111","position":2}"#)
        );
    }
}

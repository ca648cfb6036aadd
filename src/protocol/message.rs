//! The messages of a compute channel: JSON objects in NIP-28 channel messages (kind 42).
//!
//! The first eight are deployed elsewhere and keep their bytes: the order of fields, the names, and
//! which of them are left out when empty. What this project adds is optional and comes after; peers
//! that don't know it ignore it, and its absence means the old behaviour. Amounts are integer
//! millisatoshi.

use nostr::PublicKey;
use serde::{Deserialize, Serialize};

use super::Feature;
use crate::ids::JobId;
use crate::units::{Msat, Network, UnixSecs};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AgentMessage {
    /// A provider says what it sells. Repeated every few minutes.
    ServiceAnnouncement(ServiceAnnouncement),
    /// A customer asks for a job.
    JobRequest(JobRequest),
    /// The provider's quote: pay this, and the job starts.
    Invoice(Invoice),
    /// The customer says that it paid. A hint: the provider believes its own wallet.
    PaymentSent(PaymentSent),
    /// The whole result, or `Error: …` from deployed providers that failed.
    JobResult(JobResult),
    /// A piece of the result.
    StreamChunk(StreamChunk),
    /// The customer says that it locked the money. A hint, as above.
    HtlcLocked(HtlcLocked),
    /// The customer releases escrowed money, after delivery.
    PreimageRelease(PreimageRelease),
    /// Ours: the provider can't or won't do the job.
    JobError(JobError),
    /// Ours: the job is queued.
    JobAccepted(JobAccepted),
    /// Ours: the customer no longer wants the job. Before payment only; after it, it refunds nothing.
    Cancel(Cancel),
    /// Ours: any of the above, NIP-44 encrypted to the key in the event's one `p` tag.
    Sealed(Sealed),
}

/// See [`AgentMessage::ServiceAnnouncement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAnnouncement {
    /// NIP-90 job kind.
    pub kind: u16,
    /// Price per request.
    pub price_msats: Msat,
    /// Spark address, or some other text where the provider has none.
    pub spark_address: String,
    /// The network of its invoices.
    pub network: Network,
    /// The provider's key as it writes it; the event's author is who counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_pubkey: Option<String>,
    /// Models served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// For example `text-generation`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Ours: price per thousand requested tokens, on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_1k_msats: Option<Msat>,
    /// Ours: [`Feature`] words. Unknown ones are kept and ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// See [`AgentMessage::JobRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRequest {
    /// NIP-90 job kind.
    pub kind: u16,
    /// What to work on.
    pub prompt: String,
    /// The most tokens the result may have.
    pub max_tokens: u32,
    /// The provider that is asked, in hex; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_provider: Option<String>,
    /// Ours: 16 random bytes in hex, so that equal requests in one second are two events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Ours: the model that is to do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Ours: chunks are welcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Ours: an invoice above this is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price_msats: Option<Msat>,
    /// Ours: pay into this kind of escrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<Feature>,
    /// Ours: the hash of the buyer's preimage, for an escrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_hash: Option<String>,
}

impl JobRequest {
    /// A plain request for `prompt` to one provider; everything optional is absent.
    #[must_use]
    pub fn new(kind: u16, prompt: impl Into<String>, max_tokens: u32, target: PublicKey) -> Self {
        Self {
            kind,
            prompt: prompt.into(),
            max_tokens,
            target_provider: Some(target.to_hex()),
            nonce: None,
            model: None,
            stream: None,
            max_price_msats: None,
            escrow: None,
            payment_hash: None,
        }
    }
}

/// See [`AgentMessage::Invoice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The job it is for.
    pub job_id: JobId,
    /// The BOLT11 text. Deployed providers without a wallet send `lnbcrt100n1mock`.
    pub bolt11: String,
    /// What it asks for.
    pub amount_msats: Msat,
    /// The payment hash as the provider writes it. Deployed ones write the job id here: never trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_hash: Option<String>,
    /// Ours: when the quote ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixSecs>,
    /// Ours, for escrows that are not hold invoices: where to lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_to: Option<String>,
    /// Ours, for Cashu escrow: the mints that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mints: Vec<String>,
    /// Ours, for escrows that are not hold invoices: how long to lock at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_lock_secs: Option<u64>,
}

impl Invoice {
    /// A quote with nothing optional in it.
    #[must_use]
    pub fn new(job_id: JobId, bolt11: impl Into<String>, amount: Msat) -> Self {
        Self {
            job_id,
            bolt11: bolt11.into(),
            amount_msats: amount,
            payment_hash: None,
            expires_at: None,
            lock_to: None,
            mints: Vec::new(),
            min_lock_secs: None,
        }
    }
}

/// See [`AgentMessage::PaymentSent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentSent {
    /// The job it is for.
    pub job_id: JobId,
    /// The payer's name for the payment; `mock-payment-id` where nothing was paid.
    pub payment_id: String,
}

/// See [`AgentMessage::JobResult`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job it is of.
    pub job_id: JobId,
    /// The whole text.
    pub result: String,
}

/// See [`AgentMessage::StreamChunk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamChunk {
    /// The job it is of.
    pub job_id: JobId,
    /// The next piece of the text.
    pub chunk: String,
    /// Whether it is the last one.
    pub is_final: bool,
    /// Ours: its place, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
}

/// See [`AgentMessage::HtlcLocked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HtlcLocked {
    /// The job it is for.
    pub job_id: JobId,
    /// The hash that the money is locked to.
    pub payment_hash: String,
    /// How much.
    pub amount_msats: Msat,
    /// For how long.
    pub expiry_secs: u64,
    /// Ours, for Cashu escrow: the locked token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// See [`AgentMessage::PreimageRelease`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreimageRelease {
    /// The job it pays for.
    pub job_id: JobId,
    /// The preimage, in hex.
    pub preimage: String,
}

impl std::fmt::Debug for PreimageRelease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreimageRelease")
            .field("job_id", &self.job_id)
            .finish_non_exhaustive()
    }
}

/// See [`AgentMessage::JobError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// The job it is about.
    pub job_id: JobId,
    /// A stable word: `busy`, `invalid`, `price`, `model`, `expired`, `failed`, …
    pub code: String,
    /// What happened, for a person.
    pub message: String,
}

/// The most bytes the message of a [`JobError`] may have.
pub const MAX_EXPLANATION_BYTES: usize = 1024;

impl JobError {
    /// The error with this code and explanation, which is cut where it is longer than peers read.
    #[must_use]
    pub fn new(job_id: JobId, code: impl Into<String>, explanation: &str) -> Self {
        Self {
            job_id,
            code: code.into(),
            message: super::offer::cut(explanation, MAX_EXPLANATION_BYTES).to_owned(),
        }
    }
}

/// See [`AgentMessage::JobAccepted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAccepted {
    /// The job it is about.
    pub job_id: JobId,
    /// How many jobs are before it.
    pub queue_position: u32,
}

/// See [`AgentMessage::Cancel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The job that is not wanted.
    pub job_id: JobId,
}

/// See [`AgentMessage::Sealed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// NIP-44 payload, base64.
    pub payload: String,
}

impl AgentMessage {
    /// The job that the message is about; `None` for those that are about none, and for a request,
    /// whose job id is that of its event.
    #[must_use]
    pub const fn job_id(&self) -> Option<&JobId> {
        match self {
            Self::Invoice(m) => Some(&m.job_id),
            Self::PaymentSent(m) => Some(&m.job_id),
            Self::JobResult(m) => Some(&m.job_id),
            Self::StreamChunk(m) => Some(&m.job_id),
            Self::HtlcLocked(m) => Some(&m.job_id),
            Self::PreimageRelease(m) => Some(&m.job_id),
            Self::JobError(m) => Some(&m.job_id),
            Self::JobAccepted(m) => Some(&m.job_id),
            Self::Cancel(m) => Some(&m.job_id),
            Self::ServiceAnnouncement(_) | Self::JobRequest(_) | Self::Sealed(_) => None,
        }
    }
}

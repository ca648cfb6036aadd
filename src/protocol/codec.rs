//! Messages to bytes and back, with the size limit before the parser and the limits of single fields
//! after it.
//!
//! Both directions keep the same limits, so that whatever one of us can write the other can read. They
//! are far above what deployed peers send. A message with a field out of bounds is void as a whole:
//! cut short, an id or an invoice would be another one. Lists of models and the like are bounded by
//! the message, and again where an offer is made of them.

use super::message::{AgentMessage, MAX_EXPLANATION_BYTES};

/// The most bytes one message may have before sealing. NIP-44 padding and base64 bring this near the
/// 64 KB event limit of relays.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// The most bytes a sealed message may have: room for one of [`MAX_MESSAGE_BYTES`] once encrypted, in
/// base64 (a third more) and with the JSON around it.
pub const MAX_SEALED_BYTES: usize = 44 * 1024;

/// Why some text is no message of ours, or a message can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Larger than [`MAX_MESSAGE_BYTES`], or [`MAX_SEALED_BYTES`] if sealed.
    #[error("the message has {0} bytes, more than the protocol allows")]
    TooLarge(usize),
    /// A field is longer than it may be.
    #[error("the field {field} is longer than {most} bytes")]
    FieldTooLong {
        /// Its name.
        field: &'static str,
        /// The limit, in bytes.
        most: usize,
    },
    /// A list has more entries than it may have.
    #[error("the list {field} has more than {most} entries")]
    ListTooLong {
        /// Its name.
        field: &'static str,
        /// The limit.
        most: usize,
    },
    /// A sealed message within a sealed one.
    #[error("a sealed message holds another sealed message")]
    SealedTwice,
    /// Not JSON of the expected shape, or a `type` that we don't know: not meant for us.
    #[error("not a message of this protocol: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads the content of a channel message.
///
/// # Errors
/// If it is too large, or not a message we know. Both are common in a public channel and mean: ignore.
pub fn decode(content: &str) -> Result<AgentMessage, CodecError> {
    if content.len() > MAX_SEALED_BYTES {
        return Err(CodecError::TooLarge(content.len()));
    }
    let message = serde_json::from_str(content)?;
    check(&message, content.len())?;
    Ok(message)
}

/// Reads what was inside a sealed message.
///
/// # Errors
/// As [`decode`], and if it is sealed again.
pub fn decode_opened(plaintext: &str) -> Result<AgentMessage, CodecError> {
    if plaintext.len() > MAX_MESSAGE_BYTES {
        return Err(CodecError::TooLarge(plaintext.len()));
    }
    match decode(plaintext)? {
        AgentMessage::Sealed(_) => Err(CodecError::SealedTwice),
        message => Ok(message),
    }
}

/// Writes a message, byte for byte as deployed peers do.
///
/// # Errors
/// If it, or a field of it, is larger than peers accept.
pub fn encode(message: &AgentMessage) -> Result<String, CodecError> {
    let content = serde_json::to_string(message)?;
    check(message, content.len())?;
    Ok(content)
}

/// Hex of 32 bytes and then some: deployed peers write words in place of hashes and keys.
const MAX_ID_BYTES: usize = 128;
/// `job_` and 16 digits, and then some.
const MAX_JOB_ID_BYTES: usize = 64;
/// A model, an address of a mint, the name of a payment.
const MAX_WORD_BYTES: usize = 256;
/// An address to lock money to.
const MAX_LINE_BYTES: usize = 1024;
/// The longest invoice that wallets pass around is 7,089 characters.
const MAX_BOLT11_BYTES: usize = 7_089;
/// Mints that a provider accepts.
const MAX_MINTS: usize = 16;

fn check(message: &AgentMessage, bytes: usize) -> Result<(), CodecError> {
    let most_bytes = match message {
        AgentMessage::Sealed(_) => MAX_SEALED_BYTES,
        _ => MAX_MESSAGE_BYTES,
    };
    if bytes > most_bytes {
        return Err(CodecError::TooLarge(bytes));
    }
    if let Some(id) = message.job_id() {
        field("job_id", id.as_str(), MAX_JOB_ID_BYTES)?;
    }
    match message {
        AgentMessage::ServiceAnnouncement(m) => {
            field("spark_address", &m.spark_address, MAX_LINE_BYTES)?;
            optional("provider_pubkey", m.provider_pubkey.as_ref(), MAX_ID_BYTES)
        }
        AgentMessage::JobRequest(m) => {
            optional("target_provider", m.target_provider.as_ref(), MAX_ID_BYTES)?;
            optional("nonce", m.nonce.as_ref(), MAX_ID_BYTES)?;
            optional("model", m.model.as_ref(), MAX_WORD_BYTES)?;
            optional("payment_hash", m.payment_hash.as_ref(), MAX_ID_BYTES)
        }
        AgentMessage::Invoice(m) => {
            field("bolt11", &m.bolt11, MAX_BOLT11_BYTES)?;
            optional("payment_hash", m.payment_hash.as_ref(), MAX_ID_BYTES)?;
            optional("lock_to", m.lock_to.as_ref(), MAX_LINE_BYTES)?;
            if m.mints.len() > MAX_MINTS {
                return Err(CodecError::ListTooLong {
                    field: "mints",
                    most: MAX_MINTS,
                });
            }
            let mut mints = m.mints.iter();
            mints.try_for_each(|mint| field("mints", mint, MAX_WORD_BYTES))
        }
        AgentMessage::PaymentSent(m) => field("payment_id", &m.payment_id, MAX_WORD_BYTES),
        AgentMessage::HtlcLocked(m) => field("payment_hash", &m.payment_hash, MAX_ID_BYTES),
        AgentMessage::PreimageRelease(m) => field("preimage", &m.preimage, MAX_ID_BYTES),
        AgentMessage::JobError(m) => {
            field("code", &m.code, MAX_JOB_ID_BYTES)?;
            field("message", &m.message, MAX_EXPLANATION_BYTES)
        }
        AgentMessage::JobResult(_)
        | AgentMessage::StreamChunk(_)
        | AgentMessage::JobAccepted(_)
        | AgentMessage::Cancel(_)
        | AgentMessage::Sealed(_) => Ok(()),
    }
}

fn field(name: &'static str, value: &str, most: usize) -> Result<(), CodecError> {
    if value.len() > most {
        return Err(CodecError::FieldTooLong { field: name, most });
    }
    Ok(())
}

fn optional(name: &'static str, value: Option<&String>, most: usize) -> Result<(), CodecError> {
    value.map_or(Ok(()), |value| field(name, value, most))
}

//! Messages to bytes and back, with the size limit before the parser.

use super::message::AgentMessage;

/// The most bytes one message may have before sealing. NIP-44 padding and base64 bring this near the
/// 64 KB event limit of relays.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// Why some text is no message of ours, or a message can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Larger than [`MAX_MESSAGE_BYTES`].
    #[error("the message has {0} bytes, more than {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
    /// Not JSON of the expected shape, or a `type` that we don't know: not meant for us.
    #[error("not a message of this protocol: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads a message.
///
/// # Errors
/// If it is too large, or not a message we know. Both are common in a public channel and mean: ignore.
pub fn decode(content: &str) -> Result<AgentMessage, CodecError> {
    if content.len() > MAX_MESSAGE_BYTES {
        return Err(CodecError::TooLarge(content.len()));
    }
    Ok(serde_json::from_str(content)?)
}

/// Writes a message, byte for byte as deployed peers do.
///
/// # Errors
/// If it is larger than peers accept.
pub fn encode(message: &AgentMessage) -> Result<String, CodecError> {
    let content = serde_json::to_string(message)?;
    if content.len() > MAX_MESSAGE_BYTES {
        return Err(CodecError::TooLarge(content.len()));
    }
    Ok(content)
}

//! Events that leave this process get their signature here, and messages that only one peer may read
//! their encryption (NIP-44 version 2).
//!
//! A sealed message hides what is said, not that it is: who writes to whom, when, and roughly how much
//! stays visible in the channel.

use std::collections::VecDeque;
use std::sync::Mutex;

use nostr::base64::Engine as _;
use nostr::base64::engine::general_purpose::STANDARD as BASE64;
use nostr::nips::nip44::v2::{self, ConversationKey};
use nostr::{Event, EventBuilder, PublicKey, Timestamp};

use crate::identity::Identity;
use crate::protocol::codec::{self, CodecError};
use crate::protocol::message::{AgentMessage, Sealed};
use crate::units::UnixSecs;

/// How many peers' keys are kept at hand: deriving one costs about as much as a signature, and a stream
/// of pieces needs the same one again and again.
const PEERS_AT_HAND: usize = 64;

/// The version of NIP-44 that is spoken; the first byte of a payload.
const VERSION: u8 = 2;

/// Signs an event as of `at`.
///
/// # Errors
/// If the event can't be signed, which means that it was built wrong.
pub fn sign(
    identity: &Identity,
    event: EventBuilder,
    at: UnixSecs,
) -> Result<Event, nostr::event::builder::Error> {
    event
        .custom_created_at(Timestamp::from_secs(at.get()))
        .sign_with_keys(identity.keys())
}

/// Why a message can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is too large, or what was inside is no message of ours.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Encrypted to somebody else, by somebody else, altered on the way, or not encrypted at all.
    #[error("it is not encrypted between these two keys")]
    NotBetweenUs,
    /// The peer's key can't be used for encryption.
    #[error("a message can't be encrypted to this key")]
    Unusable,
}

/// Seals messages to peers, and opens theirs.
#[derive(Debug)]
pub struct Sealer {
    identity: Identity,
    at_hand: Mutex<VecDeque<(PublicKey, ConversationKey)>>,
}

impl Sealer {
    /// Seals and opens as `identity`.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            at_hand: Mutex::new(VecDeque::new()),
        }
    }

    /// The content of a channel message that only `to` can read.
    ///
    /// # Errors
    /// If the message is too large, or itself sealed.
    pub fn seal(&self, to: &PublicKey, message: &AgentMessage) -> Result<String, SealError> {
        if matches!(message, AgentMessage::Sealed(_)) {
            return Err(CodecError::SealedTwice.into());
        }
        let plaintext = codec::encode(message)?;
        let key = self.key(to)?;
        let bytes =
            v2::encrypt_to_bytes(&key, plaintext.as_bytes()).map_err(|_| SealError::Unusable)?;
        let sealed = AgentMessage::Sealed(Sealed {
            payload: BASE64.encode(bytes),
        });
        Ok(codec::encode(&sealed)?)
    }

    /// The message that `from`, who signed the event, sealed to us.
    ///
    /// # Errors
    /// If it was not sealed between the two of us, or holds no message of ours.
    pub fn open(&self, from: &PublicKey, sealed: &Sealed) -> Result<AgentMessage, SealError> {
        let bytes = BASE64
            .decode(&sealed.payload)
            .map_err(|_| SealError::NotBetweenUs)?;
        // Not looked at below, and not part of what is authenticated.
        if bytes.first() != Some(&VERSION) {
            return Err(SealError::NotBetweenUs);
        }
        let key = self.key(from)?;
        let plaintext = v2::decrypt_to_bytes(&key, &bytes)
            .ok()
            .and_then(|plaintext| String::from_utf8(plaintext).ok())
            .ok_or(SealError::NotBetweenUs)?;
        Ok(codec::decode_opened(&plaintext)?)
    }

    fn key(&self, peer: &PublicKey) -> Result<ConversationKey, SealError> {
        let mut at_hand = match self.at_hand.lock() {
            Ok(at_hand) => at_hand,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, key)) = at_hand.iter().find(|(known, _)| known == peer) {
            return Ok(*key);
        }
        let secret = self.identity.keys().secret_key();
        let key = ConversationKey::derive(secret, peer).map_err(|_| SealError::Unusable)?;
        if at_hand.len() == PEERS_AT_HAND {
            at_hand.pop_front();
        }
        at_hand.push_back((*peer, key));
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;
    use crate::protocol::message::JobResult;
    use nostr::Keys;

    fn sealer() -> (Sealer, PublicKey) {
        let identity = Identity::from_keys(Keys::generate());
        let key = identity.public_key();
        (Sealer::new(identity), key)
    }

    fn result(text: &str) -> AgentMessage {
        AgentMessage::JobResult(JobResult {
            job_id: JobId::from_wire("job_0123456789abcdef"),
            result: text.to_owned(),
        })
    }

    fn payload(content: &str) -> Sealed {
        match codec::decode(content).unwrap() {
            AgentMessage::Sealed(sealed) => sealed,
            other => panic!("{other:?} is not sealed"),
        }
    }

    #[test]
    fn only_the_two_of_them_can_read_it() {
        let ((buyer, buyer_key), (seller, seller_key), (stranger, _)) =
            (sealer(), sealer(), sealer());
        let content = buyer.seal(&seller_key, &result("the word")).unwrap();
        assert!(!content.contains("the word"));
        let sealed = payload(&content);
        assert_eq!(
            seller.open(&buyer_key, &sealed).unwrap(),
            result("the word")
        );
        // The sender's copy of the key is the same one.
        assert_eq!(
            buyer.open(&seller_key, &sealed).unwrap(),
            result("the word")
        );
        for peer in [&buyer_key, &seller_key] {
            assert!(matches!(
                stranger.open(peer, &sealed),
                Err(SealError::NotBetweenUs)
            ));
        }
        // Said to be from somebody else, it does not open.
        assert!(seller.open(&seller_key, &sealed).is_err());
    }

    #[test]
    fn whatever_is_altered_does_not_open() {
        let ((buyer, buyer_key), (seller, seller_key)) = (sealer(), sealer());
        let sealed = payload(&buyer.seal(&seller_key, &result("pay me")).unwrap());
        let bytes = BASE64.decode(&sealed.payload).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let payload = BASE64.encode(altered);
            assert!(
                seller.open(&buyer_key, &Sealed { payload }).is_err(),
                "byte {at}"
            );
        }
        for payload in ["", "A", "AgA=", "not base64 at all", "#anything"] {
            let payload = payload.to_owned();
            assert!(seller.open(&buyer_key, &Sealed { payload }).is_err());
        }
    }

    #[test]
    fn the_largest_message_fits_once_sealed_and_a_larger_one_is_refused() {
        let ((buyer, buyer_key), (seller, seller_key)) = (sealer(), sealer());
        let empty = codec::encode(&result("")).unwrap().len();
        let most = codec::MAX_MESSAGE_BYTES - empty;
        let content = buyer.seal(&seller_key, &result(&"x".repeat(most))).unwrap();
        assert!(content.len() <= codec::MAX_SEALED_BYTES);
        let opened = seller.open(&buyer_key, &payload(&content)).unwrap();
        assert_eq!(opened, result(&"x".repeat(most)));
        let refused = buyer.seal(&seller_key, &result(&"x".repeat(most + 1)));
        assert!(matches!(
            refused,
            Err(SealError::Codec(CodecError::TooLarge(_)))
        ));
    }

    #[test]
    fn a_seal_within_a_seal_is_neither_made_nor_opened() {
        let ((buyer, buyer_key), (seller, seller_key)) = (sealer(), sealer());
        let inner = payload(&buyer.seal(&seller_key, &result("deep")).unwrap());
        let twice = buyer.seal(&seller_key, &AgentMessage::Sealed(inner.clone()));
        assert!(matches!(
            twice,
            Err(SealError::Codec(CodecError::SealedTwice))
        ));
        let text = codec::encode(&AgentMessage::Sealed(inner)).unwrap();
        let key = ConversationKey::derive(buyer.identity.keys().secret_key(), &seller_key).unwrap();
        let bytes = v2::encrypt_to_bytes(&key, text.as_bytes()).unwrap();
        let payload = BASE64.encode(bytes);
        assert!(seller.open(&buyer_key, &Sealed { payload }).is_err());
    }

    #[test]
    fn many_peers_take_no_more_than_their_room() {
        let (buyer, _) = sealer();
        for _ in 0..3 * PEERS_AT_HAND {
            let (_, key) = sealer();
            buyer.seal(&key, &result("hello")).unwrap();
        }
        assert_eq!(buyer.at_hand.lock().unwrap().len(), PEERS_AT_HAND);
    }
}

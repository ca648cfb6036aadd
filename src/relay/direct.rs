//! Content of an event that only one peer can read, as most of Nostr encrypts it: NIP-44, or NIP-04 for
//! peers that have only that. Our own channel messages have a form of their own, in
//! [`seal`](super::seal).

use nostr::PublicKey;
use nostr::nips::{nip04, nip44};

use super::seal::SealError;
use crate::identity::Identity;

/// How content is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// NIP-44 version 2: authenticated, of padded length.
    Nip44,
    /// NIP-04: neither. Who alters it on the way must still forge the event's signature.
    Nip04,
}

impl Encryption {
    /// How this content is encrypted, on sight: NIP-04 alone has its vector at the end.
    #[must_use]
    pub fn of(content: &str) -> Self {
        if content.contains("?iv=") {
            Self::Nip04
        } else {
            Self::Nip44
        }
    }
}

/// Encrypts `text` from `identity` to `peer`.
///
/// # Errors
/// [`SealError::Unusable`] if the key is none to encrypt to, or the text too long.
pub fn encrypt(
    identity: &Identity,
    peer: &PublicKey,
    text: &str,
    how: Encryption,
) -> Result<String, SealError> {
    let secret = identity.keys().secret_key();
    match how {
        Encryption::Nip44 => {
            nip44::encrypt(secret, peer, text, nip44::Version::V2).map_err(|_| SealError::Unusable)
        }
        Encryption::Nip04 => nip04::encrypt(secret, peer, text).map_err(|_| SealError::Unusable),
    }
}

/// Decrypts what `peer`, who signed the event, encrypted to `identity`.
///
/// # Errors
/// [`SealError::NotBetweenUs`] if it is not encrypted between these two keys, or not text.
pub fn decrypt(identity: &Identity, peer: &PublicKey, content: &str) -> Result<String, SealError> {
    let secret = identity.keys().secret_key();
    match Encryption::of(content) {
        Encryption::Nip44 => {
            nip44::decrypt(secret, peer, content).map_err(|_| SealError::NotBetweenUs)
        }
        Encryption::Nip04 => {
            nip04::decrypt(secret, peer, content).map_err(|_| SealError::NotBetweenUs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nostr::Keys;

    #[test]
    fn only_the_two_of_them_can_read_it() {
        let [ours, theirs, nobodys] = [(), (), ()].map(|()| Identity::from_keys(Keys::generate()));
        for how in [Encryption::Nip44, Encryption::Nip04] {
            let content = encrypt(&ours, &theirs.public_key(), "the word", how).unwrap();
            assert_eq!(Encryption::of(&content), how);
            assert!(!content.contains("the word"));
            let read = decrypt(&theirs, &ours.public_key(), &content).unwrap();
            assert_eq!(read, "the word");
            let stranger = decrypt(&nobodys, &ours.public_key(), &content);
            assert!(!stranger.is_ok_and(|text| text == "the word"));
        }
    }

    #[test]
    fn what_is_no_ciphertext_is_an_error() {
        let [ours, theirs] = [(), ()].map(|()| Identity::from_keys(Keys::generate()));
        for content in [
            "",
            "?iv=",
            "AgA=",
            "plain words",
            "AAAA?iv=AAAA",
            "{\"result\":1}",
        ] {
            assert!(
                decrypt(&ours, &theirs.public_key(), content).is_err(),
                "{content}"
            );
        }
    }
}

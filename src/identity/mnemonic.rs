//! BIP39 words, and the Nostr key they stand for (NIP-06: `m/44'/1237'/0'/0/0`).

use bip39::{Language, Mnemonic};
use nostr::Keys;
use nostr::nips::nip06::FromMnemonic as _;

use super::{Identity, IdentityError};
use crate::secret::Secret;

/// How many words a new mnemonic has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordCount {
    /// 128 bits of randomness, as much as the key itself is worth.
    #[default]
    Twelve,
    /// 256 bits.
    TwentyFour,
}

impl WordCount {
    const fn entropy_bytes(self) -> usize {
        match self {
            Self::Twelve => 16,
            Self::TwentyFour => 32,
        }
    }
}

/// New words, from the randomness of the operating system.
///
/// # Errors
/// If the operating system has no randomness to give.
pub fn generate(count: WordCount) -> Result<Secret, IdentityError> {
    use rand::TryRngCore as _;

    let mut entropy = [0_u8; 32];
    let entropy = &mut entropy[..count.entropy_bytes()];
    rand::rngs::OsRng
        .try_fill_bytes(entropy)
        .map_err(|error| IdentityError::NotAMnemonic(format!("no randomness: {error}")))?;
    let mnemonic = Mnemonic::from_entropy_in(Language::English, entropy)
        .map_err(|error| IdentityError::NotAMnemonic(error.to_string()))?;
    Ok(Secret::new(mnemonic.to_string()))
}

/// Words as their owner wrote them, checked and in the one form they are stored in: English, lower
/// case, one space between two.
///
/// # Errors
/// If they are not a BIP39 mnemonic. The error names positions, never words.
pub fn normalize(words: &Secret) -> Result<Secret, IdentityError> {
    let joined = words
        .expose()
        .split_whitespace()
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ");
    let mnemonic = Mnemonic::parse_in(Language::English, joined).map_err(|error| {
        IdentityError::NotAMnemonic(match error {
            bip39::Error::BadWordCount(count) => format!("it has {count} words, not 12 or 24"),
            bip39::Error::UnknownWord(index) => {
                format!("word {} is not in the English list", index + 1)
            }
            bip39::Error::InvalidChecksum => {
                "the checksum is wrong: a word is misspelt or out of place".to_owned()
            }
            _ => "it can't be read".to_owned(),
        })
    })?;
    Ok(Secret::new(mnemonic.to_string()))
}

/// The identity of these words, without a passphrase, account 0.
///
/// # Errors
/// If they are not a BIP39 mnemonic.
pub fn identity(words: &Secret) -> Result<Identity, IdentityError> {
    let words = normalize(words)?;
    let keys = Keys::from_mnemonic(words.expose(), None)
        .map_err(|_| IdentityError::NotAMnemonic("no key can be derived from it".to_owned()))?;
    Ok(Identity::from_words(keys, words))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The vectors of NIP-06: words, secret key, public key.
    const VECTORS: [(&str, &str, &str); 2] = [
        (
            "leader monkey parrot ring guide accident before fence cannon height naive bean",
            "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a",
            "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917",
        ),
        (
            "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud \
             rude strong choose busy staff weather area salt hollow arm fade",
            "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add",
            "d41b22899549e1f3d335a31002cfd382174006e166d3e658e3a5eecdb6463573",
        ),
    ];

    #[test]
    fn keys_are_those_of_nip_06() {
        for (words, secret_key, public_key) in VECTORS {
            let identity = identity(&Secret::new(words)).unwrap();
            assert_eq!(identity.keys().secret_key().to_secret_hex(), secret_key);
            assert_eq!(identity.public_key().to_hex(), public_key);
        }
    }

    #[test]
    fn words_are_read_however_they_are_written() {
        let (words, ..) = VECTORS[0];
        let shouted = format!("\n  {}\n", words.to_uppercase().replace(' ', "\n"));
        assert_eq!(normalize(&Secret::new(shouted)).unwrap().expose(), words);
    }

    #[test]
    fn new_words_differ_and_have_the_length_asked_for() {
        for (count, expected) in [(WordCount::Twelve, 12), (WordCount::TwentyFour, 24)] {
            let (a, b) = (generate(count).unwrap(), generate(count).unwrap());
            assert_ne!(a, b);
            assert_eq!(a.expose().split(' ').count(), expected);
            identity(&a).unwrap();
        }
    }

    #[test]
    fn wrong_words_are_refused_by_position() {
        let refused = |words: &str| normalize(&Secret::new(words)).unwrap_err().to_string();
        let (good, ..) = VECTORS[0];
        assert!(refused("leader monkey").contains("2 words"));
        assert!(refused(&good.replace("parrot", "xyzzy")).contains("word 3"));
        assert!(!refused(&good.replace("parrot", "xyzzy")).contains("xyzzy"));
        assert!(refused(&good.replace("bean", "zoo")).contains("checksum"));
    }
}

//! Who we are on Nostr: one key pair, derived from BIP39 words by NIP-06 or given as it is.
//!
//! * [`mnemonic`]: words, and the key they stand for
//! * [`keystore`]: the file an identity is kept in
//! * [`password`]: which passwords may be set, and whom to ask for one
//! * [`source`]: environment, configuration or file, in this order
//!
//! There is no built-in key of any kind: an identity comes from its owner, or from the randomness of
//! the operating system on first use.

pub mod keystore;
pub mod mnemonic;
pub mod password;
pub mod source;

use std::fmt;

use nostr::nips::nip19::FromBech32 as _;
use nostr::nips::nip49::EncryptedSecretKey;
use nostr::{Keys, PublicKey, SecretKey};

use crate::error::{Code, Error};
use crate::secret::{Secret, SecretError};

/// A key pair that signs for one program. `Debug` shows the public key only.
#[derive(Clone)]
pub struct Identity {
    keys: Keys,
    words: Option<Secret>,
}

impl PartialEq for Identity {
    /// By the key: the words are one way to it.
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for Identity {}

impl Identity {
    /// The identity with these keys.
    #[must_use]
    pub const fn from_keys(keys: Keys) -> Self {
        Self { keys, words: None }
    }

    /// The identity that these BIP39 words stand for.
    pub(crate) const fn from_words(keys: Keys, words: Secret) -> Self {
        Self {
            keys,
            words: Some(words),
        }
    }

    /// The identity that a secret key names: an `nsec`, 64 hex digits, or an `ncryptsec` (NIP-49) with
    /// the password it was encrypted with.
    ///
    /// # Errors
    /// If it is none of these, or the password is missing or wrong. The error never repeats the key.
    pub fn from_secret_key(key: &Secret, password: Option<&Secret>) -> Result<Self, IdentityError> {
        let text = key.expose().trim();
        let secret_key = if text.starts_with("ncryptsec1") {
            let password = password.ok_or(IdentityError::NeedsPassword)?;
            let encrypted = EncryptedSecretKey::from_bech32(text)
                .map_err(|_| IdentityError::NotAKey("this is a damaged ncryptsec"))?;
            // Bounded to 256 MiB of memory by the crate.
            encrypted
                .decrypt(password.expose())
                .map_err(|_| IdentityError::WrongPassword)?
        } else {
            SecretKey::parse(text)
                .map_err(|_| IdentityError::NotAKey("expected an nsec or 64 hex digits"))?
        };
        Ok(Self::from_keys(Keys::new(secret_key)))
    }

    /// The key that the world knows us by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    /// The BIP39 words that the key was derived from; `None` for a key that was given as such. Wallets derive
    /// their money from the same words.
    #[must_use]
    pub const fn words(&self) -> Option<&Secret> {
        self.words.as_ref()
    }

    /// The key pair itself, for signing and encryption.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.keys.public_key().to_hex())
    }
}

/// Why there is no identity. The messages name places and reasons, never words or keys.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Text that is no secret key.
    #[error("not a secret key: {0}")]
    NotAKey(&'static str),
    /// Text that is no mnemonic.
    #[error("not a BIP39 mnemonic: {0}")]
    NotAMnemonic(String),
    /// An `ncryptsec` without its password.
    #[error(
        "the key is an ncryptsec: set AGENT_COMPUTE_PASSWORD (or AGENT_COMPUTE_PASSWORD_FILE), or run \
         this on a terminal to be asked"
    )]
    NeedsPassword,
    /// An `ncryptsec` that this password does not open.
    #[error(
        "wrong password: it does not open the ncryptsec (it is typed, or that of AGENT_COMPUTE_PASSWORD \
         or AGENT_COMPUTE_PASSWORD_FILE)"
    )]
    WrongPassword,
    /// An encrypted identity file without its password.
    #[error(
        "{path} is encrypted: set AGENT_COMPUTE_PASSWORD (or AGENT_COMPUTE_PASSWORD_FILE), or run this \
         on a terminal to be asked",
        path = .0.display()
    )]
    Locked(std::path::PathBuf),
    /// An identity file that this password does not open.
    #[error(
        "wrong password: it does not open {path} (it is typed, or that of AGENT_COMPUTE_PASSWORD or \
         AGENT_COMPUTE_PASSWORD_FILE). If it is lost, move the file away and `identity import` the words \
         of your backup",
        path = .0.display()
    )]
    WrongFilePassword(std::path::PathBuf),
    /// A password that is not to be set.
    #[error(
        "the new password is too weak: {0}. Take ten characters or more that nobody guesses: four words \
         that have nothing to do with each other, or what a password manager makes"
    )]
    WeakPassword(password::Weakness),
    /// An identity file that somebody else changed, or changes now.
    #[error(
        "{path} is being changed by another program: this one changed nothing; try again",
        path = .0.display()
    )]
    Changed(std::path::PathBuf),
    /// There is nobody to ask.
    #[error("{0}")]
    NoAnswer(String),
    /// There is an identity file already, and it is not overwritten.
    #[error(
        "{path} holds an identity already, and it is never overwritten: move the file away first \
         (who loses it loses the key and the money it holds)",
        path = .0.display()
    )]
    Exists(std::path::PathBuf),
    /// The file is not an identity file, or one of a later version.
    #[error("{path} is not an identity file that this version can use: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file can't be read or written.
    #[error("{path} can't be read or written: {problem}", path = path.display())]
    Io {
        /// The file or folder.
        path: std::path::PathBuf,
        /// The system's words.
        problem: std::io::Error,
    },
    /// The secret is not where it was said to be.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl IdentityError {
    fn io(path: &std::path::Path, problem: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            problem,
        }
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let code = match &error {
            // No flag mends that. The ledger in the same home fails by it too, and says so with this code.
            IdentityError::Io { problem, .. }
                if matches!(
                    problem.kind(),
                    StorageFull | QuotaExceeded | ReadOnlyFilesystem
                ) =>
            {
                Code::Ledger
            }
            _ => Code::Usage,
        };
        Self::new(code, format!("identity: {error}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use nostr::nips::nip19::ToBech32 as _;
    use nostr::nips::nip49::KeySecurity;

    use super::*;

    const HEX: &str = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a";
    const NSEC: &str = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";

    #[test]
    fn a_secret_key_is_read_as_nsec_and_as_hex() {
        let of_hex = Identity::from_secret_key(&Secret::new(HEX), None).unwrap();
        let of_nsec = Identity::from_secret_key(&Secret::new(format!(" {NSEC}\n")), None).unwrap();
        assert_eq!(of_hex, of_nsec);
        assert!(!format!("{of_hex:?}").contains(HEX));
    }

    #[test]
    fn an_ncryptsec_needs_its_password() {
        let keys = Keys::new(SecretKey::from_hex(HEX).unwrap());
        // Cheap on purpose: the cost of a guess is not what is tested.
        let encrypted =
            EncryptedSecretKey::new(keys.secret_key(), "right", 4, KeySecurity::Unknown).unwrap();
        let text = Secret::new(encrypted.to_bech32().unwrap());
        let with = |password: Option<&str>| {
            Identity::from_secret_key(&text, password.map(Secret::new).as_ref())
        };
        assert_eq!(with(Some("right")).unwrap(), Identity::from_keys(keys));
        assert!(matches!(with(None), Err(IdentityError::NeedsPassword)));
        assert!(matches!(
            with(Some("wrong")),
            Err(IdentityError::WrongPassword)
        ));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for text in ["", "nsec1qqqq", "ncryptsec1qqqq", &HEX[..62], "hunter2"] {
            let error =
                Identity::from_secret_key(&Secret::new(text), Some(&Secret::new("x"))).unwrap_err();
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }
}

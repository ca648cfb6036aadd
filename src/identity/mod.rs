//! Who we are on Nostr: one key pair, derived from BIP39 words by NIP-06 or given as it is.

use std::fmt;

use nostr::{Keys, PublicKey};

/// A key pair that signs for one program. `Debug` shows the public key only.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    keys: Keys,
}

impl Identity {
    /// The identity with these keys.
    #[must_use]
    pub const fn from_keys(keys: Keys) -> Self {
        Self { keys }
    }

    /// The key that the world knows us by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.keys.public_key()
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

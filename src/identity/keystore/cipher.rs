//! The cryptography of an encrypted identity file: AES-256-GCM under a key that Argon2id (RFC 9106)
//! makes of the password.

use std::borrow::Cow;
use std::hint::black_box;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};

use crate::secret::{Secret, Wiped};

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;

/// The most memory that a file may ask for, in KiB: what the NIP-49 reader allows as well.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// The most work that a file may ask for, in KiB written, all passes together: some seconds.
const MAX_WORK_KIB: u64 = 1024 * 1024;
/// Argon2 runs on one thread here, so lanes only matter for files that others make.
const MAX_LANES: u32 = 16;

/// What one guess of a password costs. It is kept in the file, so that later files can ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// In KiB.
    pub(super) memory_kib: u32,
    /// Passes over this memory.
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

impl Cost {
    /// That of new files: the memory and the passes of RFC 9106's second recommendation, three times the
    /// memory that OWASP asks for. Some tenths of a second.
    pub(super) const DEFAULT: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };

    /// Next to nothing, where the cost of a guess is not what is tested.
    #[cfg(test)]
    pub(super) const CHEAP: Self = Self {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    /// These parameters, if they are sane. Asked before anything is allocated: the file may be hostile.
    pub(super) fn checked(self) -> Result<Params, String> {
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        if self.memory_kib > MAX_MEMORY_KIB || work > MAX_WORK_KIB || self.lanes > MAX_LANES {
            return Err(format!(
                "its password check asks for {} KiB of memory, {} passes and {} lanes, more than this \
                 program grants",
                self.memory_kib, self.passes, self.lanes
            ));
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES)).map_err(|_| {
            format!(
                "its password check asks for {} KiB of memory, {} passes and {} lanes, which make no \
                 sense together",
                self.memory_kib, self.passes, self.lanes
            )
        })
    }
}

/// Why something is not opened, or not sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The password is another, or somebody altered the file.
    DoesNotOpen,
    /// This machine, or the file, can't do it.
    Cannot(String),
}

/// A lock that a password opens: the parameters of one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lock<'a> {
    pub(super) cost: Cost,
    pub(super) salt: &'a [u8; SALT_BYTES],
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    /// What is told in the clear, and can't be altered without the password.
    pub(super) bound: &'a [u8],
}

impl Lock<'_> {
    pub(super) fn seal(&self, password: &Secret, plain: &[u8]) -> Result<Vec<u8>, Trouble> {
        let payload = Payload {
            msg: plain,
            aad: self.bound,
        };
        self.cipher(password)?
            .encrypt(Nonce::from_slice(self.nonce), payload)
            .map_err(|_| Trouble::Cannot("it is too long to be encrypted".to_owned()))
    }

    pub(super) fn open(&self, password: &Secret, sealed: &[u8]) -> Result<Wiped<Vec<u8>>, Trouble> {
        let payload = Payload {
            msg: sealed,
            aad: self.bound,
        };
        self.cipher(password)?
            .decrypt(Nonce::from_slice(self.nonce), payload)
            .map(Wiped)
            .map_err(|_| Trouble::DoesNotOpen)
    }

    fn cipher(&self, password: &Secret) -> Result<Aes256Gcm, Trouble> {
        let key = self.derive(password)?;
        Aes256Gcm::new_from_slice(&key.0).map_err(|_| Trouble::Cannot("no key".to_owned()))
    }

    fn derive(&self, password: &Secret) -> Result<Wiped<[u8; KEY_BYTES]>, Trouble> {
        let params = self.cost.checked().map_err(Trouble::Cannot)?;
        let needed = params.block_count();
        let mut memory: Vec<Block> = Vec::new();
        memory.try_reserve_exact(needed).map_err(|_| {
            let kib = self.cost.memory_kib;
            Trouble::Cannot(format!(
                "there are no {kib} KiB of memory to check a password"
            ))
        })?;
        memory.resize(needed, Block::default());
        let password = in_one_form(password);
        let mut key = Wiped([0; KEY_BYTES]);
        let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                password.expose().as_bytes(),
                self.salt,
                &mut key.0,
                &mut memory,
            );
        // The key can be had from what is left in there.
        memory.fill(Block::default());
        black_box(&memory);
        derived.map_err(|error| Trouble::Cannot(error.to_string()))?;
        Ok(key)
    }
}

/// A password in the one form that is hashed (NFKD): keyboards differ in how they compose an `é`.
fn in_one_form(password: &Secret) -> Secret {
    let mut text = Cow::Borrowed(password.expose());
    bip39::Mnemonic::normalize_utf8_cow(&mut text);
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lock(bound: &[u8]) -> Lock<'_> {
        Lock {
            cost: Cost::CHEAP,
            salt: &[1; SALT_BYTES],
            nonce: &[2; NONCE_BYTES],
            bound,
        }
    }

    #[test]
    fn only_the_same_password_and_the_same_clear_part_open() {
        let (right, wrong) = (Secret::new("right"), Secret::new("Right"));
        let sealed = lock(b"clear").seal(&right, b"plain").unwrap();
        assert_eq!(lock(b"clear").open(&right, &sealed).unwrap().0, b"plain");
        let refused = |lock: Lock<'_>, password, sealed: &[u8]| {
            lock.open(password, sealed).err() == Some(Trouble::DoesNotOpen)
        };
        assert!(refused(lock(b"clear"), &wrong, &sealed));
        assert!(refused(lock(b"Clear"), &right, &sealed));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(refused(lock(b"clear"), &right, &altered));
            assert!(refused(lock(b"clear"), &right, &sealed[..at]));
        }
    }

    #[test]
    fn a_password_is_the_same_however_its_accents_are_typed() {
        let (composed, apart) = (Secret::new("caf\u{e9}"), Secret::new("cafe\u{301}"));
        let sealed = lock(b"").seal(&composed, b"plain").unwrap();
        assert!(lock(b"").open(&apart, &sealed).is_ok());
    }

    #[test]
    fn what_a_file_may_ask_for_is_bounded() {
        let cost = |memory_kib, passes, lanes| Cost {
            memory_kib,
            passes,
            lanes,
        };
        assert!(Cost::DEFAULT.checked().is_ok());
        assert!(cost(MAX_MEMORY_KIB, 4, 4).checked().is_ok());
        for absurd in [
            cost(0, 1, 1),
            cost(8, 0, 1),
            cost(8, 1, 0),
            cost(8, 1, 2),
            cost(MAX_MEMORY_KIB + 1, 1, 1),
            cost(MAX_MEMORY_KIB, 5, 1),
            cost(8, u32::MAX, 1),
            cost(u32::MAX, 1, 1),
            cost(u32::MAX, u32::MAX, u32::MAX),
            cost(MAX_MEMORY_KIB, 1, 17),
        ] {
            assert!(absurd.checked().is_err(), "{absurd:?}");
        }
    }
}

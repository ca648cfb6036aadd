//! The file an identity is kept in: a versioned JSON envelope, readable by its owner only.
//!
//! ```json
//! {"v":1,"protection":"none","words":"…"}
//! {"v":1,"protection":"none","secret_key":"…64 hex digits…"}
//! {"v":1,"protection":"password","pubkey":"…","kdf":{"name":"argon2id","memory_kib":65536,"passes":3,
//!  "lanes":1,"salt":"…"},"cipher":"aes-256-gcm","nonce":"…","sealed":"…","checksum":"…"}
//! ```
//!
//! `protection` names how the rest is guarded; `none` is file permissions alone. A reader refuses a
//! version or a protection that it does not know, and never overwrites such a file.
//!
//! # Encryption
//!
//! `sealed` is the other form's `{"words":…}` or `{"secret_key":…}`, filled up with spaces, under
//! AES-256-GCM and a key that Argon2id makes of the password (in Unicode form NFKD) and a random salt.
//! What it costs to try a password stands in the file, within bounds that are checked before anything is
//! allocated. All that is told in the clear is bound to the encryption as its associated data: these
//! lines, each ended by a newline.
//!
//! ```text
//! agent-compute identity
//! v 1
//! protection password
//! pubkey <hex>
//! kdf argon2id <memory_kib> <passes> <lanes> <salt>
//! cipher aes-256-gcm <nonce>
//! ```
//!
//! `pubkey` is in the clear, so that `identity show` and a person with several files can tell whose it is
//! without the password; the key is public, and whoever opens the file checks it. `checksum` is the
//! SHA-256 of those lines and of `sealed` as it is written: it tells damage from a wrong password. Salt,
//! nonce, `sealed` and `checksum` are base64.
//!
//! # Creation and change
//!
//! The envelope is written to a file of another name and synced. A new one is put in place by a hard
//! link, which fails if the place is taken: a reader sees a whole envelope or none, and of two programs
//! that start at once, both use what the faster one made. A changed one is put in place by a rename, under
//! a lock of the folder, if the file is still what it was when the change was asked for. No copy of the
//! old one stays; what a crash left is cleared away the next time. Whether the disk keeps what was once
//! written plain is beyond a program's reach: a key that must be safe from that is made with a password.

mod cipher;
mod envelope;
mod place;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nostr::PublicKey;
use nostr::nips::nip19::ToBech32 as _;
use sha2::{Digest as _, Sha256};

use self::cipher::Cost;
use self::envelope::{Content, NotOpened};
use super::mnemonic::{self, WordCount};
use super::password::{Ask, StrongPassword, Wanted, account_names};
use super::source::{self, PASSWORD_VARIABLE};
use super::{Identity, IdentityError};
use crate::secret::{Environment, Secret, Wiped};

/// The most bytes an identity file may have.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// What an identity file keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// BIP39 words.
    Words(Secret),
    /// A secret key that was imported as such, in hex.
    SecretKey(Secret),
}

impl Kept {
    const fn text(&self) -> &Secret {
        match self {
            Self::Words(text) | Self::SecretKey(text) => text,
        }
    }

    /// The identity that it stands for.
    ///
    /// # Errors
    /// If the words or the key are not valid.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        match self {
            Self::Words(words) => mnemonic::identity(words),
            Self::SecretKey(key) => Identity::from_secret_key(key, None),
        }
    }

    /// What to keep of text that its owner gave: words, an nsec, hex, or an ncryptsec and its password.
    ///
    /// # Errors
    /// If it is none of these, or an ncryptsec that no password opens.
    pub fn from_text(text: &Secret, ask: &mut dyn Ask) -> Result<Self, IdentityError> {
        if text.expose().split_whitespace().nth(1).is_some() {
            return mnemonic::normalize(text).map(Self::Words);
        }
        let identity = source::of_key(text, ask)?;
        let hex = identity.keys().secret_key().to_secret_hex();
        Ok(Self::SecretKey(Secret::new(hex)))
    }
}

/// A file as it was read. Nothing is decrypted yet.
#[derive(Clone, Debug)]
pub struct Stored {
    path: PathBuf,
    /// Of its bytes, to find out whether it is still the same.
    digest: [u8; 32],
    content: Content,
}

impl Stored {
    /// Whether a password is needed to open it.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        matches!(self.content, Content::Encrypted(_))
    }

    /// Whose it is. In an encrypted file anybody who may write the file can alter this;
    /// [`Self::open`] finds out.
    ///
    /// # Errors
    /// If what it holds is no identity.
    pub fn public_key(&self) -> Result<PublicKey, IdentityError> {
        match &self.content {
            Content::Plain(kept) => Ok(self.identity_of(kept)?.public_key()),
            Content::Encrypted(sealed) => Ok(sealed.public_key()),
        }
    }

    /// What it keeps. Whoever is asked for the password may try until they give up. Takes some tenths of
    /// a second of work for each password: don't call it on an async runtime's thread.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] if nobody knows a password, [`IdentityError::WrongFilePassword`] if it
    /// is another.
    pub fn open(&self, ask: &mut dyn Ask) -> Result<Kept, IdentityError> {
        let sealed = match &self.content {
            Content::Plain(kept) => return Ok(kept.clone()),
            Content::Encrypted(sealed) => sealed,
        };
        // Left by somebody who was killed while they took the password away, it may be plain.
        place::clear_if_idle(&self.path);
        let mut refused = 0;
        while let Some(password) = ask.ask(Wanted::File(&self.path), refused)? {
            match sealed.open(&password) {
                Ok(kept) => return Ok(kept),
                Err(NotOpened::WrongPassword) => refused += 1,
                Err(NotOpened::Problem(problem)) => return Err(self.malformed(problem)),
            }
        }
        let path = self.path.clone();
        Err(match refused {
            0 => IdentityError::Locked(path),
            _ => IdentityError::WrongFilePassword(path),
        })
    }

    /// The identity that it keeps.
    ///
    /// # Errors
    /// As [`Self::open`], and if it is none.
    pub fn identity(&self, ask: &mut dyn Ask) -> Result<Identity, IdentityError> {
        self.identity_of(&self.open(ask)?)
    }

    /// Puts `kept` in its place, encrypted if there is a password, plain if not. Says whether what was
    /// there before still has another name on this disk (a hard link), which this leaves alone.
    ///
    /// # Errors
    /// [`IdentityError::Changed`] if the file is no longer what was read. Nothing is changed by an error.
    pub fn replace(
        &self,
        kept: &Kept,
        password: Option<&StrongPassword>,
    ) -> Result<bool, IdentityError> {
        let content = encode(&self.path, kept, password, Cost::DEFAULT)?;
        place::replace(&self.path, &content.0, |path| {
            Ok(read_bytes(path)?.is_some_and(|bytes| digest(&bytes.0) == self.digest))
        })
    }

    fn identity_of(&self, kept: &Kept) -> Result<Identity, IdentityError> {
        // What went wrong is told as a fault of the file: the reader did not type anything.
        kept.identity()
            .map_err(|error| self.malformed(error.to_string()))
    }

    fn malformed(&self, problem: String) -> IdentityError {
        IdentityError::Malformed {
            path: self.path.clone(),
            problem,
        }
    }
}

/// The file at `path`, as it is; `None` if there is no such file.
///
/// # Errors
/// If the file can't be read, or is not one that this version understands.
pub fn load(path: &Path) -> Result<Option<Stored>, IdentityError> {
    let bytes = read_bytes(path)?;
    bytes.map(|bytes| read(path, &bytes.0)).transpose()
}

/// What `bytes` hold, which are, or would be, the file at `path`.
///
/// # Errors
/// If they are not what this version understands.
#[doc(hidden)]
pub fn read(path: &Path, bytes: &[u8]) -> Result<Stored, IdentityError> {
    let content = envelope::decode(bytes).map_err(|problem| IdentityError::Malformed {
        path: path.to_owned(),
        problem,
    })?;
    Ok(Stored {
        path: path.to_owned(),
        digest: digest(bytes),
        content,
    })
}

/// The identity in the file at `path`, made now from the randomness of the operating system if there
/// is none. Says whether it was made now. The password of an encrypted file, and of one that is made, is
/// that of the environment (`AGENT_COMPUTE_PASSWORD`, or `AGENT_COMPUTE_PASSWORD_FILE`). Takes some tenths
/// of a second of work if there is one: don't call it on an async runtime's thread.
///
/// # Errors
/// If the file can't be read or made, or the password is wrong, or weak where one is made.
pub fn open_or_create(path: &Path) -> Result<(Identity, bool), IdentityError> {
    open_or_create_with(
        path,
        &Environment::of_process(),
        &mut &Environment::of_process(),
    )
}

/// As [`open_or_create`], with the password of `environment` for a file that is made, and that of `ask`
/// for one that is there.
///
/// # Errors
/// As [`open_or_create`].
pub fn open_or_create_with(
    path: &Path,
    environment: &Environment,
    ask: &mut dyn Ask,
) -> Result<(Identity, bool), IdentityError> {
    if let Some(stored) = load(path)? {
        return Ok((stored.identity(ask)?, false));
    }
    let kept = Kept::Words(mnemonic::generate(WordCount::default())?);
    let password = match environment.secret(PASSWORD_VARIABLE)? {
        Some(password) => Some(strong(password, &kept, environment)?),
        None => None,
    };
    let made = kept.identity()?;
    let created = match create(path, &kept, password.as_ref()) {
        Ok(()) => true,
        Err(IdentityError::Exists(_)) => false,
        Err(error) => return Err(error),
    };
    // What counts is what is in the file, whoever put it there.
    match load(path)? {
        Some(stored) if created && stored.public_key()? == made.public_key() => Ok((made, true)),
        Some(stored) => Ok((stored.identity(ask)?, created)),
        None => Err(IdentityError::io(path, io::ErrorKind::NotFound.into())),
    }
}

/// A password that may guard `kept` on this machine.
///
/// # Errors
/// [`IdentityError::WeakPassword`].
pub fn strong(
    password: Secret,
    kept: &Kept,
    environment: &Environment,
) -> Result<StrongPassword, IdentityError> {
    let names = account_names(environment);
    let public_key = kept.identity()?.public_key();
    let (hex, npub) = (public_key.to_hex(), public_key.to_bech32());
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.extend([hex.as_str(), kept.text().expose()]);
    names.extend(npub.as_deref().ok());
    StrongPassword::new(password, &names).map_err(IdentityError::WeakPassword)
}

/// Puts an identity into a new file at `path`, which becomes its owner's alone (0600): encrypted if there
/// is a password, plain if not. Its folder is made if it isn't there.
///
/// # Errors
/// [`IdentityError::Exists`] if there is a file already, whatever it holds.
pub fn create(
    path: &Path,
    kept: &Kept,
    password: Option<&StrongPassword>,
) -> Result<(), IdentityError> {
    let content = encode(path, kept, password, Cost::DEFAULT)?;
    place::create(path, &content.0)
}

fn encode(
    path: &Path,
    kept: &Kept,
    password: Option<&StrongPassword>,
    cost: Cost,
) -> Result<Wiped<Vec<u8>>, IdentityError> {
    match password {
        None => envelope::plain(kept),
        Some(password) => envelope::encrypted(kept, password.secret(), cost),
    }
    .map_err(|problem| IdentityError::io(path, io::Error::other(problem)))
}

fn read_bytes(path: &Path) -> Result<Option<Wiped<Vec<u8>>>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(IdentityError::io(path, problem)),
    };
    crate::secret::warn_if_open_to_others(path, &file);
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut bytes = Wiped(Vec::with_capacity(2 * MAX_FILE_BYTES as usize));
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes.0)
        .map_err(|problem| IdentityError::io(path, problem))?;
    Ok(Some(bytes))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;

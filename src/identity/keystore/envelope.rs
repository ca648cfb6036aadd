//! The bytes of an identity file: a versioned JSON envelope, plain or encrypted.

use nostr::PublicKey;
use nostr::base64::Engine as _;
use nostr::base64::engine::general_purpose::STANDARD as BASE64;
use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cipher::{Cost, Lock, NONCE_BYTES, SALT_BYTES, Trouble};
use super::{Kept, MAX_FILE_BYTES};
use crate::secret::{Secret, Wiped};

const VERSION: u32 = 1;
/// Guarded by file permissions alone.
const PLAIN: &str = "none";
/// Encrypted under a password.
const PASSWORD: &str = "password";
const KDF: &str = "argon2id";
const CIPHER: &str = "aes-256-gcm";

/// What is encrypted is filled up to this length with spaces, so that the length does not tell what it
/// is. 24 words of 8 letters need 228 bytes.
const PADDED_BYTES: usize = 256;

/// What an identity file holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Words or a key, readable by who may read the file.
    Plain(Kept),
    /// Words or a key that a password opens.
    Encrypted(Box<Sealed>),
}

/// Words or a key that a password opens, and whose they are.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    envelope: SealedEnvelope,
    public_key: PublicKey,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    sealed: Vec<u8>,
}

/// Why words or a key are not had from a [`Sealed`].
#[derive(Debug)]
pub(super) enum NotOpened {
    WrongPassword,
    /// What is in it is not what it says, or this machine can't open it.
    Problem(String),
}

/// The parts of every envelope that say whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    v: u32,
    protection: String,
}

#[derive(Serialize)]
struct PlainEnvelope<'a> {
    v: u32,
    protection: &'static str,
    #[serde(flatten)]
    kept: KeptText<&'a str>,
}

/// Words or a key as JSON: what the plain form has in it, and what the encrypted form encrypts.
#[derive(Serialize, Deserialize)]
struct KeptText<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<T>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedEnvelope {
    v: u32,
    protection: String,
    pubkey: String,
    kdf: Kdf,
    cipher: String,
    nonce: String,
    sealed: String,
    checksum: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

impl SealedEnvelope {
    /// What is told in the clear, in the one form that the encryption is bound to.
    fn bound(&self) -> String {
        let Kdf {
            name,
            memory_kib,
            passes,
            lanes,
            salt,
        } = &self.kdf;
        format!(
            "agent-compute identity\nv {}\nprotection {}\npubkey {}\nkdf {name} {memory_kib} {passes} \
             {lanes} {salt}\ncipher {} {}\n",
            self.v, self.protection, self.pubkey, self.cipher, self.nonce
        )
    }

    /// Tells a damaged file from a wrong password, before one is asked for. It is no protection: who
    /// alters the file on purpose can make a new one.
    fn checksum(&self) -> String {
        let digest = Sha256::new()
            .chain_update(self.bound())
            .chain_update(&self.sealed)
            .finalize();
        BASE64.encode(digest)
    }

    const fn cost(&self) -> Cost {
        Cost {
            memory_kib: self.kdf.memory_kib,
            passes: self.kdf.passes,
            lanes: self.kdf.lanes,
        }
    }

    fn checked(self) -> Result<Sealed, String> {
        if self.checksum != self.checksum() {
            return Err(DAMAGED.to_owned());
        }
        if self.kdf.name != KDF || self.cipher != CIPHER {
            return Err(NEWER.to_owned());
        }
        self.cost().checked()?;
        Ok(Sealed {
            public_key: PublicKey::from_hex(&self.pubkey)
                .ok()
                .filter(|key| key.xonly().is_ok())
                .ok_or("its pubkey is no public key")?,
            salt: decoded(&self.kdf.salt, "salt")?,
            nonce: decoded(&self.nonce, "nonce")?,
            sealed: BASE64
                .decode(&self.sealed)
                .map_err(|_| "its sealed part is no base64".to_owned())?,
            envelope: self,
        })
    }
}

const DAMAGED: &str = "it is damaged, its checksum is wrong; put a backup of it in its place, or move it \
     away and `identity import` your words";
const NEWER: &str = "it is protected in a way that this program does not know; use a newer program";

impl Sealed {
    /// Whose words or key these are. Unlike what is encrypted, anybody who may write the file can alter
    /// this; whoever opens it finds out.
    pub(super) const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    pub(super) fn open(&self, password: &Secret) -> Result<Kept, NotOpened> {
        let bound = self.envelope.bound();
        let lock = Lock {
            cost: self.envelope.cost(),
            salt: &self.salt,
            nonce: &self.nonce,
            bound: bound.as_bytes(),
        };
        let plain = lock
            .open(password, &self.sealed)
            .map_err(|trouble| match trouble {
                Trouble::DoesNotOpen => NotOpened::WrongPassword,
                Trouble::Cannot(problem) => NotOpened::Problem(problem),
            })?;
        let kept = kept(&plain.0).map_err(NotOpened::Problem)?;
        let identity = kept
            .identity()
            .map_err(|error| NotOpened::Problem(error.to_string()))?;
        if identity.public_key() != self.public_key {
            return Err(NotOpened::Problem(
                "the key in it is not that of the pubkey it names".to_owned(),
            ));
        }
        Ok(kept)
    }
}

/// The content of a plain file.
pub(super) fn plain(kept: &Kept) -> Result<Wiped<Vec<u8>>, String> {
    let mut bytes = Wiped(Vec::with_capacity(2 * PADDED_BYTES));
    let envelope = PlainEnvelope {
        v: VERSION,
        protection: PLAIN,
        kept: text_of(kept),
    };
    serde_json::to_writer(&mut bytes.0, &envelope).map_err(|error| error.to_string())?;
    bytes.0.push(b'\n');
    Ok(bytes)
}

/// The content of an encrypted file, under fresh randomness.
pub(super) fn encrypted(
    kept: &Kept,
    password: &Secret,
    cost: Cost,
) -> Result<Wiped<Vec<u8>>, String> {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
    for bytes in [&mut salt[..], &mut nonce[..]] {
        rand::rngs::OsRng
            .try_fill_bytes(bytes)
            .map_err(|error| format!("no randomness: {error}"))?;
    }
    encrypted_with(kept, password, cost, &salt, &nonce)
}

fn encrypted_with(
    kept: &Kept,
    password: &Secret,
    cost: Cost,
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_BYTES],
) -> Result<Wiped<Vec<u8>>, String> {
    let identity = kept.identity().map_err(|error| error.to_string())?;
    let mut envelope = SealedEnvelope {
        v: VERSION,
        protection: PASSWORD.to_owned(),
        pubkey: identity.public_key().to_hex(),
        kdf: Kdf {
            name: KDF.to_owned(),
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
            salt: BASE64.encode(salt),
        },
        cipher: CIPHER.to_owned(),
        nonce: BASE64.encode(nonce),
        sealed: String::new(),
        checksum: String::new(),
    };
    let mut plain = Wiped(Vec::with_capacity(2 * PADDED_BYTES));
    serde_json::to_writer(&mut plain.0, &text_of(kept)).map_err(|error| error.to_string())?;
    let padded = plain.0.len().next_multiple_of(PADDED_BYTES);
    plain.0.resize(padded, b' ');
    let bound = envelope.bound();
    let lock = Lock {
        cost,
        salt,
        nonce,
        bound: bound.as_bytes(),
    };
    let sealed = lock
        .seal(password, &plain.0)
        .map_err(|trouble| match trouble {
            Trouble::DoesNotOpen => "it can't be encrypted".to_owned(),
            Trouble::Cannot(problem) => problem,
        })?;
    envelope.sealed = BASE64.encode(sealed);
    envelope.checksum = envelope.checksum();
    let mut bytes = serde_json::to_vec(&envelope).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    Ok(Wiped(bytes))
}

/// What these bytes hold. They may come from anybody: nothing is derived, and nothing of them repeated.
pub(super) fn decode(bytes: &[u8]) -> Result<Content, String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {MAX_FILE_BYTES} bytes"));
    }
    let head: Head = serde_json::from_slice(bytes).map_err(not_an_envelope)?;
    if head.v != VERSION {
        return Err(format!(
            "its version is {}, and this program knows version {VERSION}; use a newer program",
            head.v
        ));
    }
    match head.protection.as_str() {
        PLAIN => kept(bytes).map(Content::Plain),
        PASSWORD => serde_json::from_slice::<SealedEnvelope>(bytes)
            .map_err(not_an_envelope)?
            .checked()
            .map(|sealed| Content::Encrypted(Box::new(sealed))),
        _ => Err(NEWER.to_owned()),
    }
}

/// The parser's own message may repeat what it read, so only the place is told.
fn not_an_envelope(error: serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("no identity envelope (line {line}, column {column})")
}

fn kept(json: &[u8]) -> Result<Kept, String> {
    let kept: KeptText<String> = serde_json::from_slice(json).map_err(not_an_envelope)?;
    match (
        kept.words.map(Secret::new),
        kept.secret_key.map(Secret::new),
    ) {
        (Some(words), None) => Ok(Kept::Words(words)),
        (None, Some(key)) => Ok(Kept::SecretKey(key)),
        _ => Err("it must hold words or a secret_key, one of them".to_owned()),
    }
}

fn text_of(kept: &Kept) -> KeptText<&str> {
    match kept {
        Kept::Words(words) => KeptText {
            words: Some(words.expose()),
            secret_key: None,
        },
        Kept::SecretKey(key) => KeptText {
            words: None,
            secret_key: Some(key.expose()),
        },
    }
}

fn decoded<const N: usize>(text: &str, what: &str) -> Result<[u8; N], String> {
    BASE64
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("its {what} is not base64 of {N} bytes"))
}

/// For tests: the envelope with the checksum that belongs to what it says.
#[cfg(test)]
pub(super) fn with_checksum(json: &str) -> String {
    let read: Result<SealedEnvelope, _> = serde_json::from_str(json);
    let Ok(mut envelope) = read else {
        return json.to_owned();
    };
    envelope.checksum = envelope.checksum();
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// For tests: `kept` in the clothes of another.
#[cfg(test)]
pub(super) fn sealed_as(kept: &Kept, other: &Sealed, password: &Secret) -> Vec<u8> {
    let mut envelope = other.envelope.clone();
    let bound = envelope.bound();
    let lock = Lock {
        cost: envelope.cost(),
        salt: &other.salt,
        nonce: &other.nonce,
        bound: bound.as_bytes(),
    };
    let plain = serde_json::to_vec(&text_of(kept)).unwrap_or_default();
    envelope.sealed = BASE64.encode(lock.seal(password, &plain).unwrap_or_default());
    envelope.checksum = envelope.checksum();
    serde_json::to_vec(&envelope).unwrap_or_default()
}

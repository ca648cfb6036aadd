//! Identifiers as types, so that a payment hash cannot stand where a preimage or a job id belongs.

use std::fmt;
use std::str::FromStr;

use nostr::EventId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A word that is not the identifier it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct InvalidId(&'static str);

fn bytes_from_hex<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], InvalidId> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(InvalidId(what));
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16);
        let low = char::from(pair[1]).to_digit(16);
        let (Some(high), Some(low)) = (high, low) else {
            return Err(InvalidId(what));
        };
        *byte = u8::try_from(high * 16 + low).map_err(|_| InvalidId(what))?;
    }
    Ok(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err = InvalidId>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// One purchase: 16 random bytes, written as 32 hex digits. Local to a ledger; never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurchaseId([u8; 16]);

impl PurchaseId {
    /// The id made of these random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new one, which no other purchase has.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// `SHA-256(preimage)`: names a Lightning payment (BOLT11 tagged field `p`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentHash([u8; 32]);

impl PaymentHash {
    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! hex_text {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                bytes_from_hex(text, $what).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                text(from)
            }
        }
    };
}

hex_text!(PurchaseId, "purchase id (32 hex digits)");
hex_text!(PaymentHash, "payment hash (64 hex digits)");

/// The secret behind a [`PaymentHash`]: whoever learns it can claim the payment.
///
/// `Debug` shows nothing. There is no `Display` and no blanket serialisation: writing one out is
/// always a decision ([`Preimage::reveal`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Preimage([u8; 32]);

impl Preimage {
    /// The preimage with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash that this preimage unlocks.
    #[must_use]
    pub fn payment_hash(&self) -> PaymentHash {
        PaymentHash(Sha256::digest(self.0).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The preimage as 64 hex digits, for a receipt or a release.
    #[must_use]
    pub fn reveal(&self) -> String {
        PaymentHash(self.0).to_string()
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage(…)")
    }
}

impl FromStr for Preimage {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        bytes_from_hex(text, "preimage (64 hex digits)").map(Self)
    }
}

/// What both sides call one job on the wire: `job_` and the first 16 hex digits of the id of the
/// event that carried the request. Long enough to bind, too short to be a key: a provider keys its
/// jobs by the whole event id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// The job id of the request that `event` carried.
    #[must_use]
    pub fn of_request(event: &EventId) -> Self {
        let hex = event.to_hex();
        Self(format!("job_{}", &hex[..16]))
    }

    /// The id as a peer wrote it; no promise that any request has it.
    #[must_use]
    pub fn from_wire(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which wallet holds a reservation: the kind and the id together name one balance, and only that
/// wallet may say what became of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WalletId {
    /// The backend: `sim`, `nwc`, …
    pub kind: String,
    /// The account within it. Never a secret.
    pub account: String,
}

impl fmt::Display for WalletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preimage_unlocks_its_hash_and_is_not_shown() {
        let preimage = Preimage::from_bytes([7; 32]);
        assert_eq!(
            preimage.payment_hash().to_string(),
            "4bb06f8e4e3a7715d201d573d0aa423762e55dabd61a2c02278fa56cc6d294e0"
        );
        assert!(!format!("{preimage:?}").contains("07"));
        assert_eq!(preimage.reveal().parse(), Ok(preimage));
    }

    #[test]
    fn hex_is_read_exactly() {
        let hash = PaymentHash::from_bytes([0xab; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in [
            "",
            "ab",
            &"zz".repeat(32),
            &"ab".repeat(33),
            &"é".repeat(32),
        ] {
            assert!(bad.parse::<PaymentHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_is_named_after_its_request() {
        let event = EventId::from_byte_array([0x12; 32]);
        assert_eq!(JobId::of_request(&event).as_str(), "job_1212121212121212");
    }
}

//! How to rank what qualifies: the words of `--select`.

use std::fmt;
use std::str::FromStr;

use nostr::PublicKey;
use nostr::nips::nip19::{FromBech32, Nip19Profile};

/// How to rank the offers that qualify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// By expected price; those that name none last, ties by the newer, then by key.
    #[default]
    Cheapest,
    /// By the order in which they were heard.
    First,
    /// By our own record of them, weighed against the price; see `market::record`.
    Best,
    /// This provider only; its offers by price.
    Provider(KeyPattern),
}

/// A word that says nothing about whom to buy from. Does not quote the word: it may be a secret key
/// that was pasted into the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASelection {
    /// Neither a rule nor a key.
    #[error(
        "expected cheapest, first, best, or a provider's key (at least 8 hex digits, npub or nprofile)"
    )]
    Unknown,
    /// Hex, but too little or too much of it.
    #[error(
        "a provider's key has 64 hex digits; at least the first {MIN_PREFIX_DIGITS} are needed"
    )]
    Digits,
    /// A secret key.
    #[error("this is a secret key: give the provider's public key (npub)")]
    SecretKey,
    /// Looks like an npub or nprofile and is none.
    #[error("not a valid npub or nprofile: a letter may be missing or wrong")]
    Bech32,
}

impl FromStr for Select {
    type Err = NotASelection;

    fn from_str(word: &str) -> Result<Self, NotASelection> {
        match word {
            "cheapest" => Ok(Self::Cheapest),
            "first" => Ok(Self::First),
            "best" => Ok(Self::Best),
            key => key.parse().map(Self::Provider),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cheapest => f.write_str("cheapest"),
            Self::First => f.write_str("first"),
            Self::Best => f.write_str("best"),
            Self::Provider(key) => key.fmt(f),
        }
    }
}

/// The fewest hex digits that name a key. Fewer would fit strangers by chance.
pub const MIN_PREFIX_DIGITS: usize = 8;

const KEY_DIGITS: usize = 64;

/// A provider's key, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    /// 8 to 64 lower-case hex digits.
    digits: String,
}

impl KeyPattern {
    /// Whether `key` is the one, or begins so.
    #[must_use]
    pub fn matches(&self, key: &PublicKey) -> bool {
        key.to_hex().starts_with(&self.digits)
    }

    /// The key, if all of it was given.
    #[must_use]
    pub fn exact(&self) -> Option<PublicKey> {
        PublicKey::from_hex(&self.digits).ok()
    }
}

impl From<PublicKey> for KeyPattern {
    fn from(key: PublicKey) -> Self {
        let digits = key.to_hex();
        Self { digits }
    }
}

impl FromStr for KeyPattern {
    type Err = NotASelection;

    fn from_str(text: &str) -> Result<Self, NotASelection> {
        let text = text.strip_prefix("nostr:").unwrap_or(text);
        if text.bytes().all(|byte| byte.is_ascii_hexdigit()) && !text.is_empty() {
            let digits = text.to_ascii_lowercase();
            return match digits.len() {
                MIN_PREFIX_DIGITS..=KEY_DIGITS => Ok(Self { digits }),
                _ => Err(NotASelection::Digits),
            };
        }
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("nsec1") || lower.starts_with("ncryptsec1") {
            return Err(NotASelection::SecretKey);
        }
        let key = if lower.starts_with("npub1") {
            PublicKey::from_bech32(text).ok()
        } else if lower.starts_with("nprofile1") {
            let profile = Nip19Profile::from_bech32(text);
            profile.ok().map(|profile| profile.public_key)
        } else {
            return Err(NotASelection::Unknown);
        };
        key.map(Self::from).ok_or(NotASelection::Bech32)
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits)
    }
}

/// The key that an npub or 64 hex digits name, and nothing shorter.
pub(super) fn whole_key(text: &str) -> Option<PublicKey> {
    if text.len() == KEY_DIGITS {
        return PublicKey::from_hex(text).ok();
    }
    PublicKey::from_bech32(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use nostr::nips::nip19::ToBech32;

    const KEY: &str = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";

    fn pattern(text: &str) -> Result<KeyPattern, NotASelection> {
        text.parse()
    }

    #[test]
    fn a_key_is_named_by_hex_npub_or_nprofile() {
        let key = PublicKey::from_hex(KEY).unwrap();
        let profile = Nip19Profile::new(key, []).to_bech32().unwrap();
        let npub = key.to_bech32().unwrap();
        let uri = format!("nostr:{npub}");
        for text in [
            KEY,
            &KEY.to_uppercase(),
            &npub,
            &npub.to_uppercase(),
            &uri,
            &profile,
        ] {
            assert_eq!(pattern(text).unwrap().exact(), Some(key), "{text}");
        }
    }

    #[test]
    fn a_prefix_has_at_least_eight_digits() {
        let key = PublicKey::from_hex(KEY).unwrap();
        let prefix = pattern("E8BCF382").unwrap();
        assert!(prefix.matches(&key));
        assert_eq!(prefix.exact(), None);
        assert!(!pattern("e8bcf383").unwrap().matches(&key));
        assert_eq!(pattern("e8bcf38"), Err(NotASelection::Digits));
        assert_eq!(pattern(&format!("{KEY}0")), Err(NotASelection::Digits));
    }

    #[test]
    fn other_words_are_refused_and_never_quoted() {
        let secret = nostr::Keys::generate().secret_key().to_bech32().unwrap();
        let refused = secret.parse::<Select>().unwrap_err();
        assert_eq!(refused, NotASelection::SecretKey);
        assert!(!refused.to_string().contains(&secret[4..]));
        for word in ["", "dearest", "nostr:", "CHEAPEST", "npu", "é"] {
            assert_eq!(
                word.parse::<Select>(),
                Err(NotASelection::Unknown),
                "{word}"
            );
        }
        assert_eq!("npub1xyz".parse::<Select>(), Err(NotASelection::Bech32));
        assert_eq!("cheapest".parse::<Select>(), Ok(Select::Cheapest));
        assert_eq!("first".parse::<Select>(), Ok(Select::First));
        assert_eq!("best".parse::<Select>(), Ok(Select::Best));
    }
}

//! How a provider is chosen.

use std::fmt;
use std::str::FromStr;

use nostr::PublicKey;
use nostr::nips::nip19::{FromBech32 as _, Nip19Profile};

/// Hex digits that a prefix must have at least: fewer would soon be ambiguous, and easy to forge.
const MIN_PREFIX_DIGITS: usize = 8;
const KEY_DIGITS: usize = 64;

/// How a provider is chosen among those that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The lowest expected price.
    Cheapest,
    /// The first that is heard of.
    First,
    /// The best by our own record of it.
    Best,
    /// This one.
    Key(PublicKey),
    /// The one whose key begins with these hex digits (lower case, 8 to 63 of them).
    Prefix(String),
}

/// Text that says no way to choose. It is not repeated: it may be a secret key, pasted by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected cheapest, first, best, or a public key (npub, nprofile, or at least 8 of its hex digits)"
)]
pub struct NotAChoice;

impl FromStr for Select {
    type Err = NotAChoice;

    fn from_str(text: &str) -> Result<Self, NotAChoice> {
        match text {
            "cheapest" => return Ok(Self::Cheapest),
            "first" => return Ok(Self::First),
            "best" => return Ok(Self::Best),
            _ => {}
        }
        if let Some(key) = whole_key(text) {
            return Ok(Self::Key(key));
        }
        if let Ok(profile) = Nip19Profile::from_bech32(text) {
            return Ok(Self::Key(profile.public_key));
        }
        let is_prefix = (MIN_PREFIX_DIGITS..KEY_DIGITS).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_prefix {
            return Ok(Self::Prefix(text.to_ascii_lowercase()));
        }
        Err(NotAChoice)
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cheapest => f.write_str("cheapest"),
            Self::First => f.write_str("first"),
            Self::Best => f.write_str("best"),
            Self::Key(key) => f.write_str(&key.to_hex()),
            Self::Prefix(digits) => f.write_str(digits),
        }
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
    use super::*;

    const HEX: &str = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917";
    const NPUB: &str = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu";

    #[test]
    fn words_keys_and_prefixes_are_told_apart() {
        assert_eq!("cheapest".parse(), Ok(Select::Cheapest));
        assert_eq!("first".parse(), Ok(Select::First));
        assert_eq!("best".parse(), Ok(Select::Best));
        assert!(matches!(HEX.parse(), Ok(Select::Key(key)) if key.to_hex() == HEX));
        assert!(matches!(HEX.to_uppercase().parse(), Ok(Select::Key(key)) if key.to_hex() == HEX));
        assert!(matches!(NPUB.parse(), Ok(Select::Key(key)) if key.to_hex() == HEX));
        assert_eq!("17162C92".parse(), Ok(Select::Prefix("17162c92".into())));
        assert_eq!(HEX[..63].parse(), Ok(Select::Prefix(HEX[..63].into())));
    }

    #[test]
    fn short_and_strange_choices_are_refused() {
        let longer = format!("{HEX}00");
        for text in [
            "",
            "17162c9",
            "cheap",
            "zzzzzzzz",
            "npub1zutz",
            "é7162c92",
            &longer,
        ] {
            assert_eq!(text.parse::<Select>(), Err(NotAChoice), "{text}");
        }
    }
}

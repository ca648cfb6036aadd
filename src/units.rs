//! Money, time and networks as types: an amount cannot be mistaken for another unit, and no
//! arithmetic on it can wrap.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An amount of bitcoin in integer millisatoshi, the unit of BOLT11 and of this crate.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Msat(u64);

impl Msat {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// All bitcoin there will ever be, in millisatoshi. No amount above it is believed.
    pub const MAX: Self = Self(2_100_000_000_000_000_000);

    /// `msat` millisatoshi.
    #[must_use]
    pub const fn new(msat: u64) -> Self {
        Self(msat)
    }

    /// `sats` whole satoshi; `None` if that is more than a `u64` of millisatoshi holds.
    #[must_use]
    pub const fn from_sats(sats: u64) -> Option<Self> {
        match sats.checked_mul(1000) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }

    /// `sats` whole satoshi, or the largest amount there is.
    #[must_use]
    pub const fn from_sats_saturating(sats: u64) -> Self {
        Self(sats.saturating_mul(1000))
    }

    /// The number of millisatoshi.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole satoshi, rounded down.
    #[must_use]
    pub const fn sats_floor(self) -> u64 {
        self.0 / 1000
    }

    /// Whether this is no money at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `self + other`, or `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// `self - other`, or `None` if that is negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// `self + other`, stopping at the largest amount. For sums that are only compared with limits,
    /// where stopping at the top refuses rather than allows.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self - other`, stopping at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Msat {
    /// In sats, with as many decimals as it takes: `10 sats`, `0.5 sats`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sats, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{sats} {}", if sats == 1 { "sat" } else { "sats" });
        }
        let decimals = format!("{rest:03}");
        write!(f, "{sats}.{} sats", decimals.trim_end_matches('0'))
    }
}

/// A moment, in whole seconds since 1970-01-01 UTC (Nostr's `created_at`, BOLT11's timestamp).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixSecs(u64);

impl UnixSecs {
    /// `secs` seconds after the epoch.
    #[must_use]
    pub const fn new(secs: u64) -> Self {
        Self(secs)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This moment and `secs` seconds, stopping at the end of time.
    #[must_use]
    pub const fn plus(self, secs: u64) -> Self {
        Self(self.0.saturating_add(secs))
    }

    /// `secs` seconds earlier, stopping at the epoch.
    #[must_use]
    pub const fn minus(self, secs: u64) -> Self {
        Self(self.0.saturating_sub(secs))
    }

    /// Seconds from `earlier` until now; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How long until this moment, seen from `now`; zero once it is past.
    #[must_use]
    pub const fn until(self, now: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(now.0))
    }

    /// The UTC day, counted from the epoch. A day's budget belongs to one of these.
    #[must_use]
    pub const fn utc_day(self) -> u64 {
        self.0 / 86_400
    }
}

/// A bitcoin network. The words are those of the wire (`protocol`) and of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Real money.
    Mainnet,
    /// The public test network.
    Testnet,
    /// The signed test network.
    Signet,
    /// A private network of one's own; the network of play money.
    Regtest,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mainnet, Self::Testnet, Self::Signet, Self::Regtest];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network: expected mainnet, testnet, signet or regtest")]
pub struct UnknownNetwork;

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(word: &str) -> Result<Self, UnknownNetwork> {
        Self::ALL
            .into_iter()
            .find(|network| network.as_str() == word)
            .ok_or(UnknownNetwork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_in_sats() {
        for (msat, text) in [
            (0, "0 sats"),
            (1000, "1 sat"),
            (10_000, "10 sats"),
            (1, "0.001 sats"),
            (1_500, "1.5 sats"),
        ] {
            assert_eq!(Msat::new(msat).to_string(), text);
        }
    }

    #[test]
    fn arithmetic_never_wraps() {
        let most = Msat::new(u64::MAX);
        assert_eq!(most.checked_add(Msat::new(1)), None);
        assert_eq!(Msat::ZERO.checked_sub(Msat::new(1)), None);
        assert_eq!(Msat::from_sats(u64::MAX), None);
        assert_eq!(most.saturating_add(most), most);
    }

    #[test]
    fn networks_round_trip() {
        for network in Network::ALL {
            assert_eq!(network.as_str().parse(), Ok(network));
        }
        assert_eq!("bitcoin".parse::<Network>(), Err(UnknownNetwork));
    }
}

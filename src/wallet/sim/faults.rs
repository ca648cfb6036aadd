//! Faults that play money can be told to have, so that a purchase can be seen to survive them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a [`Fault::Slow`] payment takes: long enough to be seen, short enough to wait for.
pub const SLOW: Duration = Duration::from_millis(1500);

/// What goes wrong with every payment that a wallet makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The money moves, then the answer is lost: `Unknown`. This wallet never answers about that payment
    /// again, so that only another one can say what became of it.
    TimeoutAfter,
    /// The request is lost: no money moves, and the wallet is as silent as after a lost answer.
    TimeoutBefore,
    /// Every payment is refused.
    Refuse,
    /// Every payment takes [`SLOW`].
    Slow,
    /// Payments succeed, but no proof of payment is ever told.
    NoPreimage,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::TimeoutAfter,
        Self::TimeoutBefore,
        Self::Refuse,
        Self::Slow,
        Self::NoPreimage,
    ];

    /// The word for it in the environment.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TimeoutAfter => "timeout-after",
            Self::TimeoutBefore => "timeout-before",
            Self::Refuse => "refuse",
            Self::Slow => "slow",
            Self::NoPreimage => "no-preimage",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fault: expected timeout-after, timeout-before, refuse, slow or no-preimage")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(word: &str) -> Result<Self, UnknownFault> {
        Self::ALL
            .into_iter()
            .find(|fault| fault.as_str() == word)
            .ok_or(UnknownFault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_names_its_fault_and_no_other_word_does() {
        for fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
        }
        for word in ["", "Refuse", "slow ", "slow,refuse"] {
            assert_eq!(word.parse::<Fault>(), Err(UnknownFault), "{word:?}");
        }
    }
}

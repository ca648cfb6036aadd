//! Agents buy compute for themselves: they find providers on Nostr, negotiate, pay over Lightning and
//! stay within their owner's budget.

pub mod client;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod error;
pub mod identity;
pub mod ids;
pub mod ledger;
pub mod market;
pub mod protocol;
#[cfg(feature = "provider")]
pub mod provider;
pub mod purchase;
pub mod relay;
pub mod secret;
pub mod units;
pub mod wallet;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

pub use error::{Code, Error, Result};

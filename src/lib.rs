//! Agents buy compute for themselves: they find providers on Nostr, negotiate, pay over Lightning and
//! stay within their owner's budget.
//!
//! * To buy from a program: [`client::ComputeClient`].
//! * To sell: [`provider::run`].
//! * To bring a wallet: [`wallet::Wallet`], and [`wallet::conformance`] to try it.
//!
//! # The map
//!
//! Left may import right; modules on one level don't import each other. `tests/it/architecture.rs` holds
//! the code to it.
//!
//! ```text
//! bins ► cli ► { client, provider } ► { purchase, discovery, market }
//!      ► ports { wallet, relay, ledger, provider::backend }
//!      ► { identity, protocol, config } ► { units, ids, error, clock, secret, look }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`units`], [`ids`], [`error`], [`clock`], [`secret`] | money, names, failures, time and secrets as types |
//! | [`look`] | reading an SQLite file without changing anything |
//! | [`protocol`] | the wire: messages, channel events, listings; pure |
//! | [`identity`], [`config`] | who we are; settings and constants |
//! | [`relay`] | several Nostr relays as one (port), the embedded relay |
//! | [`wallet`] | where money is (port), invoice checks (pure), play money |
//! | [`ledger`] | what is set aside and spent; limits (pure), SQLite |
//! | [`discovery`], [`market`] | who offers what; whom to take (pure) |
//! | [`purchase`] | one purchase: pure step, driver, recovery |
//! | [`client`] | the buyer |
//! | [`provider`] | the seller |
//! | `cli` | the two programs |
//!
//! Buyer and seller never import each other: they meet through [`protocol`] alone, so a test of both is a
//! test of the wire.
//!
//! # What holds, always
//!
//! * No reservation is granted that would exceed a limit, over all processes that share the ledger.
//! * No payment is attempted without a durable reservation and a durable record of what is about to be paid.
//! * At most one live or settled payment per purchase, and per payment hash.
//! * A payment in doubt keeps its money reserved; only a look-up that proves failure frees it.
//! * Each process holds a lock and stamps its purchases; recovery takes only those whose owner is dead.
//! * A provider starts no paid work before its own wallet says that the money is there.
//! * Nothing read from the network can panic a process, grow its memory without bound, or reach a terminal
//!   unescaped.

pub mod client;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod error;
pub mod identity;
pub mod ids;
pub mod ledger;
pub mod look;
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

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

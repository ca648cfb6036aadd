//! End to end and over real parts: WebSockets, SQLite files, signatures, child processes.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod architecture;
mod bench;
mod cast;
mod crash;
mod discovery;
mod disk;
mod doctor;
mod ears;
mod env;
mod escrow;
mod examples;
mod failover;
mod fuzzed;
mod harness;
mod hostile;
mod identity;
mod ledger;
mod market_sim;
mod nwc;
mod openai;
mod original;
mod payment;
mod privacy;
#[cfg(unix)]
mod process;
mod programs;
mod protocol;
mod provider;
mod purchase;
mod races;
mod receipts;
mod record;
mod relay;
mod snapshots;
mod soak;
mod spark;
mod stage;
mod wallet;

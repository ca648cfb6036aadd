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
mod crash;
mod discovery;
mod harness;
mod hostile;
mod identity;
mod ledger;
mod programs;
mod protocol;
mod provider;
mod purchase;
mod relay;
mod wallet;

//! The two programs.
//!
//! ```text
//! words -> parse -> customer | provider (args) -> settings (flag > environment > file) -> commands -> output
//! ```

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "many comments here are help texts, which name [sections] of the configuration"
)]

pub mod args;
mod ask;
pub mod backends;
pub mod commands;
pub mod customer;
mod given;
mod help;
pub mod output;
mod parse;
mod pieces;
mod program;
mod prompt;
pub mod provider;
pub mod qr;
pub mod settings;
pub mod signals;
pub mod text;
pub mod wallets;
pub mod watch;

pub use self::wallets::open_wallet;

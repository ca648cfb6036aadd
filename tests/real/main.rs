//! Tests against real servers: see each module for what it needs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

mod beside;
mod gguf;
mod lightning;
mod llama;
mod programs;
mod spark;

//! The examples run, and hold what they say. Each has its tests as a module of its own, so that these can
//! look at what a reader sees.
#![allow(
    clippy::duplicate_mod,
    reason = "each example is a program of its own, and has its own market"
)]

#[path = "../../examples/buy_once.rs"]
#[allow(dead_code, reason = "its command line is not used here")]
mod buy_once;
#[path = "../../examples/custom_wallet.rs"]
mod custom_wallet;
#[path = "../../examples/embed_provider.rs"]
mod embed_provider;
#[path = "../../examples/tick_loop.rs"]
mod tick_loop;

//! What is fuzzed: one plain function a target, from any bytes to assertions about them.
//!
//! A target must not only survive its input but say what holds of it: what is read can be written again, what
//! passed a check agrees with a second opinion written here, what is bounded stays within its bounds. Two ways
//! lead here. `targets/` has one program a function, for `cargo fuzz`:
//!
//! ```text
//! cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none invoice
//! ```
//!
//! No sanitizer: our code has no `unsafe`, so one would watch other people's code, and need a nightly compiler.
//! And `tests/it/fuzzed.rs` replays what `corpus/` holds, and changes made to it, in the plain `cargo test`.
//!
//! A crash is mended in `src/`, and its input kept as `corpus/<target>/regression-<what it was>`.

mod budget;
mod config;
mod identity;
mod invoice;
mod listing;
mod purchase;
mod receipt;
mod relay;
mod server;
mod stream;
mod tape;
mod terminal;
mod wallets;
mod wire;
mod words;

pub use self::budget::budget;
pub use self::config::{arguments, config};
pub use self::identity::{identity, keystore};
pub use self::invoice::invoice;
pub use self::listing::listing;
pub use self::purchase::{purchase, row};
pub use self::receipt::receipt;
pub use self::relay::frames;
pub use self::server::server;
pub use self::stream::stream;
pub use self::terminal::terminal;
pub use self::wallets::wallets;
pub use self::wire::{channel, message, request, sealed};
pub use self::words::words;

/// Asserts what must hold of these bytes, taken as the target takes them.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and of their folders in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("arguments", arguments),
    ("budget", budget),
    ("channel", channel),
    ("config", config),
    ("frames", frames),
    ("identity", identity),
    ("invoice", invoice),
    ("keystore", keystore),
    ("listing", listing),
    ("message", message),
    ("purchase", purchase),
    ("receipt", receipt),
    ("request", request),
    ("row", row),
    ("sealed", sealed),
    ("server", server),
    ("stream", stream),
    ("terminal", terminal),
    ("wallets", wallets),
    ("words", words),
];

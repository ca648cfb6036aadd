//! Sells compute to agents.
fn main() {}

//! Buys compute for an agent.
fn main() {}

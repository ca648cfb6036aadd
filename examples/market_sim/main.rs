//! A hostile market, simulated: buyers, sellers, relays and wallets that lie, stall, break and die, each
//! choice drawn from a seed, and after each attempt the books are compared to the millisatoshi.

pub mod report;

fn main() {
    println!("{}", report::Tally::default().attempts);
}

//! A hostile market, simulated: buyers, sellers, relays and wallets that lie, stall, break and die, each
//! choice drawn from a seed, and after each attempt the books are compared to the millisatoshi.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod pure;
pub mod report;

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|it| it.parse().ok()).unwrap_or(0);
    let count: u64 = args.next().and_then(|it| it.parse().ok()).unwrap_or(20);
    let mut tallies = std::collections::BTreeMap::new();
    let begun = std::time::Instant::now();
    let (mut steps, mut attempts, mut broken) = (0, 0_u64, 0);
    for seed in first..first + count {
        for adversary in pure::case::ADVERSARIES {
            for setting in pure::case::Setting::ALL {
                let case = pure::case::Case {
                    adversary,
                    setting,
                    seed,
                    most: pure::MOST,
                };
                let attempt = pure::attempt(case);
                for it in &attempt.outcomes {
                    let tally: &mut std::collections::BTreeMap<&str, u64> =
                        tallies.entry(it.adversary).or_default();
                    let word = it.ended.map_or_else(|code| code.as_str(), |()| "delivered");
                    *tally.entry(word).or_default() += 1;
                    *tally.entry("lost").or_default() += it.lost.get();
                }
                steps += attempt.steps;
                attempts += 1;
                if attempt.outcomes.iter().any(|it| !it.broken.is_empty()) {
                    broken += 1;
                    if broken == 1 {
                        println!("{:?}", attempt.outcomes);
                        println!("{}", pure::explain(case));
                    }
                }
            }
        }
    }
    for (word, tally) in &tallies {
        println!("{word:24} {tally:?}");
    }
    let secs = begun.elapsed().as_secs_f64();
    println!(
        "{attempts} attempts, {broken} broken, {steps} steps, {:.0} steps/s",
        steps as f64 / secs
    );
}

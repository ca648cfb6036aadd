//! Faults of the customer's wallet, with everybody killed on top.

use super::*;

fn buy_with(world: &World, home: &str, fault: &str) -> Running {
    let mut command = world.customer(home, &["--json", "--htlc", "--timeout", "20", "--prompt", TEXT]);
    Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", fault))
}

#[test]
fn whatever_the_wallet_does_a_kill_on_top_leaves_books_that_recover_makes_whole() {
    let world = World::new();
    let mut seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("faulty wallets killed");
    let usual = usual_time(&world, "warm");
    let mut earned = PRICE;
    for round in 0..rounds(2) {
        for fault in ["timeout-after", "timeout-before", "refuse", "slow", "no-preimage"] {
            let home = format!("buyer-{round}-{fault}");
            let mut buying = buy_with(&world, &home, fault);
            let slow = Duration::from_millis(1600 * u64::from(fault == "slow"));
            moments.pass(usual * 2 + slow);
            buying.kill();
            if moments.one_in(2) {
                seller.kill_and_restart(&world);
            }
            earned += assert_all_delivered(&world, &home);
        }
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

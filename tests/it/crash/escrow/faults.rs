//! Faults of the customer's wallet, with everybody killed on top.

use super::*;

fn buy_with(world: &World, home: &str, fault: &str) -> Running {
    let mut command = world.customer(
        home,
        &["--json", "--htlc", "--timeout", "20", "--prompt", TEXT],
    );
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
        for fault in [
            "timeout-after",
            "timeout-before",
            "refuse",
            "slow",
            "no-preimage",
        ] {
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

#[test]
fn a_bank_that_is_busy_for_a_while_delays_a_purchase_and_no_more() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    for step in ["quoted", "paying", "locked", "released"] {
        let mut buying = start_buying(&world, "buyer", &[]);
        buying.wait_for(step, reached(step));
        let bank = Connection::open(world.bank()).unwrap();
        bank.busy_timeout(Duration::from_secs(10)).unwrap();
        bank.execute_batch("BEGIN EXCLUSIVE").unwrap();
        std::thread::sleep(Duration::from_millis(700));
        bank.execute_batch("ROLLBACK").unwrap();
        assert_eq!(buying.exit_code(), Some(0), "{step}");
    }
    assert_eq!(assert_all_delivered(&world, "buyer"), 4 * PRICE);
}

//! SIGKILL right after each step that either side reports.

use super::*;

const OF_THE_CUSTOMER: [&str; 10] = [
    "selected",
    "requested",
    "quoted",
    "reserved",
    "paying",
    "locked",
    "chunk",
    "released",
    "paid",
    "result",
];

const OF_THE_SELLER: [&str; 7] = [
    "quoted",
    "held",
    "started",
    "chunk",
    "delivered",
    "released",
    "settled",
];

/// Once this is reported the money is locked: from here on nothing but a delivery may come of it.
fn is_locked(step: &str) -> bool {
    ["locked", "chunk", "released", "paid", "result"].contains(&step)
}

#[test]
fn a_customer_killed_at_each_step_pays_once_for_what_it_gets() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    let mut earned = 0;
    for (n, step) in OF_THE_CUSTOMER.iter().enumerate() {
        for public in [n, n + 1] {
            let home = format!("buyer-{step}-{public}");
            let mut buying = start_buying(&world, &home, in_public(public));
            buying.wait_for(step, reached(step));
            buying.kill();
            let spent = assert_all_delivered(&world, &home);
            assert!(spent == PRICE || !is_locked(step), "{step}");
            earned += spent;
        }
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

#[test]
fn a_provider_killed_at_each_step_delivers_and_is_paid_once_it_is_back() {
    let world = World::new();
    let mut earned = 0;
    for (n, step) in OF_THE_SELLER.iter().enumerate() {
        let mut seller = Seller::start(&world, &[]);
        let mut buying = start_buying(&world, "buyer", in_public(n));
        seller.0.wait_for(step, reached(step));
        seller.kill_and_restart(&world);
        buying.wait_for("the result", reached("result"));
        assert_eq!(buying.exit_code(), Some(0), "{step}");
        earned += PRICE;
        assert_eq!(assert_all_delivered(&world, "buyer"), earned, "{step}");
        seller.0.kill();
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

#[test]
fn with_both_killed_at_each_step_nothing_is_lost_and_nothing_paid_twice() {
    let world = World::new();
    let mut earned = 0;
    let mut seller = Seller::start(&world, &[]);
    for (n, step) in OF_THE_CUSTOMER.iter().enumerate() {
        let home = format!("buyer-{step}");
        let mut buying = start_buying(&world, &home, in_public(n));
        buying.wait_for(step, reached(step));
        buying.kill();
        seller.kill_and_restart(&world);
        earned += assert_all_delivered(&world, &home);
    }
    seller.0.kill();
    for (n, step) in OF_THE_SELLER.iter().enumerate() {
        let mut seller = Seller::start(&world, &[]);
        let home = format!("other-{step}");
        let mut buying = start_buying(&world, &home, in_public(n));
        seller.0.wait_for(step, reached(step));
        seller.0.kill();
        buying.kill();
        let _seller = Seller::start(&world, &[]);
        let spent = assert_all_delivered(&world, &home);
        assert!(spent == PRICE || *step == "quoted", "{step}");
        earned += spent;
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

#[test]
fn the_same_key_after_a_kill_at_each_step_is_the_same_purchase() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    for (n, step) in OF_THE_CUSTOMER.iter().enumerate() {
        let home = format!("buyer-{step}");
        let key = ["--idempotency-key", "k"];
        let args = [&key, in_public(n)].concat();
        let mut buying = start_buying(&world, &home, &args);
        buying.wait_for(step, reached(step));
        buying.kill();
        let mut again = start_buying(&world, &home, &args);
        let last = last_line(&mut again);
        assert_eq!(last["text"], TEXT, "{step}: {last}");
        again.exit_code();
        assert_eq!(assert_all_delivered(&world, &home), PRICE, "{step}");
        assert!(
            !is_locked(step) || history(&world, &home).len() == 1,
            "{step}"
        );
    }
}

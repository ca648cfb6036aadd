//! Many processes on one home.

use super::*;
use crate::crash::crowd::{CROWD, all_at_once, codes};
use crate::harness::Ran;

#[test]
fn of_eight_processes_exactly_as_many_lock_money_as_the_limits_admit() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    world.config("day", "[runway]\ndaily_limit_sats = 39\n");
    let ran = all_at_once(&world, "day", &["--htlc"], None);
    let expected = BTreeMap::from([(0, 3), (4, CROWD - 3)]);
    assert_eq!(codes(&ran), expected, "{ran:#?}");
    settle(&world, "day");
    assert_eq!(assert_one_story(&world, "day"), 3 * PRICE);
}

#[test]
fn eight_processes_with_one_key_lock_once_and_all_have_the_result() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    for fault in [None, Some("slow")] {
        let home = format!("buyer-{}", fault.unwrap_or("well"));
        let args = ["--htlc", "--idempotency-key", "k"];
        let ran = all_at_once(&world, &home, &args, fault);
        assert_eq!(codes(&ran), BTreeMap::from([(0, CROWD)]), "{ran:#?}");
        let results: Vec<Value> = ran.iter().map(Ran::last).collect();
        for result in &results {
            for field in ["event", "purchase_id", "text", "payment_hash"] {
                assert_eq!(result[field], results[0][field]);
            }
        }
        settle(&world, &home);
        assert_eq!(assert_one_story(&world, &home), PRICE);
    }
}

#[test]
fn the_holder_of_a_key_may_die_with_the_money_locked_and_the_others_still_get_one_result() {
    let world = World::new();
    let mut seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("holder of a key in escrow killed");
    let usual = usual_time(&world, "warm");
    for round in 0..rounds(4) {
        let home = format!("buyer-{round}");
        let args = ["--idempotency-key", "k", "--timeout", "50"];
        let mut crowd: Vec<Running> = (0..4).map(|_| start_buying(&world, &home, &args)).collect();
        moments.pass(usual * 2);
        crowd[0].kill();
        if moments.one_in(2) {
            seller.kill_and_restart(&world);
        }
        crowd[1].kill();
        for survivor in &mut crowd[2..] {
            assert_eq!(survivor.exit_code(), Some(0));
        }
        assert_eq!(assert_all_delivered(&world, &home), PRICE);
    }
}

#[test]
fn recover_beside_living_buyers_never_touches_what_they_have_locked() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    let mut buying: Vec<Running> = (0..4)
        .map(|_| {
            let mut command = world.customer("buyer", &["--json", "--htlc", "--prompt", TEXT]);
            Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"))
        })
        .collect();
    let mut alive = true;
    while alive {
        let states = |buying: &mut Vec<Running>| {
            let is_alive = |one: &mut Running| one.child.try_wait().unwrap().is_none();
            buying
                .iter_mut()
                .filter_map(|one| is_alive(one).then_some(()))
                .count()
        };
        let before = states(&mut buying);
        let ran = recover(&world, "buyer");
        alive = states(&mut buying) > 0;
        if before == 4 && states(&mut buying) == 4 {
            assert_eq!(
                ran.expect(0).stdout,
                "",
                "nothing is anybody else's to recover"
            );
        }
    }
    for one in &mut buying {
        assert_eq!(one.exit_code(), Some(0));
    }
    assert_eq!(assert_all_delivered(&world, "buyer"), 4 * PRICE);
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + 4 * PRICE
    );
}

#[test]
fn of_many_recoveries_at_once_each_does_its_part_and_none_does_it_twice() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    for step in ["paying", "locked", "released"] {
        for _ in 0..2 {
            let mut buying = start_buying(&world, "buyer", &[]);
            buying.wait_for(step, reached(step));
            buying.kill();
        }
    }
    let mut all: Vec<Running> = (0..4)
        .map(|_| Running::start(&mut world.customer("buyer", &["recover"])))
        .collect();
    for one in &mut all {
        assert_eq!(one.exit_code(), Some(0));
    }
    let spent = assert_all_delivered(&world, "buyer");
    assert!(spent >= 4 * PRICE, "{spent}");
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
}

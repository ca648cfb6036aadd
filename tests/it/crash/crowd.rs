//! Many processes on one home.

use super::*;
use crate::harness::{Ran, Running};

pub(super) const CROWD: usize = 8;

/// Runs the same purchase in eight processes at once.
pub(super) fn all_at_once(
    world: &World,
    home: &str,
    args: &[&str],
    fault: Option<&str>,
) -> Vec<Ran> {
    let buyers: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut command = world.customer(home, &["--json", "--prompt", "x"]);
            command.args(args);
            command.envs(fault.map(|fault| ("AGENT_COMPUTE_SIM_FAULT", fault)));
            std::thread::spawn(move || run(&mut command))
        })
        .collect();
    buyers.into_iter().map(|it| it.join().unwrap()).collect()
}

pub(super) fn codes(ran: &[Ran]) -> BTreeMap<i32, usize> {
    let mut codes = BTreeMap::new();
    for one in ran {
        *codes.entry(one.code).or_default() += 1;
    }
    codes
}

#[test]
fn of_eight_processes_exactly_as_many_buy_as_the_limits_admit() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for (home, limits, args, admitted) in [
        ("day", "daily_limit_sats = 39", &[][..], 3),
        ("tick", "per_tick_limit_sats = 20", &["--tick", "t"], 2),
        ("floor", "reserve_sats = 99960", &[], 4),
    ] {
        // A new home: they meet at its key, its ledger and its account as well.
        world.config(home, &format!("[runway]\n{limits}\n"));
        let ran = all_at_once(&world, home, args, None);
        let expected = BTreeMap::from([(0, admitted), (4, CROWD - admitted)]);
        assert_eq!(codes(&ran), expected, "{limits}: {ran:#?}");
        let spent = assert_one_story(&world, home);
        assert_eq!(spent, admitted as u64 * PRICE, "{limits}");
    }
}

#[test]
fn eight_processes_with_one_key_buy_once_and_all_have_the_result() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for fault in [None, Some("slow")] {
        let home = format!("buyer-{}", fault.unwrap_or("well"));
        let ran = all_at_once(&world, &home, &["--idempotency-key", "k"], fault);
        assert_eq!(codes(&ran), BTreeMap::from([(0, CROWD)]), "{ran:#?}");
        let results: Vec<Value> = ran.iter().map(Ran::last).collect();
        for result in &results {
            assert_eq!(result["event"], "result");
            for field in ["purchase_id", "text", "payment_hash", "paid_msat"] {
                assert_eq!(result[field], results[0][field]);
            }
        }
        assert_eq!(assert_one_story(&world, &home), PRICE);
    }
}

#[test]
fn eight_processes_with_one_key_all_fail_by_themselves_when_no_payment_works() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let key = ["--idempotency-key", "k"];
    let ran = all_at_once(&world, "buyer", &key, Some("refuse"));
    assert_eq!(codes(&ran), BTreeMap::from([(5, CROWD)]), "{ran:#?}");
    assert_eq!(assert_one_story(&world, "buyer"), 0);
}

#[test]
fn the_holder_of_a_key_may_die_and_the_others_still_get_one_result() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut moments = Moments::of("holder of a key killed");
    let usual = usual_time(&world, "warm");
    for round in 0..rounds(4) {
        // A new home now and then: who dies with a quote in hand has so many places in a queue.
        let home = format!("buyer-{}", round / 4);
        let key = format!("key-{round}");
        let args = ["--json", "--idempotency-key", &key, "--prompt", "x"];
        let mut crowd: Vec<Running> = (0..4)
            .map(|_| Running::start(&mut world.customer(&home, &args)))
            .collect();
        moments.pass(usual * 2);
        crowd[0].kill();
        moments.pass(usual);
        crowd[1].kill();
        for survivor in &mut crowd[2..] {
            assert_eq!(survivor.exit_code(), Some(0));
        }
        assert_eq!(assert_one_story(&world, &home), (round % 4 + 1) * PRICE);
    }
}

#[test]
fn recover_beside_living_buyers_never_touches_what_is_theirs() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut buying: Vec<Running> = (0..4)
        .map(|_| {
            let mut command = world.customer("buyer", &["--json", "--prompt", "x"]);
            Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"))
        })
        .collect();
    while buying
        .iter_mut()
        .any(|one| one.child.try_wait().unwrap().is_none())
    {
        let ran = recover(&world, "buyer").expect(0);
        assert_eq!(ran.stdout, "", "nothing is anybody else's to recover");
    }
    for one in &mut buying {
        assert_eq!(one.exit_code(), Some(0));
    }
    assert_eq!(assert_one_story(&world, "buyer"), 4 * PRICE);
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + 4 * PRICE
    );
}

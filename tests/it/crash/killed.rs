//! SIGKILL, at moments of chance.

use std::time::Duration;

use super::*;
use crate::harness::{Provider, Running};

/// A quote that nobody pays holds a place until it expires, and a customer has so many of them: with more
/// killings than that, another home buys.
const KILLINGS_PER_HOME: u64 = 25;

#[test]
fn customers_killed_at_any_moment_leave_books_that_recover_makes_whole() {
    let world = World::new();
    let _seller = world.provider("seller", &["--stream"]);
    let mut moments = Moments::of("customers killed");
    let usual = usual_time(&world, "warm");
    let (mut left, mut earned) = (rounds(KILLINGS_PER_HOME), PRICE);
    while left > 0 {
        let home = format!("buyer-{left}");
        let now = left.min(KILLINGS_PER_HOME);
        left -= now;
        for _ in 0..now {
            let mut buying = Running::start(
                &mut world.customer(&home, &["--json", "--prompt", "one two three"]),
            );
            moments.pass(usual);
            buying.kill();
            if moments.one_in(3) {
                // Recovery is cut off as well.
                let mut recovering = Running::start(&mut world.customer(&home, &["recover"]));
                moments.pass(usual / 2);
                recovering.kill();
            }
        }
        settle(&world, &home);
        let spent = assert_one_story(&world, &home);
        let purchases = history(&world, &home);
        // The relay has kept every result, and the seller works on: whatever was paid is here.
        assert_eq!(in_state(&purchases, "undelivered"), [] as [&Value; 0]);
        for purchase in in_state(&purchases, "delivered") {
            assert_eq!(show(&world, &home, purchase)["text"], "one two three");
        }
        println!(
            "{} purchases on record, {spent} msat spent",
            purchases.len()
        );
        earned += spent;
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

/// Kills the provider again and again while customers buy, starting it anew each time.
fn sell_with_interruptions(test: &str, args: &[&str], killings: u64, buyers: u64) {
    let world = World::new();
    let mut moments = Moments::of(test);
    let mut seller = world.provider("seller", args);
    let usual = usual_time(&world, "buyer") * u32::try_from(buyers).unwrap();
    for round in 0..killings {
        let prompt = format!("round {round} of many");
        let buy = ["--json", "--timeout", "50", "--prompt", &prompt];
        let mut buying: Vec<Running> = (0..buyers)
            .map(|_| Running::start(&mut world.customer("buyer", &buy)))
            .collect();
        moments.pass(usual);
        seller.process.kill();
        seller = world.provider("seller", args);
        for one in &mut buying {
            let last = last_line(one);
            assert_eq!(last["event"], "result", "{last}");
            assert_eq!(last["text"], prompt);
            one.exit_code();
        }
    }
    let spent = assert_one_story(&world, "buyer");
    assert_eq!(spent, (killings * buyers + 1) * PRICE);
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
    eventually_delivered(&world, spent / PRICE);
    drop::<Provider>(seller);
}

#[test]
fn a_provider_killed_at_any_moment_delivers_what_was_paid_once_it_is_back() {
    sell_with_interruptions("provider killed", &["--stream"], rounds(12), 1);
}

#[test]
fn a_provider_killed_with_a_queue_delivers_all_of_it() {
    let one_at_a_time = ["--max-jobs", "1"];
    sell_with_interruptions("busy provider killed", &one_at_a_time, rounds(6), 5);
}

#[test]
fn with_everybody_killed_no_money_is_lost_and_no_result_that_a_relay_kept() {
    let mut world = World::new();
    let mut moments = Moments::of("everybody killed");
    let mut seller = world.provider("seller", &[]);
    let usual = usual_time(&world, "buyer");
    let mut others = 0;
    for round in 0..rounds(8) {
        let mut buying =
            Running::start(&mut world.customer("buyer", &["--json", "--prompt", "x y z"]));
        moments.pass(usual * 2);
        buying.kill();
        moments.pass(usual / 4);
        seller.process.kill();
        if round % 2 == 1 {
            world.restart_relay();
        }
        seller = world.provider("seller", &[]);
        if moments.one_in(4) {
            // Whatever happened before, business goes on.
            world.buy("other", &["--prompt", "x"]).expect(0);
            others += PRICE;
        }
    }
    settle(&world, "buyer");
    let spent = assert_one_story(&world, "buyer") + others;
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
    // The seller has done, by its own books, every job that it was paid for. What a relay forgot after
    // it had taken it is lost to the buyer; what came later is not.
    eventually_delivered(&world, spent / PRICE);
    settle(&world, "buyer");
    let purchases = history(&world, "buyer");
    let lost = in_state(&purchases, "undelivered").len();
    println!(
        "{} purchases, {lost} results lost with a relay",
        purchases.len()
    );
}

fn eventually_delivered(world: &World, count: u64) {
    crate::harness::eventually("every paid job is delivered", || {
        in_state(&jobs(world, "seller"), "delivered").len() as u64 == count
    });
}

#[test]
fn a_relay_that_is_killed_and_comes_back_is_found_again() {
    let mut world = World::new();
    let mut seller = world.provider("seller", &[]);
    let mut command = world.customer("buyer", &["--json", "--timeout", "50", "--prompt", "x"]);
    command.env("AGENT_COMPUTE_SIM_FAULT", "slow");
    let mut buying = Running::start(&mut command);
    buying.wait_for("paying", |line| {
        line.contains("\"event\":\"paying\"").then_some(())
    });
    world.kill_relay();
    std::thread::sleep(Duration::from_millis(300));
    world.restart_relay();
    // Paid while the relay was gone; the result goes out when it is back, to whoever listens again.
    let last = last_line(&mut buying);
    assert_eq!(last["event"], "result", "{last}");
    assert_eq!(assert_one_story(&world, "buyer"), PRICE);
    seller.process.kill();
}

//! Stopped, and let go on later; told to end by a signal.

use super::*;

#[test]
fn a_customer_that_stood_still_takes_the_result_and_releases_it() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    for step in ["quoted", "paying", "locked", "chunk"] {
        let mut buying = start_buying(&world, "buyer", &[]);
        // A result that is quicker than the wallet's word is released for, and `locked` is not said.
        buying.wait_for(step, |line| {
            reached(step)(line).or_else(|| reached("released")(line))
        });
        buying.signal("STOP");
        // It lives: what it has locked is its own, whoever recovers.
        recover(&world, "buyer").expect(0);
        buying.signal("CONT");
        assert_eq!(buying.exit_code(), Some(0), "{step}");
    }
    assert_eq!(assert_all_delivered(&world, "buyer"), 4 * PRICE);
}

#[test]
fn a_provider_that_stood_still_delivers_late_and_is_paid() {
    let world = World::new();
    let seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("provider stopped under escrow");
    let usual = usual_time(&world, "warm");
    for _ in 0..rounds(2) {
        let mut buying = start_buying(&world, "buyer", &["--timeout", "1"]);
        moments.pass(usual);
        seller.0.signal("STOP");
        let code = buying.exit_code();
        assert!([Some(0), Some(7), Some(9)].contains(&code), "{code:?}");
        seller.0.signal("CONT");
    }
    let spent = assert_all_delivered(&world, "buyer");
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + PRICE + spent
    );
}

#[test]
fn a_signal_at_any_moment_leaves_what_is_locked_recoverable() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("signals under escrow");
    let usual = usual_time(&world, "warm");
    for round in 0..rounds(6) {
        let mut buying = start_buying(&world, "buyer", in_public(usize::from(round % 2 == 0)));
        moments.pass(usual * 3 / 2);
        buying.signal(if round % 2 == 0 { "INT" } else { "TERM" });
        if moments.one_in(3) {
            buying.signal("INT");
        }
        let code = buying.exit_code();
        let early = code.is_none() && buying.lines_so_far() == 0;
        assert!(early || code == Some(0) || code == Some(130), "{code:?}");
    }
    assert_all_delivered(&world, "buyer");
}

#[test]
fn a_provider_told_to_leave_at_any_moment_delivers_or_gives_back() {
    let world = World::new();
    let mut seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("providers leaving under escrow");
    let usual = usual_time(&world, "buyer");
    let mut delivered = 1;
    for _ in 0..rounds(3) {
        let mut buying: Vec<Running> = (0..3)
            .map(|_| start_buying(&world, "buyer", &["--timeout", "20"]))
            .collect();
        moments.pass(usual * 3);
        seller.0.signal("TERM");
        if moments.one_in(3) {
            moments.pass(usual);
            seller.0.signal("TERM");
        }
        seller.0.exit_code();
        seller = Seller::start(&world, &[]);
        for one in &mut buying {
            let last = last_line(one);
            one.exit_code();
            if last["event"] == "result" {
                delivered += 1;
            } else {
                // Before or after it was locked, but never paid.
                assert_eq!(last["paid_msat"], 0, "{last}");
            }
        }
    }
    settle(&world, "buyer");
    let spent = assert_one_story(&world, "buyer");
    assert!(spent >= delivered * PRICE, "{spent}");
    until_sold(&world);
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
}

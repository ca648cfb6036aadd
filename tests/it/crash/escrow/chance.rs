//! SIGKILL at moments of chance, of one side and of all, with purchases of every kind mixed.

use super::*;

/// How one purchase is made: in escrow more often than not, sealed or in public.
fn some_kind(moments: &mut Moments) -> Vec<&'static str> {
    let mut args = Vec::new();
    if !moments.one_in(4) {
        args.push("--htlc");
    }
    if moments.one_in(3) {
        args.push("--plaintext");
    }
    args
}

fn buy_somehow(world: &World, home: &str, moments: &mut Moments) -> Running {
    let mut command = world.customer(home, &["--json", "--timeout", "50", "--prompt", TEXT]);
    Running::start(command.args(some_kind(moments)))
}

fn cut_off_a_recovery(world: &World, home: &str, moments: &mut Moments, most: Duration) {
    let mut recovering = Running::start(&mut world.customer(home, &["recover"]));
    moments.pass(most);
    recovering.kill();
}

#[test]
fn customers_killed_at_any_moment_leave_books_that_recover_makes_whole() {
    let world = World::new();
    let _seller = Seller::start(&world, &[]);
    let mut moments = Moments::of("customers in escrow killed");
    let usual = usual_time(&world, "warm");
    let (mut left, mut earned) = (rounds(12), PRICE);
    while left > 0 {
        let home = format!("buyer-{left}");
        let now = left.min(20);
        left -= now;
        for _ in 0..now {
            let mut buying = buy_somehow(&world, &home, &mut moments);
            moments.pass(usual * 3 / 2);
            buying.kill();
            if moments.one_in(3) {
                cut_off_a_recovery(&world, &home, &mut moments, usual);
            }
        }
        earned += assert_all_delivered(&world, &home);
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

#[test]
fn a_provider_killed_with_a_queue_delivers_all_of_it_and_is_paid_for_all() {
    let world = World::new();
    let mut moments = Moments::of("provider with escrow killed");
    let mut seller = Seller::start(&world, &["--max-jobs", "1"]);
    let usual = usual_time(&world, "warm");
    let mut bought = 0;
    for _ in 0..rounds(4) {
        let mut buying: Vec<Running> = (0..4)
            .map(|_| buy_somehow(&world, "buyer", &mut moments))
            .collect();
        moments.pass(usual * 4);
        seller.0.kill();
        if moments.one_in(3) {
            seller = Seller::start(&world, &["--max-jobs", "1"]);
            moments.pass(usual * 2);
            seller.0.kill();
        }
        seller = Seller::start(&world, &["--max-jobs", "1"]);
        for one in &mut buying {
            let last = last_line(one);
            assert_eq!(last["event"], "result", "{last}");
            assert_eq!(one.exit_code(), Some(0), "{last}");
            bought += 1;
        }
    }
    assert_eq!(assert_all_delivered(&world, "buyer"), bought * PRICE);
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + (bought + 1) * PRICE
    );
}

#[test]
fn with_everybody_killed_all_that_is_locked_is_settled_or_comes_back() {
    let world = World::new();
    let mut moments = Moments::of("everybody in escrow killed");
    let mut seller = Seller::start(&world, &[]);
    let usual = usual_time(&world, "warm");
    for round in 0..rounds(7) {
        let home = format!("buyer-{}", round / 20);
        let mut buying = buy_somehow(&world, &home, &mut moments);
        moments.pass(usual * 2);
        if moments.one_in(2) {
            buying.kill();
            moments.pass(usual / 4);
            seller.0.kill();
        } else {
            seller.0.kill();
            moments.pass(usual / 4);
            buying.kill();
        }
        seller = Seller::start(&world, &[]);
        if moments.one_in(2) {
            cut_off_a_recovery(&world, &home, &mut moments, usual * 2);
        }
    }
    let mut earned = PRICE;
    for home in (0..rounds(7)).step_by(20) {
        earned += assert_all_delivered(&world, &format!("buyer-{}", home / 20));
    }
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + earned);
}

#[test]
fn a_relay_that_dies_in_between_and_forgets_all_costs_nobody_what_is_locked() {
    let mut world = World::new();
    let mut moments = Moments::of("relay killed under escrow");
    let mut seller = Seller::start(&world, &[]);
    let usual = usual_time(&world, "buyer");
    for _ in 0..rounds(4) {
        let mut buying = buy_somehow(&world, "buyer", &mut moments);
        moments.pass(usual * 3 / 2);
        world.restart_relay();
        if moments.one_in(2) {
            seller.kill_and_restart(&world);
        }
        // Whatever was said before is forgotten, and may have been the request itself.
        moments.pass(usual);
        buying.kill();
    }
    // What the relay has forgotten nobody gets any more: its money comes back when its time is over.
    recover(&world, "buyer");
    end_all_holds(&world);
    eventually("everything that was locked is somewhere again", || {
        recover(&world, "buyer").code == 0
    });
    assert_eq!(world.daily("buyer").1, 0);
    assert_eq!(held_at_bank(&world), 0);
    assert_conserved(&world.bank());
    let paid = paid_at_bank(&world, &identity(&world, "buyer"));
    assert_eq!(world.daily("buyer").0, paid.values().sum::<u64>());
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + paid.values().sum::<u64>()
    );
}

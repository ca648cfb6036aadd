//! Holds whose time is over before somebody comes back, and clocks that are set wrong.

use agent_compute::client::{ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::Home;
use agent_compute::identity::Identity;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::Keys;

use super::*;

/// A purchase whose money is locked with a provider that stands still since it has quoted.
fn locked_with_nobody(world: &World, seller: &Seller, home: &str) -> Running {
    let mut buying = start_buying(world, home, &["--timeout", "20"]);
    buying.wait_for("quoted", reached("quoted"));
    seller.0.signal("STOP");
    buying.wait_for("locked", reached("locked"));
    buying
}

/// The only purchase of a home, whose money never left for good.
fn assert_cost_nothing(world: &World, home: &str, state: &str) {
    let purchases = history(world, home);
    assert_eq!(purchases.len(), 1, "{purchases:#?}");
    assert_eq!(purchases[0]["state"], state);
    assert_eq!(purchases[0]["paid_msat"], 0);
    assert_eq!(purchases[0]["reserved_msat"], 0);
    assert_eq!(world.daily(home), (0, 0, 0));
    assert_eq!(world.balance(home), OPENING_BALANCE);
    assert_conserved(&world.bank());
}

fn until_job_is(world: &World, state: &str) {
    eventually(state, || jobs(world, "seller")[0]["state"] == state);
}

#[test]
fn a_hold_that_ended_while_both_were_down_is_freed_once_whoever_comes_back_first() {
    for customer_first in [true, false] {
        let world = World::new();
        let mut seller = Seller::start(&world, &[]);
        let mut buying = locked_with_nobody(&world, &seller, "buyer");
        buying.kill();
        seller.0.kill();
        assert_eq!(world.daily("buyer"), (0, PRICE, 0));
        end_all_holds(&world);
        if customer_first {
            recover(&world, "buyer").expect(0);
        }
        let _seller = Seller::start(&world, &[]);
        recover(&world, "buyer").expect(0);
        assert_cost_nothing(&world, "buyer", "failed");
        until_sold(&world);
        // Said and done: business goes on, and what has come back does not come back again.
        let again = run(&mut world.customer("buyer", &["--htlc", "--json", "--prompt", TEXT]));
        again.expect(0);
        settle(&world, "buyer");
        assert_eq!(assert_one_story(&world, "buyer"), PRICE);
    }
}

#[test]
fn a_customer_that_comes_back_after_the_hold_pays_nothing_and_the_provider_says_unreleased() {
    let world = World::new();
    let mut seller = Seller::start(&world, &[]);
    let mut buying = start_buying(&world, "buyer", &[]);
    buying.wait_for("paying", reached("paying"));
    buying.signal("STOP");
    seller.0.wait_for("delivered", reached("delivered"));
    buying.kill();
    end_all_holds(&world);
    seller.kill_and_restart(&world);
    until_job_is(&world, "unreleased");
    recover(&world, "buyer").expect(0);
    assert_cost_nothing(&world, "buyer", "failed");
}

#[test]
fn a_release_that_was_too_late_leaves_a_result_that_cost_nothing() {
    let world = World::new();
    let mut seller = Seller::start(&world, &[]);
    let mut buying = start_buying(&world, "buyer", &[]);
    buying.wait_for("paying", reached("paying"));
    buying.signal("STOP");
    seller.0.wait_for("delivered", reached("delivered"));
    seller.0.kill();
    buying.signal("CONT");
    buying.wait_for("released", reached("released"));
    buying.kill();
    assert_eq!(world.daily("buyer"), (0, PRICE, 0));
    end_all_holds(&world);
    let _seller = Seller::start(&world, &[]);
    until_job_is(&world, "unreleased");
    recover(&world, "buyer").expect(0);
    assert_cost_nothing(&world, "buyer", "delivered");
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE);
    // No fault of the customer's: it is sold to in escrow as before.
    let again = run(&mut world.customer("buyer", &["--htlc", "--json", "--prompt", TEXT]));
    again.expect(0);
}

#[test]
fn a_customer_that_stood_still_past_the_hold_says_what_became_of_it() {
    let world = World::new();
    let seller = Seller::start(&world, &[]);
    let mut buying = locked_with_nobody(&world, &seller, "buyer");
    buying.signal("STOP");
    end_all_holds(&world);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE);
    buying.signal("CONT");
    seller.0.signal("CONT");
    let error: Value = buying.wait_for("the error", |line| {
        let is_error = line.contains("\"event\":\"error\"");
        is_error.then(|| serde_json::from_str(line).unwrap())
    });
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&0.into(), &0.into())
    );
    settle(&world, "buyer");
    assert_cost_nothing(&world, "buyer", "failed");
    until_sold(&world);
}

/// A customer in this process, whose own clock is another than its bank's.
async fn client(world: &World, keys: &Keys, clock: &Clock) -> ComputeClient {
    let wallet = SimWallet::open(&world.bank(), keys.public_key(), SimOptions::default());
    let builder = ComputeClient::builder()
        .home(Home::at(world.home("agent")))
        .identity(Identity::from_keys(keys.clone()))
        .relays(world.relay.parse::<nostr::RelayUrl>().unwrap())
        .clock(clock.clone())
        .wallet(std::sync::Arc::new(wallet.unwrap()));
    builder.build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_wrong_while_money_is_locked_frees_and_loses_nothing() {
    let world = tokio::task::block_in_place(World::new);
    let _seller = tokio::task::block_in_place(|| Seller::start(&world, &[]));
    let keys = Keys::generate();
    let now = Clock::system().now();
    // A day back, and a month on: only the wallet's word counts, never the calendar's.
    for (bought, at) in [now.minus(86_400), now.plus(30 * 86_400)]
        .into_iter()
        .enumerate()
    {
        let clock = Clock::fixed(Clock::system().now());
        let buyer = client(&world, &keys, &clock).await;
        let request = PurchaseRequest {
            escrow: true,
            ..PurchaseRequest::new(TEXT)
        };
        let mut purchase = buyer.purchase(request);
        loop {
            match purchase.next_event().await {
                Some(PurchaseEvent::Locked { .. }) => break,
                Some(_) => {}
                None => panic!("it ended"),
            }
        }
        drop((purchase, buyer));
        clock.set(at);
        let buyer = client(&world, &keys, &clock).await;
        let mut open = PRICE;
        for _ in 0..MOST_RECOVERIES {
            buyer.recover().await.unwrap();
            let budget = buyer.budget().await.unwrap();
            open = budget.usage.reserved.get();
            if open == 0 {
                break;
            }
        }
        assert_eq!(open, 0);
        let paid = paid_at_bank(&world, &keys.public_key().to_hex());
        assert_eq!(paid.len(), bought + 1, "{paid:?}");
    }
    tokio::task::block_in_place(|| {
        until_sold(&world);
        assert_conserved(&world.bank());
        let earned = world.provider_balance("seller") - OPENING_BALANCE;
        assert_eq!(earned, 2 * PRICE);
    });
}

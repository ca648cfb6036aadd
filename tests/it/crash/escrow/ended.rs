//! Holds whose time is over before somebody comes back, and clocks that are set wrong.

use agent_compute::client::{ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::Home;
use agent_compute::identity::Identity;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::Keys;

use super::*;

/// A purchase whose money is locked with a provider that stands still since it has quoted. The wallet
/// takes its time, so that the provider stands before the money moves.
fn locked_with_nobody(world: &World, seller: &Seller, home: &str) -> Running {
    let args = ["--json", "--htlc", "--timeout", "20", "--prompt", TEXT];
    let mut command = world.customer(home, &args);
    let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"));
    buying.wait_for("quoted", reached("quoted"));
    seller.0.signal("STOP");
    eventually("the money is locked", || held_at_bank(world) == PRICE);
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
    let mut buying = locked_with_nobody(&world, &seller, "buyer");
    buying.signal("STOP");
    seller.0.signal("CONT");
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
    let mut buying = locked_with_nobody(&world, &seller, "buyer");
    buying.signal("STOP");
    seller.0.signal("CONT");
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

/// Locks the price of a purchase with a provider that stands still meanwhile, and is gone.
async fn lock_and_leave(world: &World, seller: &Seller, keys: &Keys) {
    let buyer = client(world, keys, &Clock::system()).await;
    let request = PurchaseRequest {
        escrow: true,
        ..PurchaseRequest::new(TEXT)
    };
    let mut purchase = buyer.purchase(request);
    loop {
        match purchase.next_event().await {
            Some(PurchaseEvent::Quoted { .. }) => seller.0.signal("STOP"),
            Some(PurchaseEvent::Locked { .. }) => return,
            Some(_) => {}
            None => panic!("it ended"),
        }
    }
}

/// Recovers with this clock; what is still reserved then.
async fn recover_at(world: &World, keys: &Keys, clock: Clock) -> u64 {
    let buyer = client(world, keys, &clock).await;
    buyer.recover().await.unwrap();
    buyer.budget().await.unwrap().usage.reserved.get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_wrong_while_money_is_locked_frees_and_loses_nothing() {
    let world = tokio::task::block_in_place(World::new);
    let seller = tokio::task::block_in_place(|| Seller::start(&world, &[]));
    let keys = Keys::generate();
    let now = Clock::system().now();
    // Only the wallet's word counts, never the calendar's.
    for (ahead, at) in [(false, now.minus(86_400)), (true, now.plus(30 * 86_400))] {
        lock_and_leave(&world, &seller, &keys).await;
        seller.0.signal("CONT");
        let open = recover_at(&world, &keys, Clock::fixed(at)).await;
        // No relay takes what is dated in a month: it is said again when the clock is right.
        assert!(open == 0 || (ahead && open == PRICE), "{open}");
        if open > 0 {
            assert_eq!(recover_at(&world, &keys, Clock::system()).await, 0);
        }
    }
    let paid = paid_at_bank(&world, &keys.public_key().to_hex());
    assert_eq!(paid.len(), 2, "{paid:?}");
    tokio::task::block_in_place(|| {
        until_sold(&world);
        assert_conserved(&world.bank());
        let earned = world.provider_balance("seller") - OPENING_BALANCE;
        assert_eq!(earned, 2 * PRICE);
    });
}

//! What the ledger remembers of providers, and how that decides whom to buy from.

mod kept;
mod old;

use serde_json::Value;

use crate::harness::{Ran, World, run};

const PRICE: u64 = 10_000;

/// What `providers` says, by key.
fn providers(world: &World, home: &str, args: &[&str]) -> Vec<Value> {
    let args = [&["--json", "providers"], args].concat();
    run(&mut world.customer(home, &args)).expect(0).events()
}

fn record_of(providers: &[Value], key: &str) -> Value {
    let found = providers.iter().find(|seen| seen["provider"] == key);
    found.expect("is listed")["record"].clone()
}

fn bought_from(ran: Ran) -> String {
    ran.expect(0).last()["provider"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn best_prefers_its_own_good_experience_and_providers_shows_it() {
    let world = World::new();
    let known = world.provider("known", &["--price", "10000"]);
    let stranger = world.provider("stranger", &["--price", "8000"]);
    let best = ["--select", "best", "--prompt", "hello"];

    // Nobody is known: the cheaper.
    let before = providers(&world, "buyer", &["--select", "best"]);
    assert_eq!(before[0]["provider"], stranger.pubkey);
    assert_eq!(
        record_of(&before, &known.pubkey),
        serde_json::json!({
            "attempts": 0, "delivered": 0, "undelivered": 0, "refused": 0, "bad_invoices": 0,
            "unanswered": 0, "first_token_ms": null, "invoice_percent": null, "score": 50,
            "proven": false
        })
    );

    let from_known = ["--select", &known.pubkey, "--prompt", "hello"];
    assert_eq!(bought_from(world.buy("buyer", &from_known)), known.pubkey);
    let after = providers(&world, "buyer", &["--select", "best"]);
    assert_eq!(after[0]["provider"], known.pubkey);
    let record = record_of(&after, &known.pubkey);
    assert_eq!(
        (&record["attempts"], &record["delivered"], &record["score"]),
        (&1.into(), &1.into(), &75.into())
    );
    assert_eq!(record["invoice_percent"], 100);
    assert!(record["first_token_ms"].is_u64(), "{record}");

    let dry = world
        .buy("buyer", &[&["--dry-run"], &best[..]].concat())
        .expect(0);
    assert_eq!(dry.last()["provider"], known.pubkey);
    assert_eq!(dry.event("provider").unwrap()["record"]["score"], 75);
    assert_eq!(bought_from(world.buy("buyer", &best)), known.pubkey);
    // The rule of the config, too; the price alone where that is asked for; and other homes know nothing.
    world.config("buyer", "[policy]\nselect = \"best\"");
    let by_config = world.buy("buyer", &["--prompt", "hello"]);
    assert_eq!(bought_from(by_config), known.pubkey);
    let cheapest = world.buy("buyer", &["--select", "cheapest", "--prompt", "hello"]);
    assert_eq!(bought_from(cheapest), stranger.pubkey);
    assert_eq!(bought_from(world.buy("other", &best)), stranger.pubkey);

    // Without a wallet to go by, the books of the latest purchase are looked at.
    let mut bare = world.bare_customer("buyer", &["providers", "--relay", &world.relay]);
    let text = run(&mut bare).expect(0).stdout;
    assert!(
        text.contains("delivered 3 of 3 in ") && text.contains(" s, score 8"),
        "{text}"
    );
    let mut real = world.bare_customer("buyer", &["providers", "--relay", &world.relay]);
    real.args(["--network", "mainnet"]);
    let text = run(&mut real).expect(0).stdout;
    assert!(!text.contains("score"), "play money is no record: {text}");
}

#[test]
fn a_provider_has_to_prove_itself_before_it_is_paid_more_than_the_limit() {
    let world = World::new();
    let seller = world.provider("seller", &["--price", "10000"]);
    let careful = "[policy]\nunproven_limit_sats = 9";
    let buy = ["--prompt", "hello"];

    world.config("buyer", careful);
    world.config("other", careful);
    let refused = world.buy("buyer", &buy).expect(3);
    let error = refused.last();
    assert_eq!(
        (&error["code"], &error["paid_msat"]),
        (&"no_provider".into(), &0.into())
    );
    let message = error["message"].as_str().unwrap();
    for word in ["unproven_limit_sats", "9 sats", "--htlc"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(refused.event("provider").unwrap()["reason"], "unproven");
    // Naming it does not make it proven.
    let named = ["--select", &seller.pubkey, "--prompt", "hello"];
    world.buy("buyer", &named).expect(3);
    let seen = providers(&world, "buyer", &[]);
    assert_eq!(
        (&seen[0]["matches"], &seen[0]["reason"]),
        (&false.into(), &"unproven".into())
    );
    let text = run(&mut world.customer("buyer", &["providers"]))
        .expect(0)
        .stdout;
    assert!(
        text.contains("unproven") && text.contains("--htlc"),
        "{text}"
    );
    assert_eq!(world.daily("buyer"), (0, 0, 0));
    // In escrow there is nothing to trust it with.
    let locked = ["--htlc", "--prompt", "hello"];
    assert_eq!(bought_from(world.buy("other", &locked)), seller.pubkey);

    // Two deliveries of that price are enough.
    world.config("buyer", "[policy]\nunproven_limit_sats = 10");
    for _ in 0..2 {
        world.buy("buyer", &buy).expect(0);
    }
    world.config("buyer", careful);
    world.buy("buyer", &buy).expect(0);
    let record = record_of(&providers(&world, "buyer", &[]), &seller.pubkey);
    assert_eq!(
        (&record["delivered"], &record["proven"]),
        (&3.into(), &true.into())
    );
    // The play money of the test mode is none: nothing is paid, nothing is limited.
    let mut free = world.bare_customer(
        "other",
        &["--relay", &world.relay, "--no-wallet", "--dry-run"],
    );
    world.config("other", "[policy]\nunproven_limit_sats = 0");
    free.args(["--prompt", "hello"]);
    run(&mut free).expect(0);
}

#[test]
fn what_a_purchase_that_was_killed_came_to_is_counted_once() {
    let world = World::new();
    let seller = world.provider("seller", &["--stream"]);
    for moment in [0_u64, 5, 15, 25, 35, 60, 90] {
        let mut buying = crate::harness::Running::start(
            &mut world.customer("buyer", &["--json", "--prompt", "one two three"]),
        );
        // Whenever it happens is right: the books are to agree after any moment.
        std::thread::sleep(std::time::Duration::from_millis(moment));
        buying.kill();
    }
    world.buy("buyer", &["--prompt", "whole"]).expect(0);
    for _ in 0..2 {
        run(&mut world.customer("buyer", &["--json", "recover"])).expect(0);
    }
    let history = run(&mut world.customer("buyer", &["--json", "history"])).expect(0);
    let delivered = history
        .events()
        .iter()
        .filter(|one| one["state"] == "delivered")
        .count();
    let record = record_of(&providers(&world, "buyer", &[]), &seller.pubkey);
    // Those that died before they paid were stopped by us.
    assert_eq!(record["attempts"], delivered);
    assert_eq!(record["delivered"], delivered);
    assert_eq!(world.daily("buyer").0, PRICE * delivered as u64);
}

#[test]
fn providers_says_what_the_limits_leave_no_room_for() {
    let world = World::new();
    let _seller = world.provider("seller", &["--price", "10000"]);
    for limit in ["per_job_limit_sats = 9", "daily_limit_sats = 0"] {
        world.config("buyer", &format!("[runway]\n{limit}"));
        let seen = providers(&world, "buyer", &[]);
        assert_eq!(seen[0]["reason"], "budget", "{limit}");
    }
    world.config("buyer", "[runway]\nper_job_limit_sats = 20");
    assert_eq!(providers(&world, "buyer", &[])[0]["matches"], true);
}

//! The two programs as separate processes, from the outside: what the contract promises.

use serde_json::Value;

use crate::harness::{World, assert_conserved, run, run_with_input};

const PRICE: u64 = 10_000;
const OPENING_BALANCE: u64 = 100_000_000;

fn names(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect()
}

#[test]
fn the_demo_runs_a_market_and_prints_the_result_alone() {
    let world = World::on(String::new());
    let ran = run(&mut world.bare_customer(
        "demo",
        &["demo", "--prompt", "What is the capital of France?"],
    ));
    let ran = ran.expect(0);
    assert_eq!(ran.stdout, "What is the capital of France?\n");
    for step in [
        "play money",
        "relay",
        "provider",
        "selected",
        "quoted",
        "reserved",
        "paid",
    ] {
        assert!(ran.stderr.contains(step), "{step}: {}", ran.stderr);
    }
}

#[test]
fn the_demo_tells_every_step_as_json() {
    for stream in [false, true] {
        let world = World::on(String::new());
        let mut args = vec!["demo", "--json", "--prompt", "a b c"];
        args.extend(stream.then_some("--stream"));
        let ran = run(&mut world.bare_customer("demo", &args)).expect(0);
        let events = ran.events();
        assert!(events.iter().all(|event| event["v"] == 1));
        let names = names(&events);
        for (before, after) in [
            ("provider", "selected"),
            ("selected", "requested"),
            ("requested", "quoted"),
            ("quoted", "reserved"),
            ("reserved", "paying"),
            ("paying", "paid"),
            ("paid", "result"),
        ] {
            let place = |name| names.iter().position(|seen| *seen == name).unwrap();
            assert!(place(before) < place(after), "{names:?}");
        }
        let text: String = events
            .iter()
            .filter(|event| event["event"] == "chunk")
            .map(|event| event["text"].as_str().unwrap())
            .collect();
        assert_eq!(text, if stream { "a b c" } else { "" });
        assert_eq!(ran.last()["text"], "a b c");
    }
}

#[test]
fn two_programs_trade_and_the_books_agree_to_the_msat() {
    let world = World::new();
    let provider = world.provider("seller", &["--stream"]);
    assert_eq!(provider.channel.as_ref().map(String::len), Some(64));
    let plain = run(&mut world.customer("buyer", &["--prompt", "hello  world"])).expect(0);
    assert_eq!(plain.stdout, "hello  world\n");
    let bought = world
        .buy("buyer", &["--discover", "--prompt", "again"])
        .expect(0);
    let result = bought.last();
    assert_eq!(result["event"], "result");
    assert_eq!(result["provider"], provider.pubkey);
    assert_eq!(result["paid_msat"], PRICE);
    assert_eq!(result["preimage"].as_str().unwrap().len(), 64);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE - 2 * PRICE);
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + 2 * PRICE
    );
    assert_eq!(world.daily("buyer"), (2 * PRICE, 0, 0));
    assert_conserved(&world.bank());
}

#[test]
fn the_cheapest_that_matches_is_bought_from() {
    let world = World::new();
    let dear = world.provider("dear", &["--price", "20000"]);
    let cheap = world.provider("cheap", &["--price", "5000"]);
    let selected = |args: &[&str]| {
        let ran = world.buy("buyer", &[&["--dry-run", "--prompt", "x"], args].concat());
        ran.expect(0).last()["provider"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(selected(&[]), cheap.pubkey);
    assert_eq!(selected(&["--select", &dear.pubkey]), dear.pubkey);
    assert_eq!(selected(&["--select", &dear.pubkey[..8]]), dear.pubkey);
    assert_eq!(
        selected(&["--channel", dear.channel.as_ref().unwrap()]),
        dear.pubkey
    );
    world.config(
        "picky",
        &format!("[policy]\ndeny = [\"{}\"]\n", cheap.pubkey),
    );
    let ran = world
        .buy("picky", &["--dry-run", "--prompt", "x"])
        .expect(0);
    assert_eq!(ran.last()["provider"], dear.pubkey);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE);
}

#[test]
fn nobody_suitable_is_exit_3_and_says_why() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for (args, why) in [
        (&["--model", "nope"][..], "without model nope"),
        (&["--max-price", "9999"], "too expensive"),
        (&["--select", "deadbeef"], "deadbeef"),
    ] {
        let all = [args, &["--discovery-time", "1", "--prompt", "x"]].concat();
        let error = world.buy("buyer", &all).expect(3).last();
        assert_eq!(error["code"], "no_provider");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
}

#[test]
fn limits_hold_to_the_last_msat() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.config(
        "buyer",
        "[runway]\ndaily_limit_sats = 25\nper_tick_limit_sats = 19\nper_job_limit_sats = 10\n",
    );
    let buy = |tick: &str| world.buy("buyer", &["--tick", tick, "--prompt", "x"]);
    buy("one").expect(0);
    // The tick has 9 sats left, the day 15.
    assert_eq!(buy("one").expect(4).last()["code"], "budget");
    buy("two").expect(0);
    // The day has 5 sats left.
    assert_eq!(buy("three").expect(4).last()["code"], "budget");
    assert_eq!(world.daily("buyer"), (2 * PRICE, 0, 0));
    world.config("poor", "[runway]\nper_job_limit_sats = 9\n");
    world.buy("poor", &["--prompt", "x"]).expect(4);
    // What must stay in the wallet: all but 10 sats, then all.
    world.config("saver", "[runway]\nreserve_sats = 99990\n");
    world.buy("saver", &["--prompt", "x"]).expect(0);
    world.buy("saver", &["--prompt", "x"]).expect(4);
    assert_eq!(world.balance("saver"), OPENING_BALANCE - PRICE);
    assert_conserved(&world.bank());
}

#[test]
fn a_payment_in_doubt_stays_reserved_until_recover_decides() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for (fault, paid) in [("timeout-after", true), ("timeout-before", false)] {
        let home = format!("buyer-{fault}");
        let mut buy = world.customer(&home, &["--json", "--prompt", "in doubt"]);
        let error = run(buy.env("AGENT_COMPUTE_SIM_FAULT", fault))
            .expect(6)
            .last();
        assert_eq!(error["code"], "payment_unknown");
        assert_eq!(error["reserved_msat"], PRICE);
        assert_eq!(error["paid_msat"], 0);
        assert_eq!(world.daily(&home), (0, PRICE, PRICE));
        let recovered = run(&mut world.customer(&home, &["--json", "recover"]))
            .expect(0)
            .last();
        assert_eq!(recovered["paid_msat"], if paid { PRICE } else { 0 });
        let spent = if paid { PRICE } else { 0 };
        assert_eq!(world.daily(&home), (spent, 0, 0));
        assert_eq!(world.balance(&home), OPENING_BALANCE - spent);
        if paid {
            assert_eq!(recovered["state"], "delivered");
            assert_eq!(recovered["text"], "in doubt");
        }
    }
    assert_conserved(&world.bank());
}

#[test]
fn the_other_faults_of_a_wallet_end_as_the_contract_says() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let buy = |fault: &str| {
        let mut command = world.customer("buyer", &["--json", "--prompt", "x"]);
        run(command.env("AGENT_COMPUTE_SIM_FAULT", fault))
    };
    assert_eq!(buy("refuse").expect(5).last()["code"], "payment_failed");
    assert_eq!(world.daily("buyer"), (0, 0, 0));
    assert_eq!(buy("slow").expect(0).last()["paid_msat"], PRICE);
    assert_eq!(buy("no-preimage").expect(0).last()["preimage"], Value::Null);
    assert_eq!(buy("nonsense").expect(2).last()["code"], "usage");
    assert_eq!(world.daily("buyer"), (2 * PRICE, 0, 0));
}

#[test]
fn no_money_and_no_wallet_are_exit_12() {
    let world = World::new();
    let _seller = world.provider("seller", &["--price", "100000001"]);
    world.config("buyer", "[runway]\nper_job_limit_sats = 1000000\nper_tick_limit_sats = 1000000\ndaily_limit_sats = 1000000\n");
    assert_eq!(
        world.buy("buyer", &["--prompt", "x"]).expect(12).last()["code"],
        "wallet"
    );
    assert_eq!(world.daily("buyer"), (0, 0, 0));
    let none = ["--json", "--relay", &world.relay, "--prompt", "x"];
    assert_eq!(
        run(&mut world.bare_customer("other", &none))
            .expect(12)
            .last()["code"],
        "wallet"
    );
    let nwc = [
        "--json",
        "--relay",
        &world.relay,
        "--wallet",
        "nwc",
        "--prompt",
        "x",
    ];
    assert_eq!(
        run(&mut world.bare_customer("other", &nwc))
            .expect(12)
            .last()["code"],
        "wallet"
    );
}

#[test]
fn a_dead_relay_is_exit_8_and_a_living_one_beside_it_is_enough() {
    let mut world = World::new();
    let _seller = world.provider("seller", &[]);
    let dead = "ws://127.0.0.1:1";
    let both = ["--relay", dead, "--prompt", "x"];
    world.buy("buyer", &both).expect(0);
    let none = [
        "--json",
        "--relay",
        dead,
        "--wallet",
        "sim",
        "--timeout",
        "5",
        "--prompt",
        "x",
    ];
    let error = run(&mut world.bare_customer("buyer", &none))
        .expect(8)
        .last();
    assert_eq!(error["code"], "network");
    world.kill_relay();
    world
        .buy("buyer", &["--timeout", "5", "--prompt", "x"])
        .expect(8);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE - PRICE);
}

#[test]
fn an_idempotency_key_buys_once() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let key = ["--idempotency-key", "k1", "--prompt", "once"];
    let first = world.buy("buyer", &key).expect(0).last();
    let again = world.buy("buyer", &key).expect(0).last();
    assert_eq!(first["purchase_id"], again["purchase_id"]);
    assert_eq!(first["text"], again["text"]);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE - PRICE);
    let other = ["--idempotency-key", "k1", "--prompt", "other"];
    assert_eq!(world.buy("buyer", &other).expect(2).last()["code"], "usage");
    // A failed one that paid nothing is tried again under the same key.
    let failing = ["--json", "--idempotency-key", "k2", "--prompt", "x"];
    let mut refused = world.customer("buyer", &failing);
    run(refused.env("AGENT_COMPUTE_SIM_FAULT", "refuse")).expect(5);
    run(&mut world.customer("buyer", &failing)).expect(0);
    assert_eq!(world.balance("buyer"), OPENING_BALANCE - 2 * PRICE);
}

#[test]
fn history_and_show_tell_where_the_sats_went() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let id = world.buy("buyer", &["--prompt", "kept"]).expect(0).last()["purchase_id"].clone();
    // Neither wallet nor relay is needed.
    let history = run(&mut world.bare_customer("buyer", &["--json", "history"]))
        .expect(0)
        .last();
    assert_eq!(history["purchase_id"], id);
    assert_eq!(history["state"], "delivered");
    assert_eq!(history["paid_msat"], PRICE);
    let show = ["--json", "show", id.as_str().unwrap()];
    let shown = run(&mut world.bare_customer("buyer", &show))
        .expect(0)
        .last();
    assert_eq!(shown["text"], "kept");
    let log: Vec<&str> = shown["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["what"].as_str().unwrap())
        .collect();
    for what in ["reserve", "in_flight", "settle"] {
        assert!(log.contains(&what), "{log:?}");
    }
    let nobody = ["--json", "show", "00000000000000000000000000000000"];
    run(&mut world.bare_customer("buyer", &nobody)).expect(2);
}

#[test]
fn without_a_wallet_on_both_sides_nothing_is_paid() {
    let world = World::new();
    let _seller = world.provider("seller", &["--no-wallet"]);
    let args = [
        "--json",
        "--relay",
        &world.relay,
        "--no-wallet",
        "--prompt",
        "free",
    ];
    let ran = run(&mut world.bare_customer("buyer", &args)).expect(0);
    let result = ran.last();
    assert_eq!(result["text"], "free");
    assert_eq!(result["paid_msat"], 0);
    assert!(ran.event("paying").is_none());
    // A wallet is not tricked into paying the placeholder.
    assert_eq!(
        world.buy("payer", &["--prompt", "x"]).expect(11).last()["code"],
        "bad_invoice"
    );
}

#[test]
fn prompts_come_from_the_flag_stdin_and_files() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let file = world.dir.path().join("prompt.txt");
    std::fs::write(&file, "from a file").unwrap();
    let at = format!("@{}", file.display());
    let mut from_file = world.customer("buyer", &["--prompt", &at]);
    assert_eq!(run(&mut from_file).expect(0).stdout, "from a file\n");
    let mut from_stdin = world.customer("buyer", &["--prompt", "-"]);
    let ran = run_with_input(&mut from_stdin, "from stdin").expect(0);
    assert_eq!(ran.stdout, "from stdin\n");
    let mut hyphen = world.customer("buyer", &["--prompt", "-x --json"]);
    assert_eq!(run(&mut hyphen).expect(0).stdout, "-x --json\n");
}

#[test]
fn a_provider_leaves_in_good_order_and_is_found_no_more() {
    let world = World::new();
    let mut seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    seller.process.signal("TERM");
    assert_eq!(seller.process.exit_code(), Some(0));
    let gone = world.buy("buyer", &["--discovery-time", "1", "--prompt", "x"]);
    assert_eq!(gone.expect(3).last()["code"], "no_provider");
    // Started again, it sells in the channel it made before.
    let back = world.provider("seller", &[]);
    assert_eq!(back.channel, None, "no new channel");
    let bought = world.buy(
        "buyer",
        &[
            "--channel",
            seller.channel.as_ref().unwrap(),
            "--prompt",
            "x",
        ],
    );
    assert_eq!(bought.expect(0).last()["provider"], back.pubkey);
}

#[test]
fn ctrl_c_leaves_the_ledger_recoverable() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut command = world.customer("buyer", &["--json", "--prompt", "x"]);
    command.env("AGENT_COMPUTE_SIM_FAULT", "slow");
    let mut buying = crate::harness::Running::start(&mut command);
    buying.wait_for("paying", |line| line.contains("\"paying\"").then_some(()));
    buying.signal("INT");
    let error: Value = buying.wait_for("the last line", |line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["event"] == "error").then_some(line)
    });
    assert_eq!(error["code"], "interrupted");
    assert_eq!(error["reserved_msat"], PRICE);
    assert_eq!(buying.exit_code(), Some(130));
    run(&mut world.customer("buyer", &["--json", "recover"])).expect(0);
    let (spent, reserved, unknown) = world.daily("buyer");
    assert_eq!((reserved, unknown), (0, 0));
    assert_eq!(world.balance("buyer"), OPENING_BALANCE - spent);
    assert_conserved(&world.bank());
}

//! Ledger, job store and wallet, as `doctor` finds them.

use std::fs;

use rusqlite::Connection;

use super::*;

const PRICE: u64 = 10_000;

fn doctor(world: &World, home: &str) -> Ran {
    run(&mut world.customer(home, &["--json", "doctor"]))
}

/// A home whose folder is its owner's alone, so that nothing but the theme of a test is wrong with it.
fn private(world: &World, home: &str, config: &str) {
    world.config(home, config);
    set_mode(&world.home(home), 0o700);
}

#[test]
fn a_payment_in_doubt_leads_to_recover() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut buy = world.customer("buyer", &["--prompt", "x"]);
    run(buy.env("AGENT_COMPUTE_SIM_FAULT", "timeout-after")).expect(6);
    let found = checks(&doctor(&world, "buyer").expect(0));
    let ledger = of(&found, "ledger", "ledger.sqlite");
    assert_eq!(ledger["status"], "warning");
    let message = ledger["message"].as_str().unwrap();
    assert!(message.contains("1 payment in doubt") && message.contains("10 sats set aside"));
    assert_eq!(ledger["fix"], "agent-customer recover");
    run(&mut world.customer("buyer", &["recover"])).expect(0);
    let found = checks(&doctor(&world, "buyer").expect(0));
    assert_eq!(of(&found, "ledger", "ledger.sqlite")["status"], "ok");
    assert_eq!(world.daily("buyer"), (PRICE, 0, 0));
}

#[test]
fn a_bank_that_is_gone_with_a_payment_in_doubt_is_a_problem() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut buy = world.customer("buyer", &["--prompt", "x"]);
    run(buy.env("AGENT_COMPUTE_SIM_FAULT", "timeout-before")).expect(6);
    let elsewhere = world.dir.path().join("gone.sqlite");
    let ask = |args: &[&str]| {
        let mut command = world.customer("buyer", args);
        run(command.env("AGENT_COMPUTE_SIM_BANK", &elsewhere))
    };
    let found = checks(&ask(&["--json", "doctor"]).expect(12));
    let wallet = of(&found, "wallet", "gone.sqlite");
    assert!(wallet["message"].as_str().unwrap().contains("is missing"));
    for (args, code, word) in [
        (&["--json", "recover"][..], 8, "network"),
        (&["--json", "wallet", "balance"], 12, "wallet"),
        (&["--json", "--prompt", "x"], 12, "wallet"),
    ] {
        let error = ask(args).expect(code).last();
        assert_eq!(error["code"], word);
        assert_eq!(error["reserved_msat"], PRICE);
    }
    assert!(!elsewhere.exists());
    // What the message says can be done, does it.
    let id = run(&mut world.bare_customer("buyer", &["--json", "history"]))
        .expect(0)
        .last()["purchase_id"]
        .as_str()
        .unwrap()
        .to_owned();
    ask(&["--json", "recover", "--resolve", &id, "failed"]).expect(0);
    ask(&["--json", "recover"]).expect(0);
}

#[test]
fn books_that_are_damaged_newer_or_foreign_are_exit_13() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for prompt in ["a", "b"] {
        let prompt = prompt.repeat(2000);
        world.buy("buyer", &["--prompt", &prompt]).expect(0);
    }
    let file = world.home("buyer").join("customer/ledger.sqlite");
    let whole = fs::read(&file).unwrap();
    let says = |words: &str| {
        let found = checks(&doctor(&world, "buyer").expect(13));
        let finding = of(&found, "ledger", "ledger.sqlite").clone();
        let message = finding["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    };
    let mut torn = whole.clone();
    let at = torn.len() / 2;
    torn[at..at + 8192].fill(0x5a);
    fs::write(&file, torn).unwrap();
    says("backup");
    fs::write(&file, "not a database, ".repeat(500)).unwrap();
    says("not a ledger");
    fs::write(&file, &whole).unwrap();
    let db = Connection::open(&file).unwrap();
    db.pragma_update(None, "user_version", 1000).unwrap();
    drop(db);
    says("newer version");
    fs::remove_file(&file).unwrap();
    Connection::open(&file)
        .unwrap()
        .execute_batch("CREATE TABLE recipes (name TEXT)")
        .unwrap();
    says("another program");
}

#[test]
fn jobs_that_a_killed_provider_owes_are_told() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    drop(seller);
    let store = world.home("seller").join("provider/jobs.sqlite");
    let db = Connection::open(&store).unwrap();
    db.execute("UPDATE jobs SET state = 'paid', published_at = NULL", [])
        .unwrap();
    drop(db);
    let args = [
        "--relay",
        &world.relay,
        "--wallet",
        "sim",
        "--json",
        "doctor",
    ];
    let found = checks(&run(&mut world.bare_provider("seller", &args)));
    let jobs = of(&found, "jobs", "jobs.sqlite");
    assert_eq!(jobs["status"], "warning");
    assert!(
        jobs["message"]
            .as_str()
            .unwrap()
            .contains("1 paid and not done")
    );
}

#[test]
fn a_wallet_that_can_buy_nothing_is_told_with_the_code_of_a_purchase() {
    let world = World::new();
    assert_eq!(world.balance("buyer"), 100_000_000);
    private(&world, "buyer", "[runway]\nreserve_sats = 100000\n");
    let found = checks(&doctor(&world, "buyer").expect(4));
    let wallet = of(&found, "wallet", "sim");
    assert!(wallet["message"].as_str().unwrap().contains("reserve_sats"));
    mend(&world, "buyer", &[with_sim(wallet)], "wallet");
    doctor(&world, "buyer").expect(0);

    let nwc = [
        "--json",
        "--relay",
        &world.relay,
        "--wallet",
        "nwc",
        "doctor",
    ];
    run(&mut world.bare_customer("buyer", &nwc)).expect(12);

    let mut faulty = world.customer("buyer", &["--json", "doctor"]);
    let ran = run(faulty.env("AGENT_COMPUTE_SIM_FAULT", "slow")).expect(0);
    let found = checks(&ran);
    assert_eq!(
        of(&found, "wallet", "sim")["fix"],
        "unset AGENT_COMPUTE_SIM_FAULT"
    );

    fs::write(world.bank(), "no bank at all, ".repeat(1000)).unwrap();
    doctor(&world, "buyer").expect(12);
}

/// The same finding, with the wallet named: here it is chosen by a flag, not by the configuration.
fn with_sim(finding: &Value) -> Value {
    let fix = finding["fix"].as_str().unwrap();
    let mut finding = finding.clone();
    finding["fix"] = fix
        .replace("agent-customer", "agent-customer --wallet sim")
        .into();
    finding
}

#[test]
fn earnings_add_up_by_day_week_and_model_and_tell_play_money() {
    let world = World::new();
    let nothing = ["--json", "--wallet", "sim", "earnings"];
    let none = run(&mut world.bare_provider("seller", &nothing))
        .expect(0)
        .last();
    assert_eq!(
        (&none["all"]["jobs"], &none["play_money"]),
        (&0.into(), &true.into())
    );
    assert!(!world.home("seller").join("provider").exists());

    let seller = world.provider("seller", &[]);
    for _ in 0..5 {
        world.buy("buyer", &["--prompt", "x"]).expect(0);
    }
    drop(seller);
    // One of them was long ago, by another model; one failed; three were in escrow: one is settled, one
    // locked, and one was never released.
    let store = world.home("seller").join("provider/jobs.sqlite");
    let db = Connection::open(&store).unwrap();
    db.execute_batch(
        "UPDATE jobs SET settled_at = 1000000, model = 'old\u{1b}[31m' WHERE rowid = 1;
         UPDATE jobs SET state = 'failed', error = 'it \u{1b}[31mbroke' WHERE rowid = 2;
         UPDATE jobs SET escrow = 1, held_at = settled_at WHERE rowid >= 3;
         UPDATE jobs SET settled_at = NULL WHERE rowid >= 4;
         UPDATE jobs SET state = 'settled' WHERE rowid = 3;
         UPDATE jobs SET state = 'unreleased' WHERE rowid = 5;",
    )
    .unwrap();
    drop(db);
    let lines = run(&mut world.bare_provider("seller", &["--json", "earnings"])).expect(0);
    assert_eq!(lines.events().len(), 1);
    let earned = lines.last();
    assert_eq!(
        (&earned["v"], &earned["network"]),
        (&1.into(), &"regtest".into())
    );
    assert_eq!(earned["play_money"], true);
    for (period, jobs) in [("today", 2), ("week", 2), ("all", 3)] {
        let of = &earned[period];
        assert_eq!(of["jobs"], jobs, "{earned}");
        assert_eq!(of["earned_msat"], jobs * PRICE);
        assert_eq!(
            (&of["failed_jobs"], &of["owed_msat"]),
            (&1.into(), &PRICE.into())
        );
        for amount in ["escrow_msat", "held_msat", "unreleased_msat"] {
            assert_eq!(of[amount], PRICE, "{amount}: {earned}");
        }
        assert_eq!(of["unreleased_jobs"], 1);
    }
    let models = earned["models"].as_array().unwrap();
    let names: Vec<&str> = models
        .iter()
        .map(|it| it["model"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["echo", "old\u{1b}[31m"]);
    assert_eq!(models[1]["all"]["jobs"], 1);
    assert_eq!(models[1]["today"]["jobs"], 0);

    let plain = run(&mut world.bare_provider("seller", &["earnings"]))
        .expect(0)
        .stdout;
    assert!(plain.starts_with("regtest, play money\n"), "{plain}");
    assert!(plain.contains("30 sats from 3 jobs"), "{plain}");
    for said in [
        "10 sats owed for 1 job that failed",
        "10 sats of it from escrow",
        "10 sats locked in escrow",
        "10 sats never released for 1 job",
    ] {
        assert!(plain.contains(said), "{said}: {plain}");
    }
    let jobs = |args: &[&str]| {
        let args = [&["jobs"], args].concat();
        let ran = run(&mut world.bare_provider("seller", &args)).expect(0);
        assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
        ran.stdout.lines().count()
    };
    assert_eq!(jobs(&[]), 5);
    assert_eq!(jobs(&["--limit", "2"]), 2);
    assert_eq!(jobs(&["--state", "failed,paid"]), 1);
    assert_eq!(jobs(&["--model", "echo", "--limit", "1"]), 1);
    assert_eq!(jobs(&["--state", "expired"]), 0);
    run(&mut world.bare_provider("seller", &["jobs", "--state", "lost"])).expect(2);
}

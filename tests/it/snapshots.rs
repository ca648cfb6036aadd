//! Help, errors and JSON, as users see them.
//!
//! After a change that is meant, `INSTA_UPDATE=always cargo test --test it snapshots` writes them anew; the
//! diff then says what users will see. What differs from run to run is replaced by a word in brackets.

use insta::{Settings, assert_snapshot};

use crate::harness::{Ran, World, run};

/// Compares with what differs from run to run replaced. `name` is the file in `snapshots/`.
fn compare(world: &World, name: &str, shown: &str) {
    let dir = world.dir.path().display().to_string();
    let shown = shown.replace(&dir, "[dir]");
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (what, word) in [
        (r"npub1[0-9a-z]{58}", "[npub]"),
        (r"lnbcrt[0-9a-z]{50,}", "[bolt11]"),
        (r"\b[0-9a-f]{64}\b", "[64 hex]"),
        (r"\b[0-9a-f]{32}\b", "[32 hex]"),
        (r"\b(job_)?[0-9a-f]{16}\b", "${1}[16 hex]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[time]"),
        (r#""(\w+_at|at|last_\w+)":\d{9,}"#, r#""$1":[time]"#),
        (r#""(\w+_ms)":\d+"#, r#""$1":[ms]"#),
        (r"\b\d+ ms\b", "[ms] ms"),
        (r"\b(in|within) \d+(\.\d)? s\b", "$1 [n] s"),
        (r"127\.0\.0\.1:\d{2,}", "127.0.0.1:[port]"),
        (r"\(os error \d+\)", "(os error [n])"),
        (r"\bprocess(es)? \d+", "process [pid]"),
        (
            r"agent-(customer|provider) \d+\.\d+\.\d+",
            "agent-$1 [version]",
        ),
    ] {
        settings.add_filter(what, word);
    }
    settings.bind(|| assert_snapshot!(name, shown));
}

/// A command and all that came of it.
fn told(command: &str, ran: &Ran) -> String {
    let mut told = format!("$ {command}\n");
    told.push_str(&ran.stdout);
    for line in ran.stderr.lines() {
        told.push_str(&format!("[stderr] {line}\n"));
    }
    told.push_str(&format!("[exit {}]\n\n", ran.code));
    told
}

/// The help of a command without the options that every command has.
fn own_part(help: &str) -> String {
    let mut own = String::new();
    let mut global = false;
    for line in help.lines() {
        if !line.is_empty() && !line.starts_with(' ') {
            global = line == "Global options:";
        }
        if !global {
            own.push_str(line);
            own.push('\n');
        }
    }
    own
}

/// The words of every command, `help` left out.
fn commands(above: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
    for command in above.get_subcommands() {
        let words = [words, &[command.get_name().to_owned()]].concat();
        found.push(words.clone());
        commands(command, &words, found);
    }
}

#[test]
fn help_of_every_command() {
    let world = World::on(String::new());
    for (program, command) in [
        ("agent-customer", agent_compute::cli::customer::command()),
        ("agent-provider", agent_compute::cli::provider::command()),
    ] {
        let help_of = |words: &[String]| {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.push("--help");
            let ran = run(&mut match program {
                "agent-customer" => world.bare_customer("nobody", &words),
                _ => world.bare_provider("nobody", &words),
            });
            assert_eq!(ran.stderr, "");
            ran.expect(0).stdout
        };
        let mut all = format!("$ {program} --help\n{}", help_of(&[]));
        let mut found = Vec::new();
        commands(&command, &[], &mut found);
        for words in found {
            let help = own_part(&help_of(&words));
            all.push_str(&format!(
                "\n\n$ {program} {} --help\n{help}",
                words.join(" ")
            ));
        }
        compare(&world, &format!("help_of_{program}"), &all);
    }
    assert!(!world.home("nobody").exists(), "help makes nothing");
}

#[test]
fn errors_by_exit_code() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    let free = world.provider("free", &["--no-wallet"]);
    world.config("poor", "[runway]\nper_job_limit_sats = 9\n");
    world.config("typo", "[runway]\ndaily_limit_sat = 5\n");
    let broken = world.home("broken").join("customer");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("ledger.sqlite"), "no database, ".repeat(500)).unwrap();
    run(&mut world.bare_customer("known", &["identity", "new"])).expect(0);
    let relay = ["--relay", &world.relay, "--wallet", "sim"];
    let dead = [
        "--relay",
        "ws://127.0.0.1:1",
        "--wallet",
        "sim",
        "--timeout",
        "2",
    ];
    let of_seller = [&relay[..], &["--select", &seller.pubkey]].concat();
    let of_free = [&relay[..], &["--select", &free.pubkey]].concat();
    let too_long = [&of_seller[..], &["--max-tokens", "40000"]].concat();
    let no_model = [&relay[..], &["--model", "gpt-9", "--discovery-time", "1"]].concat();
    let other_network = [&relay[..], &["--network", "mainnet"]].concat();
    let nwc = ["--relay", &world.relay, "--wallet", "nwc"];
    // What is shown of the command, the home, a fault, and what goes before `--prompt x`.
    let cases: [(&str, &str, &str, &[&str]); 13] = [
        ("--max-price 1.5", "known", "", &["--max-price", "1.5"]),
        ("with an unknown key in config.toml", "typo", "", &relay),
        (
            "--wallet sim --network mainnet",
            "known",
            "",
            &other_network,
        ),
        ("--model gpt-9", "known", "", &no_model),
        ("with per_job_limit_sats = 9", "poor", "", &relay),
        ("with a wallet that refuses", "known", "refuse", &of_seller),
        (
            "with a wallet that does not answer",
            "known",
            "timeout-before",
            &of_seller,
        ),
        ("on a dead relay", "known", "", &dead),
        ("--max-tokens 40000", "known", "", &too_long),
        ("from a provider without a wallet", "known", "", &of_free),
        ("without a wallet", "known", "", &["--relay", &world.relay]),
        ("--wallet nwc", "known", "", &nwc),
        ("with a ledger that is none", "broken", "", &relay),
    ];
    let mut all = String::new();
    for (what, home, fault, args) in cases {
        for json in [false, true] {
            let mut words = args.to_vec();
            words.extend(["--prompt", "x"]);
            words.extend(json.then_some("--json"));
            let mut command = world.bare_customer(home, &words);
            command.env("RUST_LOG", "off");
            if !fault.is_empty() {
                command.env("AGENT_COMPUTE_SIM_FAULT", fault);
            }
            let mut ran = run(&mut command);
            if json {
                // What led to it is in another snapshot.
                ran.stdout = format!("{}\n", ran.stdout.lines().last().unwrap());
            }
            // A home's first key is told once.
            let told_of_key = |line: &&str| !line.starts_with("made a new key");
            let kept: Vec<&str> = ran.stderr.lines().filter(told_of_key).collect();
            ran.stderr = kept.join("\n");
            all.push_str(&told(what, &ran));
        }
    }
    compare(&world, "errors_by_exit_code", &all);
}

#[test]
fn json_of_a_purchase_and_of_the_books() {
    let world = World::new();
    let seller = world.provider("seller", &["--stream"]);
    run(&mut world.bare_customer("buyer", &["identity", "new"])).expect(0);
    let bought = run(&mut world.customer("buyer", &["--json", "--tick", "t1", "--prompt", "a b"]));
    let mut all = told("--tick t1 --prompt 'a b' --json", &bought);
    let id = bought.expect(0).last()["purchase_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let on_demo = run(&mut world.bare_customer("demo", &["demo", "--json", "--prompt", "a b"]));
    all.push_str(&told(
        "demo --json --prompt 'a b'",
        &Ran {
            stderr: String::new(),
            ..on_demo
        },
    ));
    for words in [
        &["--dry-run", "--prompt", "x"][..],
        &["providers"],
        &["history"],
        &["show", &id],
        &["budget", "--tick", "t1"],
        &["recover"],
        &["wallet", "balance"],
        &["wallet", "address"],
        &["wallet", "invoice", "--amount-sats", "5"],
        &["identity", "show"],
        &["doctor"],
    ] {
        for json in [true, false] {
            let mut args = words.to_vec();
            args.extend(json.then_some("--json"));
            let ran = run(&mut world.customer("buyer", &args));
            all.push_str(&told(&args.join(" "), &ran));
        }
    }
    compare(&world, "json_of_a_customer", &all);

    world.config("seller", "[provider]\nbackend = \"echo\"\n");
    let mut all = String::new();
    for words in ["jobs", "earnings", "doctor"] {
        for json in [true, false] {
            let mut args = vec!["--relay", &world.relay, "--wallet", "sim", words];
            args.extend(json.then_some("--json"));
            let ran = run(&mut world.bare_provider("seller", &args));
            all.push_str(&told(&args[4..].join(" "), &ran));
        }
    }
    drop(seller);
    compare(&world, "json_of_a_provider", &all);
}

//! Configuration and usage errors, through the real programs.

use super::*;

#[test]
fn an_unknown_key_of_the_configuration_names_the_nearest_and_its_line() {
    let owner = Owner::new();
    let path = owner.write("home/config.toml", "[runway]\n\ndaily_limit = 5\n");
    let message = owner.run(&["history", "--json"]).usage();
    assert!(
        message.contains(&format!("{}:3", path.display())),
        "{message}"
    );
    assert!(message.contains("`daily_limit_sats`"), "{message}");

    owner.write(
        "home/config.toml",
        format!("[identity]\nsecret_key = \"{NSEC}\"\n"),
    );
    let message = owner.run(&["history", "--json"]).usage();
    assert!(message.contains("env:NAME"), "{message}");

    let elsewhere = owner.write("other.toml", "[runway]\nper_job_limit_sats = -1\n");
    let named = elsewhere.to_str().unwrap();
    let message = owner.run(&["--config", named, "history", "--json"]).usage();
    assert!(message.contains("runway.per_job_limit_sats"), "{message}");
    owner
        .run(&["history", "--config", "/nowhere.toml", "--json"])
        .usage();
}

#[test]
fn usage_errors_end_in_one_line_of_json_when_asked_for() {
    let owner = Owner::new();
    let long = "a".repeat(40_000);
    for args in [
        &["--json"][..],
        &["--json", "--no-such-flag"],
        &["--no-such-flag", "--json"],
        &["--json", "no-such-command"],
        &["--json", "--discover"],
        &["--json", "--prompt"],
        &["--json", "--prompt", ""],
        &["--json", "--prompt", " \n"],
        &["--json", "--prompt", &long],
        &["--json", "--prompt", "@/nowhere"],
        &["--json", "--prompt", "x", "--direct"],
        &["--json", "--prompt", "x", "--select", "17162c9"],
        &["--json", "--prompt", "x", "--channel", "general"],
        &["--json", "--prompt", "x", "--relay", "http://x"],
        &["--json", "--prompt", "x", "--max-price", "-1"],
        &["--json", "--prompt", "x", "--max-price", "1.5"],
        &["--json", "--prompt", "x", "--max-fee", "1e3"],
        &["--json", "--prompt", "x", "--max-tokens", "0"],
        &["--json", "--prompt", "x", "--timeout", "0"],
        &["--json", "--prompt", "x", "--tick", &long[..65]],
        &["--json", "--prompt", "x", "--network", "bitcoin"],
        &["--json", "--prompt", "x", "--wallet", "purse"],
        &[
            "--json",
            "--prompt",
            "x",
            "--wallet",
            "sim",
            "--network",
            "mainnet",
        ],
        &["--json", "--prompt", "x", "--wallet", "sim", "--no-wallet"],
        &[
            "--json",
            "--prompt",
            "x",
            "--no-wallet",
            "--network",
            "signet",
        ],
        &["--json", "--model", "m", "providers"],
        &["--prompt", "x", "history", "--json"],
        &["--max-tokens", "5", "--json", "budget"],
        &["--json", "wallet"],
        &["--json", "wallet", "setup", "--wallet", "sim"],
        &["--json", "wallet", "invoice", "--wallet", "sim"],
        &["--json", "wallet", "fund", "0", "--wallet", "sim"],
        &["--json", "identity", "new", "--words", "13"],
        &["--json", "show", "abc"],
        &["--json", "recover", "--resolve", "abc"],
        &["--json", "recover", "--resolve", "abc", "paid"],
        &["--json", "completions", "bash"],
        &["man", "--json"],
    ] {
        owner.run(args).usage();
    }
    for args in [
        &["--json"][..],
        &["--json", "--price", "5"],
        &["--json", "--create-channel", "--channel", PUBKEY],
        &[
            "--json",
            "--create-channel",
            "--backend",
            "echo",
            "--price",
            "0",
        ],
        &[
            "--json",
            "--create-channel",
            "--backend",
            "echo",
            "--announce-every",
            "301",
        ],
        &["--json", "--create-channel", "jobs"],
        &["--json", "relay", "--listen", "nowhere"],
    ] {
        finish(&mut owner.command(PROVIDER, args), b"").usage();
    }
}

#[test]
fn without_json_a_usage_error_leaves_stdout_empty() {
    let owner = Owner::new();
    for args in [&[][..], &["--discover"], &["--no-such-flag"], &["wallet"]] {
        for program in [CUSTOMER, PROVIDER] {
            let ran = finish(&mut owner.command(program, args), b"");
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert_eq!(ran.out, "");
            assert!(!ran.err.is_empty());
        }
    }
    let bare = owner.run(&[]);
    assert!(bare.err.contains("Usage:"), "{bare:?}");
    let misplaced = owner.run(&["--model", "m", "providers"]);
    assert!(misplaced.err.contains("--model"), "{misplaced:?}");
}

#[test]
fn what_no_wallet_of_this_build_can_do_is_said_with_its_own_code() {
    let owner = Owner::new();
    for args in [
        &["--json", "wallet", "balance"][..],
        &["--json", "wallet", "balance", "--wallet", "nwc"],
        &["--json", "wallet", "setup", "--wallet", "ldk"],
    ] {
        let ran = owner.run(args);
        assert_eq!(ran.code, Some(12), "{ran:?}");
        assert_eq!(ran.json()["code"], "wallet");
    }
    assert!(!owner.identity_file().exists(), "no key was needed");
}

#[test]
fn the_wallet_of_play_money_says_what_it_has() {
    let owner = Owner::new();
    let sim = |args: &[&str]| {
        let all: Vec<&str> = ["--wallet", "sim"].iter().chain(args).copied().collect();
        owner.run(&all)
    };
    let json = sim(&["wallet", "balance", "--json"]).json();
    assert_eq!(json["v"], 1);
    assert_eq!(json["balance_msat"], 100_000_000);
    assert_eq!(json["play_money"], true);
    let json = sim(&["wallet", "fund", "5", "--json"]).json();
    assert_eq!(json["balance_msat"], 100_005_000);

    let plain = sim(&["wallet", "invoice", "--amount-sats", "7"]);
    assert!(plain.out.starts_with("lnbcrt70n1"), "{plain:?}");
    assert_eq!(plain.out.lines().count(), 1);
    let json = sim(&["wallet", "invoice", "--amount-sats", "7", "--json"]).json();
    assert_eq!(json["amount_msat"], 7000);
    assert_eq!(json["payment_hash"].as_str().unwrap().len(), 64);

    let bank = owner.folder.path().join("bank/of.sqlite");
    let variables = [("AGENT_COMPUTE_SIM_BANK", bank.to_str().unwrap())];
    let elsewhere = owner.run_with(
        &variables,
        &["wallet", "balance", "--wallet", "sim", "--json"],
    );
    assert_eq!(elsewhere.json()["balance_msat"], 100_000_000);
    assert!(bank.exists());
}

#[test]
fn help_and_scripts_go_to_stdout() {
    let owner = Owner::new();
    for program in [CUSTOMER, PROVIDER] {
        for args in [
            &["--help"][..],
            &["-h"],
            &["--version"],
            &["--json", "--help"],
            &["wallet", "--help"],
            &["man"],
            &["completions", "zsh"],
        ] {
            let ran = finish(&mut owner.command(program, args), b"");
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
        }
    }
    let help = owner.run(&["--help"]).out;
    for said in ["--idempotency-key", "payment_unknown", "AGENT_COMPUTE_HOME"] {
        assert!(help.contains(said), "{said}");
    }
    assert!(!owner.home().exists(), "help touches nothing");
}

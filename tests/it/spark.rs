//! `--wallet spark` as far as it goes without Python: what is asked for by name, and what is said where something is
//! missing. The wallet itself is tried in `tests/real/spark.rs`.

use std::path::Path;
use std::process::Command;

use nostr::{Keys, ToBech32 as _};

use crate::harness::{Ran, World, run};

const WORDS: &str =
    "leader monkey parrot ring guide accident before fence cannon height naive bean";

fn world() -> World {
    World::on("ws://127.0.0.1:9".to_owned())
}

fn spark(world: &World, args: &[&str]) -> Command {
    let mut all = vec!["--wallet", "spark"];
    all.extend_from_slice(args);
    let mut command = world.bare_customer("buyer", &all);
    command.env("AGENT_COMPUTE_MNEMONIC", WORDS);
    command
}

/// As `wallet setup spark` leaves it; there is nothing in it that runs.
fn pretend_to_be_installed(home: &Path) {
    let environment = home.join("spark-sdk-0.27.2");
    std::fs::create_dir_all(&environment).unwrap();
    std::fs::write(environment.join("installed"), "0.27.2").unwrap();
}

#[track_caller]
fn says(ran: &Ran, what: &str) {
    assert!(
        ran.stderr.contains(what),
        "{what:?} is not in {}",
        ran.stderr
    );
    let secret = WORDS.split(' ').take(3).collect::<Vec<_>>().join(" ");
    assert!(!ran.stderr.contains(&secret) && !ran.stdout.contains(&secret));
}

#[test]
fn real_money_is_asked_for_by_name_and_with_a_key() {
    let world = world();
    let unnamed = run(&mut spark(&world, &["wallet", "balance"])).expect(2);
    says(&unnamed, "network = \"mainnet\"");
    let args = ["--network", "mainnet", "wallet", "balance"];
    says(&run(&mut spark(&world, &args)).expect(12), "BREEZ_API_KEY");
    let mut command = spark(&world, &args);
    command.env("BREEZ_API_KEY", "a-key-of-mine");
    let not_installed = run(&mut command).expect(12);
    says(&not_installed, "wallet setup spark");
    assert!(!not_installed.stderr.contains("a-key-of-mine"));
    // The configuration names a place, never the key.
    world.config(
        "buyer",
        "[wallet]\nkind = \"spark\"\n[wallet.spark]\napi_key = \"a-key-of-mine\"\n",
    );
    let written_out = run(&mut world.bare_customer("buyer", &["wallet", "balance"])).expect(2);
    assert!(
        !written_out.stderr.contains("a-key-of-mine"),
        "{}",
        written_out.stderr
    );
}

#[test]
fn its_money_hangs_on_words_and_a_bare_key_has_none() {
    let world = world();
    pretend_to_be_installed(&world.home("buyer"));
    let args = [
        "--wallet",
        "spark",
        "--network",
        "regtest",
        "wallet",
        "balance",
    ];
    let mut command = world.bare_customer("buyer", &args);
    let nsec = Keys::generate().secret_key().to_bech32().unwrap();
    command.env("NOSTR_SECRET_KEY", nsec);
    says(&run(&mut command).expect(12), "BIP39 words");
    // With words it goes on, to an environment that is damaged.
    let args = ["--network", "regtest", "wallet", "balance"];
    says(
        &run(&mut spark(&world, &args)).expect(8),
        "can't be started",
    );
    let doctor = run(&mut spark(
        &world,
        &["--network", "regtest", "--json", "doctor"],
    ));
    assert!(
        doctor.stdout.contains("the Spark SDK is installed"),
        "{}",
        doctor.stdout
    );
}

#[test]
fn setup_says_what_is_missing_on_this_machine() {
    let world = world();
    let mut command = world.bare_customer("buyer", &["wallet", "setup", "spark"]);
    command.env("PATH", "/nowhere");
    says(&run(&mut command).expect(12), "needs Python 3.9");
    let more = ["wallet", "setup", "spark", "@words"];
    says(
        &run(&mut world.bare_customer("buyer", &more)).expect(2),
        "no more words",
    );
    let doctor = run(&mut spark(&world, &["--json", "doctor"]));
    assert!(
        doctor.stdout.contains("wallet setup spark"),
        "{}",
        doctor.stdout
    );
}

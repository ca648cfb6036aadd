//! A ledger that can't be read, written or locked: nothing is paid that it could not account for.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::harness::{Provider, Running, with_file_limit};

/// A purchase is refused with exit 13, and no money moves.
fn refused(world: &World, home: &str, why: &str) {
    let before = world.provider_balance("seller");
    let ran = world.buy(home, &["--prompt", "x"]);
    assert_eq!(ran.code, 13, "{why}: {ran:#?}");
    let error = ran.last();
    assert_eq!(error["event"], "error", "{why}");
    assert_eq!(error["code"], "ledger", "{why}");
    assert_eq!(error["paid_msat"], 0, "{why}");
    assert!(error["message"].as_str().unwrap().len() > 20, "{error}");
    assert_eq!(world.provider_balance("seller"), before, "{why}");
    assert_eq!(recover(world, home).code, 13, "{why}");
}

/// Spoils a copy of the customer's folder, and puts the folder back.
fn spoiled(world: &World, home: &str, why: &str, spoil: impl FnOnce(&Path)) {
    let folder = world.home(home).join("customer");
    let safe = world.home(home).join("safe");
    let copied = Command::new("cp").arg("-a").args([&folder, &safe]).status();
    assert!(copied.unwrap().success());
    spoil(&ledger_file(world, home));
    refused(world, home, why);
    if folder.is_dir() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::rename(safe, folder).unwrap();
}

#[test]
fn a_ledger_that_can_not_be_used_is_exit_13_and_nothing_is_paid() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let home = "buyer";
    world.buy(home, &["--prompt", "x"]).expect(0);
    spoiled(&world, home, "no database", |file| {
        fs::write(file, "my notes, my notes, ".repeat(1000)).unwrap();
    });
    spoiled(&world, home, "damaged pages", |file| {
        let mut bytes = fs::read(file).unwrap();
        bytes[4096..].fill(0xa5);
        fs::write(file, bytes).unwrap();
    });
    spoiled(&world, home, "cut short", |file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 3]).unwrap();
    });
    spoiled(&world, home, "newer", |file| {
        let db = Connection::open(file).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
    });
    spoiled(&world, home, "a folder in its place", |file| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    });
    spoiled(&world, home, "a file in place of the owners", |file| {
        let owners = file.with_file_name("owners");
        fs::remove_dir_all(&owners).unwrap();
        fs::write(owners, "").unwrap();
    });
    assert_eq!(assert_one_story(&world, home), PRICE);
}

#[cfg(unix)]
#[test]
fn a_ledger_that_is_read_only_is_exit_13() {
    use std::os::unix::fs::PermissionsExt;

    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    let folder = world.home("buyer").join("customer");
    let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    set(0o500);
    if fs::write(folder.join("probe"), "").is_ok() {
        println!("SKIPPED: this user (root?) may write to a read-only folder");
        set(0o700);
        return;
    }
    refused(&world, "buyer", "read-only");
    set(0o700);
    assert_eq!(assert_one_story(&world, "buyer"), PRICE);
}

/// Keeps everybody else from writing.
fn locked(file: &Path) -> Connection {
    let lock = Connection::open(file).unwrap();
    lock.busy_timeout(Duration::from_secs(10)).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    lock
}

#[test]
fn a_ledger_that_another_process_keeps_locked_is_exit_13_in_bounded_time() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    let before = world.provider_balance("seller");
    let lock = locked(&ledger_file(&world, "buyer"));
    let begun = Instant::now();
    let ran = world.buy("buyer", &["--prompt", "x"]).expect(13);
    assert!(begun.elapsed() < crate::harness::PATIENCE);
    assert_eq!(ran.last()["code"], "ledger");
    assert_eq!(world.provider_balance("seller"), before);
    drop(lock);
    assert_eq!(assert_one_story(&world, "buyer"), PRICE);
}

#[test]
fn a_ledger_that_is_locked_while_the_wallet_pays_leaves_a_payment_for_recover() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut command = world.customer("buyer", &["--json", "--prompt", "x"]);
    let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"));
    buying.wait_for("paying", |line| {
        line.contains("\"event\":\"paying\"").then_some(())
    });
    let lock = locked(&ledger_file(&world, "buyer"));
    let error: Value = buying.wait_for("the last line", |line| {
        line.contains("\"event\":\"error\"")
            .then(|| serde_json::from_str(line).unwrap())
    });
    assert_eq!(error["code"], "payment_unknown", "{error}");
    assert_eq!(error["reserved_msat"], PRICE);
    assert_eq!(buying.exit_code(), Some(6));
    drop(lock);
    settle(&world, "buyer");
    assert_eq!(assert_one_story(&world, "buyer"), PRICE);
}

/// So that the bank's log does not grow out of the limit by itself.
fn shorten_log_of_bank(world: &World) {
    let bank = Connection::open(world.bank()).unwrap();
    let _ = bank.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

#[test]
fn a_disk_that_is_full_at_any_moment_loses_no_money() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut codes = BTreeMap::new();
    let steps = rounds(25);
    for step in 0..steps {
        let kib = step * 200 / steps;
        let home = format!("buyer-{step}");
        // One home is new, of the other the files are there.
        if step % 2 == 0 {
            world.buy(&home, &["--prompt", "before"]).expect(0);
        }
        shorten_log_of_bank(&world);
        let seller_before = world.provider_balance("seller");
        let buy = world.customer(&home, &["--json", "--prompt", "x"]);
        let ran = run(&mut with_file_limit(&buy, kib));
        *codes.entry(ran.code).or_insert(0) += 1;
        let last = ran.last();
        assert!(
            last["event"] == "result" || last["event"] == "error",
            "{kib} KiB: {ran:#?}"
        );
        assert!(
            [0, 2, 5, 6, 7, 8, 12, 13].contains(&ran.code),
            "{kib} KiB: {ran:#?}"
        );
        let paid = world.provider_balance("seller") - seller_before;
        match ran.code {
            0 | 7 => assert_eq!(paid, PRICE, "{kib} KiB: {ran:#?}"),
            6 => assert_eq!(last["reserved_msat"], PRICE, "{kib} KiB: {ran:#?}"),
            _ => assert_eq!(paid, 0, "{kib} KiB: said that nothing was paid: {ran:#?}"),
        }
        settle(&world, &home);
        assert_one_story(&world, &home);
    }
    println!("exit codes and how often: {codes:?}");
}

#[test]
fn a_seller_whose_disk_is_full_delivers_what_is_paid_and_sells_on_when_there_is_room() {
    let world = World::new();
    let flags = [
        "--relay",
        &world.relay,
        "--wallet",
        "sim",
        "--backend",
        "echo",
    ];
    let mut codes = BTreeMap::new();
    for round in 0..rounds(4) {
        let (home, buyer) = (format!("seller-{round}"), format!("buyer-{round}"));
        let mut sell = world.bare_provider(&home, &flags);
        sell.arg("--create-channel");
        // Room for a few jobs: the log of the store grows with each.
        let mut seller = Provider::start(&mut with_file_limit(&sell, 130 + 7 * (round % 20)));
        for _ in 0..6 {
            shorten_log_of_bank(&world);
            let select = ["--select", &seller.pubkey, "--timeout", "3"];
            let ran = world.buy(&buyer, &[&select[..], &["--prompt", "x"]].concat());
            assert!([0, 7, 9, 10].contains(&ran.code), "{ran:#?}");
            *codes.entry(ran.code).or_insert(0) += 1;
        }
        seller.process.kill();
        let seller = world.provider(&home, &[]);
        let select = ["--select", &seller.pubkey, "--prompt", "x"];
        world.buy(&buyer, &select).expect(0);
        settle(&world, &buyer);
        let spent = assert_one_story(&world, &buyer);
        assert_eq!(world.provider_balance(&home), OPENING_BALANCE + spent);
        crate::harness::eventually("every paid job is delivered", || {
            in_state(&jobs(&world, &home), "delivered").len() as u64 == spent / PRICE
        });
    }
    println!("exit codes and how often: {codes:?}");
}

//! Wallets that fail, and a bank that is gone, locked or damaged when it is to say what became of a payment.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::harness::Running;

/// A purchase whose process dies right after its wallet was told to pay.
fn die_while_paying(world: &World, home: &str, fault: &str) {
    let mut command = world.customer(home, &["--json", "--prompt", "x"]);
    let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", fault));
    buying.wait_for("paying", |line| {
        line.contains("\"event\":\"paying\"").then_some(())
    });
    buying.kill();
}

fn faulty_recover(world: &World, home: &str, fault: &str) -> Ran {
    let mut command = world.customer(home, &["--json", "recover"]);
    run(command.env("AGENT_COMPUTE_SIM_FAULT", fault))
}

#[test]
fn death_with_any_fault_of_the_wallet_is_made_whole() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut moments = Moments::of("faults");
    let usual = usual_time(&world, "warm");
    for fault in [
        "timeout-after",
        "timeout-before",
        "refuse",
        "slow",
        "no-preimage",
    ] {
        let home = format!("buyer-{fault}");
        die_while_paying(&world, &home, fault);
        for _ in 0..2 {
            let mut command = world.customer(&home, &["--json", "--prompt", "x"]);
            let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", fault));
            moments.pass(usual);
            buying.kill();
        }
        // The fault is about paying; another process with it can still be asked what became of a payment.
        faulty_recover(&world, &home, fault).expect(0);
        settle(&world, &home);
        assert_one_story(&world, &home);
    }
}

fn parts(bank: &std::path::Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm"]
        .iter()
        .map(|end| PathBuf::from(format!("{}{end}", bank.display())))
        .filter(|part| part.exists())
        .collect()
}

/// Puts the bank aside, lets something else be in its place, and puts it back.
fn without_bank(world: &World, meanwhile: impl FnOnce()) {
    let safe = world.dir.path().join("safe");
    fs::create_dir(&safe).unwrap();
    let aside = |part: &PathBuf| safe.join(part.file_name().unwrap());
    for part in parts(&world.bank()) {
        fs::rename(&part, aside(&part)).unwrap();
    }
    meanwhile();
    for part in parts(&world.bank()) {
        if part.is_dir() {
            fs::remove_dir(part).unwrap();
        } else {
            fs::remove_file(part).unwrap();
        }
    }
    for entry in fs::read_dir(&safe).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), world.dir.path().join(entry.file_name())).unwrap();
    }
    fs::remove_dir(safe).unwrap();
}

/// `recover` can't decide, says so with one of these codes, and the money stays where it is.
fn stays_reserved(world: &World, home: &str, codes: &[i32]) {
    let ran = recover(world, home);
    assert!(codes.contains(&ran.code), "{ran:#?}");
    assert_eq!(ran.last()["event"], "error");
    let (spent, reserved, _) = world.daily(home);
    assert_eq!((spent, reserved), (0, PRICE), "{ran:#?}");
}

#[test]
fn a_bank_that_is_gone_or_damaged_decides_nothing_until_it_is_back() {
    let world = World::new();
    let mut seller = world.provider("seller", &[]);
    // Opens the account while all is well.
    assert_eq!(world.balance("buyer"), OPENING_BALANCE);
    die_while_paying(&world, "buyer", "slow");
    seller.process.kill();
    let (home, bank) = ("buyer", world.bank());
    // No new bank is made in the place of one that is needed.
    without_bank(&world, || {
        stays_reserved(&world, home, &[8]);
        let balance = ["--json", "--wallet", "sim", "wallet", "balance"];
        run(&mut world.bare_customer(home, &balance)).expect(12);
        world.buy(home, &["--prompt", "x"]).expect(12);
        assert!(!bank.exists());
    });
    // One that somebody else made has never heard of the payment, and is not believed.
    without_bank(&world, || {
        world.provider_balance("another");
        stays_reserved(&world, home, &[6]);
    });
    without_bank(&world, || {
        fs::write(&bank, "no bank at all, ".repeat(1000)).unwrap();
        stays_reserved(&world, home, &[8]);
    });
    without_bank(&world, || {
        fs::create_dir(&bank).unwrap();
        stays_reserved(&world, home, &[8]);
    });
    settle(&world, home);
    assert_one_story(&world, home);
}

#[test]
fn a_bank_that_is_locked_is_waited_for_and_then_left_for_later() {
    let world = World::new();
    let mut seller = world.provider("seller", &[]);
    die_while_paying(&world, "buyer", "slow");
    seller.process.kill();
    let lock = Connection::open(world.bank()).unwrap();
    lock.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;")
        .unwrap();
    stays_reserved(&world, "buyer", &[8]);
    drop(lock);
    settle(&world, "buyer");
    assert_one_story(&world, "buyer");
}

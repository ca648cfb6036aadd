//! Files that are deleted or replaced, while they are open or after a crash: what they said is not guessed
//! anew, and nothing is spent that they would not remember.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::crash::{PRICE, assert_one_story, last_line, ledger_file, recover, settle};
use crate::harness::{Running, World, run};

/// A database and what is beside it.
fn parts(file: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm"]
        .iter()
        .map(|end| PathBuf::from(format!("{}{end}", file.display())))
        .filter(|part| part.exists())
        .collect()
}

/// Puts a database aside, lets something be in its place, and puts it back.
fn without(file: &Path, meanwhile: impl FnOnce()) {
    let aside = file.with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    let name = |part: &PathBuf| aside.join(part.file_name().unwrap());
    for part in parts(file) {
        fs::rename(&part, name(&part)).unwrap();
    }
    meanwhile();
    for part in parts(file) {
        fs::remove_file(part).unwrap();
    }
    for entry in fs::read_dir(&aside).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), file.with_file_name(entry.file_name())).unwrap();
    }
    fs::remove_dir(aside).unwrap();
}

/// A purchase that stands still at `event`, its wallet slow.
fn stopped_at(world: &World, home: &str, event: &str) -> Running {
    let mut command = world.customer(home, &["--json", "--prompt", "x"]);
    let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"));
    let wanted = format!("\"event\":\"{event}\"");
    buying.wait_for(event, |line| line.contains(&wanted).then_some(()));
    buying.signal("STOP");
    buying
}

fn ends(mut buying: Running, code: i32, words: &str) -> Value {
    buying.signal("CONT");
    let last = last_line(&mut buying);
    assert_eq!(buying.exit_code(), Some(code), "{last}");
    let message = last["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
    last
}

#[test]
fn a_ledger_that_is_deleted_or_replaced_while_it_is_open_takes_no_payment_along() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    let home = "buyer";
    world.buy(home, &["--prompt", "x"]).expect(0);
    let file = ledger_file(&world, home);
    for replaced in [false, true] {
        let before = world.balance(home);
        // Before any payment: none is made. The seller waits too, or there might be one before this stops.
        seller.process.signal("STOP");
        let buying = stopped_at(&world, home, "selected");
        seller.process.signal("CONT");
        without(&file, || {
            if replaced {
                fs::copy(file.with_file_name("aside").join("ledger.sqlite"), &file).unwrap();
            }
            let error = ends(buying, 13, "deleted or replaced");
            assert_eq!(error["paid_msat"], 0, "{error}");
        });
        assert_eq!(world.balance(home), before);
        // While the wallet pays: it is in doubt until the ledger is back.
        let buying = stopped_at(&world, home, "paying");
        without(&file, || {
            let error = ends(buying, 6, "deleted or replaced");
            assert_eq!(error["reserved_msat"], PRICE, "{error}");
        });
        settle(&world, home);
        assert_one_story(&world, home);
    }
}

#[test]
fn a_ledger_without_what_was_last_written_to_it_is_refused_until_its_owner_decides() {
    let world = World::new();
    let mut seller = world.provider("seller", &[]);
    let home = "buyer";
    world.buy(home, &["--prompt", "x"]).expect(0);
    let file = ledger_file(&world, home);
    let older = fs::read(&file).unwrap();
    let mut buying = stopped_at(&world, home, "paying");
    buying.kill();
    seller.process.kill();
    let refused = || {
        for ran in [world.buy(home, &["--prompt", "x"]), recover(&world, home)] {
            assert_eq!(ran.code, 13, "{ran:#?}");
            let message = ran.last()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("lacks what was last written"), "{message}");
            assert!(message.contains("owners"), "{message}");
        }
    };
    // The log of a process that was killed holds what it did last.
    let wal = PathBuf::from(format!("{}-wal", file.display()));
    let kept = fs::read(&wal).unwrap();
    assert!(!kept.is_empty());
    fs::remove_file(&wal).unwrap();
    refused();
    // The same with an older copy, and with none at all.
    for other in [Some(&older), None] {
        without(&file, || {
            if let Some(older) = other {
                fs::write(&file, older).unwrap();
            }
            refused();
        });
    }
    // Back as it was: nothing is forgotten.
    for part in parts(&file).into_iter().skip(1) {
        fs::remove_file(part).unwrap();
    }
    fs::write(&wal, &kept).unwrap();
    settle(&world, home);
    assert_one_story(&world, home);
    // Or the owner takes what there is.
    let _seller = world.provider("seller", &[]);
    let mut buying = stopped_at(&world, home, "paying");
    buying.kill();
    fs::remove_file(&wal).unwrap();
    refused();
    fs::remove_dir_all(file.with_file_name("owners")).unwrap();
    assert_eq!(recover(&world, home).code, 0);
}

#[test]
fn a_job_store_that_is_deleted_while_it_is_open_sells_nothing_more() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    let store = world.home("seller").join("provider").join("jobs.sqlite");
    let before = world.balance("buyer");
    without(&store, || {
        let ran = world.buy("buyer", &["--prompt", "x"]).expect(10);
        assert_eq!(ran.last()["paid_msat"], 0);
        // Not even when another one is made in its place.
        run(&mut world.bare_provider("seller", &["--json", "jobs"]));
        world.buy("buyer", &["--prompt", "x"]).expect(10);
    });
    assert_eq!(world.balance("buyer"), before);
    // With its file back it sells on.
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    drop(seller);
    assert_eq!(assert_one_story(&world, "buyer"), 2 * PRICE);
}

#[test]
fn a_bank_that_is_deleted_while_it_is_open_moves_no_money() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    let bank = world.bank();
    for event in ["selected", "quoted"] {
        let mut command = world.customer("buyer", &["--json", "--prompt", "x", "--timeout", "8"]);
        let mut buying = Running::start(&mut command);
        let wanted = format!("\"event\":\"{event}\"");
        buying.wait_for(event, |line| line.contains(&wanted).then_some(()));
        buying.signal("STOP");
        without(&bank, || {
            buying.signal("CONT");
            let last = last_line(&mut buying);
            // It may have stood still in the middle of a payment, which goes to the file that was moved.
            let code = buying.exit_code().unwrap();
            assert!([0, 5, 6, 10].contains(&code), "{last}");
            let before = [code == 0, code == 6].map(u64::from);
            assert_eq!(last["paid_msat"], before[0] * PRICE, "{last}");
            assert_eq!(last["reserved_msat"], before[1] * PRICE, "{last}");
        });
        settle(&world, "buyer");
        assert_one_story(&world, "buyer");
    }
}

//! Files that may not be written, or not to the end: a read-only file system, rights that vanish, a quota.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Disk;
use crate::crash::{OPENING_BALANCE, PRICE, assert_one_story, last_line, recover, settle};
use crate::harness::{Ran, Running, World, eventually, run, with_file_limit};

/// Exit 13, a clear error, and nothing spent.
fn assert_refused(home: &str, ran: &Ran, words: &str) {
    let error = ran.last();
    assert_eq!(
        (ran.code, &error["code"]),
        (13, &"ledger".into()),
        "{ran:#?}"
    );
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&0.into(), &0.into())
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
    assert!(message.contains(home), "it names the file: {message}");
}

#[test]
fn on_a_read_only_file_system_nothing_is_bought_and_the_books_can_be_read() {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("disk")) else {
        return;
    };
    let _seller = world.provider("seller", &[]);
    let home = "disk/buyer";
    world.buy(home, &["--prompt", "x"]).expect(0);
    std::fs::create_dir(world.home("disk/new")).unwrap();
    disk.read_only(true);
    let before = world.provider_balance("seller");
    for home in [home, "disk/new"] {
        let ran = world.buy(home, &["--prompt", "x"]);
        assert_refused(home, &ran, "Read-only file system");
    }
    assert_refused(home, &recover(&world, home), "Read-only file system");
    // Who only looks needs to write nothing.
    let history = run(&mut world.bare_customer(home, &["--json", "history"])).expect(0);
    assert_eq!(history.last()["state"], "delivered");
    assert_eq!(world.daily(home), (PRICE, 0, 0));
    let id = history.last()["purchase_id"].as_str().unwrap().to_owned();
    run(&mut world.bare_customer(home, &["--json", "show", &id])).expect(0);
    assert_eq!(world.provider_balance("seller"), before);
    disk.read_only(false);
    world.buy(home, &["--prompt", "x"]).expect(0);
    assert_eq!(assert_one_story(&world, home), 2 * PRICE);
}

#[test]
fn a_ledger_of_an_earlier_version_is_not_read_where_it_can_not_be_brought_up_to_date() {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("disk")) else {
        return;
    };
    let home = "disk/buyer";
    let folder = world.home(home).join("customer");
    std::fs::create_dir_all(&folder).unwrap();
    let ledger = rusqlite::Connection::open(folder.join("ledger.sqlite")).unwrap();
    ledger
        .execute_batch(include_str!("../../fixtures/ledger-1.sql"))
        .unwrap();
    drop(ledger);
    disk.read_only(true);
    let history = ["--json", "history"];
    let refused = run(&mut world.bare_customer(home, &history));
    assert_refused(home, &refused, "opened for writing");
    disk.read_only(false);
    let read = run(&mut world.bare_customer(home, &history)).expect(0);
    assert!(!read.events().is_empty());
}

#[test]
fn a_provider_on_a_read_only_file_system_does_not_begin_to_sell() {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("seller")) else {
        return;
    };
    world.provider("seller", &[]).process.kill();
    disk.read_only(true);
    let flags = ["--json", "--relay", &world.relay, "--wallet", "sim"];
    let mut command = world.bare_provider("seller", &flags);
    let ran = run(command.args(["--backend", "echo", "--create-channel"]));
    assert_refused("seller", &ran, "store");
    disk.read_only(false);
    let _seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    assert_one_story(&world, "buyer");
}

/// A user whom permissions bind: root itself is bound by none.
const NOBODY: &str = "65534";

fn as_nobody(command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap());
    }
    other
}

fn give_to_nobody(path: &Path) -> bool {
    let owner = format!("{NOBODY}:{NOBODY}");
    let given = Command::new("chown")
        .args(["-R", &owner])
        .arg(path)
        .output();
    given.is_ok_and(|given| given.status.success())
}

fn mode(path: &Path, mode: &str) {
    let done = Command::new("chmod").args(["-R", mode]).arg(path).status();
    assert!(done.unwrap().success());
}

#[test]
fn rights_that_vanish_at_any_moment_lose_no_money() {
    let world = World::new();
    // All of it belongs to a user who can be kept out, and who may start the program at all.
    let _seller = world.provider("seller", &[]);
    let probe = run(&mut as_nobody(
        &world.bare_customer("probe", &["--version"]),
    ));
    mode(world.dir.path(), "0755");
    if !give_to_nobody(world.dir.path()) || probe.code != 0 {
        println!("SKIPPED: this user can't act as another one whom permissions bind");
        return;
    }
    // The seller is still root; the customer is not.
    let home = "buyer";
    let buy = |args: &[&str]| as_nobody(&world.customer(home, &[&["--json"], args].concat()));
    run(&mut buy(&["--prompt", "x"])).expect(0);
    let folder = world.home(home).join("customer");
    let parts = |_: &()| -> Vec<PathBuf> {
        let files = ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"];
        files.map(|name| folder.join(name)).to_vec()
    };
    // Before it begins.
    for kept_out in ["0500", "0000"] {
        mode(&folder, kept_out);
        let ran = run(&mut buy(&["--prompt", "x"]));
        mode(&folder, "0700");
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert_eq!(ran.last()["paid_msat"], 0, "{ran:#?}");
        assert_eq!(world.balance(home), OPENING_BALANCE - PRICE);
    }
    mode(&parts(&())[0], "0400");
    let ran = run(&mut buy(&["--prompt", "x"]));
    mode(&parts(&())[0], "0600");
    // It is the user's own file, so the program may, and does, mend that.
    assert!([0, 13].contains(&ran.code), "{ran:#?}");
    // While it runs: what is open stays open, and what must be opened anew can't be.
    for event in ["requested", "paying", "paid"] {
        let mut buying = Running::start(&mut buy(&["--prompt", "x", "--timeout", "10"]));
        let wanted = format!("\"event\":\"{event}\"");
        buying.wait_for(event, |line| line.contains(&wanted).then_some(()));
        mode(&folder, "0000");
        let last = last_line(&mut buying);
        let code = buying.exit_code();
        mode(&folder, "0700");
        assert!(
            [Some(0), Some(6), Some(7), Some(13)].contains(&code),
            "{last}"
        );
    }
    give_to_nobody(world.dir.path());
    settle(&world, home);
    assert_one_story(&world, home);
}

#[test]
fn a_quota_that_stops_one_process_stops_no_other_one_of_the_same_home() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let home = "buyer";
    world.buy(home, &["--prompt", "x"]).expect(0);
    let mut bought = 1;
    for round in 0..8 {
        let mut free = Vec::new();
        let mut bound = Vec::new();
        for n in 0..3 {
            let buy = world.customer(home, &["--json", "--prompt", "x"]);
            // Some find no room to begin with, some run into it later.
            let kib = if n == 0 { 0 } else { 515 + 8 * round };
            bound.push(Running::start(&mut with_file_limit(&buy, kib)));
            let mut buy = buy;
            free.push(Running::start(&mut buy));
        }
        for one in &mut free {
            assert_eq!(one.exit_code(), Some(0));
            bought += 1;
        }
        for one in &mut bound {
            let last = last_line(one);
            let code = one.exit_code().unwrap();
            assert!([0, 5, 6, 7, 10, 12, 13].contains(&code), "{last}");
        }
    }
    settle(&world, home);
    let spent = assert_one_story(&world, home);
    assert!(spent >= bought * PRICE);
    eventually("the seller has it", || {
        world.provider_balance("seller") == OPENING_BALANCE + spent
    });
}

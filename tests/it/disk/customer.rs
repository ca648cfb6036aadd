//! The customer's disk, and its wallet's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::{Disk, amounts};
use crate::crash::{OPENING_BALANCE, PRICE, assert_one_story, last_line, settle};
use crate::harness::{Running, World, assert_conserved, run};

/// What left the account of this home for good, or is on its way.
fn gone(world: &World, home: &str) -> u64 {
    let identity = world.home(home).join("customer").join("identity.enc");
    if !identity.exists() {
        return 0;
    }
    OPENING_BALANCE - world.balance(home)
}

/// What a purchase said in the end must be so: nothing was paid, or the money is where it says.
fn assert_said_so(code: i32, last: &Value, gone: u64, what: &str) {
    let amount = |name: &str| last[name].as_u64().unwrap();
    let is_result = last["event"] == "result";
    assert_eq!(is_result, code == 0, "{what}: {last}");
    if is_result {
        return;
    }
    let (paid, reserved) = (amount("paid_msat"), amount("reserved_msat"));
    match code {
        6 => assert_eq!((paid, reserved), (0, PRICE), "{what}: {last}"),
        7 => assert_eq!(paid + reserved, PRICE, "{what}: {last}"),
        2 | 5 | 8 | 9 | 10 | 12 | 13 => assert_eq!(
            (paid, reserved, gone),
            (0, 0, 0),
            "{what}: said that nothing was paid: {last}"
        ),
        code => panic!("{what}: exit {code}: {last}"),
    }
    assert!(last["message"].as_str().unwrap().len() > 20, "{last}");
}

/// How often each exit code was seen.
#[derive(Default)]
struct Codes(BTreeMap<i32, usize>);

impl Codes {
    /// A purchase of `home`, which had this much `before`, has ended like this, and there is room again:
    /// ledger and bank come to tell one story.
    fn ended(&mut self, world: &World, home: &str, before: u64, code: i32, last: &Value) {
        *self.0.entry(code).or_insert(0) += 1;
        let what = format!("{home}, exit {code}");
        assert_said_so(code, last, gone(world, home) - before, &what);
        assert_conserved(&world.bank());
        settle(world, home);
        assert_one_story(world, home);
        let spent = gone(world, home) - before;
        if [0, 6, 7].contains(&code) {
            assert!(spent <= PRICE, "{what}: paid twice: {last}");
        } else {
            // Nothing was paid, it said, and nothing is, whatever recovery did.
            assert_eq!(spent, 0, "{what}: {last}");
        }
    }
}

/// Buys with every amount of room on `disk`, in an old home and in a new one each time.
fn buy_with_little_room(
    world: &World,
    disk: &Disk,
    flags: &[&str],
    (steps, offset, most): (u64, u64, u64),
    homes: &str,
) -> Codes {
    let mut codes = Codes::default();
    let old = format!("{homes}old");
    world.buy(&old, &["--prompt", "before"]).expect(0);
    for kib in amounts(steps, offset, most) {
        for home in [old.clone(), format!("{homes}new-{kib}")] {
            let before = gone(world, &home);
            let mut buy = world.customer(&home, &["--json", "--prompt", "x", "--timeout", "10"]);
            disk.leave(kib);
            let ran = run(buy.args(flags));
            disk.free();
            codes.ended(world, &home, before, ran.code, &ran.last());
        }
    }
    println!("exit codes and how often: {:?}", codes.0);
    // And with room all is well.
    world.buy(&old, &["--prompt", "after"]).expect(0);
    assert_one_story(world, &old);
    codes
}

#[test]
fn a_disk_that_is_full_from_the_start_is_exit_13_and_nothing_is_spent() {
    for flags in [&[][..], &["--htlc"]] {
        let world = World::new();
        let Some(disk) = Disk::at(&world.home("disk")) else {
            return;
        };
        let _seller = world.provider("seller", &[]);
        let codes = buy_with_little_room(&world, &disk, flags, (5, 0, 720), "disk/");
        for code in codes.0.keys() {
            // A purchase that finds room to begin finds room to end.
            assert!([0, 13].contains(code), "{:?}", codes.0);
        }
        assert!(codes.0.contains_key(&13), "{:?}", codes.0);
    }
}

/// Where an open purchase keeps room: the lock files of this home.
fn locks(world: &World, home: &str) -> Vec<PathBuf> {
    let owners = world.home(home).join("customer").join("owners");
    let files = std::fs::read_dir(owners).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// Stops a purchase when it says `event`, fills the disk to all but `kib`, and lets it go on.
fn buy_and_fill(
    world: &World,
    disk: &Disk,
    (home, flags): (&str, &[&str]),
    event: &str,
    (kib, keeps_room): (u64, bool),
) -> Option<(i32, Value)> {
    let prompt = "one two three";
    let mut buy = world.customer(home, &["--json", "--prompt", prompt, "--timeout", "10"]);
    let mut buying = Running::start(buy.args(flags));
    let wanted = format!("\"event\":\"{event}\"");
    buying.wait_for(event, |line| line.contains(&wanted).then_some(()));
    buying.signal("STOP");
    if !keeps_room {
        locks(world, home)
            .iter()
            .for_each(|it| Disk::steal_room(it));
    }
    disk.leave(kib);
    buying.signal("CONT");
    let last = last_line(&mut buying);
    let code = buying.exit_code();
    disk.free();
    Some((code.unwrap(), last))
}

#[test]
fn a_disk_that_fills_up_while_a_purchase_is_under_way_takes_nothing_from_it() {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("disk")) else {
        return;
    };
    let _seller = world.provider("seller", &["--stream"]);
    let home = "disk/buyer";
    for (flags, events) in [
        (&[][..], ["requested", "quoted", "paying", "paid", "chunk"]),
        (
            &["--htlc"],
            ["requested", "reserved", "locked", "chunk", "released"],
        ),
    ] {
        for event in events {
            let (code, last) =
                buy_and_fill(&world, &disk, (home, flags), event, (0, true)).unwrap();
            assert_eq!(code, 0, "{event}: {last}");
            assert_one_story(&world, home);
        }
    }
}

#[test]
fn a_disk_that_fills_up_with_the_room_that_was_kept_loses_no_money() {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("disk")) else {
        return;
    };
    let _seller = world.provider("seller", &["--stream"]);
    let mut codes = Codes::default();
    let home = "disk/buyer";
    world.buy(home, &["--prompt", "before"]).expect(0);
    for (n, kib) in amounts(3, 0, 100).enumerate() {
        for (flags, event) in [
            (&[][..], "requested"),
            (&[], "quoted"),
            (&[], "paying"),
            (&[], "paid"),
            (&["--htlc"], "requested"),
            (&["--htlc"], "reserved"),
            (&["--htlc"], "locked"),
            (&["--htlc"], "chunk"),
        ] {
            let before = gone(&world, home);
            let stage = (home, flags);
            let (code, last) = buy_and_fill(&world, &disk, stage, event, (kib, false)).unwrap();
            println!("{n} {kib} KiB, {event}: {code} {}", last["message"]);
            codes.ended(&world, home, before, code, &last);
        }
    }
    println!("exit codes and how often: {:?}", codes.0);
    assert!(codes.0.contains_key(&6) || codes.0.contains_key(&7));
}

#[test]
fn a_full_disk_of_the_play_money_bank_loses_no_money() {
    for (flags, offset) in [(&[][..], 2), (&["--htlc"][..], 4)] {
        let world = World::new();
        let vault = world.home("vault");
        let Some(disk) = Disk::at(&vault) else {
            return;
        };
        // The file is on the disk, and what SQLite puts beside it too.
        world.provider_balance("seller");
        let file = vault.join("bank.sqlite");
        std::fs::copy(world.bank(), &file).unwrap();
        std::fs::remove_file(world.bank()).unwrap();
        std::os::unix::fs::symlink(&file, world.bank()).unwrap();
        let _seller = world.provider("seller", &[]);
        buy_with_little_room(&world, &disk, flags, (4, offset, 120), "");
    }
}

#[test]
fn one_full_disk_for_all_of_them_loses_no_money() {
    for (flags, offset) in [(&[][..], 0), (&["--htlc"][..], 3)] {
        let world = World::new();
        let Some(disk) = Disk::at(world.dir.path()) else {
            return;
        };
        let _seller = world.provider("seller", &[]);
        buy_with_little_room(&world, &disk, flags, (4, offset, 800), "");
    }
}

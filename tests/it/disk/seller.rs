//! The seller's disk: what is paid is done and comes to be on record, and what can't be is not quoted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Disk, amounts};
use crate::crash::{OPENING_BALANCE, PRICE, assert_one_story, in_state, jobs, settle};
use crate::harness::{World, eventually};

/// Sells from a home on `disk` with every amount of room, to customers who have all the room they want.
fn sell_with_little_room(flags: &[&str], (steps, offset, most): (u64, u64, u64)) {
    let world = World::new();
    let Some(disk) = Disk::at(&world.home("seller")) else {
        return;
    };
    let mut seller = world.provider("seller", &["--stream"]);
    let mut codes = BTreeMap::new();
    let mut homes = BTreeSet::new();
    for (n, kib) in amounts(steps, offset, most).enumerate() {
        // A customer has so many unpaid quotes.
        let home = format!("buyer-{}", n / 8);
        let mut args = vec!["--timeout", "5", "--prompt", "one two three"];
        args.extend(flags);
        if n > 0 {
            Disk::steal_room(&world.home("seller").join("provider/jobs.sqlite.lock"));
        }
        disk.leave(kib);
        let ran = world.buy(&home, &args);
        *codes.entry(ran.code).or_insert(0) += 1;
        assert!([0, 10].contains(&ran.code), "{kib} KiB left: {ran:#?}");
        // Some die with their disk full.
        if n % 3 == 2 {
            seller.process.kill();
            disk.free();
            seller = world.provider("seller", &["--stream"]);
        }
        disk.free();
        // Without a new start: all that was paid comes to be on record, and the next job is done.
        world.buy(&home, &args).expect(0);
        settle(&world, &home);
        homes.insert(home);
        let delivered = || {
            let jobs = jobs(&world, "seller");
            let paid = world.provider_balance("seller") - OPENING_BALANCE;
            let done = in_state(&jobs, "delivered").len() + in_state(&jobs, "settled").len();
            done as u64 == paid / PRICE
        };
        eventually("every paid job is on record as delivered", delivered);
    }
    println!("exit codes and how often: {codes:?}");
    // What a full disk refused at first: without such a one nothing was tried here.
    assert!(codes.contains_key(&10), "{codes:?}");
    let spent: u64 = homes
        .iter()
        .map(|home| assert_one_story(&world, home))
        .sum();
    assert_eq!(
        world.provider_balance("seller"),
        OPENING_BALANCE + spent,
        "what the customers paid is what the seller has"
    );
}

#[test]
fn a_seller_with_a_full_disk_does_what_is_paid_and_sells_on_when_there_is_room() {
    sell_with_little_room(&[], (6, 1, 160));
}

#[test]
fn a_seller_in_escrow_with_a_full_disk_does_what_is_held_and_sells_on_when_there_is_room() {
    sell_with_little_room(&["--htlc"], (6, 2, 160));
}

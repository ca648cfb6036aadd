//! The same with the money in escrow: whoever dies, stands still or comes too late, what is delivered and
//! released is settled, what is not delivered comes back, and nobody's books say anything else.

mod chance;
mod crowd;
mod ended;
mod faults;
mod stages;
mod stopped;
mod undone;
mod wire;

use std::time::Duration;

use super::*;
use crate::harness::{Running, eventually};

const TEXT: &str = "one two three";

/// A provider that reports each step of each job on its standard output.
struct Seller(Running);

impl Seller {
    fn start(world: &World, args: &[&str]) -> Self {
        Self::on(
            &world.relay,
            world,
            &[&["--backend", "echo"], args].concat(),
        )
    }

    fn on(relay: &str, world: &World, args: &[&str]) -> Self {
        let fixed = ["--json", "--relay", relay, "--wallet", "sim"];
        let mut command = world.bare_provider("seller", &fixed);
        command.args(["--create-channel", "--stream"]);
        let mut process = Running::start(command.args(args));
        process.wait_for("ready", reached("ready"));
        Self(process)
    }

    /// Killed, and back at once.
    fn kill_and_restart(&mut self, world: &World) {
        self.0.kill();
        *self = Self::start(world, &[]);
    }
}

/// Takes the line in which `--json` tells this event.
fn reached(event: &str) -> impl Fn(&str) -> Option<()> {
    let wanted = format!("\"event\":\"{event}\"");
    move |line| line.contains(&wanted).then_some(())
}

fn start_buying(world: &World, home: &str, args: &[&str]) -> Running {
    let fixed = ["--json", "--htlc", "--prompt", TEXT];
    let mut command = world.customer(home, &fixed);
    Running::start(command.args(args))
}

/// Every other purchase says its words in public.
fn in_public(n: usize) -> &'static [&'static str] {
    if n.is_multiple_of(2) {
        &[]
    } else {
        &["--plaintext"]
    }
}

/// Waits until the seller has no job any more that somebody's money is locked for, or that is owed.
fn until_sold(world: &World) {
    let mut open = Vec::new();
    let begun = std::time::Instant::now();
    loop {
        open.clear();
        open.extend(jobs(world, "seller").into_iter().filter(|job| {
            let over = [
                "settled",
                "returned",
                "delivered",
                "quoted",
                "expired",
                "cancelled",
            ];
            !over.contains(&job["state"].as_str().unwrap())
        }));
        if open.is_empty() {
            return;
        }
        assert!(begun.elapsed() < crate::harness::PATIENCE, "{open:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Recovers, and checks that customer, seller and bank tell one story in which everything that was paid
/// for was delivered. Returns what was spent.
fn assert_all_delivered(world: &World, home: &str) -> u64 {
    settle(world, home);
    let spent = assert_one_story(world, home);
    let purchases = history(world, home);
    assert_eq!(in_state(&purchases, "undelivered"), [] as [&Value; 0]);
    for purchase in in_state(&purchases, "delivered") {
        assert_eq!(show(world, home, purchase)["text"], TEXT, "{purchase}");
    }
    until_sold(world);
    spent
}

/// What is held at the bank right now, in msat.
fn held_at_bank(world: &World) -> u64 {
    agent_compute::wallet::sim::audit(&world.bank())
        .unwrap()
        .held
        .get()
}

/// Lets the time of everything that is held be over. Whoever touches the bank next gives it back.
fn end_all_holds(world: &World) {
    let bank = Connection::open(world.bank()).unwrap();
    bank.busy_timeout(Duration::from_secs(10)).unwrap();
    let over = "UPDATE payment SET hold_deadline = 1 WHERE state = 'held'";
    bank.execute(over, []).unwrap();
}

//! Buyers with homes of their own, and sellers, on one relay and one bank.

use std::sync::atomic::{AtomicUsize, Ordering};

use nostr::Keys;

use super::*;

/// What a buyer may spend in all: one job. A second payment, or one that is set aside twice, is refused.
const ONE_JOB: &str =
    "[runway]\ndaily_limit_sats = 10\nper_tick_limit_sats = 10\nper_job_limit_sats = 10\n";

/// A relay, a bank, and everybody's homes.
pub(super) struct Market {
    pub(super) world: World,
    homes: AtomicUsize,
}

/// Somebody with a home and a key.
#[derive(Clone)]
pub(super) struct Party {
    pub(super) home: String,
    pub(super) keys: Keys,
}

impl Party {
    pub(super) fn key(&self) -> String {
        self.keys.public_key().to_hex()
    }

    fn is(&self, command: &mut Command) {
        let secret = self.keys.secret_key().to_secret_hex();
        command.env("NOSTR_SECRET_KEY", secret);
    }
}

impl Market {
    pub(super) fn new() -> Self {
        Self {
            world: World::new(),
            homes: AtomicUsize::new(0),
        }
    }

    /// Somebody who was never here.
    pub(super) fn party(&self, what: &str) -> Party {
        let number = self.homes.fetch_add(1, Ordering::Relaxed);
        Party {
            home: format!("{what}-{number}"),
            keys: Keys::generate(),
        }
    }

    /// A buyer who may spend the price of one job, and no more.
    pub(super) fn buyer(&self) -> Party {
        let buyer = self.party("buyer");
        self.world.config(&buyer.home, ONE_JOB);
        buyer
    }

    /// Such a buyer, who keeps so much that nothing can be spent.
    pub(super) fn thrifty_buyer(&self) -> Party {
        let buyer = self.party("buyer");
        let keeps = format!("{ONE_JOB}reserve_sats = 99995\n");
        self.world.config(&buyer.home, &keeps);
        buyer
    }

    /// Lets a thrifty buyer spend.
    pub(super) fn loosen(&self, buyer: &Party) {
        self.world.config(&buyer.home, ONE_JOB);
    }

    pub(super) fn customer(&self, buyer: &Party, args: &[&str]) -> Command {
        let mut command = self.world.customer(&buyer.home, &["--json"]);
        buyer.is(&mut command);
        command.args(args);
        command
    }

    /// A purchase of `seller`, the same each time it is under the same key.
    pub(super) fn buy(
        &self,
        buyer: &Party,
        seller: &str,
        key: Option<&str>,
        kind: &[&str],
    ) -> Command {
        let mut command = self.buy_anywhere(buyer, key, kind);
        command.args(["--select", seller]);
        command
    }

    /// A purchase of whoever is cheapest.
    pub(super) fn buy_anywhere(&self, buyer: &Party, key: Option<&str>, kind: &[&str]) -> Command {
        let mut command = self.customer(buyer, &[]);
        command.args(key.into_iter().flat_map(|key| ["--idempotency-key", key]));
        for default in [["--timeout", "50"], ["--prompt", TEXT]] {
            if !kind.contains(&default[0]) {
                command.args(default);
            }
        }
        command.args(kind);
        command
    }

    /// A provider, not started yet.
    pub(super) fn seller(&self, seller: &Party, args: &[&str]) -> Command {
        let fixed = ["--json", "--relay", &self.world.relay, "--wallet", "sim"];
        let mut command = self.world.bare_provider(&seller.home, &fixed);
        seller.is(&mut command);
        command.args(["--create-channel", "--stream"]);
        if !args.contains(&"--backend") {
            command.args(["--backend", "echo"]);
        }
        command.args(args);
        command
    }

    /// A provider that is ready.
    pub(super) fn sell(&self, seller: &Party, args: &[&str]) -> Running {
        let mut process = Running::start(&mut self.seller(seller, args));
        until_ready(&mut process);
        process
    }
}

pub(super) fn until_ready(seller: &mut Running) {
    seller.wait_for("ready", |line| {
        line.contains("\"event\":\"ready\"").then_some(())
    });
}

/// Waits for the end of a process; `None`: it goes on.
pub(super) fn end_within(process: &mut Running, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    loop {
        let ended = process.child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > until {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Where the attacks take place: a relay in this process, one bank, and customers that are child
//! processes with homes of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::Home;
use agent_compute::identity::Identity;
use agent_compute::ids::JobId;
use agent_compute::ledger::{HistoryQuery, Ledger, Limits, Scope, Status};
use agent_compute::market::Select;
use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::{Keys, PublicKey};
use serde_json::Value;

use crate::cast::Peer;
use crate::harness::{Provider, Ran, Running, World, assert_conserved, run};
use crate::receipts::assert_receipts;

/// The bound of everything that should happen at once. Machines are shared.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What an account opens with, in msat.
pub(crate) const OPENING: u64 = 100_000_000;

/// What our fake providers list, in msat.
pub(crate) const PRICE: u64 = 10_000;

/// The home of the real provider.
const SELLER: &str = "seller";

/// A relay, a bank and everybody's homes.
pub(crate) struct Stage {
    pub(crate) relay: EmbeddedRelay,
    pub(crate) world: World,
    customers: AtomicUsize,
}

/// One customer: a home and a key.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) home: String,
    pub(crate) keys: Keys,
}

/// What a customer's ledger and bank account say, in msat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) spent: u64,
    pub(crate) reserved: u64,
    pub(crate) unknown: u64,
    /// What is missing from the account.
    pub(crate) gone: u64,
}

impl Books {
    /// Paid for good, and nothing open.
    pub(crate) const fn paid(msat: u64) -> Self {
        Self {
            spent: msat,
            reserved: 0,
            unknown: 0,
            gone: msat,
        }
    }

    /// Nothing was ever paid.
    pub(crate) const fn untouched() -> Self {
        Self::paid(0)
    }

    /// Set aside for a payment in doubt, which has left the account.
    pub(crate) const fn in_doubt(msat: u64) -> Self {
        Self {
            spent: 0,
            reserved: msat,
            unknown: msat,
            gone: msat,
        }
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let relay = EmbeddedRelay::listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let relay = relay.await.unwrap();
        Self {
            world: World::on(relay.url().to_string()),
            relay,
            customers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn session(&self) -> Arc<RelayPoolSession> {
        RelayPoolSession::connect(&[self.relay.url()], PoolOptions::default()).unwrap()
    }

    pub(crate) fn wallet(&self, of: PublicKey) -> SimWallet {
        SimWallet::open(&self.world.bank(), of, SimOptions::default()).unwrap()
    }

    /// A customer who has never bought anything.
    pub(crate) fn customer(&self) -> Customer {
        let number = self.customers.fetch_add(1, Ordering::Relaxed);
        Customer {
            home: format!("customer-{number}"),
            keys: Keys::generate(),
        }
    }

    /// `agent-customer` of this customer, not started yet.
    pub(crate) fn command(&self, customer: &Customer, args: &[&str]) -> Command {
        let mut command = self.world.customer(&customer.home, args);
        command.env(
            "NOSTR_SECRET_KEY",
            customer.keys.secret_key().to_secret_hex(),
        );
        command
    }

    /// Runs `agent-customer` to its end.
    pub(crate) async fn run(&self, customer: &Customer, args: &[&str]) -> Ran {
        let mut command = self.command(customer, args);
        let running = tokio::task::spawn_blocking(move || run(&mut command));
        running.await.unwrap()
    }

    /// Buys from this provider, with `--json`.
    pub(crate) async fn buy(&self, customer: &Customer, from: PublicKey, args: &[&str]) -> Ran {
        let from = from.to_hex();
        let fixed = ["--json", "--select", &from, "--prompt", "hello"];
        self.run(customer, &[&fixed, args].concat()).await
    }

    /// `recover`, with `--json`.
    pub(crate) async fn recover(&self, customer: &Customer) -> Ran {
        self.run(customer, &["--json", "recover"]).await
    }

    /// A customer as an agent has it: in this process.
    pub(crate) async fn client(&self, customer: &Customer) -> ComputeClient {
        let builder = ComputeClient::builder()
            .home(Home::at(self.world.home(&customer.home)))
            .identity(Identity::from_keys(customer.keys.clone()))
            .relays(self.relay.url())
            .wallet(Arc::new(self.wallet(customer.keys.public_key())));
        builder.build().await.unwrap()
    }

    /// What a client of this process asks of this provider.
    pub(crate) fn request(&self, from: &Peer) -> PurchaseRequest {
        PurchaseRequest {
            select: Select::Provider(from.key().to_hex().parse().unwrap()),
            ..PurchaseRequest::new("hello")
        }
    }

    fn ledger_folder(&self, customer: &Customer) -> PathBuf {
        self.world.home(&customer.home).join("customer")
    }

    /// What ledger and bank say of a customer. The bank as a whole is added up, too.
    pub(crate) async fn books(&self, customer: &Customer) -> Books {
        assert_conserved(&self.world.bank());
        let folder = self.ledger_folder(customer);
        assert_receipts(&folder.join("ledger.sqlite"));
        let ledger = Ledger::open_read_only(&folder, Clock::system())
            .await
            .unwrap();
        let scope = Scope {
            network: Network::Regtest,
            play_money: true,
        };
        let usage = ledger.budget(scope, None, limits()).await.unwrap().usage;
        let history = HistoryQuery {
            scope: None,
            limit: 1000,
        };
        // What each purchase says adds up to what the budget says.
        let records = ledger.history(history).await.unwrap();
        let reservations = || {
            records
                .iter()
                .filter_map(|record| record.reservation.as_ref())
        };
        let spent: u64 = reservations()
            .filter_map(|one| one.spent)
            .map(Msat::get)
            .sum();
        let open = reservations().filter(|one| one.status.is_open());
        let reserved: u64 = open.map(|one| one.set_aside().get()).sum();
        assert_eq!(spent, usage.spent_today.get());
        assert_eq!(reserved, usage.reserved.get());
        let balance = self.wallet(customer.keys.public_key()).balance().await;
        Books {
            spent,
            reserved,
            unknown: usage.unknown.get(),
            gone: OPENING - balance.unwrap().get(),
        }
    }

    /// Waits until a purchase of this customer is on record as delivered.
    pub(crate) async fn until_delivered(&self, customer: &Customer) {
        let folder = self.ledger_folder(customer);
        let ledger = Ledger::open_read_only(&folder, Clock::system())
            .await
            .unwrap();
        let waiting = async {
            loop {
                let latest = HistoryQuery {
                    scope: None,
                    limit: 1,
                };
                let records = ledger.history(latest).await.unwrap();
                if records
                    .iter()
                    .any(|one| one.state.status == Status::Delivered)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("in time");
    }

    /// The real provider, in a process of its own, with this key.
    pub(crate) async fn provider(&self, keys: &Keys, args: &[&str]) -> Provider {
        let args = [&["--backend", "echo", "--wallet", "sim"], args].concat();
        let mut command = self
            .world
            .bare_provider(SELLER, &["--relay", &self.world.relay]);
        command.env("NOSTR_SECRET_KEY", keys.secret_key().to_secret_hex());
        if !args.contains(&"--channel") {
            command.arg("--create-channel");
        }
        command.args(args);
        let starting = tokio::task::spawn_blocking(move || Provider::start(&mut command));
        starting.await.unwrap()
    }

    /// The state of a job in the real provider's books.
    pub(crate) async fn job_state(&self, job: &JobId) -> Option<String> {
        let mut command = self.world.bare_provider(SELLER, &["--json", "jobs"]);
        let running = tokio::task::spawn_blocking(move || run(&mut command).expect(0));
        let jobs = running.await.unwrap().events();
        let found = jobs.iter().find(|one| one["job_id"] == job.as_str());
        found.map(|one| one["state"].as_str().unwrap().to_owned())
    }

    /// What the owner of this key has earned, in msat.
    pub(crate) async fn earned(&self, keys: &Keys) -> u64 {
        let balance = self.wallet(keys.public_key()).balance().await;
        balance.unwrap().get() - OPENING
    }

    /// An honest customer, new each time, is served by this provider; its money is where it should be.
    pub(crate) async fn serves(&self, provider: &Keys) {
        let customer = self.customer();
        let ran = self.buy(&customer, provider.public_key(), &[]).await;
        assert_eq!(ran.expect(0).last()["text"], "hello");
        assert_eq!(self.books(&customer).await, Books::paid(PRICE));
    }

    /// Starts `agent-customer`, to be watched while it runs.
    pub(crate) fn start(&self, customer: &Customer, args: &[&str]) -> Running {
        Running::start(&mut self.command(customer, args))
    }
}

fn limits() -> Limits {
    Limits {
        daily: Msat::MAX,
        per_tick: Msat::MAX,
        per_job: Msat::MAX,
        floor: Msat::ZERO,
    }
}

/// The texts of the `chunk` events.
pub(crate) fn chunks(ran: &Ran) -> Vec<String> {
    let text = |event: Value| event["text"].as_str().unwrap().to_owned();
    let events = ran.events().into_iter();
    events
        .filter(|event| event["event"] == "chunk")
        .map(text)
        .collect()
}

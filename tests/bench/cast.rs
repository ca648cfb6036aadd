//! The market that is measured: relay and seller are processes of their own, as they are in the world; what buys is
//! this process, or a worker.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::config::{Home, Role};
use agent_compute::identity::keystore;
use agent_compute::protocol::Offer;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use tempfile::TempDir;

pub const CUSTOMER: &str = env!("CARGO_BIN_EXE_agent-customer");
pub const PROVIDER: &str = env!("CARGO_BIN_EXE_agent-provider");

/// What a job costs, in msat: an account holds enough for tens of thousands.
pub const PRICE: &str = "1000";

/// Limits that are in nobody's way.
pub const LIMITS: &str = "[runway]\ndaily_limit_sats = 99000\nper_tick_limit_sats = 99000\n";

/// A program that has said that it is ready, and how long that took. Killed when dropped.
pub struct Running {
    pub process: Child,
    pub until_ready: Duration,
    /// The line that it said so with.
    pub line: String,
}

impl Running {
    pub fn start(command: &mut Command, ready: &str) -> Self {
        let begun = Instant::now();
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = loop {
            let line = lines.next().expect("it ended early").unwrap();
            if line.contains(ready) {
                break line;
            }
        };
        let until_ready = begun.elapsed();
        // Whatever else it says is read, so that it does not wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            until_ready,
            line,
        }
    }

    pub fn memory_kib(&self, field: &str) -> Option<u64> {
        super::measure::status(self.process.id(), field)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A relay, a bank and a seller.
pub struct Market {
    dir: TempDir,
    pub relay: String,
    _relay: Running,
    pub seller: Option<Running>,
}

impl Market {
    /// With a seller that repeats what it is asked, and says so chunk by chunk if it `streams`.
    pub fn open(streams: bool) -> Self {
        let mut market = Self::without_seller();
        market.sell(streams);
        market
    }

    pub fn without_seller() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut relay = Command::new(PROVIDER);
        relay
            .args(["relay", "--listen", "127.0.0.1:0"])
            .env("RUST_LOG", "off");
        let relay = Running::start(&mut relay, "ws://");
        Self {
            relay: relay.line.trim().to_owned(),
            _relay: relay,
            seller: None,
            dir,
        }
    }

    /// Starts the seller, again if it was there before.
    pub fn sell(&mut self, streams: bool) {
        self.seller = None;
        let mut sell = self.program(PROVIDER, "seller");
        sell.args([
            "--json",
            "--create-channel",
            "--backend",
            "echo",
            "--price",
            PRICE,
        ]);
        sell.args(["--max-jobs", "64"])
            .args(streams.then_some("--stream"));
        self.seller = Some(Running::start(&mut sell, "\"ready\""));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bank(&self) -> PathBuf {
        self.path("bank.sqlite")
    }

    /// A program at a home of this name, with play money, on the relay.
    pub fn program(&self, program: &str, home: &str) -> Command {
        self.limits(home);
        let mut command = Command::new(program);
        command
            .env("AGENT_COMPUTE_SIM_BANK", self.bank())
            .env("RUST_LOG", "off")
            .args(["--relay", &self.relay, "--wallet", "sim", "--home"])
            .arg(self.path(home))
            .stderr(Stdio::null());
        command
    }

    fn limits(&self, home: &str) {
        std::fs::create_dir_all(self.path(home)).unwrap();
        std::fs::write(self.path(home).join("config.toml"), LIMITS).unwrap();
    }

    /// Buys with a process of its own, and gives its time and its memory at most, in KiB.
    pub fn cold(&self, home: &str, args: &[&str]) -> (Duration, Option<u64>) {
        let mut buy = self.program(CUSTOMER, home);
        buy.args(args).stdout(Stdio::null());
        let begun = Instant::now();
        let most = super::measure::watch(&mut buy.spawn().unwrap());
        (begun.elapsed(), most)
    }

    /// The same, to the end, as fast as the system tells.
    pub fn cold_time(&self, home: &str, args: &[&str]) -> Duration {
        let mut buy = self.program(CUSTOMER, home);
        buy.args(args).stdout(Stdio::null());
        let begun = Instant::now();
        assert!(buy.status().unwrap().success());
        begun.elapsed()
    }

    pub async fn buyer(&self, home: &str) -> ComputeClient {
        self.limits(home);
        buyer(&self.path(home), &self.relay, &self.bank()).await
    }

    /// Commits so far: of the buyer's ledger, the bank, and the seller's jobs.
    pub fn commits(&self, buyer: &str) -> [u64; 3] {
        let files = [
            self.path(buyer).join("customer/ledger.sqlite"),
            self.bank(),
            self.path("seller/provider/jobs.sqlite"),
        ];
        files.map(|file| super::measure::commits(&file))
    }
}

pub async fn buyer(home: &Path, relay: &str, bank: &Path) -> ComputeClient {
    let home = Home::at(home);
    home.make_folder(Role::Customer).unwrap();
    let (identity, _) = keystore::open_or_create(&home.identity_file(Role::Customer)).unwrap();
    let wallet = SimWallet::open(bank, identity.public_key(), SimOptions::default()).unwrap();
    let builder = ComputeClient::builder().home(home).identity(identity);
    let builder = builder.relays(relay).wallet(Arc::new(wallet));
    builder.build().await.unwrap()
}

/// The one seller there is.
pub async fn offer(client: &ComputeClient) -> Offer {
    let offers = client.offers(Duration::from_secs(5)).await.unwrap();
    offers.into_iter().next().expect("a seller")
}

pub fn job(offer: &Offer, prompt: &str) -> PurchaseRequest {
    PurchaseRequest {
        offer: Some(offer.clone()),
        ..PurchaseRequest::new(prompt)
    }
}

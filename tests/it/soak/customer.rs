//! The customer that lives all along: an agent in a process of its own, which is this very test binary.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::config::{Home, Role};
use agent_compute::identity::keystore;
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet};
use futures_util::{StreamExt, stream};

use super::TEXT;
use crate::harness::World;

/// What the child is told by its environment: home, bank and relays.
const PLACE: &str = "AGENT_COMPUTE_TEST_SOAK";

/// Purchases at once.
const AT_ONCE: usize = 8;

/// A child process whose output is read and forgotten, killed when dropped.
pub(super) struct Quiet {
    pub(super) child: Child,
}

impl Quiet {
    /// Ready when it has said so.
    pub(super) fn start(command: &mut Command, ready: &str) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.by_ref().map_while(Result::ok);
        let wanted = format!("\"event\":\"{ready}\"");
        assert!(said.into_iter().any(|line| line.contains(&wanted)));
        std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
        Self { child }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child, from outside.
pub(super) struct Agent {
    pub(super) child: Child,
    tell: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Agent {
    pub(super) fn start(world: &World, relays: &[&str]) -> Self {
        let place = [
            world.home("agent").into_os_string().into_string().unwrap(),
            world.bank().into_os_string().into_string().unwrap(),
            relays.join(","),
        ];
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "soak::customer::child_that_buys_as_it_is_told"])
            .args(["--ignored", "--nocapture"])
            .env(PLACE, place.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            tell: child.stdin.take().unwrap(),
            told: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Has it buy so many jobs, and waits for the last.
    pub(super) fn buy(&mut self, many: u64) {
        writeln!(self.tell, "{many}").unwrap();
        let mut line = String::new();
        while !line.starts_with("bought") {
            line.clear();
            assert!(self.told.read_line(&mut line).unwrap() > 0, "it has died");
        }
        print!("{line}");
    }

    /// Has it end in good order.
    pub(super) fn leave(self) {
        let Self {
            mut child, tell, ..
        } = self;
        drop(tell);
        assert!(child.wait().unwrap().success());
    }
}

/// The clients of the child: one that is well, and one for each fault.
struct Clients(Vec<(Option<Fault>, ComputeClient)>);

impl Clients {
    async fn open(home: &str, bank: &str, relays: &str) -> Self {
        let relays: Vec<String> = relays.split(',').map(str::to_owned).collect();
        let home = Home::at(home);
        home.make_folder(Role::Customer).unwrap();
        let (identity, _) = keystore::open_or_create(&home.identity_file(Role::Customer)).unwrap();
        let mut clients = Vec::new();
        for fault in [
            None,
            Some(Fault::NoPreimage),
            Some(Fault::Refuse),
            Some(Fault::Slow),
            Some(Fault::TimeoutAfter),
        ] {
            let options = SimOptions {
                fault,
                ..SimOptions::default()
            };
            let bank = PathBuf::from(bank);
            let wallet = SimWallet::open(&bank, identity.public_key(), options).unwrap();
            let builder = ComputeClient::builder()
                .home(home.clone())
                .relays(relays.clone());
            let builder = builder.wallet(Arc::new(wallet));
            clients.push((fault, builder.build().await.unwrap()));
        }
        Self(clients)
    }

    /// Who buys the `n`th: mostly the one that is well.
    fn of(&self, n: u64) -> &ComputeClient {
        let fault = match n % 50 {
            7 | 21 | 35 => Some(Fault::NoPreimage),
            13 => Some(Fault::Refuse),
            29 if n % 100 < 50 => Some(Fault::Slow),
            43 if n % 500 < 50 => Some(Fault::TimeoutAfter),
            _ => None,
        };
        let found = self.0.iter().find(|(its, _)| *its == fault);
        &found.unwrap().1
    }

    /// Buys the `n`th job: sealed and plain, paid first and in escrow. The word for how that ended.
    async fn buy(&self, n: u64) -> String {
        let word = "x".repeat(TEXT / 8 - 12);
        let prompt: Vec<String> = (0..8).map(|part| format!("{n}-{part}-{word}")).collect();
        let prompt = prompt.join(" ");
        let request = PurchaseRequest {
            escrow: n.is_multiple_of(2),
            plaintext: n.is_multiple_of(3),
            timeout: Duration::from_secs(30),
            ..PurchaseRequest::new(prompt.clone())
        };
        let purchase = self.of(n).purchase(request);
        if n % 40 == 31 {
            // Given up by its agent in the middle of things.
            tokio::time::sleep(Duration::from_millis(n % 30)).await;
            drop(purchase);
            return "dropped".to_owned();
        }
        match purchase.receipt().await {
            Ok(receipt) if receipt.text == prompt => "delivered".to_owned(),
            Ok(_) => "another text".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    async fn recover(&self) {
        for (_, client) in &self.0 {
            let _ = client.recover().await;
        }
    }
}

/// Not a test of its own: the customer of the one that soaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is run as a child process"]
async fn child_that_buys_as_it_is_told() {
    #[expect(clippy::disallowed_methods, reason = "how its parent tells it")]
    let Some(place) = std::env::var(PLACE).ok() else {
        return;
    };
    let place: Vec<&str> = place.lines().collect();
    let clients = Clients::open(place[0], place[1], place[2]).await;
    let mut done = 0;
    while let Some(many) = tokio::task::block_in_place(|| std::io::stdin().lines().next()) {
        let many: u64 = many.unwrap().parse().unwrap();
        let ended: Vec<String> = stream::iter(done..done + many)
            .map(|n| clients.buy(n))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        done += many;
        clients.recover().await;
        let mut words: BTreeMap<String, usize> = BTreeMap::new();
        for word in ended {
            *words.entry(word).or_default() += 1;
        }
        println!("\nbought {words:?}");
    }
}

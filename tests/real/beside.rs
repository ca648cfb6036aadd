//! The same job beside others, on one relay: a customer and a provider on NDK, a provider on nostr-dvm with a
//! customer on the library below it, and ours.
//!
//! ```text
//! cargo build --release
//! BESIDE_JOBS=50 cargo test --release --workspace --test real beside -- --nocapture
//! ```
//!
//! What is asserted is that each pair does its jobs, never how fast. The times are printed, and written as JSON
//! beside the packages, which are installed where cargo lets its tests write. The pairs are not alike in what they
//! do: ours pays an invoice for each job, in play money, and has each step on the disk of buyer, seller and bank
//! before the next; the others pay nothing and keep nothing. Node.js with npm and Python with venv are needed.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::clock::Clock;
use agent_compute::config::{Home, Role};
use agent_compute::identity::keystore;
use agent_compute::relay::local::EmbeddedRelay;
use agent_compute::wallet::sim::{SimOptions, SimWallet};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a customer's whole process is timed.
const COLD_RUNS: usize = 5;

/// What one pair took, in ms.
struct Row {
    pair: &'static str,
    /// From the start of the customer's process to its end: find the provider, one job.
    cold: f64,
    /// One job by a customer that is up.
    warm: f64,
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn jobs() -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is told how much to measure"
    )]
    let jobs = std::env::var("BESIDE_JOBS");
    jobs.map_or(5, |jobs| jobs.parse().unwrap())
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("beside")
}

/// Where the packages are, and what the programs leave.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beside");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command to its end; what it said, or why not.
fn run(command: &mut Command) -> Result<String, String> {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let [said, complained] = [
        heard(child.stdout.take().unwrap()),
        heard(child.stderr.take().unwrap()),
    ];
    let Ok(said) = said.recv_timeout(PATIENCE) else {
        child.kill().unwrap();
        return Err("it takes too long".to_owned());
    };
    if child.wait().unwrap().success() {
        return Ok(said);
    }
    let complained = complained.recv_timeout(PATIENCE).unwrap_or_default();
    Err(complained.lines().last().unwrap_or("it failed").to_owned())
}

/// All that is written into this.
fn heard(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = from.read_to_end(&mut said);
        tell.send(String::from_utf8_lossy(&said).into_owned())
    });
    told
}

/// The last line of what a customer said: its times.
fn times(command: &mut Command) -> Vec<f64> {
    let said = run(command).unwrap();
    let list = said.lines().last().unwrap_or_default();
    let list = list.trim().trim_start_matches('[').trim_end_matches(']');
    list.split(',')
        .map(|time| time.trim().parse().unwrap())
        .collect()
}

/// A provider that has said that it is ready. Killed when dropped.
struct Selling {
    process: Child,
    /// The words that follow.
    rest: String,
}

impl Selling {
    fn start(command: &mut Command, ready: &'static str) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        // It reads on, so that the provider never waits for us.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(ready) {
                    let _ = tell.send(rest.trim().to_owned());
                }
            }
        });
        let rest = told.recv_timeout(PATIENCE).unwrap();
        Self { process, rest }
    }
}

impl Drop for Selling {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pair of programs that are started alike: `PROGRAM provider RELAY`, `PROGRAM customer RELAY KEY JOBS`.
fn pair(name: &'static str, program: &[&str], relay: &str) -> Row {
    let start = |args: &[&str]| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(args).current_dir(folder());
        command
    };
    let selling = Selling::start(&mut start(&["provider", relay]), "ready ");
    let key = selling.rest.as_str();
    let jobs = jobs();
    let warm = times(&mut start(&["customer", relay, key, &jobs.to_string()]));
    assert_eq!(warm.len(), jobs, "{name}");
    let mut cold = Vec::new();
    for _ in 0..COLD_RUNS {
        let begun = Instant::now();
        assert_eq!(times(&mut start(&["customer", relay, key, "1"])).len(), 1);
        cold.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Row {
        pair: name,
        cold: median(cold),
        warm: median(warm),
    }
}

fn ndk(relay: &str) -> Option<Row> {
    let folder = folder();
    for file in ["package.json", "ndk.mjs"] {
        std::fs::copy(scripts().join(file), folder.join(file)).unwrap();
    }
    let mut install = Command::new("npm");
    install
        .args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
        .current_dir(&folder);
    if let Err(why) = run(&mut install) {
        println!("SKIPPED: NDK can't be installed here: {why}");
        return None;
    }
    Some(pair("NDK", &["node", "ndk.mjs"], relay))
}

fn nostr_dvm(relay: &str) -> Option<Row> {
    let folder = folder();
    let python = folder.join("venv/bin/python");
    let python = python.to_str().unwrap();
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "venv"]).current_dir(&folder);
    let mut install = Command::new(python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(scripts().join("requirements.txt"));
    for step in [&mut make, &mut install] {
        if let Err(why) = run(step) {
            println!("SKIPPED: nostr-dvm can't be installed here: {why}");
            return None;
        }
    }
    std::fs::copy(scripts().join("dvm.py"), folder.join("dvm.py")).unwrap();
    Some(pair("nostr-dvm", &[python, "dvm.py"], relay))
}

/// Our programs, as they were built last beside this test.
async fn ours(relay: &str) -> Option<Row> {
    let built = std::env::current_exe().unwrap();
    let built = built.ancestors().nth(2).unwrap();
    let (customer, seller) = (built.join("agent-customer"), built.join("agent-provider"));
    if !customer.exists() || !seller.exists() {
        println!("SKIPPED: our programs are not built: cargo build makes them");
        return None;
    }
    let home = tempfile::tempdir().unwrap();
    let bank = home.path().join("bank.sqlite");
    let program = |program: &Path, folder: &str| {
        let mut command = Command::new(program);
        command
            .env("AGENT_COMPUTE_SIM_BANK", &bank)
            .env("RUST_LOG", "off")
            .args(["--relay", relay, "--wallet", "sim", "--home"])
            .arg(home.path().join(folder));
        command
    };
    let mut sell = program(&seller, "seller");
    sell.args([
        "--json",
        "--create-channel",
        "--backend",
        "echo",
        "--price",
        "1000",
    ]);
    let _selling = Selling::start(&mut sell, "\"ready\"");

    let mut cold = Vec::new();
    // Once more, for what is made on the first day only.
    for nth in 0..=COLD_RUNS {
        let prompt = format!("What is the capital of country {nth}?");
        let mut buy = program(&customer, "passer-by");
        buy.args(["--discover", "--prompt", &prompt]);
        let begun = Instant::now();
        let said = run(&mut buy).unwrap();
        cold.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(said.trim(), prompt);
    }
    cold.remove(0);

    let agent = Home::at(home.path().join("agent"));
    agent.make_folder(Role::Customer).unwrap();
    let (identity, _) = keystore::open_or_create(&agent.identity_file(Role::Customer)).unwrap();
    let wallet = SimWallet::open(&bank, identity.public_key(), SimOptions::default()).unwrap();
    let builder = ComputeClient::builder().home(agent).identity(identity);
    let builder = builder.relays(relay).wallet(Arc::new(wallet));
    let client = builder.build().await.unwrap();
    let offers = client.offers(PATIENCE).await.unwrap();
    let offer = offers.first().unwrap();
    let mut warm = Vec::new();
    for nth in 0..jobs() {
        let prompt = format!("What is the capital of country {nth}?");
        let begun = Instant::now();
        let buying = client.purchase(PurchaseRequest {
            offer: Some(offer.clone()),
            ..PurchaseRequest::new(&prompt)
        });
        assert_eq!(buying.receipt().await.unwrap().text, prompt);
        warm.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    client.close().await;
    Some(Row {
        pair: "agent-compute",
        cold: median(cold),
        warm: median(warm),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_others_on_one_relay() {
    let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let url = relay.url().to_string();
    let rows = [ours(&url).await, ndk(&url), nostr_dvm(&url)];
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    println!(
        "| {} jobs each | cold: process, discovery, one job | one job, warm |",
        jobs()
    );
    println!("|---|---:|---:|");
    let mut json = Vec::new();
    for Row { pair, cold, warm } in &rows {
        println!("| {pair} | {cold:.1} ms | {warm:.1} ms |");
        json.push(format!(
            r#"{{"pair":"{pair}","cold_ms":{cold:.3},"warm_ms":{warm:.3}}}"#
        ));
    }
    let (at, machine) = (Clock::system().now().get(), machine());
    let rows = json.join(",");
    let json = format!("{{\"at\":{at},\"machine\":\"{machine}\",\"rows\":[{rows}]}}\n");
    std::fs::write(folder().join("beside.json"), json).unwrap();
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = info
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let names: Vec<&str> = names
        .map(|name| name.trim_start_matches([':', '\t', ' ']))
        .collect();
    let name = names
        .first()
        .copied()
        .unwrap_or("unknown")
        .replace('"', "'");
    format!("{name}, {} cores", names.len())
}

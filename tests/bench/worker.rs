//! What the bench does in processes of its own: this very program, asked by `--worker`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, PurchaseId, WalletId};
use agent_compute::ledger::{
    Entry, Ledger, Limits, NewPurchase, Opened, Reserve, Scope, StateRow, Status,
};
use agent_compute::units::{Msat, Network};
use nostr::PublicKey;
use tokio::task::JoinSet;

use super::cast::{LIMITS, buyer, job, offer};
use super::floor::{Bare, pong};
use super::measure::{Samples, ms, status};

/// Runs a worker, if that is what this process is for.
pub fn asked(args: &[String]) -> Option<()> {
    let [flag, what, rest @ ..] = args else {
        return None;
    };
    if flag != "--worker" {
        return None;
    }
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (what.as_str(), &rest[..]) {
        ("pong", [relay, of]) => block_on(pong(relay, PublicKey::from_hex(of).unwrap())),
        ("bare", [file, times]) => {
            let mut bare = Bare::open(Path::new(file));
            told_to_begin();
            bare.commit(times.parse().unwrap());
        }
        ("ledger", [folder, times]) => {
            let times = times.parse().unwrap();
            block_on(async {
                let ledger = Ledger::open(Path::new(folder), Clock::system())
                    .await
                    .unwrap();
                told_to_begin();
                for _ in 0..times {
                    reserve_and_settle(&ledger).await;
                }
            });
        }
        ("crowd", [home, relay, bank, at_once, rounds]) => {
            let (at_once, rounds) = (at_once.parse().unwrap(), rounds.parse().unwrap());
            block_on(crowd(
                Path::new(home),
                relay,
                Path::new(bank),
                at_once,
                rounds,
            ));
        }
        other => panic!("no such worker: {other:?}"),
    }
    Some(())
}

/// On one thread, as `agent-customer` works, the floors too: what is passed between threads is the system's to time.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

/// All workers of a row begin at once: each says that it is ready, and waits for its stdin to end.
fn told_to_begin() {
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// So many of the same worker, from the moment all are ready until the last is done.
pub fn all_at_once(count: usize, args: &[&str]) -> Duration {
    use std::io::BufRead as _;
    let mut workers: Vec<_> = (0..count)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .arg("--worker")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for worker in &mut workers {
        let mut line = String::new();
        let stdout = worker.stdout.as_mut().unwrap();
        std::io::BufReader::new(stdout)
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready");
    }
    let begun = Instant::now();
    for worker in &mut workers {
        drop(worker.stdin.take());
    }
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    begun.elapsed()
}

/// What a purchase does with the ledger between its intent and its end, if all goes well: on record, set aside,
/// booked. Three commits.
pub async fn reserve_and_settle(ledger: &Ledger) {
    let state = |status: Status| StateRow {
        json: format!("{{\"v\":1,\"text\":\"{}\"}}", "x".repeat(1_480)),
        label: status.as_str().to_owned(),
        status,
    };
    let id = PurchaseId::from_bytes(rand::random());
    let new = NewPurchase {
        id,
        scope: Scope {
            network: Network::Regtest,
            play_money: true,
        },
        tick: None,
        idempotency: None,
        state: state(Status::Open),
    };
    let Opened::New(record) = ledger.open_purchase(new).await.unwrap() else {
        panic!("there already");
    };
    let reserve = Entry::Reserve(Reserve {
        price: Msat::new(1),
        fee_cap: Msat::ZERO,
        payment_hash: PaymentHash::from_bytes(rand::random()),
        wallet: WalletId {
            kind: "sim".to_owned(),
            account: "bench".to_owned(),
        },
        limits: Limits {
            daily: Msat::MAX,
            per_tick: Msat::MAX,
            per_job: Msat::MAX,
            floor: Msat::ZERO,
        },
        seen: None,
    });
    let entries = vec![reserve, Entry::InFlight];
    let version = ledger.commit(id, record.version, state(Status::Open), entries);
    let version = version.await.unwrap();
    let settle = Entry::Settle {
        price: Msat::new(1),
        fee: Msat::ZERO,
    };
    let ended = ledger.commit(id, version, state(Status::Delivered), vec![settle]);
    ended.await.unwrap();
}

/// How many purchases one key makes at once: a seller quotes no customer many more.
const OF_ONE_KEY: usize = 64;

/// So many purchases at once by this process, a few rounds of them: `PURCHASES_PER_SECOND P50_MS PEAK_KIB`.
async fn crowd(home: &Path, relay: &str, bank: &Path, at_once: usize, rounds: usize) {
    let mut clients = Vec::new();
    for nth in 0..at_once.div_ceil(OF_ONE_KEY) {
        let home = home.join(nth.to_string());
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("config.toml"), LIMITS).unwrap();
        clients.push(buyer(&home, relay, bank).await);
    }
    let offer = offer(&clients[0]).await;
    for client in &clients {
        let warm = client.purchase(job(&offer, "warm"));
        warm.receipt().await.unwrap();
    }
    let mut samples = Samples::default();
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    for nth in 0..at_once * rounds {
        if under_way.len() == at_once {
            samples.take(under_way.join_next().await.unwrap().unwrap());
        }
        let client = clients[nth % clients.len()].clone();
        let wanted = job(&offer, "What is the capital of France?");
        under_way.spawn(async move {
            let begun = Instant::now();
            client.purchase(wanted).receipt().await.unwrap();
            begun.elapsed()
        });
    }
    while let Some(time) = under_way.join_next().await {
        samples.take(time.unwrap());
    }
    let rate = samples.len() as f64 / begun.elapsed().as_secs_f64();
    let peak = status(std::process::id(), "VmHWM:").unwrap_or(0);
    println!("{rate} {} {peak}", ms(samples.p50()));
}

/// Runs [`crowd`]: purchases a second, the median of their times in ms, and the most memory in KiB.
pub fn of_a_crowd(market: &super::cast::Market, at_once: usize, rounds: usize) -> [f64; 3] {
    let home = market.path(&format!("crowd-{at_once}"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--worker", "crowd"])
        .arg(&home)
        .arg(&market.relay)
        .arg(market.bank())
        .args([at_once, rounds].map(|number| number.to_string()))
        .env("RUST_LOG", "off")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = said
        .split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect();
    let problem = String::from_utf8_lossy(&output.stderr);
    numbers
        .try_into()
        .unwrap_or_else(|_| panic!("{said} {problem}"))
}

//! Thousands of jobs with faults on: both programs take no more memory, threads and file handles for the
//! last than for the first, and the books still tell one story.
//!
//! A provider and a customer live all along, and customers come for one purchase each; some of these are
//! killed. One of two relays dies and comes back, the wire to the other loses chunks, wallets have faults. `SOAK_JOBS=10000` makes
//! it long: `SOAK_JOBS=10000 cargo test --release --test it soak -- --nocapture`.

mod customer;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use self::wire::Wire;
use crate::crash::{Moments, identity, paid_at_bank, settle};
use crate::env::number;
use crate::harness::{Running, World, assert_conserved, eventually, run};
use crate::receipts::assert_receipts;

/// How many jobs the suite has patience for.
const USUALLY: u64 = 150;

/// What a job costs here, in msat: an account holds enough for all of them.
const PRICE: u64 = 1_000;

/// Bytes of a job's prompt, and of its result.
const TEXT: usize = 8 * 1024;

/// What a program may grow by for reasons of its own: caches that fill up, and how its memory is cut. The
/// customer is five clients in one process: between the 30th job and the 150th it grows by 9 MiB, a quarter
/// of that by how the allocator cuts, and after the 480th no more.
const SLACK_KIB: u64 = 14 * 1024;

/// What it may grow by for each job: an eighth of one copy of its texts.
const PER_JOB_BYTES: u64 = (2 * TEXT / 8) as u64;

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Vitals {
    resident_kib: u64,
    threads: u64,
    handles: u64,
}

impl Vitals {
    fn of(process: &Child) -> Self {
        let proc = format!("/proc/{}", process.id());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let words = line.unwrap().split_whitespace().nth(1);
            words.unwrap().parse().unwrap()
        };
        Self {
            resident_kib: field("VmRSS:"),
            threads: field("Threads:"),
            handles: fs::read_dir(format!("{proc}/fd")).unwrap().count() as u64,
        }
    }
}

/// What one of the programs took at each checkpoint, and how many jobs there had been.
struct Course {
    name: &'static str,
    seen: Vec<(u64, Vitals)>,
}

impl Course {
    const fn of(name: &'static str) -> Self {
        Self {
            name,
            seen: Vec::new(),
        }
    }

    fn note(&mut self, jobs: u64, process: &Child) {
        let vitals = Vitals::of(process);
        println!("after {jobs} jobs the {} takes {vitals:?}", self.name);
        self.seen.push((jobs, vitals));
    }

    fn assert_flat(&self) {
        let (from, first) = self.seen[0];
        let (to, last) = self.seen[self.seen.len() - 1];
        let jobs = to - from;
        let grown = last.resident_kib.saturating_sub(first.resident_kib);
        let allowed = SLACK_KIB + jobs * PER_JOB_BYTES / 1024;
        println!(
            "the {} grew by {grown} KiB over {jobs} jobs, {} bytes each; {allowed} KiB are allowed",
            self.name,
            grown * 1024 / jobs.max(1)
        );
        assert!(grown <= allowed, "the {} grows: {:?}", self.name, self.seen);
        // A few come and go with connections and with what waits at the moment.
        for (what, first, last) in [
            ("threads", first.threads, last.threads),
            ("handles", first.handles, last.handles),
        ] {
            assert!(
                last <= first + 16,
                "the {} keeps {what}: {:?}",
                self.name,
                self.seen
            );
        }
    }
}

/// Customers that come for one purchase each, and a relay that dies now and then, until told to stop.
fn come_and_go(world: &World, mortal: &mut World, enough: &AtomicBool, deaths: u64) {
    let mut moments = Moments::of("soak");
    let mut killed = 0;
    for round in 0u64.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let words = ["--json", "--prompt", "a cold one", "--timeout", "20"];
        let mut buy = world.customer("passers-by", &words);
        buy.args(["--relay", &mortal.relay]);
        buy.args((round % 2 == 0).then_some("--htlc"));
        buy.args((round % 3 == 0).then_some("--plaintext"));
        let mut buying = Running::start(buy.stderr(Stdio::null()));
        if moments.one_in(3) {
            moments.pass(Duration::from_millis(150));
            buying.kill();
            killed += 1;
        } else {
            buying.exit_code();
        }
        if round < deaths {
            mortal.restart_relay();
        }
    }
    println!("{killed} passers-by were killed");
}

/// What a database holds, as `SELECT` says it.
fn column(file: &std::path::Path, sql: &str) -> Vec<String> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut select = db.prepare(sql).unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Ledger and bank agree about a home, payment by payment, and nothing is open. Says how many there were.
fn assert_books(world: &World, home: &str) -> usize {
    settle(world, home);
    let file = world.home(home).join("customer").join("ledger.sqlite");
    assert_receipts(&file);
    let settled = "SELECT payment_hash FROM reservations WHERE status = 'settled'";
    let booked: BTreeSet<String> = column(&file, settled).into_iter().collect();
    let paid = paid_at_bank(world, &identity(world, home));
    assert_eq!(booked, paid.keys().cloned().collect());
    let (spent, reserved, unknown) = world.daily(home);
    assert_eq!(
        (spent, reserved, unknown),
        (booked.len() as u64 * PRICE, 0, 0)
    );
    booked.len()
}

fn time_of(what: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    what();
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_programs_take_no_more_for_the_last_job_than_for_the_first() {
    if !std::path::Path::new("/proc/self/status").exists() {
        println!("SKIPPED: what a process takes is read from /proc");
        return;
    }
    let jobs = number("SOAK_JOBS").unwrap_or(USUALLY);
    // One relay lives and remembers; the other one dies, and comes back with nothing.
    let (world, mut mortal) = (World::new(), World::new());
    let limits = "[runway]\ndaily_limit_sats = 99000\nper_tick_limit_sats = 99000\n";
    for home in ["agent", "passers-by"] {
        world.config(home, limits);
    }
    world.config("seller", "[provider]\nprice_msats = 1000\n");
    let relays = [&world.relay, &mortal.relay].map(|url| format!("--relay={url}"));
    let sell = || {
        let mut sell = world.bare_provider("seller", &["--json"]);
        sell.args(&relays)
            .args(["--wallet", "sim", "--backend", "echo"]);
        sell.args(["--create-channel", "--stream"]);
        tokio::task::block_in_place(|| customer::Quiet::start(&mut sell, "ready"))
    };
    let seller = sell();
    let cold = |world: &World| {
        time_of(|| {
            let args = ["--prompt", "how long does it take?"];
            world.buy("passers-by", &args).expect(0);
        })
    };
    let first = (0..3).map(|_| cold(&world)).min().unwrap();
    let wire = Wire::start(&world.relay).await;
    let mut agent = customer::Agent::start(&world, &[&wire.url, &mortal.relay]);
    let (mut selling, mut buying) = (Course::of("provider"), Course::of("customer"));

    let batches = if jobs < 1_000 { 4 } else { 10 };
    let deaths = (jobs / 200).clamp(1, 12);
    let mut asked = 0;
    for _ in 0..=batches {
        // The first fills what is filled once.
        let many = jobs / (batches + 1);
        let enough = AtomicBool::new(false);
        tokio::task::block_in_place(|| {
            std::thread::scope(|threads| {
                let (world, mortal, enough) = (&world, &mut mortal, &enough);
                threads.spawn(move || come_and_go(world, mortal, enough, deaths));
                agent.buy(many);
                enough.store(true, Ordering::Relaxed);
            });
        });
        asked += many;
        selling.note(asked, &seller.child);
        buying.note(asked, &agent.child);
    }
    println!("{} chunks were lost on the wire", wire.lost());
    agent.leave();

    let bought = assert_books(&world, "agent") + assert_books(&world, "passers-by");
    assert_conserved(&world.bank());
    println!("{bought} jobs were paid for");
    assert!(
        bought as u64 >= jobs / 2,
        "only {bought} of {jobs} came to a payment"
    );
    let store = world.home("seller").join("provider").join("jobs.sqlite");
    let sold = "SELECT request_id FROM jobs WHERE state IN ('delivered', 'settled')";
    eventually("whatever was paid is delivered", || {
        column(&store, sold).len() == bought
    });
    selling.assert_flat();
    buying.assert_flat();

    // A long history makes nobody slow. Figures for whoever reads them: a test asserts no times.
    let last = (0..3).map(|_| cold(&world)).min().unwrap();
    println!("a cold purchase took {first:?} at first, {last:?} with {bought} jobs on file");
    drop(seller);
    let restart = time_of(|| drop(sell()));
    let recover = time_of(|| {
        run(&mut world.customer("agent", &["--json", "recover"])).expect(0);
    });
    println!(
        "with these on file a provider is ready in {restart:?}, and recover takes {recover:?}"
    );
}

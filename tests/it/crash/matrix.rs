//! SIGKILL right before and right after each effect, by the crash points of `src/crash.rs`.
//!
//! A row is a flow and a point that lies in it. For both sides of the point a real process runs into it and
//! is seen to die there; it comes back, recovers, is asked for the same thing once more, and then ledger,
//! bank and seller must tell one story in which nobody paid twice or for nothing. A point that no process
//! comes by fails its test, and so does a point that is missing in the rows or in the tables of the docs.

mod books;
mod both;
mod chains;
mod customer;
mod failover;
mod market;
mod newcomers;
mod provider;
mod recovery;
mod tables;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;

use agent_compute::crash::Point;

use super::*;

/// The text of every job, and of its result.
const TEXT: &str = "one two three";

/// So many rows of one test run at a time. They wait for processes more than they compute.
const LANES: usize = 3;

/// A process that went on past its point, because the machine was busy while time ran, gets another try.
const TRIES: usize = 4;

const SIGKILL: i32 = 9;

/// Where a process is to die.
#[derive(Clone, Copy)]
struct At {
    point: Point,
    side: &'static str,
    /// At which time it comes by.
    nth: u32,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { point, side, nth } = self;
        write!(f, "{}.{side}:{nth}", point.as_str())
    }
}

impl At {
    const fn before(point: Point) -> Self {
        Self {
            point,
            side: "before",
            nth: 1,
        }
    }

    const fn after(point: Point) -> Self {
        Self {
            side: "after",
            ..Self::before(point)
        }
    }

    /// Both sides of a point, when it is passed for the nth time.
    fn both_sides(point: Point, nth: u32) -> [Self; 2] {
        [Self::before(point), Self::after(point)].map(|at| Self { nth, ..at })
    }

    fn arm(self, command: &mut Command) -> &mut Command {
        command.env("AGENT_COMPUTE_CRASH_AT", self.to_string())
    }
}

/// How a process ended, and what it said.
#[derive(Debug)]
#[expect(dead_code, reason = "what is not asked for is shown when a test fails")]
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn was_killed(&self) -> bool {
        was_killed(self.status)
    }

    fn last(&self) -> Value {
        let last = self.stdout.lines().last();
        last.map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
    }

    #[track_caller]
    fn expect(self, code: i32, why: &str) -> Self {
        assert_eq!(self.status.code(), Some(code), "{why}: {self:#?}");
        self
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

/// Tries until a process has died where it was to. `run` says whether it did, and starts over with somebody
/// new each time.
fn until_dead<T>(what: &str, mut run: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..TRIES {
        match run() {
            Ok(done) => return done,
            Err(how) => last = how,
        }
    }
    panic!("{what}: never came by its point (was it built with the feature crash-points?), {last}");
}

/// Does all of `rows`, a few at a time. All of them are done, also after one has failed.
fn in_lanes<T: Send>(rows: impl IntoIterator<Item = T>, act: impl Fn(T) + Sync) {
    let rows: Vec<T> = rows.into_iter().collect();
    let rows = Mutex::new(rows.into_iter());
    let next = || rows.lock().unwrap().next();
    std::thread::scope(|lanes| {
        let begun: Vec<_> = (0..LANES)
            .map(|_| {
                lanes.spawn(|| {
                    let mut failed = 0;
                    while let Some(row) = next() {
                        let done = std::panic::AssertUnwindSafe(|| act(row));
                        failed += usize::from(std::panic::catch_unwind(done).is_err());
                    }
                    failed
                })
            })
            .collect();
        let failed: usize = begun.into_iter().map(|lane| lane.join().unwrap()).sum();
        assert_eq!(failed, 0, "so many rows failed, see above");
    });
}

/// Whether each row is to be run in each way, and not in one of them in turns.
fn every_row() -> bool {
    crate::env::text("CRASH_MATRIX").as_deref() == Some("all")
}

/// The points that some row exercises.
fn exercised() -> BTreeSet<&'static str> {
    let rows = [
        vec![newcomers::POINT],
        customer::points(),
        recovery::points(),
        provider::points(),
    ];
    rows.into_iter().flatten().map(Point::as_str).collect()
}

//! Samples, and what is read off a process.

use std::process::Child;
use std::time::Duration;

/// Times of the same thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn take(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them stayed within, by nearest rank.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    pub fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Memory as the system tells it, in MB.
pub fn mb(kib: u64) -> f64 {
    kib as f64 * 1_024.0 / 1e6
}

/// A field of `/proc/PID/status` in KiB; `None` where the system has no such thing, or the process is gone.
pub fn status(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Waits for the end of a process; the most memory it was seen to take, in KiB.
pub fn watch(child: &mut Child) -> Option<u64> {
    let mut most = None;
    loop {
        most = status(child.id(), "VmHWM:").max(most);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return most;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Commits in the write-ahead log of a SQLite file since it was last begun anew: frames that end a transaction.
/// See "The WAL-Reset" and "WAL File Format" in SQLite's own description.
pub fn commits(database: &std::path::Path) -> u64 {
    let log = std::fs::read(format!("{}-wal", database.display())).unwrap_or_default();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    if log.len() < 32 {
        return 0;
    }
    let (page, salt) = (number(8) as usize, &log[16..24]);
    let frames = log[32..].chunks_exact(24 + page);
    frames
        .take_while(|frame| &frame[8..16] == salt)
        .filter(|frame| frame[4..8] != [0; 4])
        .count() as u64
}

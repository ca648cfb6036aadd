//! Telling those who wait that something in the bank may have changed.
//!
//! Changes that this process makes are told at once. SQLite tells nobody of another process's commits, but
//! counts them, and reading the count takes microseconds: a thread does it for as long as somebody holds a
//! receiver. It looks every 2 ms just after something happened and ever more seldom, down to ten
//! times a second, when nothing does, so that a wait grows by no more than about a sixteenth.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bank::{Bank, lock};

const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);

/// The pause until the next look, this long after something happened.
fn pause(idle: Duration) -> Duration {
    (idle / 16).clamp(SHORTEST, LONGEST)
}

/// The hints of one bank.
pub(super) struct Hints {
    sender: watch::Sender<u64>,
    looking: Arc<Looking>,
}

/// What the looking thread shares with those who start, wake and stop it.
struct Looking {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// Whether there is a thread.
    running: bool,
    /// Whether the bank is gone.
    stopped: bool,
    /// When something happened last.
    active: Instant,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self {
            sender: watch::Sender::new(0),
            looking: Arc::new(Looking {
                state: Mutex::new(State {
                    running: false,
                    stopped: false,
                    active: Instant::now(),
                }),
                wake: Condvar::new(),
            }),
        }
    }

    /// Something changed, or may have.
    pub(super) fn tell(&self) {
        self.sender
            .send_modify(|count| *count = count.wrapping_add(1));
        let mut state = lock(&self.looking.state);
        state.active = Instant::now();
        if state.running {
            self.looking.wake.notify_one();
        }
    }

    /// A receiver of all hints from now on; `None` if no thread could be started to find them.
    pub(super) fn listen(&self, bank: &Arc<Bank>) -> Option<watch::Receiver<u64>> {
        let mut state = lock(&self.looking.state);
        let receiver = self.sender.subscribe();
        state.active = Instant::now();
        if !state.running {
            let (bank, looking) = (Arc::downgrade(bank), Arc::clone(&self.looking));
            std::thread::Builder::new()
                .name("sim-bank-hints".to_owned())
                .spawn(move || {
                    let mut seen = None;
                    while let Some(bank) = bank.upgrade() {
                        let heard = bank.hints.look(&bank, &mut seen);
                        drop(bank);
                        if !heard || !looking.rest() {
                            break;
                        }
                    }
                })
                .ok()?;
            state.running = true;
        }
        self.looking.wake.notify_one();
        Some(receiver)
    }

    /// One look at the count: told if it has changed, if it is the first, or if it can't be read. Says
    /// whether anybody is left to hear of the next one.
    fn look(&self, bank: &Bank, seen: &mut Option<i64>) -> bool {
        let count = bank.commits_of_others();
        if count.is_none() {
            // Let the receivers look for themselves: they learn what is wrong with the file.
            self.sender
                .send_modify(|count| *count = count.wrapping_add(1));
        } else if count != *seen {
            *seen = count;
            self.tell();
        }
        // Under the lock that `listen` takes, so that a new receiver sees either this thread or none.
        let mut state = lock(&self.looking.state);
        state.running = self.sender.receiver_count() > 0;
        state.running
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        lock(&self.looking.state).stopped = true;
        self.looking.wake.notify_all();
    }
}

impl Looking {
    /// Waits until the next look is due. Says whether there is to be one.
    fn rest(&self) -> bool {
        let state = lock(&self.state);
        if state.stopped {
            return false;
        }
        let pause = pause(state.active.elapsed());
        let (state, _) = self
            .wake
            .wait_timeout(state, pause)
            .unwrap_or_else(PoisonError::into_inner);
        !state.stopped
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn is_looking(bank: &Bank) -> bool {
        lock(&bank.hints.looking.state).running
    }

    #[test]
    fn the_thread_looks_for_as_long_as_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let bank = Bank::open(&folder.path().join("bank.sqlite"), true).unwrap();
        assert!(!is_looking(&bank));
        for _ in 0..3 {
            let receivers = [bank.hints.listen(&bank), bank.hints.listen(&bank)];
            assert!(receivers.iter().all(Option::is_some) && is_looking(&bank));
            drop(receivers);
            let since = Instant::now();
            while is_looking(&bank) {
                assert!(since.elapsed() < Duration::from_secs(60));
                std::thread::yield_now();
            }
        }
        // And it keeps no bank open that everybody else has left.
        let receiver = bank.hints.listen(&bank);
        let left = Arc::downgrade(&bank);
        drop(bank);
        let since = Instant::now();
        while left.strong_count() > 0 {
            assert!(since.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        drop(receiver);
    }

    #[test]
    fn looks_are_frequent_after_a_change_and_rare_when_nothing_happens() {
        assert_eq!(pause(Duration::ZERO), SHORTEST);
        assert_eq!(pause(Duration::from_millis(160)), Duration::from_millis(10));
        assert_eq!(pause(Duration::from_secs(3600)), LONGEST);
    }
}

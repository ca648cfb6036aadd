//! When to ask the wallet about which invoice. Pure: the time is an argument.
//!
//! An open quote is asked about with back-off; at once when its customer says that it paid; soon when the
//! wallet says that something changed. So is money that is held while we work for it: it may be taken back.
//! After the end of a quote, and while a release is awaited, the pace is slow, since a payment may have
//! settled late, and a hold may end. However much is said, the wallet is asked about one invoice once at a time, a few
//! invoices at a time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use nostr::EventId;

use crate::ids::PaymentHash;

/// The pace of an open quote, from its beginning on: each pause is longer than the last by half.
const FIRST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(5);

/// The pace after its end: each pause is twice the last.
const LATE_FIRST: Duration = Duration::from_secs(2);
const LATE_SLOWEST: Duration = Duration::from_secs(600);

/// How often one quote may be asked about because its customer said so, and how soon after the last time.
const MOST_HINTS: u8 = 20;
const HINT_GAP: Duration = Duration::from_millis(20);

/// When the wallet says that something changed, each open quote waits at least this long, times the number
/// of open quotes, since it was last asked about: one quote is looked up at once, and many do not multiply.
const CHANGE_GAP: Duration = Duration::from_millis(10);

/// The most questions at a time.
const MOST_IN_FLIGHT: usize = 16;

/// With this many invoices in mind, no late ones are added: they wait for the next start. How many open
/// ones there are is for the queue to limit.
const MOST_LATE: usize = 4_096;

#[derive(Debug)]
struct Entry {
    job: EventId,
    /// When to ask; `None` while an answer is awaited.
    due: Option<Instant>,
    asked: Option<Instant>,
    pause: Duration,
    late: bool,
    hints: u8,
    /// Something was said while an answer was awaited: the answer may be older than that.
    again: bool,
}

/// The invoices to ask about, each with its time.
#[derive(Debug, Default)]
pub(super) struct LookUps {
    entries: HashMap<PaymentHash, Entry>,
    queue: BTreeSet<(Instant, PaymentHash)>,
    in_flight: usize,
    open: u32,
}

impl LookUps {
    /// Begins to ask about an open quote.
    pub(super) fn watch(&mut self, hash: PaymentHash, job: EventId, first: Instant) {
        self.insert(hash, job, first, false);
    }

    /// Begins to ask about a quote whose time is over; false if there are too many of them.
    pub(super) fn watch_late(&mut self, hash: PaymentHash, job: EventId, first: Instant) -> bool {
        let room = self.entries.len() < MOST_LATE;
        if room {
            self.insert(hash, job, first, true);
        }
        room
    }

    fn insert(&mut self, hash: PaymentHash, job: EventId, first: Instant, late: bool) {
        if self.entries.contains_key(&hash) {
            return;
        }
        let entry = Entry {
            job,
            due: Some(first),
            asked: None,
            pause: if late { LATE_FIRST } else { FIRST },
            late,
            hints: MOST_HINTS,
            again: false,
        };
        self.open += u32::from(!late);
        self.entries.insert(hash, entry);
        self.queue.insert((first, hash));
    }

    /// Stops asking.
    pub(super) fn forget(&mut self, hash: &PaymentHash) {
        let Some(entry) = self.entries.remove(hash) else {
            return;
        };
        self.open -= u32::from(!entry.late);
        match entry.due {
            Some(due) => {
                self.queue.remove(&(due, *hash));
            }
            // Its answer will come and find nothing.
            None => self.in_flight -= 1,
        }
    }

    /// The quote is over: ask once more at once, then at a slow pace.
    pub(super) fn slow_down(&mut self, hash: PaymentHash, now: Instant) {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return;
        };
        self.open -= u32::from(!entry.late);
        entry.late = true;
        entry.pause = LATE_FIRST;
        self.ask_by(hash, now);
    }

    /// Something is due about this invoice: ask at once, and from there on as in the beginning.
    pub(super) fn speed_up(&mut self, hash: PaymentHash, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.pause = FIRST;
            self.ask_by(hash, now);
        }
    }

    /// The customer says that it paid. Ignored when said too often.
    pub(super) fn hint(&mut self, hash: PaymentHash, now: Instant) {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return;
        };
        let Some(left) = entry.hints.checked_sub(1) else {
            return;
        };
        entry.hints = left;
        entry.pause = FIRST;
        let soonest = entry.asked.map_or(now, |asked| now.max(asked + HINT_GAP));
        self.ask_by(hash, soonest);
    }

    /// The wallet says that something changed: some open quote may be paid.
    pub(super) fn wake(&mut self, now: Instant) {
        let gap = CHANGE_GAP.saturating_mul(self.open);
        let open: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.late)
            .map(|(hash, entry)| (*hash, entry.asked.map_or(now, |asked| now.max(asked + gap))))
            .collect();
        for (hash, soonest) in open {
            self.ask_by(hash, soonest);
        }
    }

    fn ask_by(&mut self, hash: PaymentHash, soonest: Instant) {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return;
        };
        match entry.due {
            None => entry.again = true,
            Some(due) if due <= soonest => {}
            Some(due) => {
                self.queue.remove(&(due, hash));
                self.queue.insert((soonest, hash));
                entry.due = Some(soonest);
            }
        }
    }

    /// The next invoice to ask about now. Its answer is awaited from here on.
    pub(super) fn next(&mut self, now: Instant) -> Option<(PaymentHash, EventId)> {
        if self.in_flight >= MOST_IN_FLIGHT {
            return None;
        }
        let (due, hash) = *self.queue.first()?;
        if due > now {
            return None;
        }
        self.queue.pop_first();
        let entry = self.entries.get_mut(&hash)?;
        entry.due = None;
        entry.asked = Some(now);
        self.in_flight += 1;
        Some((hash, entry.job))
    }

    /// An answer came, and it did not end the matter: ask again later. False if nobody waits for it.
    pub(super) fn answered(&mut self, hash: PaymentHash, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return false;
        };
        if entry.due.is_some() {
            return false;
        }
        self.in_flight -= 1;
        let again = std::mem::take(&mut entry.again);
        let due = if again {
            now + HINT_GAP
        } else {
            now + entry.pause
        };
        if !again {
            entry.pause = if entry.late {
                (entry.pause * 2).min(LATE_SLOWEST)
            } else {
                (entry.pause * 3 / 2).min(SLOWEST)
            };
        }
        entry.due = Some(due);
        self.queue.insert((due, hash));
        true
    }

    /// When there is something to ask next, unless something is said before; `None` while as much is being
    /// asked as may be, and when there is nothing.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.in_flight >= MOST_IN_FLIGHT {
            return None;
        }
        self.queue.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> PaymentHash {
        PaymentHash::from_bytes([n; 32])
    }

    fn job(n: u8) -> EventId {
        EventId::from_byte_array([n; 32])
    }

    /// Lets the time pass and answers every question with "not yet"; says when the questions were.
    fn questions(lookups: &mut LookUps, from: Instant, seconds: u64) -> Vec<Duration> {
        let end = from + Duration::from_secs(seconds);
        let mut asked = Vec::new();
        while let Some(due) = lookups.next_due().filter(|due| *due <= end) {
            while let Some((hash, _)) = lookups.next(due) {
                asked.push(due - from);
                assert!(lookups.answered(hash, due));
            }
        }
        asked
    }

    #[test]
    fn an_open_quote_is_asked_about_with_a_bounded_back_off() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        lookups.watch(hash(1), job(1), now + FIRST);
        let asked = questions(&mut lookups, now, 300);
        assert!(asked.len() > 60 && asked.len() < 80, "{}", asked.len());
        for pair in asked.windows(2) {
            assert!(pair[1] - pair[0] <= SLOWEST);
        }
    }

    #[test]
    fn a_late_quote_is_asked_about_a_few_times_an_hour() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        lookups.watch(hash(1), job(1), now + FIRST);
        lookups.slow_down(hash(1), now);
        let asked = questions(&mut lookups, now, 3_600);
        assert!(asked.len() > 8 && asked.len() < 20, "{}", asked.len());
        assert_eq!(asked.first(), Some(&Duration::ZERO));
    }

    #[test]
    fn a_hint_is_heard_at_once_but_not_for_ever() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        lookups.watch(hash(1), job(1), now + SLOWEST);
        assert_eq!(lookups.next(now), None);
        let mut asked = 0;
        for n in 0..10_000 {
            let at = now + Duration::from_micros(n * 100);
            lookups.hint(hash(1), at);
            while let Some((hash, _)) = lookups.next(at) {
                asked += 1;
                lookups.answered(hash, at);
            }
        }
        assert!(
            (1..=25).contains(&asked),
            "{asked} questions for a flood of hints"
        );
    }

    #[test]
    fn what_is_said_while_an_answer_is_awaited_is_not_lost() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        lookups.watch(hash(1), job(1), now);
        assert_eq!(lookups.next(now), Some((hash(1), job(1))));
        lookups.hint(hash(1), now);
        assert_eq!(lookups.next(now), None, "one question at a time");
        lookups.answered(hash(1), now);
        assert_eq!(lookups.next_due(), Some(now + HINT_GAP));
    }

    #[test]
    fn a_burst_of_changes_does_not_multiply_the_questions() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        for n in 0..64 {
            lookups.watch(hash(n), job(n), now + SLOWEST);
        }
        let mut asked = 0;
        for n in 0..1_000 {
            let at = now + Duration::from_millis(n);
            lookups.wake(at);
            while let Some((hash, _)) = lookups.next(at) {
                asked += 1;
                lookups.answered(hash, at);
            }
        }
        assert!(asked <= 3 * 64, "{asked} questions in a second");
    }

    #[test]
    fn no_more_than_a_few_at_a_time_and_a_forgotten_one_frees_its_place() {
        let now = Instant::now();
        let mut lookups = LookUps::default();
        for n in 0..40 {
            lookups.watch(hash(n), job(n), now);
        }
        let asked: Vec<_> = std::iter::from_fn(|| lookups.next(now)).collect();
        assert_eq!(asked.len(), MOST_IN_FLIGHT);
        assert_eq!(lookups.next_due(), None);
        lookups.forget(&asked[0].0);
        assert!(lookups.next(now).is_some());
        assert!(
            !lookups.answered(asked[0].0, now),
            "its answer finds nothing"
        );
        assert_eq!(lookups.in_flight, MOST_IN_FLIGHT);
    }
}

//! The jobs that wait for a slot, and whose turn it is. Pure.
//!
//! Turns are shared by customers, not by jobs (start-time fair queueing, each job counting the same): a job
//! is due after those that its customer has ordered before it, and not before what is being worked on
//! now. So who orders a hundred jobs at once waits for its own jobs, the next customer does not, and
//! nobody waits for ever.

use std::collections::HashMap;

use nostr::{EventId, PublicKey};

/// How many jobs that came later may go before one. Keys cost nothing, so that there may be a new customer
/// for each of them.
const MOST_OVERTAKINGS: u32 = 32;

/// Customers of whom it is known that they had their turn in a round that goes on. With more of them, only
/// those whose jobs wait are remembered.
const MOST_AHEAD: usize = 1_024;

/// A job that waits.
#[derive(Debug)]
struct Waiting {
    request: EventId,
    customer: PublicKey,
    /// The round in which it is due; in one round, who came first goes first.
    round: u64,
    /// Its number in the order of arrival.
    arrival: u64,
    /// How many that came later went before it.
    overtaken: u32,
    /// The position that the customer was told last.
    told: u32,
}

/// The jobs that wait, in the order they are due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<Waiting>,
    arrivals: u64,
    /// The round that has come.
    now: u64,
    /// The first round that a customer has no job in yet, for those who have ordered ahead.
    free: HashMap<PublicKey, u64>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a job of this customer.
    pub(super) fn push(&mut self, request: EventId, customer: PublicKey) {
        let ahead = self.free.get(&customer).copied();
        let round = ahead.map_or(self.now, |free| free.max(self.now));
        self.free.insert(customer, round + 1);
        let at = self.waiting.partition_point(|job| job.round <= round);
        let job = Waiting {
            request,
            customer,
            round,
            arrival: self.arrivals,
            overtaken: 0,
            told: u32::MAX,
        };
        self.arrivals += 1;
        self.waiting.insert(at, job);
    }

    /// Takes a job out whose turn has not come; false if it does not wait.
    pub(super) fn remove(&mut self, request: EventId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|job| job.request != request);
        self.waiting.len() < before
    }

    /// Takes the job whose turn it is.
    pub(super) fn pop(&mut self) -> Option<EventId> {
        if self.waiting.is_empty() {
            return None;
        }
        let patient = self.waiting.iter();
        let exhausted = patient
            .enumerate()
            .filter(|(_, job)| job.overtaken >= MOST_OVERTAKINGS);
        let first = exhausted.min_by_key(|(_, job)| job.arrival);
        let next = self.waiting.remove(first.map_or(0, |(at, _)| at));
        for job in &mut self.waiting {
            job.overtaken += u32::from(job.arrival < next.arrival);
        }
        self.now = self.now.max(next.round);
        let now = self.now;
        self.free.retain(|_, free| *free > now);
        if self.free.len() > MOST_AHEAD {
            let waiting = &self.waiting;
            self.free
                .retain(|customer, _| waiting.iter().any(|job| job.customer == *customer));
        }
        Some(next.request)
    }

    /// How many jobs are before this one. From here on its customer knows.
    pub(super) fn tell(&mut self, request: EventId) -> Option<u32> {
        let mut positions = (0..).zip(&mut self.waiting);
        let (position, job) = positions.find(|(_, job)| job.request == request)?;
        job.told = position;
        Some(position)
    }

    /// The jobs that have come so much nearer to their turn that it is worth a message: those whose position
    /// has halved since it was told, which for each job happens a few times only.
    pub(super) fn news(&mut self) -> Vec<(EventId, u32)> {
        let mut news = Vec::new();
        for (position, job) in (0..).zip(&mut self.waiting) {
            if job.told > 0 && position <= job.told / 2 {
                job.told = position;
                news.push((job.request, position));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u8) -> EventId {
        EventId::from_byte_array([n; 32])
    }

    fn customer(n: u8) -> PublicKey {
        PublicKey::from_byte_array([n; 32])
    }

    fn queue(of: &[(u8, u8)]) -> Queue {
        let mut queue = Queue::default();
        for (n, whose) in of {
            queue.push(job(*n), customer(*whose));
        }
        queue
    }

    fn turns(queue: &mut Queue) -> Vec<EventId> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn one_customers_jobs_run_in_the_order_they_were_paid() {
        let mut all = queue(&[(1, 1), (2, 1), (3, 1)]);
        assert_eq!(turns(&mut all), [job(1), job(2), job(3)]);
        assert!(all.is_empty());
    }

    #[test]
    fn a_customer_with_many_jobs_does_not_hold_up_another() {
        let mut all = queue(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        // Two slots are taken, by the first two.
        assert_eq!((all.pop(), all.pop()), (Some(job(1)), Some(job(2))));
        all.push(job(5), customer(2));
        all.push(job(6), customer(2));
        all.push(job(7), customer(3));
        assert_eq!(all.tell(job(5)), Some(0));
        assert_eq!(all.tell(job(4)), Some(4));
        assert_eq!(all.tell(job(9)), None);
        let expected = [5, 7, 3, 6, 4].map(job);
        assert_eq!(turns(&mut all), expected);
    }

    #[test]
    fn who_waits_is_not_overtaken_for_ever() {
        let mut all = queue(&[(0, 1), (1, 1), (2, 1)]);
        let mut served = Vec::new();
        // One newcomer after the other, each with a single job.
        for n in 10..60 {
            all.push(job(n), customer(n));
            served.extend(all.pop());
        }
        let when = |n| served.iter().position(|request| *request == job(n));
        let most = usize::try_from(MOST_OVERTAKINGS).unwrap_or(0) + 3;
        assert!(when(1).is_some_and(|when| when <= most));
        assert!(when(2).is_some_and(|when| when <= most));
        assert_eq!(all.waiting.len(), 3);
    }

    #[test]
    fn who_is_being_worked_for_comes_after_who_is_not() {
        let mut all = queue(&[(1, 1)]);
        assert_eq!(all.pop(), Some(job(1)));
        // The queue was empty, and the first job still runs.
        all.push(job(2), customer(1));
        all.push(job(3), customer(2));
        assert_eq!(turns(&mut all), [job(3), job(2)]);
    }

    #[test]
    fn customers_that_came_once_are_not_remembered_for_ever() {
        let mut all = Queue::default();
        for n in 0..10_000_u32 {
            let mut key = [7; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            all.push(
                EventId::from_byte_array(key),
                PublicKey::from_byte_array(key),
            );
            assert!(all.pop().is_some());
            assert!(all.free.len() <= MOST_AHEAD + 1);
        }
    }

    #[test]
    fn what_is_taken_out_has_no_turn() {
        let mut two = queue(&[(1, 1), (2, 1)]);
        assert!(two.remove(job(1)));
        assert!(!two.remove(job(1)));
        assert_eq!(turns(&mut two), [job(2)]);
    }

    #[test]
    fn a_position_is_told_again_when_it_has_halved_and_that_is_not_often() {
        let mut all = Queue::default();
        for n in 0..=200 {
            all.push(job(n), customer(1));
            all.tell(job(n));
        }
        assert!(all.news().is_empty());
        let mut told = Vec::new();
        while all.pop().is_some() {
            let news = all.news();
            told.extend(news.into_iter().filter(|(request, _)| *request == job(200)));
        }
        let told: Vec<u32> = told.into_iter().map(|(_, position)| position).collect();
        assert_eq!(told, [100, 50, 25, 12, 6, 3, 1, 0]);
    }

    #[test]
    fn jobs_of_an_earlier_run_are_told_where_they_are() {
        let mut left = queue(&[(1, 1), (2, 1)]);
        assert_eq!(left.news(), [(job(1), 0), (job(2), 1)]);
        assert!(left.news().is_empty());
    }
}

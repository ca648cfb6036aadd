//! The jobs that wait for a slot, and whose turn it is. Pure.
//!
//! Slots are shared by customers, not by jobs: the next job is of the customer with the fewest running
//! jobs, and among equals the one that has waited longest. So who orders a hundred jobs at once waits for
//! its own jobs, and the next customer does not.

use std::collections::HashMap;

use nostr::{EventId, PublicKey};

/// A job that waits.
#[derive(Debug)]
struct Waiting {
    request: EventId,
    customer: PublicKey,
    /// The position that the customer was told last.
    told: u32,
}

/// The jobs that wait, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<Waiting>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a job at the end.
    pub(super) fn push(&mut self, request: EventId, customer: PublicKey) {
        self.waiting.push(Waiting {
            request,
            customer,
            told: u32::MAX,
        });
    }

    /// Takes a job out whose turn has not come; false if it does not wait.
    pub(super) fn remove(&mut self, request: EventId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|job| job.request != request);
        self.waiting.len() < before
    }

    /// Takes the job whose turn it is, while these jobs of each customer run.
    pub(super) fn pop(&mut self, running: &HashMap<PublicKey, usize>) -> Option<EventId> {
        let first = *self.order(running).first()?;
        Some(self.waiting.remove(first).request)
    }

    /// How many jobs are before this one. From here on its customer knows.
    pub(super) fn tell(
        &mut self,
        request: EventId,
        running: &HashMap<PublicKey, usize>,
    ) -> Option<u32> {
        let order = self.order(running);
        let position = order
            .iter()
            .position(|index| self.waiting[*index].request == request)?;
        let told = u32::try_from(position).unwrap_or(u32::MAX);
        self.waiting[order[position]].told = told;
        Some(told)
    }

    /// The jobs that have come so much nearer to their turn that it is worth a message: those whose position
    /// has halved since it was told, which for each job happens a few times only.
    pub(super) fn news(&mut self, running: &HashMap<PublicKey, usize>) -> Vec<(EventId, u32)> {
        let mut news = Vec::new();
        for (position, index) in (0..).zip(self.order(running)) {
            let job = &mut self.waiting[index];
            if job.told > 0 && position <= job.told / 2 {
                job.told = position;
                news.push((job.request, position));
            }
        }
        news
    }

    /// The order in which the jobs would run if each took as long and none came.
    fn order(&self, running: &HashMap<PublicKey, usize>) -> Vec<usize> {
        let mut ahead = running.clone();
        let mut turns: Vec<(usize, usize)> = Vec::with_capacity(self.waiting.len());
        for (index, job) in self.waiting.iter().enumerate() {
            let turn = ahead.entry(job.customer).or_default();
            turns.push((*turn, index));
            *turn += 1;
        }
        turns.sort_unstable();
        turns.into_iter().map(|(_, index)| index).collect()
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

    /// Lets all run in one slot, one after the other.
    fn turns(mut queue: Queue, mut running: HashMap<PublicKey, usize>) -> Vec<EventId> {
        std::iter::from_fn(|| {
            let next = queue.pop(&running);
            running.clear();
            next
        })
        .collect()
    }

    #[test]
    fn one_customers_jobs_run_in_the_order_they_were_paid() {
        let all = queue(&[(1, 1), (2, 1), (3, 1)]);
        assert_eq!(turns(all, HashMap::new()), [job(1), job(2), job(3)]);
    }

    #[test]
    fn a_customer_with_many_jobs_does_not_hold_up_another() {
        let running = HashMap::from([(customer(1), 4)]);
        let mut many = queue(&[(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 2)]);
        assert_eq!(many.tell(job(4), &running), Some(0));
        assert_eq!(many.tell(job(5), &running), Some(1));
        assert_eq!(many.tell(job(6), &running), Some(2));
        assert_eq!(many.tell(job(1), &running), Some(3));
        assert_eq!(many.tell(job(9), &running), None);
        assert_eq!(many.pop(&running), Some(job(4)));
        let running = HashMap::from([(customer(1), 3), (customer(2), 1)]);
        assert_eq!(many.pop(&running), Some(job(5)));
    }

    #[test]
    fn what_is_taken_out_has_no_turn() {
        let mut two = queue(&[(1, 1), (2, 1)]);
        assert!(two.remove(job(1)));
        assert!(!two.remove(job(1)));
        assert!(!two.is_empty());
        assert_eq!(turns(two, HashMap::new()), [job(2)]);
    }

    #[test]
    fn a_position_is_told_again_when_it_has_halved_and_that_is_not_often() {
        let nobody = HashMap::new();
        let mut all = Queue::default();
        for n in 0..=200 {
            all.push(job(n), customer(1));
            all.tell(job(n), &nobody);
        }
        assert!(all.news(&nobody).is_empty());
        let mut told = Vec::new();
        while all.pop(&nobody).is_some() {
            let news = all.news(&nobody);
            told.extend(news.into_iter().filter(|(request, _)| *request == job(200)));
        }
        let told: Vec<u32> = told.into_iter().map(|(_, position)| position).collect();
        assert_eq!(told, [100, 50, 25, 12, 6, 3, 1, 0]);
    }

    #[test]
    fn jobs_of_an_earlier_run_are_told_where_they_are() {
        let mut left = queue(&[(1, 1), (2, 1)]);
        let news = left.news(&HashMap::new());
        assert_eq!(news, [(job(1), 0), (job(2), 1)]);
        assert!(left.news(&HashMap::new()).is_empty());
    }
}

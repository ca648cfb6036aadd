//! Backing off, and what is to be done when.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// Things to do, in the order of their time. Nothing is ever taken out early: whoever gets a thing
/// checks that it is still to be done.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    things: BTreeMap<(Instant, u64), T>,
    serial: u64,
}

impl<T> Agenda<T> {
    pub(super) const fn new() -> Self {
        Self {
            things: BTreeMap::new(),
            serial: 0,
        }
    }

    pub(super) fn add(&mut self, at: Instant, thing: T) {
        self.serial = self.serial.wrapping_add(1);
        self.things.insert((at, self.serial), thing);
    }

    /// The next thing, when its time has come; never, while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> T {
        loop {
            let Some(at) = self.things.first_key_value().map(|(key, _)| key.0) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(at).await;
            if let Some((_, thing)) = self.things.pop_first() {
                return thing;
            }
        }
    }
}

/// `first`, doubled with each of `tries`, at most `most`, and give or take a quarter, so that clients
/// which lost a relay together do not come back together.
pub(super) fn backoff(first: Duration, most: Duration, tries: u32) -> Duration {
    let pause = first.saturating_mul(1u32 << tries.min(20)).min(most);
    pause.mul_f64(rand::rng().random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most() {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(30));
        for tries in [0, 1, 5, 9, 10, 31, u32::MAX] {
            let middle = first.saturating_mul(1 << tries.min(15)).min(most);
            let pause = backoff(first, most, tries);
            assert!(pause >= middle.mul_f64(0.75) && pause <= middle.mul_f64(1.25));
        }
    }

    #[tokio::test]
    async fn things_come_in_the_order_of_their_time() {
        let mut agenda = Agenda::new();
        let now = Instant::now();
        agenda.add(now + Duration::from_millis(2), "second");
        agenda.add(now, "first");
        agenda.add(now + Duration::from_millis(2), "third");
        for expected in ["first", "second", "third"] {
            assert_eq!(agenda.next().await, expected);
        }
    }
}

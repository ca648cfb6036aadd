//! Relays that come back. One may have forgotten what was announced, so it is told again: soon, not too
//! often, and in the end in any case.

use std::time::Duration;

use tokio::time::Instant;

use crate::relay::RelaySession;

/// The least time between two announcements that relays' returns bring about.
const ANNOUNCE_GAP: Duration = Duration::from_secs(10);

/// What is known of relays' returns.
#[derive(Debug)]
pub(super) struct Returns {
    /// Connections with all relays so far.
    connections: u64,
    /// A relay came back and was not told since.
    is_forgotten: bool,
    /// When a return made us announce last.
    told_at: Option<Instant>,
}

impl Returns {
    /// Counts from what there are now.
    pub(super) fn of(relays: &dyn RelaySession) -> Self {
        Self::after(connections(relays))
    }

    const fn after(connections: u64) -> Self {
        Self {
            connections,
            is_forgotten: false,
            told_at: None,
        }
    }

    /// Looks whether a relay came back since the last look, however short it was away.
    pub(super) fn look(&mut self, relays: &dyn RelaySession) {
        self.note(connections(relays));
    }

    fn note(&mut self, connections: u64) {
        self.is_forgotten |= connections > self.connections;
        self.connections = connections;
    }

    /// When to announce, if it was to be at `planned`.
    pub(super) fn due(&self, planned: Instant, now: Instant) -> Instant {
        if !self.is_forgotten {
            return planned;
        }
        let soonest = self.told_at.map_or(now, |told| told + ANNOUNCE_GAP);
        planned.min(soonest.max(now))
    }

    /// It is announced now. Returns whether all of it must be said again.
    pub(super) fn told(&mut self, now: Instant) -> bool {
        let was_forgotten = std::mem::take(&mut self.is_forgotten);
        if was_forgotten {
            self.told_at = Some(now);
        }
        was_forgotten
    }
}

fn connections(relays: &dyn RelaySession) -> u64 {
    let relays = relays.relays();
    let each = relays.iter().map(|relay| relay.connections);
    each.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_is_answered_at_once_and_the_next_after_the_gap() {
        let (mut returns, start) = (Returns::after(2), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        let planned = at(120);
        returns.note(2);
        assert_eq!(returns.due(planned, at(0)), planned);
        returns.note(3);
        assert_eq!(returns.due(planned, at(1)), at(1));
        assert!(returns.told(at(1)));
        assert_eq!(returns.due(planned, at(1)), planned);

        // Delayed, and not lost: whatever else is announced or looked at in between.
        returns.note(5);
        returns.note(5);
        assert_eq!(returns.due(planned, at(2)), at(11));
        assert_eq!(returns.due(at(5), at(2)), at(5));
        assert_eq!(returns.due(planned, at(50)), at(50));
        assert!(returns.told(at(50)));
        assert!(!returns.told(at(51)));
    }
}

//! The one place that asks the system what time it is.
//!
//! Everything that decides by time takes the time as an argument or asks a [`Clock`], so that a
//! test can say when it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::units::UnixSecs;

/// Tells the time: the system's, or the one a test has set.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `at` until it is [set](Self::set).
    #[must_use]
    pub fn fixed(at: UnixSecs) -> Self {
        Self(Some(Arc::new(AtomicU64::new(at.get()))))
    }

    /// Moves a fixed clock, and every clone of it. The system's clock can't be set: nothing happens.
    pub fn set(&self, at: UnixSecs) {
        if let Some(time) = &self.0 {
            time.store(at.get(), Ordering::SeqCst);
        }
    }

    /// Now, in whole seconds.
    #[must_use]
    pub fn now(&self) -> UnixSecs {
        match &self.0 {
            Some(time) => UnixSecs::new(time.load(Ordering::SeqCst)),
            None => system_now(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is its one place")]
fn system_now() -> UnixSecs {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixSecs::new(since_epoch.map_or(0, |elapsed| elapsed.as_secs()))
}

//! Who is told how a purchase goes.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::event::PurchaseEvent;
use crate::config::WATCHER_PATIENCE;

/// Whoever watches a purchase. One that reads slowly is waited for, a moment at a time; one that does not
/// read at all is told no more, so that it can hold up neither the purchase nor its deadline. What it
/// missed is in the receipt.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Sender<PurchaseEvent>,
    left: AtomicBool,
}

impl Watcher {
    /// Who reads from the other end.
    #[must_use]
    pub const fn new(events: mpsc::Sender<PurchaseEvent>) -> Self {
        Self {
            events,
            left: AtomicBool::new(false),
        }
    }

    /// Tells of one thing that happened.
    pub async fn tell(&self, event: PurchaseEvent) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        let told = timeout(WATCHER_PATIENCE, self.events.send(event)).await;
        if !matches!(told, Ok(Ok(()))) {
            self.left.store(true, Ordering::Relaxed);
        }
    }
}

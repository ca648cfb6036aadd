//! Subscriptions at one relay: asking, following what it answers, asking again.

use std::sync::Arc;
use std::time::Duration;

use nostr::message::MachineReadablePrefix as Prefix;
use nostr::{Event, SubscriptionId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Actor, Due, RATE_LIMIT_FIRST, presentable};
use crate::relay::Refusal;
use crate::relay::pool::agenda::backoff;
use crate::relay::pool::ask::{Ask, Asked, Next, ending};
use crate::relay::pool::feed::{Delivery, Feed};

/// Pauses before a subscription is made again that the relay closed.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_MOST: Duration = Duration::from_secs(30);

/// A subscription that held this long starts the back-off anew when it is closed.
const GOOD_SUBSCRIPTION: Duration = Duration::from_secs(60);

/// Time for a relay to say all it has stored for one request.
const STORED_WITHIN: Duration = Duration::from_secs(10);

impl Actor {
    pub(super) fn subscribe(&mut self, feed: Arc<Feed>, tell: mpsc::Sender<Asked>) {
        let number = feed.number;
        let ended = feed.ended.clone();
        self.ends.push(Box::pin(async move {
            ended.cancelled_owned().await;
            number
        }));
        self.asks.insert(number, Ask::new(feed, tell));
        if self.link.up().is_some() {
            return self.ask(number);
        }
        if let Some(ask) = self.asks.get_mut(&number) {
            if let Some(reason) = &self.unreachable {
                let refusal = Refusal {
                    url: self.url.clone(),
                    reason: reason.clone(),
                };
                ask.feed.stored(self.index, Err(refusal));
            }
            ask.say_later(self.index);
        }
        self.nudge();
    }

    /// Makes the main request, if the relay is there and does not have it.
    pub(super) fn ask(&mut self, number: u64) {
        let (Some(socket), Some(ask)) = (self.link.up(), self.asks.get_mut(&number)) else {
            return;
        };
        if ask.live {
            return;
        }
        let text = ask.request(&self.shared.ids);
        if !socket.write_marked(text, number) {
            return self.lost("the relay takes nothing in");
        }
        ask.feed.asked(self.index);
        self.bound_round(number);
    }

    /// Sees to it that the round under way does not go on forever.
    fn bound_round(&mut self, number: u64) {
        let round = self.asks.get(&number).and_then(Ask::under_way);
        if let Some(round) = round {
            let until = Instant::now() + STORED_WITHIN;
            self.agenda.add(until, Due::RoundExpires(number, round));
        }
    }

    pub(super) fn round_expires(&mut self, number: u64, round: u64) {
        let late = format!("did not answer in full within {STORED_WITHIN:?}");
        let refusal = self.refusal(&late);
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        if ask.under_way() == Some(round) {
            ask.feed.stored(self.index, Err(refusal));
            let next = ask.give_up(round, &self.shared.ids);
            self.follow(number, next);
        }
    }

    pub(super) fn written(&mut self, numbers: &[u64]) {
        for number in numbers {
            if let Some(ask) = self.asks.get_mut(number) {
                ask.say_written(self.index);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, number: u64) {
        let Some(ask) = self.asks.remove(&number) else {
            return;
        };
        if let Some(socket) = self.link.up() {
            for text in ask.endings(&self.shared.ids) {
                // If it does not fit the relay is about to be lost, and the subscription with it.
                let _ = socket.write(text);
            }
        }
    }

    pub(super) fn refetch(&mut self, number: u64) {
        if let Some(ask) = self.asks.get_mut(&number) {
            let next = ask.refetch(&self.shared.ids);
            self.follow(number, next);
        }
    }

    fn follow(&mut self, number: u64, next: Next) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        match next {
            Next::Nothing => {}
            Next::Complete => ask.feed.stored(self.index, Ok(())),
            Next::AwaitRoom => {
                if !std::mem::replace(&mut ask.awaiting_room, true) {
                    let feed = Arc::clone(&ask.feed);
                    self.rooms.push(Box::pin(async move {
                        feed.room().await;
                        number
                    }));
                }
            }
            Next::Send(text) => {
                if let Some(socket) = self.link.up()
                    && !socket.write(text)
                {
                    return self.lost("the relay takes nothing in");
                }
                self.bound_round(number);
            }
        }
    }

    pub(super) fn event(&mut self, id: &SubscriptionId, event: Event) {
        let Some((number, side)) = self.shared.ids.parse(id) else {
            return;
        };
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        let at = event.created_at;
        match ask.feed.offer(event, &self.shared.verifier) {
            Delivery::Done => ask.received(side, at),
            Delivery::NoRoom => {
                ask.received(side, at);
                ask.missed(at);
                self.follow(number, Next::AwaitRoom);
            }
            Delivery::OffFilter => self.trouble("sent an event that was not asked for"),
            Delivery::Forged => self.trouble("sent an event with a false id or signature"),
        }
    }

    pub(super) fn stored_end(&mut self, id: &SubscriptionId) {
        let Some((number, side)) = self.shared.ids.parse(id) else {
            return;
        };
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        // What ends nothing is not answered, or a relay could make us fill its queue.
        let ends = ask.awaits(side);
        let next = ask.round_ended(side, &self.shared.ids);
        if let (true, Some(side), Some(socket)) = (ends, side, self.link.up()) {
            let _ = socket.write(ending(self.shared.ids.side(number, side)));
        }
        self.follow(number, next);
    }

    pub(super) fn closed(&mut self, id: &SubscriptionId, message: &str) {
        let Some((number, side)) = self.shared.ids.parse(id) else {
            return;
        };
        let now = self.now();
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        if !ask.live || (side.is_some() && !ask.awaits(side)) {
            return;
        }
        let pause = pause_before_reopening(message);
        if side.is_some() && pause.is_none() {
            // A page that this relay does not give: what came is all there is to be had from it.
            let next = ask.round_ended(side, &self.shared.ids);
            return self.follow(number, next);
        }
        ask.lost(now);
        if ask.complete && message.is_empty() && ask.feed.filter.ids.is_some() {
            // All that was named has been sent, so nothing more can come.
            return;
        }
        if ask.asked_at.elapsed() > GOOD_SUBSCRIPTION {
            ask.strikes = 0;
        }
        let tries = ask.strikes;
        ask.strikes = tries.saturating_add(1);
        let refusal = Refusal {
            url: self.url.clone(),
            reason: presentable(message),
        };
        ask.feed.stored(self.index, Err(refusal));
        self.trouble(&format!("closed a subscription: {message}"));
        if let Some(first) = pause {
            let at = Instant::now() + backoff(first, REOPEN_MOST, tries);
            self.agenda.add(at, Due::Reopen(number, self.connection));
        }
    }
}

/// How long to wait at first before a subscription is made again that was closed with these words.
/// `None` if asking again would only be refused again; a new connection may be another matter.
fn pause_before_reopening(words: &str) -> Option<Duration> {
    match Prefix::parse(words) {
        Some(
            Prefix::AuthRequired
            | Prefix::Restricted
            | Prefix::Blocked
            | Prefix::Unsupported
            | Prefix::Invalid
            | Prefix::Pow,
        ) => None,
        Some(Prefix::RateLimited) => Some(RATE_LIMIT_FIRST),
        Some(Prefix::Error | Prefix::Duplicate) | None => Some(REOPEN_FIRST),
    }
}

//! What one relay has been asked for one subscription, and what is still to be asked.
//!
//! The main request keeps one id for the life of the subscription. Everything that is fetched besides
//! (the next page of stored events, what a slow subscriber had no room for) is a *round* of its own
//! beside it, closed when the relay has answered, so that the live part never pauses.

use std::collections::VecDeque;
use std::sync::Arc;

use nostr::{ClientMessage, Filter, JsonUtil, SubscriptionId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::feed::Feed;

/// Seconds that a request made again reaches back before the moment the relay was lost: peers'
/// clocks differ by minutes, and what they date back must not be missed.
const OVERLAP_SECS: u64 = 600;

/// Stored events in one answer from which on a relay may have left out more. Relays stop at 500,
/// some at 100.
const FULL_PAGE: usize = 100;

/// Stored events asked for at a time in a round. Relays cut it down to what they allow.
const PAGE: usize = 5000;

/// Pages fetched for one request.
const MOST_PAGES: u32 = 40;

/// A stretch of time to fetch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// A request whose stored events are coming in.
#[derive(Debug)]
struct Round {
    /// Its number among the side rounds; `None` is the main request.
    side: Option<u64>,
    span: Span,
    pageable: bool,
    events: usize,
    oldest: Option<Timestamp>,
}

/// One subscription at one relay.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) feed: Arc<Feed>,
    /// Told at most once that the request will be written later, and once that it is.
    tell: Option<mpsc::Sender<Asked>>,
    said_later: bool,
    /// Whether the relay has the main request, as far as we know.
    pub(super) live: bool,
    /// Whether the relay said all it had stored, once.
    pub(super) complete: bool,
    /// Whether a future is already waiting for room in the feed.
    pub(super) awaiting_room: bool,
    /// How often in a row the relay has closed it.
    pub(super) strikes: u32,
    pub(super) asked_at: Instant,
    round: Option<Round>,
    spans: VecDeque<Span>,
    /// The oldest event that the feed had no room for.
    gap: Option<Timestamp>,
    /// When the relay was last known to have the request.
    live_until: Timestamp,
    sides: u64,
    pages: u32,
}

/// What an actor says about a subscription that was just made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) relay: usize,
    /// True when the request is written; false when the relay will be asked once it is connected.
    pub(super) written: bool,
}

/// What follows from the end of a round.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is nothing more to fetch.
    Complete,
    /// Wait for room in the feed, then [`refetch`](Ask::refetch).
    AwaitRoom,
    /// Send this.
    Send(String),
    /// Something is under way already.
    Nothing,
}

impl Ask {
    pub(super) fn new(feed: Arc<Feed>, tell: mpsc::Sender<Asked>) -> Self {
        Self {
            feed,
            tell: Some(tell),
            said_later: false,
            live: false,
            complete: false,
            awaiting_room: false,
            strikes: 0,
            asked_at: Instant::now(),
            round: None,
            spans: VecDeque::new(),
            gap: None,
            live_until: Timestamp::zero(),
            sides: 0,
            pages: 0,
        }
    }

    /// Lets the subscriber know that this relay is not to be waited for.
    pub(super) fn say_later(&mut self, relay: usize) {
        if let Some(tell) = &self.tell
            && !std::mem::replace(&mut self.said_later, true)
        {
            let written = false;
            let _ = tell.try_send(Asked { relay, written });
        }
    }

    /// Lets the subscriber know that this relay has the request.
    pub(super) fn say_written(&mut self, relay: usize) {
        if let Some(tell) = self.tell.take() {
            let written = true;
            let _ = tell.try_send(Asked { relay, written });
        }
    }

    /// The main request, for a relay that does not have it.
    pub(super) fn request(&mut self, ids: &Ids) -> String {
        let filter = if self.complete {
            self.since_lost()
        } else {
            self.feed.filter.clone()
        };
        self.live = true;
        self.asked_at = Instant::now();
        self.spans.clear();
        self.gap = None;
        self.pages = 0;
        self.round = Some(Round::new(None, &filter));
        text_of(ids.main(self.feed.number), filter)
    }

    /// The filter for what may have come since the relay was lost, or was not fetched before.
    fn since_lost(&self) -> Filter {
        let lost = Timestamp::from_secs(self.live_until.as_secs().saturating_sub(OVERLAP_SECS));
        let round = self.round.iter().map(|round| round.span);
        let open = self.spans.iter().copied().chain(round);
        let open = open.map(|span| span.since.unwrap_or_default());
        let from = open.chain(self.gap).fold(lost, Ord::min);
        self.within(Span {
            since: Some(from),
            until: None,
        })
    }

    /// The filter, narrowed to a span. Its own limit goes: it counted from the newest stored event.
    fn within(&self, span: Span) -> Filter {
        let mut filter = self.feed.filter.clone().limit(PAGE);
        filter.since = filter.since.max(span.since);
        filter.until = match (filter.until, span.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        filter
    }

    /// Notes an event of a round.
    pub(super) fn received(&mut self, side: Option<u64>, at: Timestamp) {
        if let Some(round) = self.round.as_mut().filter(|round| round.side == side) {
            round.events += 1;
            round.oldest = Some(round.oldest.map_or(at, |oldest| oldest.min(at)));
        }
    }

    /// Notes an event that the feed had no room for.
    pub(super) fn missed(&mut self, at: Timestamp) {
        self.gap = Some(self.gap.map_or(at, |gap| gap.min(at)));
    }

    /// The relay has said all it had for a round.
    pub(super) fn round_ended(&mut self, side: Option<u64>, ids: &Ids) -> Next {
        let Some(round) = self.round.take_if(|round| round.side == side) else {
            return Next::Nothing;
        };
        if let Some(span) = round.next_page()
            && self.pages < MOST_PAGES
        {
            self.pages += 1;
            self.spans.push_back(span);
        }
        self.advance(ids)
    }

    /// There is room in the feed: fetches what it had none for.
    pub(super) fn refetch(&mut self, ids: &Ids) -> Next {
        self.awaiting_room = false;
        if !self.live || self.round.is_some() {
            // Making the request anew, or the end of the round, comes back to the gap.
            return Next::Nothing;
        }
        if let Some(gap) = self.gap.take() {
            self.pages = 0;
            self.spans.push_front(Span {
                since: Some(gap),
                until: None,
            });
        }
        self.advance(ids)
    }

    fn advance(&mut self, ids: &Ids) -> Next {
        if self.gap.is_some() {
            return Next::AwaitRoom;
        }
        let Some(span) = self.spans.pop_front() else {
            self.complete = true;
            return Next::Complete;
        };
        self.sides += 1;
        let filter = self.within(span);
        self.round = Some(Round::new(Some(self.sides), &filter));
        Next::Send(text_of(ids.side(self.feed.number, self.sides), filter))
    }

    /// The relay no longer has the main request.
    pub(super) fn lost(&mut self, now: Timestamp) {
        if self.live {
            self.live = false;
            self.live_until = now;
        }
    }

    /// What tells the relay that all this is over.
    pub(super) fn endings(&self, ids: &Ids) -> impl Iterator<Item = String> {
        let number = self.feed.number;
        let main = self.live.then(|| ids.main(number));
        let side = self.round.as_ref().and_then(|round| round.side);
        let side = side.map(|side| ids.side(number, side));
        main.into_iter().chain(side).map(ending)
    }
}

impl Round {
    fn new(side: Option<u64>, filter: &Filter) -> Self {
        Self {
            side,
            span: Span {
                since: filter.since,
                until: filter.until,
            },
            pageable: filter.limit.is_none_or(|limit| limit == PAGE) && filter.ids.is_none(),
            events: 0,
            oldest: None,
        }
    }

    /// What to fetch after this, if the relay may have left out older events.
    fn next_page(&self) -> Option<Span> {
        let oldest = self.oldest?;
        if !self.pageable || self.events < FULL_PAGE {
            return None;
        }
        // Events of the oldest second may have been cut off, so it is asked for again; but when it is
        // all that came, the next one must go on before it.
        let stuck = self.span.until.is_some_and(|until| oldest >= until);
        let step = u64::from(stuck);
        let until = Timestamp::from_secs(oldest.as_secs().checked_sub(step)?);
        let since = self.span.since;
        (since.unwrap_or_default() <= until).then_some(Span {
            since,
            until: Some(until),
        })
    }
}

/// Names subscriptions at the relays: one prefix per session, so that ours can be told from what a
/// relay makes up.
#[derive(Debug)]
pub(super) struct Ids(String);

impl Ids {
    pub(super) fn new(session: u32) -> Self {
        Self(format!("ac{session:08x}-"))
    }

    fn main(&self, number: u64) -> SubscriptionId {
        SubscriptionId::new(format!("{}{number}", self.0))
    }

    pub(super) fn side(&self, number: u64, side: u64) -> SubscriptionId {
        SubscriptionId::new(format!("{}{number}-{side}", self.0))
    }

    /// Which subscription and round an id names, if it is one of ours.
    pub(super) fn parse(&self, id: &SubscriptionId) -> Option<(u64, Option<u64>)> {
        let rest = id.as_str().strip_prefix(&self.0)?;
        match rest.split_once('-') {
            None => Some((rest.parse().ok()?, None)),
            Some((number, side)) => Some((number.parse().ok()?, Some(side.parse().ok()?))),
        }
    }
}

fn text_of(id: SubscriptionId, filter: Filter) -> String {
    ClientMessage::req(id, filter).as_json()
}

pub(super) fn ending(id: SubscriptionId) -> String {
    ClientMessage::close(id).as_json()
}

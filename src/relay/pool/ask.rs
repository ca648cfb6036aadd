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
    /// Tells it from any other of the subscription at this relay.
    serial: u64,
    /// What its id ends in; `None` is the main request.
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
    serial: u64,
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
            serial: 0,
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
        let asked_before = self.live_until > Timestamp::zero();
        let filter = if self.complete {
            self.since_lost()
        } else {
            self.feed.filter.clone()
        };
        self.spans.clear();
        if asked_before && filter.limit.is_some() && !self.complete {
            // The limit may leave out what came after the first asking.
            let since = self.gap.into_iter().fold(self.overlapped(), Ord::min);
            self.spans.push_back(Span {
                since: Some(since),
                until: None,
            });
        }
        self.live = true;
        self.asked_at = Instant::now();
        self.gap = None;
        self.pages = 0;
        self.begin_round(None, &filter);
        text_of(ids.main(self.feed.number), filter)
    }

    fn begin_round(&mut self, side: Option<u64>, filter: &Filter) {
        self.serial += 1;
        self.round = Some(Round {
            serial: self.serial,
            side,
            span: Span {
                since: filter.since,
                until: filter.until,
            },
            pageable: filter.limit.is_none_or(|limit| limit == PAGE) && filter.ids.is_none(),
            events: 0,
            oldest: None,
        });
    }

    /// The serial number of the round that is under way.
    pub(super) fn under_way(&self) -> Option<u64> {
        self.round.as_ref().map(|round| round.serial)
    }

    /// Whether the end of this round is still to come.
    pub(super) fn awaits(&self, side: Option<u64>) -> bool {
        self.round.as_ref().is_some_and(|round| round.side == side)
    }

    /// How far back to ask a relay that had the request and lost it.
    fn overlapped(&self) -> Timestamp {
        Timestamp::from_secs(self.live_until.as_secs().saturating_sub(OVERLAP_SECS))
    }

    /// The filter for what may have come since the relay was lost, or was not fetched before.
    fn since_lost(&self) -> Filter {
        let round = self.round.iter().map(|round| round.span);
        let open = self.spans.iter().copied().chain(round);
        let open = open.map(|span| span.since.unwrap_or_default());
        let from = open.chain(self.gap).fold(self.overlapped(), Ord::min);
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

    /// A round took too long: goes on without its end.
    pub(super) fn give_up(&mut self, serial: u64, ids: &Ids) -> Next {
        match self.round.take_if(|round| round.serial == serial) {
            Some(_) => self.proceed(ids).unwrap_or(Next::Nothing),
            None => Next::Nothing,
        }
    }

    /// There is room in the feed: fetches what it had none for.
    pub(super) fn refetch(&mut self, ids: &Ids) -> Next {
        self.awaiting_room = false;
        if !self.live || self.round.is_some() {
            // Making the request anew, or the end of the round, comes back to the gap.
            return Next::Nothing;
        }
        let Some(gap) = self.gap.take() else {
            return Next::Nothing;
        };
        self.pages = 0;
        self.spans.push_front(Span {
            since: Some(gap),
            until: None,
        });
        self.advance(ids)
    }

    fn advance(&mut self, ids: &Ids) -> Next {
        self.proceed(ids).unwrap_or_else(|| {
            self.complete = true;
            Next::Complete
        })
    }

    /// The next step, if something is left to fetch.
    fn proceed(&mut self, ids: &Ids) -> Option<Next> {
        if self.gap.is_some() {
            return Some(Next::AwaitRoom);
        }
        let span = self.spans.pop_front()?;
        let filter = self.within(span);
        let side = self.serial + 1;
        self.begin_round(Some(side), &filter);
        Some(Next::Send(text_of(
            ids.side(self.feed.number, side),
            filter,
        )))
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
        let side = self.round.as_ref().and_then(|round| round.side);
        let side = side.map(|side| ids.side(number, side));
        std::iter::once(ids.main(number)).chain(side).map(ending)
    }
}

impl Round {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MAIN: Option<u64> = None;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn ask(filter: Filter) -> (Ask, Ids) {
        let (feed, _) = Feed::new(7, filter, 1);
        let (tell, _) = mpsc::channel(2);
        (Ask::new(Arc::new(feed), tell), Ids::new(1))
    }

    /// The id's last part and the filter of a request.
    fn read(ids: &Ids, text: &str) -> (Option<u64>, Filter) {
        let Ok(ClientMessage::Req {
            subscription_id,
            filters,
        }) = ClientMessage::from_json(text)
        else {
            panic!("{text}");
        };
        let (number, side) = ids.parse(&subscription_id).unwrap();
        assert_eq!(number, 7);
        (side, filters.into_iter().next().unwrap().into_owned())
    }

    fn sent(ids: &Ids, next: Next) -> (Option<u64>, Filter) {
        match next {
            Next::Send(text) => read(ids, &text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_request_is_what_was_asked_for() {
        let filter = Filter::new().since(at(50)).limit(3);
        let (mut ask, ids) = ask(filter.clone());
        assert_eq!(read(&ids, &ask.request(&ids)), (MAIN, filter));
        assert_eq!(ask.round_ended(MAIN, &ids), Next::Complete);
    }

    #[test]
    fn a_full_page_is_followed_by_an_older_one_until_one_is_not_full() {
        let (mut ask, ids) = ask(Filter::new());
        ask.request(&ids);
        (0..500).for_each(|i| ask.received(MAIN, at(10_000 - i)));
        let (side, filter) = sent(&ids, ask.round_ended(MAIN, &ids));
        assert_eq!((filter.since, filter.until), (None, Some(at(9501))));
        ask.received(MAIN, at(20_000));
        (0..99).for_each(|i| ask.received(side, at(9501 - i)));
        assert_eq!(ask.round_ended(side, &ids), Next::Complete);
    }

    #[test]
    fn a_second_that_fills_a_page_does_not_stop_the_paging() {
        let (mut ask, ids) = ask(Filter::new());
        ask.request(&ids);
        (0..500).for_each(|_| ask.received(MAIN, at(100)));
        let (side, filter) = sent(&ids, ask.round_ended(MAIN, &ids));
        assert_eq!(filter.until, Some(at(100)));
        (0..500).for_each(|_| ask.received(side, at(100)));
        let (_, filter) = sent(&ids, ask.round_ended(side, &ids));
        assert_eq!(filter.until, Some(at(99)));
    }

    #[test]
    fn paging_ends_even_if_the_relay_does_not() {
        let (mut ask, ids) = ask(Filter::new());
        ask.request(&ids);
        let mut side = MAIN;
        for _ in 0..MOST_PAGES {
            (0..500).for_each(|_| ask.received(side, at(1_000_000)));
            side = sent(&ids, ask.round_ended(side, &ids)).0;
        }
        (0..500).for_each(|_| ask.received(side, at(1_000_000)));
        assert_eq!(ask.round_ended(side, &ids), Next::Complete);
    }

    #[test]
    fn what_there_was_no_room_for_is_fetched_when_there_is() {
        let (mut ask, ids) = ask(Filter::new().limit(10));
        ask.request(&ids);
        ask.missed(at(40));
        ask.missed(at(30));
        ask.missed(at(50));
        assert_eq!(ask.refetch(&ids), Next::Nothing, "not while events come in");
        assert_eq!(ask.round_ended(MAIN, &ids), Next::AwaitRoom);
        let (side, filter) = sent(&ids, ask.refetch(&ids));
        assert_eq!((filter.since, filter.limit), (Some(at(30)), Some(PAGE)));
        assert_eq!(ask.round_ended(side, &ids), Next::Complete);
        assert_eq!(ask.refetch(&ids), Next::Nothing);
    }

    #[test]
    fn a_relay_that_comes_back_is_asked_from_before_it_was_lost() {
        let (mut ask, ids) = ask(Filter::new().since(at(50)).limit(3));
        ask.request(&ids);
        ask.round_ended(MAIN, &ids);
        ask.lost(at(5000));
        ask.lost(at(9000));
        let (side, filter) = read(&ids, &ask.request(&ids));
        assert_eq!(side, MAIN);
        assert_eq!(filter.since, Some(at(5000 - OVERLAP_SECS)));
        ask.lost(at(9000));
        let (_, filter) = read(&ids, &ask.request(&ids));
        assert_eq!(
            filter.since,
            Some(at(5000 - OVERLAP_SECS)),
            "it never answered"
        );
        ask.missed(at(20));
        ask.missed(at(80));
        ask.lost(at(20_000));
        let (_, filter) = read(&ids, &ask.request(&ids));
        assert_eq!(filter.since, Some(at(50)), "never before the filter's own");
    }

    #[test]
    fn one_lost_before_it_answered_is_asked_all_again_and_for_what_a_limit_leaves_out() {
        let filter = Filter::new().limit(3);
        let (mut ask, ids) = ask(filter.clone());
        ask.request(&ids);
        ask.lost(at(5000));
        assert_eq!(read(&ids, &ask.request(&ids)), (MAIN, filter));
        let (side, filter) = sent(&ids, ask.round_ended(MAIN, &ids));
        assert_eq!(filter.since, Some(at(5000 - OVERLAP_SECS)));
        assert_eq!(ask.round_ended(side, &ids), Next::Complete);
    }

    #[test]
    fn an_end_that_does_not_come_holds_up_nothing() {
        let (mut ask, ids) = ask(Filter::new());
        ask.request(&ids);
        let round = ask.under_way().unwrap();
        ask.missed(at(30));
        assert_eq!(ask.give_up(round + 1, &ids), Next::Nothing);
        assert_eq!(ask.give_up(round, &ids), Next::AwaitRoom);
        let (side, _) = sent(&ids, ask.refetch(&ids));
        assert_eq!(ask.round_ended(MAIN, &ids), Next::Nothing, "too late");
        assert_eq!(ask.round_ended(side, &ids), Next::Complete);
    }

    #[test]
    fn only_our_own_ids_are_read() {
        let ids = Ids::new(0xabc);
        for (number, side) in [(0, None), (7, Some(3)), (u64::MAX, Some(u64::MAX))] {
            let id = match side {
                None => ids.main(number),
                Some(side) => ids.side(number, side),
            };
            assert!(id.as_str().len() <= 64);
            assert_eq!(ids.parse(&id), Some((number, side)));
        }
        let foreign = ["", "7", "ac00000abd-7", "ac00000abc-", "ac00000abc-7-1-1"];
        for id in foreign {
            assert_eq!(ids.parse(&SubscriptionId::new(id)), None);
        }
    }
}

//! The seller's points, each in the sales in which it lies; with the buyer alive, and with both killed.

pub(super) mod sale;

use agent_compute::crash::Point::{self, *};

use self::sale::{Backends, Bench, Sale, Sale::*};
use super::*;

/// Each with the points that lie in it, and at which time it comes by.
const ROWS: &[(Sale, &[(Point, u32)])] = &[
    (
        Start,
        &[
            (StoreCreate, 1),
            (StoreMigrate, 1),
            (StoreLock, 1),
            // What is read and noted until it is announced.
            (StoreCommit, 1),
            (StoreCommit, 3),
            (StoreCommit, 5),
            (StoreCommit, 6),
            (StoreCommit, 7),
            (ProviderChannel, 1),
            (ProviderChannelSaid, 1),
            (ProviderListing, 1),
            (ProviderListingSaid, 1),
            (ProviderAnnouncement, 1),
            (ProviderAnnouncementSaid, 1),
        ],
    ),
    (
        PaidFirst,
        &[
            (StoreCommit, 8),
            (StoreCommit, 9),
            (StoreCommit, 10),
            (StoreRoom, 1),
            (ProviderInvoice, 1),
            (ProviderQuote, 1),
            (ProviderInvoiceSaid, 1),
            (ProviderWork, 1),
            (ProviderChunk, 1),
            (ProviderChunkSaid, 1),
            (ProviderResult, 1),
            (ProviderResultSaid, 1),
            (ProviderDelivered, 1),
        ],
    ),
    (
        Escrow,
        &[
            (StoreCommit, 10),
            (StoreCommit, 11),
            (StoreCommit, 12),
            (StoreCommit, 13),
            (ProviderInvoice, 1),
            (ProviderQuote, 1),
            (ProviderInvoiceSaid, 1),
            (ProviderWork, 1),
            (ProviderChunk, 1),
            (ProviderChunkSaid, 1),
            (ProviderResult, 1),
            (ProviderResultSaid, 1),
            (ProviderDelivered, 1),
            (ProviderPreimage, 1),
            (ProviderSettle, 1),
            (ProviderSettled, 1),
        ],
    ),
    (Slow, &[(ProviderBegin, 1)]),
    (SlowInEscrow, &[(ProviderBegin, 1)]),
    (Queue, &[(ProviderFunded, 1), (ProviderPositionSaid, 1)]),
    (QueueInEscrow, &[(ProviderFunded, 1)]),
    (
        Undone,
        &[
            (ProviderFailed, 1),
            (ProviderFailureSaid, 1),
            (ProviderTold, 1),
        ],
    ),
    (
        UndoneInEscrow,
        &[
            (ProviderReturning, 1),
            (ProviderGiveBack, 1),
            (ProviderReturned, 1),
            (ProviderFailureSaid, 1),
            (ProviderTold, 1),
        ],
    ),
    (Refused, &[(ProviderRefusalSaid, 1)]),
    (
        Leaving,
        &[
            (ProviderQuoteCancel, 1),
            (ProviderClosed, 1),
            (ProviderWithdrawalSaid, 1),
            (ProviderWithdrawn, 1),
        ],
    ),
];

/// Killed there, it is killed once more after its restart, at the points behind.
const AGAIN: &[(Sale, At, &[Point])] = &[
    (
        Start,
        At::after(ProviderChannel),
        &[ProviderChannelSaid, ProviderListing, StoreLock],
    ),
    (
        PaidFirst,
        At::after(ProviderQuote),
        &[ProviderInvoiceSaid, ProviderWork],
    ),
    (
        PaidFirst,
        At::before(ProviderWork),
        &[ProviderBegin, ProviderWork, ProviderResult],
    ),
    (
        PaidFirst,
        At::after(ProviderChunk),
        &[ProviderResult, ProviderDelivered],
    ),
    (
        PaidFirst,
        At::after(ProviderResult),
        &[ProviderResultSaid, ProviderDelivered],
    ),
    (
        Escrow,
        At::after(ProviderInvoice),
        &[ProviderInvoice, ProviderQuote],
    ),
    (
        Escrow,
        At::after(ProviderResultSaid),
        &[ProviderPreimage, ProviderSettle, ProviderSettled],
    ),
    (
        Escrow,
        At::after(ProviderPreimage),
        &[ProviderSettle, ProviderSettled],
    ),
    (Escrow, At::after(ProviderSettle), &[ProviderSettled]),
    (
        UndoneInEscrow,
        At::after(ProviderReturning),
        &[ProviderGiveBack, ProviderReturned, ProviderTold],
    ),
    (
        Undone,
        At::after(ProviderFailed),
        &[ProviderFailureSaid, ProviderTold],
    ),
];

pub(super) fn points() -> Vec<Point> {
    let points = ROWS.iter().flat_map(|(_, points)| points.iter());
    points.map(|(point, _)| *point).collect()
}

/// The rows of some of the sales, each with the buyer alive and killed: one after the other in turns, and
/// all of them with `CRASH_MATRIX=all`.
fn rows(of: impl Fn(Sale) -> bool) -> Vec<(Sale, At, bool)> {
    let points = ROWS.iter().filter(|(sale, _)| of(*sale));
    let sides = points.flat_map(|(sale, points)| {
        let each = points.iter();
        each.flat_map(move |(point, nth)| At::both_sides(*point, *nth).map(|at| (*sale, at)))
    });
    let mut rows = Vec::new();
    for (n, (sale, at)) in sides.enumerate() {
        let in_turn = n % 4 == 1 || n % 4 == 2;
        let ways: &[bool] = match (sale.has_a_waiting_buyer(), every_row()) {
            (false, _) => &[false],
            (true, true) => &[false, true],
            (true, false) if in_turn => &[true],
            (true, false) => &[false],
        };
        rows.extend(ways.iter().map(|both| (sale, at, *both)));
    }
    rows
}

fn sold_around_each_effect(backends: &Backends, of: impl Fn(Sale) -> bool) {
    let bench = Bench::new(backends);
    in_lanes(rows(of), |(sale, at, both)| {
        let who = if both { "both" } else { "the seller" };
        let why = format!("{sale:?}, {who} killed at {at}");
        let mut selling = until_dead(&why, || bench.cut_off(sale, at, both));
        selling.restart();
        selling.comes_back(&why);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_killed_around_each_effect_of_its_start_and_its_leaving_sells_all_the_same() {
    let backends = Backends::new().await;
    tokio::task::block_in_place(|| {
        sold_around_each_effect(&backends, |sale| matches!(sale, Start | Leaving | Refused));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_killed_around_each_effect_delivers_what_was_paid() {
    let backends = Backends::new().await;
    tokio::task::block_in_place(|| {
        let first = |sale| matches!(sale, PaidFirst | Slow | Queue | Undone);
        sold_around_each_effect(&backends, first);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_killed_around_each_effect_delivers_for_what_is_locked_or_gives_it_back() {
    let backends = Backends::new().await;
    tokio::task::block_in_place(|| {
        let locked = |sale| matches!(sale, Escrow | SlowInEscrow | QueueInEscrow | UndoneInEscrow);
        sold_around_each_effect(&backends, locked);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_killed_once_more_after_its_restart_sells_all_the_same() {
    let backends = Backends::new().await;
    tokio::task::block_in_place(|| {
        let bench = Bench::new(&backends);
        let twice = |(sale, first, behind): &(Sale, At, &'static [Point])| {
            let (sale, first) = (*sale, *first);
            let sides = behind.iter().flat_map(|point| At::both_sides(*point, 1));
            sides.map(move |at| (sale, first, at)).collect::<Vec<_>>()
        };
        in_lanes(AGAIN.iter().flat_map(twice), |(sale, first, second)| {
            let why = format!("{sale:?}, killed at {first}, then at {second}");
            let mut selling = until_dead(&why, || {
                let mut selling = bench.cut_off(sale, first, false)?;
                selling.dies_again(second)?;
                Ok(selling)
            });
            selling.restart();
            selling.comes_back(&why);
        });
    });
}

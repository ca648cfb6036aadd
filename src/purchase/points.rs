//! What each commit and each message of a purchase is called in [`crash`](crate::crash).

use super::lock::Word;
use super::state::{Phase, Settled};
use crate::crash::Point;
use crate::protocol::message::AgentMessage;

/// What it is to put the way from `before` to `after` on record. One commit may be two effects, where a
/// result was quicker than the wallet.
pub(super) fn of_commit(before: &Phase, after: &Phase) -> &'static [Point] {
    match (before, after) {
        (Phase::Requested | Phase::Quoted(_), Phase::Failed { .. }) => &[Point::CustomerFail],
        (_, Phase::Paying(_)) => &[Point::CustomerReserve],
        (Phase::Quoted(_), Phase::Locked(_)) => &[Point::CustomerLock],
        (_, Phase::Awaiting { .. }) => &[Point::CustomerSettle],
        (_, Phase::Unknown { .. }) => &[Point::CustomerUnknown],
        (Phase::Paying(_) | Phase::Unknown { .. }, Phase::Failed { .. }) => &[Point::CustomerFree],
        (Phase::Paying(_) | Phase::Unknown { .. }, Phase::Delivered { .. }) => {
            &[Point::CustomerSettle, Point::CustomerResult]
        }
        (Phase::Paying(_) | Phase::Unknown { .. }, Phase::Undelivered { .. }) => {
            &[Point::CustomerSettle, Point::CustomerUndelivered]
        }
        (Phase::Withheld { .. }, Phase::Undelivered { .. }) => &[Point::CustomerSettle],
        (_, Phase::Undelivered { .. }) => &[Point::CustomerUndelivered],
        (Phase::Released { .. }, Phase::Delivered { settled, .. }) if is_free(settled) => {
            &[Point::CustomerUnclaimed]
        }
        (Phase::Released { .. }, Phase::Delivered { .. }) => &[Point::CustomerClaimed],
        (_, Phase::Delivered { .. }) => &[Point::CustomerResult],
        (Phase::Locked(_) | Phase::Withheld { .. }, Phase::Released { .. }) => {
            &[Point::CustomerRelease]
        }
        (Phase::Locked(_), Phase::Withheld { .. })
        | (Phase::Withheld { spoiled: false, .. }, Phase::Withheld { spoiled: true, .. }) => {
            &[Point::CustomerWithhold]
        }
        (_, Phase::Failed { .. }) => &[Point::CustomerBack],
        // The same phase, and another word of the wallet.
        _ => match after.lock().map(|lock| &lock.word) {
            Some(Word::InFlight) if was_in_doubt(before) => &[Point::CustomerSeenAgain],
            Some(_) => &[Point::CustomerUnknown],
            None => &[],
        },
    }
}

const fn is_free(settled: &Settled) -> bool {
    settled.paid().is_zero()
}

fn was_in_doubt(before: &Phase) -> bool {
    let word = before.lock().map(|lock| &lock.word);
    matches!(word, Some(Word::Unknown(_)))
}

/// What it is to say this to a provider.
pub(super) fn of_message(message: &AgentMessage) -> &'static [Point] {
    match message {
        AgentMessage::Cancel(_) => &[Point::CustomerCancelSaid],
        AgentMessage::PaymentSent(_) => &[Point::CustomerPaidSaid],
        AgentMessage::HtlcLocked(_) => &[Point::CustomerLockedSaid],
        AgentMessage::PreimageRelease(_) => &[Point::CustomerPreimageSaid],
        _ => &[],
    }
}

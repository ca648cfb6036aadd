//! What the provider of a purchase says, as the relays bring it.

use std::time::Duration;

use nostr::{Filter, Kind, Timestamp};

use super::state::Terms;
use crate::config::CLOCK_SKEW_SECS;
use crate::error::{Code, Error, Result};
use crate::relay::{RelayError, RelaySession, Subscription};

/// How many stored messages are read at most before a request is made. All are older than the request but
/// those that slip in while several relays are being asked; a busy provider's last quarter of an hour is
/// not worth reading for each purchase.
const STORED_BEFORE: usize = 16;

/// From when on a provider is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From now: the request is yet to be made.
    Now,
    /// From the request, which was made a while ago.
    Request,
}

/// Subscribes to the provider's messages in its channel. Their dates may lie minutes before ours: clocks
/// differ.
///
/// # Errors
/// If no relay can be reached.
pub async fn listen(
    relays: &dyn RelaySession,
    terms: &Terms,
    since: Since,
    within: Duration,
) -> Result<Subscription> {
    subscribe(relays, terms, since, within)
        .await
        .map_err(|error| Error::new(Code::Network, error.to_string()))
}

pub(super) async fn subscribe(
    relays: &dyn RelaySession,
    terms: &Terms,
    since: Since,
    within: Duration,
) -> std::result::Result<Subscription, RelayError> {
    let from = terms.started_at.minus(CLOCK_SKEW_SECS);
    let filter = Filter::new()
        .kind(Kind::ChannelMessage)
        .author(terms.provider)
        .event(terms.channel)
        .since(Timestamp::from_secs(from.get()));
    let filter = match since {
        Since::Now => filter.limit(STORED_BEFORE),
        Since::Request => filter,
    };
    relays.subscribe(filter, within).await
}

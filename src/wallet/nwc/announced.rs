//! What a wallet announces of itself: the info event (kind 13194).

use std::time::Duration;

use nostr::{Event, Filter};
use tokio::time::{Instant, timeout_at};

use super::client::{Client, INFO};
use crate::relay;
use crate::wallet::WalletError;

/// How long the relays may take to tell what the wallet can do. Those that have it say it at once.
const INFO_WITHIN: Duration = Duration::from_secs(5);

/// How long the other relays have to tell something newer, once one has told it.
const INFO_REST_WITHIN: Duration = Duration::from_millis(300);

/// What a wallet has announced on its relays.
#[derive(Default)]
pub(super) struct Announced {
    /// Its methods, by name.
    pub(super) methods: Vec<String>,
    /// Whether it takes NIP-44.
    pub(super) nip44: bool,
    /// Whether it tells when something changes.
    pub(super) news: bool,
}

/// The newest info event that the relays have. Once one has told it, the others have a moment, and one that is
/// dead holds up nobody.
async fn newest_info(client: &Client) -> Result<Option<Event>, relay::RelayError> {
    let filter = Filter::new().kind(INFO).author(client.wallet()).limit(1);
    let mut until = Instant::now() + INFO_WITHIN;
    let mut stored = client.session().subscribe(filter, INFO_WITHIN).await?;
    let mut newest: Option<Event> = None;
    while let Ok(Some(relay::Incoming::Event(event))) = timeout_at(until, stored.next()).await {
        until = until.min(Instant::now() + INFO_REST_WITHIN);
        if newest
            .as_ref()
            .is_none_or(|known| known.created_at < event.created_at)
        {
            newest = Some(*event);
        }
    }
    Ok(newest)
}

/// Reads the wallet's info event. Without one NIP-44 is taken: all that is maintained has it.
pub(super) async fn announced(client: &Client) -> Result<Announced, WalletError> {
    let found = newest_info(client)
        .await
        .map_err(|error| WalletError::Unreachable(error.to_string()))?;
    let Some(event) = found else {
        return Ok(Announced {
            nip44: true,
            ..Announced::default()
        });
    };
    let tag = |name: &str| -> Option<Vec<String>> {
        let values = |event: &Event| {
            let tags = event.tags.iter().map(|tag| tag.as_slice().to_vec());
            let mut of_name = tags.filter(|tag| tag.first().is_some_and(|first| first == name));
            of_name.next()
        };
        let words = values(&event)?;
        let words = words
            .iter()
            .skip(1)
            .flat_map(|text| text.split_whitespace());
        Some(words.map(str::to_owned).collect())
    };
    Ok(Announced {
        methods: event
            .content
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        // NIP-47: without the tag it is NIP-04.
        nip44: tag("encryption").is_some_and(|ways| ways.iter().any(|way| way == "nip44_v2")),
        news: tag("notifications").is_some_and(|news| !news.is_empty()),
    })
}

//! Events that leave this process get their signature here.

use nostr::{Event, EventBuilder, Timestamp};

use crate::identity::Identity;
use crate::units::UnixSecs;

/// Signs an event as of `at`.
///
/// # Errors
/// If the event can't be signed, which means that it was built wrong.
pub fn sign(
    identity: &Identity,
    event: EventBuilder,
    at: UnixSecs,
) -> Result<Event, nostr::event::builder::Error> {
    event
        .custom_created_at(Timestamp::from_secs(at.get()))
        .sign_with_keys(identity.keys())
}

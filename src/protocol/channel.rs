//! NIP-28 channel events: kind 40 makes a channel, kind 42 speaks in it.

use nostr::{Event, EventBuilder, EventId, Kind, PublicKey, Tag};
use serde::Serialize;

/// What a reply answers: the event, and who wrote it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    /// The event that is answered.
    pub event: EventId,
    /// Its author.
    pub author: PublicKey,
}

#[derive(Serialize)]
struct ChannelMetadata<'a> {
    name: &'a str,
    about: &'a str,
    picture: &'a str,
    relays: &'a [String],
}

/// The event that makes a channel; its id is the channel's.
#[must_use]
pub fn create(name: &str, about: &str, relays: &[String]) -> EventBuilder {
    let metadata = ChannelMetadata {
        name,
        about,
        picture: "",
        relays,
    };
    let content = serde_json::to_string(&metadata).unwrap_or_default();
    EventBuilder::new(Kind::ChannelCreation, content)
}

/// A message in a channel. Deployed peers send the channel's `e` tag alone; ours adds what it replies to.
#[must_use]
pub fn message(
    channel: EventId,
    relay: &str,
    content: String,
    reply: Option<ReplyTo>,
) -> EventBuilder {
    let mut tags = vec![e_tag(channel, relay, "root")];
    if let Some(to) = reply {
        tags.push(e_tag(to.event, relay, "reply"));
        tags.push(Tag::public_key(to.author));
    }
    EventBuilder::new(Kind::ChannelMessage, content).tags(tags)
}

fn e_tag(event: EventId, relay: &str, marker: &str) -> Tag {
    let kind = nostr::TagKind::single_letter(nostr::Alphabet::E, false);
    Tag::custom(kind, [event.to_hex(), relay.to_owned(), marker.to_owned()])
}

/// The channel that a message was said in: its `e` tag marked `root`, or the first one.
#[must_use]
pub fn channel_of(event: &Event) -> Option<EventId> {
    if event.kind != Kind::ChannelMessage {
        return None;
    }
    let ids = |marked: bool| {
        event.tags.iter().find_map(|tag| match tag.as_slice() {
            [name, id, rest @ ..] if name == "e" => {
                let is_root = rest.get(1).is_some_and(|marker| marker == "root");
                (is_root || !marked).then(|| EventId::from_hex(id).ok())?
            }
            _ => None,
        })
    };
    ids(true).or_else(|| ids(false))
}

//! NIP-28 channel events: kind 40 makes a channel, kind 42 speaks in it.

use nostr::nips::nip19::{FromBech32, Nip19Event};
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

/// A message in a channel that answers nothing and is for one reader.
#[must_use]
pub fn addressed(channel: EventId, relay: &str, content: String, to: PublicKey) -> EventBuilder {
    message(channel, relay, content, None).tag(Tag::public_key(to))
}

fn e_tag(event: EventId, relay: &str, marker: &str) -> Tag {
    let kind = nostr::TagKind::single_letter(nostr::Alphabet::E, false);
    Tag::custom(kind, [event.to_hex(), relay.to_owned(), marker.to_owned()])
}

/// A word that names no channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a channel: expected the id of the event that made it (64 hex digits, note or nevent)")]
pub struct NotAChannel;

/// The channel that a person names, by the id of the event that made it: hex, `note` or `nevent`.
///
/// # Errors
/// If it is none of these.
pub fn id_from_text(text: &str) -> Result<EventId, NotAChannel> {
    let text = text.strip_prefix("nostr:").unwrap_or(text);
    EventId::from_hex(text)
        .or_else(|_| EventId::from_bech32(text))
        .or_else(|_| Nip19Event::from_bech32(text).map(|event| event.event_id))
        .map_err(|_| NotAChannel)
}

/// The event that a message answers: its `e` tag marked `reply`. Deployed peers send none.
#[must_use]
pub fn answered(event: &Event) -> Option<EventId> {
    event.tags.iter().find_map(|tag| match tag.as_slice() {
        [name, id, _, marker, ..] if name == "e" && marker == "reply" => EventId::from_hex(id).ok(),
        _ => None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use nostr::nips::nip19::ToBech32;
    use nostr::{Keys, TagKind};

    fn signed(builder: EventBuilder) -> Event {
        builder.sign_with_keys(&Keys::generate()).unwrap()
    }

    #[test]
    fn a_message_names_its_channel_and_what_it_answers() {
        let channel = EventId::from_byte_array([1; 32]);
        let to = ReplyTo {
            event: EventId::from_byte_array([2; 32]),
            author: Keys::generate().public_key(),
        };
        let plain = signed(message(channel, "ws://a", "text".into(), None));
        let expected = [vec![
            "e".into(),
            channel.to_hex(),
            "ws://a".into(),
            "root".into(),
        ]];
        let tags: Vec<Vec<String>> = plain
            .tags
            .iter()
            .map(|tag| tag.as_slice().to_vec())
            .collect();
        assert_eq!(tags, expected);

        let reply = signed(message(channel, "ws://a", "text".into(), Some(to)));
        assert_eq!(channel_of(&reply), Some(channel));
        assert_eq!(reply.tags.len(), 3);
        assert_eq!((answered(&plain), answered(&reply)), (None, Some(to.event)));
    }

    #[test]
    fn the_root_is_the_channel_wherever_it_stands() {
        let (root, other) = (
            EventId::from_byte_array([1; 32]),
            EventId::from_byte_array([2; 32]),
        );
        let event = |tags: Vec<Tag>| signed(EventBuilder::new(Kind::ChannelMessage, "").tags(tags));
        let both = event(vec![e_tag(other, "", "reply"), e_tag(root, "", "root")]);
        assert_eq!(channel_of(&both), Some(root));
        let bare = Tag::custom(TagKind::from("e"), [other.to_hex()]);
        assert_eq!(channel_of(&event(vec![bare])), Some(other));
        let broken = Tag::custom(TagKind::from("e"), ["no id"]);
        assert_eq!(channel_of(&event(vec![broken])), None);
        assert_eq!(channel_of(&event(vec![])), None);
    }

    #[test]
    fn a_channel_is_named_by_hex_note_or_nevent() {
        let id = EventId::from_byte_array([9; 32]);
        let nevent = Nip19Event::new(id).to_bech32().unwrap();
        for text in [
            id.to_hex(),
            id.to_bech32().unwrap(),
            format!("nostr:{nevent}"),
            nevent,
        ] {
            assert_eq!(id_from_text(&text), Ok(id), "{text}");
        }
        for text in ["", "abc", "note1", "nevent1qqs", "é"] {
            assert_eq!(id_from_text(text), Err(NotAChannel), "{text}");
        }
    }
}

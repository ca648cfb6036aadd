//! How a text is cut into messages that relays take. Pure.

/// The most bytes of a piece as JSON inside the message. Leaves room for the message's other fields below
/// the protocol's limit.
const PIECE_BYTES: usize = 28 * 1024;

/// The most bytes of a piece as it stands in the event, where the message is JSON within JSON. Leaves
/// room for tags and signature below the 64 KB at which relays refuse events.
const PIECE_EVENT_BYTES: usize = 56 * 1024;

/// How much of the two limits a character takes: escaped once, and twice.
const fn cost(c: char) -> (usize, usize) {
    match c {
        '"' | '\\' => (2, 4),
        '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => (2, 3),
        '\0'..='\u{1f}' => (6, 7),
        _ => (c.len_utf8(), c.len_utf8()),
    }
}

/// The longest beginning of `text` that fits one message, and the rest.
pub(super) fn split_piece(text: &str) -> (&str, &str) {
    let (mut once, mut twice) = (0, 0);
    for (at, c) in text.char_indices() {
        let (one, two) = cost(c);
        once += one;
        twice += two;
        if once > PIECE_BYTES || twice > PIECE_EVENT_BYTES {
            return text.split_at(at);
        }
    }
    (text, "")
}

/// Whether `text` fits one message.
pub(super) fn fits(text: &str) -> bool {
    split_piece(text).1.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;
    use crate::protocol::codec;
    use crate::protocol::message::{AgentMessage, StreamChunk};

    /// Cuts a text into pieces that each fit one message; an empty text is one empty piece.
    fn pieces(text: &str) -> Vec<&str> {
        let (first, mut rest) = split_piece(text);
        let mut all = vec![first];
        while !rest.is_empty() {
            let (piece, tail) = split_piece(rest);
            all.push(piece);
            rest = tail;
        }
        all
    }

    fn event_bytes(piece: &str) -> usize {
        let message = AgentMessage::StreamChunk(StreamChunk {
            job_id: JobId::from_wire("job_0011223344556677"),
            chunk: piece.to_owned(),
            is_final: false,
            seq: Some(u32::MAX),
        });
        let content = codec::encode(&message);
        assert!(content.is_ok(), "{} bytes", piece.len());
        serde_json::to_string(&content.unwrap_or_default())
            .map(|json| json.len())
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn every_piece_fits_whatever_its_characters_cost() {
        for unit in [
            "a",
            "\"",
            "\\",
            "\n",
            "\u{1}",
            "é",
            "🦀",
            "\u{7f}",
            "word \"x\" ",
        ] {
            let text = unit.repeat(100_000);
            let cut = pieces(&text);
            assert_eq!(cut.concat(), text);
            assert!(cut.len() > 1);
            for piece in cut {
                assert!(!piece.is_empty());
                assert!(event_bytes(piece) < 60_000, "{unit:?}");
            }
        }
    }

    #[test]
    fn what_fits_is_not_cut() {
        assert_eq!(pieces(""), [""]);
        assert_eq!(pieces("hello"), ["hello"]);
        assert!(fits(&"a".repeat(PIECE_BYTES)));
        assert!(!fits(&"a".repeat(PIECE_BYTES + 1)));
    }
}

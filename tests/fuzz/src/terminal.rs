//! Text from strangers on its way to a terminal.

use agent_compute::cli::text::{Cleaner, clean, cut, entry, one_line, without_secrets};

use super::tape::Tape;

/// What a terminal obeys, or what makes text read backwards. Unicode's own list of marks that turn the direction,
/// and of control characters (C0, DEL, C1), written down once more.
fn is_obeyed(c: char) -> bool {
    let point = u32::from(c);
    let is_control = point < 0x20 && c != '\n' && c != '\t' || (0x7f..=0x9f).contains(&point);
    let marks = [
        0x061c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068,
        0x2069,
    ];
    is_control || marks.contains(&point)
}

/// Nothing in it looks like the whole of a secret key or password.
pub(crate) fn no_secrets(shown: &str) {
    for mark in ["nsec1", "ncryptsec1", "secret="] {
        for (at, _) in shown.match_indices(mark) {
            let next = shown[at + mark.len()..].chars().next();
            assert!(next == Some('…'), "{shown:?} shows what comes after {mark}");
        }
    }
}

/// The first byte says where a text is cut in two.
pub fn terminal(data: &[u8]) {
    let mut tape = Tape::new(data);
    let cut_at = usize::from(tape.byte());
    let text = String::from_utf8_lossy(tape.rest()).into_owned();
    let shown = clean(&text);
    assert!(!shown.chars().any(is_obeyed), "{shown:?}");
    assert_eq!(clean(&shown), shown, "what is clean stays as it is");
    if !text.chars().any(is_obeyed) {
        assert_eq!(shown, text, "plain text stays as it is");
    }
    assert_eq!(
        shown.matches('\n').count(),
        text.matches('\n').count(),
        "no line is swallowed"
    );
    let (one, two) = text.split_at(text.floor_char_boundary(cut_at));
    let mut cleaner = Cleaner::default();
    let mut pieces = cleaner.clean(one);
    pieces.push_str(&cleaner.clean(two));
    assert_eq!(pieces, shown, "what is shown depends on how it was cut");

    let line = one_line(&text, 20);
    assert!(!line.chars().any(|c| is_obeyed(c) || c == '\n' || c == '\t'));
    assert!(line.chars().count() <= 21);
    assert!(cut(&text, 20).chars().count() <= 21);
    let entry = entry(&shown);
    assert!(
        entry
            .split('\n')
            .skip(1)
            .all(|line| line.starts_with("    ")),
        "{entry:?}"
    );
    no_secrets(&without_secrets(&text));
}

//! Text from the network, made fit for a terminal.
//!
//! Control characters, escape sequences and marks that turn the direction of text are taken out: they
//! could move the cursor, retitle the window, or make an amount read backwards. Newline and tab stay.

use std::borrow::Cow;

/// The longest escape sequence that is taken out as one. What comes after so much is text again, so
/// that a sequence that never ends can't swallow a paid result.
const MAX_SEQUENCE: u16 = 256;

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence (`ESC [ … letter`).
    Sequence(u16),
    /// In a string that the terminal would take for itself (`ESC ] … BEL`, `ESC P … ESC \`).
    Command(u16),
    /// After ESC in such a string.
    CommandEscape(u16),
}

/// Takes out what must not reach a terminal, over any number of pieces: a sequence that is cut in two
/// is still recognised.
#[derive(Clone, Debug, Default)]
pub struct Cleaner {
    state: State,
}

impl Cleaner {
    /// The harmless part of the next piece.
    pub fn clean(&mut self, piece: &str) -> String {
        piece.chars().filter(|c| self.keeps(*c)).collect()
    }

    fn keeps(&mut self, c: char) -> bool {
        // A newline ends whatever was open: sequences don't span lines.
        if c == '\n' {
            self.state = State::Text;
            return true;
        }
        let (next, keep) = match (self.state, c) {
            (State::Text, c) => return self.begins(c),
            (State::Escape, '[') => (State::Sequence(0), false),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => (State::Command(0), false),
            (State::Escape, ' '..='/') => (State::Escape, false),
            (State::Escape, '0'..='~') => (State::Text, false),
            (State::Sequence(n), ' '..='?') if n < MAX_SEQUENCE => (State::Sequence(n + 1), false),
            (State::Sequence(_), '@'..='~') => (State::Text, false),
            (State::Command(_) | State::CommandEscape(_), '\u{7}' | '\u{9c}')
            | (State::CommandEscape(_), '\\') => (State::Text, false),
            (State::Command(n), '\u{1b}') => (State::CommandEscape(n), false),
            (State::Command(n) | State::CommandEscape(n), _) if n < MAX_SEQUENCE => {
                (State::Command(n + 1), false)
            }
            // Not a sequence after all.
            (_, c) => return self.begins(c),
        };
        self.state = next;
        keep
    }

    fn begins(&mut self, c: char) -> bool {
        self.state = match c {
            '\u{1b}' => State::Escape,
            '\u{9b}' => State::Sequence(0),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => State::Command(0),
            _ => State::Text,
        };
        c == '\t' || !(c.is_control() || turns_direction(c))
    }
}

const fn turns_direction(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// The harmless part of a whole text.
#[must_use]
pub fn clean(text: &str) -> String {
    Cleaner::default().clean(text)
}

/// The harmless part of a text, on one line and of at most `most` characters: for names in a table.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let words = clean(text);
    let mut line = String::new();
    for (i, c) in words
        .split_whitespace()
        .flat_map(|word| std::iter::once(' ').chain(word.chars()))
        .skip(1)
        .enumerate()
    {
        if i >= most {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

/// The first `most` characters of a text, with a sign that there was more.
#[must_use]
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

/// A text of any number of lines as one entry among others: every line but the first is indented, so that
/// no words of a stranger can pass for a line of ours.
#[must_use]
pub fn entry(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n    ")
}

/// `text` without anything that looks like a secret of ours. For messages that quote what was typed.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let mut rest = text;
    let mut safe = String::new();
    while let Some((at, mark)) = ["nsec1", "ncryptsec1", "secret="]
        .iter()
        .filter_map(|mark| rest.find(mark).map(|at| (at, *mark)))
        .min()
    {
        let (before, from) = rest.split_at(at);
        safe.push_str(before);
        safe.push_str(mark);
        safe.push('…');
        let after = &from[mark.len()..];
        let end = after
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(after.len());
        rest = &after[end..];
    }
    safe.push_str(rest);
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        let text = "Zürich\tis not\n\nthe capital 🇨🇭 of «France» [1;2m \\ ]0;";
        assert_eq!(clean(text), text);
    }

    #[test]
    fn what_a_terminal_would_obey_goes() {
        for (text, left) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bPq#0\x1b\\after", "after"),
            ("\u{9b}2Jcleared", "cleared"),
            ("\u{9d}0;title\u{9c}text", "text"),
            ("over\rwritten", "overwritten"),
            ("back\x08space\x7f\0", "backspace"),
            ("\x1b(Bset", "set"),
            ("\x1bcreset", "reset"),
            ("pay \u{202e}001\u{202c} sats", "pay 001 sats"),
            ("\u{2067}\u{200f}a\u{61c}", "a"),
            ("\x1b[\x1b[31mtwice", "twice"),
            ("\x1b[3é", "é"),
        ] {
            assert_eq!(clean(text), left, "{text:?}");
        }
    }

    #[test]
    fn a_sequence_cut_in_two_is_recognised() {
        let mut cleaner = Cleaner::default();
        let whole = "a\x1b[31mb\x1b]0;t\x1b\\c";
        let pieces: String = whole
            .chars()
            .map(|c| cleaner.clean(&c.to_string()))
            .collect();
        assert_eq!(pieces, "abc");
    }

    #[test]
    fn a_sequence_that_never_ends_does_not_swallow_the_rest() {
        let text = format!("\x1b]0;{}the end", "x".repeat(1000));
        assert!(clean(&text).ends_with("the end"));
        assert_eq!(clean("\x1b]0;never closed\nnext line"), "\nnext line");
    }

    #[test]
    fn names_fit_on_a_line() {
        assert_eq!(one_line(" a\n b\tc ", 10), "a b c");
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("", 3), "");
    }

    #[test]
    fn every_further_line_of_an_entry_is_indented() {
        assert_eq!(entry("one"), "one");
        assert_eq!(
            entry("sorry\nPaid: 0 sats.\r\n\nbye\n"),
            "sorry\n    Paid: 0 sats.\n    \n    bye"
        );
    }

    #[test]
    fn what_looks_like_a_secret_is_cut_out() {
        let shown =
            without_secrets("invalid value 'nsec1qqpp' for --x ncryptsec1abc. ?secret=ff&r=1");
        assert_eq!(
            shown,
            "invalid value 'nsec1…' for --x ncryptsec1…. ?secret=…&r=1"
        );
    }
}

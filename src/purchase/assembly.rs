//! Puts a streamed result together: pieces in any order, twice or never, into one text.

use std::collections::BTreeMap;

use crate::config::MAX_RESULT_BYTES;

/// The most pieces that may wait for an earlier one.
const MAX_WAITING: usize = 4096;

/// The text so far. Pieces that carry a number are put in order, and a gap holds back what follows it;
/// pieces without (deployed peers) are taken as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    text: String,
    /// The number of the next piece wanted.
    next: u32,
    /// Pieces that came before their turn.
    waiting: BTreeMap<u32, String>,
    waiting_bytes: usize,
    /// The number of the last piece, once it is known.
    last: Option<u32>,
    numbered: bool,
    ended: bool,
}

/// What a piece did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// Nothing to show: seen before, or waiting for an earlier piece.
    Nothing,
    /// This much more text, in order.
    Text(String),
    /// More than we take from anyone.
    TooMuch,
}

/// How the whole text of a `JobResult` relates to the pieces that came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It continues them by this much (nothing, if all pieces came).
    Continues(String),
    /// It is another text.
    Contradicts,
}

impl Assembly {
    /// Takes a piece; `seq` is its number from 0 if it has one.
    pub fn add(&mut self, seq: Option<u32>, chunk: &str, is_final: bool) -> Added {
        let fits = self.text.len() + self.waiting_bytes + chunk.len() <= MAX_RESULT_BYTES;
        let Some(seq) = seq else {
            if self.ended {
                return Added::Nothing;
            }
            if !fits {
                return Added::TooMuch;
            }
            self.ended |= is_final;
            self.text.push_str(chunk);
            return shown(chunk.to_owned());
        };
        self.numbered = true;
        let beyond = self.last.is_some_and(|last| seq > last);
        // The first piece of a number counts, with all it says: a later one ends nothing, either.
        if seq < self.next || beyond || self.waiting.contains_key(&seq) {
            return Added::Nothing;
        }
        if !fits {
            return Added::TooMuch;
        }
        if is_final && self.last.is_none() {
            self.last = Some(seq);
            // Whatever the order they came in, pieces beyond the end are no part of the text.
            let beyond = self.waiting.split_off(&seq);
            self.waiting_bytes -= beyond.values().map(String::len).sum::<usize>();
        }
        if seq > self.next {
            if self.waiting.len() >= MAX_WAITING {
                return Added::TooMuch;
            }
            self.waiting_bytes += chunk.len();
            self.waiting.insert(seq, chunk.to_owned());
            return Added::Nothing;
        }
        let mut more = chunk.to_owned();
        self.next = self.next.saturating_add(1);
        while let Some(piece) = self.waiting.remove(&self.next) {
            self.waiting_bytes -= piece.len();
            more.push_str(&piece);
            self.next = self.next.saturating_add(1);
        }
        self.text.push_str(&more);
        shown(more)
    }

    /// Whether the stream said that it is over and nothing of it is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        if self.numbered {
            self.last.is_some_and(|last| self.next > last)
        } else {
            self.ended
        }
    }

    /// Whether the pieces carry numbers, so that "complete" is more than the provider's word.
    #[must_use]
    pub const fn is_numbered(&self) -> bool {
        self.numbered
    }

    /// The text so far, in order.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds a whole text against the pieces. Pieces that wait for an earlier one count as well: what a gap
    /// will be filled with is open, that they follow it is not.
    #[must_use]
    pub fn compare(&self, whole: &str) -> Whole {
        let complete_and_other = self.numbered && self.is_complete() && self.text != whole;
        match whole.strip_prefix(&self.text) {
            Some(rest) if !complete_and_other && self.may_wait_in(rest) => {
                Whole::Continues(rest.to_owned())
            }
            _ => Whole::Contradicts,
        }
    }

    /// Whether the pieces that wait are all in `rest`, in order, and the last one at its end.
    fn may_wait_in(&self, rest: &str) -> bool {
        let mut rest = rest;
        for (seq, piece) in &self.waiting {
            if self.last == Some(*seq) {
                return rest.ends_with(piece.as_str());
            }
            match rest.split_once(piece.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

fn shown(text: String) -> Added {
    if text.is_empty() {
        Added::Nothing
    } else {
        Added::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[(Option<u32>, &str, bool)]) -> Assembly {
        let mut assembly = Assembly::default();
        for (seq, chunk, is_final) in pieces {
            assembly.add(*seq, chunk, *is_final);
        }
        assembly
    }

    #[test]
    fn order_is_restored_and_repeats_are_dropped() {
        let a = fed(&[
            (Some(2), "c", true),
            (Some(0), "a", false),
            (Some(0), "X", false),
            (Some(1), "b", false),
            (Some(1), "Y", false),
            (Some(7), "beyond the end", false),
        ]);
        assert_eq!((a.text(), a.is_complete()), ("abc", true));
    }

    #[test]
    fn pieces_beyond_the_end_are_dropped_whether_they_come_before_it_or_after() {
        let (first, end) = ((Some(0), "a", false), (Some(1), "b", true));
        let beyond = (Some(2), "c", false);
        for pieces in [
            [first, end, beyond],
            [beyond, first, end],
            [beyond, end, first],
        ] {
            let a = fed(&pieces);
            assert_eq!((a.text(), a.is_complete()), ("ab", true), "{pieces:?}");
            assert_eq!((a.waiting.len(), a.waiting_bytes), (0, 0), "{pieces:?}");
        }
        let a = fed(&[first, (Some(9), "x", false), (Some(2), "c", true)]);
        assert_eq!(a.compare("abc"), Whole::Continues("bc".to_owned()));
    }

    #[test]
    fn a_piece_that_is_said_again_does_not_end_the_stream() {
        let a = fed(&[
            (Some(0), "a", false),
            (Some(2), "c", false),
            (Some(0), "a", true),
            (Some(2), "c", true),
        ]);
        assert_eq!((a.text(), a.is_complete(), a.last), ("a", false, None));
    }

    #[test]
    fn a_piece_that_is_said_again_takes_no_room() {
        let mut a = Assembly::default();
        let full = "x".repeat(MAX_RESULT_BYTES);
        assert!(matches!(a.add(Some(0), &full, false), Added::Text(_)));
        assert_eq!(a.add(Some(0), &full, false), Added::Nothing);
        assert_eq!(a.add(Some(1), "y", false), Added::TooMuch);
    }

    #[test]
    fn a_gap_is_not_complete() {
        let a = fed(&[(Some(0), "a", false), (Some(2), "c", true)]);
        assert_eq!((a.text(), a.is_complete()), ("a", false));
        assert_eq!(a.compare("abc"), Whole::Continues("bc".into()));
        assert_eq!(a.compare("xbc"), Whole::Contradicts);
    }

    #[test]
    fn a_complete_stream_allows_no_other_whole() {
        let a = fed(&[(Some(0), "a", false), (Some(1), "b", true)]);
        assert_eq!(a.compare("ab"), Whole::Continues(String::new()));
        assert_eq!(a.compare("abc"), Whole::Contradicts);
    }

    #[test]
    fn what_follows_a_gap_must_be_in_the_whole_too() {
        let a = fed(&[
            (Some(0), "It was", false),
            (Some(2), " best", false),
            (Some(4), " times", true),
        ]);
        let continues = |rest: &str| Whole::Continues(rest.to_owned());
        assert_eq!(
            a.compare("It was the best of times"),
            continues(" the best of times")
        );
        assert_eq!(a.compare("It was best times"), continues(" best times"));
        for other in [
            "It was the best",
            "It was the best of times!",
            "It was of times",
            "It was times best",
            "It was",
        ] {
            assert_eq!(a.compare(other), Whole::Contradicts, "{other}");
        }
        let without_end = fed(&[(Some(0), "a", false), (Some(2), "c", false)]);
        assert_eq!(without_end.compare("abcd"), continues("bcd"));
        assert_eq!(without_end.compare("ab"), Whole::Contradicts);
    }

    #[test]
    fn unnumbered_pieces_are_taken_as_they_come_until_the_end() {
        let a = fed(&[(None, "a", false), (None, "b", true), (None, "c", false)]);
        assert_eq!((a.text(), a.is_complete()), ("ab", true));
    }

    #[test]
    fn nobody_fills_the_memory() {
        let mut a = Assembly::default();
        let big = "x".repeat(MAX_RESULT_BYTES);
        assert_eq!(a.add(Some(1), &big, false), Added::Nothing);
        assert_eq!(a.add(Some(2), "y", false), Added::TooMuch);
        let mut a = Assembly::default();
        let full = (1..).find(|seq| a.add(Some(*seq), "", false) == Added::TooMuch);
        assert_eq!(full, Some(u32::try_from(MAX_WAITING).unwrap() + 1));
    }
}

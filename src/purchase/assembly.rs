//! Puts a streamed result together: pieces in any order, twice or never, into one text.
//!
//! A provider may say two things of one stream: two texts under one number, two ends, pieces with numbers and
//! without. One that died in mid-stream and began anew does so in good faith. Which of the two comes first is up
//! to the relays, so it must not decide about money: from the lowest such number on, the stream is *disputed*,
//! and the pieces there count for nothing. They are no result by themselves then; a whole text is, if it agrees
//! with the pieces before.

use std::collections::BTreeMap;

use crate::config::{MAX_PIECES, MAX_RESULT_BYTES};

/// The most pieces that may wait for an earlier one.
const MAX_WAITING: usize = 4096;

/// The text so far. Pieces that carry a number are put in order, and a gap holds back what follows it;
/// pieces without (deployed peers) are taken as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    text: String,
    /// Where in the text each numbered piece of it begins; as many as came in order.
    begins: Vec<usize>,
    /// Pieces that came before their turn.
    waiting: BTreeMap<u32, String>,
    waiting_bytes: usize,
    /// The number of the last piece, once it is known; the lowest, if several are said to be the last.
    last: Option<u32>,
    /// Whether the last piece is said not to be the last as well, by whatever piece.
    open_ended: bool,
    /// The lowest number of which two texts were said.
    disputed: Option<u32>,
    /// Whether pieces came without a number, and whether one of them said that it is the last.
    unnumbered: bool,
    ended: bool,
}

/// What a piece did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// Nothing to show: seen before, disputed, or waiting for an earlier piece.
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
    /// It agrees with what is certain of them, but not with all that was shown.
    Replaces,
    /// It is another text.
    Contradicts,
}

impl Assembly {
    /// Takes a piece; `seq` is its number from 0 if it has one.
    pub fn add(&mut self, seq: Option<u32>, chunk: &str, is_final: bool) -> Added {
        match seq {
            Some(seq) => self.add_numbered(seq, chunk, is_final),
            None => self.add_unnumbered(chunk, is_final),
        }
    }

    fn add_unnumbered(&mut self, chunk: &str, is_final: bool) -> Added {
        if self.is_numbered() {
            self.dispute(0);
            return Added::Nothing;
        }
        if self.ended {
            return Added::Nothing;
        }
        if !self.fits(chunk) {
            return Added::TooMuch;
        }
        self.unnumbered = true;
        self.ended |= is_final;
        self.text.push_str(chunk);
        shown(chunk.to_owned())
    }

    fn add_numbered(&mut self, seq: u32, chunk: &str, is_final: bool) -> Added {
        if self.unnumbered {
            self.dispute(0);
        }
        self.note_end(seq, is_final);
        let beyond = self.last.is_some_and(|last| seq > last);
        if beyond || self.disputed.is_some_and(|disputed| seq >= disputed) {
            return Added::Nothing;
        }
        if let Some(before) = self.piece(seq) {
            if before != chunk {
                self.dispute(seq);
            }
            return Added::Nothing;
        }
        let too_far = seq as usize >= MAX_PIECES;
        let too_many = seq > self.next() && self.waiting.len() >= MAX_WAITING;
        if too_far || too_many || !self.fits(chunk) {
            return Added::TooMuch;
        }
        self.waiting_bytes += chunk.len();
        self.waiting.insert(seq, chunk.to_owned());
        self.move_up()
    }

    /// Learns where the stream ends, or that this is not certain.
    fn note_end(&mut self, seq: u32, is_final: bool) {
        match self.last {
            Some(last) if is_final != (seq == last) => {
                // What comes after the end is no part of the text, and no other end.
                self.open_ended |= is_final || seq == last;
            }
            Some(_) => return,
            None => self.open_ended |= is_final && self.piece(seq).is_some(),
        }
        if is_final {
            let last = self.last.map_or(seq, |last| last.min(seq));
            self.last = Some(last);
            // Whatever the order they came in, pieces beyond the end are no part of the text.
            self.drop_waiting_from(last.saturating_add(1));
        }
    }

    /// Appends what no longer waits for anything.
    fn move_up(&mut self) -> Added {
        let from = self.text.len();
        while let Some(piece) = self.waiting.remove(&self.next()) {
            self.waiting_bytes -= piece.len();
            self.begins.push(self.text.len());
            self.text.push_str(&piece);
        }
        shown(self.text.get(from..).unwrap_or_default().to_owned())
    }

    /// The number of the next piece wanted.
    fn next(&self) -> u32 {
        u32::try_from(self.begins.len()).unwrap_or(u32::MAX)
    }

    /// The piece of this number, if it came.
    fn piece(&self, seq: u32) -> Option<&str> {
        let at = seq as usize;
        let Some(begin) = self.begins.get(at) else {
            return self.waiting.get(&seq).map(String::as_str);
        };
        let end = self.begins.get(at + 1).copied();
        self.text.get(*begin..end.unwrap_or(self.text.len()))
    }

    fn fits(&self, chunk: &str) -> bool {
        self.text.len() + self.waiting_bytes + chunk.len() <= MAX_RESULT_BYTES
    }

    fn dispute(&mut self, from: u32) {
        if self.disputed.is_none_or(|disputed| from < disputed) {
            self.disputed = Some(from);
            self.drop_waiting_from(from);
        }
    }

    fn drop_waiting_from(&mut self, seq: u32) {
        let dropped = self.waiting.split_off(&seq);
        self.waiting_bytes -= dropped.values().map(String::len).sum::<usize>();
    }

    /// Whether the stream said that it is over, nothing of it is missing, and it never said otherwise.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        if !self.is_numbered() {
            return self.ended;
        }
        let certain = |last: u32| self.certain_before().is_none_or(|before| before > last);
        let has_all = |last: u32| self.next() > last && certain(last);
        !self.open_ended && self.last.is_some_and(has_all)
    }

    /// Whether the pieces carry numbers, so that "complete" is more than the provider's word.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        !self.begins.is_empty() || !self.waiting.is_empty() || self.disputed.is_some()
    }

    /// The text so far, in order: all that was shown.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds a whole text against the pieces. Pieces that wait for an earlier one count as well: what a gap
    /// will be filled with is open, that they follow it is not.
    #[must_use]
    pub fn compare(&self, whole: &str) -> Whole {
        let complete_and_other = self.is_numbered() && self.is_complete() && self.text != whole;
        let agrees = match whole.strip_prefix(self.certain()) {
            Some(rest) => !complete_and_other && self.may_wait_in(rest),
            None => false,
        };
        match whole.strip_prefix(&self.text) {
            _ if !agrees => Whole::Contradicts,
            Some(rest) => Whole::Continues(rest.to_owned()),
            None => Whole::Replaces,
        }
    }

    /// Where what is certain ends: the number of the first piece that is not; `None`: all of it is.
    fn certain_before(&self) -> Option<u32> {
        let end = self.last.filter(|_| self.open_ended);
        let beyond = end.map(|last| last.saturating_add(1));
        [beyond, self.disputed].into_iter().flatten().min()
    }

    /// What is certain of the text.
    fn certain(&self) -> &str {
        let before = match self.certain_before() {
            // Pieces without numbers have no place in a stream with them.
            Some(_) if self.unnumbered => Some(0),
            Some(before) => self.begins.get(before as usize).copied(),
            None => None,
        };
        let end = before.unwrap_or(self.text.len());
        self.text.get(..end).unwrap_or_default()
    }

    /// Whether the pieces that wait are all in `rest`, in order, and the last one at its end.
    fn may_wait_in(&self, rest: &str) -> bool {
        let mut rest = rest;
        for (seq, piece) in &self.waiting {
            if self.last == Some(*seq) && !self.open_ended {
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
            (Some(0), "a", false),
            (Some(1), "b", false),
            (Some(2), "c", true),
            (Some(7), "beyond the end", false),
        ]);
        assert_eq!((a.text(), a.is_complete()), ("abc", true));
        assert_eq!(a.compare("abc"), Whole::Continues(String::new()));
    }

    #[test]
    fn of_two_texts_under_one_number_neither_counts() {
        let a = fed(&[
            (Some(0), "It was ", false),
            (Some(1), "the best", false),
            (Some(2), " of times", true),
            (Some(1), "the worst", false),
        ]);
        assert_eq!(
            (a.text(), a.is_complete()),
            ("It was the best of times", false)
        );
        // A whole text decides, if it agrees with what is certain.
        for whole in ["It was the worst of times", "It was "] {
            assert_eq!(a.compare(whole), Whole::Replaces, "{whole}");
        }
        assert_eq!(
            a.compare("It was the best of times!"),
            Whole::Continues("!".to_owned())
        );
        assert_eq!(a.compare("It is the worst"), Whole::Contradicts);
        // Of the last piece neither.
        let a = fed(&[
            (Some(0), "a", false),
            (Some(1), "b", true),
            (Some(1), "c", true),
        ]);
        assert_eq!((a.text(), a.is_complete()), ("ab", false));
    }

    #[test]
    fn a_stream_with_two_ends_has_none() {
        let [start, short, long] = [
            (Some(0), "a", false),
            (Some(1), "b", true),
            (Some(2), "c", true),
        ];
        for pieces in [[start, short, long], [long, short, start]] {
            let a = fed(&pieces);
            assert_eq!((a.text(), a.is_complete()), ("ab", false), "{pieces:?}");
            assert_eq!(a.compare("abx"), Whole::Continues("x".to_owned()));
            assert_eq!(a.compare("ax"), Whole::Contradicts);
        }
        let a = fed(&[start, (Some(1), "b", false), long, (Some(0), "a", true)]);
        assert_eq!((a.text(), a.is_complete()), ("abc", false));
        assert_eq!(a.compare("ax"), Whole::Replaces);
    }

    #[test]
    fn pieces_with_and_without_numbers_are_no_stream() {
        let [with, without] = [(Some(0), "a", true), (None, "b", true)];
        for pieces in [[with, without], [without, with]] {
            let a = fed(&pieces);
            assert!(a.is_numbered() && !a.is_complete(), "{pieces:?}");
            assert_eq!(a.compare("c"), Whole::Replaces, "{pieces:?}");
        }
    }

    proptest::proptest! {
        /// Relays tell what they have stored in no order to rely on.
        #[test]
        fn what_a_stream_is_worth_does_not_depend_on_its_order(
            pieces in proptest::collection::vec(
                (proptest::option::weighted(0.97, 0u32..5), "[ab]{0,2}", proptest::bool::weighted(0.3)),
                0..9,
            ),
            order in proptest::prelude::any::<u64>(),
            other in "[ab]{0,6}",
        ) {
            let mut shuffled = pieces.clone();
            let mut order = order;
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, (order % (at as u64 + 1)) as usize);
                order /= at as u64 + 1;
            }
            let assembled = |pieces: &[(Option<u32>, String, bool)]| {
                let mut assembly = Assembly::default();
                for (seq, text, is_final) in pieces {
                    assembly.add(*seq, text, *is_final);
                }
                assembly
            };
            let (one, two) = (assembled(&pieces), assembled(&shuffled));
            proptest::prop_assert_eq!(one.is_numbered(), two.is_numbered());
            if !one.is_numbered() {
                return Ok(());
            }
            proptest::prop_assert_eq!(one.is_complete(), two.is_complete());
            for whole in [one.text(), two.text(), other.as_str()] {
                let contradicts = |assembly: &Assembly| assembly.compare(whole) == Whole::Contradicts;
                proptest::prop_assert_eq!(contradicts(&one), contradicts(&two), "{}", whole);
            }
        }
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
    fn a_piece_that_is_said_again_as_the_last_is_no_certain_end() {
        let a = fed(&[
            (Some(0), "a", false),
            (Some(2), "c", false),
            (Some(0), "a", true),
            (Some(2), "c", true),
        ]);
        assert_eq!((a.text(), a.is_complete()), ("a", false));
        assert_eq!(a.compare("a"), Whole::Continues(String::new()));
    }

    #[test]
    fn a_piece_that_is_said_again_takes_no_room() {
        let mut a = Assembly::default();
        let full = "x".repeat(MAX_RESULT_BYTES);
        assert!(matches!(a.add(Some(0), &full, false), Added::Text(_)));
        assert_eq!(a.add(Some(0), &full, false), Added::Nothing);
        assert_eq!(a.add(Some(1), "y", false), Added::TooMuch);
        // An end that is not taken is missing.
        assert_eq!(a.add(Some(1), "y", true), Added::TooMuch);
        assert!(!a.is_complete());
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
        // What they wait for has room all the same.
        assert_eq!(a.add(Some(0), "x", false), Added::Text("x".to_owned()));
    }
}

//! Which texts let the preimage go.

use super::*;

#[test]
fn a_late_result_is_taken_as_long_as_the_money_is_locked() {
    let mut s = withheld();
    let again = refusal(&s);
    assert!(step(&mut s, again, now()).effects.is_empty());
    let late = result(&s, "Paris");
    assert!(lets_go(&step(&mut s, late, now())));
    assert_eq!(
        finish(&step(&mut s, claimed(), now())),
        Some(&Finish::Delivered)
    );
}

#[test]
fn a_provider_that_contradicts_itself_is_never_paid() {
    for late in [false, true] {
        let mut s = if late { withheld() } else { locked() };
        let pieces = piece(&s, Some(0), "Paris", true);
        step(&mut s, pieces, now());
        let other = result(&s, "London");
        let kept = step(&mut s, other, now());
        assert!(kept.save && !lets_go(&kept));
        let mut s = State::from_row(&s.to_row().unwrap()).unwrap();
        for happening in [
            result(&s, "Paris"),
            piece(&s, Some(0), "Paris", true),
            Happening::NoWholeText,
        ] {
            assert!(step(&mut s, happening, now()).effects.is_empty());
        }
        let ended = step(&mut s, Happening::Deadline, now());
        assert_eq!(failed_with(&ended), Some(Code::Undelivered));
    }
}

#[test]
fn pieces_that_say_two_things_let_nothing_go_and_the_whole_text_does() {
    let mut s = locked();
    for said in [
        piece(&s, Some(0), "London", true),
        piece(&s, Some(0), "Paris", true),
        Happening::NoWholeText,
    ] {
        assert!(!lets_go(&step(&mut s, said, now())));
    }
    let whole = result(&s, "Paris");
    assert!(lets_go(&step(&mut s, whole, now())));
}

#[test]
fn a_text_that_begins_like_an_error_and_was_streamed_whole_is_a_result() {
    let log = "Error: what this line of the log means";
    for whole_first in [false, true] {
        let mut s = locked();
        let said = [piece(&s, Some(0), log, true), result(&s, log)];
        let [first, second] = if whole_first {
            let [piece, whole] = said;
            [whole, piece]
        } else {
            said
        };
        assert!(!lets_go(&step(&mut s, first, now())));
        let last = step(&mut s, second, now());
        // A whole text that came too early was no result; the stream that it repeats is.
        let released = lets_go(&last) || lets_go(&step(&mut s, Happening::NoWholeText, now()));
        assert!(released, "whole first: {whole_first}");
    }
}

#[test]
fn a_stream_without_numbers_lets_nothing_go_until_the_whole_text_is_here() {
    let mut s = locked();
    for (text, is_final) in [("Par", false), ("s", true)] {
        let pieces = piece(&s, None, text, is_final);
        step(&mut s, pieces, now());
    }
    assert!(!lets_go(&step(&mut s, Happening::NoWholeText, now())));
    let mut late = s.clone();
    let kept = step(&mut late, Happening::Deadline, now());
    assert!(!lets_go(&kept) && failed_with(&kept) == Some(Code::Undelivered));
    for mut s in [s, late] {
        let whole = result(&s, "Paris");
        assert!(lets_go(&step(&mut s, whole, now())));
    }
}

#[test]
fn a_whole_text_that_lacks_what_followed_a_gap_lets_nothing_go() {
    let mut s = locked();
    for (seq, text, is_final) in [(0, "Paris", false), (2, "France", true)] {
        let pieces = piece(&s, Some(seq), text, is_final);
        step(&mut s, pieces, now());
    }
    let truncated = result(&s, "Paris, in");
    let kept = step(&mut s, truncated, now());
    assert!(kept.save && !lets_go(&kept));
    let whole = result(&s, "Paris, in France");
    assert!(
        !lets_go(&step(&mut s, whole, now())),
        "it took its word back"
    );
}

#[test]
fn a_text_that_begins_like_an_error_lets_nothing_go_unless_it_was_streamed_to_its_end() {
    const TEXT: &str = "Error: is human";
    for (pieces, let_go) in [
        (&[][..], false),
        (&[(Some(0), TEXT, false)][..], false),
        (&[(None, TEXT, true)][..], false),
        (&[(Some(0), "Error: ", true)][..], false),
        (
            &[(Some(0), "Error: ", false), (Some(1), "is human", true)][..],
            true,
        ),
    ] {
        let mut s = locked();
        for (seq, text, is_final) in pieces {
            let happening = piece(&s, *seq, text, *is_final);
            step(&mut s, happening, now());
        }
        let whole = result(&s, TEXT);
        let taken = step(&mut s, whole, now());
        assert_eq!(lets_go(&taken), let_go, "{pieces:?}");
    }
}

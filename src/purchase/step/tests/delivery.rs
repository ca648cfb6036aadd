//! What counts as the result of what was paid: pieces, whole texts, and words that are taken back.

use super::*;

#[test]
fn a_complete_stream_does_not_end_a_purchase_whose_payment_is_undecided() {
    let mut s = paying();
    let whole = piece(&s, Some(0), "Paris", true);
    step(&mut s, whole, now());
    let ended = step(&mut s, Happening::Deadline, now());
    assert_eq!(failed_with(&ended), Some(Code::PaymentUnknown));
    assert_eq!(s.phase.label(), "payment_unknown");
}

#[test]
fn a_result_that_outruns_the_wallet_is_kept() {
    let mut s = paying();
    let early = result(&s, "Paris");
    assert!(step(&mut s, early, now()).effects.is_empty());
    let both = step(&mut s, paid(), now());
    assert_eq!(finish(&both), Some(&Finish::Delivered));
    assert!(matches!(
        both.entries[..],
        [Booking::Plain(Entry::Settle { .. })]
    ));
}

#[test]
fn a_result_that_outruns_the_wallet_is_not_lost_to_a_failure_before_it() {
    for by_pieces in [false, true] {
        let mut s = paying();
        step(&mut s, doubt(), now());
        let failure = says(AgentMessage::JobError(JobError {
            job_id: s.terms.job_id(),
            code: "failed".into(),
            message: "no".into(),
        }));
        step(&mut s, failure, now());
        if by_pieces {
            let all = piece(&s, Some(0), "Paris", true);
            step(&mut s, all, now());
            step(&mut s, Happening::NoWholeText, now());
        } else {
            let whole = result(&s, "Paris");
            step(&mut s, whole, now());
        }
        let second = result(&s, "Paris, in France");
        step(&mut s, second, now());
        let settled = step(&mut s, paid_at_last(), now());
        assert_eq!(finish(&settled), Some(&Finish::Delivered));
        assert_eq!(s.receipt().unwrap().text, "Paris");
    }
}

#[test]
fn a_result_before_a_quote_is_not_taken() {
    let mut s = state(PayBy::Invoice(wallet()));
    let unasked = result(&s, "free lunch");
    assert!(step(&mut s, unasked, now()).effects.is_empty());
    assert_eq!(s.phase, Phase::Requested);
}

#[test]
fn failures_of_the_provider_before_and_after_payment() {
    let error = |s: &State| {
        says(AgentMessage::JobError(JobError {
            job_id: s.terms.job_id(),
            code: "busy".into(),
            message: "come back later".into(),
        }))
    };
    let mut s = state(PayBy::Invoice(wallet()));
    let refused = error(&s);
    assert_eq!(
        failed_with(&step(&mut s, refused, now())),
        Some(Code::ProviderRefused)
    );
    let mut s = paying();
    step(&mut s, paid(), now());
    let failed = error(&s);
    assert_eq!(
        failed_with(&step(&mut s, failed, now())),
        Some(Code::Undelivered)
    );
    assert_eq!(s.phase.status(), Status::Undelivered);
    // A result that comes late is still taken.
    let late = result(&s, "Paris");
    assert_eq!(finish(&step(&mut s, late, now())), Some(&Finish::Delivered));
}

#[test]
fn a_deployed_provider_says_error_and_ours_may_write_the_word() {
    for (modern, delivered) in [(true, true), (false, false)] {
        let mut s = state(PayBy::Nothing);
        let quote = says(AgentMessage::Invoice(Invoice {
            bolt11: "lnbcrt100n1mock".into(),
            payment_hash: Some(s.terms.job_id().to_string()),
            expires_at: modern.then_some(UnixSecs::new(NOW + 300)),
            ..invoice(&s)
        }));
        let sent = step(&mut s, quote, now());
        assert!(matches!(
            &sent.effects[..],
            [Effect::Say(AgentMessage::PaymentSent(sent))] if sent.payment_id == "mock-payment-id"
        ));
        let text = result(&s, "Error: Ollama is not running");
        let ended = step(&mut s, text, now());
        assert_eq!(finish(&ended) == Some(&Finish::Delivered), delivered);
    }
}

#[test]
fn an_empty_result_is_none() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let empty = result(&s, "");
    assert_eq!(
        failed_with(&step(&mut s, empty, now())),
        Some(Code::Undelivered)
    );
}

#[test]
fn pieces_are_shown_once_and_in_order() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let mut told = Vec::new();
    for (seq, text, is_final) in [
        (1, "b", false),
        (0, "a", false),
        (0, "a", false),
        (2, "c", true),
    ] {
        let happening = piece(&s, Some(seq), text, is_final);
        told.extend(step(&mut s, happening, now()).tell);
    }
    let whole = result(&s, "abc");
    let end = step(&mut s, whole, now());
    told.extend(end.tell);
    let shown: Vec<(u32, &str)> = told
        .iter()
        .filter_map(|event| match event {
            PurchaseEvent::Chunk { seq, text, .. } => Some((*seq, text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(shown, [(0, "ab"), (1, "c")]);
    assert!(matches!(s.phase, Phase::Delivered { .. }));
}

#[test]
fn a_text_that_was_taken_back_is_delivered_by_no_recovery() {
    let paid_before = |first: bool| {
        let mut s = paying();
        if first {
            step(&mut s, paid(), now());
        }
        let pieces = piece(&s, Some(0), "Paris", true);
        step(&mut s, pieces, now());
        let other = result(&s, "London");
        step(&mut s, other, now());
        if !first {
            step(&mut s, paid(), now());
        }
        s
    };
    let mut given_up = paying();
    step(&mut given_up, paid(), now());
    step(&mut given_up, Happening::Deadline, now());
    for words in [
        piece(&given_up, Some(0), "Paris", true),
        result(&given_up, "London"),
    ] {
        step(&mut given_up, words, now());
    }
    for s in [paid_before(true), paid_before(false), given_up] {
        let mut s = State::from_row(&s.to_row().unwrap()).unwrap();
        assert!(matches!(s.phase, Phase::Undelivered { spoiled: true, .. }));
        s.stream = crate::purchase::assembly::Assembly::default();
        for happening in [
            result(&s, "London"),
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
fn a_text_that_is_taken_back_while_the_payment_is_in_doubt_is_no_result_afterwards_either() {
    for failed_before in [false, true] {
        let mut s = paying();
        step(&mut s, doubt(), now());
        if failed_before {
            let failure = says(AgentMessage::JobError(JobError {
                job_id: s.terms.job_id(),
                code: "failed".into(),
                message: "no".into(),
            }));
            step(&mut s, failure, now());
        }
        let pieces = piece(&s, Some(0), "Paris", true);
        step(&mut s, pieces, now());
        for words in [result(&s, "London"), result(&s, "Paris")] {
            step(&mut s, words, now());
        }
        step(&mut s, Happening::NoWholeText, now());
        let settled = step(&mut s, paid_at_last(), now());
        assert_eq!(failed_with(&settled), Some(Code::Undelivered));
        assert!(matches!(s.phase, Phase::Undelivered { spoiled: true, .. }));
    }
}

#[test]
fn a_whole_text_that_contradicts_its_numbered_stream_is_no_result() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let chunk = piece(&s, Some(0), "Paris", true);
    step(&mut s, chunk, now());
    let other = result(&s, "London");
    assert_eq!(
        failed_with(&step(&mut s, other, now())),
        Some(Code::Undelivered)
    );
}

/// A provider that died in mid-stream begins anew, and no two texts of a model are alike. Which of the two a buyer
/// hears first is up to the relays.
#[test]
fn of_a_stream_that_says_two_things_the_whole_text_is_right_whatever_came_first() {
    for other_first in [false, true] {
        let mut s = paying();
        step(&mut s, paid(), now());
        let mut texts = ["Lon", "Par"];
        if other_first {
            texts.reverse();
        }
        for text in texts {
            let chunk = piece(&s, Some(0), text, false);
            step(&mut s, chunk, now());
        }
        let end = piece(&s, Some(1), "is", true);
        assert_eq!(step(&mut s, end, now()).effects, [], "no result by itself");
        let ended = step(&mut s, Happening::NoWholeText, now());
        assert_eq!(finish(&ended), None);
        let whole = result(&s, "Paris");
        let ended = step(&mut s, whole, now());
        assert_eq!(finish(&ended), Some(&Finish::Delivered));
        assert_eq!(s.receipt().unwrap().text, "Paris");
    }
}

#[test]
fn a_whole_text_that_later_pieces_contradict_is_no_result_either() {
    let mut s = paying();
    step(&mut s, doubt(), now());
    for said in [
        result(&s, "Paris, in France"),
        piece(&s, Some(0), "Paris", false),
        piece(&s, Some(1), ", in Texas", true),
    ] {
        step(&mut s, said, now());
    }
    let settled = step(&mut s, paid_at_last(), now());
    assert_eq!(failed_with(&settled), Some(Code::Undelivered));
    assert_eq!(s.phase.status(), Status::Undelivered);
}

#[test]
fn a_complete_stream_without_a_whole_text_is_a_result() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let last = piece(&s, Some(0), "Paris", true);
    assert_eq!(step(&mut s, last, now()).effects, [Effect::AwaitWholeText]);
    let ended = step(&mut s, Happening::NoWholeText, now());
    assert_eq!(finish(&ended), Some(&Finish::Delivered));
}

#[test]
fn a_complete_numbered_stream_is_a_result_when_time_is_up_also_late() {
    for late in [false, true] {
        let mut s = paying();
        step(&mut s, paid(), now());
        if late {
            step(&mut s, Happening::Deadline, now());
            assert_eq!(s.phase.status(), Status::Undelivered);
        }
        let last = piece(&s, Some(0), "Paris", true);
        step(&mut s, last, now());
        let ended = step(&mut s, Happening::Deadline, now());
        assert_eq!(finish(&ended), Some(&Finish::Delivered));
    }
    // One of no text, or whose order nobody vouches for, is not.
    for (seq, text) in [(Some(0), ""), (None, "Paris")] {
        let mut s = paying();
        step(&mut s, paid(), now());
        let last = piece(&s, seq, text, true);
        step(&mut s, last, now());
        for _ in 0..2 {
            let ended = step(&mut s, Happening::Deadline, now());
            assert_eq!(failed_with(&ended), Some(Code::Undelivered));
        }
    }
}

#[test]
fn an_old_failure_that_is_read_again_does_not_hide_a_late_result() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let failed = result(&s, "");
    step(&mut s, failed.clone(), now());
    assert_eq!(s.phase.status(), Status::Undelivered);
    assert!(step(&mut s, failed, now()).effects.is_empty());
    let late = result(&s, "Paris");
    assert_eq!(finish(&step(&mut s, late, now())), Some(&Finish::Delivered));
}

#[test]
fn the_end_of_a_stream_is_noticed_with_numbers_and_without() {
    for (pieces, over) in [
        (&[(None, false), (None, true)][..], true),
        (&[(None, false)][..], false),
        (&[(Some(0), true)][..], true),
        // The last piece came first, and what was missing is no last one.
        (&[(Some(1), true), (Some(0), false)][..], true),
        (&[(Some(1), true)][..], false),
    ] {
        let mut s = paying();
        step(&mut s, paid(), now());
        let mut noticed = false;
        for (seq, is_final) in pieces {
            let happening = piece(&s, *seq, "a", *is_final);
            let taken = step(&mut s, happening, now());
            noticed = taken.effects == [Effect::AwaitWholeText];
        }
        assert_eq!(noticed, over, "{pieces:?}");
    }
}

#[test]
fn what_was_shown_in_pieces_is_shown_to_its_end_and_what_was_not_is_not() {
    let shown = |taken: &Step| -> String {
        let chunks = taken.tell.iter().filter_map(|event| match event {
            PurchaseEvent::Chunk { text, .. } => Some(text.as_str()),
            _ => None,
        });
        chunks.collect()
    };
    for (first, rest) in [(Some("Pa"), "ris"), (Some("Paris"), ""), (None, "")] {
        let mut s = paying();
        step(&mut s, paid(), now());
        if let Some(first) = first {
            let happening = piece(&s, Some(0), first, false);
            assert_eq!(shown(&step(&mut s, happening, now())), first);
        }
        let whole = result(&s, "Paris");
        let end = step(&mut s, whole, now());
        assert_eq!(shown(&end), rest, "{first:?}");
        assert_eq!(finish(&end), Some(&Finish::Delivered));
    }
}

#[test]
fn who_gets_no_result_is_told_what_it_cost_and_whether_one_may_come() {
    let mut s = paying();
    step(&mut s, paid(), now());
    let empty = result(&s, "");
    let ended = step(&mut s, empty, now());
    let Some(Finish::Failed { message, .. }) = finish(&ended) else {
        panic!("{ended:?}");
    };
    for words in ["its result is empty", "were paid", "agent-customer recover"] {
        assert!(message.contains(words), "{message}");
    }
    let mut s = paying();
    step(&mut s, paid(), now());
    let all = piece(&s, Some(0), "Paris", true);
    step(&mut s, all, now());
    let other = result(&s, "London");
    let ended = step(&mut s, other, now());
    let Some(Finish::Failed { message, .. }) = finish(&ended) else {
        panic!("{ended:?}");
    };
    assert!(
        message.contains("not what it streamed") && !message.contains("recover"),
        "{message}"
    );
}

#[test]
fn no_whole_text_means_nothing_while_the_stream_has_no_end_or_after_the_result() {
    let means_nothing = |s: &mut State| {
        let before = s.clone();
        let taken = step(s, Happening::NoWholeText, now());
        assert!(taken.effects.is_empty() && !taken.save, "{taken:?}");
        assert_eq!(*s, before);
    };
    // Not over.
    let mut s = paying();
    step(&mut s, paid(), now());
    let first = piece(&s, Some(0), "Pa", false);
    step(&mut s, first, now());
    means_nothing(&mut s);
    // Over, and answered by the whole text already.
    let mut s = paying();
    let all = piece(&s, Some(0), "Paris", true);
    step(&mut s, all, now());
    let whole = result(&s, "Paris");
    step(&mut s, whole, now());
    means_nothing(&mut s);
}

#[test]
fn of_two_failures_before_the_wallet_answers_the_first_counts() {
    let mut s = paying();
    for said in ["the first", "the second"] {
        let failure = says(AgentMessage::JobError(JobError {
            job_id: s.terms.job_id(),
            code: "failed".into(),
            message: said.into(),
        }));
        step(&mut s, failure, now());
    }
    let ended = step(&mut s, paid(), now());
    let Some(Finish::Failed { message, .. }) = finish(&ended) else {
        panic!("{ended:?}");
    };
    assert!(message.contains("the first"), "{message}");
}

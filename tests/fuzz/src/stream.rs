//! A result in pieces: in any order, twice, or never.

use std::collections::{BTreeMap, BTreeSet};

use agent_compute::config::{MAX_PIECES, MAX_RESULT_BYTES};
use agent_compute::purchase::assembly::{Added, Assembly, Whole};

use super::tape::Tape;

/// Pieces that are not all honest, or all of an honest stream in the order that the tape says.
pub fn stream(data: &[u8]) {
    let mut tape = Tape::new(data);
    if tape.flag() {
        honest(&mut tape);
    } else {
        any(&mut tape);
    }
}

fn short(tape: &mut Tape<'_>) -> String {
    let length = tape.below(5);
    String::from_utf8_lossy(tape.bytes(length)).into_owned()
}

/// Each piece has its number and one text, and comes at least once: the text is whole, whatever the order.
fn honest(tape: &mut Tape<'_>) {
    let pieces: Vec<String> = (0..=tape.below(12))
        .map(|at| format!("{at}{}", short(tape)))
        .collect();
    let last = pieces.len() - 1;
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    for at in 0..order.len() {
        let with = tape.below(order.len());
        order.swap(at, with);
    }
    let twice: Vec<usize> = (0..tape.below(6))
        .map(|_| tape.below(pieces.len()))
        .collect();
    let mut assembly = Assembly::default();
    let mut shown = String::new();
    for at in twice.iter().chain(&order).chain(&twice) {
        let seq = u32::try_from(*at).unwrap();
        match assembly.add(Some(seq), &pieces[*at], *at == last) {
            Added::Text(more) => shown.push_str(&more),
            Added::Nothing => {}
            Added::TooMuch => panic!("{} pieces are too much", pieces.len()),
        }
    }
    let whole = pieces.concat();
    assert!(assembly.is_complete() && assembly.is_numbered());
    assert_eq!(
        (assembly.text(), shown.as_str()),
        (whole.as_str(), whole.as_str())
    );
    assert_eq!(assembly.compare(&whole), Whole::Continues(String::new()));
    assert_eq!(assembly.compare(&format!("{whole}x")), Whole::Contradicts);
    assert_eq!(assembly.compare(&whole[1..]), Whole::Contradicts);
}

/// Against a plain account of what came: of a number with two texts neither counts, nor what comes after it or
/// after the end.
fn any(tape: &mut Tape<'_>) {
    let mut assembly = Assembly::default();
    let mut shown = String::new();
    let mut texts: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let (mut ends, mut others) = (BTreeSet::new(), BTreeSet::new());
    let (mut numbered, mut unnumbered) = (false, false);
    while !tape.is_over() {
        let (text, is_final) = (short(tape), tape.byte() > 200);
        let seq = match tape.byte() {
            0..=15 => None,
            16..=23 => Some(u32::MAX - u32::from(tape.byte())),
            seq => Some(u32::from(seq - 24) / 16),
        };
        // Beyond what any result may have, unless the end is known to be before it.
        let far = seq.is_some_and(|seq| seq as usize >= MAX_PIECES);
        match assembly.add(seq, &text, is_final) {
            Added::Text(more) => {
                assert!(!more.is_empty());
                shown.push_str(&more);
            }
            Added::Nothing => {}
            Added::TooMuch if far => return,
            Added::TooMuch => panic!("{} bytes are too much", shown.len()),
        }
        match seq {
            None => unnumbered = true,
            Some(seq) => {
                numbered = true;
                texts.entry(seq).or_default().insert(text);
                if is_final {
                    ends.insert(seq);
                } else {
                    others.insert(seq);
                }
            }
        }
        assert!(assembly.text().len() <= MAX_RESULT_BYTES);
        assert_eq!(assembly.text(), shown, "what is shown is the text");
        match assembly.compare(&format!("{shown}!")) {
            Whole::Continues(rest) => {
                assert_eq!(rest, "!");
                assert!(
                    !assembly.is_numbered() || !assembly.is_complete(),
                    "more than all of it"
                );
            }
            Whole::Replaces => panic!("it continues what was shown"),
            // Or pieces that wait are not in it.
            Whole::Contradicts => assert!(assembly.is_numbered()),
        }
    }
    if !numbered {
        return;
    }
    assert!(assembly.is_numbered());
    let end = ends.first().copied();
    let one_end = ends.len() == 1 && others.intersection(&ends).next().is_none();
    let has_all =
        |last: u32| (0..=last).all(|seq| texts.get(&seq).is_some_and(|texts| texts.len() == 1));
    let complete = !unnumbered && one_end && end.is_some_and(has_all);
    assert_eq!(assembly.is_complete(), complete);
    if complete {
        let upto = texts.range(..=end.unwrap());
        let whole: String = upto.flat_map(|(_, texts)| texts).cloned().collect();
        assert_eq!(assembly.text(), whole);
    }
}

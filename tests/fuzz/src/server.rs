//! What a seller's backend says: a stream of server-sent events, and the JSON in it.

use agent_compute::provider::backend::openai::lines::{BadStream, Lines, one_event};
use agent_compute::provider::backend::openai::wire::{Completion, error_words};

use super::tape::Tape;

/// A whole stream, read in pieces of the sizes that `cuts` says.
fn read(stream: &[u8], mut cuts: impl Iterator<Item = usize>) -> Result<Vec<u8>, BadStream> {
    let (mut lines, mut out, mut rest) = (Lines::default(), Vec::new(), stream);
    while !rest.is_empty() {
        let at = cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let (piece, more) = rest.split_at(at);
        out.extend(lines.take(piece)?);
        rest = more;
    }
    out.extend(lines.end()?);
    assert!(lines.is_done());
    Ok(out)
}

/// The first bytes say how the rest is cut into pieces.
pub fn server(data: &[u8]) {
    let mut tape = Tape::new(data);
    let cuts: Vec<usize> = (0..8).map(|_| usize::from(tape.byte())).collect();
    let stream = tape.rest();
    let whole = read(stream, std::iter::empty());
    let pieces = read(stream, cuts.iter().copied().cycle());
    assert_eq!(
        whole, pieces,
        "what is read depends on how the network cut it"
    );
    let words = error_words(stream);
    assert!(words.chars().count() <= 300 && !words.chars().any(char::is_control));
    let event = read(&one_event(stream), cuts.iter().copied());
    let event = event.expect("one event has an end");
    assert!(event.len() <= stream.len() + 64);
    let Ok(read) = whole else {
        return;
    };
    // Every line of data is begun anew by six bytes; an unnamed one took five.
    assert!(read.len() <= 2 * stream.len() + 64);
    assert!(read.ends_with(b"data: [DONE]\n\n"));
    for line in read
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        assert!(!line.contains(&b'\r'));
        let data = line
            .strip_prefix(b"data: ")
            .expect("lines of data and empty ones");
        meaning(data);
    }
}

fn meaning(json: &[u8]) {
    let Ok(completion) = serde_json::from_slice::<Completion>(json) else {
        return;
    };
    match completion.read() {
        // Text came from there, and some of it is escaped there.
        Ok(piece) => {
            assert!(piece.text.len() <= json.len() && (piece.spent || piece.text.is_empty()))
        }
        Err(words) => {
            assert!(words.chars().count() <= 300);
            assert!(!words.chars().any(char::is_control));
        }
    }
}

//! A stream of server-sent events, held to lines of bounded length before anybody parses it. Pure.
//!
//! The client library parses events, but keeps a line in memory however long it is, takes a cut
//! connection for the end, and can't read a byte order mark. So its input is put in order here.

/// The most bytes of one line. A line holds a piece of the text and some hundred bytes around it; servers
/// that send all of the text at once need more.
const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;

/// The most bytes of a whole stream: what tens of thousands of tokens take, each in an event of its own.
const MAX_STREAM_BYTES: usize = 32 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a stream is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// A line is longer than any piece of a text.
    #[error("the server sends a line of more than {MAX_LINE_BYTES} bytes")]
    Line,
    /// All of it is longer than any result.
    #[error("the server sends more than {MAX_STREAM_BYTES} bytes")]
    Stream,
    /// The connection ended before the stream did.
    #[error("the stream was cut off: it ended without [DONE]")]
    Cut,
}

/// Cuts a stream into lines, whatever they end with (LF, CR LF or CR), keeps those that carry data, and
/// ends at `[DONE]`.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    total: usize,
    after_return: bool,
    not_first: bool,
    done: bool,
}

impl Lines {
    /// Whether `[DONE]` was read: nothing comes after it.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next bytes, and returns the lines that they complete.
    ///
    /// # Errors
    /// [`BadStream::Line`] and [`BadStream::Stream`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BadStream> {
        self.total = self.total.saturating_add(bytes.len());
        if self.total > MAX_STREAM_BYTES {
            return Err(BadStream::Stream);
        }
        let mut whole = Vec::new();
        for &byte in bytes {
            if self.done {
                break;
            }
            let second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => self.end_line(&mut whole),
                _ if self.line.len() == MAX_LINE_BYTES => return Err(BadStream::Line),
                _ => self.line.push(byte),
            }
        }
        Ok(whole)
    }

    /// Takes the end of the connection, and returns the last line if nothing ended it.
    ///
    /// # Errors
    /// [`BadStream::Cut`] if nothing said that the stream is over.
    pub fn end(&mut self) -> Result<Vec<u8>, BadStream> {
        let mut whole = Vec::new();
        if !self.done {
            self.end_line(&mut whole);
        }
        // Any other line may be the beginning of one.
        if self.done {
            Ok(whole)
        } else {
            Err(BadStream::Cut)
        }
    }

    fn end_line(&mut self, whole: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let first = !std::mem::replace(&mut self.not_first, true);
        let line = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if first => rest,
            _ => &line,
        };
        if line.is_empty() {
            whole.push(b'\n');
            return;
        }
        // Comments, names and numbers of events mean nothing here. One server says `error:` for data.
        let data = line.strip_prefix(b"data:").or(line.strip_prefix(b"error:"));
        let Some(data) = data.map(<[u8]>::trim_ascii) else {
            return;
        };
        self.done = data == b"[DONE]";
        whole.extend_from_slice(b"data: ");
        whole.extend_from_slice(data);
        whole.extend_from_slice(if self.done { b"\n\n" } else { b"\n" });
    }
}

/// A body that is no stream, as a stream of one event.
#[must_use]
pub fn one_event(json: &[u8]) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    // Within JSON, line breaks stand between tokens only.
    let line = json.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        byte => *byte,
    });
    event.extend(line);
    event.extend_from_slice(b"\n\ndata: [DONE]\n\n");
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stream: &[u8], at_once: usize) -> Result<String, BadStream> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for bytes in stream.chunks(at_once) {
            out.extend(lines.take(bytes)?);
        }
        out.extend(lines.end()?);
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn lines_are_the_same_whatever_ends_them_and_however_they_are_cut() {
        let stream = "data: {\"é\":1}\n\n: ping\n\nevent: x\ndata:{\"b\":2}\n\ndata: [DONE]\n\n";
        let clean = "data: {\"é\":1}\n\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
        for end in ["\n", "\r\n", "\r"] {
            for mark in ["", "\u{feff}"] {
                let stream = format!("{mark}{}", stream.replace('\n', end));
                for at_once in [1, 2, 3, 7, 1000] {
                    let out = all(stream.as_bytes(), at_once);
                    assert_eq!(out.as_deref(), Ok(clean), "{end:?} {mark:?} {at_once}");
                }
            }
        }
    }

    #[test]
    fn a_stream_ends_at_done_and_nowhere_else() {
        assert_eq!(all(b"data: {}\n\n", 9), Err(BadStream::Cut));
        assert_eq!(all(b"", 9), Err(BadStream::Cut));
        assert_eq!(all(b"data: [DON", 9), Err(BadStream::Cut));
        assert_eq!(all(b"data: [DONE]", 9).as_deref(), Ok("data: [DONE]\n\n"));
        let more = all(b"data:[DONE]\ndata: {\"more\":1}\n\n", 99);
        assert_eq!(more.as_deref(), Ok("data: [DONE]\n\n"));
    }

    #[test]
    fn lines_and_streams_are_bounded() {
        let mut lines = Lines::default();
        let line = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines.take(&line), Ok(Vec::new()));
        assert_eq!(lines.take(b"x"), Err(BadStream::Line));
        let mut lines = Lines::default();
        let comments = b": ping\n".repeat(100_000);
        let read = |lines: &mut Lines| lines.take(&comments);
        let ended = std::iter::repeat_with(|| read(&mut lines)).find(Result::is_err);
        assert_eq!(ended, Some(Err(BadStream::Stream)));
    }

    #[test]
    fn an_answer_in_one_piece_is_one_event() {
        let event = one_event(b"{\n  \"a\": \"b\\nc\"\r\n}\n");
        assert_eq!(
            all(&event, 5).as_deref(),
            Ok("data: {   \"a\": \"b\\nc\"  }\n\ndata: [DONE]\n\n")
        );
    }
}

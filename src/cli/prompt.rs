//! Text that is too long, or too secret, for a command line: `-` is stdin, `@FILE` a file.

use std::fs::File;
use std::io::{self, Read};

use crate::error::{Code, Error, Result};
use crate::protocol::codec::MAX_MESSAGE_BYTES;

/// What the other fields of a request take of [`MAX_MESSAGE_BYTES`] at least. With a long model's name they
/// take more, and then it is the request that is refused.
const ROOM_FOR_THE_REST: usize = 256;

/// The prompt that `--prompt` stands for: itself, stdin (`-`), or a file (`@FILE`). The line end that
/// closes a file is not part of it.
///
/// # Errors
/// [`Code::Usage`] if it can't be read, is empty, not UTF-8, or longer than a message may be.
pub(super) fn read_prompt(given: &str) -> Result<String> {
    let most = MAX_MESSAGE_BYTES as u64;
    let prompt = match (given, given.strip_prefix('@')) {
        ("-", _) => without_line_end(read_text("stdin", io::stdin().lock(), most)?),
        (_, Some(path)) => {
            let file = File::open(path).map_err(|problem| {
                usage(format!(
                    "--prompt @{path}: {problem} (a prompt that itself begins with @ goes through \
                     stdin: --prompt -)"
                ))
            })?;
            without_line_end(read_text(path, file, most)?)
        }
        _ => given.to_owned(),
    };
    if prompt.trim().is_empty() {
        return Err(usage("the prompt is empty".to_owned()));
    }
    // What counts is its length as JSON: a quote takes two bytes, a control character six.
    let on_the_wire = serde_json::to_string(&prompt).map_or(usize::MAX, |json| json.len());
    if on_the_wire > MAX_MESSAGE_BYTES - ROOM_FOR_THE_REST {
        return Err(too_long("the prompt"));
    }
    Ok(prompt)
}

/// All that `from` has to say, if it is UTF-8 text of at most `most` bytes.
///
/// # Errors
/// [`Code::Usage`] otherwise. The text is not repeated.
pub(super) fn read_text(name: &str, from: impl Read, most: u64) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|problem| usage(format!("{name} can't be read: {problem}")))?;
    if bytes.len() as u64 > most {
        return Err(too_long(name));
    }
    String::from_utf8(bytes).map_err(|_| usage(format!("{name} is not UTF-8 text")))
}

fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn too_long(what: &str) -> Error {
    usage(format!(
        "{what} is too long: a whole message may have {MAX_MESSAGE_BYTES} bytes"
    ))
}

fn usage(message: String) -> Error {
    Error::new(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_prompt_is_itself_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt");
        std::fs::write(&path, "from a\nfile\r\n").unwrap();
        let at = format!("@{}", path.display());
        assert_eq!(read_prompt(&at).unwrap(), "from a\nfile");
        assert_eq!(read_prompt("--help me").unwrap(), "--help me");
    }

    #[test]
    fn a_prompt_is_bounded_text_and_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let write = |bytes: &[u8]| {
            let path = folder.path().join("prompt");
            std::fs::write(&path, bytes).unwrap();
            read_prompt(&format!("@{}", path.display()))
        };
        assert_eq!(read_prompt("").unwrap_err().code(), Code::Usage);
        assert!(write(b" \n ").unwrap_err().message().contains("empty"));
        assert!(write(&[0xff]).unwrap_err().message().contains("UTF-8"));
        assert!(
            write(&[b'a'; 40_000])
                .unwrap_err()
                .message()
                .contains("long")
        );
        assert!(
            write(&[b'"'; 20_000])
                .unwrap_err()
                .message()
                .contains("long")
        );
        assert!(write(&[b'a'; 30_000]).is_ok());
        assert!(
            read_prompt("@/nowhere")
                .unwrap_err()
                .message()
                .contains("stdin")
        );
    }
}

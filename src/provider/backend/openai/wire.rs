//! What is said to servers and what they say, read leniently: every server leaves out, or sets to null,
//! something that another one has.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The most characters of a server's own words that we repeat to the owner.
const MOST_WORDS: usize = 300;

/// A request for a chat completion.
#[derive(Serialize)]
pub(super) struct Ask<'a> {
    pub(super) model: &'a str,
    pub(super) messages: [Message<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'a str,
    pub(super) content: &'a str,
}

#[derive(Serialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

/// The answer of `GET /models`.
#[derive(Deserialize)]
pub(super) struct ModelList {
    /// Ollama without models says null.
    #[serde(default)]
    pub(super) data: Option<Vec<ModelEntry>>,
}

#[derive(Deserialize)]
pub(super) struct ModelEntry {
    #[serde(default)]
    pub(super) id: Option<String>,
}

/// A chat completion, or a piece of one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Completion {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
    message: Option<Value>,
    /// Ours: see [`broken`].
    #[serde(rename = "agent-compute:broken")]
    broken: Option<String>,
}

/// The event that our transport ends a stream with that breaks off.
pub(super) fn broken(why: &str) -> Vec<u8> {
    let event = serde_json::json!({ "agent-compute:broken": line(why) });
    // What came before may be an event without its end.
    format!("\n\ndata: {event}\n\n").into_bytes()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: Option<u32>,
    delta: Option<Words>,
    message: Option<Words>,
    /// Absent, null as long as the model goes on, or why it ended.
    #[serde(deserialize_with = "present")]
    finish_reason: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Words {
    content: Option<String>,
    /// What a model thinks before it answers; two names are in use. Not part of the result.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    completion_tokens: Option<u64>,
}

/// What a completion, or a piece of one, means to us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text of the result.
    pub text: String,
    /// Whether tokens were spent on it: on text, or on thoughts.
    pub spent: bool,
    /// Whether the model has ended; `None`: the server does not say.
    pub ended: Option<bool>,
    /// How many tokens the whole took.
    pub tokens: Option<u32>,
    /// Why there are no more.
    pub broken: Option<String>,
}

impl Piece {
    /// The end of a stream that broke off.
    pub(super) fn broken(why: &str) -> Self {
        Self {
            broken: Some(why.to_owned()),
            ..Self::default()
        }
    }
}

impl Completion {
    /// The meaning.
    ///
    /// # Errors
    /// The server's words, if it is no completion but an error.
    pub fn read(self) -> Result<Piece, String> {
        // One family of servers sends the error itself in place of the completion.
        let error = match (self.error, &self.choices, self.message) {
            (Some(error), ..) => Some(error),
            (None, None, Some(message)) => Some(message),
            (None, ..) => None,
        };
        if let Some(error) = error {
            return Err(words(&error).unwrap_or_else(|| "an error without words".into()));
        }
        let tokens = self.usage.and_then(|usage| usage.completion_tokens);
        let choice = self.choices.into_iter().flatten();
        let choice = choice
            .into_iter()
            .find(|choice| choice.index.unwrap_or(0) == 0);
        let choice = choice.unwrap_or_default();
        let said = choice.delta.or(choice.message).unwrap_or_default();
        let thoughts = [said.reasoning_content, said.reasoning];
        let text = said.content.unwrap_or_default();
        Ok(Piece {
            spent: !text.is_empty() || thoughts.iter().flatten().any(|words| !words.is_empty()),
            text,
            ended: choice
                .finish_reason
                .map(|reason| reason.as_str().is_some_and(|reason| !reason.is_empty())),
            tokens: tokens.and_then(|tokens| u32::try_from(tokens).ok()),
            broken: self.broken,
        })
    }
}

/// The words of an error in a body, cut, on one line.
#[must_use]
pub fn error_words(body: &[u8]) -> String {
    let words = match serde_json::from_slice::<Value>(body) {
        Ok(value) => words(&value),
        Err(_) => Some(line(&String::from_utf8_lossy(body))),
    };
    words.unwrap_or_default()
}

/// The words in an error as JSON: `{"error":{"message","type","code"}}`, `{"error":"…"}`,
/// `{"detail":"…"}`, `{"message":"…"}`.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(line(text)),
        Value::Object(fields) => {
            if let Some(inner) = fields.get("error").filter(|inner| !inner.is_null()) {
                return words(inner);
            }
            let said = ["message", "detail", "msg"]
                .iter()
                .find_map(|name| fields.get(*name).and_then(words));
            let kinds = ["type", "code"].iter();
            let kinds = kinds.filter_map(|name| fields.get(*name)?.as_str());
            let all: Vec<String> = said.into_iter().chain(kinds.map(line)).collect();
            (!all.is_empty()).then(|| line(&all.join("; ")))
        }
        Value::Array(items) => items.first().and_then(words),
        _ => None,
    }
}

/// A text on one line, cut.
pub(super) fn line(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MOST_WORDS).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Piece, String> {
        serde_json::from_str::<Completion>(json)
            .map_err(|error| format!("no JSON: {error}"))
            .and_then(Completion::read)
    }

    #[test]
    fn pieces_of_all_dialects_are_read() {
        let text = |json: &str| read(json).map(|piece| (piece.text, piece.spent, piece.ended));
        let of = |text: &str, spent, ended: Option<bool>| Ok((text.to_owned(), spent, ended));
        for (json, meaning) in [
            (
                r#"{"choices":[{"delta":{"content":"a"}}]}"#,
                of("a", true, None),
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
                of("", false, Some(false)),
            ),
            (
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                of("", false, Some(true)),
            ),
            (
                r#"{"choices":[{"index":0,"finish_reason":"length"}]}"#,
                of("", false, Some(true)),
            ),
            (
                r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
                of("", true, None),
            ),
            (
                r#"{"choices":[{"delta":{"content":"","reasoning":"hm"}}]}"#,
                of("", true, None),
            ),
            (
                r#"{"choices":[{"message":{"role":"assistant","content":"whole"},"finish_reason":"stop"}]}"#,
                of("whole", true, Some(true)),
            ),
            (
                r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#,
                of("", false, None),
            ),
            (
                r#"{"choices":[],"usage":{"completion_tokens":3}}"#,
                of("", false, None),
            ),
            (r#"{"choices":null,"usage":null}"#, of("", false, None)),
            ("{}", of("", false, None)),
        ] {
            assert_eq!(text(json), meaning, "{json}");
        }
        let usage = read(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3}}"#);
        assert_eq!(usage.map(|piece| piece.tokens), Ok(Some(3)));
        let absurd = read(r#"{"choices":[],"usage":{"completion_tokens":99999999999}}"#);
        assert_eq!(absurd.map(|piece| piece.tokens), Ok(None));
    }

    #[test]
    fn errors_of_all_dialects_are_found() {
        for (json, said) in [
            (
                r#"{"error":{"message":"out of memory","type":"server_error","code":500}}"#,
                "out of memory; server_error",
            ),
            (r#"{"error":"model crashed"}"#, "model crashed"),
            (r#"{"object":"error","message":"gone","code":500}"#, "gone"),
            (r#"{"code":500,"message":"gone","type":"x"}"#, "gone"),
            (r#"{"error":{}}"#, "an error without words"),
        ] {
            assert_eq!(read(json), Err(said.to_owned()), "{json}");
        }
    }

    #[test]
    fn the_words_of_an_error_are_cut_and_on_one_line() {
        assert_eq!(
            error_words(br#"{"detail":[{"msg":"no such field"}]}"#),
            "no such field"
        );
        assert_eq!(
            error_words(b"<html>\n\x1b[31mBad Gateway"),
            "<html>  [31mBad Gateway"
        );
        assert_eq!(error_words(b""), "");
        assert_eq!(error_words(b"\xff\xfe").chars().count(), 2);
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "x".repeat(100_000));
        assert_eq!(error_words(long.as_bytes()).len(), MOST_WORDS);
    }
}

//! Where servers differ in what they understand.

use super::http::Trouble;
use super::wire::{Ask, Message, StreamOptions};
use crate::provider::backend::GenerateRequest;

/// What a server does not know, as far as it has told us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    /// It does not stream.
    pub(super) whole: bool,
    /// It does not count the tokens of streams.
    uncounted: bool,
    /// It calls the limit `max_completion_tokens`, as OpenAI does for its later models.
    new_limit: bool,
}

impl Dialect {
    /// What to try after `trouble`, if that is a matter of dialect.
    pub(super) fn after(self, trouble: &Trouble) -> Option<Self> {
        let Trouble::Refused { status, words, .. } = trouble else {
            return None;
        };
        if !matches!(status, 400 | 404 | 405 | 415 | 422 | 501) {
            return None;
        }
        let words = words.to_ascii_lowercase();
        if words.contains("max_completion_tokens") && !self.new_limit {
            let new_limit = true;
            return Some(Self { new_limit, ..self });
        }
        if !words.contains("stream") || self.whole {
            return None;
        }
        Some(match words.contains("stream_options") && !self.uncounted {
            true => Self {
                uncounted: true,
                ..self
            },
            false => Self {
                whole: true,
                ..self
            },
        })
    }

    /// The same without streams.
    pub(super) fn unstreamed(self) -> Self {
        let whole = true;
        Self { whole, ..self }
    }

    /// A request in this dialect, for the model that the server calls `model`.
    pub(super) fn ask<'a>(self, model: &'a str, request: &'a GenerateRequest) -> Ask<'a> {
        let limit = Some(request.max_tokens);
        let counts = !self.whole && !self.uncounted;
        Ask {
            model,
            messages: [Message {
                role: "user",
                content: &request.prompt,
            }],
            max_tokens: limit.filter(|_| !self.new_limit),
            max_completion_tokens: limit.filter(|_| self.new_limit),
            stream: !self.whole,
            stream_options: counts.then_some(StreamOptions {
                include_usage: true,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_learned_from_refusals_and_never_twice_the_same() {
        let plain = Dialect::default();
        let new_limit = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        let learned = plain.after(&Trouble::refused(400, new_limit));
        assert_eq!(
            learned,
            Some(Dialect {
                new_limit: true,
                ..plain
            })
        );
        assert_eq!(
            learned.and_then(|d| d.after(&Trouble::refused(400, new_limit))),
            None
        );

        let uncounted = plain.after(&Trouble::refused(422, "unknown field: stream_options"));
        assert_eq!(
            uncounted,
            Some(Dialect {
                uncounted: true,
                ..plain
            })
        );
        let whole = uncounted
            .and_then(|d| d.after(&Trouble::refused(422, "unknown field: stream_options")));
        assert_eq!(
            whole,
            Some(Dialect {
                uncounted: true,
                whole: true,
                ..plain
            })
        );
        assert_eq!(
            whole.and_then(|d| d.after(&Trouble::refused(422, "stream"))),
            None
        );

        assert_eq!(plain.after(&Trouble::refused(500, "stream reset")), None);
        assert_eq!(plain.after(&Trouble::refused(400, "bad prompt")), None);
        assert_eq!(plain.after(&Trouble::Unreachable("stream".into())), None);
    }
}

//! A backend on any OpenAI-compatible server: Ollama, llama.cpp, vLLM, OpenAI itself.
//!
//! The requests are those of `async-openai`; below it stands our own [transport](http), which bounds what
//! a server may send, and beside it our own reading of the answers, which servers write in dialects.
//!
//! # What a job may cost
//!
//! `max_tokens` is sent to the server. A server that ignores it is cut off: each piece of a stream holds
//! at least one token, so after `max_tokens` pieces the result is complete, and the connection is closed,
//! which is how servers are told to stop. An answer that comes in one piece can't be cut like that; its
//! length is bounded in bytes alone.
//!
//! # What is tried again
//!
//! Before anything was streamed, and only then: a request is sent up to three times in all if no
//! connection came about, it broke before an answer, or the server said that it is busy or just starting
//! (429, 502, 503, 504). A request that a server refuses for a field it does not know (`stream`,
//! `stream_options`, `max_tokens`) is sent once more without that field, and the server is remembered to
//! be one of those.
//!
//! # Who is told what
//!
//! Errors name what happened and what to do, for the owner. Nothing of a server's address, key or words
//! reaches a customer: for them there is [`BackendError::for_customers`].

mod address;
mod find;
mod http;
mod lines;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

pub use self::address::{NotAnAddress, ServerAddress};
pub use self::find::{LOCAL_PORTS, NoServer, find};
use self::http::{Exchange, Trouble};
use self::wire::{Ask, Completion, Message, ModelList, Piece, StreamOptions};
use super::{Backend, BackendError, GenerateRequest, Generated};
use crate::config::{MAX_MODEL_BYTES, MAX_RESULT_BYTES};
use crate::secret::Secret;

/// How long a server may take to list its models.
const LIST: Duration = Duration::from_secs(10);

/// The pauses before a request is sent again. A server that restarts is back within seconds.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(3)];

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long to wait for the count of tokens after a model has ended. It follows at once or not at all.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The most models that are listed.
const MAX_MODELS: usize = 1000;

/// How long a server may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Before the first piece of text: it may have to load the model and read a long prompt.
    pub first: Duration,
    /// Between two pieces.
    pub between: Duration,
}

impl Default for Silence {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(300),
            between: Duration::from_secs(60),
        }
    }
}

/// What a server does not know, as far as it has told us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dialect {
    /// It does not stream.
    whole: bool,
    /// It does not count the tokens of streams.
    uncounted: bool,
    /// It calls the limit `max_completion_tokens`, as OpenAI does for its later models.
    new_limit: bool,
}

impl Dialect {
    /// What to try after `trouble`, if that is a matter of dialect.
    fn after(self, trouble: &Trouble) -> Option<Self> {
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
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Completion, OpenAIError>> + Send>>;

/// What a server answers a request with.
enum Answer {
    Stream(Pieces),
    Whole(Piece),
}

/// A server that speaks OpenAI's protocol.
pub struct OpenAi {
    address: ServerAddress,
    streamed: Client<OpenAIConfig>,
    whole: Client<OpenAIConfig>,
    key: Option<Secret>,
    silence: Silence,
    /// The dialect of each model: a gateway has models of several makers behind it.
    dialects: Mutex<HashMap<String, Dialect>>,
    /// The server's own names of models that we list under another.
    own_names: Mutex<HashMap<String, String>>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("address", &self.address)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// The server at this address; nothing is sent yet. It gets `key` with every request.
    ///
    /// # Errors
    /// If the key can't be one, or this machine has no certificates to tell an `https` server by.
    pub fn new(address: ServerAddress, key: Option<Secret>) -> Result<Self, BackendError> {
        let exchange = Exchange {
            connections: http::connections(&address)?,
            authorization: key.as_ref().map(http::authorization).transpose()?,
            streamed: true,
        };
        let whole = Exchange {
            streamed: false,
            ..exchange.clone()
        };
        Ok(Self {
            streamed: exchange.client(&address),
            whole: whole.client(&address),
            address,
            key,
            silence: Silence::default(),
            dialects: Mutex::default(),
            own_names: Mutex::default(),
        })
    }

    /// The same, with another patience.
    #[must_use]
    pub fn with_silence(self, silence: Silence) -> Self {
        Self { silence, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// What a trouble is for the owner and for customers.
    fn explain(&self, trouble: Trouble) -> BackendError {
        let at = &self.address;
        let mut said = trouble.to_string();
        if let Some(key) = &self.key {
            // Some servers repeat the key that they refuse.
            said = said.replace(key.expose(), "…");
        }
        let Trouble::Refused { status, .. } = trouble else {
            return match trouble {
                Trouble::Unreachable(_) => BackendError::Unreachable(format!("{at}: {said}")),
                _ => BackendError::Failed(format!("{at}: {said}")),
            };
        };
        match status {
            401 | 403 if self.key.is_none() => BackendError::Failed(format!(
                "{at} wants a key ({said}): name one in [provider] backend_key"
            )),
            401 | 403 => BackendError::Failed(format!("{at} refuses the key ({said})")),
            400 | 413 | 422 if is_too_long(&said) => BackendError::TooLong(format!("{at}: {said}")),
            429 | 503 => BackendError::Busy(format!("{at}: {said}")),
            _ => BackendError::Failed(format!("{at}: {said}")),
        }
    }

    /// Sends a request until it is answered, or there is no point in sending it again.
    async fn open(&self, request: &GenerateRequest) -> Result<Answer, BackendError> {
        let mut dialect = self.dialect_of(&request.model);
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.ask(request, dialect).await {
                Ok(answer) => {
                    let mut dialects = lock(&self.dialects);
                    dialects.insert(request.model.clone(), dialect);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            if let Some(other) = dialect.after(&trouble) {
                dialect = other;
                continue;
            }
            match (pause_after(&trouble), pauses.next()) {
                (Some(wanted), Some(pause)) => {
                    let pause = pause.max(wanted.min(LONGEST_PAUSE));
                    tracing::info!(%trouble, ?pause, "the backend is asked again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(self.explain(trouble)),
            }
        }
    }

    /// Sends a request once.
    async fn ask(&self, request: &GenerateRequest, dialect: Dialect) -> Result<Answer, Trouble> {
        let model = self.own_name(&request.model);
        let streams = !dialect.whole;
        let limit = Some(request.max_tokens);
        let ask = Ask {
            model: &model,
            messages: [Message {
                role: "user",
                content: &request.prompt,
            }],
            max_tokens: limit.filter(|_| !dialect.new_limit),
            max_completion_tokens: limit.filter(|_| dialect.new_limit),
            stream: streams,
            stream_options: (streams && !dialect.uncounted).then_some(StreamOptions {
                include_usage: true,
            }),
        };
        if streams {
            let pieces = self.streamed.chat();
            let asked = pieces.create_stream_byot::<_, Completion>(ask);
            let pieces = tokio::time::timeout(self.silence.first, asked).await;
            let pieces = pieces.map_err(|_| silent(self.silence.first))?;
            return pieces.map(Answer::Stream).map_err(Trouble::of_library);
        }
        let whole: Completion = self
            .whole
            .chat()
            .create_byot(ask)
            .await
            .map_err(Trouble::of_library)?;
        whole.read().map(Answer::Whole).map_err(Trouble::Unreadable)
    }

    /// Reads a stream to its end, or to the most tokens that were asked for.
    async fn read(
        &self,
        mut pieces: Pieces,
        most: u32,
        chunks: &mpsc::Sender<String>,
    ) -> Result<Generated, Trouble> {
        let mut text = String::new();
        let (mut spent, mut tokens, mut ended) = (0u32, None, false);
        let mut patience = self.silence.first;
        loop {
            let piece = match tokio::time::timeout(patience, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece.read().map_err(Trouble::Unreadable)?,
                // All of the text is here; what is missing is the count, or a proper goodbye.
                _ if ended => break,
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(Trouble::of_library(error)),
                Err(_) => return Err(silent(patience)),
            };
            tokens = piece.tokens.or(tokens);
            if piece.spent {
                if spent == most {
                    tracing::warn!(most, "the backend ignores max_tokens and is cut off");
                    break;
                }
                spent += 1;
            }
            if text.len() + piece.text.len() > MAX_RESULT_BYTES {
                let why = format!("its result has more than {MAX_RESULT_BYTES} bytes");
                return Err(Trouble::Unreadable(why));
            }
            if !piece.text.is_empty() {
                text.push_str(&piece.text);
                // Nobody listening is no reason to stop: the whole text is asked for as well.
                let _ = chunks.send(piece.text).await;
            }
            ended |= piece.ended;
            patience = if ended {
                LAST_WORDS
            } else {
                self.silence.between
            };
        }
        let tokens = tokens.or(Some(spent));
        Ok(Generated { text, tokens })
    }

    /// The models to serve, under the names to list them by.
    fn keep(&self, list: ModelList) -> Vec<String> {
        let mut names = Vec::new();
        let mut own_names = HashMap::new();
        let ids = list.data.into_iter().flatten().filter_map(|entry| entry.id);
        for id in ids {
            let name = name_to_list(&id);
            let fits = !name.is_empty() && name.len() <= MAX_MODEL_BYTES;
            let is_line = !name.chars().any(char::is_control);
            if fits && is_line && names.len() < MAX_MODELS && !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
                if name != id {
                    own_names.insert(name.to_owned(), id);
                }
            }
        }
        *lock(&self.own_names) = own_names;
        names
    }

    fn dialect_of(&self, model: &str) -> Dialect {
        lock(&self.dialects).get(model).copied().unwrap_or_default()
    }

    fn own_name(&self, model: &str) -> String {
        let own = lock(&self.own_names).get(model).cloned();
        own.unwrap_or_else(|| model.to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a model is listed as. Servers of single files call the model by its path, which is nobody's
/// business: of an absolute one, the file's name is what remains.
fn name_to_list(id: &str) -> &str {
    let windows = id.as_bytes().get(1..3) == Some(b":\\") || id.starts_with("\\\\");
    let is_path =
        windows || id.starts_with(['/', '~']) || id.starts_with("./") || id.starts_with("../");
    match is_path {
        true => id.rsplit(['/', '\\']).next().unwrap_or_default(),
        false => id,
    }
}

fn silent(patience: Duration) -> Trouble {
    Trouble::Unreadable(format!(
        "it was silent for {} seconds",
        patience.as_secs_f32()
    ))
}

/// How long to wait at least before asking again; `None`: not at all.
fn pause_after(trouble: &Trouble) -> Option<Duration> {
    match trouble {
        Trouble::Unreachable(_) => Some(Duration::ZERO),
        Trouble::Refused {
            status: 429 | 502 | 503 | 504,
            retry_after,
            ..
        } => Some(retry_after.unwrap_or_default()),
        _ => None,
    }
}

/// Whether a refusal says that the prompt does not fit the model. Each server has words of its own.
fn is_too_long(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    [
        "context_length",
        "context length",
        "context window",
        "context size",
        "exceed_context_size",
        "prompt is too long",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

#[async_trait]
impl Backend for OpenAi {
    fn name(&self) -> &str {
        "openai"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        let models = self.whole.models();
        let asked = tokio::time::timeout(LIST, models.list_byot::<ModelList>()).await;
        let list = match asked {
            Ok(list) => list.map_err(Trouble::of_library),
            Err(_) => Err(silent(LIST)),
        };
        let list = list.map_err(|trouble| self.explain(trouble))?;
        Ok(self.keep(list))
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        match self.open(&request).await? {
            Answer::Whole(piece) => Ok(Generated {
                text: piece.text,
                tokens: piece.tokens,
            }),
            Answer::Stream(pieces) => self
                .read(pieces, request.max_tokens, &chunks)
                .await
                .map_err(|trouble| self.explain(trouble)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, words: &str) -> Trouble {
        Trouble::Refused {
            status,
            words: words.into(),
            retry_after: None,
        }
    }

    #[test]
    fn a_dialect_is_learned_from_refusals_and_never_twice_the_same() {
        let plain = Dialect::default();
        let new_limit = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        let learned = plain.after(&refused(400, new_limit));
        assert_eq!(
            learned,
            Some(Dialect {
                new_limit: true,
                ..plain
            })
        );
        assert_eq!(
            learned.and_then(|d| d.after(&refused(400, new_limit))),
            None
        );

        let uncounted = plain.after(&refused(422, "unknown field: stream_options"));
        assert_eq!(
            uncounted,
            Some(Dialect {
                uncounted: true,
                ..plain
            })
        );
        let whole = uncounted.and_then(|d| d.after(&refused(422, "unknown field: stream_options")));
        assert_eq!(
            whole,
            Some(Dialect {
                uncounted: true,
                whole: true,
                ..plain
            })
        );
        assert_eq!(whole.and_then(|d| d.after(&refused(422, "stream"))), None);

        assert_eq!(plain.after(&refused(500, "stream reset")), None);
        assert_eq!(plain.after(&refused(400, "bad prompt")), None);
        assert_eq!(plain.after(&Trouble::Unreachable("stream".into())), None);
    }

    #[test]
    fn a_path_of_this_machine_is_not_published() {
        for (id, name) in [
            ("/home/alice/models/tiny.gguf", "tiny.gguf"),
            ("C:\\Users\\alice\\tiny.gguf", "tiny.gguf"),
            ("~/tiny.gguf", "tiny.gguf"),
            ("./models/tiny.gguf", "tiny.gguf"),
            ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
            ("llama3:latest", "llama3:latest"),
            ("/", ""),
        ] {
            assert_eq!(name_to_list(id), name);
        }
    }

    #[test]
    fn prompts_that_do_not_fit_are_known_by_the_words_of_each_server() {
        for words in [
            "This model's maximum context length is 8192 tokens; context_length_exceeded",
            "the request exceeds the available context size, try increasing it",
            "Requested tokens (600) exceed context window of 512",
        ] {
            assert!(is_too_long(words), "{words}");
        }
        assert!(!is_too_long("invalid temperature"));
    }

    #[test]
    fn neither_debug_nor_errors_show_the_key() -> Result<(), Box<dyn std::error::Error>> {
        let key = Some(Secret::new("sk-hunter2"));
        let server = OpenAi::new("https://host.example".parse()?, key)?;
        let error = server.explain(refused(401, "no such key: sk-hunter2"));
        assert!(error.to_string().contains("refuses the key"), "{error}");
        for shown in [
            format!("{server:?}"),
            error.to_string(),
            format!("{error:?}"),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let broken = OpenAi::new("https://host.example".parse()?, Some(Secret::new("a\nb")));
        assert!(broken.is_err_and(|error| !error.to_string().contains("a\nb")));
        Ok(())
    }
}

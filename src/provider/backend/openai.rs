//! A backend on any OpenAI-compatible server: Ollama, llama.cpp, vLLM, OpenAI itself.
//!
//! The requests are those of `async-openai`; below it stands a transport of our own, which bounds what
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
mod dialect;
mod find;
mod http;
#[doc(hidden)]
pub mod lines;
#[doc(hidden)]
pub mod wire;

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
use self::dialect::Dialect;
pub use self::find::{LOCAL_PORTS, NoServer, find};
use self::http::{Exchange, Trouble};
use self::wire::{Completion, ModelList, Piece};
use super::{Backend, BackendError, GenerateRequest, Generated, MAX_RESULT_BYTES};
use crate::config::MAX_MODEL_BYTES;
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

type Pieces = Pin<Box<dyn Stream<Item = Result<Completion, OpenAIError>> + Send>>;

/// What a server answers a request with.
enum Answer {
    Stream(Pieces),
    Whole(Generated),
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

    /// A trouble in words. Some servers repeat the key that they refuse.
    fn without_key(&self, trouble: &Trouble) -> String {
        let said = trouble.to_string();
        match &self.key {
            Some(key) => said.replace(key.expose(), "…"),
            None => said,
        }
    }

    /// What a trouble is for the owner and for customers.
    fn explain(&self, trouble: Trouble) -> BackendError {
        let at = &self.address;
        let said = self.without_key(&trouble);
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

    /// Sends a request until it is answered, or there is no point in sending it again. Returns as well
    /// the dialect that was understood.
    async fn open(
        &self,
        request: &GenerateRequest,
        mut dialect: Dialect,
    ) -> Result<(Answer, Dialect), Trouble> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.ask(request, dialect).await {
                Ok(answer) => return Ok((answer, dialect)),
                Err(trouble) => trouble,
            };
            if let Some(other) = dialect.after(&trouble) {
                dialect = other;
                continue;
            }
            match (pause_after(&trouble), pauses.next()) {
                (Some(wanted), Some(pause)) => {
                    let pause = pause.max(wanted.min(LONGEST_PAUSE));
                    let trouble = self.without_key(&trouble);
                    tracing::info!(trouble, ?pause, "the backend is asked again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(trouble),
            }
        }
    }

    /// Sends a request, and reads its answer as it comes.
    async fn make(
        &self,
        request: &GenerateRequest,
        chunks: &mpsc::Sender<String>,
    ) -> Result<Generated, Trouble> {
        let known = lock(&self.dialects).get(&request.model).copied();
        let (answer, dialect) = self.open(request, known.unwrap_or_default()).await?;
        lock(&self.dialects).insert(request.model.clone(), dialect);
        let pieces = match answer {
            Answer::Whole(made) => return Ok(made),
            Answer::Stream(pieces) => pieces,
        };
        if let Some(made) = self.read(pieces, request.max_tokens, chunks).await? {
            return Ok(made);
        }
        // It said yes, and then nothing. Asked for an answer in one piece, it can say what is wrong.
        match self.open(request, dialect.unstreamed()).await?.0 {
            Answer::Whole(made) => Ok(made),
            Answer::Stream(_) => Err(Trouble::Unreadable("a stream, unasked".into())),
        }
    }

    /// Sends a request once.
    async fn ask(&self, request: &GenerateRequest, dialect: Dialect) -> Result<Answer, Trouble> {
        let own = lock(&self.own_names).get(&request.model).cloned();
        let model = own.as_ref().unwrap_or(&request.model);
        let ask = dialect.ask(model, request);
        if dialect.whole {
            let asked = self.whole.chat().create_byot::<_, Completion>(ask).await;
            let piece = asked.map_err(Trouble::of_library)?.read();
            let Piece { text, tokens, .. } = piece.map_err(Trouble::Unreadable)?;
            return Ok(Answer::Whole(Generated { text, tokens }));
        }
        let chat = self.streamed.chat();
        let asked = chat.create_stream_byot::<_, Completion>(ask);
        let asked = tokio::time::timeout(self.silence.first, asked).await;
        let pieces = asked.map_err(|_| silent(self.silence.first))?;
        pieces.map(Answer::Stream).map_err(Trouble::of_library)
    }

    /// Reads a stream to its end, or to the most tokens that were asked for. `None`: it broke off before
    /// it had begun, without a word.
    async fn read(
        &self,
        mut pieces: Pieces,
        most: u32,
        chunks: &mpsc::Sender<String>,
    ) -> Result<Option<Generated>, Trouble> {
        let mut text = String::new();
        let (mut spent, mut tokens, mut ended) = (0u32, None, None);
        let mut patience = self.silence.first;
        loop {
            let piece = match tokio::time::timeout(patience, pieces.next()).await {
                // All of the text is here; what is missing is the count, or a proper goodbye.
                Ok(None | Some(Err(_))) | Err(_) if ended == Some(true) => break,
                Ok(Some(Ok(piece))) => match piece.read() {
                    Err(_) if ended == Some(true) => break,
                    piece => piece.map_err(Trouble::Unreadable)?,
                },
                Ok(Some(Err(error))) => return Err(Trouble::of_library(error)),
                // A server that gives reasons to end gave none: it dropped the work for another.
                Ok(None) if ended == Some(false) => Piece::broken(
                    "it stopped half-way, as servers do that drop a request for the next one; \
                     if this one does, sell with --max-jobs 1",
                ),
                Ok(None) => break,
                Err(_) => return Err(silent(patience)),
            };
            match piece.broken {
                Some(_) if ended == Some(true) => break,
                Some(_) if spent == 0 => return Ok(None),
                Some(why) => return Err(Trouble::Unreadable(why)),
                None => {}
            }
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
            if ended != Some(true) {
                ended = piece.ended.or(ended);
            }
            patience = match ended {
                Some(true) => LAST_WORDS,
                // Some servers say who speaks before they begin to read the prompt.
                _ if spent == 0 => self.silence.first,
                _ => self.silence.between,
            };
        }
        let tokens = tokens.or(Some(spent));
        Ok(Some(Generated { text, tokens }))
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
        let made = self.make(&request, &chunks).await;
        made.map_err(|trouble| self.explain(trouble))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_machine_is_not_published() {
        for (id, name) in [
            ("/srv/models/tiny.gguf", "tiny.gguf"),
            ("C:\\models\\tiny.gguf", "tiny.gguf"),
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
        let error = server.explain(Trouble::refused(401, "no such key: sk-hunter2"));
        assert!(error.to_string().contains("refuses the key"), "{error}");
        for shown in [
            format!("{server:?}"),
            error.to_string(),
            format!("{error:?}"),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        for no_key in ["sk-\nhunter2", ""] {
            let broken = OpenAi::new("https://host.example".parse()?, Some(Secret::new(no_key)));
            assert!(broken.is_err_and(|error| !error.to_string().contains("hunter2")));
        }
        Ok(())
    }
}

//! The backend port: whatever turns a prompt into text.

mod echo;
pub mod openai;

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::echo::Echo;
pub use self::openai::OpenAi;

/// The longest result that is delivered, in bytes. Far more than the tokens on offer make, and less than what
/// customers take.
pub const MAX_RESULT_BYTES: usize = 1024 * 1024;

/// Work for a backend. `Debug` does not show the prompt.
#[derive(Clone, PartialEq, Eq)]
pub struct GenerateRequest {
    /// One of the backend's models.
    pub model: String,
    /// What to work on. Text from the network.
    pub prompt: String,
    /// The most tokens the result may have.
    pub max_tokens: u32,
}

impl fmt::Debug for GenerateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateRequest")
            .field("model", &self.model)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// What a backend made. `Debug` does not show the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Generated {
    /// The whole text: where chunks were sent, their concatenation. Neither empty nor longer than
    /// [`MAX_RESULT_BYTES`]: such a job fails.
    pub text: String,
    /// How many tokens it took, if the backend counts.
    pub tokens: Option<u32>,
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated")
            .field("bytes", &self.text.len())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Why a backend could not do it. The words are for the owner; customers get those of
/// [`for_customers`](Self::for_customers).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// It can't be reached.
    #[error("the backend can't be reached: {0}")]
    Unreachable(String),
    /// It has too much to do.
    #[error("the backend is busy: {0}")]
    Busy(String),
    /// The prompt does not fit the model.
    #[error("the backend finds the prompt too long: {0}")]
    TooLong(String),
    /// It was reached, and failed.
    #[error("the backend failed: {0}")]
    Failed(String),
}

impl BackendError {
    /// What a customer may know: nothing of where the work is done, and by what.
    #[must_use]
    pub const fn for_customers(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "the provider could not do this job: its model is not running",
            Self::Busy(_) => "the provider could not do this job: its model is overloaded",
            Self::TooLong(_) => {
                "the provider could not do this job: the prompt is too long for the model"
            }
            Self::Failed(_) => "the provider could not do this job",
        }
    }
}

/// A source of text. Shared as `Arc<dyn Backend>` and called from many tasks at once; it must not block
/// them.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// What it is called in logs.
    fn name(&self) -> &str;

    /// The models it has, the default one first.
    ///
    /// # Errors
    /// If it can't say.
    async fn models(&self) -> Result<Vec<String>, BackendError>;

    /// Whether each chunk is to reach the customer as a message of its own, instead of being gathered for
    /// a moment to spare the relays.
    fn chunks_stand_alone(&self) -> bool {
        false
    }

    /// Does the work. It sends the text to `chunks` piece by piece as it comes, or sends nothing there; a
    /// closed `chunks` is no reason to stop. Dropping the future abandons the work.
    ///
    /// # Errors
    /// If there is no result.
    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError>;
}

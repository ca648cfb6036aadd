//! The work on one paid job: the backend's answer, sent in pieces as it comes or whole at the end.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nostr::Event;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, BackendError, GenerateRequest, Generated, MAX_RESULT_BYTES};
use super::event::{ProviderEvent, Reporter};
use super::job::{Address, Job};
use super::pieces;
use super::pricing::Refusal;
use super::store::{Finish, JobStore, StoreError, Streamed};
use super::voice::{Unspeakable, Voice};
use crate::crash::{self, Point};
use crate::protocol::message::{AgentMessage, JobResult, StreamChunk};
use crate::relay::RelayError;

/// The longest that a backend may take.
pub(super) const WORK: Duration = Duration::from_secs(600);

/// The first chunk goes out at once; then chunks are gathered for this long, since relays limit the rate.
const GATHER: Duration = Duration::from_millis(50);

/// How long one chunk is tried before streaming ends and the rest waits for the end.
const CHUNK_PATIENCE: Duration = Duration::from_secs(15);

/// Chunks of the backend that may wait.
const WAITING_CHUNKS: usize = 64;

/// What work on a job needs.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) voice: Voice,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) store: JobStore,
    pub(super) reporter: Reporter,
}

impl Workshop {
    /// Does a job. What is still to be published comes back signed; nothing of it was published.
    pub(super) async fn work(&self, job: &Job) -> Finish {
        let sent = match self.sent_before(job).await {
            Ok(sent) => sent,
            Err(error) => return self.failed(job, &BackendError::Failed(error.to_string())),
        };
        let (chunks, from_backend) = mpsc::channel(WAITING_CHUNKS);
        let ended = CancellationToken::new();
        let mut outflow = Outflow::new(self, job, sent);
        let generate = async {
            let made = self.generate(job, chunks).await;
            ended.cancel();
            made
        };
        let (made, ()) = tokio::join!(generate, outflow.run(from_backend, &ended));
        let outcome = match made {
            Ok(made) => outflow
                .finish(&made.text)
                .map(|messages| (messages, made.tokens))
                .map_err(|error| BackendError::Failed(error.to_string())),
            Err(error) => Err(error),
        };
        match outcome {
            Ok((messages, tokens)) => Finish {
                error: None,
                messages,
                tokens,
            },
            Err(error) => self.failed(job, &error),
        }
    }

    /// What an earlier run has sent of this job's text. It can't be taken back.
    async fn sent_before(&self, job: &Job) -> Result<Streamed, StoreError> {
        if !job.stream || !job.resumed {
            return Ok(Streamed::default());
        }
        self.store.streamed(job.address.request).await
    }

    /// The end of a job that the backend could not do.
    pub(super) fn failed(&self, job: &Job, why: &BackendError) -> Finish {
        let refusal = Refusal::new("failed", why.for_customers());
        self.failure(job, &refusal, why.to_string())
    }

    /// The end of a job that there is no result for. `why` is for the owner.
    pub(super) fn failure(&self, job: &Job, refusal: &Refusal, why: String) -> Finish {
        let mut messages = Vec::new();
        let no = self.voice.refusal(job.address, refusal);
        let in_old_words = job.deployed.then(|| {
            let result = JobResult {
                job_id: job.address.job_id(),
                result: format!("Error: {}", refusal.message),
            };
            self.voice
                .answer(job.address, &AgentMessage::JobResult(result))
        });
        for message in std::iter::once(no).chain(in_old_words) {
            match message {
                Ok(message) => messages.push(message),
                Err(error) => tracing::error!(%error, "a failure can't be told"),
            }
        }
        Finish {
            error: Some(why),
            messages,
            tokens: None,
        }
    }

    /// The backend's answer. Nothing that a backend does, panic included, comes out as anything else.
    async fn generate(
        &self,
        job: &Job,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        let request = GenerateRequest {
            model: job.model.clone(),
            prompt: job.prompt.clone(),
            max_tokens: job.max_tokens,
        };
        let generate = async { self.backend.generate(request, chunks).await };
        let bounded = tokio::time::timeout(WORK, AssertUnwindSafe(generate).catch_unwind());
        let made = match crash::around(Point::ProviderWork, bounded).await {
            Err(_) => Err(BackendError::Failed("it took too long".into())),
            Ok(Err(_)) => Err(BackendError::Failed("it panicked".into())),
            Ok(Ok(made)) => made,
        }?;
        match made.text.len() {
            0 => Err(BackendError::Failed("its result is empty".into())),
            1..=MAX_RESULT_BYTES => Ok(made),
            bytes => Err(BackendError::Failed(format!(
                "its result has {bytes} bytes"
            ))),
        }
    }
}

/// What stands between a text of which a part was sent, and another one that came of a second run.
const ANEW: &str = "\n\n";

type Sending<'a> = BoxFuture<'a, (Event, u32, Result<(), RelayError>)>;

/// The backend's chunks on their way out: gathered, cut, numbered, put on record, and published one after
/// the other.
struct Outflow<'a> {
    workshop: &'a Workshop,
    to: Address,
    /// Whether chunks go out as they come.
    live: bool,
    /// What an earlier run has sent. The text of this run is to begin with it.
    before: String,
    /// All that the backend has sent.
    text: String,
    /// How much of it has gone out, in bytes.
    gone: usize,
    /// Where the chunks end that are to stand alone and have not gone out.
    ends: VecDeque<usize>,
    /// Whether chunks stand alone.
    apart: bool,
    next_seq: u32,
    /// The last chunk of an earlier run. It is on record; whether a relay took it is not.
    again: Option<Event>,
    /// Signed chunks that no relay took.
    unsent: Vec<Event>,
}

impl<'a> Outflow<'a> {
    fn new(workshop: &'a Workshop, job: &Job, sent: Streamed) -> Self {
        let mut outflow = Self {
            workshop,
            to: job.address,
            live: job.stream,
            text: String::new(),
            gone: sent.text.len(),
            before: sent.text,
            ends: VecDeque::new(),
            apart: workshop.backend.chunks_stand_alone(),
            next_seq: sent.chunks,
            again: None,
            unsent: Vec::new(),
        };
        // Deployed customers have no numbers by which to know it again.
        if sent.chunks > 0 && !job.deployed {
            outflow.next_seq -= 1;
            outflow.again = outflow.chunk(sent.last, false).ok();
        }
        outflow
    }

    /// Takes what the backend sends until it has `ended`, whoever still holds its end of the channel.
    /// Published is what has gathered by then; the rest stays for [`finish`](Self::finish).
    async fn run(&mut self, mut from_backend: mpsc::Receiver<String>, ended: &CancellationToken) {
        let mut sending: Option<Sending<'a>> = None;
        let mut not_before = Instant::now();
        loop {
            if sending.is_none() && self.live {
                sending = self.send_again();
            }
            let waits = sending.is_none() && self.live && self.gone < self.text.len();
            if waits && Instant::now() >= not_before {
                if !self.apart {
                    not_before = Instant::now() + GATHER;
                }
                sending = self.send_gathered();
            }
            tokio::select! {
                biased;
                sent = async { match sending.as_mut() {
                    Some(sending) => sending.await,
                    None => std::future::pending().await,
                }} => {
                    sending = None;
                    self.note(sent);
                }
                () = ended.cancelled(), if !from_backend.is_closed() => from_backend.close(),
                chunk = from_backend.recv() => match chunk {
                    Some(chunk) => self.take(&chunk),
                    None => break,
                },
                () = tokio::time::sleep_until(not_before), if waits && sending.is_none() => {}
            }
        }
        if let Some(sending) = sending {
            let sent = sending.await;
            self.note(sent);
        }
    }

    fn take(&mut self, chunk: &str) {
        if self.text.len() + chunk.len() <= MAX_RESULT_BYTES {
            self.text.push_str(chunk);
            if self.apart {
                self.ends.push_back(self.text.len());
            }
        } else {
            // More than is delivered: the job fails by the whole text's size.
            self.live = false;
        }
        let both = self.before.len().min(self.text.len());
        if self.before.as_bytes()[..both] != self.text.as_bytes()[..both] {
            // Another text than the one that was begun: it follows whole, at the end.
            self.live = false;
        }
    }

    fn send_again(&mut self) -> Option<Sending<'a>> {
        let event = self.again.take()?;
        let seq = self.next_seq.saturating_sub(1);
        let voice = &self.workshop.voice;
        let sending = async move {
            let sent = voice.publish_patiently(&event, CHUNK_PATIENCE).await;
            (event, seq, sent)
        };
        Some(sending.boxed())
    }

    fn send_gathered(&mut self) -> Option<Sending<'a>> {
        let until = self.next_end(self.text.len());
        let (piece, _) = pieces::split_piece(&self.text[self.gone..until]);
        let (piece, length) = (piece.to_owned(), piece.len());
        let seq = self.next_seq;
        let event = match self.chunk(piece.clone(), false) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(%error, "streaming ends");
                self.live = false;
                return None;
            }
        };
        self.gone += length;
        let Workshop { voice, store, .. } = self.workshop;
        let request = self.to.request;
        Some(
            async move {
                let remembered = store.remember_chunk(request, seq, piece);
                if let Err(error) = crash::around(Point::ProviderChunk, remembered).await {
                    tracing::error!(%error, "a chunk is not on record");
                    return (event, seq, Err(RelayError::NotPublished(Vec::new())));
                }
                let sent = voice.publish_patiently(&event, CHUNK_PATIENCE);
                let sent = crash::around(Point::ProviderChunkSaid, sent).await;
                (event, seq, sent)
            }
            .boxed(),
        )
    }

    /// Where the next message ends at the latest: with its chunk, if chunks stand alone, or at `last`.
    fn next_end(&mut self, last: usize) -> usize {
        while self.ends.front().is_some_and(|end| *end <= self.gone) {
            self.ends.pop_front();
        }
        self.ends.front().map_or(last, |end| (*end).min(last))
    }

    fn note(&mut self, (event, seq, sent): (Event, u32, Result<(), RelayError>)) {
        let job_id = self.to.job_id();
        match sent {
            Ok(()) => self
                .workshop
                .reporter
                .say(ProviderEvent::Chunk { job_id, seq }),
            Err(trouble) => {
                tracing::warn!(%job_id, %trouble, "streaming ends: no relay takes a chunk");
                self.live = false;
                self.unsent.push(event);
            }
        }
    }

    fn chunk(&mut self, chunk: String, is_final: bool) -> Result<Event, Unspeakable> {
        let message = AgentMessage::StreamChunk(StreamChunk {
            job_id: self.to.job_id(),
            chunk,
            is_final,
            seq: Some(self.next_seq),
        });
        self.next_seq += 1;
        self.workshop.voice.answer(self.to, &message)
    }

    /// The result. Chunks are out and can't be taken back, so whatever the backend's text is, it begins with
    /// them.
    fn whole(&self, text: &str) -> String {
        let this_run = self.text.get(..self.gone);
        let gone = this_run.filter(|gone| gone.starts_with(&self.before));
        let gone = gone.unwrap_or(&self.before);
        if text.starts_with(gone) {
            return text.to_owned();
        }
        let job_id = self.to.job_id();
        if gone.len() == self.before.len() {
            tracing::warn!(%job_id, "a second run made another text: it follows the first one's part");
            return format!("{gone}{ANEW}{text}");
        }
        tracing::warn!(%job_id, "the backend's text is not what it streamed");
        self.text.clone()
    }

    /// What remains to be published once the backend has stopped: the last chunks if there were any
    /// before or the text needs them, and the whole text where it fits.
    fn finish(mut self, text: &str) -> Result<Vec<Event>, Unspeakable> {
        let mut messages: Vec<Event> = self.again.take().into_iter().collect();
        messages.append(&mut self.unsent);
        let whole = self.whole(text);
        if whole != self.text {
            self.ends.clear();
        }
        if !self.live {
            // Nobody waits for the words: as few messages as it takes.
            self.ends.clear();
        }
        let fits = pieces::fits(&whole);
        if self.next_seq > 0 || self.live || !fits {
            loop {
                let until = self.next_end(whole.len());
                let (piece, _) = pieces::split_piece(&whole[self.gone..until]);
                self.gone += piece.len();
                let is_last = self.gone == whole.len();
                messages.push(self.chunk(piece.to_owned(), is_last)?);
                if is_last {
                    break;
                }
            }
        }
        if fits {
            let result = AgentMessage::JobResult(JobResult {
                job_id: self.to.job_id(),
                result: whole,
            });
            messages.push(self.workshop.voice.answer(self.to, &result)?);
        }
        Ok(messages)
    }
}

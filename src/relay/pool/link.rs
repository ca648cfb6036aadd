//! One relay's socket: waiting to be tried again, connecting, or up.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_wsocket::{ConnectionMode, Message};
use futures_util::{SinkExt, StreamExt};
use nostr::{RelayUrl, Url};
use nostr_relay_pool::transport::error::TransportError;
use nostr_relay_pool::transport::websocket::{WebSocketSink, WebSocketStream, WebSocketTransport};
use tokio::time::{Instant, Sleep};

/// Bytes that wait to be written before no more are taken.
const MOST_QUEUED: usize = 8 * 1024 * 1024;

/// Time for the closing handshake.
const CLOSE_WITHIN: Duration = Duration::from_millis(250);

type Connected = Result<(WebSocketSink, WebSocketStream), TransportError>;

/// The state of the connection to one relay.
pub(super) enum Link {
    Waiting(Pin<Box<Sleep>>),
    Connecting(Pin<Box<dyn Future<Output = Connected> + Send>>),
    Up(Box<Socket>),
}

/// What happened on a link.
#[derive(Debug)]
pub(super) enum Happening {
    /// It is time to connect.
    Due,
    Connected,
    /// Connecting failed.
    Failed(String),
    /// All that was queued is written; these were the marks among it.
    Written(Vec<u64>),
    Text(String),
    /// A sign of life without content.
    Alive,
    Lost(String),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Connecting(_) => "Connecting",
            Self::Up(_) => "Up",
        })
    }
}

impl Link {
    pub(super) fn wait(pause: Duration) -> Self {
        Self::Waiting(Box::pin(tokio::time::sleep(pause)))
    }

    pub(super) fn connect(
        transport: Arc<dyn WebSocketTransport>,
        url: &RelayUrl,
        within: Duration,
    ) -> Self {
        let url: Url = url.clone().into();
        Self::Connecting(Box::pin(async move {
            transport
                .connect(&url, &ConnectionMode::direct(), within)
                .await
        }))
    }

    pub(super) fn up(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Up(socket) => Some(socket),
            Self::Waiting(_) | Self::Connecting(_) => None,
        }
    }

    /// The next thing that happens. Cancel-safe. After `Due`, `Failed` and `Lost` the link must be
    /// replaced.
    pub(super) async fn next(&mut self) -> Happening {
        match self {
            Self::Waiting(sleep) => {
                sleep.await;
                Happening::Due
            }
            Self::Connecting(attempt) => match attempt.await {
                Ok((sink, stream)) => {
                    *self = Self::Up(Box::new(Socket::new(sink, stream)));
                    Happening::Connected
                }
                Err(error) => Happening::Failed(error.to_string()),
            },
            Self::Up(socket) => poll_fn(|cx| socket.poll(cx)).await,
        }
    }
}

/// A socket that writes from a queue while it reads, so that neither side can wait for the other.
pub(super) struct Socket {
    sink: WebSocketSink,
    stream: WebSocketStream,
    queue: VecDeque<Message>,
    queued: usize,
    /// Marks of queued messages, told when these are written.
    marks: Vec<u64>,
    /// Since when something has been waiting to be written.
    busy_since: Option<Instant>,
}

impl Socket {
    fn new(sink: WebSocketSink, stream: WebSocketStream) -> Self {
        Self {
            sink,
            stream,
            queue: VecDeque::new(),
            queued: 0,
            marks: Vec::new(),
            busy_since: None,
        }
    }

    /// Queues a text. False, and nothing is queued, when too much waits already.
    pub(super) fn write(&mut self, text: String) -> bool {
        if self.queued.saturating_add(text.len()) > MOST_QUEUED {
            return false;
        }
        self.push(Message::Text(text));
        true
    }

    /// Queues a text whose `mark` comes back in [`Happening::Written`].
    pub(super) fn write_marked(&mut self, text: String, mark: u64) -> bool {
        let queued = self.write(text);
        if queued {
            self.marks.push(mark);
        }
        queued
    }

    pub(super) fn ping(&mut self) {
        self.push(Message::Ping(Vec::new()));
    }

    /// Whether all is written.
    pub(super) fn is_idle(&self) -> bool {
        self.busy_since.is_none()
    }

    /// For how long something has been waiting to be written.
    pub(super) fn busy_for(&self) -> Duration {
        self.busy_since.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Closes in good order, or not, within a bound.
    pub(super) async fn close(&mut self) {
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.sink.close()).await;
    }

    fn push(&mut self, message: Message) {
        self.queued = self.queued.saturating_add(message.len());
        self.queue.push_back(message);
        self.busy_since.get_or_insert_with(Instant::now);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        if self.busy_since.is_some()
            && let Poll::Ready(written) = self.poll_write(cx)
        {
            return Poll::Ready(match written {
                Ok(marks) => Happening::Written(marks),
                Err(error) => Happening::Lost(error.to_string()),
            });
        }
        self.stream.poll_next_unpin(cx).map(|read| match read {
            Some(Ok(Message::Text(text))) => Happening::Text(text),
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map(|frame| frame.reason).unwrap_or_default();
                Happening::Lost(format!("the relay closed the connection {why}"))
            }
            Some(Ok(_)) => Happening::Alive,
            Some(Err(error)) => Happening::Lost(error.to_string()),
            None => Happening::Lost("the connection ended".into()),
        })
    }

    /// Writes and flushes what is queued. Ready with the marks written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u64>, TransportError>> {
        while !self.queue.is_empty() {
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.queued = self.queued.saturating_sub(message.len());
                self.sink.start_send_unpin(message)?;
            }
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.busy_since = None;
        Poll::Ready(Ok(std::mem::take(&mut self.marks)))
    }
}

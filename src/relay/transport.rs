//! Sockets without the Nagle stall.
//!
//! A relay conversation is many small messages in both directions. With the system's defaults each
//! one waits for the other side's delayed acknowledgement, which is 40 ms and more per turn. So every
//! socket here has `TCP_NODELAY` on, and on Linux `TCP_QUICKACK` as well; the system clears the latter
//! as it pleases, which is why [`QuickTcp`] sets it again after each read.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_wsocket::message::CloseFrame;
use async_wsocket::{ConnectionMode, Message};
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt, StreamExt, TryStreamExt};
use nostr::Url;
use nostr::util::BoxedFuture;
use nostr_relay_pool::transport::error::TransportError;
use nostr_relay_pool::transport::websocket::{WebSocketSink, WebSocketStream, WebSocketTransport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, client_async_tls_with_config};

use crate::clock::Clock;

/// Bytes of the largest message that is read at all. Past it the socket is given up, because nothing
/// after the excess can be told apart any more. Well above [`MAX_EVENT_TEXT`](super::pool::MAX_EVENT_TEXT),
/// so that one oversized event is skipped rather than costing the connection.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// Bytes read at a time. The library's default of 128 KiB is allocated per connection at once.
const READ_BUFFER: usize = 16 * 1024;

/// Unsent bytes that a socket holds before it refuses more.
const MAX_WRITE_BUFFER: usize = 4 * 1024 * 1024;

/// Head start of one address of a host over the next (RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Addresses of one host that are tried.
const MOST_ADDRESSES: usize = 8;

/// The limits of every WebSocket of this crate.
#[must_use]
pub fn socket_limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// A TCP stream that neither delays what it sends nor the acknowledgement of what it reads.
pub struct QuickTcp(TcpStream);

impl QuickTcp {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// If the system refuses the option, as it does on a socket that is already gone.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let quick = Self(stream);
        quick.acknowledge_at_once();
        Ok(quick)
    }

    /// Failing costs milliseconds, not correctness, so the outcome is not looked at.
    #[cfg(target_os = "linux")]
    fn acknowledge_at_once(&self) {
        let _ = self.0.set_quickack(true);
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the option exists on Linux only")]
    fn acknowledge_at_once(&self) {}
}

impl fmt::Debug for QuickTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuickTcp")
    }
}

impl AsyncRead for QuickTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.0).poll_read(cx, buf));
        self.acknowledge_at_once();
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for QuickTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// The transport of our relay sessions; any nostr-relay-pool client can use it too.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuickTransport;

impl WebSocketTransport for QuickTransport {
    fn support_ping(&self) -> bool {
        true
    }

    fn connect<'a>(
        &'a self,
        url: &'a Url,
        _mode: &'a ConnectionMode,
        timeout: Duration,
    ) -> BoxedFuture<'a, Result<(WebSocketSink, WebSocketStream), TransportError>> {
        Box::pin(async move {
            let (sink, stream, _) = connect(url, timeout).await?;
            Ok((sink, stream))
        })
    }
}

/// The same, and it notes what time the server says it is: HTTP's `Date` in the answer to the upgrade
/// (RFC 9110), which most servers send.
#[derive(Debug)]
pub(super) struct DatedTransport {
    clock: Clock,
    ahead: Mutex<Option<i64>>,
}

impl DatedTransport {
    pub(super) const fn new(clock: Clock) -> Self {
        let ahead = Mutex::new(None);
        Self { clock, ahead }
    }

    /// How many seconds the server's clock is ahead of ours; negative if it is behind.
    pub(super) fn ahead(&self) -> Option<i64> {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WebSocketTransport for DatedTransport {
    fn support_ping(&self) -> bool {
        true
    }

    fn connect<'a>(
        &'a self,
        url: &'a Url,
        _mode: &'a ConnectionMode,
        timeout: Duration,
    ) -> BoxedFuture<'a, Result<(WebSocketSink, WebSocketStream), TransportError>> {
        Box::pin(async move {
            let (sink, stream, date) = connect(url, timeout).await?;
            let ours = i64::try_from(self.clock.now().get()).unwrap_or(i64::MAX);
            let ahead = date.map(|date| date.saturating_sub(ours));
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
            Ok((sink, stream))
        })
    }
}

/// A connection's two halves, and what the server's clock said.
async fn connect(
    url: &Url,
    timeout: Duration,
) -> Result<(WebSocketSink, WebSocketStream, Option<i64>), TransportError> {
    let connected = tokio::time::timeout(timeout, open(url)).await;
    let late = |_| TransportError::backend(io::Error::from(io::ErrorKind::TimedOut));
    let (socket, answer) = connected.map_err(late)?.map_err(TransportError::backend)?;
    let date = answer.headers().get("date").and_then(|date| {
        let date = date.to_str().ok()?;
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date);
        Some(date.ok()?.as_second())
    });
    let (sink, stream) = socket.split();
    let sink: WebSocketSink = Box::new(FrameSink(sink));
    let stream: WebSocketStream =
        Box::pin(stream.map_ok(message_of).map_err(TransportError::backend));
    Ok((sink, stream, date))
}

type Socket = tokio_tungstenite::WebSocketStream<MaybeTlsStream<QuickTcp>>;
type SocketError = tokio_tungstenite::tungstenite::Error;

/// Looks the host up, connects, does TLS where the address says so, and upgrades.
async fn open(url: &Url) -> Result<(Socket, Response), SocketError> {
    let addresses = resolve(url).await?;
    let stream = QuickTcp::new(first_to_connect(addresses).await?)?;
    let upgrade = client_async_tls_with_config(url.as_str(), stream, Some(socket_limits()), None);
    Box::pin(upgrade).await
}

async fn resolve(url: &Url) -> io::Result<Vec<SocketAddr>> {
    let nowhere = || io::Error::new(io::ErrorKind::InvalidInput, "the address names no host");
    let port = url.port_or_known_default().ok_or_else(nowhere)?;
    let host = url.host_str().ok_or_else(nowhere)?;
    // Numeric addresses need no look-up, and IPv6 ones stand in brackets here.
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await?;
    Ok(found.take(MOST_ADDRESSES).collect())
}

/// Tries the addresses one after the other, each with a small head start over the next, so that a
/// broken IPv6 route costs a quarter of a second rather than the whole bound.
async fn first_to_connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = left.next();
        let last = next.is_none();
        trying.extend(next.map(TcpStream::connect));
        if trying.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            Some(outcome) = trying.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if !last => {}
        }
    }
}

fn message_of(frame: Frame) -> Message {
    match frame {
        Frame::Text(text) => Message::Text(text.as_str().to_owned()),
        Frame::Binary(bytes) => Message::Binary(bytes.to_vec()),
        Frame::Ping(bytes) => Message::Ping(bytes.to_vec()),
        Frame::Pong(bytes) => Message::Pong(bytes.to_vec()),
        Frame::Close(frame) => Message::Close(frame.map(CloseFrame::from)),
        // Never read from a socket; an empty binary message is ignored by everyone.
        Frame::Frame(_) => Message::Binary(Vec::new()),
    }
}

/// Turns the pool's messages into frames. Written out because `sink_map_err` of the library panics
/// when it is polled after an error.
struct FrameSink<S>(S);

impl<S> Sink<Message> for FrameSink<S>
where
    S: Sink<Frame, Error = SocketError> + Unpin,
{
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready_unpin(cx).map_err(TransportError::backend)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Self::Error> {
        self.0
            .start_send_unpin(message.into())
            .map_err(TransportError::backend)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_flush_unpin(cx).map_err(TransportError::backend)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_close_unpin(cx).map_err(TransportError::backend)
    }
}

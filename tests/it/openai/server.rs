//! A server of OpenAI's protocol that does what a test says, byte for byte.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST /v1/chat/completions`
    pub call: String,
    /// In lower case.
    pub head: String,
    pub body: Value,
}

/// What to do with a request, step by step; then the connection is closed.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// In pieces of so many bytes.
    Dribble(Vec<u8>, usize),
    /// Until the test says so.
    Wait(Arc<Notify>),
    /// Again and again, until nobody listens any more.
    Forever(Vec<u8>),
    /// Says nothing until the other side hangs up.
    Hang,
    /// Breaks the connection off, without a goodbye.
    Reset,
}

pub struct Server {
    pub url: String,
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    hung_up: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers the chat requests like this, and lists one model, `tiny`.
    pub async fn chat(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start(move |asked, _| match asked.call.as_str() {
            "GET /v1/models" => vec![json_answer(200, &models(&["tiny"]))],
            _ => answer(asked),
        })
        .await
    }

    /// Answers everything like this; the number counts requests from 0.
    pub async fn start(
        answer: impl Fn(&Asked, usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let hung_up = Arc::new(Notify::new());
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        let (record, hang_up) = (Arc::clone(&asked), Arc::clone(&hung_up));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                let hang_up = Arc::clone(&hang_up);
                connections.spawn(async move {
                    let Some((stream, asked)) = read(stream).await else {
                        return;
                    };
                    let number = {
                        let mut record = record.lock().unwrap();
                        record.push(asked.clone());
                        record.len() - 1
                    };
                    if play(stream, answer(&asked, number)).await.is_err() {
                        hang_up.notify_one();
                    }
                });
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            asked,
            hung_up,
            _tasks: tasks,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The bodies of the chat requests.
    pub fn bodies(&self) -> Vec<Value> {
        let asked = self.asked();
        let chats = asked.iter().filter(|asked| asked.call.starts_with("POST"));
        chats.map(|asked| asked.body.clone()).collect()
    }

    /// Waits until a client has hung up in the middle of an answer.
    pub async fn is_left_alone(&self) {
        soon("the client hangs up", self.hung_up.notified()).await;
    }
}

/// Bounds what should happen at once.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(120), future);
    bounded
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

async fn read(mut stream: TcpStream) -> Option<(TcpStream, Asked)> {
    stream.set_nodelay(true).ok()?;
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let call = text.split(" HTTP").next()?.to_owned();
    let lower = text.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| {
        let value = line.strip_prefix("content-length:")?;
        value.trim().parse::<usize>().ok()
    });
    while bytes.len() < head + length.unwrap_or(0) {
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    let body = serde_json::from_slice(&bytes[head..]).unwrap_or(Value::Null);
    let head = lower;
    Some((stream, Asked { call, head, body }))
}

/// Fails if the other side hung up before the end.
async fn play(mut stream: TcpStream, steps: Vec<Step>) -> std::io::Result<()> {
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Dribble(bytes, at_once) => {
                for piece in bytes.chunks(at_once) {
                    stream.write_all(piece).await?;
                    tokio::task::yield_now().await;
                }
            }
            Step::Wait(notify) => notify.notified().await,
            Step::Forever(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Step::Hang => {
                while stream.read(&mut [0; 64]).await? > 0 {}
                return Err(gone());
            }
            Step::Reset => {
                #[allow(deprecated)]
                stream.set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
        }
    }
    stream.shutdown().await
}

pub fn models(ids: &[&str]) -> Value {
    let data: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    json!({ "object": "list", "data": data })
}

pub fn json_answer(status: u16, body: &Value) -> Step {
    answer(
        status,
        "content-type: application/json\r\n",
        body.to_string().as_bytes(),
    )
}

pub fn answer(status: u16, headers: &str, body: &[u8]) -> Step {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Said\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    Step::Send([head.as_bytes(), body].concat())
}

/// The head of a stream that lasts as long as the connection.
pub fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec(),
    )
}

pub fn event(data: &Value) -> Step {
    Step::Send(format!("data: {data}\n\n").into_bytes())
}

pub fn piece(text: &str) -> Step {
    event(&json!({ "choices": [{ "index": 0, "delta": { "content": text } }] }))
}

pub fn last_piece(reason: &str) -> Step {
    event(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] }))
}

pub fn done() -> Step {
    Step::Send(b"data: [DONE]\n\n".to_vec())
}

/// A whole stream of these pieces.
pub fn stream(pieces: &[&str]) -> Vec<Step> {
    let pieces = pieces.iter().map(|text| piece(text));
    let end = [last_piece("stop"), done()];
    std::iter::once(stream_head())
        .chain(pieces)
        .chain(end)
        .collect()
}

/// A completion in one piece.
pub fn whole(text: &str) -> Step {
    let choice = json!({ "index": 0, "message": { "content": text }, "finish_reason": "stop" });
    json_answer(
        200,
        &json!({ "choices": [choice], "usage": { "completion_tokens": 3 } }),
    )
}

/// An answer of the real server, as recorded.
pub fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama/");
    std::fs::read(format!("{folder}{name}.http")).unwrap()
}

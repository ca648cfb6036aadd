//! The floors: the same sockets and the same disk, with as little around them as can be.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_compute::relay::transport::QuickTcp;
use futures_util::{SinkExt as _, StreamExt as _};
use nostr::{Event, EventBuilder, JsonUtil as _, Keys, Kind, PublicKey, RelayMessage, Tag};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// What a message of a purchase has, sealed: about as many bytes.
pub const CONTENT_BYTES: usize = 600;

/// What a commit of a purchase writes: a state in JSON.
const ROW_BYTES: usize = 1_500;

/// A WebSocket to the relay that signs, sends, reads and verifies, and nothing else. Its socket is cured as ours
/// are: see `relay::transport`.
pub struct Raw {
    socket: WebSocketStream<QuickTcp>,
    keys: Keys,
}

impl Raw {
    pub async fn connect(relay: &str) -> Self {
        let address = relay.trim_start_matches("ws://").trim_end_matches('/');
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = client_async(relay, QuickTcp::new(stream).unwrap())
            .await
            .unwrap();
        Self {
            socket,
            keys: Keys::generate(),
        }
    }

    pub fn key(&self) -> PublicKey {
        self.keys.public_key()
    }

    pub async fn send(&mut self, message: Value) {
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub async fn next(&mut self) -> RelayMessage<'static> {
        loop {
            if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                return RelayMessage::from_json(text.as_str()).unwrap();
            }
        }
    }

    /// The next event of a subscription, verified.
    pub async fn event(&mut self) -> Event {
        loop {
            if let RelayMessage::Event { event, .. } = self.next().await {
                event.verify().unwrap();
                return event.into_owned();
            }
        }
    }

    /// Subscribes to what this key says from now on.
    pub async fn follow(&mut self, key: PublicKey) {
        let filter = json!({"authors": [key.to_hex()], "kinds": [42], "limit": 0});
        self.send(json!(["REQ", "f", filter])).await;
        while !matches!(self.next().await, RelayMessage::EndOfStoredEvents(_)) {}
    }

    /// All stored events of this filter, verified.
    pub async fn fetch(&mut self, filter: Value) -> Vec<Event> {
        self.send(json!(["REQ", "s", filter])).await;
        let mut events = Vec::new();
        loop {
            match self.next().await {
                RelayMessage::Event { event, .. } => {
                    event.verify().unwrap();
                    events.push(event.into_owned());
                }
                RelayMessage::EndOfStoredEvents(_) => break,
                _ => {}
            }
        }
        self.send(json!(["CLOSE", "s"])).await;
        events
    }

    pub fn signed(&self, to: PublicKey) -> Event {
        let content: String = (0..CONTENT_BYTES / 16).map(|_| hex()).collect();
        let channel = Tag::parse(["e", &"ab".repeat(32), "", "root"]).unwrap();
        EventBuilder::new(Kind::from(42), content)
            .tags([channel, Tag::public_key(to)])
            .sign_with_keys(&self.keys)
            .unwrap()
    }

    pub async fn say(&mut self, event: &Event) {
        self.send(json!([
            "EVENT",
            serde_json::from_str::<Value>(&event.as_json()).unwrap()
        ]))
        .await;
    }
}

fn hex() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// A peer in another process that answers each event with one of its own: a provider without anything to do.
pub struct Pong {
    raw: Raw,
    peer: PublicKey,
    process: Child,
}

impl Pong {
    pub async fn start(relay: &str) -> Self {
        use std::io::BufRead as _;
        let mut raw = Raw::connect(relay).await;
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--worker", "pong", relay, &raw.key().to_hex()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        std::io::BufReader::new(stdout)
            .read_line(&mut line)
            .unwrap();
        let peer = PublicKey::from_hex(line.trim()).unwrap();
        raw.follow(peer).await;
        Self { raw, peer, process }
    }

    /// One relay round trip: there through the relay, and back through the relay.
    pub async fn round_trip(&mut self) -> Duration {
        let begun = Instant::now();
        let event = self.raw.signed(self.peer);
        self.raw.say(&event).await;
        self.raw.event().await;
        begun.elapsed()
    }
}

impl Drop for Pong {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The peer itself.
pub async fn pong(relay: &str, of: PublicKey) {
    let mut raw = Raw::connect(relay).await;
    raw.follow(of).await;
    println!("{}", raw.key().to_hex());
    loop {
        raw.event().await;
        let event = raw.signed(of);
        raw.say(&event).await;
    }
}

/// A SQLite file that is as durable as ours and holds one table.
pub struct Bare(Connection);

impl Bare {
    pub fn open(file: &Path) -> Self {
        let db = Connection::open(file).unwrap();
        db.busy_timeout(Duration::from_secs(60)).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;
             CREATE TABLE IF NOT EXISTS rows (seq INTEGER PRIMARY KEY, state TEXT NOT NULL) STRICT;",
        )
        .unwrap();
        Self(db)
    }

    /// So many transactions, one after the other, each on the disk before the next.
    pub fn commit(&mut self, times: u64) -> Duration {
        let row = "x".repeat(ROW_BYTES);
        let begun = Instant::now();
        for _ in 0..times {
            let tx = self
                .0
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                .unwrap();
            tx.prepare_cached("INSERT INTO rows (state) VALUES (?1)")
                .unwrap()
                .execute([&row])
                .unwrap();
            tx.commit().unwrap();
        }
        begun.elapsed()
    }
}

//! Bad relays: a proxy in front of a good one, which harms what passes through it. What it does to which
//! message is drawn from the seed; messages are counted, never timed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use nostr::RelayUrl;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How a relay misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weather {
    /// Takes messages and forgets them.
    Drop,
    /// Lets messages wait for later ones.
    Delay,
    Duplicate,
    /// Lets messages overtake each other.
    Reorder,
    /// Tells all that was said again, with everything new.
    Replay,
    /// Changes what messages say, and keeps their ids and signatures.
    Alter,
    /// Says no.
    Refuse,
    /// Takes everything and says nothing more.
    Mute,
    /// Dies, and returns.
    Dies,
}

impl Weather {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Drop,
        Self::Delay,
        Self::Duplicate,
        Self::Reorder,
        Self::Replay,
        Self::Alter,
        Self::Refuse,
        Self::Mute,
        Self::Dies,
    ];

    /// The stable word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drop => "relay: drops",
            Self::Delay => "relay: delays",
            Self::Duplicate => "relay: duplicates",
            Self::Reorder => "relay: reorders",
            Self::Replay => "relay: replays",
            Self::Alter => "relay: alters",
            Self::Refuse => "relay: refuses",
            Self::Mute => "relay: goes mute",
            Self::Dies => "relay: dies and returns",
        }
    }

    /// Whether every message still arrives as it was sent, in order: then it must make no difference.
    pub const fn is_gentle(self) -> bool {
        matches!(self, Self::Duplicate | Self::Replay)
    }
}

/// What is done to which messages, counted per direction over all connections.
#[derive(Clone, Debug)]
pub struct Plan {
    pub weather: Weather,
    /// The first event that is harmed, and how many are.
    first: usize,
    many: usize,
    /// Whether what the client says is harmed, and what the relay tells.
    said: bool,
    told: bool,
    /// The word of a relay that refuses.
    refusal: &'static str,
    /// Whether what is altered arrives unaltered as well, after it.
    genuine_too: bool,
    /// How many connections in a row are refused by a relay that died.
    away: usize,
}

impl Plan {
    pub fn draw(weather: Weather, rng: &mut StdRng) -> Self {
        let refusals = [
            "blocked: no",
            "rate-limited: slow down",
            "error: busy",
            "pow: 28 bits",
            "no",
        ];
        let said = rng.random();
        Self {
            weather,
            first: rng.random_range(0..4),
            many: *[1, 1, 2, usize::MAX].choose(rng).unwrap(),
            said,
            told: !said || rng.random(),
            refusal: refusals.choose(rng).unwrap(),
            genuine_too: rng.random(),
            away: rng.random_range(0..3),
        }
    }
}

/// A relay that misbehaves.
pub struct BadRelay {
    pub url: RelayUrl,
    _serving: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    plan: Plan,
    upstream: RelayUrl,
    said: AtomicUsize,
    told: AtomicUsize,
    connections: AtomicUsize,
    died: AtomicBool,
    mute: AtomicBool,
    /// Events that were told, without their subscription.
    history: Mutex<Vec<Value>>,
}

type Client = WebSocketStream<TcpStream>;
type Server = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long something is held back where nothing follows it.
const HELD_BACK: Duration = Duration::from_millis(150);

/// The most that is told again at a time.
const MOST_REPLAYED: usize = 40;

impl BadRelay {
    pub async fn before(upstream: RelayUrl, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            plan,
            upstream,
            said: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            died: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            history: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                conversations.spawn(converse(stream, Arc::clone(&shared)));
            }
        });
        Self {
            url: RelayUrl::parse(&url).unwrap(),
            _serving: serving,
        }
    }
}

/// Both ends of a connection through the relay.
struct Wire {
    to_client: SplitSink<Client, Message>,
    from_client: SplitStream<Client>,
    to_server: SplitSink<Server, Message>,
    from_server: SplitStream<Server>,
    /// What waits for something to follow it, and whether it goes to the client.
    held_back: Option<(Message, bool)>,
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let died = shared.died.load(Ordering::SeqCst);
    if died && shared.connections.fetch_add(1, Ordering::SeqCst) < shared.plan.away {
        return;
    }
    let Ok(client) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let Ok((server, _)) = tokio_tungstenite::connect_async(shared.upstream.as_str()).await else {
        return;
    };
    let (to_client, from_client) = client.split();
    let (to_server, from_server) = server.split();
    let mut wire = Wire {
        to_client,
        from_client,
        to_server,
        from_server,
        held_back: None,
    };
    while let Some(()) = wire.turn(&shared).await {}
}

impl Wire {
    /// Passes one message on, or not. `None`: the connection is over.
    async fn turn(&mut self, shared: &Shared) -> Option<()> {
        let waits = self.held_back.is_some();
        let (message, to_client) = tokio::select! {
            said = self.from_client.next() => (said?.ok()?, false),
            told = self.from_server.next() => (told?.ok()?, true),
            () = tokio::time::sleep(HELD_BACK), if waits => {
                let (message, to_client) = self.held_back.take()?;
                return self.pass(message, to_client).await;
            }
        };
        if shared.mute.load(Ordering::SeqCst) {
            return Some(());
        }
        let Some(event) = event_of(&message) else {
            return self.pass(message, to_client).await;
        };
        let count = if to_client {
            &shared.told
        } else {
            &shared.said
        };
        let nth = count.fetch_add(1, Ordering::SeqCst);
        let plan = &shared.plan;
        let harmed = nth >= plan.first && nth - plan.first < plan.many;
        let chosen = if to_client { plan.told } else { plan.said };
        if harmed && chosen {
            self.harm(shared, message, event, to_client).await?;
        } else {
            self.pass(message, to_client).await?;
            if let Some((message, to_client)) = self.held_back.take() {
                self.pass(message, to_client).await?;
            }
        }
        Some(())
    }

    async fn harm(
        &mut self,
        shared: &Shared,
        message: Message,
        event: Value,
        to_client: bool,
    ) -> Option<()> {
        let plan = &shared.plan;
        match plan.weather {
            Weather::Drop if to_client => Some(()),
            Weather::Drop => self.answer(&event, true, "").await,
            Weather::Refuse if to_client => self.pass(message, to_client).await,
            Weather::Refuse => self.answer(&event, false, plan.refusal).await,
            Weather::Duplicate => {
                self.pass(message.clone(), to_client).await?;
                self.pass(message, to_client).await
            }
            Weather::Delay | Weather::Reorder => {
                if plan.weather == Weather::Delay && !to_client {
                    self.answer(&event, true, "").await?;
                }
                match self.held_back.replace((message, to_client)) {
                    Some((earlier, to_client)) => self.pass(earlier, to_client).await,
                    None => Some(()),
                }
            }
            Weather::Replay => self.replay(shared, message, to_client).await,
            Weather::Alter => {
                self.pass(altered(&message), to_client).await?;
                if plan.genuine_too {
                    self.pass(message, to_client).await?;
                }
                Some(())
            }
            Weather::Mute => {
                shared.mute.store(true, Ordering::SeqCst);
                Some(())
            }
            Weather::Dies => {
                shared.died.store(true, Ordering::SeqCst);
                None
            }
        }
    }

    /// Tells something, and all that was told before under the same subscription.
    async fn replay(&mut self, shared: &Shared, message: Message, to_client: bool) -> Option<()> {
        let Some(Value::Array(parts)) = value_of(&message) else {
            return self.pass(message, to_client).await;
        };
        self.pass(message, to_client).await?;
        if !to_client {
            return Some(());
        }
        let (subscription, event) = (parts.get(1)?.clone(), parts.get(2)?.clone());
        let earlier = {
            let mut history = shared
                .history
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let earlier: Vec<Value> = history.iter().rev().take(MOST_REPLAYED).cloned().collect();
            history.push(event);
            earlier
        };
        for event in earlier {
            let again = json!(["EVENT", subscription, event]);
            self.pass(Message::text(again.to_string()), true).await?;
        }
        Some(())
    }

    async fn pass(&mut self, message: Message, to_client: bool) -> Option<()> {
        if to_client {
            self.to_client.send(message).await.ok()
        } else {
            self.to_server.send(message).await.ok()
        }
    }

    /// What a relay says that has taken an event, or has not.
    async fn answer(&mut self, event: &Value, taken: bool, why: &str) -> Option<()> {
        let ok = json!(["OK", event["id"], taken, why]);
        self.pass(Message::text(ok.to_string()), true).await
    }
}

fn value_of(message: &Message) -> Option<Value> {
    serde_json::from_str(message.to_text().ok()?).ok()
}

/// The event in a message that has one.
fn event_of(message: &Message) -> Option<Value> {
    let Message::Text(text) = message else {
        return None;
    };
    if !text.starts_with("[\"EVENT\"") {
        return None;
    }
    let value = value_of(message)?;
    let event = value.as_array()?.last()?;
    event.is_object().then(|| event.clone())
}

/// Another content under the same id and signature: another amount, another invoice, another text.
fn altered(message: &Message) -> Message {
    let Some(Value::Array(mut parts)) = value_of(message) else {
        return message.clone();
    };
    if let Some(event) = parts.last_mut()
        && let Some(content) = event["content"].as_str()
    {
        let swapped: String = content
            .chars()
            .map(|c| match c {
                '1' => '2',
                'a' => 'e',
                'q' => 'p',
                other => other,
            })
            .collect();
        event["content"] = Value::String(swapped);
    }
    Message::text(Value::Array(parts).to_string())
}

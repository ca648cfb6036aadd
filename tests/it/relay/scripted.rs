//! A relay that says what it is told to say, true or not.

use std::sync::Mutex;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// One thing that a scripted relay does.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Text(String),
    Binary(Vec<u8>),
    /// Ends the connection without a word.
    HangUp,
}

impl Say {
    pub(crate) fn text(message: &RelayMessage<'_>) -> Self {
        Self::Text(message.as_json())
    }

    pub(crate) fn ok(id: EventId, taken: bool, words: &str) -> Self {
        Self::text(&RelayMessage::ok(id, taken, words))
    }

    /// An event as it is, whether or not it is genuine.
    pub(crate) fn event(to: &SubscriptionId, event: &Event) -> Self {
        Self::text(&RelayMessage::event(to.clone(), event.clone()))
    }

    pub(crate) fn eose(to: &SubscriptionId) -> Self {
        Self::text(&RelayMessage::eose(to.clone()))
    }

    pub(crate) fn closed(to: &SubscriptionId, words: &str) -> Self {
        Self::text(&RelayMessage::closed(to.clone(), words))
    }
}

/// Takes every event, and has none.
pub(crate) fn polite(heard: &ClientMessage<'_>) -> Vec<Say> {
    match heard {
        ClientMessage::Event(event) => vec![Say::ok(event.id, true, "")],
        ClientMessage::Req {
            subscription_id, ..
        } => vec![Say::eose(subscription_id)],
        _ => vec![],
    }
}

type Heard = Vec<ClientMessage<'static>>;

/// A WebSocket server that answers each message as its script says, and notes what it heard.
/// Dropping it ends it.
pub(crate) struct ScriptedRelay {
    addr: SocketAddr,
    heard: watch::Receiver<Heard>,
    connections: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl ScriptedRelay {
    /// Starts one on a free port. `script` is asked what to do about each message.
    pub(crate) async fn start<S>(script: S) -> Self
    where
        S: Fn(&ClientMessage<'_>) -> Vec<Say> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (note, heard) = watch::channel(Heard::new());
        let (count, connections) = watch::channel(0);
        let shared = Arc::new((script, note, count));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let serving = Mutex::new(JoinSet::new());
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                serving.lock().unwrap().spawn(async move {
                    let (script, note, count) = &*shared;
                    count.send_modify(|count| *count += 1);
                    converse(stream, script, note).await;
                    count.send_modify(|count| *count -= 1);
                });
            }
        });
        Self {
            addr,
            heard,
            connections,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self) -> RelayUrl {
        url(self.addr)
    }

    /// All that clients have said so far.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// The requests among it.
    pub(crate) fn requests(&self) -> Vec<(SubscriptionId, Filter)> {
        let requests = self.heard().into_iter().filter_map(|heard| match heard {
            ClientMessage::Req {
                subscription_id,
                filters,
            } => Some((
                subscription_id.into_owned(),
                filters.into_iter().next()?.into_owned(),
            )),
            _ => None,
        });
        requests.collect()
    }

    /// Waits until what clients have said fulfils `predicate`.
    pub(crate) async fn until(&self, predicate: impl Fn(&Heard) -> bool) {
        let mut heard = self.heard.clone();
        soon(heard.wait_for(predicate)).await.unwrap();
    }

    /// Waits until every client has left.
    pub(crate) async fn until_left(&self) {
        let mut connections = self.connections.clone();
        soon(connections.wait_for(|count| *count == 0))
            .await
            .unwrap();
    }
}

async fn converse<S>(stream: TcpStream, script: &S, note: &watch::Sender<Heard>)
where
    S: Fn(&ClientMessage<'_>) -> Vec<Say>,
{
    stream.set_nodelay(true).unwrap();
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    while let Some(Ok(frame)) = socket.next().await {
        let Message::Text(text) = frame else { continue };
        let Ok(heard) = ClientMessage::from_json(text.as_bytes()) else {
            continue;
        };
        let answers = script(&heard);
        note.send_modify(|all| all.push(heard));
        for answer in answers {
            let frame = match answer {
                Say::Text(text) => Message::text(text),
                Say::Binary(bytes) => Message::binary(bytes),
                Say::HangUp => return,
            };
            if socket.send(frame).await.is_err() {
                return;
            }
        }
    }
}

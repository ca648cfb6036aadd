//! A wire that loses chunks on their way to a customer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// One chunk in so many is lost. Only what is said in the open can be told from the rest.
const LOST_ONE_IN: usize = 9;

/// Stands between a customer and the relay, for as long as it is kept.
pub(super) struct Wire {
    pub(super) url: String,
    chunks: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Wire {
    pub(super) async fn start(relay: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let chunks = Arc::new(AtomicUsize::new(0));
        let (relay, count) = (relay.to_owned(), Arc::clone(&chunks));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                conversations.spawn(converse(stream, relay.clone(), Arc::clone(&count)));
                while conversations.try_join_next().is_some() {}
            }
        });
        Self {
            url,
            chunks,
            _serving: serving,
        }
    }

    pub(super) fn lost(&self) -> usize {
        self.chunks.load(Ordering::Relaxed) / LOST_ONE_IN
    }
}

async fn converse(stream: TcpStream, relay: String, chunks: Arc<AtomicUsize>) {
    let Ok(client) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let Ok((server, _)) = tokio_tungstenite::connect_async(relay).await else {
        return;
    };
    let (mut to_client, mut from_client) = client.split();
    let (mut to_server, mut from_server) = server.split();
    loop {
        // Where one end hangs up, so does the other.
        let done = tokio::select! {
            said = from_client.next() => match said {
                Some(Ok(said)) => to_server.send(said).await,
                _ => return,
            },
            told = from_server.next() => match told {
                Some(Ok(told)) if is_lost(&told, &chunks) => continue,
                Some(Ok(told)) => to_client.send(told).await,
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

fn is_lost(told: &Message, chunks: &AtomicUsize) -> bool {
    let Message::Text(text) = told else {
        return false;
    };
    text.contains("StreamChunk")
        && chunks.fetch_add(1, Ordering::Relaxed) % LOST_ONE_IN == LOST_ONE_IN - 1
}

//! The deployed original's two programs and its agents' client, as its source has them: what they
//! subscribe to, in which order they speak, what they pass over, and for how long they wait.
//! Nothing of this crate's protocol is used, so that both sides must agree on bytes.

mod provider;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_compute::units::Msat;
use agent_compute::wallet::sim::SimWallet;
use agent_compute::wallet::{InvoiceRequest, Wallet};
use futures_util::{SinkExt, StreamExt};
use nostr::{Event, EventBuilder, JsonUtil, Keys, Kind, Tag};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub use self::provider::{Provider, Served, hears_direct_requests};

/// Named in every tag as where the channel is, wherever it is.
const DEFAULT_RELAY: &str = "wss://relay.damus.io";

/// How long a job may take before a customer gives up.
const JOB: Duration = Duration::from_secs(120);

/// The eight messages. Unknown fields are passed over, unknown types are no message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Said {
    ServiceAnnouncement {
        kind: u16,
        price_msats: u64,
        spark_address: String,
        network: Net,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_pubkey: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        models: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        capabilities: Vec<String>,
    },
    JobRequest {
        kind: u16,
        prompt: String,
        max_tokens: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target_provider: Option<String>,
    },
    Invoice {
        job_id: String,
        bolt11: String,
        amount_msats: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payment_hash: Option<String>,
    },
    PaymentSent {
        job_id: String,
        payment_id: String,
    },
    JobResult {
        job_id: String,
        result: String,
    },
    StreamChunk {
        job_id: String,
        chunk: String,
        is_final: bool,
    },
    HtlcLocked {
        job_id: String,
        payment_hash: String,
        amount_msats: u64,
        expiry_secs: u64,
    },
    PreimageRelease {
        job_id: String,
        preimage: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    Mainnet,
    Testnet,
    Signet,
    Regtest,
}

fn now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "theirs is the clock of the world"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A connection to one relay. Events wait in `inbox`, by subscription.
struct Line {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    inbox: HashMap<String, VecDeque<Event>>,
    accepted: HashMap<String, bool>,
    keys: Keys,
}

impl Line {
    async fn connect(relay: &str, keys: Keys) -> Self {
        Self {
            socket: connect_async(relay).await.unwrap().0,
            inbox: HashMap::new(),
            accepted: HashMap::new(),
            keys,
        }
    }

    /// Reads one message of the relay.
    async fn read(&mut self) {
        let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else {
            return;
        };
        let message: Vec<Value> = serde_json::from_str(&text).unwrap();
        match message[0].as_str().unwrap() {
            "EVENT" => {
                let event = Event::from_json(message[2].to_string()).unwrap();
                let of = message[1].as_str().unwrap().to_owned();
                self.inbox.entry(of).or_default().push_back(event);
            }
            "OK" => {
                let id = message[1].as_str().unwrap().to_owned();
                self.accepted.insert(id, message[2].as_bool().unwrap());
            }
            _ => {}
        }
    }

    async fn next(&mut self, of: &str) -> Event {
        loop {
            if let Some(event) = self.inbox.get_mut(of).and_then(VecDeque::pop_front) {
                return event;
            }
            self.read().await;
        }
    }

    async fn send(&mut self, message: Value) {
        let text = message.to_string();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn subscribe(&mut self, id: &str, filter: Value) {
        self.send(json!(["REQ", id, filter])).await;
    }

    async fn join(&mut self, id: &str, channel: &str) {
        self.subscribe(id, json!({"kinds": [42], "#e": [channel]}))
            .await;
    }

    async fn publish(&mut self, kind: u16, tags: Vec<Vec<String>>, content: String) -> Event {
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap());
        let event = EventBuilder::new(Kind::from(kind), content)
            .allow_self_tagging()
            .tags(tags)
            .sign_with_keys(&self.keys)
            .unwrap();
        let id = event.id.to_hex();
        self.send(json!(["EVENT", event])).await;
        let confirmed = async {
            while !self.accepted.contains_key(&id) {
                self.read().await;
            }
        };
        timeout(Duration::from_secs(10), confirmed).await.unwrap();
        assert_eq!(self.accepted.get(&id), Some(&true));
        event
    }

    async fn say(&mut self, channel: &str, message: &Said) {
        let tag = ["e", channel, DEFAULT_RELAY, "root"].map(str::to_owned);
        let content = serde_json::to_string(message).unwrap();
        self.publish(42, vec![tag.to_vec()], content).await;
    }

    fn key(&self) -> String {
        self.keys.public_key().to_hex()
    }
}

/// `agent-customer`'s flags.
#[derive(Clone, Debug)]
pub struct Flags<'a> {
    pub relay: &'a str,
    /// `None`: `--discover`
    pub channel: Option<&'a str>,
    pub select: &'a str,
    pub prompt: &'a str,
    pub htlc: bool,
    pub discovery: Duration,
}

impl<'a> Flags<'a> {
    pub fn new(relay: &'a str, prompt: &'a str) -> Self {
        Self {
            relay,
            channel: None,
            select: "first",
            prompt,
            htlc: false,
            // Three seconds by default, waited in full, twice.
            discovery: Duration::from_secs(1),
        }
    }
}

/// What the customer's terminal shows.
#[derive(Debug, Default)]
pub struct Shown {
    pub job_id: String,
    pub bolt11: String,
    pub amount_msats: u64,
    pub payment_hash: Option<String>,
    /// The chunks, as they came.
    pub streamed: String,
    /// How many chunks said that they were the last.
    pub finals: usize,
    pub result: String,
}

/// `agent-customer --no-wallet`. `None`: it gave up, and why is on its terminal.
pub async fn customer(flags: &Flags<'_>) -> Option<Shown> {
    let mut line = Line::connect(flags.relay, Keys::generate()).await;
    let channel = match flags.channel {
        Some(channel) => channel.to_owned(),
        None => find(&mut line, flags).await?.channel,
    };
    line.join("customer-sub", &channel).await;
    // The version before the last took `now()` here, and missed who had announced before.
    let since = now().saturating_sub(300);
    let provider = announced(&mut line, since, flags).await?;
    let request = Said::JobRequest {
        kind: 5050,
        prompt: flags.prompt.to_owned(),
        max_tokens: 100,
        target_provider: Some(provider),
    };
    line.say(&channel, &request).await;
    wait_for_result(&mut line, &channel, since, flags.htlc).await
}

/// What `HandlerInfo::from_event` finds, and the customer asks of it.
struct Listed {
    pubkey: String,
    channel: String,
    price_msats: u64,
}

async fn find(line: &mut Line, flags: &Flags<'_>) -> Option<Listed> {
    line.subscribe("nip89-discovery", json!({"kinds": [31990], "limit": 50}))
        .await;
    let ends = Instant::now() + flags.discovery;
    let mut found = Vec::new();
    while let Ok(event) = timeout_at(ends, line.next("nip89-discovery")).await {
        found.extend(listed(&event));
    }
    let at = match flags.select {
        "cheapest" => (0..found.len()).min_by_key(|at| found[*at].price_msats),
        "first" => (!found.is_empty()).then_some(0),
        key => found
            .iter()
            .position(|it| it.pubkey.starts_with(key))
            .or((!found.is_empty()).then_some(0)),
    };
    at.map(|at| found.swap_remove(at))
}

fn listed(event: &Event) -> Option<Listed> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "must be there, or of its type")]
    struct Metadata {
        name: String,
        description: String,
        icon_url: Option<String>,
        website: Option<String>,
    }
    let tag = |name: &str| {
        let found = event
            .tags
            .iter()
            .find(|tag| tag.len() >= 2 && tag.as_slice()[0] == name);
        found.map(|tag| tag.as_slice()[1].clone())
    };
    let handler = tag("handler")?.to_lowercase();
    if !["compute_provider", "computeprovider"].contains(&handler.as_str()) {
        return None;
    }
    serde_json::from_str::<Metadata>(&event.content).ok()?;
    let price = tag("price").and_then(|price| price.parse().ok());
    (tag("network")? == "regtest").then_some(Listed {
        pubkey: event.pubkey.to_hex(),
        channel: tag("channel")?,
        price_msats: price.unwrap_or(0),
    })
}

/// The channel's announcements, and whom of them the customer takes.
async fn announced(line: &mut Line, since: u64, flags: &Flags<'_>) -> Option<String> {
    let ends = Instant::now() + flags.discovery;
    let mut providers: Vec<(String, u64)> = Vec::new();
    while let Ok(event) = timeout_at(ends, line.next("customer-sub")).await {
        if event.created_at.as_secs() < since || event.pubkey == line.keys.public_key() {
            continue;
        }
        if let Ok(Said::ServiceAnnouncement {
            network: Net::Regtest,
            provider_pubkey,
            price_msats,
            ..
        }) = serde_json::from_str(&event.content)
        {
            let key = provider_pubkey.unwrap_or_else(|| event.pubkey.to_hex());
            providers.retain(|(known, _)| *known != key);
            providers.push((key, price_msats));
        }
    }
    let chosen = match flags.select {
        "cheapest" => providers.iter().min_by_key(|(_, price)| *price),
        "first" => providers.first(),
        key => providers
            .iter()
            .find(|(known, _)| known.starts_with(key))
            .or(providers.first()),
    };
    chosen.map(|(key, _)| key.clone())
}

async fn wait_for_result(line: &mut Line, channel: &str, since: u64, htlc: bool) -> Option<Shown> {
    let ends = Instant::now() + JOB;
    let mut shown = Shown::default();
    loop {
        let event = timeout_at(ends, line.next("customer-sub")).await.ok()?;
        if event.created_at.as_secs() < since || event.pubkey == line.keys.public_key() {
            continue;
        }
        let Ok(message) = serde_json::from_str(&event.content) else {
            continue;
        };
        match message {
            Said::Invoice {
                job_id,
                bolt11,
                amount_msats,
                payment_hash,
            } => {
                // Whoever sent it: the first one is ours, and one that comes again is paid again.
                if !shown.job_id.is_empty() && shown.job_id != job_id {
                    continue;
                }
                shown = Shown {
                    job_id: job_id.clone(),
                    bolt11,
                    amount_msats,
                    payment_hash,
                    ..shown
                };
                let payment_id = if htlc {
                    let locked = Said::HtlcLocked {
                        job_id: job_id.clone(),
                        payment_hash: "5a".repeat(32),
                        amount_msats,
                        expiry_secs: 3600,
                    };
                    line.say(channel, &locked).await;
                    "mock-htlc-payment"
                } else {
                    "mock-payment-id"
                };
                let paid = Said::PaymentSent {
                    job_id,
                    payment_id: payment_id.into(),
                };
                line.say(channel, &paid).await;
            }
            Said::StreamChunk {
                job_id,
                chunk,
                is_final,
            } if job_id == shown.job_id => {
                shown.streamed.push_str(&chunk);
                shown.finals += usize::from(is_final);
            }
            // Only this ends it: a last chunk does not.
            Said::JobResult { job_id, result } if job_id == shown.job_id => {
                if htlc {
                    let preimage = "3c".repeat(32);
                    let release = Said::PreimageRelease { job_id, preimage };
                    line.say(channel, &release).await;
                }
                shown.result = result;
                return Some(shown);
            }
            _ => {}
        }
    }
}

/// `ComputeClient` of the original's agents: takes a listing's word for everything, and stops at the last
/// chunk or at the result, whichever is first. It has no test mode, so it pays from a wallet.
pub async fn agent(relay: &str, prompt: &str, wallet: &SimWallet) -> String {
    let mut line = Line::connect(relay, Keys::generate()).await;
    let flags = Flags::new(relay, prompt);
    let found = find(&mut line, &flags).await.unwrap();
    line.join("agent-channel", &found.channel).await;
    let request = Said::JobRequest {
        kind: 5050,
        prompt: prompt.to_owned(),
        max_tokens: 500,
        target_provider: Some(found.pubkey),
    };
    line.say(&found.channel, &request).await;
    let since = now().saturating_sub(60);
    let ends = Instant::now() + JOB;
    let (mut ours, mut text) = (String::new(), String::new());
    loop {
        let event = timeout_at(ends, line.next("agent-channel")).await.unwrap();
        if event.created_at.as_secs() < since || event.pubkey == line.keys.public_key() {
            continue;
        }
        match serde_json::from_str(&event.content) {
            Ok(Said::Invoice { job_id, bolt11, .. }) if ours.is_empty() || ours == job_id => {
                let payment_id = pay(wallet, &bolt11).await;
                ours.clone_from(&job_id);
                let paid = Said::PaymentSent { job_id, payment_id };
                line.say(&found.channel, &paid).await;
            }
            Ok(Said::JobResult { job_id, result }) if job_id == ours => return result,
            Ok(Said::StreamChunk {
                job_id,
                chunk,
                is_final,
            }) if job_id == ours => {
                text.push_str(&chunk);
                if is_final {
                    return text;
                }
            }
            _ => {}
        }
    }
}

async fn pay(wallet: &SimWallet, bolt11: &str) -> String {
    use agent_compute::wallet::invoice::parse_unchecked;
    use agent_compute::wallet::{PayOutcome, PayRequest};

    let invoice = parse_unchecked(bolt11).unwrap();
    let request = PayRequest {
        bolt11: bolt11.to_owned(),
        payment_hash: invoice.payment_hash,
        amount: invoice.amount.unwrap(),
        max_fee: Msat::ZERO,
        purchase: agent_compute::ids::PurchaseId::from_bytes([7; 16]),
    };
    let paid = wallet.pay(request).await;
    assert!(matches!(paid, PayOutcome::Paid { .. }), "{paid:?}");
    // A Spark payment's own id.
    "019b6375-ed3d-7770-9d4e-c3af7734f055".to_owned()
}

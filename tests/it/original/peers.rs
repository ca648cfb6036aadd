//! The deployed original's two programs and its agents' client, as its source has them: what they
//! subscribe to, in which order they speak, what they pass over, and for how long they wait.
//! Nothing of this crate's protocol is used, so that both sides must agree on bytes.

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

/// `agent-provider`'s flags, and what its model says.
#[derive(Clone, Debug, Default)]
pub struct Served {
    pub channel: Option<String>,
    pub stream: bool,
    pub wallet: Option<SimWallet>,
    /// Said of every prompt, piece by piece; an error without a model.
    pub model: Option<Vec<String>>,
}

/// `agent-provider`, at work until it is dropped.
pub struct Provider {
    pub pubkey: String,
    pub channel: String,
    _work: JoinSet<()>,
}

impl Provider {
    pub async fn start(relay: &str, served: Served) -> Self {
        let mut line = Line::connect(relay, Keys::generate()).await;
        let pubkey = line.key();
        let channel = match &served.channel {
            Some(channel) => channel.clone(),
            None => {
                let about = json!({
                    "name": "OpenAgents Compute Marketplace",
                    "about": "Agents negotiate NIP-90 jobs with Bitcoin payments",
                    "picture": "",
                    "relays": [DEFAULT_RELAY],
                });
                let made = line.publish(40, vec![], about.to_string()).await;
                made.id.to_hex()
            }
        };
        announce(&mut line, relay, &channel, &served).await;
        line.join("provider-sub", &channel).await;
        let since = now();
        let mut work = JoinSet::new();
        let of = channel.clone();
        work.spawn(async move { serve(line, &of, served, since).await });
        Self {
            pubkey,
            channel,
            _work: work,
        }
    }
}

/// Whether a relay serves the subscription of the later version's provider, which names itself and a UUID.
pub async fn hears_direct_requests(relay: &str) -> bool {
    let mut provider = Line::connect(relay, Keys::generate()).await;
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let id = format!("job-requests-{}-{uuid}", provider.key());
    let filter = json!({"kinds": [5050], "#p": [provider.key()]});
    provider.subscribe(&id, filter).await;
    let mut customer = Line::connect(relay, Keys::generate()).await;
    let to = vec!["p".to_owned(), provider.key()];
    customer
        .publish(5050, vec![to], "What is 2+2?".into())
        .await;
    timeout(Duration::from_secs(10), provider.next(&id))
        .await
        .is_ok()
}

/// Once each, at the start.
async fn announce(line: &mut Line, relay: &str, channel: &str, served: &Served) {
    let models: Vec<String> = served.model.iter().map(|_| "mock:latest".into()).collect();
    let announcement = Said::ServiceAnnouncement {
        kind: 5050,
        price_msats: 10_000,
        spark_address: "mock-spark-address".into(),
        network: Net::Regtest,
        provider_pubkey: Some(line.key()),
        models: models.clone(),
        capabilities: vec!["text-generation".into()],
    };
    line.say(channel, &announcement).await;
    let mut tags = vec![
        vec!["handler", "compute_provider"],
        vec!["capability", "text-generation"],
        vec!["price", "10000", "per-request", "msats"],
        vec!["channel", channel],
        vec!["relay", relay],
        vec!["network", "regtest"],
    ];
    tags.extend(models.iter().map(|model| vec!["model", model]));
    let tags = tags
        .into_iter()
        .map(|tag| tag.into_iter().map(str::to_owned).collect())
        .collect();
    let about = json!({
        "name": "OpenAgents Compute Provider",
        "description": "NIP-90 text generation service with Lightning payments",
    });
    line.publish(31990, tags, about.to_string()).await;
}

/// One message after the other: while a job runs, nobody else is heard.
async fn serve(mut line: Line, channel: &str, served: Served, since: u64) {
    let mut pending: HashMap<String, String> = HashMap::new();
    let mut processed: HashSet<String> = HashSet::new();
    loop {
        let event = line.next("provider-sub").await;
        if event.created_at.as_secs() < since || event.pubkey == line.keys.public_key() {
            continue;
        }
        match serde_json::from_str(&event.content) {
            Ok(Said::JobRequest {
                prompt,
                target_provider,
                ..
            }) => {
                if target_provider.is_some_and(|target| target != line.key()) {
                    continue;
                }
                let job_id = format!("job_{}", &event.id.to_hex()[..16]);
                pending.insert(job_id.clone(), prompt);
                let (bolt11, payment_hash) = match &served.wallet {
                    None => ("lnbcrt100n1mock".into(), "mock_payment_hash".into()),
                    Some(wallet) => (ten_sats(wallet).await, job_id.clone()),
                };
                let invoice = Said::Invoice {
                    job_id,
                    bolt11,
                    amount_msats: 10_000,
                    payment_hash: Some(payment_hash),
                };
                line.say(channel, &invoice).await;
            }
            // On anybody's word, for any job, and once.
            Ok(Said::PaymentSent { job_id, .. }) => {
                if !processed.insert(job_id.clone()) {
                    continue;
                }
                let prompt = pending.remove(&job_id).unwrap_or_else(|| "Hello".into());
                let result = infer(&mut line, channel, &job_id, &prompt, &served).await;
                line.say(channel, &Said::JobResult { job_id, result }).await;
            }
            // HtlcLocked is noted, PreimageRelease claimed where there is a wallet.
            _ => {}
        }
    }
}

async fn ten_sats(wallet: &SimWallet) -> String {
    let request = InvoiceRequest {
        amount: Msat::new(10_000),
        expiry_secs: 3600,
        hold: None,
        description: "NIP-90 Job".into(),
    };
    wallet.invoice(request).await.unwrap().bolt11
}

async fn infer(
    line: &mut Line,
    channel: &str,
    job_id: &str,
    prompt: &str,
    served: &Served,
) -> String {
    let Some(model) = &served.model else {
        return "Error: No inference backend available. Install Ollama: https://ollama.ai".into();
    };
    let pieces: Vec<String> = model
        .iter()
        .map(|piece| piece.replace("{prompt}", prompt))
        .collect();
    if served.stream {
        let last = std::iter::once((String::new(), true));
        for (chunk, is_final) in pieces.iter().map(|it| (it.clone(), false)).chain(last) {
            let chunk = Said::StreamChunk {
                job_id: job_id.to_owned(),
                chunk,
                is_final,
            };
            line.say(channel, &chunk).await;
        }
    }
    pieces.concat()
}

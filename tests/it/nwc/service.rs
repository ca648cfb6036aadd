//! A NIP-47 wallet service in front of any wallet, on a Nostr client that is not ours. It can be told to lie,
//! to fall silent and to lose what it says.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet,
};
use nostr::nips::{nip04, nip44};
use nostr::{
    Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, RelayUrl, Tag, TagKind, Timestamp,
};
use nostr_sdk::{Client, RelayPoolNotification};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The height that every chain of this service has reached.
const HEIGHT: u64 = 800_000;

/// What the customer's side counts a block for until a hold ends.
const SECS_PER_BLOCK: u64 = 300;

const METHODS: [&str; 9] = [
    "get_info",
    "get_balance",
    "make_invoice",
    "pay_invoice",
    "lookup_invoice",
    "list_transactions",
    "make_hold_invoice",
    "settle_hold_invoice",
    "cancel_hold_invoice",
];

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Twist {
    /// It is not heard.
    Unheard,
    /// It is done, and the answer is lost.
    Unanswered,
    /// It is not done, and this is answered: an error's code, or a whole body if it begins with a brace.
    Instead(String),
    /// It is done, and this is answered.
    After(String),
    /// It is done, and the answer waits.
    Late(Duration),
    /// It is heard late, as by a wallet that was frozen.
    Frozen(Duration),
    /// Somebody else answers first, with this.
    Forged(String),
    /// It is done, and the answer's result has this over it.
    Altered(Value),
}

type Script = Box<dyn FnMut(&str, &Value) -> Option<Twist> + Send>;

/// How a service is.
pub struct Options {
    /// NIP-44, or only NIP-04.
    pub nip44: bool,
    /// What it can do, and its connection may.
    pub methods: Vec<&'static str>,
    /// Whether it sends news.
    pub news: bool,
    /// Whether look-ups tell fees.
    pub tells_fees: bool,
    /// Whether it says what it can do, by an event.
    pub announces: bool,
    /// What it says of its network.
    pub network: Option<&'static str>,
    /// What goes wrong.
    pub script: Script,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nip44: true,
            methods: METHODS.to_vec(),
            news: true,
            tells_fees: true,
            announces: true,
            network: None,
            script: Box::new(|_, _| None),
        }
    }
}

impl Options {
    /// Without hold invoices.
    pub fn plain() -> Self {
        let plain = METHODS.iter().filter(|method| !method.contains("hold"));
        Self {
            methods: plain.copied().collect(),
            ..Self::default()
        }
    }

    pub fn twisted(script: impl FnMut(&str, &Value) -> Option<Twist> + Send + 'static) -> Self {
        Self {
            script: Box::new(script),
            ..Self::default()
        }
    }
}

/// A service that runs until it is dropped.
pub struct Service {
    /// The connection string of its one customer.
    pub uri: String,
    inner: Arc<Inner>,
    _tasks: JoinSet<()>,
}

struct Inner {
    client: Client,
    keys: Keys,
    customer: PublicKey,
    wallet: Arc<dyn Wallet>,
    options: Mutex<Options>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Requests that were heard, and how often each method was asked for.
    heard: HashSet<EventId>,
    asked: HashMap<String, usize>,
    made: HashMap<PaymentHash, (IssuedInvoice, InvoiceRequest)>,
    paying: HashMap<PaymentHash, u64>,
    /// How often each was ordered to be paid.
    orders: HashMap<PaymentHash, usize>,
    failed: HashSet<PaymentHash>,
    told: HashMap<PaymentHash, &'static str>,
}

impl Service {
    /// Starts a service for `wallet` at these relays.
    pub async fn start(relays: &[&str], wallet: Arc<dyn Wallet>, options: Options) -> Self {
        Self::with(relays, wallet, options, Arc::default(), Keys::generate()).await
    }

    /// A second connection to the same wallet.
    pub async fn beside(&self, relays: &[&str], options: Options) -> Self {
        let (wallet, state) = (
            Arc::clone(&self.inner.wallet),
            Arc::clone(&self.inner.state),
        );
        Self::with(relays, wallet, options, state, Keys::generate()).await
    }

    async fn with(
        relays: &[&str],
        wallet: Arc<dyn Wallet>,
        options: Options,
        state: Arc<Mutex<State>>,
        customer: Keys,
    ) -> Self {
        let keys = Keys::generate();
        let client = Client::new(keys.clone());
        for relay in relays {
            client.add_relay(*relay).await.unwrap();
        }
        client.connect().await;
        client.wait_for_connection(Duration::from_secs(10)).await;
        let announced = options.announces.then(|| announcement(&options));
        let inner = Arc::new(Inner {
            client: client.clone(),
            keys: keys.clone(),
            customer: customer.public_key(),
            wallet,
            options: Mutex::new(options),
            state,
        });
        let mut notifications = client.notifications();
        let filter = Filter::new()
            .kind(Kind::Custom(23194))
            .pubkey(keys.public_key())
            .since(Timestamp::now());
        client.subscribe(filter, None).await.unwrap();
        if let Some(announced) = announced {
            client.send_event_builder(announced).await.unwrap();
        }
        let mut tasks = JoinSet::new();
        let listener = Arc::clone(&inner);
        tasks.spawn(async move {
            let mut answering = JoinSet::new();
            while let Ok(notification) = notifications.recv().await {
                if let RelayPoolNotification::Event { event, .. } = notification {
                    let inner = Arc::clone(&listener);
                    answering.spawn(async move { inner.take(*event).await });
                    while answering.try_join_next().is_some() {}
                }
            }
        });
        let teller = Arc::clone(&inner);
        tasks.spawn(async move { teller.tell_news().await });
        let at: String = relays
            .iter()
            .map(|relay| format!("&relay={}", RelayUrl::parse(relay).unwrap()))
            .collect();
        Self {
            uri: format!(
                "nostr+walletconnect://{}?secret={}{at}",
                keys.public_key(),
                customer.secret_key().to_secret_hex(),
            ),
            inner,
            _tasks: tasks,
        }
    }

    /// How often a method was asked for, whatever came of it.
    pub fn asked(&self, method: &str) -> usize {
        let state = self.inner.state.lock().unwrap();
        state.asked.get(method).copied().unwrap_or_default()
    }

    /// The most orders that one payment had.
    pub fn most_orders(&self) -> usize {
        let state = self.inner.state.lock().unwrap();
        state.orders.values().copied().max().unwrap_or_default()
    }

    /// Goes wrong in another way from now on.
    pub fn twist(&self, script: impl FnMut(&str, &Value) -> Option<Twist> + Send + 'static) {
        self.inner.options.lock().unwrap().script = Box::new(script);
    }
}

fn announcement(options: &Options) -> EventBuilder {
    let mut tags = Vec::new();
    if options.nip44 {
        let ways = "nip44_v2 nip04";
        tags.push(Tag::custom(TagKind::custom("encryption"), [ways]));
    }
    if options.news {
        let news = "payment_received payment_sent hold_invoice_accepted";
        tags.push(Tag::custom(TagKind::custom("notifications"), [news]));
    }
    EventBuilder::new(Kind::Custom(13194), options.methods.join(" ")).tags(tags)
}

/// Code and message.
type Refused = (&'static str, String);

fn refused<T>(code: &'static str, why: impl ToString) -> Result<T, Refused> {
    Err((code, why.to_string()))
}

impl Inner {
    async fn take(&self, event: Event) {
        if event.kind != Kind::Custom(23194) || event.pubkey != self.customer {
            return;
        }
        if is_void(&event) {
            return;
        }
        if !self.state.lock().unwrap().heard.insert(event.id) {
            return;
        }
        let (secret, customer) = (self.keys.secret_key(), &self.customer);
        let old = event.content.contains("?iv=");
        assert!(
            old || self.options.lock().unwrap().nip44,
            "it can't read that"
        );
        let text = if old {
            nip04::decrypt(secret, customer, &event.content).unwrap()
        } else {
            nip44::decrypt(secret, customer, &event.content).unwrap()
        };
        let request: Value = serde_json::from_str(&text).unwrap();
        let method = request["method"].as_str().unwrap().to_owned();
        *self
            .state
            .lock()
            .unwrap()
            .asked
            .entry(method.clone())
            .or_default() += 1;
        let twist = (self.options.lock().unwrap().script)(&method, &request["params"]);
        if let Some(Twist::Forged(body)) = &twist {
            self.say(&event, &method, body, &Keys::generate(), old)
                .await;
        }
        if let Some(Twist::Unheard) = twist {
            return;
        }
        if let Some(Twist::Frozen(pause)) = twist {
            tokio::time::sleep(pause).await;
            if is_void(&event) {
                return;
            }
        }
        let done = match &twist {
            Some(Twist::Instead(instead)) => instead_of(&method, instead),
            _ => {
                let done = self.act(&method, &request["params"]).await;
                body(&method, done)
            }
        };
        let said = match twist {
            Some(Twist::Unanswered) => return,
            Some(Twist::After(instead)) => instead_of(&method, &instead),
            Some(Twist::Late(pause)) => {
                tokio::time::sleep(pause).await;
                done
            }
            Some(Twist::Altered(over)) => {
                let mut value: Value = serde_json::from_str(&done).unwrap();
                for (key, new) in over.as_object().unwrap() {
                    value["result"][key] = new.clone();
                }
                value.to_string()
            }
            _ => done,
        };
        self.say(&event, &method, &said, &self.keys, old).await;
    }

    async fn say(&self, to: &Event, _method: &str, body: &str, by: &Keys, old: bool) {
        let secret = by.secret_key();
        let content = if old {
            nip04::encrypt(secret, &self.customer, body).unwrap()
        } else {
            nip44::encrypt(secret, &self.customer, body, nip44::Version::V2).unwrap()
        };
        let tags = [Tag::public_key(self.customer), Tag::event(to.id)];
        let event = EventBuilder::new(Kind::Custom(23195), content).tags(tags);
        let event = event.sign_with_keys(by).unwrap();
        let _ = self.client.send_event(&event).await;
    }

    async fn act(&self, method: &str, params: &Value) -> Result<Value, Refused> {
        if !self.options.lock().unwrap().methods.contains(&method) {
            return refused("RESTRICTED", "not allowed to this connection");
        }
        match method {
            "get_info" => {
                let options = self.options.lock().unwrap();
                let network = match self.wallet.network() {
                    Network::Mainnet => "mainnet",
                    Network::Testnet => "testnet",
                    Network::Signet => "signet",
                    Network::Regtest => "regtest",
                };
                Ok(json!({
                    "alias": "a test's wallet", "color": "#000000",
                    "network": options.network.unwrap_or(network),
                    "block_height": HEIGHT, "methods": options.methods,
                }))
            }
            "get_balance" => match self.wallet.balance().await {
                Ok(balance) => Ok(json!({ "balance": balance.get() })),
                Err(error) => refused("INTERNAL", error),
            },
            "make_invoice" | "make_hold_invoice" => self.make(params).await,
            "pay_invoice" => self.pay(params).await,
            "lookup_invoice" => self.look_up(hash(params)).await,
            "list_transactions" => {
                let known: HashSet<PaymentHash> = {
                    let state = self.state.lock().unwrap();
                    state
                        .made
                        .keys()
                        .chain(state.paying.keys())
                        .copied()
                        .collect()
                };
                let mut transactions = Vec::new();
                for hash in known {
                    transactions.push(self.look_up(hash).await?);
                }
                Ok(json!({ "transactions": transactions }))
            }
            "settle_hold_invoice" => {
                let preimage: Preimage = params["preimage"].as_str().unwrap().parse().unwrap();
                match self.wallet.settle(preimage).await {
                    Ok(()) => Ok(json!({})),
                    Err(error) => refused("OTHER", error),
                }
            }
            "cancel_hold_invoice" => {
                let hash = hash(params);
                let is_hold = {
                    let state = self.state.lock().unwrap();
                    state
                        .made
                        .get(&hash)
                        .is_some_and(|(_, asked)| asked.hold.is_some())
                };
                if !is_hold {
                    return refused("NOT_FOUND", "no such hold invoice");
                }
                match self.wallet.cancel(hash).await {
                    Ok(()) => Ok(json!({})),
                    Err(error) => refused("OTHER", error),
                }
            }
            other => refused("NOT_IMPLEMENTED", other),
        }
    }

    async fn make(&self, params: &Value) -> Result<Value, Refused> {
        let request = InvoiceRequest {
            amount: Msat::new(params["amount"].as_u64().unwrap()),
            expiry_secs: params["expiry"].as_u64().unwrap_or(3600),
            hold: params["payment_hash"]
                .as_str()
                .map(|text| text.parse().unwrap()),
            description: params["description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        let known = request
            .hold
            .is_some_and(|hash| self.state.lock().unwrap().made.contains_key(&hash));
        if known {
            return refused("OTHER", "this hash was used before");
        }
        match self.wallet.invoice(request.clone()).await {
            Ok(made) => {
                let mut said = self.transaction(&made, "incoming", "pending");
                said["description"] = json!(request.description);
                let mut state = self.state.lock().unwrap();
                state.made.insert(made.payment_hash, (made, request));
                Ok(said)
            }
            Err(error) => refused("OTHER", error),
        }
    }

    fn transaction(&self, invoice: &IssuedInvoice, direction: &str, state: &str) -> Value {
        json!({
            "type": direction, "state": state, "invoice": invoice.bolt11,
            "payment_hash": invoice.payment_hash.to_string(), "amount": invoice.amount.get(),
            "created_at": Timestamp::now().as_secs(), "expires_at": invoice.expires_at.get(),
        })
    }

    async fn pay(&self, params: &Value) -> Result<Value, Refused> {
        let bolt11 = params["invoice"].as_str().unwrap().to_owned();
        let invoice = match parse_unchecked(&bolt11) {
            Ok(invoice) => invoice,
            Err(error) => return refused("OTHER", error),
        };
        let (hash, amount) = (invoice.payment_hash, invoice.amount.unwrap());
        {
            let mut state = self.state.lock().unwrap();
            state.paying.insert(hash, amount.get());
            *state.orders.entry(hash).or_default() += 1;
        }
        let request = PayRequest {
            bolt11,
            payment_hash: hash,
            amount,
            max_fee: Msat::new(100_000),
            purchase: agent_compute::ids::PurchaseId::from_bytes(*b"somebody's order"),
        };
        let failed = |insufficient: bool, why: String| {
            let mut state = self.state.lock().unwrap();
            if insufficient {
                state.paying.remove(&hash);
                return refused("INSUFFICIENT_BALANCE", why);
            }
            state.failed.insert(hash);
            refused("PAYMENT_FAILED", why)
        };
        let mut changes = self.wallet.changes();
        match self.wallet.pay(request).await {
            PayOutcome::Paid { preimage, fee } => return Ok(self.payment(preimage, fee)),
            PayOutcome::Failed(proof) => return failed(proof.insufficient_funds, proof.reason),
            PayOutcome::InFlight | PayOutcome::Unknown { .. } => {}
        }
        loop {
            match self.wallet.outgoing(hash).await {
                Ok(Outgoing::Paid { preimage, fee }) => return Ok(self.payment(preimage, fee)),
                Ok(Outgoing::Failed(proof)) => return failed(false, proof.reason),
                Ok(Outgoing::InFlight) => {}
                other => return refused("INTERNAL", format!("{other:?}")),
            }
            wait(&mut changes).await;
        }
    }

    fn payment(&self, preimage: Option<Preimage>, fee: Msat) -> Value {
        let mut said = json!({ "preimage": preimage.map(|it| it.reveal()).unwrap_or_default() });
        if self.options.lock().unwrap().tells_fees {
            said["fees_paid"] = json!(fee.get());
        }
        said
    }

    async fn look_up(&self, hash: PaymentHash) -> Result<Value, Refused> {
        let (amount, has_failed) = {
            let state = self.state.lock().unwrap();
            (
                state.paying.get(&hash).copied(),
                state.failed.contains(&hash),
            )
        };
        if let Some(amount) = amount {
            let mut said = json!({
                "type": "outgoing", "payment_hash": hash.to_string(), "amount": amount,
                "created_at": Timestamp::now().as_secs(),
            });
            match self.wallet.outgoing(hash).await {
                Ok(Outgoing::Paid { preimage, fee }) => {
                    said["state"] = json!("settled");
                    said["settled_at"] = json!(Timestamp::now().as_secs());
                    said["preimage"] = json!(preimage.map(|it| it.reveal()).unwrap_or_default());
                    if self.options.lock().unwrap().tells_fees {
                        said["fees_paid"] = json!(fee.get());
                    }
                }
                Ok(Outgoing::InFlight) => said["state"] = json!("pending"),
                Ok(Outgoing::Failed(_)) => said["state"] = json!("failed"),
                Ok(Outgoing::NotFound) if has_failed => said["state"] = json!("failed"),
                Ok(Outgoing::NotFound) => said["state"] = json!("pending"),
                Err(error) => return refused("INTERNAL", error),
            }
            return Ok(said);
        }
        let made = self.state.lock().unwrap().made.get(&hash).cloned();
        let Some((made, asked)) = made else {
            return refused("NOT_FOUND", "no such transaction");
        };
        let state = match self.wallet.incoming(hash).await {
            Ok(Incoming::Open) => "pending",
            Ok(Incoming::Held { deadline }) => {
                let mut said = self.transaction(&made, "incoming", "accepted");
                said["settle_deadline"] = json!(self.height_of(deadline.get()));
                return Ok(said);
            }
            Ok(Incoming::Settled) => "settled",
            Ok(Incoming::Cancelled) => "failed",
            Ok(Incoming::Expired) => "expired",
            Ok(Incoming::NotFound) => return refused("NOT_FOUND", "gone"),
            Err(error) => return refused("INTERNAL", error),
        };
        let mut said = self.transaction(&made, "incoming", state);
        said["description"] = json!(asked.description);
        if state == "settled" {
            said["settled_at"] = json!(Timestamp::now().as_secs());
        }
        Ok(said)
    }

    fn height_of(&self, deadline: u64) -> u64 {
        HEIGHT + deadline.saturating_sub(Timestamp::now().as_secs()) / SECS_PER_BLOCK
    }

    /// Says when an invoice is paid or held.
    async fn tell_news(&self) {
        let mut changes = self.wallet.changes();
        loop {
            let made: Vec<IssuedInvoice> = {
                let state = self.state.lock().unwrap();
                state.made.values().map(|(made, _)| made.clone()).collect()
            };
            for invoice in made {
                let hash = invoice.payment_hash;
                let (kind, state) = match self.wallet.incoming(hash).await {
                    Ok(Incoming::Settled) => ("payment_received", "settled"),
                    Ok(Incoming::Held { .. }) => ("hold_invoice_accepted", "accepted"),
                    _ => continue,
                };
                let told = self.state.lock().unwrap().told.insert(hash, kind);
                if told == Some(kind) || !self.options.lock().unwrap().news {
                    continue;
                }
                let said = json!({
                    "notification_type": kind,
                    "notification": self.transaction(&invoice, "incoming", state),
                });
                let secret = self.keys.secret_key();
                let content =
                    nip44::encrypt(secret, &self.customer, said.to_string(), nip44::Version::V2);
                let event = EventBuilder::new(Kind::Custom(23197), content.unwrap());
                let event = event.tags([Tag::public_key(self.customer)]);
                let _ = self.client.send_event_builder(event).await;
            }
            wait(&mut changes).await;
        }
    }
}

/// Whether a request came too late, as NIP-40 has it.
fn is_void(request: &Event) -> bool {
    let expires = request.tags.expiration();
    expires.is_some_and(|at| *at < Timestamp::now())
}

fn hash(params: &Value) -> PaymentHash {
    params["payment_hash"].as_str().unwrap().parse().unwrap()
}

fn body(method: &str, done: Result<Value, Refused>) -> String {
    match done {
        Ok(result) => json!({ "result_type": method, "result": result, "error": null }),
        Err((code, message)) => json!({
            "result_type": method, "result": null, "error": { "code": code, "message": message },
        }),
    }
    .to_string()
}

fn instead_of(method: &str, instead: &str) -> String {
    if instead.starts_with('{') || instead.contains(' ') {
        return instead.to_owned();
    }
    json!({ "result_type": method, "error": { "code": instead, "message": "as the test says" } })
        .to_string()
}

/// Waits for a change, or a little.
async fn wait(changes: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    let pause = Duration::from_millis(200);
    match changes {
        Some(changes) => {
            let _ = tokio::time::timeout(pause, changes.changed()).await;
        }
        None => tokio::time::sleep(pause).await,
    }
}

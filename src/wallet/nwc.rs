//! Nostr Wallet Connect (NIP-47): a wallet elsewhere, asked over relays.
//!
//! The owner gives this program a connection string of their wallet. It holds a key of its own, which the
//! wallet can give a budget and take back, so it is also the one limit that holds against a program that
//! has turned on its owner.
//!
//! # What is believed
//!
//! * Only what the wallet's key signed and this connection's key decrypts, and of that only a reply that
//!   names a request of ours.
//! * An invoice is what its BOLT11 says, not what the reply around it says.
//! * A preimage that is not of the payment's hash is none.
//! * The network is the one that the owner names, and each invoice is held against it. A wallet that says it is on
//!   another is refused, unless it says mainnet, which some services say of any.
//!
//! # Paying
//!
//! `pay_invoice` is sent once for a payment hash, and never before the wallet has said that it does not know
//! that hash: some services pay twice what they are told twice, others forget that they paid. A wallet that
//! does not answer that first question was told nothing, so nothing was paid. From then on:
//!
//! | the wallet says | and then, looked up by hash | outcome |
//! |---|---|---|
//! | paid | | paid |
//! | balance, quota, restricted, rate limit | nothing known, or failed | failed |
//! | any other error | failed, twice | failed |
//! | any other error | nothing known | unknown: the error may have come after the payment left |
//! | nothing | paid, in flight, or failed twice | that |
//! | nothing | nothing known | unknown |
//!
//! A success seen once wins over whatever is said later.
//!
//! # What it can't promise
//!
//! NIP-47 has no limit on routing fees: the cap is reserved, and an overrun is booked in full. A fee that the
//! wallet does not tell is booked as the whole cap. "Not found" proves nothing here
//! ([`Capabilities::authoritative_lookup`]). Hold invoices, for escrow as a seller, need a wallet with
//! `make_hold_invoice`, `settle_hold_invoice` and `cancel_hold_invoice`.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use agent_compute::relay::{PoolOptions, RelayPoolSession};
//! use agent_compute::secret::Secret;
//! use agent_compute::wallet::nwc::{Connection, NwcOptions, NwcWallet};
//!
//! # async fn example(uri: Secret) -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::parse(&uri)?;
//! let session = RelayPoolSession::connect(connection.relays(), PoolOptions::default())?;
//! let wallet = NwcWallet::open(connection, session, NwcOptions::default()).await?;
//! # Ok(()) }
//! ```

mod announced;
mod client;
mod connection;
mod orders;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::announced::announced;
use self::client::{Client, Unanswered, locked};
pub use self::connection::{Connection, NotAConnection};
use self::orders::Orders;
use self::wire::{Balance, Info, Kind, Sent, Transaction};
use super::invoice::{Parsed, parse_unchecked};
use super::{
    Capabilities, Incoming, InvoiceRequest, IssuedInvoice, Movement, Outgoing, PayOutcome,
    PayRequest, Wallet, WalletError, bounded,
};
use crate::clock::Clock;
use crate::ids::{PaymentHash, Preimage, WalletId};
use crate::relay::direct::Encryption;
use crate::relay::{self, RelaySession};
use crate::units::{Msat, Network, UnixSecs};

/// How long a wallet may take to answer what it need not pay for.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a payment may take before it is in doubt: one was seen to settle after 72 seconds.
const PAY_WITHIN: Duration = Duration::from_secs(90);

/// How many blocks a hold is asked for: six hours, longer than any job, and well below the day that a
/// customer accepts by default.
const HOLD_BLOCKS: u64 = 36;

/// What a block counts for until a hold ends, in seconds: half its mean time, for blocks come in bursts and
/// a seller who claims too late has worked for nothing.
const HOLD_SECS_PER_BLOCK: u64 = 300;

/// How long a held payment surely stays, in seconds, where the wallet gives nothing to compute that from.
const HOLD_AT_LEAST_SECS: u64 = 600;

/// The most deadlines that are remembered.
const MOST_HOLDS: usize = 4096;

/// The first pause between looks at a hold that was told to settle.
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// How a connection is used.
#[derive(Clone, Debug)]
pub struct NwcOptions {
    /// Tells the time.
    pub clock: Clock,
    /// The network that the wallet must be on. One that says it is on another is not opened.
    pub network: Network,
    /// How long it may take to answer what it need not pay for.
    pub answer_within: Duration,
    /// How long a payment may take before it is in doubt.
    pub pay_within: Duration,
}

impl Default for NwcOptions {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            network: Network::Mainnet,
            answer_within: ANSWER_WITHIN,
            pay_within: PAY_WITHIN,
        }
    }
}

/// A wallet that is reached by Nostr Wallet Connect. Clones are the same connection; the last one that is
/// dropped ends it.
#[derive(Clone, Debug)]
pub struct NwcWallet {
    shared: Arc<Shared>,
    orders: Arc<Orders>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    id: WalletId,
    options: NwcOptions,
    alias: Option<String>,
    /// Its Lightning address, if the connection names one.
    address: Option<String>,
    methods: Vec<String>,
    tells_news: bool,
    holds: Mutex<HashMap<PaymentHash, UnixSecs>>,
}

impl NwcWallet {
    /// Opens a connection over a session with its relays, and asks the wallet what it can do.
    ///
    /// # Errors
    /// [`WalletError::Unreachable`] if the wallet does not answer; [`WalletError::Refused`] if it does not know
    /// this connection any more, or is on another network.
    pub async fn open(
        connection: Connection,
        session: Arc<dyn RelaySession>,
        options: NwcOptions,
    ) -> Result<Self, WalletError> {
        let id = connection.id();
        let address = connection.lightning_address().map(str::to_owned);
        let within = options.answer_within;
        let unreachable = |error: relay::RelayError| WalletError::Unreachable(error.to_string());
        let mut client = Client::listen(connection, session, options.clock.clone(), within)
            .await
            .map_err(unreachable)?;
        let said = announced(&client).await?;
        if !said.nip44 {
            client.encrypts(Encryption::Nip04);
        }
        let info: Info = match client.ask("get_info", json!({}), within).await {
            Ok(info) => read(info)?,
            Err(Unanswered::Said(why))
                if matches!(why.kind, Kind::NotImplemented | Kind::Restricted) =>
            {
                Info::default()
            }
            Err(Unanswered::Said(why)) => return Err(WalletError::Refused(why.words)),
            Err(Unanswered::Silent(why)) => {
                return Err(WalletError::Unreachable(format!(
                    "{why}; is the wallet running, and the connection still listed in it?"
                )));
            }
        };
        let (found, ours) = (info.network(), options.network);
        // Some services call every network mainnet. What is paid, or asks for payment, is held against ours by each
        // invoice; a word that is no such default is believed.
        let other = found.filter(|found| *found != ours && *found != Network::Mainnet);
        if let Some(found) = other {
            return Err(WalletError::Refused(format!(
                "it is on {found}, and [wallet.nwc] network says {ours}"
            )));
        }
        // What this connection may do, or else what the wallet can.
        let methods = if info.methods.is_empty() {
            said.methods
        } else {
            info.methods
        };
        if !methods.iter().any(|method| method == "lookup_invoice") {
            return Err(WalletError::Unsupported(
                "look up payments (lookup_invoice): nothing could be known of one whose answer got lost",
            ));
        }
        let shared = Arc::new(Shared {
            client,
            id,
            options,
            alias: info.alias.map(|alias| bounded(&alias)),
            address,
            methods,
            tells_news: said.news || !info.notifications.is_empty(),
            holds: Mutex::default(),
        });
        Ok(Self {
            orders: Arc::new(Orders::new(Arc::clone(&shared))),
            shared,
        })
    }

    /// What the wallet calls itself.
    #[must_use]
    pub fn alias(&self) -> Option<&str> {
        self.shared.alias.as_deref()
    }

    /// Whether this connection may use a method of NIP-47.
    #[must_use]
    pub fn can(&self, method: &str) -> bool {
        self.shared.can(method)
    }
}

/// What a wallet's reply to a look-up means, as a payment and as an invoice of ours, or its error's words: for
/// the fuzzers. `None`: it is no reply, or not to this.
#[doc(hidden)]
#[must_use]
pub fn reply_to_look_up(
    text: &str,
    hash: PaymentHash,
    now: UnixSecs,
) -> Option<Result<(Outgoing, Incoming), String>> {
    match wire::reply(text)? {
        Err(said) => Some(Err(said.words)),
        Ok(value) => {
            let found: Transaction = wire::read(value)?;
            let sent = found.as_sent(hash).told(|_| Msat::ZERO);
            Some(Ok((sent, found.as_received(now, now))))
        }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, WalletError> {
    let senseless = || WalletError::Refused("its answer makes no sense".to_owned());
    wire::read(value).ok_or_else(senseless)
}

impl Shared {
    fn can(&self, method: &str) -> bool {
        self.methods.iter().any(|has| has == method)
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, Unanswered> {
        let within = self.options.answer_within;
        self.client.ask(method, params, within).await
    }

    fn now(&self) -> UnixSecs {
        self.options.clock.now()
    }

    /// The invoice or payment on a hash. `None`: the wallet has none.
    async fn look_up(&self, hash: PaymentHash) -> Result<Option<Transaction>, WalletError> {
        let params = json!({ "payment_hash": hash.to_string() });
        match self.ask("lookup_invoice", params).await {
            Ok(Value::Null) => Ok(None),
            Ok(found) => {
                let found: Transaction = read(found)?;
                if found.is_about(hash) {
                    return Ok(Some(found));
                }
                let other = "it answered about another payment than it was asked about";
                Err(WalletError::Refused(other.to_owned()))
            }
            Err(Unanswered::Said(said)) if said.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What a look-up says of a payment.
    async fn sent(&self, hash: PaymentHash) -> Result<Sent, WalletError> {
        let found = self.look_up(hash).await?;
        Ok(found.map_or(Sent::NotFound, |found| found.as_sent(hash)))
    }

    /// When a held payment goes back. Decided once, when it is first seen.
    async fn held_until(&self, hash: PaymentHash, held: &Transaction) -> UnixSecs {
        if let Some(deadline) = locked(&self.holds).get(&hash) {
            return *deadline;
        }
        let now = self.now();
        let height = held.settle_deadline.or_else(|| self.client.deadline(hash));
        let reached = match height {
            Some(_) => self.height().await,
            None => None,
        };
        let deadline = match (height, reached) {
            (Some(height), Some(reached)) => {
                let blocks = height.saturating_sub(reached);
                now.plus(blocks.saturating_mul(HOLD_SECS_PER_BLOCK))
            }
            _ => deadline_by_invoice(held).unwrap_or(now.plus(HOLD_AT_LEAST_SECS)),
        };
        let mut holds = locked(&self.holds);
        if holds.len() >= MOST_HOLDS {
            holds.clear();
        }
        *holds.entry(hash).or_insert(deadline)
    }

    async fn height(&self) -> Option<u64> {
        let info = self.ask("get_info", json!({})).await.ok()?;
        read::<Info>(info).ok()?.block_height
    }

    /// An invoice of this network.
    fn parse(&self, bolt11: &str) -> Result<Parsed, String> {
        let invoice = parse_unchecked(bolt11).map_err(|problem| problem.to_string())?;
        let ours = self.options.network;
        if invoice.network == ours {
            return Ok(invoice);
        }
        let found = invoice.network;
        Err(format!("the invoice is on {found}, the wallet on {ours}"))
    }

    /// What a reply to `make_invoice` holds, if it is what was asked for.
    fn issued(
        &self,
        made: &Transaction,
        request: &InvoiceRequest,
    ) -> Result<IssuedInvoice, String> {
        let bolt11 = made.invoice.as_deref().unwrap_or_default();
        let invoice = self.parse(bolt11)?;
        if invoice.amount != Some(request.amount) {
            return Err(format!("its invoice does not ask for {}", request.amount));
        }
        if request
            .hold
            .is_some_and(|hash| hash != invoice.payment_hash)
        {
            return Err("its hold invoice is on another hash".to_owned());
        }
        Ok(IssuedInvoice {
            payment_hash: invoice.payment_hash,
            amount: request.amount,
            expires_at: invoice.expires_at,
            bolt11: invoice.bolt11,
        })
    }

    /// The open invoice that was made for the same request before.
    async fn made_before(&self, request: &InvoiceRequest) -> Option<IssuedInvoice> {
        let earlier = self.look_up(request.hold?).await.ok()??;
        let is_open = earlier.as_received(self.now(), UnixSecs::new(0)) == Incoming::Open;
        let issued = self.issued(&earlier, request).ok()?;
        let written = || super::issue::description(&issued.bolt11);
        let description = earlier.description.clone().or_else(written);
        (is_open && description.as_deref() == Some(&request.description)).then_some(issued)
    }

    async fn received(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        let Some(found) = self.look_up(hash).await? else {
            return Ok(Incoming::NotFound);
        };
        let now = self.now();
        let deadline = if found.is_held() {
            self.held_until(hash, &found).await
        } else {
            now
        };
        Ok(found.as_received(now, deadline))
    }
}

/// A bound on a hold by what its invoice says, counted from when that was made.
fn deadline_by_invoice(held: &Transaction) -> Option<UnixSecs> {
    let invoice = parse_unchecked(held.invoice.as_deref()?).ok()?;
    let secs = invoice.min_final_cltv.saturating_mul(HOLD_SECS_PER_BLOCK);
    Some(invoice.created_at.plus(secs))
}

#[async_trait]
impl Wallet for NwcWallet {
    fn id(&self) -> &WalletId {
        &self.shared.id
    }

    fn network(&self) -> Network {
        self.shared.options.network
    }

    fn capabilities(&self) -> Capabilities {
        let hold = [
            "make_hold_invoice",
            "settle_hold_invoice",
            "cancel_hold_invoice",
        ];
        Capabilities {
            hold_invoices: hold.into_iter().all(|method| self.can(method)),
            ..Capabilities::default()
        }
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        let balance: Balance = read(self.shared.ask("get_balance", json!({})).await?)?;
        let missing = || WalletError::Refused("it does not tell its balance".to_owned());
        balance.balance.map(Msat::new).ok_or_else(missing)
    }

    async fn fee_quote(&self, _bolt11: &str) -> Result<Msat, WalletError> {
        Err(WalletError::Unsupported("say what a payment will cost"))
    }

    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        let mut params = json!({
            "amount": request.amount.get(),
            "description": request.description,
            "expiry": request.expiry_secs,
        });
        let method = match request.hold {
            None => "make_invoice",
            Some(_) if !self.capabilities().hold_invoices => {
                return Err(WalletError::Unsupported("make hold invoices"));
            }
            Some(hash) => {
                params["payment_hash"] = json!(hash.to_string());
                params["min_cltv_expiry_delta"] = json!(HOLD_BLOCKS);
                "make_hold_invoice"
            }
        };
        let mut made = self.shared.ask(method, params.clone()).await;
        if matches!(&made, Err(why) if why.is_about("expiry")) {
            // Cashu mints, for one, choose it themselves.
            params.as_object_mut().map(|params| params.remove("expiry"));
            made = self.shared.ask(method, params).await;
        }
        match made {
            Ok(made) => {
                let made: Transaction = read(made)?;
                let issued = self.shared.issued(&made, &request);
                issued.map_err(WalletError::Refused)
            }
            Err(why) => match self.shared.made_before(&request).await {
                Some(earlier) => Ok(earlier),
                None => Err(why.into()),
            },
        }
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        self.shared.received(hash).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        let hash = preimage.payment_hash();
        let params = json!({ "preimage": preimage.reveal() });
        let told = self.shared.ask("settle_hold_invoice", params).await;
        // "Done" may be said of a hold that has gone back: only the look-up shows whose the money is.
        let until = Instant::now() + self.shared.options.answer_within;
        let mut pause = SETTLE_PAUSE;
        loop {
            let now = self.incoming(hash).await?;
            match (&told, now) {
                (_, Incoming::Settled) => return Ok(()),
                (Ok(_), Incoming::Held { .. } | Incoming::Open) if Instant::now() < until => {}
                (Ok(_), Incoming::Held { .. }) => {
                    let late = "it has not settled the hold yet".to_owned();
                    return Err(WalletError::Unreachable(late));
                }
                (Ok(_), now) => {
                    return Err(WalletError::Refused(format!(
                        "it was told to settle, and the payment is {}",
                        word(now)
                    )));
                }
                (Err(why), _) => return Err(why.clone().into()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        if !self.capabilities().hold_invoices {
            return Err(WalletError::Unsupported("cancel an invoice"));
        }
        let params = json!({ "payment_hash": hash.to_string() });
        match self.shared.ask("cancel_hold_invoice", params).await {
            Ok(_) => Ok(()),
            Err(why) => match self.incoming(hash).await? {
                Incoming::Cancelled => Ok(()),
                // Held it would be a hold invoice, so this may be one of the other sort.
                Incoming::Open if matches!(&why, Unanswered::Said(_)) => Err(
                    WalletError::Unsupported("cancel an invoice that is not a hold invoice"),
                ),
                _ => Err(why.into()),
            },
        }
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        self.orders.pay(request).await
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        self.orders.outgoing(hash).await
    }

    async fn addresses(&self) -> Result<Vec<String>, WalletError> {
        match &self.shared.address {
            Some(address) => Ok(vec![address.clone()]),
            // Its connection names none (lud16).
            None => Err(WalletError::Unsupported("tell an address")),
        }
    }

    async fn history(&self, limit: usize) -> Result<Vec<Movement>, WalletError> {
        if !self.can("list_transactions") {
            return Err(WalletError::Unsupported("list what it has paid"));
        }
        let params = json!({ "limit": limit, "unpaid": true });
        let found = self.shared.ask("list_transactions", params).await?;
        let items = match found {
            Value::Array(items) => items,
            Value::Object(mut object) => match object.remove("transactions") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let now = self.shared.now();
        let read = items.into_iter().filter_map(wire::read::<Transaction>);
        Ok(read
            .filter_map(|transaction| transaction.as_movement(now))
            .take(limit)
            .collect())
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.shared.tells_news.then(|| self.shared.client.hints())
    }
}

/// A state in words for the owner.
const fn word(state: Incoming) -> &'static str {
    match state {
        Incoming::Open => "not there",
        Incoming::Held { .. } => "held",
        Incoming::Settled => "settled",
        Incoming::Cancelled => "back with the payer",
        Incoming::Expired => "expired",
        Incoming::NotFound => "not known to it",
    }
}

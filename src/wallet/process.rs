//! A wallet of one's own, in any language: a program that speaks JSON lines on its stdin and stdout.
//!
//! # The protocol, version 1
//!
//! One JSON object a line, UTF-8, at most 64 KiB, either way. Amounts are whole millisatoshi, times are Unix
//! seconds, hashes and preimages 64 lower-case hex digits. What a program writes to stderr goes to the log
//! (`RUST_LOG=agent_compute::wallet::process=info`).
//!
//! A request has an `id`, a `method` and `params`; its answer has the same `id`, and a `result` or an `error`.
//! Requests come while others are open, and answers may come in any order:
//!
//! ```text
//! → {"id":1,"method":"hello","params":{"version":1}}
//! ← {"id":1,"result":{"version":1,"account":"my-node","network":"mainnet","changes":true,
//!    "capabilities":{"hold_invoices":false,"binding_fee_quote":false,"authoritative_lookup":true}}}
//! ```
//!
//! `hello` comes first and once. (A program of ours, such as the [Spark](super::spark) adapter, gets its secrets with
//! it; one of yours does not.) `account` names the balance: it must be the same after every restart, as only
//! that account may say what became of a payment. `network` is `mainnet`, `testnet`, `signet` or `regtest`.
//! What the capabilities promise is in [`Capabilities`]; leave out what is not so.
//!
//! | method | params | result |
//! |---|---|---|
//! | `balance` | `{}` | `{"balance_msat"}` |
//! | `addresses` | `{}` | `{"addresses"}`: where others may send money to, the best first |
//! | `fee_quote` | `{"bolt11"}` | `{"fee_msat"}` |
//! | `invoice` | `{"amount_msat","expiry_secs","description","payment_hash"}` | `{"bolt11"}` |
//! | `incoming` | `{"payment_hash"}` | `{"state"}`: `open`, `held` with `deadline`, `settled`, `cancelled`, `expired`, `not_found` |
//! | `settle` | `{"preimage"}` | `{}` |
//! | `cancel_invoice` | `{"payment_hash"}` | `{}` |
//! | `pay` | `{"bolt11","payment_hash","amount_msat","max_fee_msat","purchase"}` | `{"state"}`: `paid` with `preimage` or null and `fee_msat`, `in_flight`, `failed` with `reason` and `insufficient_funds`, `unknown` with `reason` |
//! | `outgoing` | `{"payment_hash"}` | as `pay`, or `not_found` |
//! | `history` | `{"limit"}` | `{"movements"}`, newest first: `direction` `incoming` or `outgoing`, `state` `pending`, `settled` or `failed`, `amount_msat`, and `fee_msat`, `payment_hash`, `created_at`, `description`, or null |
//!
//! `payment_hash` of `invoice` is null, or the hash that a hold invoice must be on. `failed` is a proof that no
//! money left and none will; in doubt a program says `unknown`. A payment hash is never paid twice. What each
//! call must mean is in [`Wallet`], and [`conformance`](super::conformance) tries a program's word.
//!
//! An error is `{"code","message"}`: `unsupported` (it can't do this at all, or does not know the method), `refused`, `unreachable` (what it
//! needs does not answer), `storage`. Nothing was paid by a call that ends in one, so `pay` has none: it says
//! `failed` or `unknown`.
//!
//! ```text
//! → {"method":"cancel","params":{"id":7}}      the answer to request 7 is not waited for any more
//! ← {"method":"changed"}                       an invoice or payment may have changed: look
//! ```
//!
//! Both are hints; neither is answered, and a payment that was begun goes on. When its stdin ends, the program
//! finishes what it must and exits.
//!
//! # When it misbehaves
//!
//! A program that dies, prints what is no message, or leaves a question open for longer than
//! [`ProcessOptions::answer_within`] is killed if it still lives, and started again for the next question. A
//! payment that it was about is looked up then; what the look-up can't say is [`PayOutcome::Unknown`].
//!
//! A wallet written in Rust is [`serve`]d to any other program in one call: see `examples/wallet_process.rs`.

mod child;
mod serve;
mod wire;

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::child::{Program, Unanswered};
pub use self::serve::serve;
use self::wire::{Addresses, Balance, Call, Fee, History, IncomingState, Made, PayState, Problem};
use super::invoice::parse_unchecked;
use super::{
    Capabilities, FailureProof, Incoming, InvoiceRequest, IssuedInvoice, Movement, Outgoing,
    PayOutcome, PayRequest, Wallet, WalletError, bounded,
};
use crate::ids::{PaymentHash, Preimage, WalletId};
use crate::secret::Secret;
use crate::units::{Msat, Network};

/// How long a program may take to answer what it need not pay for.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a payment may take before it is in doubt: the same as over Nostr Wallet Connect.
const PAY_WITHIN: Duration = Duration::from_secs(90);

/// The longest address that is shown, in bytes.
const MAX_ADDRESS_BYTES: usize = 1024;

/// The most addresses that are shown.
const MAX_ADDRESSES: usize = 8;

/// How a program is run.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The network that it must be on. One that says it is on another is not opened.
    pub network: Network,
    /// How long it may take to answer what it need not pay for. One that takes longer is killed.
    pub answer_within: Duration,
    /// How long a payment may take before it is in doubt. It goes on, and is looked up.
    pub pay_within: Duration,
    /// Variables of the environment that it does not get, besides those that hold keys, passwords and wallet
    /// connections by their known names.
    pub hide: Vec<String>,
}

/// A program of ours, and what it is told at each start.
pub(super) struct Ours {
    pub(super) kind: &'static str,
    pub(super) config: Secret,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            network: Network::Mainnet,
            answer_within: ANSWER_WITHIN,
            pay_within: PAY_WITHIN,
            hide: Vec::new(),
        }
    }
}

/// A wallet that another program is. Clones are the same; when the last one is dropped, its stdin ends.
#[derive(Clone, Debug)]
pub struct ProcessWallet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: Arc<Program>,
    id: WalletId,
    capabilities: Capabilities,
    tells_changes: bool,
    options: ProcessOptions,
    /// How many orders of this process each payment has.
    under_way: Arc<Mutex<HashMap<PaymentHash, usize>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl ProcessWallet {
    /// Starts a program, the first word, with the others as its arguments, and asks who it is.
    ///
    /// # Errors
    /// [`WalletError::Unreachable`] if it can't be started or does not answer; [`WalletError::Refused`] if it
    /// speaks another version or is on another network.
    pub async fn open(command: &[OsString], options: ProcessOptions) -> Result<Self, WalletError> {
        Self::open_ours(command, options, None).await
    }

    /// The same, for a program that may be ours.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) async fn open_ours(
        command: &[OsString],
        options: ProcessOptions,
        ours: Option<Ours>,
    ) -> Result<Self, WalletError> {
        let (kind, config) = match ours {
            Some(Ours { kind, config }) => (kind, Some(config)),
            None => ("process", None),
        };
        let program = Arc::new(Program::new(
            command,
            options.answer_within,
            options.hide.clone(),
            config,
        )?);
        let hello = program.hello().await?;
        let ours = options.network;
        if hello.network != ours {
            return Err(WalletError::Refused(format!(
                "it is on {}, and [wallet.{kind}] network says {ours}",
                hello.network
            )));
        }
        Ok(Self(Arc::new(Inner {
            program,
            id: WalletId {
                kind: kind.to_owned(),
                account: hello.account,
            },
            capabilities: hello.capabilities.into(),
            tells_changes: hello.changes,
            options,
            under_way: Arc::default(),
            tasks: Mutex::default(),
        })))
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, WalletError> {
        let within = self.0.options.answer_within;
        self.0.program.ask(call, within).await.map_err(told)
    }
}

/// What an unanswered question means to whoever asked it.
fn told(unanswered: Unanswered) -> WalletError {
    match unanswered {
        Unanswered::Said(problem) => problem.into(),
        Unanswered::Gone(why) => WalletError::Unreachable(why),
    }
}

/// What a program's line means as an answer about a payment, or why it means nothing: for the fuzzers. `None`:
/// it is no answer.
#[doc(hidden)]
#[must_use]
pub fn answer_to_look_up(line: &str, hash: PaymentHash) -> Option<Result<Outgoing, String>> {
    let Ok(wire::Line::Answer(answer)) = serde_json::from_str(line) else {
        return None;
    };
    if let Some(problem) = answer.error {
        return Some(Err(problem.bounded().message));
    }
    let state: PayState = serde_json::from_value(answer.result?).ok()?;
    Some(state.told(hash))
}

/// Counts an order for as long as it is under way.
struct UnderWay {
    hash: PaymentHash,
    orders: Arc<Mutex<HashMap<PaymentHash, usize>>>,
}

impl UnderWay {
    fn new(hash: PaymentHash, orders: &Arc<Mutex<HashMap<PaymentHash, usize>>>) -> Self {
        let orders = Arc::clone(orders);
        *locked(&orders).entry(hash).or_default() += 1;
        Self { hash, orders }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut orders = locked(&self.orders);
        if let Some(count) = orders.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                orders.remove(&self.hash);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the order, and looks the payment up if the program dies over it.
async fn order(program: &Program, request: &PayRequest, options: &ProcessOptions) -> PayOutcome {
    let hash = request.payment_hash;
    let call = Call::Pay {
        bolt11: request.bolt11.clone(),
        payment_hash: hash,
        amount_msat: request.amount,
        max_fee_msat: request.max_fee,
        purchase: request.purchase,
    };
    let unknown = |reason: String| PayOutcome::Unknown { reason };
    let why = match program.pay(call, options.pay_within).await {
        Ok(state) => return outcome(state, hash),
        // It never had the order.
        Err(child::Untold::NotGiven(why)) => {
            let why = format!("{why}; it was told nothing, so nothing was paid");
            return PayOutcome::Failed(FailureProof::new(why));
        }
        Err(child::Untold::Lost(Unanswered::Said(problem))) => {
            return unknown(format!(
                "it answered an order with an error: {}",
                problem.message
            ));
        }
        Err(child::Untold::Lost(Unanswered::Gone(why))) => why,
    };
    // Started again, it may know.
    let call = Call::Outgoing { payment_hash: hash };
    match program.ask(call, options.answer_within).await {
        Ok(PayState::NotFound) | Err(_) => unknown(why),
        Ok(state) => outcome(state, hash),
    }
}

/// What was said of a payment. A preimage of another hash is none.
fn outcome(state: PayState, hash: PaymentHash) -> PayOutcome {
    match state.told(hash) {
        Ok(Outgoing::Paid { preimage, fee }) => PayOutcome::Paid { preimage, fee },
        Ok(Outgoing::InFlight) => PayOutcome::InFlight,
        Ok(Outgoing::Failed(proof)) => PayOutcome::Failed(proof),
        Ok(Outgoing::NotFound) => PayOutcome::Unknown {
            reason: "it knows nothing of it".to_owned(),
        },
        Err(reason) => PayOutcome::Unknown { reason },
    }
}

#[async_trait]
impl Wallet for ProcessWallet {
    fn id(&self) -> &WalletId {
        &self.0.id
    }

    fn network(&self) -> Network {
        self.0.options.network
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        let balance: Balance = self.ask(Call::Balance {}).await?;
        Ok(balance.balance_msat)
    }

    async fn addresses(&self) -> Result<Vec<String>, WalletError> {
        let Addresses { addresses } = self.ask(Call::Addresses {}).await?;
        let plain = |address: &String| {
            let fits = !address.is_empty() && address.len() <= MAX_ADDRESS_BYTES;
            fits && address.chars().all(|c| c.is_ascii_graphic())
        };
        match addresses.iter().all(plain) && addresses.len() <= MAX_ADDRESSES {
            true => Ok(addresses),
            false => Err(WalletError::Refused("its addresses are none".to_owned())),
        }
    }

    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError> {
        let bolt11 = bolt11.to_owned();
        let fee: Fee = self.ask(Call::FeeQuote { bolt11 }).await?;
        Ok(fee.fee_msat)
    }

    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        if request.hold.is_some() && !self.0.capabilities.hold_invoices {
            return Err(WalletError::Unsupported("make hold invoices"));
        }
        let call = Call::Invoice {
            amount_msat: request.amount,
            expiry_secs: request.expiry_secs,
            description: request.description,
            payment_hash: request.hold,
        };
        let made: Made = self.ask(call).await?;
        let refused = |why: String| Err(WalletError::Refused(why));
        let invoice = match parse_unchecked(&made.bolt11) {
            Ok(invoice) => invoice,
            Err(problem) => return refused(problem.to_string()),
        };
        if invoice.network != self.network() {
            return refused(format!("its invoice is on {}", invoice.network));
        }
        if invoice.amount != Some(request.amount) {
            return refused(format!("its invoice does not ask for {}", request.amount));
        }
        if request
            .hold
            .is_some_and(|hash| hash != invoice.payment_hash)
        {
            return refused("its hold invoice is on another hash".to_owned());
        }
        Ok(IssuedInvoice {
            payment_hash: invoice.payment_hash,
            amount: request.amount,
            expires_at: invoice.expires_at,
            bolt11: invoice.bolt11,
        })
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        let state: IncomingState = self.ask(Call::Incoming { payment_hash: hash }).await?;
        Ok(state.into())
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        let preimage = preimage.reveal();
        let _: serde::de::IgnoredAny = self.ask(Call::Settle { preimage }).await?;
        Ok(())
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        let call = Call::CancelInvoice { payment_hash: hash };
        let _: serde::de::IgnoredAny = self.ask(call).await?;
        Ok(())
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        let under_way = UnderWay::new(request.payment_hash, &self.0.under_way);
        let (program, options) = (Arc::clone(&self.0.program), self.0.options.clone());
        let (tell, told) = oneshot::channel();
        {
            // A task of its own: a payment that was begun goes on if nobody waits for it.
            let mut tasks = locked(&self.0.tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move {
                let outcome = order(&program, &request, &options).await;
                drop(under_way);
                let _ = tell.send(outcome);
            });
        }
        told.await.unwrap_or_else(|_| PayOutcome::Unknown {
            reason: "the wallet program was let go".to_owned(),
        })
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        // Asked before the program is: an order that ends meanwhile is known to it.
        let is_under_way = locked(&self.0.under_way).contains_key(&hash);
        let state: PayState = self.ask(Call::Outgoing { payment_hash: hash }).await?;
        match state.told(hash).map_err(WalletError::Unreachable)? {
            Outgoing::NotFound if is_under_way => Ok(Outgoing::InFlight),
            found => Ok(found),
        }
    }

    async fn history(&self, limit: usize) -> Result<Vec<Movement>, WalletError> {
        let found: History = self.ask(Call::History { limit }).await?;
        let told = |movement: Movement| Movement {
            description: movement.description.as_deref().map(bounded),
            ..movement
        };
        Ok(found.movements.into_iter().take(limit).map(told).collect())
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        let program = &self.0.program;
        self.0.tells_changes.then(|| program.hints())
    }
}

impl From<Problem> for WalletError {
    fn from(problem: Problem) -> Self {
        match problem.code.as_str() {
            "unreachable" => Self::Unreachable(problem.message),
            "storage" => Self::Storage(problem.message),
            "unsupported" => Self::Unsupported("do this"),
            _ => Self::Refused(problem.message),
        }
    }
}

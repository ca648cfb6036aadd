//! The wallet port: what a purchase and a job need from whatever holds the money.
//!
//! # Three outcomes
//!
//! A payment is *paid*, *failed*, or *unknown*, and the third is not the second: an unknown payment
//! may have left the wallet. [`PayOutcome::Failed`] carries a [`FailureProof`], and only
//! that frees reserved money. A time-out, a dropped connection or an error that a service may have
//! raised after it paid is [`PayOutcome::Unknown`].
//!
//! # Bringing one's own
//!
//! Implement [`Wallet`] and run `conformance` against it. The trait is dyn-safe; a wallet is shared
//! as `Arc<dyn Wallet>`, called from many tasks at once, and must not block them.

pub mod conformance;
pub mod invoice;
pub mod issue;
pub mod nwc;
pub mod process;
pub mod sim;
pub mod spark;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ids::{PaymentHash, Preimage, PurchaseId, WalletId};
use crate::units::{Msat, Network, UnixSecs};

/// What a backend can promise. A caller chooses by these and says clearly what is missing.
///
/// The default promises nothing. Say what is true, and leave the rest to the default, so that a promise
/// that is added later is not made by accident:
///
/// ```
/// use agent_compute::wallet::Capabilities;
///
/// let capabilities = Capabilities {
///     hold_invoices: true,
///     ..Capabilities::default()
/// };
/// assert!(!capabilities.authoritative_lookup);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Play money: never counts against real limits, and says so wherever a person could mistake it.
    pub play_money: bool,
    /// Invoices on a hash that the caller gives, held until settled or cancelled.
    pub hold_invoices: bool,
    /// [`Wallet::fee_quote`] binds: a payment never costs more than quoted.
    pub binding_fee_quote: bool,
    /// `NotFound` from [`Wallet::outgoing`] proves that the payment was never made.
    pub authoritative_lookup: bool,
}

/// An invoice to be made.
#[derive(Clone, Debug)]
pub struct InvoiceRequest {
    /// What it asks for. Never zero.
    pub amount: Msat,
    /// Seconds until it can no longer be paid.
    pub expiry_secs: u64,
    /// For a hold invoice: the hash whose preimage the payer knows.
    pub hold: Option<PaymentHash>,
    /// The BOLT11 description.
    pub description: String,
}

/// An invoice that a wallet made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedInvoice {
    /// The BOLT11 text.
    pub bolt11: String,
    /// Its payment hash.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub amount: Msat,
    /// When it can no longer be paid.
    pub expires_at: UnixSecs,
}

/// What became of an invoice of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Nobody has paid.
    Open,
    /// The money is locked on its way to us. It is ours once [`Wallet::settle`] succeeds before `deadline`.
    Held {
        /// When the payer gets it back unless it is settled.
        deadline: UnixSecs,
    },
    /// Paid: the money is ours.
    Settled,
    /// Cancelled by us; the payer has the money.
    Cancelled,
    /// Never paid, and too late now.
    Expired,
    /// This wallet has no such invoice.
    NotFound,
}

/// A payment to be made.
#[derive(Clone, Debug)]
pub struct PayRequest {
    /// The BOLT11 text, already authorised by the caller.
    pub bolt11: String,
    /// Its payment hash: the name under which the payment is looked up.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub amount: Msat,
    /// The most that routing may cost on top.
    pub max_fee: Msat,
    /// The purchase it pays for; an idempotency key where the backend has such a thing.
    pub purchase: PurchaseId,
}

/// Why it is certain that a payment did not and will not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureProof {
    /// What proves it, in words for the owner.
    pub reason: String,
    /// Whether the wallet was short of funds.
    pub insufficient_funds: bool,
}

impl FailureProof {
    /// A proof in words.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            insufficient_funds: false,
        }
    }

    /// The reason, or a sentence in its place: a wallet may prove a failure and say nothing about it, and no
    /// money is freed without words.
    #[must_use]
    pub fn words(&self) -> &str {
        if self.reason.trim().is_empty() {
            "the wallet said so and gave no reason"
        } else {
            &self.reason
        }
    }
}

/// A payment's state, as the wallet that made it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayOutcome {
    /// The payee has the money.
    Paid {
        /// Proof of payment, if the backend tells it.
        preimage: Option<Preimage>,
        /// What routing cost on top of the amount.
        fee: Msat,
    },
    /// Sent and neither arrived nor failed: a hold invoice in the payee's hands, or a slow route.
    InFlight,
    /// It did not happen, and it will not.
    Failed(FailureProof),
    /// It may have happened. Ask [`Wallet::outgoing`].
    Unknown {
        /// What is known of why, in words for the owner.
        reason: String,
    },
}

/// What a look-up of an outgoing payment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// The payee has the money.
    Paid {
        /// Proof of payment, if the backend tells it.
        preimage: Option<Preimage>,
        /// What routing cost on top of the amount.
        fee: Msat,
    },
    /// Still on its way.
    InFlight,
    /// The wallet tried, and has the money back.
    Failed(FailureProof),
    /// The wallet knows of no such payment. Proof of anything only with
    /// [`Capabilities::authoritative_lookup`].
    NotFound,
}

/// Which way money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To this wallet.
    Incoming,
    /// From this wallet.
    Outgoing,
}

/// How far a movement of money is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovementState {
    /// An invoice that can be paid, or a payment on its way or held.
    Pending,
    /// The payee has the money.
    Settled,
    /// It did not happen: failed, cancelled or expired.
    Failed,
}

/// One line of a wallet's own history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Movement {
    /// Which way.
    pub direction: Direction,
    /// How far.
    pub state: MovementState,
    /// What it is about, routing fee not included.
    pub amount_msat: Msat,
    /// What routing cost, if the wallet tells.
    pub fee_msat: Option<Msat>,
    /// The payment, if the wallet tells.
    pub payment_hash: Option<PaymentHash>,
    /// When it began, if the wallet tells.
    pub created_at: Option<UnixSecs>,
    /// The invoice's description: a stranger's words.
    pub description: Option<String>,
}

/// Why a wallet could not answer. Nothing was paid by the call that returns one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// It can't be reached, or did not answer in time.
    #[error("the wallet can't be reached: {0}")]
    Unreachable(String),
    /// It answered with a refusal.
    #[error("the wallet refused: {0}")]
    Refused(String),
    /// It can't do this at all.
    #[error("this wallet can't {0}")]
    Unsupported(&'static str),
    /// Its own records are damaged or of a version this program does not know.
    #[error("the wallet's records can't be used: {0}")]
    Storage(String),
}

/// The most characters of a wallet's own words that are repeated.
const MOST_WORDS: usize = 200;

/// A wallet's words, on one line and not too many.
fn bounded(words: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    words.chars().take(MOST_WORDS).map(plain).collect()
}

/// A place where money is. See the [module](self) for what its answers must mean.
#[async_trait]
pub trait Wallet: fmt::Debug + Send + Sync {
    /// Which balance this is.
    fn id(&self) -> &WalletId;

    /// The network its money is on.
    fn network(&self) -> Network;

    /// What it can promise.
    fn capabilities(&self) -> Capabilities;

    /// What it can spend now.
    ///
    /// # Errors
    /// If the wallet does not answer.
    async fn balance(&self) -> Result<Msat, WalletError>;

    /// What paying this would cost on top, at most. Binding if the capabilities say so.
    ///
    /// # Errors
    /// [`WalletError::Unsupported`] where there is no such estimate.
    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError>;

    /// Makes an invoice. With [`InvoiceRequest::hold`] it is a hold invoice on that very hash, and a
    /// hash that was used before is refused; but who asks for the same once more (hash, amount,
    /// description) while it is open gets the same invoice, where the wallet can: that caller died before
    /// it could note it.
    ///
    /// # Errors
    /// If the wallet does not answer, refuses, or has no hold invoices.
    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError>;

    /// What became of an invoice of ours.
    ///
    /// # Errors
    /// If the wallet does not answer.
    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError>;

    /// Claims a held payment. Idempotent: settling twice is a success.
    ///
    /// # Errors
    /// If nothing is held under this preimage's hash, or the wallet does not answer.
    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError>;

    /// Gives a held payment back, or makes an open invoice unpayable. Idempotent.
    ///
    /// # Errors
    /// If it was settled already, or the wallet does not answer. [`WalletError::Unsupported`] where nothing can give
    /// money back before its deadline, at which it goes back by itself.
    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError>;

    /// Pays. Never pays one payment hash twice, whoever asks.
    ///
    /// A payment that was begun goes on if this future is dropped: look it up.
    async fn pay(&self, request: PayRequest) -> PayOutcome;

    /// What became of a payment of ours.
    ///
    /// # Errors
    /// If the wallet does not answer; that proves nothing.
    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError>;

    /// Where others may send money to without an invoice: the best address first.
    ///
    /// # Errors
    /// [`WalletError::Unsupported`] where there is none, which is what a wallet says unless it brings this method.
    async fn addresses(&self) -> Result<Vec<String>, WalletError> {
        Err(WalletError::Unsupported("tell an address"))
    }

    /// What this wallet was paid and has paid, by whatever program, and what is about to be, newest first.
    ///
    /// # Errors
    /// [`WalletError::Unsupported`] where the wallet keeps no such list, which is what a wallet says unless it
    /// brings this method.
    async fn history(&self, limit: usize) -> Result<Vec<Movement>, WalletError> {
        let _ = limit;
        Err(WalletError::Unsupported("list what it has paid"))
    }

    /// Changes whenever an invoice or payment of this wallet may have changed: a hint that wakes a
    /// waiter, who then looks. `None`: no such hints, so poll.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

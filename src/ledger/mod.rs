//! The spend ledger: what was set aside, what was spent, and what is still in doubt. One SQLite file,
//! shared by every process of one home.
//!
//! # Reservations
//!
//! ```text
//!            reserve            pay begins           the wallet says paid
//!   (none) ──────────► reserved ──────────► in flight ──────────────────► settled
//!                         │                  │     ▲                         ▲
//!                         │ never begun      │     │ seen again              │ a look-up says paid
//!                         ▼                  ▼     │                         │
//!                      released ◄───────── unknown ──────────────────────────┘
//!                            a look-up proves failure
//! ```
//!
//! Money counts against the limits from *reserved* until *released*; an `unknown` reservation stays
//! until a look-up decides, over crashes and days. Nothing leaves *settled*. One step is not in the
//! picture, because it should never be needed: a payment that turns out to be settled after its
//! failure was proven is booked all the same, and says so in the log (`settle_after_release`).
//!
//! A purchase has one reservation at most, and a payment hash is in one reservation at most, ever.
//!
//! # Who may act
//!
//! Every process holds a lock on a file of its own for as long as it lives and stamps its id on its
//! purchases. A purchase is taken over only when that lock is free, and every change is a
//! compare-and-swap on `(owner, version)`.
//!
//! # Providers
//!
//! What each purchase says of its provider ([`Entry::Observe`]) is on record with the state that says it: once
//! per purchase, whatever crashes. [`Ledger::records`] adds it up, per [`Scope`].
//!
//! # Receipts
//!
//! The commit that ends a purchase writes its receipt too ([`Entry::Receipt`]): the ledger gives it a number and
//! the id of the one before, and the caller signs that, inside the transaction. Nothing changes or deletes one.
//!
//! # Time
//!
//! Ledger time is the system's, but never runs backwards: a clock that is set back over midnight does
//! not give the same day a second budget. A clock that once ran ahead keeps the ledger at that day until
//! the real one arrives ([`Ledger::time`] tells); refusing too long is the safe way to be wrong.
//!
//! # A full disk, and files that are lost
//!
//! Before a purchase is put on record, its process takes half a megabyte of the disk, in its own lock file, and
//! gives it up when a later change finds the disk full: what was begun can be booked to its end. Where there
//! is not so much, nothing is bought, and who only reads still can.
//!
//! A ledger that is deleted or replaced while it is open is written no more: nothing that it granted would
//! count for those who open the name anew. After a crash the latest changes are in the log beside the file
//! (`-wal`). Each owner's lock file says how much was written when it opened it or last wrote, and stays if it dies; a ledger
//! that has less, because its log was deleted or an older copy was put in its place, is refused.

pub mod budget;
mod checkup;
mod diagram;
mod handle;
mod owner;
mod paths;
mod receipt;
mod schema;
mod store;
mod together;

use std::fmt;

use nostr::EventId;
use serde::{Deserialize, Serialize};

pub use self::budget::{BudgetReport, Limits, Refusal, RefusedBy, Usage};
pub use self::checkup::{Checkup, check_up};
pub use self::handle::{DriveGuard, Ledger};
pub use self::receipt::{ReceiptDraft, ReceiptPlace, ReceiptRecord, WrittenReceipt};
use crate::error::{Code, Error};
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::protocol::record::Observation;
use crate::units::{Msat, Network, UnixSecs};

/// Which budget some money counts against. Limits and history are kept per scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The network the money is on.
    pub network: Network,
    /// Play money never counts against real limits, nor the other way round.
    pub play_money: bool,
}

/// How a purchase stands, as far as the ledger itself must know. The rest is in its opaque state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Under way, or cut off under way.
    Open,
    /// The result is here, and what was paid for it is certain.
    Delivered,
    /// Paid, or locked in escrow, and no result came in time. It may still come.
    Undelivered,
    /// Over, and nothing was paid.
    Failed,
}

impl Status {
    const ALL: [Self; 4] = [Self::Open, Self::Delivered, Self::Undelivered, Self::Failed];

    /// The word for it, as in JSON and in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Failed => "failed",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// The state of a purchase as its state machine wrote it: opaque here, but for the status.
/// `Debug` does not show what is in it: prompts, and perhaps a preimage.
#[derive(Clone, PartialEq, Eq)]
pub struct StateRow {
    /// Versioned JSON of the state machine.
    pub json: String,
    /// The name of the state, for people and for `history`.
    pub label: String,
    /// How it stands.
    pub status: Status,
}

impl fmt::Debug for StateRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateRow")
            .field("label", &self.label)
            .field("status", &self.status)
            .field("bytes", &self.json.len())
            .finish()
    }
}

/// A caller's name for one purchase, so that asking again does not buy again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: String,
    /// A digest of what was asked: the same key with another request is an error.
    pub fingerprint: String,
}

/// A purchase to be put on record.
#[derive(Clone, Debug)]
pub struct NewPurchase {
    /// Its id, random.
    pub id: PurchaseId,
    /// Which budget it will count against.
    pub scope: Scope,
    /// The tick it belongs to; `None`: a tick of its own.
    pub tick: Option<String>,
    /// The caller's key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// Its first state.
    pub state: StateRow,
}

/// What became of putting a purchase on record.
#[derive(Clone, Debug)]
pub enum Opened {
    /// It is new, at this version, and ours.
    New(PurchaseRecord),
    /// The key names this one already, with the same request, and it is not a failed one.
    Existing(PurchaseRecord),
}

/// The reservation of a purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Where it stands.
    pub status: ReservationStatus,
    /// The invoice's amount.
    pub price: Msat,
    /// The most that routing may cost on top; `price + fee_cap` is what is set aside.
    pub fee_cap: Msat,
    /// The payment.
    pub payment_hash: PaymentHash,
    /// The wallet that pays, and that alone decides what became of it.
    pub wallet: WalletId,
    /// What was spent, fee included, once settled.
    pub spent: Option<Msat>,
    /// The part of [`spent`](Self::spent) that routing cost.
    pub fee: Option<Msat>,
}

impl Reservation {
    /// What is set aside, and counts as spent, as long as the reservation is open.
    #[must_use]
    pub const fn set_aside(&self) -> Msat {
        self.price.saturating_add(self.fee_cap)
    }
}

/// See the [module](self)'s diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationStatus {
    /// Set aside; no payment was begun.
    Reserved,
    /// A payment was begun.
    InFlight,
    /// A payment was begun, and its wallet could not say what became of it.
    Unknown,
    /// Spent.
    Settled,
    /// Given back: it is certain that nothing was or will be paid.
    Released,
}

impl ReservationStatus {
    const ALL: [Self; 5] = [
        Self::Reserved,
        Self::InFlight,
        Self::Unknown,
        Self::Settled,
        Self::Released,
    ];

    /// The word for it, as in JSON and in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::InFlight => "in_flight",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Released => "released",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether the money is still set aside: neither spent nor given back.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Reserved | Self::InFlight | Self::Unknown)
    }
}

/// A purchase on record.
#[derive(Clone, Debug)]
pub struct PurchaseRecord {
    /// Its id.
    pub id: PurchaseId,
    /// Which budget it counts against.
    pub scope: Scope,
    /// Its tick.
    pub tick: Option<String>,
    /// The caller's key.
    pub idempotency_key: Option<String>,
    /// Its state.
    pub state: StateRow,
    /// Grows by one with every change.
    pub version: u64,
    /// The process that stamped it last.
    pub owner: String,
    /// When it was put on record, in ledger time.
    pub created_at: UnixSecs,
    /// When it changed last, in ledger time.
    pub updated_at: UnixSecs,
    /// Its money, if any was ever set aside.
    pub reservation: Option<Reservation>,
}

impl PurchaseRecord {
    /// What is still set aside for it, fee cap included.
    #[must_use]
    pub fn reserved(&self) -> Msat {
        match &self.reservation {
            Some(reservation) if reservation.status.is_open() => reservation.set_aside(),
            _ => Msat::ZERO,
        }
    }
}

/// A purchase as the owner's books have it.
#[derive(Clone, Debug)]
pub struct Booked {
    /// Its place among all purchases of this ledger.
    pub seq: u64,
    /// It.
    pub record: PurchaseRecord,
    /// The receipt that holds, if it has one.
    pub receipt: Option<EventId>,
}

/// A line of a purchase's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Ledger time.
    pub at: UnixSecs,
    /// The word for what happened: `opened`, `state`, `reserve`, `in_flight`, `unknown`, `settle`,
    /// `settle_after_release`, `release`, `note` or `adopted`.
    pub what: String,
    /// The amount that it is about, if any.
    pub amount_msat: Option<Msat>,
    /// Why, in words.
    pub note: Option<String>,
}

/// Which purchases to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only those that count against this budget.
    pub scope: Option<Scope>,
    /// The newest so many.
    pub limit: u32,
}

/// The wallet's balance as seen before a reservation, for the floor below which it must not be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenBalance {
    /// What the wallet said it could spend.
    pub balance: Msat,
    /// [`Ledger::settlements`] of that wallet, read *before* the balance was asked for. If it has moved on
    /// since, the balance may count money that is gone, and the reservation is refused as stale.
    pub settlements: u64,
}

/// Money to be set aside.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// The invoice's amount.
    pub price: Msat,
    /// The most that routing may cost on top.
    pub fee_cap: Msat,
    /// The payment. Refused if any reservation ever had it.
    pub payment_hash: PaymentHash,
    /// The wallet that will pay.
    pub wallet: WalletId,
    /// The limits that must hold, all at once.
    pub limits: Limits,
    /// Needed when [`Limits::floor`] is not zero.
    pub seen: Option<SeenBalance>,
}

/// A change to the money of a purchase, committed together with its new state.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Set money aside, if every limit allows it.
    Reserve(Reserve),
    /// A payment is about to begin.
    InFlight,
    /// The wallet can't say what became of the payment.
    Unknown {
        /// Why not.
        reason: String,
    },
    /// The payment is settled. Booked in full, even above the reservation.
    Settle {
        /// What arrived.
        price: Msat,
        /// What routing cost.
        fee: Msat,
    },
    /// It is certain that nothing was or will be paid.
    Release {
        /// What proves it.
        proof: String,
    },
    /// Nothing about money: a remark for the log, such as the owner's override.
    Note(String),
    /// Nothing about money: what the purchase says of its provider. A later one of the same purchase takes
    /// its place, but nothing undoes a delivery, and what is known already is not dated anew.
    Observe(Observation),
    /// Nothing about money: a receipt of it, written once the money is booked.
    Receipt(ReceiptDraft),
}

/// Why the ledger did not do what it was asked. In every case nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A limit refuses the reservation.
    #[error("{0}")]
    Refused(Refusal),
    /// The payment hash was in a reservation before.
    #[error("payment hash {0} was used before")]
    HashUsed(PaymentHash),
    /// The balance that was seen is out of date: look again.
    #[error("the wallet's balance changed meanwhile")]
    StaleBalance,
    /// Someone else changed or owns the purchase.
    #[error("purchase {0} was changed by another process")]
    Conflict(PurchaseId),
    /// The idempotency key stands for another request.
    #[error(
        "this idempotency key was used for a different request (purchase {0}); nothing was bought: take \
         a new key, or ask again for the same thing"
    )]
    KeyConflict(PurchaseId),
    /// There is no such purchase.
    #[error("no purchase {0} in this ledger")]
    NotFound(String),
    /// More than one purchase has an id that begins so.
    #[error("more than one purchase id begins with {0}: give more digits")]
    Ambiguous(String),
    /// The change is not one that the diagram has: a bug in the caller.
    #[error("not a step the ledger allows: {0}")]
    Illegal(String),
    /// The file can't be opened, read or written. (Should a disk fail in the middle of a commit, the
    /// change may turn up after a restart; recovery then finds more on record, never less.)
    #[error("the ledger {path} can't be used: {problem}")]
    Storage {
        /// The file.
        path: String,
        /// What is the matter, and what mends it.
        problem: String,
    },
}

impl From<LedgerError> for Error {
    fn from(error: LedgerError) -> Self {
        let code = match &error {
            LedgerError::Refused(_) => Code::Budget,
            LedgerError::HashUsed(_) => Code::BadInvoice,
            LedgerError::KeyConflict(_) | LedgerError::NotFound(_) | LedgerError::Ambiguous(_) => {
                Code::Usage
            }
            LedgerError::Illegal(_) => Code::Internal,
            LedgerError::StaleBalance | LedgerError::Conflict(_) | LedgerError::Storage { .. } => {
                Code::Ledger
            }
        };
        Self::new(code, error.to_string())
    }
}

//! A purchase on record, as `history` and `show` print it.

use serde::Serialize;

use crate::cli::settings::{Settings, WalletChoice};
use crate::clock::Clock;
use crate::config::Role;
use crate::error::{Code, Error, Result};
use crate::ids::{JobId, PaymentHash, PurchaseId};
use crate::ledger::{HistoryQuery, Ledger, PurchaseRecord, Scope};
use crate::purchase::kept::Kept;
use crate::purchase::lock::Word;
use crate::purchase::payment::{self, Payment};
use crate::purchase::state::{Phase, State};
use crate::units::{Msat, Network, UnixSecs};

/// One purchase. Amounts are integer millisatoshi.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) purchase_id: PurchaseId,
    pub(super) created_at: UnixSecs,
    pub(super) updated_at: UnixSecs,
    pub(super) state: String,
    pub(super) kind: EntryKind,
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
    pub(super) job_id: Option<JobId>,
    pub(super) network: Network,
    pub(super) play_money: bool,
    pub(super) tick: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) price_msat: Option<Msat>,
    pub(super) fee_msat: Msat,
    pub(super) paid_msat: Msat,
    pub(super) reserved_msat: Msat,
    pub(super) payment_hash: Option<PaymentHash>,
    pub(super) wallet: Option<String>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryKind {
    /// Something was asked of a provider.
    Purchase,
    /// The owner paid an invoice by hand.
    Payment,
}

impl EntryKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Payment => "payment",
        }
    }
}

impl Entry {
    pub(super) fn of(record: &PurchaseRecord) -> Result<Self> {
        Ok(match read(record)? {
            Kept::Purchase(state) => Self::of_purchase(record, &state),
            Kept::Payment(payment) => Self::of_payment(record, &payment),
        })
    }

    pub(super) fn of_purchase(record: &PurchaseRecord, state: &State) -> Self {
        let settled = state.phase.settled();
        Self {
            provider: Some(state.terms.provider.to_hex()),
            model: state.terms.model.clone(),
            job_id: Some(state.terms.job_id()),
            price_msat: price(&state.phase).or(record.reservation.as_ref().map(|r| r.price)),
            fee_msat: settled.map_or(Msat::ZERO, |settled| settled.fee),
            paid_msat: state.phase.paid(),
            ..Self::of_either(record, EntryKind::Purchase)
        }
    }

    pub(super) fn of_payment(record: &PurchaseRecord, payment: &Payment) -> Self {
        let (amount, hash) = (payment.payment.amount, payment.payment.payment_hash);
        let (paid, fee) = match &payment.phase {
            payment::Phase::Settled { fee, .. } => (amount.saturating_add(*fee), *fee),
            _ => (Msat::ZERO, Msat::ZERO),
        };
        Self {
            price_msat: Some(amount),
            fee_msat: fee,
            paid_msat: paid,
            payment_hash: Some(hash),
            wallet: Some(payment.wallet.to_string()),
            ..Self::of_either(record, EntryKind::Payment)
        }
    }

    /// What the ledger itself says of it.
    fn of_either(record: &PurchaseRecord, kind: EntryKind) -> Self {
        Self {
            purchase_id: record.id,
            created_at: record.created_at,
            updated_at: record.updated_at,
            state: record.state.label.clone(),
            kind,
            provider: None,
            model: None,
            job_id: None,
            network: record.scope.network,
            play_money: record.scope.play_money,
            tick: record.tick.clone(),
            idempotency_key: record.idempotency_key.clone(),
            price_msat: None,
            fee_msat: Msat::ZERO,
            paid_msat: Msat::ZERO,
            reserved_msat: record.reserved(),
            payment_hash: record.reservation.as_ref().map(|r| r.payment_hash),
            wallet: record.reservation.as_ref().map(|r| r.wallet.to_string()),
        }
    }
}

/// What the provider asked, once it has.
fn price(phase: &Phase) -> Option<Msat> {
    match phase {
        Phase::Delivered { price, .. } => Some(*price),
        phase => phase.quote().map(|quote| quote.amount),
    }
}

pub(super) fn read(record: &PurchaseRecord) -> Result<Kept> {
    Kept::from_row(&record.state)
        .map_err(|error| Error::new(Code::Ledger, format!("purchase {}: {error}", record.id)))
}

/// Why a payment by hand ended as it did, in words.
pub(super) fn reason_of_payment(phase: &payment::Phase) -> Option<&str> {
    match phase {
        payment::Phase::Unknown { reason, .. } => Some(reason),
        payment::Phase::Failed { message, .. } => Some(message),
        _ => None,
    }
}

/// Why a purchase ended as it did, in words.
pub(super) fn reason(phase: &Phase) -> Option<&str> {
    match phase {
        Phase::Unknown { reason, .. }
        | Phase::Undelivered { reason, .. }
        | Phase::Withheld { reason, .. } => Some(reason),
        Phase::Locked(lock) => match &lock.word {
            Word::Unknown(reason) => Some(reason),
            Word::Told | Word::InFlight => None,
        },
        Phase::Failed { message, .. } => Some(message),
        _ => None,
    }
}

/// Which budget a look at the books is about: that of the chosen wallet or network, and without such a
/// choice that of the latest purchase.
pub(super) async fn scope(settings: &Settings, ledger: Option<&Ledger>) -> Result<Scope> {
    let chosen = settings.wallet != WalletChoice::Unset || settings.network.is_some();
    if let (false, Some(ledger)) = (chosen, ledger) {
        let latest = HistoryQuery {
            scope: None,
            limit: 1,
        };
        if let Some(latest) = ledger.history(latest).await?.first() {
            return Ok(latest.scope);
        }
    }
    Ok(settings.scope())
}

/// The ledger, to be read only; `None` if nothing was ever bought from this home.
pub(super) async fn open_books(settings: &Settings) -> Result<Option<Ledger>> {
    if !settings.home.ledger_file().exists() {
        return Ok(None);
    }
    let folder = settings.home.folder(Role::Customer);
    Ok(Some(
        Ledger::open_read_only(&folder, Clock::system()).await?,
    ))
}

//! Where a receipt has its place: what the ledger tells whoever signs it, and what it keeps.
//!
//! The ledger neither reads nor signs receipts. It gives each its number and the one before it, inside the
//! transaction that ends the purchase, so that two processes can't take the same place and no end is on
//! record without its receipt.

use std::fmt;
use std::sync::Arc;

use nostr::{EventId, PublicKey};

use super::Scope;
use crate::ids::PurchaseId;
use crate::units::UnixSecs;

/// The place of a receipt among the others of its customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptPlace {
    /// 1 for the customer's first, and one more each time.
    pub number: u64,
    /// The one before it.
    pub previous: Option<EventId>,
    /// The latest of the same purchase, which no longer holds.
    pub replaces: Option<EventId>,
    /// The budget that the purchase counts against.
    pub scope: Scope,
    /// When the purchase was put on record.
    pub requested_at: UnixSecs,
    /// When its payment was booked.
    pub paid_at: Option<UnixSecs>,
    /// Now, in ledger time.
    pub finished_at: UnixSecs,
}

/// A signed receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenReceipt {
    /// The hash that the next one will name.
    pub id: EventId,
    /// All of it, as JSON.
    pub json: String,
}

/// Signs a receipt for a place, or says why it can't.
type Sign = dyn Fn(&ReceiptPlace) -> Result<WrittenReceipt, String> + Send + Sync;

/// A receipt that lacks only its place.
#[derive(Clone)]
pub struct ReceiptDraft {
    pub(super) customer: PublicKey,
    pub(super) sign: Arc<Sign>,
}

impl ReceiptDraft {
    /// A receipt of `customer`, signed by `sign` once its place is known. `sign` runs inside a transaction:
    /// it must be quick, and wait for nothing.
    #[must_use]
    pub fn new(
        customer: PublicKey,
        sign: impl Fn(&ReceiptPlace) -> Result<WrittenReceipt, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            customer,
            sign: Arc::new(sign),
        }
    }
}

impl fmt::Debug for ReceiptDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptDraft({})", self.customer.to_hex())
    }
}

/// A receipt on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRecord {
    /// Counts all receipts of this ledger, whosever they are.
    pub seq: u64,
    /// Its hash.
    pub id: EventId,
    /// What it is of.
    pub purchase: PurchaseId,
    /// All of it, as JSON.
    pub json: String,
}

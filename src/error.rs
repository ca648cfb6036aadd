//! What goes wrong, as the two programs and the library's users see it: one opaque [`Error`] with a
//! stable [`Code`], what was paid, and what to do next.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::ids::PurchaseId;
use crate::units::Msat;

/// The stable word for a kind of failure, and its process exit code. Scripts depend on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A bug of ours.
    Internal,
    /// Flags or configuration are off.
    Usage,
    /// No provider found, or none that matches what was asked.
    NoProvider,
    /// A limit of the owner's refuses the purchase; nothing was paid.
    Budget,
    /// Definitely not paid; nothing was spent.
    PaymentFailed,
    /// May have been paid: the money stays reserved until a look-up decides.
    PaymentUnknown,
    /// Paid or locked, and no result came.
    Undelivered,
    /// No relay or wallet could be reached; nothing was paid.
    Network,
    /// Time ran out before any payment.
    Timeout,
    /// The provider said no; nothing was paid.
    ProviderRefused,
    /// The provider's invoice did not pass our checks; nothing was paid.
    BadInvoice,
    /// No wallet, a locked one, one short of funds, or one that lacks what was asked; nothing paid.
    Wallet,
    /// The ledger can't be opened, read or written; nothing was paid.
    Ledger,
    /// A receipt does not hold.
    BadReceipt,
    /// The owner stopped it; the ledger is left recoverable.
    Interrupted,
}

impl Code {
    /// Every code, in the order of their exit codes.
    pub const ALL: [Self; 15] = [
        Self::Internal,
        Self::Usage,
        Self::NoProvider,
        Self::Budget,
        Self::PaymentFailed,
        Self::PaymentUnknown,
        Self::Undelivered,
        Self::Network,
        Self::Timeout,
        Self::ProviderRefused,
        Self::BadInvoice,
        Self::Wallet,
        Self::Ledger,
        Self::BadReceipt,
        Self::Interrupted,
    ];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::NoProvider => "no_provider",
            Self::Budget => "budget",
            Self::PaymentFailed => "payment_failed",
            Self::PaymentUnknown => "payment_unknown",
            Self::Undelivered => "undelivered",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::ProviderRefused => "provider_refused",
            Self::BadInvoice => "bad_invoice",
            Self::Wallet => "wallet",
            Self::Ledger => "ledger",
            Self::BadReceipt => "bad_receipt",
            Self::Interrupted => "interrupted",
        }
    }

    /// The code that has this stable word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// The exit code of a process that fails this way.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::NoProvider => 3,
            Self::Budget => 4,
            Self::PaymentFailed => 5,
            Self::PaymentUnknown => 6,
            Self::Undelivered => 7,
            Self::Network => 8,
            Self::Timeout => 9,
            Self::ProviderRefused => 10,
            Self::BadInvoice => 11,
            Self::Wallet => 12,
            Self::Ledger => 13,
            Self::BadReceipt => 14,
            Self::Interrupted => 130,
        }
    }

    /// Whether the same request may well succeed later, with no money at stake in between.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NoProvider
                | Self::PaymentFailed
                | Self::Network
                | Self::Timeout
                | Self::ProviderRefused
                | Self::BadInvoice
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// A failure: its [`Code`], a message that says what happened and what to do, and where the money is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    paid: Msat,
    reserved: Msat,
    purchase: Option<PurchaseId>,
}

impl Error {
    /// A failure before any money moved.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            paid: Msat::ZERO,
            reserved: Msat::ZERO,
            purchase: None,
        }
    }

    /// The same failure, of this purchase.
    #[must_use]
    pub const fn of(mut self, purchase: PurchaseId) -> Self {
        self.purchase = Some(purchase);
        self
    }

    /// The same failure, with this much paid (fee included) and this much still set aside.
    #[must_use]
    pub const fn with_money(mut self, paid: Msat, reserved: Msat) -> Self {
        self.paid = paid;
        self.reserved = reserved;
        self
    }

    /// The same failure in other words.
    #[must_use]
    pub(crate) fn in_words(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// The stable word and exit code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What happened, and what to do next. May quote text from the network: escape it for a terminal.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may well succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }

    /// Millisatoshi that left the wallet for good, fee included.
    #[must_use]
    pub const fn paid_msat(&self) -> Msat {
        self.paid
    }

    /// Millisatoshi that the ledger still holds reserved for this purchase.
    #[must_use]
    pub const fn reserved_msat(&self) -> Msat {
        self.reserved
    }

    /// The purchase, once there is one.
    #[must_use]
    pub const fn purchase(&self) -> Option<PurchaseId> {
        self.purchase
    }
}

/// What a fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_exit_codes_are_distinct() {
        for (i, a) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_word(a.as_str()), Some(*a));
            for b in &Code::ALL[i + 1..] {
                assert_ne!(a.as_str(), b.as_str());
                assert_ne!(a.exit_code(), b.exit_code());
            }
        }
    }
}

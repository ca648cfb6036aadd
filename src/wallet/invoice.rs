//! Reading a BOLT11 invoice, and deciding whether it may be paid. Pure: the time is an argument.
//!
//! The invoice is what gets paid, not the message that brought it: whatever a seller's message says
//! about amount, hash or expiry, only what the signed invoice itself says is believed, and it must
//! agree with what was listed, asked for and allowed ([`Terms`]). Each way to disagree is one
//! [`InvoiceProblem`].

use std::time::Duration;

use lightning_invoice::{
    Bolt11Invoice, Bolt11InvoiceDescriptionRef, Bolt11ParseError, Bolt11SemanticError, Currency,
    ParseOrSemanticError,
};
use nostr::hashes::Hash;
use nostr::secp256k1::PublicKey;

use crate::ids::PaymentHash;
use crate::units::{Msat, Network, UnixSecs};

/// The longest text that is looked at, in bytes. An invoice with a handful of route hints has about
/// 1,000; one that needs more than this is not one that we want to route.
pub const MAX_BYTES: usize = 4096;

/// How far ahead of our clock an invoice may have been made, in seconds: clocks differ.
pub const MAX_CLOCK_SKEW_SECS: u64 = 600;

/// The longest time that an invoice may stay payable after it was made, in seconds (30 days). A payment in
/// doubt keeps its money set aside until the invoice has expired, so the seller must not choose that
/// freely.
pub const MAX_LIFETIME_SECS: u64 = 30 * 86_400;

/// The mean time between two blocks, in seconds: what a block of `min_final_cltv_expiry` counts for.
pub const SECS_PER_BLOCK: u64 = 600;

/// What an invoice must agree with to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the message that brought the invoice says it asks for.
    pub amount: Msat,
    /// The most that may be paid: the lowest of listed price, `--max-price` and the owner's limits.
    pub ceiling: Msat,
    /// The network our money is on.
    pub network: Network,
    /// The time.
    pub now: UnixSecs,
    /// How long it must still be payable, in seconds.
    pub min_time_left_secs: u64,
    /// The longest that the payee may keep the payment unclaimed, in seconds; the delay of the route
    /// comes on top. Any payee can do that, so this binds every invoice.
    pub max_hold_secs: u64,
    /// In an escrow, the hash of the preimage that we keep.
    pub on_hash: Option<PaymentHash>,
}

/// What an invoice says. Its signature is valid; nothing else was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The text, in lower case.
    pub bolt11: String,
    /// The hash that names the payment.
    pub payment_hash: PaymentHash,
    /// What it asks for; `None` leaves that to the payer.
    pub amount: Option<Msat>,
    /// The network it is on.
    pub network: Network,
    /// When it was made, by the clock of who made it.
    pub created_at: UnixSecs,
    /// When it can no longer be paid.
    pub expires_at: UnixSecs,
    /// The node that is to be paid: the one that signed.
    pub payee: PublicKey,
    /// How many blocks the payee may take before it must claim the payment.
    pub min_final_cltv: u64,
    /// What it says that it is for, on one line and not too long: a stranger's words. Empty where it has only
    /// the hash of a longer text.
    pub description: String,
}

/// An invoice that may be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The text to hand to a wallet.
    pub bolt11: String,
    /// The hash that names the payment.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub amount: Msat,
    /// When it can no longer be paid.
    pub expires_at: UnixSecs,
    /// The node that is to be paid.
    pub payee: PublicKey,
    /// How many blocks the payee may take before it must claim the payment.
    pub min_final_cltv: u64,
}

/// Why an invoice is not paid, in words for the owner. None of them quotes the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvoiceProblem {
    /// Longer than [`MAX_BYTES`].
    #[error("the invoice is {0} bytes long, more than the {MAX_BYTES} that are looked at")]
    TooLong(usize),
    /// Nothing at all.
    #[error("there is no invoice in the message")]
    Empty,
    /// Some other text.
    #[error("this is not a Lightning invoice (BOLT11)")]
    NotAnInvoice,
    /// The placeholder of a provider that runs without a wallet.
    #[error("this is the mock invoice of a provider without a wallet; it can't be paid")]
    Mock,
    /// A Spark address or Spark invoice, as deployed providers with a wallet send it.
    #[error(
        "the provider put a Spark address where a Lightning invoice (BOLT11) belongs; \
         only BOLT11 invoices can be checked and paid"
    )]
    Spark,
    /// It begins like an invoice, but its checksum is wrong: cut off, altered or mistyped.
    #[error("the invoice is damaged: its checksum is wrong")]
    Damaged,
    /// The checksum is right, but the content breaks BOLT11.
    #[error("the invoice breaks BOLT11: {0}")]
    Malformed(&'static str),
    /// The signature does not belong to the payee that it names.
    #[error("the invoice's signature is not its payee's")]
    BadSignature,
    /// Without a payment secret anybody on the route could claim the payment.
    #[error("the invoice has no payment secret, so a node on the way could keep the payment")]
    NoPaymentSecret,
    /// It requires features that no wallet here has.
    #[error("the invoice requires Lightning features that are not known here")]
    UnknownFeatures,
    /// A currency that is none of our networks.
    #[error("the invoice is for a currency or network that is not known here")]
    UnknownNetwork,
    /// Another network than ours.
    #[error("the invoice is on {found}, but our money is on {ours}")]
    WrongNetwork {
        /// The invoice's.
        found: Network,
        /// Ours.
        ours: Network,
    },
    /// It leaves the amount to the payer, or asks for nothing.
    #[error("the invoice names no amount")]
    Amountless,
    /// More than there is.
    #[error("the invoice asks for more than all bitcoin there is")]
    AbsurdAmount,
    /// The message and the invoice disagree.
    #[error("the invoice asks for {invoice}, but the message that brought it says {message}")]
    AmountDiffers {
        /// What the invoice asks for.
        invoice: Msat,
        /// What the message says.
        message: Msat,
    },
    /// Dearer than listed or allowed.
    #[error("the invoice asks for {amount}, more than the {ceiling} that it may cost")]
    AboveCeiling {
        /// What the invoice asks for.
        amount: Msat,
        /// The most that may be paid.
        ceiling: Msat,
    },
    /// Made later than now.
    #[error("the invoice was made {ahead_secs} s in the future; one of the two clocks is wrong")]
    FromTheFuture {
        /// By how much.
        ahead_secs: u64,
    },
    /// Payable for longer than [`MAX_LIFETIME_SECS`].
    #[error(
        "the invoice stays payable for {lifetime_secs} s, longer than the {MAX_LIFETIME_SECS} s \
         that are accepted"
    )]
    LivesTooLong {
        /// From its making to its expiry.
        lifetime_secs: u64,
    },
    /// No longer payable.
    #[error("the invoice expired {ago_secs} s ago")]
    Expired {
        /// Since when.
        ago_secs: u64,
    },
    /// Payable, but not for long enough.
    #[error(
        "the invoice expires in {left_secs} s, less than the {needed_secs} s that paying needs"
    )]
    TooLittleTime {
        /// Until its expiry.
        left_secs: u64,
        /// What the terms ask for.
        needed_secs: u64,
    },
    /// Not the hash whose preimage we keep.
    #[error("the invoice is not on the hash that we gave, so paying it would not be an escrow")]
    NotOurHash,
    /// The money would be locked for too long.
    #[error(
        "the invoice may hold the money for {hold_secs} s, longer than the {max_hold_secs} s \
         that [policy] max_hold_secs allows"
    )]
    HoldTooLong {
        /// `min_final_cltv_expiry` at ten minutes a block.
        hold_secs: u64,
        /// What the terms allow.
        max_hold_secs: u64,
    },
}

/// Decides whether this invoice may be paid on these terms.
///
/// # Errors
/// The first [`InvoiceProblem`] that it has.
pub fn check(bolt11: &str, terms: &Terms) -> Result<Checked, InvoiceProblem> {
    let invoice = parse_unchecked(bolt11)?;
    if invoice.network != terms.network {
        return Err(InvoiceProblem::WrongNetwork {
            found: invoice.network,
            ours: terms.network,
        });
    }
    let amount = invoice.amount.ok_or(InvoiceProblem::Amountless)?;
    check_amount(amount, terms)?;
    check_time(&invoice, terms)?;
    check_hold(&invoice, terms)?;
    Ok(Checked {
        bolt11: invoice.bolt11,
        payment_hash: invoice.payment_hash,
        amount,
        expires_at: invoice.expires_at,
        payee: invoice.payee,
        min_final_cltv: invoice.min_final_cltv,
    })
}

fn check_amount(amount: Msat, terms: &Terms) -> Result<(), InvoiceProblem> {
    if amount.is_zero() {
        return Err(InvoiceProblem::Amountless);
    }
    if amount != terms.amount {
        return Err(InvoiceProblem::AmountDiffers {
            invoice: amount,
            message: terms.amount,
        });
    }
    if amount > terms.ceiling {
        return Err(InvoiceProblem::AboveCeiling {
            amount,
            ceiling: terms.ceiling,
        });
    }
    Ok(())
}

fn check_time(invoice: &Parsed, terms: &Terms) -> Result<(), InvoiceProblem> {
    let now = terms.now;
    let ahead_secs = invoice.created_at.since(now);
    if ahead_secs > MAX_CLOCK_SKEW_SECS {
        return Err(InvoiceProblem::FromTheFuture { ahead_secs });
    }
    let lifetime_secs = invoice.expires_at.since(invoice.created_at);
    if lifetime_secs > MAX_LIFETIME_SECS {
        return Err(InvoiceProblem::LivesTooLong { lifetime_secs });
    }
    if now >= invoice.expires_at {
        return Err(InvoiceProblem::Expired {
            ago_secs: now.since(invoice.expires_at),
        });
    }
    let left_secs = invoice.expires_at.since(now);
    if left_secs < terms.min_time_left_secs {
        return Err(InvoiceProblem::TooLittleTime {
            left_secs,
            needed_secs: terms.min_time_left_secs,
        });
    }
    Ok(())
}

fn check_hold(invoice: &Parsed, terms: &Terms) -> Result<(), InvoiceProblem> {
    if terms
        .on_hash
        .is_some_and(|ours| ours != invoice.payment_hash)
    {
        return Err(InvoiceProblem::NotOurHash);
    }
    let hold_secs = invoice.min_final_cltv.saturating_mul(SECS_PER_BLOCK);
    if hold_secs > terms.max_hold_secs {
        return Err(InvoiceProblem::HoldTooLong {
            hold_secs,
            max_hold_secs: terms.max_hold_secs,
        });
    }
    Ok(())
}

/// Reads an invoice and verifies its signature, without deciding whether it may be paid.
///
/// An invoice that does not name its payee has the payee that its signature yields: altering such an
/// invoice changes whom it pays, and no route leads there.
///
/// # Errors
/// If it is not a well-formed, signed BOLT11 invoice on a known network.
pub fn parse_unchecked(bolt11: &str) -> Result<Parsed, InvoiceProblem> {
    if bolt11.len() > MAX_BYTES {
        return Err(InvoiceProblem::TooLong(bolt11.len()));
    }
    let text = bolt11.trim();
    // `from_str` verifies the signature, the payment secret and the feature bits.
    let invoice: Bolt11Invoice = text.parse().map_err(|error| explain(text, error))?;
    let network = match invoice.currency() {
        Currency::Bitcoin => Network::Mainnet,
        Currency::BitcoinTestnet => Network::Testnet,
        Currency::Signet => Network::Signet,
        Currency::Regtest => Network::Regtest,
        Currency::Simnet => return Err(InvoiceProblem::UnknownNetwork),
    };
    let amount = amount_of(&invoice)?;
    let expires_at = invoice
        .expires_at()
        .unwrap_or(Duration::from_secs(u64::MAX));
    Ok(Parsed {
        bolt11: text.to_ascii_lowercase(),
        payment_hash: PaymentHash::from_bytes(invoice.payment_hash().to_byte_array()),
        amount,
        network,
        created_at: UnixSecs::new(invoice.duration_since_epoch().as_secs()),
        expires_at: UnixSecs::new(expires_at.as_secs()),
        payee: invoice.get_payee_pub_key(),
        min_final_cltv: invoice.min_final_cltv_expiry_delta(),
        description: match invoice.description() {
            Bolt11InvoiceDescriptionRef::Direct(words) => super::bounded(&words.as_inner().0),
            Bolt11InvoiceDescriptionRef::Hash(_) => String::new(),
        },
    })
}

fn amount_of(invoice: &Bolt11Invoice) -> Result<Option<Msat>, InvoiceProblem> {
    match invoice.amount_milli_satoshis() {
        Some(msat) if msat > Msat::MAX.get() => Err(InvoiceProblem::AbsurdAmount),
        // The library says `None` of an amount in whole bitcoin that overflows: the payer is not
        // free to choose then, and either way the invoice is refused.
        amount => Ok(amount.map(Msat::new)),
    }
}

/// What kept the library from reading `text`, without quoting any of it.
fn explain(text: &str, error: ParseOrSemanticError) -> InvoiceProblem {
    match error {
        ParseOrSemanticError::ParseError(error) => explain_parse(text, &error),
        ParseOrSemanticError::SemanticError(error) => match error {
            Bolt11SemanticError::InvalidSignature => InvoiceProblem::BadSignature,
            Bolt11SemanticError::NoPaymentSecret => InvoiceProblem::NoPaymentSecret,
            Bolt11SemanticError::InvalidFeatures => InvoiceProblem::UnknownFeatures,
            Bolt11SemanticError::NoPaymentHash => InvoiceProblem::Malformed("no payment hash"),
            Bolt11SemanticError::MultiplePaymentHashes => {
                InvoiceProblem::Malformed("several payment hashes")
            }
            Bolt11SemanticError::NoDescription => InvoiceProblem::Malformed("no description"),
            Bolt11SemanticError::MultipleDescriptions => {
                InvoiceProblem::Malformed("several descriptions")
            }
            Bolt11SemanticError::MultiplePaymentSecrets => {
                InvoiceProblem::Malformed("several payment secrets")
            }
            Bolt11SemanticError::ImpreciseAmount => {
                InvoiceProblem::Malformed("an amount below a millisatoshi")
            }
        },
    }
}

fn explain_parse(text: &str, error: &Bolt11ParseError) -> InvoiceProblem {
    if text.is_empty() {
        return InvoiceProblem::Empty;
    }
    let text = text.to_ascii_lowercase();
    if is_spark(&text) {
        return InvoiceProblem::Spark;
    }
    // Offers and invoices of BOLT12, and LNURL, look alike at first.
    let others = ["lno1", "lni1", "lnurl1"];
    if !text.starts_with("ln") || others.iter().any(|other| text.starts_with(other)) {
        return InvoiceProblem::NotAnInvoice;
    }
    // "o" is no bech32 digit, so no invoice ever reads like this.
    if text.contains("1mock") {
        return InvoiceProblem::Mock;
    }
    match error {
        Bolt11ParseError::Bech32Error(_) | Bolt11ParseError::TooShortDataPart => {
            InvoiceProblem::Damaged
        }
        Bolt11ParseError::UnknownCurrency => InvoiceProblem::UnknownNetwork,
        Bolt11ParseError::BadPrefix | Bolt11ParseError::MalformedHRP => {
            InvoiceProblem::NotAnInvoice
        }
        Bolt11ParseError::ParseAmountError(_)
        | Bolt11ParseError::UnknownSiPrefix
        | Bolt11ParseError::IntegerOverflowError => InvoiceProblem::Malformed("unreadable amount"),
        Bolt11ParseError::MalformedSignature(_) => InvoiceProblem::BadSignature,
        _ => InvoiceProblem::Malformed("unreadable fields"),
    }
}

/// Spark's human-readable parts, then and now, on each of its networks.
fn is_spark(lower_case: &str) -> bool {
    let Some((hrp, _)) = lower_case.rsplit_once('1') else {
        return false;
    };
    let network = hrp.strip_prefix("spark").or_else(|| hrp.strip_prefix("sp"));
    matches!(network, Some("" | "t" | "rt" | "s" | "l"))
}

#[cfg(test)]
mod tests;

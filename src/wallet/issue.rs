//! Signing a BOLT11 invoice with a key at hand: what the play-money wallet does, and any test that needs
//! an invoice nobody made. Pure: time, secrets and keys are arguments.

use std::time::Duration;

use lightning_invoice::{
    Bolt11Invoice, Bolt11InvoiceDescriptionRef, Currency, InvoiceBuilder, PaymentSecret,
};
use nostr::SECP256K1;
use nostr::hashes::{Hash, sha256};
use nostr::secp256k1::SecretKey;

use crate::ids::PaymentHash;
use crate::units::{Msat, Network, UnixSecs};

/// The longest description that BOLT11 has room for, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 639;

/// The largest amount that its readers can take in, in millisatoshi: they count in tenths of one.
pub const MOST_MSAT: u64 = u64::MAX / 10;

/// An invoice before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The network it is on.
    pub network: Network,
    /// What it asks for; `None` leaves that to the payer.
    pub amount: Option<Msat>,
    /// The hash that names the payment.
    pub payment_hash: PaymentHash,
    /// What only the invoice's reader can present to the payee.
    pub payment_secret: [u8; 32],
    /// What it is for.
    pub description: String,
    /// When it is made.
    pub created_at: UnixSecs,
    /// Seconds until it can no longer be paid.
    pub expiry_secs: u64,
    /// How many blocks the payee may take to claim.
    pub min_final_cltv: u64,
}

/// A draft that has no BOLT11 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an invoice that BOLT11 can express: {0}")]
pub struct Unsignable(&'static str);

/// The text of the invoice, signed by `node_key`.
///
/// # Errors
/// If the description, the amount or the time is outside what BOLT11 can express.
pub fn sign(draft: &Draft, node_key: &SecretKey) -> Result<String, Unsignable> {
    if draft.description.len() > MAX_DESCRIPTION_BYTES {
        return Err(Unsignable("the description is longer than 639 bytes"));
    }
    if draft.amount.is_some_and(|amount| amount.get() > MOST_MSAT) {
        return Err(Unsignable("the amount is too large"));
    }
    let currency = match draft.network {
        Network::Mainnet => Currency::Bitcoin,
        Network::Testnet => Currency::BitcoinTestnet,
        Network::Signet => Currency::Signet,
        Network::Regtest => Currency::Regtest,
    };
    let mut builder = InvoiceBuilder::new(currency)
        .description(draft.description.clone())
        .payment_hash(sha256::Hash::from_byte_array(
            *draft.payment_hash.as_bytes(),
        ))
        .payment_secret(PaymentSecret(draft.payment_secret))
        .duration_since_epoch(Duration::from_secs(draft.created_at.get()))
        .expiry_time(Duration::from_secs(draft.expiry_secs))
        .min_final_cltv_expiry_delta(draft.min_final_cltv)
        .payee_pub_key(node_key.public_key(SECP256K1));
    if let Some(amount) = draft.amount {
        builder = builder.amount_milli_satoshis(amount.get());
    }
    builder
        .build_signed(|hash| SECP256K1.sign_ecdsa_recoverable(hash, node_key))
        .map(|invoice| invoice.to_string())
        .map_err(|_| Unsignable("its time is past the year 3058"))
}

/// What an invoice says that it is for; `None` if it is none, or only gives the hash of its description.
#[must_use]
pub fn description(bolt11: &str) -> Option<String> {
    let invoice: Bolt11Invoice = bolt11.parse().ok()?;
    match invoice.description() {
        Bolt11InvoiceDescriptionRef::Direct(text) => Some(text.to_string()),
        Bolt11InvoiceDescriptionRef::Hash(_) => None,
    }
}

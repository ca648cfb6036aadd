//! The messages. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{PaymentHash, Preimage, PurchaseId};
use crate::units::{Msat, Network, UnixSecs};
use crate::wallet::{
    Capabilities, FailureProof, Incoming, Movement, Outgoing, PayOutcome, WalletError, bounded,
};

/// The version that is spoken here.
pub(super) const VERSION: u32 = 1;

/// Bytes of a line, either way. The longest of ours, an order with its invoice, has a few thousand.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;

/// What is asked.
#[derive(Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub(super) enum Call {
    Hello {
        version: u32,
        /// What a wallet of ours needs to open. Nobody else's program is told anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Value>,
    },
    Balance {},
    Addresses {},
    FeeQuote {
        bolt11: String,
    },
    Invoice {
        amount_msat: Msat,
        expiry_secs: u64,
        description: String,
        payment_hash: Option<PaymentHash>,
    },
    Incoming {
        payment_hash: PaymentHash,
    },
    Settle {
        preimage: String,
    },
    CancelInvoice {
        payment_hash: PaymentHash,
    },
    Pay {
        bolt11: String,
        payment_hash: PaymentHash,
        amount_msat: Msat,
        max_fee_msat: Msat,
        purchase: PurchaseId,
    },
    Outgoing {
        payment_hash: PaymentHash,
    },
    History {
        limit: usize,
    },
    /// A hint, without an id.
    Cancel {
        id: u64,
    },
}

impl fmt::Debug for Call {
    /// One of them holds a preimage.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call(…)")
    }
}

/// A line to the program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
    #[serde(flatten)]
    pub(super) call: Call,
}

/// A line from the program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Answer(Answer),
    News { method: News },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum News {
    Changed,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Problem>,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
}

impl Problem {
    /// With words that may be shown.
    pub(super) fn bounded(self) -> Self {
        Self {
            message: bounded(&self.message),
            ..self
        }
    }
}

impl From<WalletError> for Problem {
    fn from(error: WalletError) -> Self {
        let (code, message) = match error {
            WalletError::Unreachable(why) => ("unreachable", why),
            WalletError::Refused(why) => ("refused", why),
            WalletError::Unsupported(what) => ("unsupported", what.to_owned()),
            WalletError::Storage(why) => ("storage", why),
        };
        Self {
            code: code.to_owned(),
            message,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) account: String,
    pub(super) network: Network,
    #[serde(default)]
    pub(super) changes: bool,
    #[serde(default)]
    pub(super) capabilities: Promises,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Promises {
    hold_invoices: bool,
    binding_fee_quote: bool,
    authoritative_lookup: bool,
}

impl From<Promises> for Capabilities {
    fn from(promises: Promises) -> Self {
        Self {
            // Real money, whatever it says: play money does not count against the owner's limits.
            play_money: false,
            hold_invoices: promises.hold_invoices,
            binding_fee_quote: promises.binding_fee_quote,
            authoritative_lookup: promises.authoritative_lookup,
        }
    }
}

impl From<Capabilities> for Promises {
    fn from(capabilities: Capabilities) -> Self {
        Self {
            hold_invoices: capabilities.hold_invoices,
            binding_fee_quote: capabilities.binding_fee_quote,
            authoritative_lookup: capabilities.authoritative_lookup,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Balance {
    pub(super) balance_msat: Msat,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub(super) addresses: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fee {
    pub(super) fee_msat: Msat,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct History {
    pub(super) movements: Vec<Movement>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) bolt11: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum IncomingState {
    Open,
    Held { deadline: UnixSecs },
    Settled,
    Cancelled,
    Expired,
    NotFound,
}

impl From<IncomingState> for Incoming {
    fn from(state: IncomingState) -> Self {
        match state {
            IncomingState::Open => Self::Open,
            IncomingState::Held { deadline } => Self::Held { deadline },
            IncomingState::Settled => Self::Settled,
            IncomingState::Cancelled => Self::Cancelled,
            IncomingState::Expired => Self::Expired,
            IncomingState::NotFound => Self::NotFound,
        }
    }
}

impl From<Incoming> for IncomingState {
    fn from(state: Incoming) -> Self {
        match state {
            Incoming::Open => Self::Open,
            Incoming::Held { deadline } => Self::Held { deadline },
            Incoming::Settled => Self::Settled,
            Incoming::Cancelled => Self::Cancelled,
            Incoming::Expired => Self::Expired,
            Incoming::NotFound => Self::NotFound,
        }
    }
}

/// What is said of a payment, by `pay` and by `outgoing`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum PayState {
    Paid {
        preimage: Option<String>,
        fee_msat: Msat,
    },
    InFlight,
    Failed {
        reason: String,
        #[serde(default)]
        insufficient_funds: bool,
    },
    Unknown {
        reason: String,
    },
    NotFound,
}

impl PayState {
    /// What it means; `Err` is why nobody knows.
    pub(super) fn told(self, hash: PaymentHash) -> Result<Outgoing, String> {
        Ok(match self {
            Self::Paid { preimage, fee_msat } => Outgoing::Paid {
                preimage: preimage
                    .and_then(|text| text.parse::<Preimage>().ok())
                    .filter(|preimage| preimage.payment_hash() == hash),
                fee: fee_msat,
            },
            Self::InFlight => Outgoing::InFlight,
            Self::Failed {
                reason,
                insufficient_funds,
            } => Outgoing::Failed(FailureProof {
                reason: bounded(&reason),
                insufficient_funds,
            }),
            Self::Unknown { reason } => return Err(bounded(&reason)),
            Self::NotFound => Outgoing::NotFound,
        })
    }
}

impl From<PayOutcome> for PayState {
    fn from(outcome: PayOutcome) -> Self {
        match outcome {
            PayOutcome::Paid { preimage, fee } => Outgoing::Paid { preimage, fee }.into(),
            PayOutcome::InFlight => Self::InFlight,
            PayOutcome::Failed(proof) => Outgoing::Failed(proof).into(),
            PayOutcome::Unknown { reason } => Self::Unknown { reason },
        }
    }
}

impl From<Outgoing> for PayState {
    fn from(found: Outgoing) -> Self {
        match found {
            Outgoing::Paid { preimage, fee } => Self::Paid {
                preimage: preimage.map(|preimage| preimage.reveal()),
                fee_msat: fee,
            },
            Outgoing::InFlight => Self::InFlight,
            Outgoing::Failed(proof) => Self::Failed {
                reason: proof.reason,
                insufficient_funds: proof.insufficient_funds,
            },
            Outgoing::NotFound => Self::NotFound,
        }
    }
}

//! What a wallet says, read leniently: services differ in what they leave out and how they spell it, and a
//! payment must not fall into doubt because a field that nobody needs is missing. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::ids::{PaymentHash, Preimage};
use crate::units::{Msat, Network, UnixSecs};
use crate::wallet::{
    Direction, FailureProof, Incoming, Movement, MovementState, Outgoing, bounded,
};

/// How a wallet's error is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Too many requests; later it may answer.
    RateLimited,
    /// It has no such method.
    NotImplemented,
    /// Short of money.
    InsufficientBalance,
    /// This connection's budget is used up.
    QuotaExceeded,
    /// This connection may not do that.
    Restricted,
    /// There is no such connection, any more.
    Unauthorized,
    /// It can't read how the request was encrypted.
    UnsupportedEncryption,
    /// It has no such invoice or payment.
    NotFound,
    /// Whatever else: `PAYMENT_FAILED`, `INTERNAL`, `OTHER`, and codes that nobody has heard of. A payment may
    /// have been under way.
    Late,
}

/// A wallet's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) kind: Kind,
    pub(super) words: String,
}

impl Said {
    fn of(error: &ErrorBody) -> Self {
        let code = error.code.as_deref().unwrap_or("OTHER");
        let kind = match code {
            "RATE_LIMITED" => Kind::RateLimited,
            "NOT_IMPLEMENTED" => Kind::NotImplemented,
            "INSUFFICIENT_BALANCE" => Kind::InsufficientBalance,
            "QUOTA_EXCEEDED" => Kind::QuotaExceeded,
            "RESTRICTED" => Kind::Restricted,
            "UNAUTHORIZED" => Kind::Unauthorized,
            "UNSUPPORTED_ENCRYPTION" => Kind::UnsupportedEncryption,
            "NOT_FOUND" => Kind::NotFound,
            _ => Kind::Late,
        };
        let message = error.message.as_deref().unwrap_or_default().trim();
        let words = if message.is_empty() {
            code.to_owned()
        } else {
            format!("{message} ({code})")
        };
        Self {
            kind,
            words: bounded(&words),
        }
    }

    /// Whether the error precedes every attempt to pay.
    pub(super) const fn is_before_any_attempt(&self) -> bool {
        !matches!(self.kind, Kind::Late | Kind::NotFound)
    }

    pub(super) fn proof(&self) -> FailureProof {
        let what = match self.kind {
            Kind::QuotaExceeded => "the wallet connection's own budget refuses it",
            Kind::Restricted => "this wallet connection may not pay",
            Kind::Unauthorized => "this wallet connection is not known to the wallet any more",
            Kind::RateLimited => "the wallet wants fewer requests",
            Kind::InsufficientBalance => "the wallet is short of funds",
            _ => "the wallet did not pay",
        };
        FailureProof {
            reason: format!("{what}: {}", self.words),
            insufficient_funds: self.kind == Kind::InsufficientBalance,
        }
    }
}

/// What came back for a request.
pub(super) type Reply = Result<Value, Said>;

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default, deserialize_with = "text")]
    code: Option<String>,
    #[serde(default, deserialize_with = "text")]
    message: Option<String>,
}

#[derive(Deserialize)]
struct ReplyBody {
    #[serde(default)]
    error: Option<ErrorBody>,
    #[serde(default)]
    result: Option<Value>,
}

/// Reads an object. A list is none, though serde would take its items for the fields.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    let object = value.is_object().then_some(value)?;
    serde_json::from_value(object).ok()
}

/// Reads a reply. `None`: it is none.
pub(super) fn reply(text: &str) -> Option<Reply> {
    let body: ReplyBody = read(serde_json::from_str(text).ok()?)?;
    match (body.error, body.result) {
        (Some(error), _) => Some(Err(Said::of(&error))),
        (None, Some(result)) => Some(Ok(result)),
        // Some say `{"result":null}` or nothing for "done".
        (None, None) => Some(Ok(Value::Null)),
    }
}

/// Reads a notification: what it is about, and for a hold its deadline as a height.
pub(super) fn notification(text: &str) -> Option<(Option<PaymentHash>, Option<u64>)> {
    #[derive(Deserialize)]
    struct Body {
        notification: Transaction,
    }
    let body: Body = read(serde_json::from_str(text).ok()?)?;
    Some((body.notification.hash(), body.notification.settle_deadline))
}

/// What a wallet says of itself.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Info {
    #[serde(default, deserialize_with = "text")]
    pub(super) alias: Option<String>,
    #[serde(default, deserialize_with = "text")]
    network: Option<String>,
    #[serde(default, deserialize_with = "number")]
    pub(super) block_height: Option<u64>,
    #[serde(default, deserialize_with = "words")]
    pub(super) methods: Vec<String>,
    #[serde(default, deserialize_with = "words")]
    pub(super) notifications: Vec<String>,
}

impl Info {
    /// Its network, if it names one that is known here.
    pub(super) fn network(&self) -> Option<Network> {
        match self.network.as_deref()? {
            "mainnet" | "bitcoin" => Some(Network::Mainnet),
            "testnet" | "testnet3" | "testnet4" => Some(Network::Testnet),
            "signet" | "mutinynet" => Some(Network::Signet),
            "regtest" => Some(Network::Regtest),
            _ => None,
        }
    }
}

/// A balance.
#[derive(Deserialize)]
pub(super) struct Balance {
    #[serde(default, deserialize_with = "number")]
    pub(super) balance: Option<u64>,
}

/// What `pay_invoice` ends in.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Payment {
    #[serde(default, deserialize_with = "text")]
    preimage: Option<String>,
    #[serde(default, deserialize_with = "number")]
    fees_paid: Option<u64>,
}

impl Payment {
    /// The preimage: `Err` if one is told that is not of this hash.
    pub(super) fn preimage(&self, hash: PaymentHash) -> Result<Option<Preimage>, ()> {
        preimage(self.preimage.as_deref(), hash)
    }

    pub(super) fn fee(&self) -> Option<Msat> {
        self.fees_paid.map(Msat::new)
    }
}

fn preimage(told: Option<&str>, hash: PaymentHash) -> Result<Option<Preimage>, ()> {
    let Some(told) = told.map(str::trim).filter(|told| !told.is_empty()) else {
        return Ok(None);
    };
    let preimage: Preimage = told.parse().map_err(|_| ())?;
    if preimage.payment_hash() == hash {
        Ok(Some(preimage))
    } else {
        Err(())
    }
}

/// An invoice or a payment, as `make_invoice`, `lookup_invoice` and notifications have it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Transaction {
    #[serde(default, deserialize_with = "text", rename = "type")]
    direction: Option<String>,
    #[serde(default, deserialize_with = "text")]
    state: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) invoice: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) description: Option<String>,
    #[serde(default, deserialize_with = "text")]
    preimage: Option<String>,
    #[serde(default, deserialize_with = "text")]
    payment_hash: Option<String>,
    #[serde(default, deserialize_with = "number")]
    amount: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    fees_paid: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    created_at: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    expires_at: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    settled_at: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    pub(super) settle_deadline: Option<u64>,
}

/// A payment that succeeded, as a look-up tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) preimage: Option<Preimage>,
    /// `None`: the wallet does not say.
    pub(super) fee: Option<Msat>,
    pub(super) amount: Option<Msat>,
}

/// What a look-up says of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Paid(Settled),
    InFlight,
    Failed(FailureProof),
    NotFound,
}

impl Sent {
    /// The same as the wallet port has it; `fee` stands in for one that the wallet does not tell.
    pub(super) fn told(self, fee: impl FnOnce(Option<Msat>) -> Msat) -> Outgoing {
        match self {
            Self::Paid(paid) => Outgoing::Paid {
                preimage: paid.preimage,
                fee: paid.fee.unwrap_or_else(|| fee(paid.amount)),
            },
            Self::InFlight => Outgoing::InFlight,
            Self::Failed(proof) => Outgoing::Failed(proof),
            Self::NotFound => Outgoing::NotFound,
        }
    }
}

impl Transaction {
    pub(super) fn hash(&self) -> Option<PaymentHash> {
        self.payment_hash.as_deref()?.parse().ok()
    }

    fn is(&self, direction: &str) -> bool {
        self.direction.as_deref().is_none_or(|it| it == direction)
    }

    fn state(&self) -> Option<String> {
        self.state.as_deref().map(str::to_ascii_lowercase)
    }

    /// Whether it is about `hash`: a service that answers with another transaction proves nothing.
    pub(super) fn is_about(&self, hash: PaymentHash) -> bool {
        match &self.payment_hash {
            Some(text) if !text.is_empty() => self.hash() == Some(hash),
            _ => true,
        }
    }

    /// What it says of a payment of ours.
    pub(super) fn as_sent(&self, hash: PaymentHash) -> Sent {
        if !self.is("outgoing") {
            return Sent::NotFound;
        }
        let proof = preimage(self.preimage.as_deref(), hash).ok().flatten();
        let paid = || {
            Sent::Paid(Settled {
                preimage: proof,
                fee: self.fees_paid.map(Msat::new),
                amount: self.amount.map(Msat::new),
            })
        };
        match self.state().as_deref() {
            Some("settled") => paid(),
            Some("failed") => Sent::Failed(FailureProof::new("the wallet says that it failed")),
            // Without a direction, a preimage may be that of an invoice of our own.
            None if self.settled_at.is_some() || (self.direction.is_some() && proof.is_some()) => {
                paid()
            }
            // `expired` too: one wallet says it of a payment to a hold invoice that is still locked.
            _ => Sent::InFlight,
        }
    }

    /// The same as a line of the wallet's history; `None` without a direction or an amount.
    pub(super) fn as_movement(&self, now: UnixSecs) -> Option<Movement> {
        let direction = match self.direction.as_deref()? {
            "incoming" => Direction::Incoming,
            "outgoing" => Direction::Outgoing,
            _ => return None,
        };
        // Without a hash no preimage proves anything, and a state says it all the same.
        let hash = self.hash();
        let state = match direction {
            Direction::Incoming => match self.as_received(now, now) {
                Incoming::Settled => MovementState::Settled,
                Incoming::Open | Incoming::Held { .. } => MovementState::Pending,
                Incoming::Cancelled | Incoming::Expired | Incoming::NotFound => {
                    MovementState::Failed
                }
            },
            Direction::Outgoing => {
                match self.as_sent(hash.unwrap_or(PaymentHash::from_bytes([0; 32]))) {
                    Sent::Paid(_) => MovementState::Settled,
                    Sent::InFlight => MovementState::Pending,
                    Sent::Failed(_) | Sent::NotFound => MovementState::Failed,
                }
            }
        };
        Some(Movement {
            direction,
            state,
            amount_msat: Msat::new(self.amount?),
            fee_msat: self.fees_paid.map(Msat::new),
            payment_hash: hash,
            created_at: self.created_at.map(UnixSecs::new),
            description: self.description.as_deref().map(bounded),
        })
    }

    /// Whether money is locked on its way to us.
    pub(super) fn is_held(&self) -> bool {
        self.is("incoming") && matches!(self.state().as_deref(), Some("accepted" | "held"))
    }

    /// What it says of an invoice of ours; `deadline` is when a held payment goes back.
    pub(super) fn as_received(&self, now: UnixSecs, deadline: UnixSecs) -> Incoming {
        if !self.is("incoming") {
            return Incoming::NotFound;
        }
        let is_over = || {
            let ends = self.expires_at.filter(|ends| *ends > 0);
            ends.is_some_and(|ends| now >= UnixSecs::new(ends))
        };
        match self.state().as_deref() {
            Some("settled") => Incoming::Settled,
            Some("accepted" | "held") => Incoming::Held { deadline },
            Some("failed" | "canceled" | "cancelled") => Incoming::Cancelled,
            Some("expired") => Incoming::Expired,
            None if self.settled_at.is_some_and(|at| at > 0) => Incoming::Settled,
            _ if is_over() => Incoming::Expired,
            _ => Incoming::Open,
        }
    }
}

/// A text, or nothing for whatever else stands there.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    })
}

/// A whole number that is not negative, also as a text or with a zero fraction; or nothing.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    /// The largest whole number that every JSON reader has exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    Ok(match Value::deserialize(from)? {
        Value::Number(number) => number.as_u64().or_else(|| {
            let float = number.as_f64()?;
            let is_exact = float.fract() == 0.0 && (0.0..EXACT).contains(&float);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole, not negative, and small enough"
            )]
            is_exact.then_some(float as u64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    })
}

/// A list of words, or the words of one text.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => items
            .into_iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests;

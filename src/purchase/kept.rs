//! What a row of the ledger is: a purchase, or a payment by hand.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::payment::Payment;
use super::payment::state::VERSION as PAYMENT;
use super::state::{State, StateError};
use crate::ledger::StateRow;

/// A row's state, read.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Something was asked of a provider.
    Purchase(Box<State>),
    /// The owner paid an invoice.
    Payment(Box<Payment>),
}

impl Kept {
    /// Reads a state from the ledger.
    ///
    /// # Errors
    /// If it is damaged or of a later version.
    pub fn from_row(row: &StateRow) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
            payment: Option<IgnoredAny>,
        }
        let head: Head = serde_json::from_str(&row.json)?;
        match head.payment {
            Some(_) if head.v > PAYMENT => Err(StateError::Newer(head.v)),
            Some(_) => Ok(Self::Payment(Box::new(serde_json::from_str(&row.json)?))),
            None => Ok(Self::Purchase(Box::new(State::from_row(row)?))),
        }
    }
}

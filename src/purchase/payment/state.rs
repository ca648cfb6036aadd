//! The persisted state of a payment by hand, and its pure step.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{MIN_INVOICE_LIFE_SECS, SETTLED_LONG_AGO_SECS, default_fee_cap};
use crate::error::Code;
use crate::ids::{PaymentHash, Preimage, PurchaseId, WalletId};
use crate::ledger::{Entry, SeenBalance, StateRow, Status};
use crate::purchase::doubt::{Doubt, Verdict};
use crate::purchase::preimage_text;
use crate::purchase::state::{Booking, Effect, Finish, Happening, StateError, Step};
use crate::units::{Msat, Network, UnixSecs};
use crate::wallet::invoice::{self, InvoiceProblem, SECS_PER_BLOCK, parse_unchecked};
use crate::wallet::{FailureProof, PayOutcome};

#[cfg(test)]
mod tests;

/// The version of the JSON below, in one row with those of purchases: a program from before there were
/// payments by hand leaves them to a later one.
pub(in crate::purchase) const VERSION: u32 = 3;

/// What is to be paid, on the owner's word. Fixed before the wallet is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// BOLT11.
    pub bolt11: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub amount: Msat,
    /// When it can no longer be paid.
    pub expires_at: UnixSecs,
    /// How long the payee may keep the payment unclaimed, in seconds.
    pub hold_secs: u64,
    /// The node that is paid, in hex.
    pub payee: String,
    /// What the invoice says that it is for: the payee's words.
    pub description: String,
}

impl Bill {
    /// Reads an invoice, with or without `lightning:` before it, and checks what the owner can't see: its
    /// signature, its network, and that it can still be paid and does not hold the money for too long.
    ///
    /// # Errors
    /// The first [`InvoiceProblem`] that it has; [`InvoiceProblem::Amountless`] where the amount is left to the
    /// payer.
    pub fn check(
        text: &str,
        network: Network,
        max_hold_secs: u64,
        now: UnixSecs,
    ) -> Result<Self, InvoiceProblem> {
        const SCHEME: &str = "lightning:";
        let text = text.trim();
        let bolt11 = match text.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &text[SCHEME.len()..],
            _ => text,
        };
        let parsed = parse_unchecked(bolt11)?;
        let amount = parsed.amount.ok_or(InvoiceProblem::Amountless)?;
        let terms = invoice::Terms {
            // What it asks for is for the owner to judge, and for the limits.
            amount,
            ceiling: Msat::MAX,
            network,
            now,
            min_time_left_secs: MIN_INVOICE_LIFE_SECS,
            max_hold_secs,
            on_hash: None,
        };
        let checked = invoice::check(bolt11, &terms)?;
        Ok(Self {
            bolt11: checked.bolt11,
            payment_hash: checked.payment_hash,
            amount: checked.amount,
            expires_at: checked.expires_at,
            hold_secs: checked.min_final_cltv.saturating_mul(SECS_PER_BLOCK),
            payee: checked.payee.to_string(),
            description: parsed.description,
        })
    }
}

/// Where a payment stands. See the diagram in [`super`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// On record; nothing is set aside yet.
    Opened,
    /// The money is set aside and the wallet was, or is about to be, told to pay.
    Paying,
    /// The wallet could not say whether it paid.
    Unknown {
        /// What it said.
        reason: String,
        /// What counts towards a proof that it did not.
        #[serde(flatten)]
        doubt: Doubt,
    },
    /// Over: the payee has the money.
    Settled {
        /// What routing cost.
        fee: Msat,
        /// Proof of payment, if the wallet told it.
        #[serde(with = "preimage_text")]
        preimage: Option<Preimage>,
    },
    /// Over: nothing paid.
    Failed {
        /// The stable word of the failure.
        code: String,
        /// What happened.
        message: String,
    },
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Phase {
    /// The name for people and for `history`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Paying => "paying",
            Self::Unknown { .. } => "payment_unknown",
            Self::Settled { .. } => "settled",
            Self::Failed { .. } => "failed",
        }
    }

    const fn status(&self) -> Status {
        match self {
            Self::Opened | Self::Paying | Self::Unknown { .. } => Status::Open,
            Self::Settled { .. } => Status::Delivered,
            Self::Failed { .. } => Status::Failed,
        }
    }

    /// Whether money is set aside for it that its wallet has not decided.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Paying | Self::Unknown { .. })
    }
}

/// A payment by hand: what is paid, from where, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    v: u32,
    /// Its id in the ledger.
    pub id: PurchaseId,
    /// What is paid.
    pub payment: Bill,
    /// The wallet that pays, and that alone can say what became of it.
    pub wallet: WalletId,
    /// What routing may cost on top.
    pub max_fee: Msat,
    /// Where it stands.
    pub phase: Phase,
}

impl Payment {
    /// A payment that is about to be put on record. Without `max_fee`, routing may cost what
    /// [`crate::config::default_fee_cap`] says.
    #[must_use]
    pub fn new(id: PurchaseId, payment: Bill, wallet: WalletId, max_fee: Option<Msat>) -> Self {
        Self {
            v: VERSION,
            id,
            max_fee: max_fee.unwrap_or_else(|| default_fee_cap(payment.amount)),
            payment,
            wallet,
            phase: Phase::Opened,
        }
    }

    /// The state as the ledger keeps it.
    ///
    /// # Errors
    /// If it can't be written as JSON: a bug.
    pub fn to_row(&self) -> Result<StateRow, StateError> {
        Ok(StateRow {
            json: serde_json::to_string(self)?,
            label: self.phase.label().to_owned(),
            status: self.phase.status(),
        })
    }

    /// Takes one step. A pure function of what happened, and when.
    pub fn step(&mut self, happening: Happening, now: UnixSecs) -> Step {
        match happening {
            Happening::Prepared { fee_cap, seen } => self.prepared(fee_cap, seen),
            Happening::CannotPay { code, message } => self.before_payment(code, message),
            Happening::OverBudget(refusal) => self.before_payment(
                Code::Budget,
                format!("{refusal}; nothing was paid. See `agent-customer budget`"),
            ),
            Happening::HashUsed => self.before_payment(
                Code::BadInvoice,
                "this invoice was in an earlier payment, and none is paid twice: see `agent-customer history`, and \
                 ask for a new invoice if that one failed; nothing was paid now"
                    .to_owned(),
            ),
            Happening::PayAnswered(outcome) => self.answered(outcome),
            Happening::LookedUp {
                found,
                authoritative,
            } => self.looked_up(found, authoritative, now),
            Happening::Deadline | Happening::GiveUpLooking => self.too_late(),
            Happening::Interrupted => self.interrupted(),
            Happening::Resolved { paid } => self.resolved(paid),
            // A payment by hand has no provider to hear from.
            _ => Step::ignored(),
        }
    }

    fn prepared(&mut self, fee_cap: Msat, seen: Option<SeenBalance>) -> Step {
        if self.phase != Phase::Opened {
            return Step::ignored();
        }
        self.phase = Phase::Paying;
        let mut step = Step::saved().then(Effect::Pay);
        // One transaction: what is set aside and that a payment begins.
        step.entries = vec![
            Booking::Reserve {
                price: self.payment.amount,
                fee_cap,
                payment_hash: self.payment.payment_hash,
                wallet: self.wallet.clone(),
                seen,
            },
            Booking::Plain(Entry::InFlight),
        ];
        step
    }

    fn answered(&mut self, outcome: PayOutcome) -> Step {
        if !self.phase.is_undecided() {
            return Step::ignored();
        }
        match outcome {
            PayOutcome::Paid { preimage, fee } => self.paid(preimage, fee),
            PayOutcome::InFlight => Step::unsaved().then(Effect::LookUp),
            PayOutcome::Failed(proof) => self.proven_failed(&proof),
            PayOutcome::Unknown { reason } => {
                self.in_doubt(reason, Doubt::default()).then(Effect::LookUp)
            }
        }
    }

    fn looked_up(
        &mut self,
        found: crate::wallet::Outgoing,
        authoritative: bool,
        now: UnixSecs,
    ) -> Step {
        let doubt = match &self.phase {
            Phase::Paying => Doubt::default(),
            Phase::Unknown { doubt, .. } => *doubt,
            _ => return Step::ignored(),
        };
        // The payee may keep a payment for as long as the invoice lets it, and not every wallet lists it then.
        let ends = self.payment.expires_at.plus(self.payment.hold_secs);
        let ended_long_ago = now >= ends.plus(SETTLED_LONG_AGO_SECS);
        match doubt.hear(found, authoritative, ended_long_ago) {
            Verdict::Paid { preimage, fee } => self.paid(preimage, fee),
            Verdict::Failed(proof) => self.proven_failed(&proof),
            Verdict::Nearer(doubt, reason) => self.in_doubt(reason, doubt).then(Effect::LookUp),
            Verdict::Nothing => Step::unsaved().then(Effect::LookUp),
            Verdict::InFlight => {
                let mut step = Step::unsaved().then(Effect::LookUp);
                if let Phase::Unknown { doubt, .. } = &mut self.phase {
                    step.save = std::mem::take(doubt).is_any();
                }
                step
            }
        }
    }

    fn paid(&mut self, preimage: Option<Preimage>, fee: Msat) -> Step {
        let hash = self.payment.payment_hash;
        self.phase = Phase::Settled {
            fee,
            // A preimage of another hash proves nothing.
            preimage: preimage.filter(|preimage| preimage.payment_hash() == hash),
        };
        let mut step = Step::saved().then(Effect::Finish(Finish::Delivered));
        step.entries = vec![Booking::Plain(Entry::Settle {
            price: self.payment.amount,
            fee,
        })];
        step
    }

    fn proven_failed(&mut self, proof: &FailureProof) -> Step {
        let code = if proof.insufficient_funds {
            Code::Wallet
        } else {
            Code::PaymentFailed
        };
        let why = proof.words().to_owned();
        let mut step = self.failed(code, format!("the payment failed: {why}; nothing was paid"));
        step.entries = vec![Booking::Plain(Entry::Release { proof: why })];
        step
    }

    fn failed(&mut self, code: Code, message: String) -> Step {
        self.phase = Phase::Failed {
            code: code.as_str().to_owned(),
            message: message.clone(),
        };
        Step::saved().then(Effect::Finish(Finish::Failed { code, message }))
    }

    /// Ends a payment for which nothing was set aside.
    fn before_payment(&mut self, code: Code, message: String) -> Step {
        match self.phase {
            Phase::Opened => self.failed(code, message),
            _ => Step::ignored(),
        }
    }

    fn in_doubt(&mut self, reason: String, doubt: Doubt) -> Step {
        let first = self.phase == Phase::Paying;
        self.phase = Phase::Unknown {
            reason: reason.clone(),
            doubt,
        };
        let mut step = Step::saved();
        if first {
            step.entries = vec![Booking::Plain(Entry::Unknown { reason })];
        }
        step
    }

    fn too_late(&mut self) -> Step {
        let step = match &self.phase {
            Phase::Opened => {
                let message = "the wallet did not answer in time; nothing was paid".to_owned();
                return self.failed(Code::Timeout, message);
            }
            Phase::Paying => self.in_doubt(
                "the payment is still on its way".to_owned(),
                Doubt::default(),
            ),
            Phase::Unknown { .. } => Step::unsaved(),
            Phase::Settled { .. } | Phase::Failed { .. } => return Step::ignored(),
        };
        let reason = match &self.phase {
            Phase::Unknown { reason, .. } => reason.as_str(),
            _ => "",
        };
        let message = format!(
            "the wallet can't say whether {} were paid ({reason}); they stay reserved. Run `agent-customer recover`",
            self.payment.amount
        );
        let code = Code::PaymentUnknown;
        step.then(Effect::Finish(Finish::Failed { code, message }))
    }

    fn interrupted(&mut self) -> Step {
        match &self.phase {
            Phase::Opened => {
                let message = "stopped before the wallet was told to pay; nothing was paid";
                self.failed(Code::Interrupted, message.to_owned())
            }
            Phase::Paying | Phase::Unknown { .. } => {
                let message = format!(
                    "stopped while {} were being paid; they stay reserved. Run `agent-customer recover`",
                    self.payment.amount
                );
                let code = Code::Interrupted;
                Step::unsaved().then(Effect::Finish(Finish::Failed { code, message }))
            }
            Phase::Settled { .. } | Phase::Failed { .. } => Step::ignored(),
        }
    }

    fn resolved(&mut self, paid: bool) -> Step {
        if !self.phase.is_undecided() {
            return Step::ignored();
        }
        let (mut step, word) = if paid {
            (self.paid(None, Msat::ZERO), "paid")
        } else {
            let proof = FailureProof::new("the owner said so");
            (self.proven_failed(&proof), "failed")
        };
        step.entries.push(Booking::Plain(Entry::Note(format!(
            "resolved by the owner: {word}"
        ))));
        step
    }
}

//! The machines that recovery takes a step in: a purchase, and a payment by hand.

use crate::crash::{self, Point};
use crate::error::{Code, Error, Result};
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::ledger::{Entry, StateRow};
use crate::purchase::driver::Engine;
use crate::purchase::observed::observation;
use crate::purchase::payment::{self, Payment};
use crate::purchase::state::{Booking, Happening, Phase, State, StateError, Step};
use crate::purchase::step::{Now, step};
use crate::purchase::{notary, points};

/// What recovery needs to know of a machine whose money is undecided.
pub(super) trait Machine {
    fn id(&self) -> PurchaseId;
    fn wallet(&self) -> Option<&WalletId>;
    fn payment_hash(&self) -> Option<PaymentHash>;
    /// Whether only its wallet can say how it goes on.
    fn waits_for_wallet(&self) -> bool;
    fn row(&self) -> Result<StateRow, StateError>;
    /// One step, and what to put on record with it besides the money.
    fn take(&mut self, happening: Happening, engine: &Engine) -> Taken;
}

pub(super) struct Taken {
    step: Step,
    also: Vec<Entry>,
    points: &'static [Point],
}

impl Machine for State {
    fn id(&self) -> PurchaseId {
        self.terms.id
    }

    fn wallet(&self) -> Option<&WalletId> {
        self.terms.pay_by.wallet()
    }

    fn payment_hash(&self) -> Option<PaymentHash> {
        let invoice = self.phase.quote()?.invoice.as_ref()?;
        Some(invoice.payment_hash)
    }

    fn waits_for_wallet(&self) -> bool {
        matches!(self.phase, Phase::Paying(_) | Phase::Unknown { .. })
    }

    fn row(&self) -> Result<StateRow, StateError> {
        self.to_row()
    }

    fn take(&mut self, happening: Happening, engine: &Engine) -> Taken {
        let at = engine.clock.now();
        let now = Now {
            at,
            elapsed_ms: self.elapsed_ms(at),
        };
        let before = self.phase.clone();
        let step = step(self, happening, now);
        let seen = observation(&before, self, false, None).map(Entry::Observe);
        let receipt = notary::receipt(&before, self, &engine.identity);
        Taken {
            step,
            also: seen.into_iter().chain(receipt).collect(),
            points: points::of_commit(&before, &self.phase),
        }
    }
}

impl Machine for Payment {
    fn id(&self) -> PurchaseId {
        self.id
    }

    fn wallet(&self) -> Option<&WalletId> {
        Some(&self.wallet)
    }

    fn payment_hash(&self) -> Option<PaymentHash> {
        Some(self.payment.payment_hash)
    }

    fn waits_for_wallet(&self) -> bool {
        self.phase.is_undecided()
    }

    fn row(&self) -> Result<StateRow, StateError> {
        self.to_row()
    }

    fn take(&mut self, happening: Happening, engine: &Engine) -> Taken {
        let before = self.phase.clone();
        let step = self.step(happening, engine.clock.now());
        Taken {
            step,
            also: Vec::new(),
            points: payment::points(&before, &self.phase),
        }
    }
}

/// Takes one step outside of a [`Run`](crate::purchase::driver::Run): decide and commit, without effects.
pub(super) async fn apply(
    engine: &Engine,
    machine: &mut impl Machine,
    version: u64,
    happening: Happening,
) -> Result<u64> {
    let Taken { step, also, points } = machine.take(happening, engine);
    if !step.save {
        return Ok(version);
    }
    let row = machine
        .row()
        .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    let entries = step
        .entries
        .into_iter()
        .filter_map(|booking| match booking {
            Booking::Plain(entry) => Some(entry),
            // Recovery never sets money aside: none of what it feeds the machine asks for it.
            Booking::Reserve { .. } => None,
        })
        .chain(also)
        .collect();
    let commit = engine.ledger.commit(machine.id(), version, row, entries);
    Ok(crash::around(points, commit).await?)
}

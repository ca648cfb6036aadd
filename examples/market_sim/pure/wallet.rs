//! What the buyer's wallet says of the bank's truth: late, in part, or not at all, but never that a payment
//! is made that is not.

use agent_compute::Code;
use agent_compute::config::default_fee_cap;
use agent_compute::ids::Preimage;
use agent_compute::ledger::{ReservationStatus, SeenBalance};
use agent_compute::purchase::state::{Happening, State};
use agent_compute::units::Msat;
use agent_compute::wallet::{FailureProof, Outgoing, PayOutcome};

use super::bank::{Flight, Party};
use super::buyer::Order;
use super::world::{World, short};

/// What routing costs, where the wallet can say so beforehand.
const ROUTING: Msat = Msat::new(250);

impl World {
    /// Whether the wallet could pay, and what that would cost.
    pub fn prepare(&mut self, b: usize) -> Happening {
        let amount = self.buyers[b]
            .run
            .as_ref()
            .and_then(|run| run.state.phase.quote())
            .map_or(Msat::ZERO, |quote| quote.amount);
        if self.hits(self.case.adversary.odds.mute_wallet / 4) {
            return Happening::CannotPay {
                code: Code::Network,
                message: "the wallet can't be reached; nothing was paid".to_owned(),
            };
        }
        let fee_cap = if self.binding {
            ROUTING
        } else {
            default_fee_cap(amount)
        };
        let settlements = self.books.settlements;
        let seen = (!self.books.limits.floor.is_zero()).then(|| SeenBalance {
            balance: self.bank.balance(Party::Buyer),
            settlements,
        });
        Happening::Prepared { fee_cap, seen }
    }

    /// The machine tells the wallet to pay.
    pub fn give_order(&mut self, b: usize) {
        self.buyers[b].pays += 1;
        if self.buyers[b].pays > 1 {
            self.broke("the wallet is told to pay twice for one purchase");
        }
        self.buyers[b].order = Some(Order { begun: false });
    }

    /// What the wallet does with an order, and its answer once it has one.
    pub fn order_answer(&mut self, b: usize) -> Option<PayOutcome> {
        if self.buyers[b].stray {
            self.take_up_stray(b);
            return None;
        }
        let order = self.buyers[b].order?;
        if order.begun {
            return self.answer_of_begun(b);
        }
        let odds = self.case.adversary.odds;
        if self.hits(odds.no_route) {
            return Some(PayOutcome::Failed(FailureProof::new("no route")));
        }
        let doubts = self.hits(odds.doubt);
        if doubts && self.flip() {
            self.log(|| format!("buyer {b}'s wallet never gets the order"));
            return Some(unknown());
        }
        if let Err(proof) = self.begin_payment(b) {
            return Some(PayOutcome::Failed(proof));
        }
        if let Some(order) = &mut self.buyers[b].order {
            order.begun = true;
        }
        doubts.then(unknown)
    }

    fn answer_of_begun(&mut self, b: usize) -> Option<PayOutcome> {
        let odds = self.case.adversary.odds;
        let hash = self.record(b)?.1;
        if self.hits(odds.slow) || self.hits(odds.mute_wallet) {
            return None;
        }
        let payment = *self.bank.payments.get(&hash)?;
        if self.hits(odds.doubt) {
            return Some(unknown());
        }
        match payment.flight {
            Flight::Settled => Some(PayOutcome::Paid {
                preimage: self.told_preimage(&hash),
                fee: payment.fee,
            }),
            Flight::Failed => Some(PayOutcome::Failed(FailureProof::new("it came back"))),
            Flight::OnTheWay | Flight::Held => self.flip().then_some(PayOutcome::InFlight),
        }
    }

    /// The reservation's price, hash and fee cap, read back from the ledger as the driver does.
    fn record(&self, b: usize) -> Option<(Msat, agent_compute::ids::PaymentHash, Msat, bool)> {
        let money = self.books.accounts[self.buyers[b].account].money.as_ref()?;
        let open = money.status.is_open();
        Some((money.price, money.hash, money.fee_cap, open))
    }

    fn begin_payment(&mut self, b: usize) -> Result<(), FailureProof> {
        let Some((price, hash, fee_cap, true)) = self.record(b) else {
            return Err(FailureProof::new("no money is set aside for it"));
        };
        let bill = self.bank.bills.get(&hash);
        if bill.is_some_and(|bill| self.true_now() >= bill.facts.expires_at) {
            return Err(FailureProof::new("the invoice has expired"));
        }
        let overruns = !self.binding && self.hits(self.case.adversary.odds.overrun);
        let fee = if overruns {
            fee_cap.saturating_add(fee_cap)
        } else if self.binding {
            ROUTING
        } else {
            Msat::new(self.random(0, fee_cap.get() + 1))
        };
        if self.bank.payments.contains_key(&hash) {
            self.broke("a payment hash is paid twice");
            return Err(FailureProof::new("paid before"));
        }
        let off = self.bank.pay(Party::Buyer, hash, price, fee);
        self.log(|| {
            format!(
                "buyer {b}'s wallet pays {} to {}: {off}",
                price,
                short(&hash)
            )
        });
        if off {
            return Ok(());
        }
        Err(FailureProof {
            reason: "short of funds".to_owned(),
            insufficient_funds: true,
        })
    }

    /// An order that outlived its process: the wallet may take it up as long as the invoice stands.
    fn take_up_stray(&mut self, b: usize) {
        self.buyers[b].stray = false;
        let released = self.books.accounts[self.buyers[b].account]
            .money
            .as_ref()
            .is_none_or(|money| money.status == ReservationStatus::Released);
        // It asks no ledger.
        let begun = self.begin_payment(b).is_ok();
        if begun && released {
            self.broke("money was freed while its payment could still begin");
        }
    }

    /// A look-up, of what the run in memory pays.
    pub fn look_up(&mut self, b: usize) -> Option<Happening> {
        let state = self.buyers[b].run.as_ref()?.state.clone();
        self.look_up_of(&state)
    }

    /// What the wallet says of a payment; `None`: nothing.
    pub fn look_up_of(&mut self, state: &State) -> Option<Happening> {
        if self.hits(self.case.adversary.odds.mute_wallet) {
            return None;
        }
        let (hash, expires_at) = Self::hash_of(state)?;
        // Not every wallet lists a payment that is held for long.
        let over_at = match state.phase.lock() {
            Some(lock) => {
                let invoice = lock.quote.invoice.as_ref();
                expires_at.plus(invoice.map_or(0, |invoice| invoice.hold_secs))
            }
            None => expires_at,
        };
        let authoritative = self.authoritative;
        let misreads =
            !authoritative && self.wall() < over_at && self.hits(self.case.adversary.odds.misread);
        let denies = self.flip();
        let preimage = self.told_preimage(&hash);
        let found = match self.bank.payments.get_mut(&hash) {
            Some(payment) if payment.payer != Party::Buyer => Outgoing::NotFound,
            None => Outgoing::NotFound,
            Some(payment) if misreads && (denies || payment.misread) => Outgoing::NotFound,
            Some(payment) if misreads => {
                payment.misread = true;
                Outgoing::Failed(FailureProof::new("so it seems"))
            }
            Some(payment) => {
                payment.misread = false;
                match payment.flight {
                    Flight::Settled => Outgoing::Paid {
                        preimage,
                        fee: payment.fee,
                    },
                    Flight::Failed => Outgoing::Failed(FailureProof::new("it came back")),
                    Flight::OnTheWay | Flight::Held => Outgoing::InFlight,
                }
            }
        };
        Some(Happening::LookedUp {
            found,
            authoritative,
        })
    }

    fn told_preimage(&mut self, hash: &agent_compute::ids::PaymentHash) -> Option<Preimage> {
        let known = self.bank.bills.get(hash).and_then(|bill| bill.preimage);
        if self.hits(self.case.adversary.odds.no_preimage) {
            return self.flip().then_some(Preimage::from_bytes([0xee; 32]));
        }
        known
    }
}

fn unknown() -> PayOutcome {
    PayOutcome::Unknown {
        reason: "the wallet did not answer in time".to_owned(),
    }
}

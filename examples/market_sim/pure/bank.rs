//! All the money there is, and the truth about it. Wallets tell more or less of it (see `wallet`).

use std::collections::BTreeMap;

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use nostr::secp256k1::SecretKey;

/// Whose money it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Buyer,
    Seller,
    Pest,
    /// Anybody else: routing nodes, strangers whose invoice was passed off as one's own.
    World,
}

/// What is true of an invoice, whatever its bringer says.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub amount: Option<Msat>,
    pub hash: PaymentHash,
    pub network: Network,
    pub created_at: UnixSecs,
    pub expires_at: UnixSecs,
    pub hold_secs: u64,
}

/// Where an invoice stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    Open,
    Held {
        until: UnixSecs,
    },
    Settled,
    /// Given back, or taken back before it was paid.
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
pub struct Bill {
    pub facts: Facts,
    pub payee: Party,
    /// Money that arrives waits until the payee claims it.
    pub holds: bool,
    /// What claims it, where the payee knows it from the start.
    pub preimage: Option<Preimage>,
    pub stand: Stand,
}

/// Where a payment stands, seen from the payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// Between payer and payee.
    OnTheWay,
    /// With the payee, who has yet to claim it.
    Held,
    Settled,
    Failed,
}

#[derive(Clone, Copy, Debug)]
pub struct Payment {
    pub payer: Party,
    pub amount: Msat,
    pub fee: Msat,
    pub flight: Flight,
    /// Whether the wallet said "failed" when it was asked last, and that was not so.
    pub misread: bool,
}

/// The books of the whole world. Every method keeps the sum.
#[derive(Clone, Debug)]
pub struct Bank {
    accounts: BTreeMap<Party, u64>,
    in_flight: u64,
    total: u64,
    pub bills: BTreeMap<PaymentHash, Bill>,
    /// By hash: a wallet pays no hash twice. That nobody asks it to is checked elsewhere.
    pub payments: BTreeMap<PaymentHash, Payment>,
    invoices: u32,
}

impl Bank {
    pub fn new(buyer: u64, pest: u64) -> Self {
        let accounts = BTreeMap::from([(Party::Buyer, buyer), (Party::Pest, pest)]);
        Self {
            accounts,
            in_flight: 0,
            total: buyer + pest,
            bills: BTreeMap::new(),
            payments: BTreeMap::new(),
            invoices: 0,
        }
    }

    pub fn balance(&self, of: Party) -> Msat {
        Msat::new(self.accounts.get(&of).copied().unwrap_or(0))
    }

    /// Whether every millisatoshi is somewhere.
    pub fn is_whole(&self) -> bool {
        self.accounts.values().sum::<u64>() + self.in_flight == self.total
    }

    /// Signs an invoice. It can be paid only if a bill goes with it ([`Self::bills`]).
    pub fn sign(&mut self, facts: &Facts) -> String {
        self.invoices += 1;
        let mut secret = [4; 32];
        secret[..4].copy_from_slice(&self.invoices.to_be_bytes());
        let draft = Draft {
            network: facts.network,
            amount: facts.amount,
            payment_hash: facts.hash,
            payment_secret: secret,
            description: "job".to_owned(),
            created_at: facts.created_at,
            expiry_secs: facts.expires_at.since(facts.created_at),
            min_final_cltv: facts.hold_secs / 600,
        };
        let key = SecretKey::from_slice(&[0x42; 32]).unwrap();
        sign(&draft, &key).unwrap()
    }

    /// Sends a payment off. False: it failed at once, for a reason that is certain.
    pub fn pay(&mut self, payer: Party, hash: PaymentHash, amount: Msat, fee: Msat) -> bool {
        let needs = amount.get() + fee.get();
        let has = self.accounts.entry(payer).or_insert(0);
        let flight = if *has >= needs {
            *has -= needs;
            self.in_flight += needs;
            Flight::OnTheWay
        } else {
            Flight::Failed
        };
        let payment = Payment {
            payer,
            amount,
            fee,
            flight,
            misread: false,
        };
        assert!(self.payments.insert(hash, payment).is_none(), "paid twice");
        flight == Flight::OnTheWay
    }

    /// A payment arrives: it is claimed, held or turned away.
    pub fn arrive(&mut self, hash: PaymentHash, now: UnixSecs) {
        let Some(payment) = self.payments.get_mut(&hash) else {
            return;
        };
        if payment.flight != Flight::OnTheWay {
            return;
        }
        let Some(bill) = self.bills.get_mut(&hash) else {
            return self.return_to_payer(hash);
        };
        let late = now >= bill.facts.expires_at;
        let other = bill.facts.amount != Some(payment.amount);
        if bill.stand != Stand::Open || late || other {
            self.return_to_payer(hash);
        } else if bill.holds {
            let until = now.plus(bill.facts.hold_secs);
            bill.stand = Stand::Held { until };
            payment.flight = Flight::Held;
        } else {
            bill.stand = Stand::Settled;
            self.hand_over(hash);
        }
    }

    /// The payee claims what is held. False: nothing is.
    pub fn settle(&mut self, preimage: Preimage) -> bool {
        let hash = preimage.payment_hash();
        let Some(bill) = self.bills.get_mut(&hash) else {
            return false;
        };
        match bill.stand {
            Stand::Held { .. } => {
                bill.stand = Stand::Settled;
                self.hand_over(hash);
                true
            }
            Stand::Settled => true,
            Stand::Open | Stand::Cancelled => false,
        }
    }

    /// The payee gives back what is held, or takes an open invoice back. False: it was settled.
    pub fn cancel(&mut self, hash: PaymentHash) -> bool {
        let Some(bill) = self.bills.get_mut(&hash) else {
            return true;
        };
        match bill.stand {
            Stand::Settled => return false,
            Stand::Held { .. } => {
                bill.stand = Stand::Cancelled;
                self.return_to_payer(hash);
            }
            Stand::Open => bill.stand = Stand::Cancelled,
            Stand::Cancelled => {}
        }
        true
    }

    /// What was held for too long goes back.
    pub fn end_holds(&mut self, now: UnixSecs) {
        let over: Vec<PaymentHash> = self
            .bills
            .iter()
            .filter(|(_, bill)| matches!(bill.stand, Stand::Held { until } if until <= now))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in over {
            self.cancel(hash);
        }
    }

    pub fn return_to_payer(&mut self, hash: PaymentHash) {
        let Some(payment) = self.payments.get_mut(&hash) else {
            return;
        };
        if !matches!(payment.flight, Flight::OnTheWay | Flight::Held) {
            return;
        }
        payment.flight = Flight::Failed;
        let sum = payment.amount.get() + payment.fee.get();
        self.in_flight -= sum;
        *self.accounts.entry(payment.payer).or_insert(0) += sum;
    }

    fn hand_over(&mut self, hash: PaymentHash) {
        let Some(payment) = self.payments.get_mut(&hash) else {
            return;
        };
        payment.flight = Flight::Settled;
        let (amount, fee) = (payment.amount.get(), payment.fee.get());
        self.in_flight -= amount + fee;
        let payee = self
            .bills
            .get(&hash)
            .map_or(Party::World, |bill| bill.payee);
        *self.accounts.entry(payee).or_insert(0) += amount;
        *self.accounts.entry(Party::World).or_insert(0) += fee;
    }

    /// What a payment stands at, if it was ever made.
    pub fn flight(&self, hash: &PaymentHash) -> Option<Flight> {
        self.payments.get(hash).map(|payment| payment.flight)
    }

    /// Those under way.
    pub fn under_way(&self) -> Vec<PaymentHash> {
        self.payments
            .iter()
            .filter(|(_, payment)| payment.flight == Flight::OnTheWay)
            .map(|(hash, _)| *hash)
            .collect()
    }
}

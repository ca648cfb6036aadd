//! What a seed draws: who is in the way, who else is, and on what terms is bought.

use std::time::Duration;

use agent_compute::Code;
use agent_compute::config::Runway;
use agent_compute::units::Msat;
use agent_compute::wallet::sim::Fault;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::quoting::Terms;
use super::rogues::Rogue;
use super::sellers::{End, Seller};
use super::weather::{Plan, Weather};
use super::world::OPENING;

/// Who is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adversary {
    Seller(Seller),
    Relay(Weather),
    Wallet(Fault),
    Customer(Rogue),
}

impl Adversary {
    /// All of them, in the order in which seeds take them.
    pub fn all() -> Vec<Self> {
        let sellers = Seller::ALL.into_iter().map(Self::Seller);
        let relays = Weather::ALL.into_iter().map(Self::Relay);
        let wallets = Fault::ALL.into_iter().map(Self::Wallet);
        let customers = Rogue::ALL.into_iter().map(Self::Customer);
        sellers
            .chain(relays)
            .chain(wallets)
            .chain(customers)
            .collect()
    }

    /// The stable word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Seller(seller) => seller.word(),
            Self::Relay(weather) => weather.word(),
            Self::Customer(rogue) => rogue.word(),
            Self::Wallet(Fault::TimeoutAfter) => "wallet: timeout-after",
            Self::Wallet(Fault::TimeoutBefore) => "wallet: timeout-before",
            Self::Wallet(Fault::Refuse) => "wallet: refuse",
            Self::Wallet(Fault::Slow) => "wallet: slow",
            Self::Wallet(Fault::NoPreimage) => "wallet: no-preimage",
        }
    }
}

/// A combination: one from each family.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub main: Adversary,
    pub seller: Seller,
    pub relay: Option<Plan>,
    /// Whether the seller, too, uses the relay that misbehaves.
    pub seller_behind: bool,
    pub fault: Option<Fault>,
    pub rogue: Option<Rogue>,
    /// By how much the seller is cheaper than an honest one beside it, who is asked next; `None`: it is alone.
    pub cheaper_by: Option<u64>,
    /// The buyer changes its mind once so much has happened.
    pub stops_after: Option<usize>,
    pub escrow: bool,
    pub sealed: bool,
    pub price: u64,
    pub fee: u64,
    pub attempts: u64,
    pub rng: StdRng,
}

/// The buyer's patience: where the attempt ends by what happens, and where it ends by nothing happening.
const LONG: Duration = Duration::from_secs(45);
const QUICK: Duration = Duration::from_secs(2);
/// The same where a relay is in the way, and where the wallet is slow.
const QUICK_ENOUGH: Duration = Duration::from_secs(3);
/// Time for a relay that loses things to tell of a seller.
const DISCOVERY: Duration = Duration::from_millis(1500);

impl Scenario {
    /// What this seed draws, against this adversary if one is named.
    pub fn draw(seed: u64, main: Adversary) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let companions = !matches!(main, Adversary::Customer(_));
        let seller = match main {
            Adversary::Seller(seller) => seller,
            Adversary::Customer(_) => Seller::Provider,
            _ => match rng.random_range(0..4) {
                0 => *Seller::ALL.choose(rng).unwrap(),
                1 => Seller::Honest,
                _ => Seller::Provider,
            },
        };
        let weather = match main {
            Adversary::Relay(weather) => Some(weather),
            _ if companions && rng.random_ratio(1, 5) => Weather::ALL.choose(rng).copied(),
            _ => None,
        };
        let fault = match main {
            Adversary::Wallet(fault) => Some(fault),
            _ if companions && rng.random_ratio(1, 5) => Fault::ALL.choose(rng).copied(),
            _ => None,
        };
        let rogue = match main {
            Adversary::Customer(rogue) => Some(rogue),
            _ => None,
        };
        let escrow = rng.random();
        let price = rng.random_range(1_000..=30_000);
        let another = rogue.is_none() && seller != Seller::OverLimit && rng.random_ratio(1, 4);
        let more = rng.random_ratio(1, 4) || seller.needs_an_earlier_purchase() || rogue.is_some();
        Self {
            seed,
            main,
            seller,
            relay: weather.map(|weather| Plan::draw(weather, rng)),
            seller_behind: rng.random_ratio(1, 4),
            fault,
            rogue,
            stops_after: (rogue.is_none() && rng.random_ratio(1, 10))
                .then(|| rng.random_range(1..10)),
            escrow: seller.escrow_only().unwrap_or(escrow),
            // What is sealed can't be overheard.
            sealed: rng.random() && !rogue.is_some_and(Rogue::overhears),
            price,
            cheaper_by: another.then(|| rng.random_range(1..=price / 2)),
            fee: *[0, 0, 1, 21, 777].choose(rng).unwrap(),
            attempts: 1 + u64::from(more),
            rng: StdRng::from_rng(rng),
        }
    }

    /// All that was drawn, for whoever looks into it.
    pub fn in_words(&self) -> String {
        let mut words = vec![self.seller.word().to_owned()];
        let form = if self.escrow { "escrow" } else { "paid first" };
        words.push(form.to_owned());
        words.push((if self.sealed { "sealed" } else { "plain" }).to_owned());
        if let Some(plan) = &self.relay {
            let who = if self.seller_behind { " for both" } else { "" };
            words.push(format!("{plan:?}{who}"));
        }
        words.extend(self.fault.map(|fault| format!("wallet: {fault}")));
        words.extend(self.rogue.map(|rogue| rogue.word().to_owned()));
        words.extend(self.cheaper_by.map(|_| "another to ask".to_owned()));
        words.extend(
            self.stops_after
                .map(|events| format!("stopped after {events} events")),
        );
        words.join(", ")
    }

    pub fn terms(&self) -> Terms {
        Terms {
            seller: self.seller,
            price: self.price - self.cheaper_by.unwrap_or(0),
            escrow: self.escrow,
            sealed: self.sealed,
            rough: self.is_rough(),
        }
    }

    /// The honest one beside it.
    pub fn others_terms(&self) -> Terms {
        Terms {
            seller: Seller::Honest,
            price: self.price,
            ..self.terms()
        }
    }

    /// The most that one purchase costs.
    pub const fn cost(&self) -> u64 {
        self.price + self.fee
    }

    /// Limits that the purchases just fit, so that a msat too many would be refused.
    pub const fn limits(&self) -> Runway {
        let all = self.attempts * self.cost();
        Runway {
            daily_limit: Msat::new(all),
            per_tick_limit: Msat::new(self.cost()),
            per_job_limit: Msat::new(self.cost()),
            // What is locked counts twice against the floor: that can only be too careful.
            reserve: Msat::new(OPENING - 2 * all),
        }
    }

    /// Whether messages are lost, changed or told out of order.
    pub fn is_rough(&self) -> bool {
        self.relay
            .as_ref()
            .is_some_and(|plan| !plan.weather.is_gentle())
    }

    pub fn patience(&self) -> Duration {
        let in_vain = self.seller.runs_out_of_time();
        // Whoever does not quote is given up by then, and an honest one has its time after that.
        let asks_another = self.cheaper_by.is_some() && !self.reaches_payment(0);
        match self.fault {
            _ if self.is_rough() => QUICK_ENOUGH,
            _ if !in_vain || asks_another => LONG,
            Some(Fault::Slow) => QUICK_ENOUGH,
            _ => QUICK,
        }
    }

    /// How long relays may take to tell of the seller: by then at the latest, the buyer does without.
    pub fn discovery(&self) -> Duration {
        // Where nobody suits, a buyer looks for as long as it may.
        let in_vain = self.is_rough() || self.seller == Seller::OverLimit;
        if in_vain { DISCOVERY } else { LONG }
    }

    /// Whether the nth attempt, from 0, is one before another.
    const fn is_earlier(&self, nth: u64) -> bool {
        nth == 0
    }

    fn reaches_payment(&self, nth: u64) -> bool {
        self.seller
            .reaches_payment(self.escrow, self.is_earlier(nth))
    }

    /// The most that the nth attempt may lose, in msat.
    pub fn at_risk(&self, nth: u64) -> u64 {
        let pays = self.reaches_payment(nth)
            && !matches!(self.fault, Some(Fault::Refuse | Fault::TimeoutBefore));
        // A lone relay that loses what an honest seller says is as good as a seller that says nothing.
        let kept = self.seller.keeps_what_is_paid() || (self.is_rough() && self.seller_behind);
        if pays && kept && !self.escrow {
            self.cost()
        } else {
            0
        }
    }

    /// Whether the nth attempt may end so.
    pub fn may_end(&self, nth: u64, end: End) -> bool {
        if end == Err(Code::Interrupted) {
            return self.stops_after.is_some();
        }
        if self.is_rough() {
            // Whatever relays do: never our own fault, and never over the limits.
            let ours = [Code::Internal, Code::Usage, Code::Ledger];
            let over = self.seller == Seller::OverLimit;
            return match end {
                Ok(()) => true,
                Err(Code::Budget) => over,
                Err(code) => !ours.contains(&code),
            };
        }
        let base = self.seller.ends(self.escrow, self.is_earlier(nth));
        let in_time = self.seller.runs_out_of_time() && end == Err(Code::Timeout);
        let another = self.cheaper_by.is_some();
        let of_seller = if another {
            base.iter().any(|base| self.goes_on_to(*base, end)) || in_time
        } else {
            base.contains(&end) || in_time
        };
        if !self.reaches_payment(nth) && !another {
            return of_seller;
        }
        match self.fault {
            None | Some(Fault::NoPreimage | Fault::Slow) => {
                // Others may pay for what the buyer is about to pay for.
                let griefed =
                    self.rogue == Some(Rogue::PaysForOthers) && end == Err(Code::PaymentFailed);
                of_seller || griefed
            }
            Some(Fault::Refuse) => end == Err(Code::PaymentFailed) || in_time,
            Some(Fault::TimeoutBefore) => end == Err(Code::PaymentUnknown) || in_time,
            Some(Fault::TimeoutAfter) => {
                end == Err(Code::PaymentUnknown) || in_time || (self.escrow && of_seller)
            }
        }
    }

    /// Whether an attempt may end so where its first seller ended like `base` and an honest one was asked
    /// next, if that was allowed.
    fn goes_on_to(&self, base: End, end: End) -> bool {
        match base {
            Ok(()) => end.is_ok(),
            // Provably dead: the next one delivers.
            Err(Code::BadInvoice | Code::Timeout | Code::ProviderRefused | Code::PaymentFailed) => {
                end.is_ok()
            }
            // Dead where the locked money is back, or where a busy machine kept the quote too long.
            Err(Code::Undelivered) if self.escrow || self.seller.runs_out_of_time() => {
                end.is_ok() || end == base
            }
            Err(_) => end == base,
        }
    }
}

//! One attempt: who takes part, what may happen next, and how it all must end.

use std::collections::HashMap;

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::ledger::Usage;
use agent_compute::ledger::budget::Limits;
use agent_compute::units::{Msat, UnixSecs};
use nostr::PublicKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::bank::{Bank, Facts};
use super::books::Books;
use super::buyer::Buyer;
use super::case::{Case, Setting};
use super::pest::Pest;
use super::rogue::Rogue;
use super::shop::Shop;
use super::wire::Wire;

/// When the simulation begins: an hour or so before midnight UTC, so that some attempts span two days.
const BEGIN: u64 = 1_800_057_600 - 3_600;

/// What the provider lists.
pub const LISTED: Msat = Msat::new(10_000);

/// A day in seconds.
const DAY: u64 = 86_400;

/// The last lines of a trace that are kept.
const TRACE: usize = 400;

/// Who sells.
#[derive(Clone, Debug)]
pub enum Seller {
    Honest(Shop),
    Rogue(Rogue),
}

#[derive(Clone, Debug)]
pub struct World {
    pub case: Case,
    rng: StdRng,
    /// True time, in milliseconds.
    at_ms: u64,
    /// By how many seconds the buyers' wall clock is ahead of it.
    pub skew: i64,
    pub bank: Bank,
    /// What is true of each invoice that was ever signed.
    pub minted: HashMap<String, Facts>,
    pub books: Books,
    pub wire: Wire,
    pub buyers: Vec<Buyer>,
    pub seller: Seller,
    pub pest: Option<Pest>,
    /// The seller's key, and that of somebody else.
    pub provider: PublicKey,
    pub forger: PublicKey,
    /// Whether "no such payment" is proof with this wallet, and whether its fee quotes bind.
    pub authoritative: bool,
    pub binding: bool,
    /// What the buyers had at first, and whether the owner's word stands for the wallet's.
    pub began_with: u64,
    pub owner_decided: bool,
    /// Nothing goes wrong any more.
    pub calm: bool,
    /// Steps that purchase machines took.
    pub steps: u64,
    /// What did not hold, in words.
    pub broken: Vec<String>,
    trace: Option<Vec<String>>,
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from_byte_array([byte; 32])
}

impl World {
    pub fn new(case: Case, traced: bool) -> Self {
        let mut mixed = case.seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in case.adversary.word.bytes() {
            mixed = mixed.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let mut rng = StdRng::seed_from_u64(mixed ^ (case.setting as u64) << 60);
        let at_ms = (BEGIN + rng.random_range(0..7_200)) * 1_000;
        let (provider, forger) = (key(0x51), key(0xf0));
        let seller = match case.adversary.rogue {
            None => Seller::Honest(Shop::new()),
            Some((quotes, answers)) => Seller::Rogue(Rogue::new(provider, quotes, answers)),
        };
        let now = UnixSecs::new(at_ms / 1_000);
        let binding = rng.random();
        let began_with = rng.random_range(5_000..500_000);
        let mut world = Self {
            bank: Bank::new(began_with, 200_000),
            began_with,
            owner_decided: false,
            books: Books::new(
                limits(case.setting, binding, Msat::new(began_with), &mut rng),
                others(&mut rng),
                used().payment_hash(),
                now,
            ),
            minted: HashMap::new(),
            authoritative: rng.random(),
            binding,
            case,
            rng,
            at_ms,
            skew: 0,
            wire: Wire::default(),
            buyers: Vec::new(),
            seller,
            pest: case.adversary.pest.then(Pest::new),
            provider,
            forger,
            calm: false,
            steps: 0,
            broken: Vec::new(),
            trace: traced.then(Vec::new),
        };
        let (buyers, escrow) = match case.setting {
            Setting::First => (1, [false, false]),
            Setting::Escrow => (1, [true, true]),
            Setting::Pair => (2, [world.flip(), world.flip()]),
        };
        for escrow in &escrow[..buyers] {
            world.begin_purchase(*escrow);
        }
        world
    }

    /// Plays it to its end.
    pub fn play(mut self) -> Self {
        // Any length of it, so that the end may come in any state.
        let ticks = self.rng.random_range(0..=self.case.most);
        for _ in 0..ticks {
            self.tick();
            if self.is_broken() {
                return self;
            }
        }
        self.end();
        self
    }

    fn tick(&mut self) {
        let soon = self.random(0, 400);
        self.pass(self.at_ms + soon);
        match self.random(0, 100) {
            0..30 => self.hear_buyer(),
            30..45 => self.hear_seller(),
            45..65 => self.serve_buyer(),
            65..80 => self.act_seller(),
            80..90 => self.move_money(),
            90..95 => self.ring(),
            _ => self.trouble(),
        }
        if self.below(4) == 0
            && let Some(mut pest) = self.pest.take()
        {
            pest.annoy(self);
            self.pest = Some(pest);
        }
        self.check_bank();
    }

    /// Something goes wrong, or time goes by.
    fn trouble(&mut self) {
        let odds = self.case.adversary.odds;
        self.relay_trouble();
        if self.hits(odds.kill_buyer) {
            let buyer = self.below(self.buyers.len());
            self.kill_buyer(buyer);
        }
        if self.hits(odds.kill_seller) {
            self.kill_seller();
        }
        if self.hits(odds.clock) {
            let secs = [
                -DAY.cast_signed(),
                -3_000,
                -60,
                0,
                60,
                3_000,
                DAY.cast_signed(),
            ];
            // See the module's words on clocks that are hours ahead.
            let known = if self.authoritative {
                secs.len()
            } else {
                secs.len() - 1
            };
            self.skew = secs[self.below(known)];
            let skew = self.skew;
            self.log(|| format!("the buyer's clock is {skew} s ahead"));
        }
        if self.hits(odds.stop) {
            let buyer = self.below(self.buyers.len());
            self.stop_buyer(buyer);
        }
        if self.hits(odds.surprise) {
            let buyer = self.below(self.buyers.len());
            self.surprise_buyer(buyer);
        }
        if self.hits(odds.owner) {
            let buyer = self.below(self.buyers.len());
            self.decide_for_wallet(buyer);
        }
        if self.hits(odds.leap) {
            let far = [10_000, 60_000, 130_000, 700_000, 8_000_000][self.below(5)];
            self.log(|| format!("{} s go by", far / 1_000));
            self.pass(self.at_ms + far);
        }
        self.resume_buyers();
    }

    /// Some payment gets somewhere.
    fn move_money(&mut self) {
        let under_way = self.bank.under_way();
        if under_way.is_empty() || self.hits(self.case.adversary.odds.slow) {
            return;
        }
        let hash = under_way[self.below(under_way.len())];
        if self.hits(100) {
            self.log(|| format!("payment {} fails on its way", short(&hash)));
            self.bank.return_to_payer(hash);
        } else {
            self.bank.arrive(hash, self.true_now());
            let flight = self.bank.flight(&hash);
            self.log(|| format!("payment {} arrives: {flight:?}", short(&hash)));
        }
    }

    fn act_seller(&mut self) {
        match &mut self.seller {
            Seller::Honest(_) => self.act_shop(),
            Seller::Rogue(_) => self.act_rogue(),
        }
    }

    fn hear_seller(&mut self) {
        if let Seller::Honest(shop) = &self.seller
            && !shop.is_up
        {
            return;
        }
        let Some(letter) = self.next_letter(|wire| &mut wire.to_seller) else {
            return;
        };
        match &mut self.seller {
            Seller::Honest(_) => self.hear_shop(letter),
            Seller::Rogue(_) => self.hear_rogue(letter),
        }
    }

    /// Everything calms down: messages and answers arrive, time goes by, and each purchase must come to an
    /// end that its money agrees with, in a bounded number of happenings.
    fn end(&mut self) {
        self.log(|| "-- the world calms down".to_owned());
        self.calm = true;
        self.skew = 0;
        self.revive_seller();
        for _ in 0..60 {
            self.hear_all();
            self.act_seller();
            self.move_money();
        }
        self.finish_runs();
        self.settle_far();
        if self.is_broken() {
            return;
        }
        // What was never begun ends with its process, or with its invoice.
        for buyer in 0..self.buyers.len() {
            self.kill_buyer(buyer);
        }
        for _ in 0..6 {
            for buyer in 0..self.buyers.len() {
                self.recover(buyer, true);
                self.finish_runs();
            }
            self.settle_far();
        }
        self.check_bank();
        if !self.is_broken() {
            self.check_end();
        }
    }

    fn hear_all(&mut self) {
        for _ in 0..8 {
            self.hear_buyer();
            self.hear_seller();
        }
    }

    /// All that is under way arrives, and weeks go by.
    fn settle_far(&mut self) {
        for _ in 0..40 {
            self.hear_seller();
            self.act_seller();
            for hash in self.bank.under_way() {
                self.bank.arrive(hash, self.true_now());
            }
        }
        self.pass(self.at_ms + 40 * DAY * 1_000);
        for _ in 0..20 {
            self.act_seller();
        }
    }

    fn pass(&mut self, to_ms: u64) {
        self.at_ms = self.at_ms.max(to_ms);
        self.bank.end_holds(self.true_now());
    }

    /// True time in milliseconds, which runs in one direction: what timers go by.
    pub const fn at_ms(&self) -> u64 {
        self.at_ms
    }

    pub const fn true_now(&self) -> UnixSecs {
        UnixSecs::new(self.at_ms / 1_000)
    }

    /// What the buyers' wall clock shows.
    pub fn wall(&self) -> UnixSecs {
        UnixSecs::new((self.at_ms / 1_000).saturating_add_signed(self.skew))
    }

    /// Whether something of these odds happens, in a thousandth. Nothing does in a calm world.
    pub fn hits(&mut self, odds: u32) -> bool {
        !self.calm && odds > 0 && self.rng.random_range(0..1_000) < odds
    }

    pub fn flip(&mut self) -> bool {
        self.rng.random()
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    pub fn random(&mut self, from: u64, end: u64) -> u64 {
        self.rng.random_range(from..end)
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.rng.random())
    }

    /// Signs an invoice, and remembers what is true of it.
    pub fn mint(&mut self, facts: &Facts) -> String {
        let bolt11 = self.bank.sign(facts);
        self.minted.insert(bolt11.clone(), *facts);
        bolt11
    }

    /// Something that had to hold did not.
    pub fn broke(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    pub const fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// A line of the trace; what makes it runs only when there is one.
    pub fn log(&mut self, line: impl FnOnce() -> String) {
        let at = self.at_ms;
        if self.is_broken() {
            return;
        }
        if let Some(trace) = &mut self.trace {
            if trace.len() >= 2 * TRACE {
                trace.drain(..TRACE);
            }
            trace.push(format!(
                "{:>9.3} {}",
                (at - BEGIN * 1_000) as f64 / 1e3,
                line()
            ));
        }
    }

    /// The end of what happened, line by line.
    pub fn trace(&self) -> &[String] {
        let trace = self.trace.as_deref().unwrap_or_default();
        &trace[trace.len().saturating_sub(TRACE)..]
    }
}

/// The preimage of an invoice that this ledger has seen long ago.
pub const fn used() -> Preimage {
    Preimage::from_bytes([0x77; 32])
}

pub fn short(hash: &PaymentHash) -> String {
    hash.to_string()[..8].to_owned()
}

/// The owner's limits. A pair of buyers shares ones that admit one of them at a time; a single one has
/// enough, or now and then just not.
fn limits(setting: Setting, binding: bool, has: Msat, rng: &mut StdRng) -> Limits {
    let fits_one = Msat::new(if binding { 15_000 } else { 29_999 });
    let roomy = Msat::new(10_000_000);
    let mut limits = Limits {
        daily: roomy,
        per_tick: roomy,
        per_job: fits_one,
        floor: Msat::ZERO,
    };
    match setting {
        Setting::Pair => match rng.random_range(0..3) {
            0 => limits.daily = fits_one,
            1 => limits.per_tick = fits_one,
            _ => limits.floor = has.saturating_sub(fits_one).max(Msat::new(1)),
        },
        Setting::First | Setting::Escrow => match rng.random_range(0..20) {
            0 => limits.per_job = Msat::new(9_999),
            1 => limits.daily = Msat::new(rng.random_range(0..40_000)),
            2 => limits.per_tick = Msat::new(rng.random_range(0..40_000)),
            _ => {}
        },
    }
    if limits.floor.is_zero() && rng.random_range(0..4) == 0 {
        limits.floor = Msat::new(rng.random_range(1..5_000));
    }
    limits
}

/// What other purchases of the same ledger have used.
fn others(rng: &mut StdRng) -> Usage {
    if rng.random_range(0..4) > 0 {
        return Usage::default();
    }
    Usage {
        spent_today: Msat::new(rng.random_range(0..5_000)),
        tick_spent: Msat::new(rng.random_range(0..5_000)),
        ..Usage::default()
    }
}

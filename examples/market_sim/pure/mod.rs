//! The market at its inner depth: the pure machines of both sides, with everything around them (bank,
//! ledger, wallets, relays, processes) modelled in memory, so that many thousand steps fit in a second.
//!
//! A seed decides everything. Each attempt sets one adversary of [`case::ADVERSARIES`] on one or two buyers,
//! lets it go on for a random while in which anything may be cut off between any two acts, and then calms
//! the world down: from wherever it stands, each purchase must come to an end that the bank agrees with.
//! After every step the invariants of `src/lib.rs` are checked (see `checks`).
//!
//! The model speaks for a buyer whose wall clock is not hours ahead while its wallet can't prove what it
//! does not know: such a wallet's "no such payment" counts only long after an invoice has expired, and only
//! the clock can say when that is.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::too_many_lines,
    reason = "an example, and no library"
)]

mod bank;
mod books;
mod buyer;
pub mod case;
mod checks;
mod evidence;
mod listings;
mod pest;
mod recover;
mod rogue;
mod shop;
mod wallet;
mod wire;
mod world;

use agent_compute::Code;
use agent_compute::ledger::{ReservationStatus, StateRow, Status};
use agent_compute::purchase::state::{Phase, State};
use agent_compute::units::Msat;

use self::case::{ADVERSARIES, Case, Setting};
pub use self::listings::choose_among_liars;
use self::world::World;
use super::report::Outcome;

/// The most happenings of one attempt before its world calms down.
pub const MOST: u32 = 400;

/// One attempt against each adversary in each setting, and one choice among listings.
#[must_use]
pub fn run(seed: u64) -> Vec<Outcome> {
    let mut all = vec![listings::choose_among_liars(seed)];
    for adversary in ADVERSARIES {
        for setting in Setting::ALL {
            let case = Case {
                adversary,
                setting,
                seed,
                most: MOST,
            };
            all.extend(attempt(case).outcomes);
        }
    }
    all
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// One for each buyer.
    pub outcomes: Vec<Outcome>,
    /// How many steps the purchase machines took.
    pub steps: u64,
}

/// Plays one attempt.
#[must_use]
pub fn attempt(case: Case) -> Attempt {
    let world = World::new(case, false).play();
    Attempt {
        outcomes: outcomes(&world),
        steps: world.steps,
    }
}

/// All that led to what this seed broke against this adversary, for a person to read.
#[must_use]
pub fn explain_seed(seed: u64, adversary: &str) -> String {
    let Some(adversary) = case::named(adversary) else {
        return String::new();
    };
    let cases = Setting::ALL.map(|setting| Case {
        adversary,
        setting,
        seed,
        most: MOST,
    });
    let broken = |case: &Case| {
        attempt(*case)
            .outcomes
            .iter()
            .any(|it| !it.broken.is_empty())
    };
    cases.into_iter().filter(broken).map(explain).collect()
}

/// Plays an attempt again that broke something, as short as it still breaks, and tells it line by line.
#[must_use]
pub fn explain(case: Case) -> String {
    let breaks = |most: u32| {
        let world = World::new(Case { most, ..case }, false).play();
        !world.broken.is_empty()
    };
    // Another bound is another run: the first that breaks is among the shortest.
    let most = (0..case.most)
        .find(|most| breaks(*most))
        .unwrap_or(case.most);
    let world = World::new(Case { most, ..case }, true).play();
    let mut text = format!(
        "{} / {:?} / seed {} / most {most}:\n",
        case.adversary.word, case.setting, case.seed
    );
    for line in world.trace() {
        text.push_str(line);
        text.push('\n');
    }
    for broken in &world.broken {
        text.push_str(&format!("BROKEN: {broken}\n"));
    }
    text
}

/// What a purchase that is not delivered says of itself on record.
fn code_of(row: &StateRow) -> Code {
    match State::from_row(row).map(|state| state.phase) {
        Ok(Phase::Failed { code, .. }) => Code::from_word(&code).unwrap_or(Code::Internal),
        Ok(Phase::Undelivered { .. } | Phase::Withheld { .. }) => Code::Undelivered,
        _ => Code::Internal,
    }
}

fn outcomes(world: &World) -> Vec<Outcome> {
    let adversary = world.case.adversary;
    let each = world.buyers.iter().enumerate().map(|(at, buyer)| {
        let account = &world.books.accounts[buyer.account];
        let settled = account
            .money
            .as_ref()
            .filter(|money| money.status == ReservationStatus::Settled);
        let paid = settled.map_or(Msat::ZERO, |money| money.spent);
        let delivered = account.row.status == Status::Delivered;
        let lost = if delivered { Msat::ZERO } else { paid };
        let at_risk = adversary.leaks || (adversary.risk && !buyer.terms.pay_by.is_escrow());
        let mut broken = if at == 0 {
            world.broken.clone()
        } else {
            Vec::new()
        };
        if lost > Msat::ZERO && !at_risk {
            broken.push(format!("{lost} are lost where nothing can be"));
        }
        Outcome {
            adversary: adversary.word,
            seed: world.case.seed,
            ended: match (delivered, buyer.told) {
                (true, _) => Ok(()),
                (false, Some(Err(code))) => Err(code),
                (false, _) => Err(code_of(&account.row)),
            },
            lost,
            at_risk: if at_risk { paid } else { Msat::ZERO },
            broken,
        }
    });
    each.collect()
}

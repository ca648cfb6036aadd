//! Chains of deaths: buyer and seller are each armed at points of chance, die there or come by none, come
//! back armed elsewhere, and so on. A seed repeats the choices.

use agent_compute::crash::Point;
use rand::seq::IndexedRandom as _;

use super::customer::{Kind, count, nothing};
use super::market::{Market, Party, end_within, until_ready};
use super::*;
use crate::openai::server::Server;

/// A job that was begun more often than this fails, which is another story.
const MOST_DEATHS_OF_THE_SELLER: usize = 2;

/// What happens in one chain.
struct Plan {
    kind: Kind,
    buyer: Vec<Turn>,
    seller: Vec<At>,
}

/// A buyer's process.
struct Turn {
    at: At,
    /// It is `recover`, and not the purchase.
    recovers: bool,
    /// Beside it another process, which nobody kills, asks for the same under the same key.
    has_twin: bool,
}

impl Plan {
    fn of(moments: &mut Moments) -> Self {
        let kinds = [
            Kind::PaidFirst,
            Kind::Escrow,
            Kind::Escrow,
            Kind::Undone,
            Kind::UndoneInEscrow,
        ];
        let kind = *kinds.choose(&mut moments.0).unwrap();
        let buyer = |moments: &mut Moments| Turn {
            at: some_point(moments, &["customer.", "ledger.", "recovery."]),
            recovers: moments.one_in(2),
            has_twin: moments.one_in(3),
        };
        let seller = |moments: &mut Moments| some_point(moments, &["provider.", "store."]);
        Self {
            kind,
            buyer: (0..3).map(|_| buyer(moments)).collect(),
            seller: (0..MOST_DEATHS_OF_THE_SELLER)
                .map(|_| seller(moments))
                .collect(),
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, the seller at", self.kind)?;
        for at in &self.seller {
            write!(f, " {at}")?;
        }
        f.write_str(", the buyer at")?;
        for turn in &self.buyer {
            let how = match (turn.recovers, turn.has_twin) {
                (false, false) => "",
                (true, false) => " (in recover)",
                (false, true) => " (with a twin)",
                (true, true) => " (in recover, with a twin)",
            };
            write!(f, " {}{how}", turn.at)?;
        }
        Ok(())
    }
}

fn some_point(moments: &mut Moments, of: &[&str]) -> At {
    let is_one = |point: &Point| of.iter().any(|begins| point.as_str().starts_with(begins));
    let points: Vec<Point> = Point::ALL.iter().copied().filter(is_one).collect();
    let point = *points.choose(&mut moments.0).unwrap();
    let [before, after] = At::both_sides(point, 1);
    let at = if moments.one_in(2) { before } else { after };
    let nth = match point {
        Point::LedgerCommit => moments.0.random_range(1..=5),
        Point::StoreCommit => moments.0.random_range(1..=14),
        _ => 1,
    };
    At { nth, ..at }
}

/// A seller that comes back whenever it is dead, armed as long as there is something left of its plan.
struct Seller<'a> {
    market: &'a Market,
    args: Vec<&'a str>,
    party: Party,
    plan: std::vec::IntoIter<At>,
    process: Running,
    is_armed: bool,
    /// How often it was killed at a point.
    died: usize,
}

impl<'a> Seller<'a> {
    fn start(market: &'a Market, args: Vec<&'a str>, plan: Vec<At>) -> Self {
        let (party, mut plan) = (market.party("seller"), plan.into_iter());
        let mut command = market.seller(&party, &args);
        if let Some(at) = plan.next() {
            at.arm(&mut command);
        }
        Self {
            process: Running::start(&mut command),
            is_armed: true,
            died: 0,
            market,
            args,
            party,
            plan,
        }
    }

    fn comes_back(&mut self) {
        let Some(ended) = end_within(&mut self.process, Duration::ZERO) else {
            return;
        };
        self.died += usize::from(was_killed(ended));
        let mut command = self.market.seller(&self.party, &self.args);
        let at = self.plan.next();
        self.is_armed = at.is_some();
        if let Some(at) = at {
            at.arm(&mut command);
        }
        self.process = Running::start(&mut command);
    }

    /// Not armed any more.
    fn settles_down(&mut self) {
        if self.is_armed {
            self.process.kill();
            self.process = self.market.sell(&self.party, &self.args);
        } else {
            until_ready(&mut self.process);
        }
    }
}

/// Waits until buyers have ended, one way or the other, while the seller dies and comes back. Says how many
/// were killed.
fn until_they_end(seller: &mut Seller<'_>, buying: &mut [Running]) -> usize {
    let mut killed = 0;
    for one in buying {
        let ended = loop {
            if let Some(ended) = end_within(one, Duration::ZERO) {
                break ended;
            }
            seller.comes_back();
            std::thread::sleep(Duration::from_millis(5));
        };
        killed += usize::from(was_killed(ended));
    }
    killed
}

/// One chain, to its good end. Says how many buyers died in it, and how many sellers.
fn live_and_die(market: &Market, plan: Plan, nothing: &Server) -> [usize; 2] {
    let why = plan.to_string();
    let (buyer, kind) = (market.buyer(), plan.kind);
    let is_done = matches!(kind, Kind::PaidFirst | Kind::Escrow);
    let args = match is_done {
        true => vec![],
        false => vec!["--backend", "openai", "--backend-url", &nothing.url],
    };
    let escrow: &[&str] = match kind {
        Kind::Escrow | Kind::UndoneInEscrow => &["--htlc"],
        _ => &[],
    };
    let mut seller = Seller::start(market, args, plan.seller);
    let key = seller.party.key();
    let buy = || market.buy(&buyer, &key, Some("k"), escrow);
    let mut buyers_died = 0;
    for turn in plan.buyer {
        let mut command = match turn.recovers {
            true => market.customer(&buyer, &["recover"]),
            false => buy(),
        };
        let mut buying = vec![Running::start(turn.at.arm(&mut command))];
        if turn.has_twin {
            buying.push(Running::start(&mut buy()));
        }
        buyers_died += until_they_end(&mut seller, &mut buying);
    }
    seller.settles_down();
    let code = if is_done { 0 } else { 7 };
    let last = Ended::of(&mut buy()).expect(code, &why).last();
    assert!(!is_done || last["text"] == TEXT, "{why}: {last}");
    market.recover(&buyer, &why);
    let story = market.story(&buyer, &why);
    let (spent, label) = match kind {
        Kind::UndoneInEscrow => (0, "failed"),
        Kind::Undone => (PRICE, "undelivered"),
        _ => (PRICE, "delivered"),
    };
    assert_eq!(story.spent, spent, "{why}: {story:#?}");
    let labels = story.labels();
    assert!(labels.contains(&label), "{why}: {story:#?}");
    let delivered = count(&labels, "delivered");
    assert_eq!(delivered, usize::from(is_done), "{why}: {story:#?}");
    let jobs = market.jobs_once_over(&seller.party, &why);
    assert_eq!(market.earned(&seller.party), spent, "{why}: {jobs:?}");
    [buyers_died, seller.died]
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_wherever_one_after_the_other_nothing_is_lost_and_nothing_paid_twice() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let market = Market::new();
        let mut moments = Moments::of("chains of deaths");
        let plans: Vec<Plan> = (0..rounds(12)).map(|_| Plan::of(&mut moments)).collect();
        let died = Mutex::new([0, 0]);
        in_lanes(plans, |plan| {
            let more = live_and_die(&market, plan, &nothing);
            let mut died = died.lock().unwrap();
            *died = [died[0] + more[0], died[1] + more[1]];
        });
        let died = died.into_inner().unwrap();
        println!("{} buyers and {} sellers died", died[0], died[1]);
        assert!(!died.contains(&0), "nobody died");
    });
}

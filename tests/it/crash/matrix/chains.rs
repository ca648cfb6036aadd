//! Chains of deaths: buyer and seller are each armed at points of chance, die there or come by none, come
//! back armed elsewhere, and so on. A seed repeats the choices.

use agent_compute::crash::Point;
use rand::seq::IndexedRandom as _;

use super::customer::{Kind, count};
use super::market::{Market, Party, end_within, until_ready};
use super::*;

/// A job that was begun more often than this fails, which is another story.
const MOST_DEATHS_OF_THE_SELLER: usize = 2;

/// What happens in one chain.
struct Plan {
    kind: Kind,
    /// Where the buyer is to die, and whether it is in `recover`.
    buyer: Vec<(At, bool)>,
    seller: Vec<At>,
}

impl Plan {
    fn of(moments: &mut Moments) -> Self {
        let kind = match moments.one_in(3) {
            true => Kind::PaidFirst,
            false => Kind::Escrow,
        };
        let buyer = |moments: &mut Moments| {
            let at = some_point(moments, &["customer.", "ledger.", "recovery."]);
            (at, moments.one_in(2))
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
        for (at, recovers) in &self.buyer {
            write!(f, " {at}{}", if *recovers { " (in recover)" } else { "" })?;
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
    party: Party,
    plan: std::vec::IntoIter<At>,
    process: Running,
    is_armed: bool,
}

impl<'a> Seller<'a> {
    fn start(market: &'a Market, plan: Vec<At>) -> Self {
        let (party, mut plan) = (market.party("seller"), plan.into_iter());
        let mut command = market.seller(&party, &[]);
        if let Some(at) = plan.next() {
            at.arm(&mut command);
        }
        Self {
            process: Running::start(&mut command),
            is_armed: true,
            market,
            party,
            plan,
        }
    }

    fn comes_back(&mut self) {
        if end_within(&mut self.process, Duration::ZERO).is_none() {
            return;
        }
        let mut command = self.market.seller(&self.party, &[]);
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
            self.process = self.market.sell(&self.party, &[]);
        } else {
            until_ready(&mut self.process);
        }
    }
}

/// Runs a buyer until it ends, one way or the other, while the seller dies and comes back.
fn until_it_ends(seller: &mut Seller<'_>, buyer: &mut Command) {
    let mut buying = Running::start(buyer);
    while end_within(&mut buying, Duration::ZERO).is_none() {
        seller.comes_back();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_dies_at_whatever_points_one_after_the_other_nothing_is_lost_and_nothing_paid_twice() {
    let market = Market::new();
    let mut moments = Moments::of("chains of deaths");
    let plans: Vec<Plan> = (0..rounds(9)).map(|_| Plan::of(&mut moments)).collect();
    in_lanes(plans, |plan| {
        let why = plan.to_string();
        let (buyer, kind) = (market.buyer(), plan.kind);
        let escrow: &[&str] = if kind == Kind::Escrow {
            &["--htlc"]
        } else {
            &[]
        };
        let mut seller = Seller::start(&market, plan.seller);
        let buy = |seller: &Seller<'_>| market.buy(&buyer, &seller.party.key(), Some("k"), escrow);
        for (at, recovers) in plan.buyer {
            let mut command = match recovers {
                true => market.customer(&buyer, &["recover"]),
                false => buy(&seller),
            };
            until_it_ends(&mut seller, at.arm(&mut command));
        }
        seller.settles_down();
        let last = Ended::of(&mut buy(&seller)).expect(0, &why).last();
        assert_eq!(last["text"], TEXT, "{why}: {last}");
        market.recover(&buyer, &why);
        let story = market.story(&buyer, &why);
        assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
        assert_eq!(count(&story.labels(), "delivered"), 1, "{why}: {story:#?}");
        let jobs = market.jobs_once_over(&seller.party, &why);
        assert_eq!(market.earned(&seller.party), PRICE, "{why}: {jobs:?}");
    });
}

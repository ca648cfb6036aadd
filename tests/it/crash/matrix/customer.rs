//! The buyer's points, each in the purchases in which it lies.

use agent_compute::crash::Point::{self, *};
use serde_json::json;

use super::market::{Market, Party};
use super::*;
use crate::openai::server::{Server, json_answer};

/// A purchase, and what is odd about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PaidFirst,
    Escrow,
    /// Its buyer keeps so much in its wallet that the reservation is refused.
    Short,
    /// The wallet does not say what became of the order to pay.
    Doubt,
    DoubtInEscrow,
    /// The wallet refuses the order.
    Refused,
    RefusedInEscrow,
    /// The seller can't do the job.
    Undone,
    UndoneInEscrow,
}

use Kind::*;

/// How a buyer comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Runs `recover`, then asks for the same once more, under the same key.
    Recovers,
    /// Asks for the same at once.
    AsksAgain,
    /// Knows nothing of the first time and buys anew.
    StartsOver,
}

/// Rows with the ways in which their buyers come back: one each, in turns, or all where all are wanted.
pub(super) fn in_ways<T: Copy>(rows: impl IntoIterator<Item = T>) -> Vec<(T, Way)> {
    let all = [Way::Recovers, Way::AsksAgain, Way::StartsOver];
    let ways = |n: usize| match every_row() {
        true => all.to_vec(),
        // The two sides of a point have two ways.
        false => vec![all[(n + n / all.len()) % all.len()]],
    };
    let rows = rows.into_iter().enumerate();
    rows.flat_map(|(n, row)| ways(n).into_iter().map(move |way| (row, way)))
        .collect()
}

/// Each with the points that lie in it, and at which time it comes by.
const ROWS: &[(Kind, &[(Point, u32)])] = &[
    (
        PaidFirst,
        &[
            (LedgerCreate, 1),
            (LedgerOwner, 1),
            (LedgerMigrate, 1),
            (LedgerRoom, 1),
            (LedgerMark, 1),
            (LedgerMark, 3),
            (LedgerMark, 4),
            // What the provider can open; the purchase; the reservation; the payment; the result.
            (LedgerCommit, 1),
            (LedgerCommit, 2),
            (LedgerCommit, 3),
            (LedgerCommit, 4),
            (LedgerCommit, 5),
            (CustomerOpen, 1),
            (CustomerRequest, 1),
            (CustomerReserve, 1),
            (CustomerPay, 1),
            (CustomerSettle, 1),
            (CustomerPaidSaid, 1),
            (CustomerResult, 1),
        ],
    ),
    (
        Escrow,
        &[
            (LedgerCommit, 2),
            (LedgerCommit, 3),
            (LedgerCommit, 4),
            (LedgerCommit, 5),
            (CustomerOpen, 1),
            (CustomerRequest, 1),
            (CustomerLock, 1),
            (CustomerPay, 1),
            (CustomerLockedSaid, 1),
            (CustomerPaidSaid, 1),
            (CustomerRelease, 1),
            (CustomerPreimageSaid, 1),
            (CustomerClaimed, 1),
        ],
    ),
    (Short, &[(CustomerFail, 1), (CustomerCancelSaid, 1)]),
    (Doubt, &[(CustomerUnknown, 1)]),
    (DoubtInEscrow, &[(CustomerUnknown, 1)]),
    (Refused, &[(CustomerFree, 1)]),
    (RefusedInEscrow, &[(CustomerBack, 1)]),
    (Undone, &[(CustomerSettle, 1), (CustomerUndelivered, 1)]),
    (UndoneInEscrow, &[(CustomerWithhold, 1), (CustomerBack, 1)]),
];

pub(super) fn points() -> Vec<Point> {
    let points = ROWS.iter().flat_map(|(_, points)| points.iter());
    points.map(|(point, _)| *point).collect()
}

pub(super) fn rows() -> Vec<(Kind, At)> {
    let both = |(kind, points): &(Kind, &'static [(Point, u32)])| {
        let kind = *kind;
        let points = points.iter();
        points.flat_map(move |(point, nth)| At::both_sides(*point, *nth).map(|at| (kind, at)))
    };
    ROWS.iter().flat_map(both).collect()
}

/// Sellers of what every kind of purchase needs, at work.
pub(super) struct Bazaar {
    pub(super) market: Market,
    pub(super) able: Party,
    pub(super) unable: Party,
    /// Whoever bought anything, also those who came by no point.
    buyers: Mutex<Vec<Party>>,
    _processes: [Running; 2],
}

impl Bazaar {
    /// `nothing` is a backend that takes no request.
    pub(super) fn open(nothing: &Server) -> Self {
        let market = Market::new();
        let (able, unable) = (market.party("able"), market.party("unable"));
        let many = ["--max-jobs", "16"];
        let broken = ["--backend", "openai", "--backend-url", &nothing.url];
        let processes = [market.sell(&able, &many), market.sell(&unable, &broken)];
        Self {
            market,
            able,
            unable,
            buyers: Mutex::default(),
            _processes: processes,
        }
    }

    /// A purchase of this kind, and who makes it.
    pub(super) fn purchase(&self, kind: Kind) -> (Party, Command) {
        let buyer = match kind {
            Short => self.market.thrifty_buyer(),
            _ => self.market.buyer(),
        };
        self.buyers.lock().unwrap().push(buyer.clone());
        let mut command = self.again(kind, &buyer);
        match kind {
            Doubt | DoubtInEscrow => {
                command.env("AGENT_COMPUTE_SIM_FAULT", "timeout-after");
            }
            Refused | RefusedInEscrow => {
                command.env("AGENT_COMPUTE_SIM_FAULT", "refuse");
            }
            PaidFirst | Escrow | Short | Undone | UndoneInEscrow => {}
        }
        (buyer, command)
    }

    /// The same purchase once more, with nothing odd about the buyer.
    fn again(&self, kind: Kind, buyer: &Party) -> Command {
        self.buy(kind, buyer, Some("k"))
    }

    fn buy(&self, kind: Kind, buyer: &Party, key: Option<&str>) -> Command {
        let escrow = matches!(
            kind,
            Escrow | DoubtInEscrow | RefusedInEscrow | UndoneInEscrow
        );
        let args: &[&str] = if escrow { &["--htlc"] } else { &[] };
        let seller = match kind {
            Undone | UndoneInEscrow => &self.unable,
            _ => &self.able,
        };
        self.market.buy(buyer, &seller.key(), key, args)
    }

    /// A buyer whose purchase of this kind was cut off there.
    pub(super) fn cut_off(&self, kind: Kind, at: At) -> Party {
        let what = format!("{kind:?} {at}");
        until_dead(&what, || {
            let (buyer, mut command) = self.purchase(kind);
            let ended = Ended::of(at.arm(&mut command));
            match ended.was_killed() {
                true => Ok(buyer),
                false => Err(format!("{ended:#?}")),
            }
        })
    }

    /// Comes back in this way, and checks everything.
    pub(super) fn comes_back(&self, kind: Kind, buyer: &Party, way: Way, why: &str) {
        match way {
            Way::Recovers => {
                self.recovers(kind, buyer, why);
                self.asks_again(kind, buyer, why);
            }
            Way::AsksAgain => self.asks_again(kind, buyer, why),
            Way::StartsOver => self.starts_over(kind, buyer, why),
        }
        self.market.story(buyer, why);
    }

    fn recovers(&self, kind: Kind, buyer: &Party, why: &str) {
        let market = &self.market;
        market.recover(buyer, why);
        // The seller lives and the relay forgets nothing: what is paid is here.
        let story = market.story(buyer, why);
        let result = if kind == Undone {
            "undelivered"
        } else {
            "delivered"
        };
        let results = count(&story.labels(), result);
        assert_eq!(results as u64 * PRICE, story.spent, "{why}: {story:#?}");
    }

    /// Asks for the same once more, under the same key.
    fn asks_again(&self, kind: Kind, buyer: &Party, why: &str) {
        let market = &self.market;
        if kind == Short {
            let refused = Ended::of(&mut self.again(kind, buyer));
            refused.expect(4, why);
            market.loosen(buyer);
        }
        let ended = Ended::of(&mut self.again(kind, buyer));
        match kind {
            Undone | UndoneInEscrow => {
                let last = ended.expect(7, why).last();
                let paid = if kind == Undone { PRICE } else { 0 };
                assert_eq!(last["paid_msat"], paid, "{why}: {last}");
                market.recover(buyer, why);
            }
            _ => {
                let last = ended.expect(0, why).last();
                assert_eq!(last["text"], TEXT, "{why}: {last}");
                market.recover(buyer, why);
            }
        }
        let story = market.story(buyer, why);
        match kind {
            UndoneInEscrow => assert_eq!(story.spent, 0, "{why}: {story:#?}"),
            Undone => {
                assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
                assert_eq!(count(&story.labels(), "undelivered"), 1, "{why}");
            }
            _ => {
                assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
                assert_eq!(count(&story.labels(), "delivered"), 1, "{why}: {story:#?}");
            }
        }
    }

    /// Buys anew, without a key, as one who has forgotten everything. What is spent or in doubt counts
    /// against the limit, which has room for one job.
    fn starts_over(&self, kind: Kind, buyer: &Party, why: &str) {
        let ended = Ended::of(&mut self.buy(kind, buyer, None));
        let code = ended.status.code().unwrap();
        let may_be: &[i32] = match kind {
            Short => &[4],
            Undone | UndoneInEscrow => &[4, 7],
            _ => &[0, 4],
        };
        assert!(may_be.contains(&code), "{why}: {ended:#?}");
        self.recovers(kind, buyer, why);
        let story = self.market.story(buyer, why);
        let costs = !matches!(kind, Short | UndoneInEscrow);
        assert_eq!(story.spent > 0, costs, "{why}: {ended:#?} {story:#?}");
    }

    /// What the buyers have spent is what the sellers have.
    pub(super) fn assert_nothing_went_elsewhere(&self) {
        let earned = [&self.able, &self.unable].map(|seller| self.market.earned(seller));
        let buyers = self.buyers.lock().unwrap();
        let spent = buyers.iter().flat_map(|buyer| {
            let paid = paid_at_bank(&self.market.world, &buyer.key());
            paid.into_values()
        });
        assert_eq!(earned.iter().sum::<u64>(), spent.sum::<u64>());
    }
}

pub(super) fn count(labels: &[&str], label: &str) -> usize {
    labels.iter().filter(|one| **one == label).count()
}

/// A backend that takes no request.
pub(super) async fn nothing() -> Server {
    let refusal = json!({"error": {"message": "no", "type": "invalid_request_error"}});
    Server::chat(move |_| vec![json_answer(400, &refusal)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_killed_around_each_effect_pays_once_for_what_it_gets() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let bazaar = Bazaar::open(&nothing);
        in_lanes(in_ways(rows()), |((kind, at), way)| {
            let buyer = bazaar.cut_off(kind, at);
            let why = format!("{kind:?}, killed at {at}, {way:?}");
            bazaar.comes_back(kind, &buyer, way, &why);
        });
        bazaar.assert_nothing_went_elsewhere();
    });
}

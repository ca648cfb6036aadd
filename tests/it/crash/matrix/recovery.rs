//! A buyer that dies once more, in `recover`.

use agent_compute::crash::Point::{self, *};

use super::customer::{Bazaar, Kind, Kind::*, Way, in_ways, nothing};
use super::market::Party;
use super::*;

/// What `recover` meets: a purchase of this kind that was cut off there. Then the points that lie ahead.
struct Left {
    kind: Kind,
    at: At,
    ahead: &'static [Point],
}

const ROWS: &[Left] = &[
    // Nobody has paid, and the seller waits.
    Left {
        kind: PaidFirst,
        at: At::after(CustomerRequest),
        ahead: &[
            RecoveryAdopt,
            CustomerFail,
            CustomerCancelSaid,
            LedgerCommit,
        ],
    },
    // The wallet was never told.
    Left {
        kind: PaidFirst,
        at: At::before(CustomerPay),
        ahead: &[RecoveryLookUp, CustomerFree],
    },
    // It was, and nobody knows.
    Left {
        kind: PaidFirst,
        at: At::after(CustomerPay),
        ahead: &[
            RecoveryAdopt,
            RecoveryLookUp,
            CustomerSettle,
            CustomerPaidSaid,
            CustomerResult,
        ],
    },
    Left {
        kind: Doubt,
        at: At::after(CustomerUnknown),
        ahead: &[CustomerSettle],
    },
    Left {
        kind: Undone,
        at: At::after(CustomerSettle),
        ahead: &[CustomerUndelivered],
    },
    // The same in escrow.
    Left {
        kind: Escrow,
        at: At::before(CustomerPay),
        ahead: &[RecoveryLookUp, CustomerBack],
    },
    Left {
        kind: Escrow,
        at: At::after(CustomerPay),
        ahead: &[
            RecoveryLookUp,
            CustomerLockedSaid,
            CustomerPaidSaid,
            CustomerRelease,
            CustomerPreimageSaid,
            CustomerClaimed,
        ],
    },
    Left {
        kind: Escrow,
        at: At::after(CustomerRelease),
        ahead: &[CustomerPreimageSaid, CustomerClaimed],
    },
    Left {
        kind: DoubtInEscrow,
        at: At::after(CustomerUnknown),
        ahead: &[CustomerSeenAgain],
    },
];

pub(super) fn points() -> Vec<Point> {
    let ahead = ROWS.iter().flat_map(|left| left.ahead).copied();
    ahead.chain([CustomerUnclaimed]).collect()
}

/// Recovers until it dies there.
fn dies_again(bazaar: &Bazaar, buyer: &Party, at: At, args: &[&str]) -> Result<(), String> {
    let mut command = bazaar.market.customer(buyer, &["recover"]);
    let ended = Ended::of(at.arm(command.args(args)));
    match ended.was_killed() {
        true => Ok(()),
        false => Err(format!("{ended:#?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_killed_once_more_while_it_recovers_pays_once_for_what_it_gets() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let bazaar = Bazaar::open(&nothing);
        let sides = |left: &'static Left| {
            let ahead = left.ahead.iter();
            ahead.flat_map(move |point| At::both_sides(*point, 1).map(|at| (left, at)))
        };
        let rows = in_ways(ROWS.iter().flat_map(sides));
        in_lanes(rows, |((left, at), way)| {
            let Left {
                kind, at: first, ..
            } = left;
            let why = format!("{kind:?}, killed at {first}, then at {at}, {way:?}");
            let buyer = until_dead(&why, || {
                let buyer = bazaar.cut_off(left.kind, left.at);
                dies_again(&bazaar, &buyer, at, &[]).map(|()| buyer)
            });
            bazaar.comes_back(left.kind, &buyer, way, &why);
        });
        bazaar.assert_nothing_went_elsewhere();
    });
}

/// Lets the time of what this buyer has locked be over. Whoever touches the bank next gives it back.
fn end_holds_of(bazaar: &Bazaar, buyer: &Party) {
    let bank = Connection::open(bazaar.market.world.bank()).unwrap();
    bank.busy_timeout(Duration::from_secs(10)).unwrap();
    let over = "UPDATE payment SET hold_deadline = 1 WHERE state = 'held'
        AND payer = (SELECT id FROM account WHERE pubkey = ?1)";
    bank.execute(over, [buyer.key()]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_money_came_back_unclaimed_stays_and_costs_nothing() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let bazaar = Bazaar::open(&nothing);
        in_lanes(At::both_sides(CustomerUnclaimed, 1), |at| {
            let why = format!("killed at {at}");
            let buyer = bazaar.cut_off(Escrow, At::after(CustomerRelease));
            end_holds_of(&bazaar, &buyer);
            dies_again(&bazaar, &buyer, at, &[]).unwrap();
            bazaar.market.recover(&buyer, &why);
            let story = bazaar.market.story(&buyer, &why);
            assert_eq!((story.labels(), story.spent), (vec!["delivered"], 0));
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_word_that_is_cut_off_can_be_given_again() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let bazaar = Bazaar::open(&nothing);
        let points = [RecoveryAdopt, CustomerSettle];
        let sides = points
            .into_iter()
            .flat_map(|point| At::both_sides(point, 1));
        in_lanes(sides, |at| {
            let why = format!("killed at {at}");
            let buyer = bazaar.cut_off(Doubt, At::after(CustomerUnknown));
            let open = Ended::of(&mut bazaar.market.customer(&buyer, &["history"]));
            let open = open.expect(0, &why).last();
            let id = open["purchase_id"].as_str().unwrap();
            let word = ["--resolve", id, "paid"];
            dies_again(&bazaar, &buyer, at, &word).unwrap();
            let mut again = bazaar.market.customer(&buyer, &["recover"]);
            let again = Ended::of(again.args(word));
            let is_said = at.point == CustomerSettle && at.side == "after";
            // Said already: there is nothing in doubt any more.
            again.expect(if is_said { 2 } else { 0 }, &why);
            bazaar.comes_back(PaidFirst, &buyer, Way::Recovers, &why);
        });
    });
}

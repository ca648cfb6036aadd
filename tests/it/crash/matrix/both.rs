//! The buyer's points once more, with the seller killed as soon as the buyer is dead.

use agent_compute::crash::Point;

use super::customer::{self, Kind};
use super::market::Market;
use super::*;

/// Every side of every point of the purchases that go well; half of them in turns, unless all are wanted.
fn rows() -> Vec<(Kind, At)> {
    let well = |(kind, _): &(Kind, At)| matches!(kind, Kind::PaidFirst | Kind::Escrow);
    let rows = customer::rows().into_iter().filter(well);
    let of_the_start = [
        Point::LedgerCreate,
        Point::LedgerOwner,
        Point::LedgerMigrate,
    ];
    let matter = rows.filter(|(_, at)| !of_the_start.contains(&at.point));
    let in_turn = |n: usize| every_row() || n % 4 == 0 || n % 4 == 3;
    let rows = matter.enumerate().filter(|(n, _)| in_turn(*n));
    rows.map(|(_, row)| row).collect()
}

#[test]
fn with_the_seller_killed_too_the_buyer_still_pays_once_for_what_it_gets() {
    let market = Market::new();
    in_lanes(rows(), |(kind, at)| {
        let why = format!("{kind:?}, both killed at {at}");
        let args: &[&str] = match kind {
            Kind::Escrow => &["--htlc"],
            _ => &[],
        };
        let (buyer, seller) = until_dead(&why, || {
            let (buyer, seller) = (market.buyer(), market.party("seller"));
            let mut selling = market.sell(&seller, &[]);
            let mut buy = market.buy(&buyer, &seller.key(), args);
            let ended = Ended::of(at.arm(&mut buy));
            selling.kill();
            match ended.was_killed() {
                true => Ok((buyer, seller)),
                false => Err(format!("{ended:#?}")),
            }
        });
        let _selling = market.sell(&seller, &[]);
        market.recover(&buyer, &why);
        let story = market.story(&buyer, &why);
        let delivered = customer::count(&story.labels(), "delivered") as u64;
        assert_eq!(delivered * PRICE, story.spent, "{why}: {story:#?}");
        let again = Ended::of(&mut market.buy(&buyer, &seller.key(), args));
        let last = again.expect(0, &why).last();
        assert_eq!(last["text"], TEXT, "{why}: {last}");
        market.recover(&buyer, &why);
        let story = market.story(&buyer, &why);
        assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
        assert_eq!(market.earned(&seller), PRICE, "{why}");
    });
}

//! The buyer's points once more, with the seller killed as soon as the buyer is dead.

use agent_compute::crash::Point;

use super::customer::{self, Kind};
use super::market::{Market, Party};
use super::provider::sale::Backends;
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
    let in_turn = |n: usize| every_row() || matches!(n % 4, 0 | 3);
    let rows = matter.enumerate().filter(|(n, _)| in_turn(*n));
    rows.map(|(_, row)| row).collect()
}

#[test]
fn with_the_seller_killed_too_the_buyer_still_pays_once_for_what_it_gets() {
    let market = Market::new();
    in_lanes(rows(), |(kind, at)| {
        let why = format!("{kind:?}, both killed at {at}");
        let args = way_to_pay(kind);
        let (buyer, seller) = until_dead(&why, || {
            let (buyer, seller) = (market.buyer(), market.party("seller"));
            let mut selling = market.sell(&seller, &[]);
            let mut buy = market.buy(&buyer, &seller.key(), Some("k"), args);
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
        let mut again = market.buy(&buyer, &seller.key(), Some("k"), args);
        assert_bought(&market, &buyer, &seller, &mut again, &why);
    });
}

/// Asked for once more, it is here, and was paid once.
fn assert_bought(market: &Market, buyer: &Party, seller: &Party, again: &mut Command, why: &str) {
    let last = Ended::of(again).expect(0, why).last();
    assert_eq!(last["text"], TEXT, "{why}: {last}");
    market.recover(buyer, why);
    let story = market.story(buyer, why);
    assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
    assert_eq!(market.earned(seller), PRICE, "{why}");
}

/// The buyer's patience ends while the backend is at work; its seller is killed too, and delivers late, or
/// hears that nobody waits any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_killed_at_its_deadline_takes_what_comes_late_or_has_its_money_back() {
    let backends = Backends::new().await;
    let rows = [
        (Kind::PaidFirst, Point::CustomerUndelivered),
        (Kind::Escrow, Point::CustomerWithhold),
        (Kind::Escrow, Point::CustomerCancelSaid),
    ];
    let sides = |(kind, point)| At::both_sides(point, 1).map(|at| (kind, at));
    tokio::task::block_in_place(|| {
        let market = Market::new();
        let slow = ["--backend", "openai", "--backend-url", &backends.slow.url];
        in_lanes(rows.into_iter().flat_map(sides), |(kind, at)| {
            let why = format!("{kind:?}, too late, both killed at {at}");
            let (buyer, seller, prompt) = until_dead(&why, || {
                let (buyer, seller) = (market.buyer(), market.party("seller"));
                let mut selling = market.sell(&seller, &slow);
                let prompt = format!("slow, for {}", buyer.home);
                let args = [&["--timeout", "3", "--prompt", &prompt], way_to_pay(kind)].concat();
                let mut buy = market.buy(&buyer, &seller.key(), Some("k"), &args);
                let ended = Ended::of(at.arm(&mut buy));
                selling.kill();
                match ended.was_killed() {
                    true => Ok((buyer, seller, prompt)),
                    false => Err(format!("{ended:#?}")),
                }
            });
            backends.let_go(&prompt);
            let _selling = market.sell(&seller, &slow);
            market.jobs_once_over(&seller, &why);
            market.recover(&buyer, &why);
            let story = market.story(&buyer, &why);
            let delivered = customer::count(&story.labels(), "delivered") as u64;
            assert_eq!(delivered * PRICE, story.spent, "{why}: {story:#?}");
            assert!(kind == Kind::Escrow || delivered == 1, "{why}: {story:#?}");
            let args = [&["--prompt", &prompt], way_to_pay(kind)].concat();
            let mut again = market.buy(&buyer, &seller.key(), Some("k"), &args);
            assert_bought(&market, &buyer, &seller, &mut again, &why);
        });
    });
}

const fn way_to_pay(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Escrow => &["--htlc"],
        _ => &[],
    }
}

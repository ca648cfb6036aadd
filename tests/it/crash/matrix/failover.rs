//! A purchase that goes on with the next provider: killed around the end of its first attempt and around each
//! effect of its second, it pays one of them, once.

use agent_compute::crash::Point::{self, *};

use super::customer::{count, nothing};
use super::market::{Market, Party};
use super::*;

/// With the number of times that the purchase comes by: the first attempt is dead by the second.
const ROWS: &[(Point, u32)] = &[
    (CustomerBack, 1),
    (CustomerOpen, 2),
    (CustomerRequest, 2),
    (CustomerLock, 2),
    (CustomerPay, 2),
    (CustomerRelease, 1),
    (CustomerPreimageSaid, 1),
    (CustomerClaimed, 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_killed_between_two_providers_and_after_pays_one_of_them_once() {
    let nothing = nothing().await;
    tokio::task::block_in_place(|| {
        let market = Market::new();
        let (able, cheap) = (market.party("able"), market.party("cheap"));
        let _able = market.sell(&able, &["--max-jobs", "16"]);
        // Taken first, and can't do it.
        let unable = ["--backend", "openai", "--backend-url", &nothing.url];
        let cheaper = [&unable[..], &["--price", "9000"]].concat();
        let _cheap = market.sell(&cheap, &cheaper);
        let buy = |buyer: &Party| market.buy_anywhere(buyer, Some("k"), &["--htlc"]);
        let sides = ROWS
            .iter()
            .flat_map(|(point, nth)| At::both_sides(*point, *nth));
        in_lanes(sides, |at| {
            let why = format!("killed at {at}");
            let buyer = until_dead(&why, || {
                let buyer = market.buyer();
                let ended = Ended::of(at.arm(&mut buy(&buyer)));
                match ended.was_killed() {
                    true => Ok(buyer),
                    false => Err(format!("{ended:#?}")),
                }
            });
            market.recover(&buyer, &why);
            let story = market.story(&buyer, &why);
            let delivered = count(&story.labels(), "delivered") as u64;
            assert_eq!(delivered * PRICE, story.spent, "{why}: {story:#?}");
            let last = Ended::of(&mut buy(&buyer)).expect(0, &why).last();
            assert_eq!(last["text"], TEXT, "{why}: {last}");
            assert_eq!(last["provider"], able.key(), "{why}: {last}");
            market.recover(&buyer, &why);
            let story = market.story(&buyer, &why);
            assert_eq!(story.spent, PRICE, "{why}: {story:#?}");
            let failed = story.labels().len() - count(&story.labels(), "delivered");
            assert!(failed > 0, "{why}: nobody was asked before: {story:#?}");
        });
        assert_eq!(market.earned(&cheap), 0);
    });
}

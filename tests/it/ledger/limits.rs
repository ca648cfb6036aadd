//! The owner's limits, over days and clocks that lie.

use super::*;

#[tokio::test]
async fn each_limit_holds_to_the_last_msat() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let with_fee = Reserve {
        price: Msat::new(19_000),
        fee_cap: Msat::new(1_001),
        ..reserve(0)
    };
    assert_eq!(
        refusal(ask(&ledger, None, with_fee).await),
        (RefusedBy::PerJob, 20_000)
    );
    for msat in [20_000, 20_000, 9_999] {
        ask(&ledger, Some("t"), reserve(msat)).await.unwrap();
    }
    assert_eq!(
        refusal(ask(&ledger, Some("t"), reserve(2)).await),
        (RefusedBy::PerTick, 1)
    );
    ask(&ledger, Some("t"), reserve(1)).await.unwrap();
    // Without a tick id each purchase is a tick of its own.
    for msat in [20_000, 20_000, 9_999] {
        ask(&ledger, None, reserve(msat)).await.unwrap();
    }
    assert_eq!(
        refusal(ask(&ledger, None, reserve(2)).await),
        (RefusedBy::Daily, 1)
    );
    ask(&ledger, None, reserve(1)).await.unwrap();
    let report = ledger.budget(PLAY, Some("t"), LIMITS).await.unwrap();
    assert_eq!(report.headroom(), (Msat::ZERO, RefusedBy::PerTick));
    assert_eq!(report.usage.tick_reserved, Msat::new(50_000));
    assert_eq!(report.usage.reserved, Msat::new(100_000));
}

#[tokio::test]
async fn networks_and_play_money_have_budgets_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    paying(&ledger, 20_000).await;
    for (network, play_money) in [(Network::Regtest, false), (Network::Mainnet, true)] {
        let scope = Scope {
            network,
            play_money,
        };
        let report = ledger.budget(scope, None, LIMITS).await.unwrap();
        assert_eq!(report.usage, Usage::default());
    }
    assert_eq!(usage(&ledger, None).await.reserved, Msat::new(20_000));
}

#[tokio::test]
async fn the_floor_counts_open_reservations_and_needs_a_fresh_balance() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let seen = |settlements| Reserve {
        limits: Limits {
            floor: Msat::new(5_000),
            ..LIMITS
        },
        seen: Some(SeenBalance {
            balance: Msat::new(30_000),
            settlements,
        }),
        ..reserve(10_001)
    };
    let blind = Reserve {
        seen: None,
        ..seen(0)
    };
    assert!(matches!(
        ask(&ledger, None, blind).await,
        Err(LedgerError::Illegal(_))
    ));
    let first = paying(&ledger, 15_000).await;
    assert_eq!(
        refusal(ask(&ledger, None, seen(0)).await),
        (RefusedBy::Floor, 10_000)
    );
    // The first is settled between the look at the balance and the reservation: the balance may count
    // money that is gone, and says nothing any more.
    commit(&ledger, first, vec![settle(15_000)]).await.unwrap();
    assert!(matches!(
        ask(&ledger, None, seen(0)).await,
        Err(LedgerError::StaleBalance)
    ));
    let settlements = ledger.settlements(&wallet()).await.unwrap();
    assert_eq!(settlements, 1);
    ask(&ledger, None, seen(settlements)).await.unwrap();
    // A limit that has nothing to do with the balance is named all the same.
    let too_much = Reserve {
        price: Msat::new(20_001),
        ..seen(0)
    };
    assert_eq!(
        refusal(ask(&ledger, None, too_much).await),
        (RefusedBy::PerJob, 20_000)
    );
}

#[tokio::test]
async fn what_was_paid_is_booked_in_full_whatever_was_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let over = paying(&ledger, 10_000).await;
    let dear = Entry::Settle {
        price: Msat::new(10_000),
        fee: Msat::new(95_000),
    };
    commit(&ledger, over, vec![dear]).await.unwrap();
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(105_000));
    let line = ledger.log(over).await.unwrap().pop().unwrap();
    assert_eq!(
        line.note.as_deref(),
        Some("95 sats more than was set aside")
    );
    assert_eq!(
        refusal(ask(&ledger, None, reserve(1)).await),
        (RefusedBy::Daily, 0)
    );
}

#[tokio::test]
async fn a_wallet_that_names_absurd_sums_stops_the_spending_not_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(paying(&ledger, 1_000).await);
    }
    for id in ids {
        let absurd = Entry::Settle {
            price: Msat::new(u64::MAX),
            fee: Msat::new(u64::MAX),
        };
        commit(&ledger, id, vec![absurd]).await.unwrap();
    }
    // Six times all the bitcoin there is: more than SQLite could add up.
    let spent = usage(&ledger, None).await.spent_today;
    assert_eq!(spent.get(), 6 * Msat::MAX.get());
    assert_eq!(
        refusal(ask(&ledger, None, reserve(1)).await),
        (RefusedBy::Daily, 0)
    );
}

#[tokio::test]
async fn a_clock_set_back_over_midnight_gives_no_second_budget() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    for _ in 0..5 {
        let id = paying(&ledger, 20_000).await;
        commit(&ledger, id, vec![settle(20_000)]).await.unwrap();
    }
    clock.set(NOON.minus(DAY));
    assert_eq!(
        refusal(ask(&ledger, None, reserve(1)).await),
        (RefusedBy::Daily, 0)
    );
    assert_eq!(ledger.time().await.unwrap(), NOON);
    // A handle opened while the clock is wrong knows no better, but the file does.
    let other = open(&dir, &clock).await;
    assert_eq!(usage(&other, None).await.spent_today, Msat::new(100_000));
    // One second before the day ends the budget is spent; with the day, it is new.
    clock.set(UnixSecs::new(1_001 * DAY - 1));
    refusal(ask(&ledger, None, reserve(1)).await);
    clock.set(UnixSecs::new(1_001 * DAY));
    let id = ask(&ledger, None, reserve(20_000)).await.unwrap();
    commit(&ledger, id, vec![settle(20_000)]).await.unwrap();
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(20_000));
}

#[tokio::test]
async fn yesterdays_open_reservations_still_count_and_settle_on_the_day_they_settle() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(paying(&ledger, 20_000).await);
    }
    clock.set(NOON.plus(DAY));
    assert_eq!(
        refusal(ask(&ledger, None, reserve(1)).await),
        (RefusedBy::Daily, 0)
    );
    commit(&ledger, ids[0], vec![settle(15_000)]).await.unwrap();
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::new(15_000));
    assert_eq!(
        refusal(ask(&ledger, None, reserve(5_001)).await),
        (RefusedBy::Daily, 5_000)
    );
    clock.set(NOON.plus(2 * DAY));
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::ZERO);
}

#[tokio::test]
async fn a_tick_is_summed_over_all_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    for day in 0..2 {
        clock.set(NOON.plus(day * DAY));
        let id = ask(&ledger, Some("t"), reserve(20_000)).await.unwrap();
        commit(&ledger, id, vec![settle(20_000)]).await.unwrap();
    }
    clock.set(NOON.plus(9 * DAY));
    assert_eq!(
        usage(&ledger, Some("t")).await.tick_spent,
        Msat::new(40_000)
    );
    assert_eq!(
        refusal(ask(&ledger, Some("t"), reserve(10_001)).await),
        (RefusedBy::PerTick, 10_000)
    );
}

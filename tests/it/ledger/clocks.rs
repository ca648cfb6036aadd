//! Clocks that do not agree: set back over midnight, forward a day, two days at once.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::*;

/// As [`super::ask`], and pays or gives up what was granted.
async fn spend(ledger: &Ledger, random: &mut StdRng) -> bool {
    let msat = random.random_range(1..20_000);
    let Ok(id) = ask(ledger, None, reserve(msat)).await else {
        return false;
    };
    match random.random_range(0..8) {
        0 => {
            commit(ledger, id, vec![release()]).await.unwrap();
        }
        // Left open: it counts on every day there is.
        1 => {}
        _ => {
            let paid = vec![Entry::InFlight, settle(msat)];
            commit(ledger, id, paid).await.unwrap();
        }
    }
    true
}

fn column(dir: &TempDir, sql: &str) -> Vec<u64> {
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    let mut select = db.prepare(sql).unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_eight_clocks_say_no_day_of_the_ledger_has_more_than_its_limit() {
    for seed in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let clocks: Arc<Vec<Clock>> = Arc::new((0..8).map(|_| Clock::fixed(NOON)).collect());
        let mut ledgers = Vec::new();
        for clock in clocks.iter() {
            ledgers.push(open(&dir, clock).await);
        }
        let mut granted = 0;
        for day in 0..4 {
            let mut race = JoinSet::new();
            for n in 0..16 {
                let (ledger, clocks) = (ledgers[n % 8].clone(), Arc::clone(&clocks));
                race.spawn(async move {
                    let mut random = StdRng::seed_from_u64(seed * 1_000 + day * 100 + n as u64);
                    let mut granted = 0;
                    for _ in 0..4 {
                        // Yesterday, today or tomorrow, at any hour: now here, then there.
                        let at = (999 + day) * DAY + random.random_range(0..3 * DAY);
                        clocks[n % 8].set(UnixSecs::new(at));
                        granted += u64::from(spend(&ledger, &mut random).await);
                    }
                    granted
                });
            }
            granted += race.join_all().await.into_iter().sum::<u64>();
        }
        assert!(granted > 10, "seed {seed}: only {granted} were granted");
        let spent = column(
            &dir,
            "SELECT sum(spent_msat) FROM reservations WHERE status = 'settled'
             GROUP BY closed_at / 86400",
        );
        assert!(
            spent.len() > 1,
            "seed {seed}: more than one day was spent on"
        );
        for of_a_day in &spent {
            assert!(*of_a_day <= LIMITS.daily.get(), "seed {seed}: {spent:?}");
        }
        let times = column(&dir, "SELECT at FROM log ORDER BY seq");
        assert!(times.is_sorted(), "seed {seed}: ledger time ran backwards");
        let last = column(&dir, "SELECT secs FROM ledger_time")[0];
        assert_eq!(times.last(), Some(&last));
        // Nor does a handle that is opened with a clock of long ago go back.
        let late = open(&dir, &Clock::fixed(NOON.minus(300 * DAY))).await;
        assert_eq!(late.time().await.unwrap().get(), last);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_a_day_apart_share_the_budget_of_the_later_day() {
    let dir = tempfile::tempdir().unwrap();
    let (today, tomorrow) = (Clock::fixed(NOON), Clock::fixed(NOON.plus(DAY)));
    let one = open(&dir, &today).await;
    let other = open(&dir, &tomorrow).await;
    // Tomorrow begins with the first that says so, for both of them.
    for turn in 0..5 {
        let ledger = if turn % 2 == 0 { &other } else { &one };
        let id = ask(ledger, None, reserve(20_000)).await.unwrap();
        commit(ledger, id, vec![Entry::InFlight, settle(20_000)])
            .await
            .unwrap();
    }
    for ledger in [&one, &other] {
        assert_eq!(
            refusal(ask(ledger, None, reserve(1)).await),
            (RefusedBy::Daily, 0)
        );
        assert_eq!(ledger.time().await.unwrap(), NOON.plus(DAY));
    }
    // When the slower clock gets there, it is the same day still.
    today.set(NOON.plus(DAY));
    refusal(ask(&one, None, reserve(1)).await);
    today.set(NOON.plus(2 * DAY));
    ask(&one, None, reserve(20_000)).await.unwrap();
}

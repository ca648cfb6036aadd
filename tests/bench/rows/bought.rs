//! Whole purchases: warm, cold, many at once, and what they leave in a seller.

use std::time::{Duration, Instant};

use agent_compute::client::{ComputeClient, PurchaseEvent};
use agent_compute::protocol::Offer;
use serde_json::json;

use crate::Plan;
use crate::cast::{Market, job, offer};
use crate::floor::{Bare, Pong, Raw};
use crate::measure::{Samples, mb, ms};
use crate::report::{Curve, Goal, Report};
use crate::worker::{block_on, of_a_crowd};

const PROMPT: &str = "What is the capital of France?";

/// What the deployed original needs on loopback, measured once, in ms: cold, and for each chunk.
pub const ORIGINAL: (f64, f64) = (6_400.0, 60.0);

/// Round trips through the relay that a purchase can't do without: request and invoice, payment and result.
const ROUND_TRIPS: u32 = 2;

/// Of the seller's commits, those after the result is out: that a relay took it.
const AFTER_THE_RESULT: u64 = 1;

/// What is known of a market once somebody has bought in it.
struct Warm {
    client: ComputeClient,
    offer: Offer,
    /// Commits of one purchase: ledger, bank, jobs.
    commits: [u64; 3],
}

impl Warm {
    async fn up(market: &Market) -> Self {
        let client = market.buyer("agent").await;
        let offer = offer(&client).await;
        let mut seen = Vec::new();
        for _ in 0..9 {
            let before = market.commits("agent");
            client
                .purchase(job(&offer, PROMPT))
                .receipt()
                .await
                .unwrap();
            // What the seller has still to put on record.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let after = market.commits("agent");
            seen.push([0, 1, 2].map(|nth| after[nth].saturating_sub(before[nth])));
        }
        // The first purchase remembers the seller, and a log that is begun anew in between counts less.
        let commits = [0, 1, 2].map(|nth| {
            let mut counts: Vec<u64> = seen.iter().map(|it| it[nth]).collect();
            counts.sort_unstable();
            counts[counts.len() / 2]
        });
        Self {
            client,
            offer,
            commits,
        }
    }

    fn on_the_path(&self) -> u64 {
        self.commits.iter().sum::<u64>() - AFTER_THE_RESULT
    }

    fn in_words(&self) -> String {
        let [ledger, bank, jobs] = self.commits;
        format!(
            "{ROUND_TRIPS} round trips and {} commits: ledger {ledger}, bank {bank}, seller {}",
            self.on_the_path(),
            jobs - AFTER_THE_RESULT
        )
    }

    /// Buys, and adds to `stages` when it was quoted, reserved and paid.
    async fn buy(&self, stages: &mut [Samples; 3]) -> Duration {
        let begun = Instant::now();
        let mut buying = self.client.purchase(job(&self.offer, PROMPT));
        while let Some(event) = buying.next_event().await {
            let stage = match event {
                PurchaseEvent::Quoted { .. } => 0,
                PurchaseEvent::Reserved { .. } => 1,
                PurchaseEvent::Paid { .. } => 2,
                _ => continue,
            };
            stages[stage].take(begun.elapsed());
        }
        buying.receipt().await.unwrap();
        begun.elapsed()
    }
}

/// The floor of a purchase: its round trips and its commits, one after the other.
struct Floor {
    pong: Pong,
    bare: Bare,
    commits: u64,
}

impl Floor {
    async fn of(market: &Market, commits: u64) -> Self {
        Self {
            pong: Pong::start(&market.relay).await,
            bare: Bare::open(&market.path("bare.sqlite")),
            commits,
        }
    }

    async fn time(&mut self) -> Duration {
        let mut time = self.bare.commit(self.commits);
        for _ in 0..ROUND_TRIPS {
            time += self.pong.round_trip().await;
        }
        time
    }
}

pub fn warm(plan: &Plan, report: &mut Report) {
    let market = Market::open(false);
    block_on(async {
        let warm = Warm::up(&market).await;
        let mut floor = Floor::of(&market, warm.on_the_path()).await;
        let (mut figures, mut floors) = (Samples::default(), Samples::default());
        let mut stages: [Samples; 3] = Default::default();
        for _ in 0..plan.times(400, 60) {
            floors.take(floor.time().await);
            figures.take(warm.buy(&mut stages).await);
        }
        let medians = (ms(figures.p50()), ms(floors.p50()));
        report.row(
            "warm purchase, p50",
            "ms",
            medians,
            Goal::AtMost(1.3),
            warm.in_words(),
        );
        let worst = (ms(figures.p99()), ms(floors.p99()));
        let [quoted, reserved, paid] = stages.map(|stage| ms(stage.p50()));
        let note = format!(
            "of {}; quoted after {quoted:.1}, reserved {reserved:.1}, paid {paid:.1} ms",
            figures.len()
        );
        report.row("warm purchase, p99", "ms", worst, Goal::AtMost(3.0), note);
        warm.client.close().await;
    });
}

pub fn cold(plan: &Plan, report: &mut Report) {
    let market = Market::open(false);
    let args = ["--discover", "--prompt", PROMPT];
    let memory = (0..5)
        .filter_map(|_| market.cold("passer-by", &args).1)
        .max();
    let (mut figures, mut floors) = (Samples::default(), Samples::default());
    block_on(async {
        let warm = Warm::up(&market).await;
        let mut floor = Floor::of(&market, warm.on_the_path()).await;
        for _ in 0..plan.times(60, 12) {
            figures.take(market.cold_time("passer-by", &args));
            let begun = Instant::now();
            let mut raw = Raw::connect(&market.relay).await;
            let listings = raw.fetch(json!({"kinds": [31990], "limit": 500})).await;
            assert!(!listings.is_empty());
            floors.take(begun.elapsed() + floor.time().await);
        }
        warm.client.close().await;
    });
    let note = "connect, one fetch, and the floor of a warm purchase; the figure starts a process";
    let medians = (ms(figures.p50()), ms(floors.p50()));
    report.row(
        "cold `agent-customer --discover`",
        "ms",
        medians,
        Goal::AtMost(1.5),
        note,
    );
    let versus = (ms(figures.p50()), ORIGINAL.0);
    let note = "measured once, on loopback; it sleeps";
    report.row(
        "the same, beside the original's",
        "ms",
        versus,
        Goal::None,
        note,
    );
    report.figure(
        "memory of that process, at most",
        "MB",
        memory.map(mb),
        Goal::Within(30.0),
        "",
    );
}

/// So many messages through the relay, as fast as it takes them: how many a second.
async fn message_rate(market: &Market, count: usize) -> f64 {
    let mut from = Raw::connect(&market.relay).await;
    let mut to = Raw::connect(&market.relay).await;
    to.follow(from.key()).await;
    let events: Vec<_> = (0..count).map(|_| from.signed(to.key())).collect();
    let begun = Instant::now();
    let sending = async {
        for event in &events {
            from.say(event).await;
        }
        from
    };
    let receiving = async {
        for _ in 0..count {
            to.event().await;
        }
    };
    tokio::join!(sending, receiving);
    count as f64 / begun.elapsed().as_secs_f64()
}

/// What a purchase that is paid first says: request, invoice, payment, result.
const MESSAGES: f64 = 4.0;

pub fn crowd(plan: &Plan, report: &mut Report) {
    let market = Market::open(false);
    let commits = block_on(async {
        let warm = Warm::up(&market).await;
        warm.client.close().await;
        warm.commits.iter().sum::<u64>()
    });
    let mut bare = Bare::open(&market.path("bare.sqlite"));
    // A relay keeps only so many events: those that are only counted go elsewhere.
    let quiet = Market::without_seller();
    let (mut figures, mut floors) = (Vec::new(), Vec::new());
    let mut limits = (0.0, 0.0);
    for _ in 0..plan.times(3, 1) {
        let [rate, ..] = of_a_crowd(&market, 64, plan.times(8, 3));
        figures.push(rate);
        let messages = block_on(message_rate(&quiet, plan.times(4_000, 1_000))) / MESSAGES;
        let times = plan.times(2_000, 400) as u64;
        let each = bare.commit(times).as_secs_f64() / times as f64;
        limits = (messages, 1.0 / each / commits as f64);
        floors.push(messages.min(limits.1));
    }
    let middle = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rates = (middle(&mut figures), middle(&mut floors));
    let note = format!(
        "the relay would carry {:.0}, one disk take {:.0} with {commits} commits each",
        limits.0, limits.1
    );
    report.row(
        "64 purchases at once",
        "/s",
        rates,
        Goal::AtLeast(0.6),
        note,
    );

    let mut curve = Curve {
        title: "purchases at once, 64 a key",
        load: "at once",
        points: Vec::new(),
    };
    let market = Market::open(false);
    for at_once in [1, 4, 16, 64, 256] {
        let rounds = plan.times(1_024 / at_once, 64 / at_once).max(1);
        let [_, p50, peak] = of_a_crowd(&market, at_once, rounds);
        curve.points.push((at_once as f64, p50, mb(peak as u64)));
    }
    report.curves.push(curve);
}

pub fn provider(plan: &Plan, report: &mut Report) {
    let mut market = Market::open(false);
    let seller = market.seller.as_ref().unwrap();
    let start = ms(seller.until_ready);
    let idle = seller.memory_kib("VmHWM:");
    report.figure(
        "idle provider, memory at most",
        "MB",
        idle.map(mb),
        Goal::Within(35.0),
        "",
    );
    let jobs = plan.times(10_000, 600);
    let tenth = jobs / 10;
    let [first, ..] = of_a_crowd(&market, 60, tenth / 60);
    let resident = |market: &Market| market.seller.as_ref().unwrap().memory_kib("VmRSS:");
    let early = resident(&market);
    let [rate, ..] = of_a_crowd(&market, 64, (jobs - tenth) / 64);
    let late = resident(&market);
    let note = format!("echo backend; {first:.0} /s among the first {tenth}");
    report.figure(
        "provider, jobs a second",
        "/s",
        Some(rate),
        Goal::None,
        note,
    );
    let growth = early
        .zip(late)
        .map(|(early, late)| late as f64 / early as f64);
    let note = format!(
        "{:.1} MB, {:.1} MB after the first {tenth}",
        late.map_or(0.0, mb),
        early.map_or(0.0, mb)
    );
    let what = format!("provider's memory after {jobs} jobs, beside that after {tenth}");
    report.figure(what, "x", growth, Goal::Within(1.2), note);
    report.figure(
        "provider, start to READY",
        "ms",
        Some(start),
        Goal::None,
        "a new home",
    );
    market.sell(false);
    let again = ms(market.seller.as_ref().unwrap().until_ready);
    let what = format!("the same, with {jobs} jobs on file");
    report.row(
        what,
        "ms",
        (again, start),
        Goal::None,
        "beside the start above",
    );
}

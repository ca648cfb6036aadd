//! Parts by themselves: the ledger, discovery, and a program that does next to nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_compute::clock::Clock;
use agent_compute::ledger::Ledger;
use agent_compute::protocol::Price;
use agent_compute::protocol::listing::{ListingContent, listing};
use agent_compute::units::{Msat, Network};
use nostr::{Event, JsonUtil as _, Keys, RelayMessage};
use serde_json::{Value, json};

use crate::Plan;
use crate::cast::{CUSTOMER, Market};
use crate::floor::{Bare, Raw};
use crate::measure::{Samples, commits, mb, ms, watch};
use crate::report::{Curve, Goal, Report};
use crate::worker::{all_at_once, block_on, reserve_and_settle};

/// Commits of [`reserve_and_settle`].
const COMMITS: u64 = 3;

const PROCESSES: usize = 8;

pub fn ledger(plan: &Plan, report: &mut Report) {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (dir.path().join("books"), dir.path().join("bare.sqlite"));
    let mut bare = Bare::open(&file);
    let (mut figures, mut floors) = (Samples::default(), Samples::default());
    block_on(async {
        let ledger = Ledger::open(&folder, Clock::system()).await.unwrap();
        let books = folder.join("ledger.sqlite");
        let before = commits(&books);
        reserve_and_settle(&ledger).await;
        assert_eq!(commits(&books) - before, COMMITS);
        for _ in 0..plan.times(1_000, 150) {
            floors.take(bare.commit(COMMITS));
            let begun = Instant::now();
            reserve_and_settle(&ledger).await;
            figures.take(begun.elapsed());
        }
    });
    let rate = |samples: &Samples| 1.0 / samples.p50().as_secs_f64();
    let rates = (rate(&figures), rate(&floors));
    let note = format!("{COMMITS} commits each: on record, set aside, booked");
    report.row("ledger, one process", "/s", rates, Goal::AtLeast(0.8), note);

    let each = plan.times(150, 25);
    let (mut figures, mut floors) = (Samples::default(), Samples::default());
    for _ in 0..plan.times(5, 2) {
        let transactions = (each as u64 * COMMITS).to_string();
        floors.take(all_at_once(
            PROCESSES,
            &["bare", file.to_str().unwrap(), &transactions],
        ));
        let times = each.to_string();
        figures.take(all_at_once(
            PROCESSES,
            &["ledger", folder.to_str().unwrap(), &times],
        ));
    }
    let all = (PROCESSES * each) as f64;
    let rates = (all * rate(&figures), all * rate(&floors));
    let note = "the same by eight processes at once, on one file";
    report.row(
        "ledger, eight processes",
        "/s",
        rates,
        Goal::AtLeast(0.8),
        note,
    );
}

/// A listing by somebody of whom there is nothing else, a second older than the one before it: relays are read page
/// by page, backwards in time.
fn some_listing(nth: u64) -> Event {
    let channel = nostr::EventId::from_byte_array(rand::random());
    let content = ListingContent {
        name: format!("provider {nth}"),
        about: "sells text".to_owned(),
        channel: Some(channel),
        relays: vec!["ws://127.0.0.1:1/".to_owned()],
        price: Price::per_request(Msat::new(10_000 + nth)),
        models: vec!["echo".to_owned()],
        network: Network::Regtest,
        features: [].into(),
        expires_at: None,
    };
    let at = nostr::Timestamp::from_secs(nostr::Timestamp::now().as_secs() - nth);
    listing(&content)
        .custom_created_at(at)
        .sign_with_keys(&Keys::generate())
        .unwrap()
}

async fn publish(relay: &str, events: &[Event]) {
    let mut raw = Raw::connect(relay).await;
    for some in events.chunks(100) {
        for event in some {
            let event: Value = serde_json::from_str(&event.as_json()).unwrap();
            raw.send(json!(["EVENT", event])).await;
        }
        for _ in some {
            while !matches!(raw.next().await, RelayMessage::Ok { .. }) {}
        }
    }
}

/// All listings, page by page, as a relay gives them: fetched and verified.
async fn fetch_all(relay: &str, count: usize) -> Duration {
    let begun = Instant::now();
    let mut raw = Raw::connect(relay).await;
    let (mut seen, mut until) = (std::collections::HashSet::new(), None);
    while seen.len() < count {
        let mut filter = json!({"kinds": [31990], "#k": ["5050"], "limit": 5_000});
        if let Some(until) = until {
            filter["until"] = json!(until);
        }
        let page = raw.fetch(filter).await;
        let before = seen.len();
        until = page.iter().map(|event| event.created_at.as_secs()).min();
        seen.extend(page.into_iter().map(|event| event.id));
        if seen.len() == before {
            break;
        }
    }
    begun.elapsed()
}

pub fn discovery(plan: &Plan, report: &mut Report) {
    let sizes: &[usize] = if plan.quick {
        &[10, 100, 1_000]
    } else {
        &[10, 100, 1_000, 10_000]
    };
    let mut curve = Curve {
        title: "listings on the relay",
        load: "listings",
        points: Vec::new(),
    };
    for &size in sizes {
        let market = Market::without_seller();
        let events: Vec<Event> = (0..size as u64).map(some_listing).collect();
        block_on(publish(&market.relay, &events));
        let (mut figures, mut floors, mut memory) = (Samples::default(), Samples::default(), 0);
        for _ in 0..plan.times(5, 2) {
            floors.take(block_on(fetch_all(&market.relay, size)));
            let mut look = market.program(CUSTOMER, "looker");
            let found = market.path("found");
            look.args(["--json", "providers", "--discovery-time", "60"])
                .stdout(std::fs::File::create(&found).unwrap());
            let begun = Instant::now();
            let peak = watch(&mut look.spawn().unwrap());
            figures.take(begun.elapsed());
            let found = std::fs::read_to_string(&found).unwrap();
            // It reads so many events at most, those that two pages share twice.
            assert!(found.lines().count() >= size * 99 / 100, "all but a few");
            memory = memory.max(peak.unwrap_or(0));
        }
        curve
            .points
            .push((size as f64, ms(figures.p50()), mb(memory)));
        if Some(&size) == sizes.last() {
            let times = (ms(figures.p50()), ms(floors.p50()));
            let what = format!("discovery among {size} listings");
            let note =
                "fetched and verified; the figure is `agent-customer providers`, a whole process";
            report.row(what, "ms", times, Goal::AtMost(1.3), note);
        }
    }
    report.curves.push(curve);
}

/// A program that does nothing, built here and now.
fn nothing() -> Option<std::path::PathBuf> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).ok()?;
    let (source, program) = (folder.join("nothing.rs"), folder.join("nothing"));
    std::fs::write(&source, "fn main() {}\n").ok()?;
    let built = Command::new("rustc")
        .arg("-O")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status();
    built.ok()?.success().then_some(program)
}

pub fn help(plan: &Plan, report: &mut Report) {
    let what = "`--help`, above an empty Rust program";
    let Some(nothing) = nothing() else {
        report.figure(
            what,
            "ms",
            None,
            Goal::Within(5.0),
            "or: no rustc here to build one with",
        );
        return;
    };
    let time = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command.arg("--help").stdout(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().unwrap().success());
        begun.elapsed()
    };
    let (mut figures, mut floors) = (Samples::default(), Samples::default());
    for _ in 0..plan.times(100, 30) {
        floors.take(time(&nothing));
        figures.take(time(CUSTOMER.as_ref()));
    }
    let more = ms(figures.p50()) - ms(floors.p50());
    let note = format!(
        "{:.2} ms, and {:.2} ms",
        ms(figures.p50()),
        ms(floors.p50())
    );
    report.figure(what, "ms", Some(more), Goal::Within(5.0), note);
}

//! Failover: the next provider is asked when the one before is dead beyond doubt, and only then; at most one is
//! ever paid.

mod causes;
mod chance;
mod crowd;
mod cut_off;
mod escrow;
mod patience;
mod seen;

use agent_compute::protocol::message::{AgentMessage, JobRequest};
use agent_compute::protocol::{Feature, Price, codec};
use agent_compute::relay::fetch;
use agent_compute::units::Msat;
use nostr::{Filter, Kind};
use serde_json::Value;

use crate::cast::{Peer, draft, signed};
use crate::harness::Ran;
use crate::stage::{Books, Customer, PRICE, SOON, Stage};

/// A provider that lists this price, so that cheaper ones come before it.
async fn selling_at(stage: &Stage, msat: u64) -> Peer {
    let provider = Peer::unlisted(stage).await;
    let price = Price::per_request(Msat::new(msat));
    provider.list(|content| content.price = price).await;
    provider
}

/// Three providers, the cheapest first. The second one asks [`PRICE`].
async fn three(stage: &Stage) -> [Peer; 3] {
    [
        selling_at(stage, PRICE - 1).await,
        selling_at(stage, PRICE).await,
        selling_at(stage, PRICE + 1).await,
    ]
}

/// Whatever was asked of this provider by now.
async fn requests(provider: &Peer) -> Vec<JobRequest> {
    let filter = Filter::new()
        .kind(Kind::ChannelMessage)
        .event(provider.channel);
    let stored = fetch(&*provider.session, filter, SOON, 1000).await.unwrap();
    let us = provider.key().to_hex();
    let ours = |event: &nostr::Event| match codec::decode(&event.content).ok()? {
        AgentMessage::JobRequest(job) if job.target_provider.as_ref() == Some(&us) => Some(job),
        _ => None,
    };
    stored.events.iter().filter_map(ours).collect()
}

/// How often each of these was asked.
async fn asked(providers: &[&Peer]) -> Vec<usize> {
    let mut times = Vec::new();
    for provider in providers {
        times.push(requests(provider).await.len());
    }
    times
}

/// Buys from whoever comes first, with `--json`.
async fn buy(stage: &Stage, customer: &Customer, args: &[&str]) -> Ran {
    let fixed = ["--json", "--prompt", "hello"];
    stage.run(customer, &[&fixed, args].concat()).await
}

/// The events of this name, in their order.
fn all(ran: &Ran, name: &str) -> Vec<Value> {
    let events = ran.events().into_iter();
    events.filter(|event| event["event"] == name).collect()
}

/// The code with which each provider before the last one failed, after a check that the events tell one story:
/// every failure names its own purchase and provider, and the next line selects the one that it announces.
#[track_caller]
fn failures(ran: &Ran) -> Vec<String> {
    let events = ran.events();
    let mut codes = Vec::new();
    let mut selected: Option<Value> = None;
    for (i, event) in events.iter().enumerate() {
        if event["event"] == "selected" {
            let seen = &events[..i];
            let named =
                |one: &Value| one["event"] == "provider" && one["provider"] == event["provider"];
            assert!(seen.iter().any(named), "selected unseen: {event}");
            selected = Some(event.clone());
        }
        if event["event"] != "failed_over" {
            continue;
        }
        let before = selected.take().expect("somebody was selected");
        for name in ["purchase_id", "provider"] {
            assert_eq!(event[name], before[name], "{event}");
        }
        let next = &events[i + 1];
        if next["event"] == "selected" {
            assert_eq!(next["provider"], event["next_provider"], "{next}");
            assert_ne!(next["purchase_id"], event["purchase_id"], "{next}");
        }
        codes.push(event["code"].as_str().unwrap().to_owned());
    }
    codes
}

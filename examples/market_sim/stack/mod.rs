//! The outer depth: a real client with its ledger and wallet, real signatures, a real relay on loopback, and
//! in between whatever the seed draws.

pub mod buyer;
pub mod delivering;
pub mod draw;
pub mod judge;
pub mod peer;
pub mod provider;
pub mod quoting;
pub mod rogues;
pub mod sellers;
pub mod weather;
pub mod world;

use std::sync::Arc;
use std::time::Duration;

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::market::Select;
use agent_compute::provider::Provider;
use agent_compute::units::Msat;
use nostr::{PublicKey, RelayUrl};
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::buyer::{Attempt, Buyer};
use self::draw::{Adversary, Scenario};
use self::judge::Judge;
use self::peer::Peer;
use self::quoting::Shop;
use self::rogues::{Attack, Rogue};
use self::sellers::Seller;
use self::weather::BadRelay;
use self::world::{SOON, World, keys};
use super::report::Outcome;

/// The bound of a whole market: everything in it has a shorter one of its own.
const WHOLE: Duration = Duration::from_secs(240);

/// How long a provider may take to open where its only relay keeps it from that: it tries again for as long
/// as it runs.
const OPENS_WITHIN: Duration = Duration::from_secs(5);

/// What a seed draws; `only` names the adversary that it is against. `None`: there is none of that name.
pub fn scenario(seed: u64, only: Option<&str>) -> Option<Scenario> {
    let all = Adversary::all();
    let main = match only {
        Some(word) => *all.iter().find(|one| one.word() == word)?,
        None => all[usize::try_from(seed % all.len() as u64).ok()?],
    };
    Some(Scenario::draw(seed, main))
}

/// Opens the market of this seed, buys in it, and compares the books.
pub async fn run(scenario: Scenario) -> Vec<Outcome> {
    let (seed, adversary) = (scenario.seed, scenario.main.word());
    let words = scenario.in_words();
    // A task of its own, so that a panic is found out as well.
    let mut market = JoinSet::new();
    market.spawn(timeout(WHOLE, hold(scenario)));
    let trouble = match market.join_next().await {
        Some(Ok(Ok(outcomes))) => return outcomes,
        Some(Ok(Err(_))) => "it did not end".to_owned(),
        Some(Err(error)) => format!("it panicked: {error}"),
        None => "it never began".to_owned(),
    };
    vec![Outcome {
        adversary,
        seed,
        ended: Err(agent_compute::Code::Internal),
        lost: Msat::ZERO,
        at_risk: Msat::ZERO,
        broken: vec![format!("{trouble} — {words}")],
    }]
}

/// Who sells, and what keeps it going.
struct Stall {
    key: PublicKey,
    _played: JoinSet<()>,
    real: Option<Provider>,
}

async fn hold(mut scenario: Scenario) -> Vec<Outcome> {
    let world = World::open().await;
    let mut rng = StdRng::from_rng(&mut scenario.rng);
    let good = world.relay();
    let bad = match &scenario.relay {
        Some(plan) => Some(BadRelay::before(good.clone(), plan.clone()).await),
        None => None,
    };
    let through = bad.as_ref().map_or(&good, |bad| &bad.url).clone();
    let sellers_relay = if scenario.seller_behind {
        &through
    } else {
        &good
    };
    let buyer = Buyer {
        world: Arc::clone(&world),
        name: "buyer".into(),
        keys: keys(&mut rng),
        limits: scenario.limits(),
        fee: scenario.fee,
    };
    let mut judge = Judge {
        scenario: &scenario,
        buyer: &buyer,
        broken: Vec::new(),
    };
    let kept_out = scenario.is_rough() && scenario.seller_behind;
    let bound = if kept_out { OPENS_WITHIN } else { SOON };
    let opening = open_stall(&world, sellers_relay, &scenario, &mut rng);
    let stall = match timeout(bound, opening).await {
        Ok(Ok(stall)) => stall,
        // Its only relay keeps the provider from opening: nothing to buy, and nothing lost.
        _ if kept_out => return Vec::new(),
        opened => {
            let error = opened.map_or("it takes for ever".into(), |opened| {
                opened.map_or_else(|error| error.to_string(), |_| String::new())
            });
            judge
                .broken
                .push(format!("the provider did not start: {error}"));
            return outcomes(&scenario, &[], &[], judge.broken);
        }
    };
    let _other = open_other(&world, &scenario, &mut rng).await;
    let mut attack = begin_attack(&world, &stall, &scenario, &mut rng).await;

    let mut attempts = Vec::new();
    match buyer.client(&through, scenario.fault).await {
        Ok(client) => {
            for nth in 0..scenario.attempts {
                let request = request(&scenario, nth, stall.key, &mut rng);
                world.may_work_on(&request.prompt);
                let attempt = buyer.buy(&client, request, scenario.stops_after).await;
                judge.attempt(nth, &attempt).await;
                attempts.push(attempt);
            }
        }
        Err(error) => judge.broken.push(format!("no client: {error}")),
    }
    if let Some(Rogue::OthersHash | Rogue::OthersJob | Rogue::Replays | Rogue::PaysForOthers) =
        scenario.rogue
    {
        attack.abort_all();
    } else if timeout(SOON, attack.join_next()).await.is_err() {
        judge
            .broken
            .push("the rogue customer is still waiting for an answer".into());
    }

    come_late(&world, &mut judge).await;
    recover_until_delivered(&mut judge, &attempts).await;
    world.let_time_pass();
    recover(&mut judge, &attempts, "after the holds have ended").await;
    let lost = judge.settled(&attempts).await;
    judge.losses(&attempts).await;
    // Once more changes nothing.
    recover(&mut judge, &attempts, "after one more recovery").await;
    let again = judge.settled(&attempts).await;
    if again != lost {
        judge.broken.push(format!(
            "recovery was over, and then not: {lost:?}, {again:?}"
        ));
    }
    close_stall(stall, &mut judge).await;
    let broken = judge.broken;
    outcomes(&scenario, &attempts, &lost, broken)
}

/// What comes late comes, and the buyer's deadline has passed.
async fn come_late(world: &World, judge: &mut Judge<'_>) {
    world.let_the_deadline_pass();
    world.over.cancel();
    if judge.scenario.seller != Seller::Late {
        return;
    }
    let paid = judge.books("before what comes late").await;
    if paid.is_some_and(|books| books.gone > 0)
        && timeout(SOON, world.late.cancelled()).await.is_err()
    {
        world.mishap("what comes late never came");
    }
}

async fn open_stall(
    world: &Arc<World>,
    relay: &RelayUrl,
    scenario: &Scenario,
    rng: &mut StdRng,
) -> Result<Stall, agent_compute::Error> {
    let seller = StdRng::from_rng(rng);
    let mut played = JoinSet::new();
    if scenario.seller == Seller::Provider {
        let keys = keys(rng);
        let stream = rng.random();
        let opening = provider::start(world, relay, keys, scenario.price, stream);
        let provider = opening.await?;
        return Ok(Stall {
            key: provider.pubkey(),
            _played: played,
            real: Some(provider),
        });
    }
    let shop = Shop::open(world, relay, scenario.terms(), seller).await;
    let key = shop.peer.key();
    played.spawn(shop.serve());
    Ok(Stall {
        key,
        _played: played,
        real: None,
    })
}

/// An honest seller beside the first one.
async fn open_other(world: &Arc<World>, scenario: &Scenario, rng: &mut StdRng) -> JoinSet<()> {
    let own = StdRng::from_rng(rng);
    let mut played = JoinSet::new();
    if scenario.cheaper_by.is_some() {
        let terms = scenario.others_terms();
        let shop = Shop::open(world, &world.relay(), terms, own).await;
        played.spawn(shop.serve());
    }
    played
}

/// A real provider takes leave in good order, has kept no slot for anybody, and has done nothing for nothing.
async fn close_stall(stall: Stall, judge: &mut Judge<'_>) {
    if let Some(provider) = stall.real {
        match timeout(SOON, provider.stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => judge
                .broken
                .push(format!("the provider ended badly: {error}")),
            Err(_) => judge.broken.push("the provider can't take leave".into()),
        }
    }
    let world = &judge.buyer.world;
    let unpaid = world.unpaid_work();
    let mishaps = world.mishaps();
    if !unpaid.is_empty() {
        let what = format!("the provider worked for nothing, or twice: {unpaid:?}");
        judge.broken.push(what);
    }
    judge.broken.extend(mishaps);
}

async fn begin_attack(
    world: &Arc<World>,
    stall: &Stall,
    scenario: &Scenario,
    rng: &mut StdRng,
) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    if let (Some(rogue), Some(provider)) = (scenario.rogue, &stall.real) {
        let (keys, own) = (keys(rng), StdRng::from_rng(rng));
        let peer = Peer::join(world, &world.relay(), keys, provider.channel(), own).await;
        let provider = stall.key;
        let one = Attack {
            rogue,
            peer,
            provider,
        };
        attack.spawn(one.run());
    }
    attack
}

fn request(scenario: &Scenario, nth: u64, seller: PublicKey, rng: &mut StdRng) -> PurchaseRequest {
    let spice = ["", "\n\"quoted\" \\", " \u{1f980} é", " \u{1b}[2J\0"];
    let seed = scenario.seed;
    let prompt = format!(
        "job {nth} of {seed}: {:08x}{}",
        rng.random::<u32>(),
        spice.choose(rng).unwrap()
    );
    // Another one is asked only where there is one to choose from.
    let (select, retries) = match scenario.cheaper_by {
        Some(_) => (Select::Cheapest, rng.random_range(1..=2)),
        None => (Select::Provider(seller.to_hex().parse().unwrap()), 1),
    };
    PurchaseRequest {
        select,
        retries,
        plaintext: !scenario.sealed,
        escrow: scenario.escrow,
        max_tokens: rng.random_range(1..2_000),
        stream: rng.random(),
        discovery_time: scenario.discovery(),
        timeout: scenario.patience(),
        ..PurchaseRequest::new(prompt)
    }
}

/// A new process, a wallet without faults and a relay that works settle what is open, as far as it can be.
async fn recover(judge: &mut Judge<'_>, attempts: &[Attempt], when: &str) {
    let buyer = judge.buyer;
    let recovering = async {
        buyer.until_idle().await?;
        let client: ComputeClient = buyer.client(&buyer.world.relay(), None).await?;
        client.recover().await
    };
    match timeout(SOON, recovering).await {
        Ok(Ok(found)) => judge.recovered(when, &found, attempts),
        Ok(Err(error)) => judge.broken.push(format!("{when}: {error}")),
        Err(_) => judge.broken.push(format!("{when}: it takes for ever")),
    }
    judge.books(when).await;
}

/// Recovers, and again while a seller that delivers what is paid has yet to do so: machines are busy.
async fn recover_until_delivered(judge: &mut Judge<'_>, attempts: &[Attempt]) {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        recover(judge, attempts, "after recovery").await;
        let owed = judge.is_owed(attempts).await;
        if !owed || tokio::time::Instant::now() > until {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn outcomes(
    scenario: &Scenario,
    attempts: &[Attempt],
    lost: &[u64],
    broken: Vec<String>,
) -> Vec<Outcome> {
    let adversary = scenario.main.word();
    let with = scenario.in_words();
    let mut broken: Vec<String> = broken
        .into_iter()
        .map(|what| format!("{what} — {with}"))
        .collect();
    let mut outcomes: Vec<Outcome> = (0..)
        .zip(attempts)
        .zip(lost)
        .map(|((nth, attempt), lost)| Outcome {
            adversary,
            seed: scenario.seed,
            ended: attempt.end(),
            lost: Msat::new(*lost),
            at_risk: Msat::new(scenario.at_risk(nth)),
            broken: std::mem::take(&mut broken),
        })
        .collect();
    if !broken.is_empty() {
        outcomes.push(Outcome {
            adversary,
            seed: scenario.seed,
            ended: Err(agent_compute::Code::Internal),
            lost: Msat::ZERO,
            at_risk: Msat::ZERO,
            broken,
        });
    }
    outcomes
}

//! The agent's loop against its owner's limits, and a market that comes and goes.

use std::sync::Arc;

use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::SimWallet;

use super::*;

const PRICE: Msat = Msat::new(10_000);

/// An agent's life on the owner's side: what outlives its process.
struct Life {
    market: Market,
    identity: Identity,
    wallet: SimWallet,
    before: Msat,
}

impl Life {
    async fn new() -> Self {
        let market = Market::open().await.unwrap();
        let identity = Identity::from_keys(nostr::Keys::generate());
        let wallet = market.wallet(&identity).unwrap();
        Self {
            before: wallet.balance().await.unwrap(),
            market,
            identity,
            wallet,
        }
    }

    async fn wake(&self, limits: Runway) -> Agent {
        let client = self
            .market
            .buyer(self.identity.clone(), "agent")
            .wallet(Arc::new(self.wallet.clone()))
            .limits(limits);
        let client = client.build().await.unwrap();
        Agent::wake(client, self.market.path("diary.ndjson")).unwrap()
    }

    async fn paid(&self) -> Msat {
        let now = self.wallet.balance().await.unwrap();
        self.before.checked_sub(now).unwrap()
    }

    fn diary(&self) -> Vec<serde_json::Value> {
        let lines = fs::read_to_string(self.market.path("diary.ndjson")).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn hears(agent: &mut Agent, visitors: &[&str]) {
    for visitor in visitors {
        agent.hear(format!("{visitor} says hello"));
    }
}

#[test]
fn it_runs_as_it_is() {
    super::main().unwrap();
}

#[tokio::test]
async fn ticks_and_the_day_end_at_their_limits_and_say_so() {
    let life = Life::new().await;
    let _provider = life.market.sell(model, PRICE).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["A", "B", "C", "D", "E", "F", "G"]);
    let mut shown = Vec::new();
    loop {
        let tick = agent.tick().await.unwrap();
        shown.push(tick.to_string());
        if tick.ended.is_for_today() {
            break;
        }
        assert!(matches!(tick.ended, Ended::TickIsSpent));
    }
    assert_eq!(
        shown,
        [
            "tick 1: 2 thoughts; this tick's budget is spent; the rest waits\n  \
             spent 20 sats of 20 sats in this tick, 20 sats of 50 sats today",
            "tick 2: 2 thoughts; this tick's budget is spent; the rest waits\n  \
             spent 20 sats of 20 sats in this tick, 40 sats of 50 sats today",
            "tick 3: 1 thoughts; the day's budget is spent; the agent rests\n  \
             spent 10 sats of 20 sats in this tick, 50 sats of 50 sats today",
        ]
    );
    assert_eq!(life.paid().await, RUNWAY.daily_limit);
    assert_eq!(agent.heard, ["F says hello", "G says hello"]);
    let diary = life.diary();
    assert_eq!(diary.len(), 3);
    assert_eq!(diary[0]["spent_msat"], 20_000);
    assert_eq!(diary[0]["thoughts"][1]["action"]["Reply"], "Hello B!");
    // More ticks buy nothing more.
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::DayIsSpent), "{tick}");
    assert_eq!(life.paid().await, RUNWAY.daily_limit);
}

#[tokio::test]
async fn an_agent_that_has_thought_about_everything_rests() {
    let life = Life::new().await;
    let _provider = life.market.sell(model, PRICE).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::Idle), "{tick}");
    assert_eq!(tick.thoughts[0].action, Action::Reply("Hello Ada!".into()));
    assert!(matches!(agent.tick().await.unwrap().ended, Ended::Idle));
    assert_eq!(life.paid().await, PRICE);
}

#[tokio::test]
async fn a_provider_dearer_than_a_limit_is_not_asked() {
    let life = Life::new().await;
    let mut provider = life.market.sell(model, Msat::new(20_001)).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::TooDear(_)), "{tick}");
    assert_eq!(life.paid().await, Msat::ZERO);
    assert_eq!(agent.heard.len(), 1);
    // Even an agent that asks for it is refused by its own client, and the provider hears nothing.
    let client = agent.client.tick("tick-1");
    let providers = discover(&client).await.unwrap();
    let refused = agent.buy(&client, &providers[0], "x").await.unwrap_err();
    assert_eq!(refused.code(), Code::Budget, "{refused}");
    let usage = client.budget().await.unwrap().usage;
    assert_eq!((usage.tick_spent, usage.reserved), (Msat::ZERO, Msat::ZERO));
    let heard = tokio::time::timeout(Duration::ZERO, provider.next_event()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn without_a_provider_nothing_happens_until_one_comes() {
    let life = Life::new().await;
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::NoProvider), "{tick}");

    let provider = life.market.sell(model, PRICE).await.unwrap();
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::Idle), "{tick}");
    assert_eq!(tick.number, 2);

    // One that takes leave is not there any more.
    provider.stop().await.unwrap();
    hears(&mut agent, &["Alan"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::NoProvider), "{tick}");
    assert_eq!(life.paid().await, PRICE);
}

#[tokio::test]
async fn a_provider_that_dies_between_ticks_costs_nothing() {
    let life = Life::new().await;
    let provider = life.market.sell(model, PRICE).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::Idle), "{tick}");

    // No leave is taken: its listing stays.
    drop(provider);
    hears(&mut agent, &["Alan"]);
    agent.patience = Duration::from_secs(1);
    let tick = agent.tick().await.unwrap();
    let Ended::Failed(error) = &tick.ended else {
        panic!("{tick}")
    };
    assert_eq!(error.code(), Code::Timeout);
    let money = (error.paid_msat(), error.reserved_msat());
    assert_eq!(money, (Msat::ZERO, Msat::ZERO));
    assert_eq!(tick.budget.usage.tick_spent, Msat::ZERO);

    agent.patience = Duration::from_secs(60);
    let cheaper = Msat::new(9_000);
    let _provider = life.market.sell(model, cheaper).await.unwrap();
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::Idle), "{tick}");
    assert_eq!(life.paid().await, PRICE.saturating_add(cheaper));
}

#[tokio::test]
async fn a_tick_that_was_cut_off_goes_on_with_what_is_left_of_it() {
    let life = Life::new().await;
    let _provider = life.market.sell(model, PRICE).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada"]);
    let client = agent.client.tick("tick-1");
    // Bought, and cut off before it was written down.
    let mut thoughts = Vec::new();
    agent.think(&client, &mut thoughts).await.unwrap();
    drop((agent, client));

    let mut agent = life.wake(RUNWAY).await;
    hears(&mut agent, &["Ada", "Alan", "Grace"]);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::TickIsSpent), "{tick}");
    // The first thought was not bought again.
    let heard: Vec<&str> = tick.thoughts.iter().map(|it| it.about.as_str()).collect();
    assert_eq!(heard, ["Ada says hello", "Alan says hello"]);
    assert_eq!(tick.number, 1);
    assert_eq!(tick.budget.usage.tick_spent, RUNWAY.per_tick_limit);
    assert_eq!(life.paid().await, RUNWAY.per_tick_limit);
}

#[tokio::test]
async fn what_can_only_fail_is_given_up_and_the_rest_goes_on() {
    let life = Life::new().await;
    let _provider = life.market.sell(model, PRICE).await.unwrap();
    let mut agent = life.wake(RUNWAY).await;
    // More than any message holds.
    agent.hear("long ".repeat(20_000));
    hears(&mut agent, &["Ada"]);
    let tick = agent.tick().await.unwrap();
    let Ended::Failed(error) = &tick.ended else {
        panic!("{tick}")
    };
    assert_eq!(error.code(), Code::Usage);
    let tick = agent.tick().await.unwrap();
    assert!(matches!(tick.ended, Ended::Idle), "{tick}");
    assert_eq!(tick.thoughts.len(), 1);
    let ended = &life.diary()[0]["ended"];
    assert!(ended.as_str().unwrap().starts_with("usage: "), "{ended}");
    assert_eq!(life.paid().await, PRICE);
}

#[test]
fn an_answer_that_asks_for_nothing_known_does_nothing() {
    assert_eq!(parse("NOTHING"), Action::Nothing);
    assert_eq!(parse("PAY everything"), Action::Nothing);
    assert_eq!(parse("REPLY a\u{1b}[2Jb\n"), Action::Reply("a[2Jb".into()));
}

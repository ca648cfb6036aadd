//! An agent that thinks on a budget. Its loop, tick by tick: observe, discover, choose, buy, record, act.
//! It stops when the day's budget is spent.
//!
//! ```text
//! cargo run --example tick_loop
//! ```
#![allow(clippy::print_stdout)]

mod market;

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use agent_compute::client::{Code, ComputeClient, Error, ProviderInfo, PurchaseRequest, Receipt};
use agent_compute::config::Runway;
use agent_compute::identity::Identity;
use agent_compute::ledger::BudgetReport;
use agent_compute::units::Msat;
use market::{Market, Result};

/// What the owner allows. Elsewhere this is `[runway]` of the home's config.toml, which a program can
/// lower and never raise.
const RUNWAY: Runway = Runway {
    daily_limit: Msat::new(50_000),
    per_tick_limit: Msat::new(20_000),
    per_job_limit: Msat::new(20_000),
    reserve: Msat::ZERO,
};

/// The pause between two ticks. Elsewhere: minutes, or until something happens.
const HEARTBEAT: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<()> {
    let market = Market::open().await?;
    let provider = market.sell(model, Msat::new(10_000)).await?;

    let identity = Identity::from_keys(nostr::Keys::generate());
    let wallet = market.wallet(&identity)?;
    let client = market
        .buyer(identity, "agent")
        .wallet(std::sync::Arc::new(wallet))
        .limits(RUNWAY)
        .build()
        .await?;

    let mut agent = Agent::wake(client, market.path("diary.ndjson"))?;
    for visitor in ["Ada", "Alan", "Grace", "Edsger", "Barbara", "Ken", "Donald"] {
        agent.hear(format!("{visitor} says hello"));
    }
    loop {
        let tick = agent.tick().await?;
        println!("{tick}");
        if tick.ended.is_for_today() {
            break;
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
    agent.client.close().await;
    provider.stop().await?;
    Ok(())
}

/// What the seller runs. Elsewhere: a language model.
fn model(prompt: &str) -> String {
    let heard = prompt.lines().last().unwrap_or_default();
    let name = heard.split(' ').next().unwrap_or_default();
    format!("REPLY Hello {name}!")
}

struct Agent {
    client: ComputeClient,
    /// Where each finished tick is written down, a line each.
    diary: PathBuf,
    /// The number of the tick to come.
    next: u64,
    heard: VecDeque<String>,
    /// How long a thought may take.
    patience: Duration,
}

/// What a tick came to.
struct Tick {
    number: u64,
    thoughts: Vec<Thought>,
    ended: Ended,
    budget: BudgetReport,
}

/// Something that was thought, and what it cost.
#[derive(serde::Serialize)]
struct Thought {
    about: String,
    action: Action,
    paid_msat: Msat,
}

/// What a thought leads to.
#[derive(Debug, PartialEq, serde::Serialize)]
enum Action {
    Reply(String),
    Nothing,
}

/// Why a tick was over.
#[derive(Debug)]
enum Ended {
    /// All that was heard has been thought about.
    Idle,
    /// The rest waits for the next tick.
    TickIsSpent,
    /// The rest waits for tomorrow.
    DayIsSpent,
    /// Nobody sells.
    NoProvider,
    /// The cheapest asks this much, and that is over a limit.
    TooDear(Msat),
    /// A purchase failed; what it cost is in the error, and in the ledger.
    Failed(Error),
}

impl Agent {
    fn wake(client: ComputeClient, diary: PathBuf) -> Result<Self> {
        // A tick that a crash cut off has no line in the diary. It is taken up under the same number, and
        // what it had spent still counts.
        let ticks = match fs::read_to_string(&diary) {
            Ok(lines) => lines.lines().count() as u64,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            client,
            diary,
            next: ticks + 1,
            heard: VecDeque::new(),
            patience: Duration::from_secs(60),
        })
    }

    fn hear(&mut self, what: String) {
        self.heard.push_back(what);
    }

    async fn tick(&mut self) -> Result<Tick> {
        // Whatever is bought through this client counts against this tick.
        let client = self.client.tick(format!("tick-{}", self.next));
        let mut thoughts = Vec::new();
        let ended = self.think(&client, &mut thoughts).await?;
        let tick = Tick {
            number: self.next,
            thoughts,
            ended,
            budget: client.budget().await?,
        };
        self.record(&tick)?;
        Ok(tick)
    }

    async fn think(&mut self, client: &ComputeClient, done: &mut Vec<Thought>) -> Result<Ended> {
        if self.heard.is_empty() {
            return Ok(Ended::Idle);
        }
        let providers = discover(client).await?;
        while let Some(about) = self.observe() {
            let budget = client.budget().await?;
            let provider = match choose(&providers, &budget) {
                Ok(provider) => provider,
                Err(ended) => return Ok(ended),
            };
            let receipt = match self.buy(client, provider, &about).await {
                Ok(receipt) => receipt,
                // Prices move, and routing costs something too: the ledger has the last word.
                Err(error) if error.code() == Code::Budget => {
                    return Ok(Ended::spent(&client.budget().await?));
                }
                Err(error) => {
                    // What can only fail again is not asked again, nor is what may be paid for already:
                    // `recover` settles that, and fetches what comes late.
                    use Code::{PaymentUnknown, Undelivered, Usage};
                    if matches!(error.code(), Usage | PaymentUnknown | Undelivered) {
                        self.heard.pop_front();
                    }
                    return Ok(Ended::Failed(error));
                }
            };
            let action = parse(&receipt.text);
            self.act(&action);
            done.push(Thought {
                about,
                action,
                paid_msat: receipt.paid_msat,
            });
            self.heard.pop_front();
        }
        Ok(Ended::Idle)
    }

    /// What there is to think about. It is heard again until it has been.
    fn observe(&self) -> Option<String> {
        self.heard.front().cloned()
    }

    /// Buys one thought. The ledger sets the money aside first, and refuses what is over any limit.
    async fn buy(
        &self,
        client: &ComputeClient,
        provider: &ProviderInfo,
        about: &str,
    ) -> Result<Receipt, Error> {
        let prompt = format!("Answer with REPLY and a line, or with NOTHING.\n{about}");
        let request = PurchaseRequest {
            max_tokens: 50,
            offer: Some(provider.offer()?),
            // If a crash comes between paying and writing it down, the thought is not bought again.
            // Elsewhere: the id of the message.
            idempotency_key: Some(format!("tick-{} {about}", self.next)),
            timeout: self.patience,
            ..PurchaseRequest::new(prompt)
        };
        client.purchase(request).receipt().await
    }

    /// Elsewhere: publish a note, send a message, update a goal.
    fn act(&self, action: &Action) {
        match action {
            Action::Reply(line) => println!("  ► {line}"),
            Action::Nothing => {}
        }
    }

    /// Writes the tick down. From here on, the next one has a number of its own.
    fn record(&mut self, tick: &Tick) -> Result<()> {
        let line = serde_json::json!({
            "tick": tick.number,
            "thoughts": tick.thoughts,
            "ended": tick.ended.to_string(),
            "spent_msat": tick.budget.usage.tick_spent,
        });
        let mut diary = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.diary)?;
        writeln!(diary, "{line}")?;
        diary.sync_all()?;
        self.next += 1;
        Ok(())
    }
}

/// Who sells now, for a price that is known.
async fn discover(client: &ComputeClient) -> Result<Vec<ProviderInfo>, Error> {
    client.discover_providers(1).await
}

/// The cheapest provider, if this tick and this day can still afford it; else why not.
fn choose<'a>(
    providers: &'a [ProviderInfo],
    budget: &BudgetReport,
) -> Result<&'a ProviderInfo, Ended> {
    let Some(cheapest) = ComputeClient::select_cheapest_provider(providers, u64::MAX) else {
        return Err(Ended::NoProvider);
    };
    let price = Msat::new(cheapest.price_msats);
    let limits = budget.limits;
    if price > limits.per_job.min(limits.per_tick).min(limits.daily) {
        Err(Ended::TooDear(price))
    } else if price > budget.left_today() {
        Err(Ended::DayIsSpent)
    } else if price > budget.left_in_tick() {
        Err(Ended::TickIsSpent)
    } else {
        Ok(cheapest)
    }
}

/// What a model's answer asks for. It is text from a stranger: what is not understood does nothing.
fn parse(answer: &str) -> Action {
    match answer.trim().strip_prefix("REPLY ") {
        Some(line) => Action::Reply(line.chars().filter(|c| !c.is_control()).collect()),
        None => Action::Nothing,
    }
}

impl Ended {
    fn spent(budget: &BudgetReport) -> Self {
        if budget.left_today() <= budget.left_in_tick() {
            Self::DayIsSpent
        } else {
            Self::TickIsSpent
        }
    }

    /// Whether more ticks today would come to nothing.
    fn is_for_today(&self) -> bool {
        matches!(self, Self::Idle | Self::DayIsSpent)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => write!(f, "nothing left to think about"),
            Self::TickIsSpent => write!(f, "this tick's budget is spent; the rest waits"),
            Self::DayIsSpent => write!(f, "the day's budget is spent; the agent rests"),
            Self::NoProvider => write!(f, "nobody sells"),
            Self::TooDear(price) => write!(f, "the cheapest asks {price}, which is over a limit"),
            Self::Failed(error) => write!(
                f,
                "{}: {error} (paid {}, still reserved {})",
                error.code(),
                error.paid_msat(),
                error.reserved_msat()
            ),
        }
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BudgetReport { limits, usage } = &self.budget;
        let thoughts = self.thoughts.len();
        writeln!(
            f,
            "tick {}: {thoughts} thoughts; {}",
            self.number, self.ended
        )?;
        write!(
            f,
            "  spent {} of {} in this tick, {} of {} today",
            usage.tick_spent, limits.per_tick, usage.spent_today, limits.daily
        )
    }
}

#[cfg(test)]
#[path = "../tests/it/examples/tick_loop.rs"]
mod tests;

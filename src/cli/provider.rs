//! `agent-provider`: its command line, and what each command does.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use nostr::EventId;

use super::args::{self, CompletionsArgs, DoctorArgs, GlobalArgs, IdentityCommand, WalletCommand};
use super::commands;
use super::output::Output;
use super::settings::{SaleSettings, Settings};
use super::{help, parse, program};
use crate::config::{BackendKind, MAX_ANNOUNCE_EVERY_SECS, MAX_MAX_JOBS, Role};
use crate::error::Result;
use crate::provider::job::JobState;
use crate::secret::Environment;
use crate::units::Msat;

/// Sell compute to agents on Nostr, paid over Lightning
///
/// Announces itself, makes invoices, works when its own wallet says that it was paid, and delivers.
#[derive(Parser, Debug)]
#[command(
    name = "agent-provider",
    version,
    override_usage = "agent-provider (--create-channel | --channel <ID>) [OPTIONS]\n       agent-provider [GLOBAL OPTIONS] <COMMAND>",
    arg_required_else_help = true,
    after_help = help::MORE,
    after_long_help = help::PROVIDER
)]
pub struct Provider {
    /// Flags that go anywhere.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// Flags of selling.
    #[command(flatten)]
    pub sell: SellArgs,
    /// What to do instead of selling.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The flags of selling.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Selling")]
pub struct SellArgs {
    /// Work in a NIP-28 channel of one's own; a restarted provider rejoins the one it made
    #[arg(long, conflicts_with = "channel")]
    pub create_channel: bool,
    /// Work in this NIP-28 channel: hex, note or nevent
    #[arg(long, value_name = "ID", value_parser = args::channel)]
    pub channel: Option<EventId>,
    /// Make a new channel even if there is one from before
    #[arg(long, conflicts_with = "channel")]
    pub new_channel: bool,
    /// Serve this model; repeatable (default: all that the backend has)
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    pub model: Vec<String>,
    /// What runs the jobs: the model server found on port 11434, 8080 or 11435 of this machine; any
    /// OpenAI-compatible one (Ollama, llama.cpp, vLLM, OpenAI); or, for tests, a repeater (default: auto)
    #[arg(long, value_name = "KIND")]
    pub backend: Option<BackendKind>,
    /// Where the backend's server is, with or without /v1; a key for it goes into [provider] backend_key
    #[arg(long, value_name = "URL")]
    pub backend_url: Option<String>,
    /// What a request costs, in millisats (default: 10000)
    #[arg(long, value_name = "MSATS", value_parser = args::msats)]
    pub price: Option<Msat>,
    /// What 1000 requested tokens cost on top, rounded up, in millisats (default: 0)
    #[arg(long, value_name = "MSATS", value_parser = args::msats_or_none)]
    pub price_per_1k_tokens: Option<Msat>,
    /// Send results as they are made, to customers that ask for it
    #[arg(long)]
    pub stream: bool,
    /// Jobs at once; more wait in a bounded queue (default: 4)
    #[arg(long, value_name = "JOBS",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MAX_JOBS)))]
    pub max_jobs: Option<u32>,
    /// How often to announce, at most 300 seconds (default: 120)
    #[arg(long, value_name = "SECS",
          value_parser = clap::value_parser!(u64).range(1..=MAX_ANNOUNCE_EVERY_SECS))]
    pub announce_every: Option<u64>,
    /// No payment at all, as in the original tool's test mode: regtest only
    #[arg(long)]
    pub no_wallet: bool,
}

/// What `agent-provider` does besides selling.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run a relay, for tests and LANs; it keeps nothing on disk
    Relay {
        /// The address to listen on; port 0 takes a free one
        #[arg(long, value_name = "ADDR")]
        listen: SocketAddr,
    },
    /// List jobs, newest first
    Jobs(JobsArgs),
    /// Add up what was earned: today and this week (UTC), and ever; in all and by model
    ///
    /// With --json one object for each kind of money (network, play money or not), real money first. Each has
    /// `today`, `week` (since Monday) and `all`, and `models` with the same for each. In them: `jobs` and
    /// `earned_msat` of what was paid for good, with `escrow_msat` as the part that was released from escrow
    /// and `owed_msat` as the part of `failed_jobs`; on top `held_msat`, what is locked in escrow, and
    /// `unreleased_jobs` with `unreleased_msat`, what was delivered and never released. Jobs count by when
    /// their money came; those without a wallet do not.
    Earnings,
    /// Look for what would keep this provider from selling, and say what mends it
    #[command(after_help = help::PROVIDER_DOCTOR)]
    Doctor(SellerDoctorArgs),
    /// Look into the wallet
    #[command(subcommand, arg_required_else_help = true)]
    Wallet(WalletCommand),
    /// Make, import, show, encrypt or back up this program's key
    #[command(subcommand, arg_required_else_help = true)]
    Identity(IdentityCommand),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

/// `doctor`
#[derive(Args, Clone, Debug)]
pub struct SellerDoctorArgs {
    /// What both programs' doctors take.
    #[command(flatten)]
    pub doctor: DoctorArgs,
    /// Look at this backend (default: [provider] backend)
    #[arg(long, value_name = "KIND")]
    pub backend: Option<BackendKind>,
    /// Look at the model server at this address
    #[arg(long, value_name = "URL")]
    pub backend_url: Option<String>,
}

/// `jobs`
#[derive(Args, Clone, Debug)]
pub struct JobsArgs {
    /// Only jobs in this state; repeatable, or comma-separated
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<JobStateArg>,
    /// Only jobs of this model
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    pub model: Option<String>,
    /// The most jobs to list
    #[arg(long, value_name = "JOBS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// A job's state, by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobStateArg(pub JobState);

impl ValueEnum for JobStateArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [JobStateArg; JobState::ALL.len()] = {
            let mut all = [JobStateArg(JobState::Quoted); JobState::ALL.len()];
            let mut i = 0;
            while i < all.len() {
                all[i] = JobStateArg(JobState::ALL[i]);
                i += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.as_str()))
    }
}

/// The command line as clap knows it.
#[must_use]
pub fn command() -> clap::Command {
    // The limits that it obeys are the buyer's.
    let no_pay = |pay: clap::Command| pay.hide(true);
    Provider::command().mut_subcommand("wallet", |wallet| wallet.mut_subcommand("pay", no_pay))
}

/// Runs `agent-provider` with this process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let flags = SellArgs::augment_args(clap::Command::new("selling"));
    let cli = match parse::parse(command(), &flags, std::env::args_os())
        .and_then(|matches| Provider::from_arg_matches(&matches).map_err(parse::stop_in_conversion))
    {
        Ok(cli) => cli,
        Err(stop) => return stop.exit(),
    };
    let out = Output::of_process(cli.global.json).of_program("agent-provider");
    program::run(&out, program::Threads::Few, || run(cli, &out))
}

async fn run(cli: Provider, out: &Output) -> Result<()> {
    let environment = Environment::of_process();
    let Provider {
        global,
        sell,
        command,
    } = cli;
    let settings =
        || Settings::resolve(Role::Provider, &global, sell.no_wallet, environment.clone());
    match command {
        None => {
            let settings = settings()?;
            let sale = SaleSettings::resolve(&sell, &settings)?;
            commands::serve::run(settings, sale, out).await
        }
        Some(Command::Relay { listen }) => commands::relay::run(listen, out).await,
        Some(Command::Jobs(args)) => commands::jobs::run(settings()?, args, out).await,
        Some(Command::Earnings) => commands::earnings::run(settings()?, out).await,
        Some(Command::Doctor(args)) => {
            let asked = commands::doctor::Asked::Seller(&args);
            commands::doctor::run(asked, &global, environment, out).await
        }
        Some(Command::Wallet(args)) => commands::wallet::run(settings()?, args, out).await,
        Some(Command::Identity(args)) => commands::identity::run(settings()?, args, out).await,
        Some(Command::Completions(args)) => commands::completions::run(self::command(), &args, out),
        Some(Command::Man) => commands::man::run(self::command(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}

//! `agent-customer`: its command line, and what each command does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use nostr::{EventId, PublicKey};

use super::args::{self, CompletionsArgs, DoctorArgs, GlobalArgs, IdentityCommand, WalletCommand};
use super::commands;
use super::output::Output;
use super::settings::{PurchaseSettings, Settings};
use super::{help, parse, program};
use crate::config::{MAX_TIMEOUT_SECS, Role, Select};
use crate::error::{Code, Error, Result};
use crate::ids::PurchaseId;
use crate::secret::Environment;
use crate::units::Msat;

/// Buy compute from providers on Nostr, paid over Lightning, within a budget
///
/// Finds providers by their listings, chooses one, asks it for one job, checks and pays its invoice,
/// and prints the result. Never spends more than the limits in its configuration.
#[derive(Parser, Debug)]
#[command(
    name = "agent-customer",
    version,
    override_usage = "agent-customer [OPTIONS] --prompt <TEXT>\n       agent-customer [GLOBAL OPTIONS] <COMMAND>",
    arg_required_else_help = true,
    after_help = help::MORE,
    after_long_help = help::CUSTOMER
)]
pub struct Customer {
    /// Flags that go anywhere.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// Flags of a purchase.
    #[command(flatten)]
    pub buy: BuyArgs,
    /// What to do instead of buying.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Whom to ask, and for how much. Shared by a purchase and by `providers`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Choosing a provider")]
pub struct FindArgs {
    /// Find providers by their listings (NIP-89): on unless --channel is given; with it, both sources
    #[arg(long)]
    pub discover: bool,
    /// Ask in this NIP-28 channel only: hex, note or nevent
    #[arg(long, value_name = "ID", value_parser = args::channel)]
    pub channel: Option<EventId>,
    /// cheapest, first, best, or a public key: npub, nprofile, or >= 8 hex digits (default: cheapest)
    ///
    /// best weighs what your own purchases say of a provider against its price. It takes the lowest of
    /// (price + 10 sats + 1 sat per second until the first word) / score², the score being how surely the
    /// provider delivers, 50 % for one never bought from. So a good record is worth up to four times a
    /// stranger's price, and whoever took money for nothing comes last. `providers` shows the records.
    #[arg(long, value_name = "HOW", value_parser = select)]
    pub select: Option<Select>,
    /// Only providers that offer this model; it is asked for
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    pub model: Option<String>,
    /// The most tokens the answer may have
    #[arg(long, value_name = "TOKENS", default_value_t = crate::config::DEFAULT_MAX_TOKENS,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Refuse offers, and invoices, above this many millisats (default: the per-job limit)
    #[arg(long, value_name = "MSATS", value_parser = args::msats_or_none)]
    pub max_price: Option<Msat>,
    /// The longest that discovery may take; it ends as soon as the answer can't improve
    #[arg(long, value_name = "SECS", default_value_t = crate::config::DEFAULT_DISCOVERY_TIME.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub discovery_time: u64,
}

/// The flags of a purchase.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Buying")]
pub struct BuyArgs {
    /// What to ask: the text itself, `-` for stdin, or @FILE
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Flags that choose the provider.
    #[command(flatten)]
    pub find: FindArgs,
    /// The routing fee allowed on top, in millisats (default: 1 % of the price, at least 10000)
    #[arg(long, value_name = "MSATS", value_parser = args::msats_or_none, help_heading = "Paying")]
    pub max_fee: Option<Msat>,
    /// Lock the money first, and let it go after delivery: only providers that list hold-invoice
    #[arg(long, help_heading = "Paying")]
    pub htlc: bool,
    /// No payment at all, as in the original tool's test mode: regtest only
    #[arg(long, help_heading = "Paying")]
    pub no_wallet: bool,
    /// Count this purchase against tick ID (at most 64 bytes; summed over all time)
    #[arg(long, value_name = "ID", value_parser = args::tick, help_heading = "Paying")]
    pub tick: Option<String>,
    /// Ask for a NIP-90 job instead of going through a channel (not in this version: exit 2)
    #[arg(long, help_heading = "Buying")]
    pub direct: bool,
    /// Do not encrypt, even where the provider can: prompt and result are public then
    #[arg(long, help_heading = "Buying")]
    pub plaintext: bool,
    /// How many others to ask, the next best first, when a provider has failed and nothing was paid
    ///
    /// Only when the attempt is dead beyond doubt: no quote, a refusal, a bad invoice, a payment that failed
    /// for certain, or locked money that is back. At most one is paid. Whatever may have been paid stops, and
    /// so does what another provider can't mend: a limit, the wallet, the relays. --max-price, --tick,
    /// --timeout and --idempotency-key are for all attempts together.
    #[arg(long, value_name = "N", default_value_t = crate::config::DEFAULT_RETRIES, help_heading = "Buying")]
    pub retries: u32,
    /// The longest that the whole purchase may take
    #[arg(long, value_name = "SECS", default_value_t = crate::config::DEFAULT_TIMEOUT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_SECS), help_heading = "Buying")]
    pub timeout: u64,
    /// Name this purchase, so that asking again prints the same result instead of buying again
    #[arg(long, value_name = "KEY", value_parser = args::idempotency_key, help_heading = "Buying")]
    pub idempotency_key: Option<String>,
    /// Discover, choose and print what would be bought; asks nobody, pays nothing
    #[arg(long, help_heading = "Buying")]
    pub dry_run: bool,
}

/// What `agent-customer` does besides buying.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run a whole market on this machine: relay, provider, play money and a purchase
    Demo(DemoArgs),
    /// List the providers that can be found, and why each would or would not be chosen
    Providers(FindArgs),
    /// List past purchases
    History(HistoryArgs),
    /// Show one purchase, its money and its result
    Show {
        /// Its id, or enough of its first digits
        #[arg(value_name = "PURCHASE")]
        purchase: String,
    },
    /// Show, export or check the signed receipts of purchases
    #[command(subcommand, arg_required_else_help = true)]
    Receipt(ReceiptCommand),
    /// Show the limits, and what is spent and set aside
    Budget {
        /// Of this tick too
        #[arg(long, value_name = "ID", value_parser = args::tick)]
        tick: Option<String>,
    },
    /// Settle what a crash left open, and fetch results that came late
    Recover(RecoverArgs),
    /// Look into the wallet
    #[command(subcommand, arg_required_else_help = true)]
    Wallet(WalletCommand),
    /// Make, import, show, encrypt or back up this program's key
    #[command(subcommand, arg_required_else_help = true)]
    Identity(IdentityCommand),
    /// Look for what would keep a purchase from working, and say what mends it
    #[command(after_help = help::CUSTOMER_DOCTOR)]
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

/// `history`
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// All of it for your books, oldest first: a line for each purchase
    ///
    /// csv has a header, dates in UTC, and amounts in millisats; what a stranger wrote can't be a formula in a
    /// spreadsheet. json is one object a line. Without this the latest thousand are listed, newest first.
    #[arg(long, value_name = "FORMAT")]
    pub export: Option<Export>,
}

/// A form of the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Export {
    /// Comma-separated values (RFC 4180).
    Csv,
    /// One JSON object a line.
    Json,
}

/// `receipt …`
#[derive(Subcommand, Clone, Debug)]
pub enum ReceiptCommand {
    /// Show the receipt of one purchase
    ///
    /// With --json: the signed event, and what it says. A purchase that cost nothing and brought nothing has no
    /// receipt, nor has one from before there were any.
    Show {
        /// Its id, or enough of its first digits
        #[arg(value_name = "PURCHASE")]
        purchase: String,
    },
    /// Write all receipts out, in their order, one signed event a line
    Export {
        /// Into this file, which must not be there yet, instead of stdout
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check receipts, offline: name the first thing that is wrong, with exit 14, or say what they prove
    ///
    /// Each is checked by itself: unchanged since it was signed, its invoice, preimage, sums and times in order.
    /// Several in one file must be one unbroken row. Needs no home, key, wallet or relay.
    Verify {
        /// What `export` or `show --json` wrote; `-` for stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// They must be signed by this key: npub or hex
        #[arg(long, value_name = "KEY", value_parser = public_key)]
        customer: Option<PublicKey>,
        /// The one receipt must be of the result in this file
        #[arg(long, value_name = "FILE")]
        result: Option<PathBuf>,
    },
}

/// `demo`
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// What to ask
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        default_value = "What is the capital of France?"
    )]
    pub prompt: String,
    /// Let the provider stream its answer
    #[arg(long)]
    pub stream: bool,
    /// Lock the money first, and let it go after delivery
    #[arg(long)]
    pub htlc: bool,
}

/// `recover`
#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// Your word for what became of a payment that no look-up can decide: `PURCHASE paid` or `PURCHASE failed`
    ///
    /// It goes into the ledger as your decision. `failed` frees the money: be sure that it did not leave.
    #[arg(long, num_args = 2, value_names = ["PURCHASE", "paid|failed"])]
    pub resolve: Option<Vec<String>>,
}

/// What the owner says became of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It was paid.
    Paid,
    /// It was not, and will not be.
    Failed,
}

impl RecoverArgs {
    /// The owner's word, if given.
    ///
    /// # Errors
    /// [`Code::Usage`] if it is not a purchase and `paid` or `failed`.
    pub fn resolution(&self) -> Result<Option<(PurchaseId, Resolution)>> {
        let usage = |message: String| Error::new(Code::Usage, format!("--resolve: {message}"));
        match self.resolve.as_deref() {
            None => Ok(None),
            Some([purchase, word]) => {
                let purchase = purchase
                    .parse()
                    .map_err(|error| usage(format!("{error}")))?;
                match word.as_str() {
                    "paid" => Ok(Some((purchase, Resolution::Paid))),
                    "failed" => Ok(Some((purchase, Resolution::Failed))),
                    _ => Err(usage("expected `paid` or `failed`".to_owned())),
                }
            }
            Some(_) => Err(usage("expected PURCHASE and `paid` or `failed`".to_owned())),
        }
    }
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).map_err(|_| "expected an npub or 64 hex digits".to_owned())
}

fn select(text: &str) -> Result<Select, String> {
    text.parse()
        .map_err(|error: crate::config::NotASelection| error.to_string())
}

/// The command line as clap knows it.
#[must_use]
pub fn command() -> clap::Command {
    Customer::command()
}

/// Runs `agent-customer` with this process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let flags = BuyArgs::augment_args(clap::Command::new("purchase"));
    let cli = match parse::parse(command(), &flags, std::env::args_os())
        .and_then(|matches| Customer::from_arg_matches(&matches).map_err(parse::stop_in_conversion))
    {
        Ok(cli) => cli,
        Err(stop) => return stop.exit(),
    };
    let out = Output::of_process(cli.global.json);
    program::run(&out, program::Threads::One, || run(cli, &out))
}

async fn run(cli: Customer, out: &Output) -> Result<()> {
    let environment = Environment::of_process();
    let Customer {
        global,
        buy,
        command,
    } = cli;
    let settings =
        || Settings::resolve(Role::Customer, &global, buy.no_wallet, environment.clone());
    match command {
        None => {
            let settings = settings()?;
            let purchase = PurchaseSettings::resolve(&buy, &settings)?;
            commands::buy::run(settings, purchase, out).await
        }
        Some(Command::Demo(args)) => commands::demo::run(global.home.clone(), args, out).await,
        Some(Command::Providers(args)) => commands::providers::run(settings()?, args, out).await,
        Some(Command::History(args)) => commands::history::run(settings()?, args.export, out).await,
        Some(Command::Receipt(args)) => match args {
            ReceiptCommand::Show { purchase } => {
                commands::receipt::show(settings()?, &purchase, out).await
            }
            ReceiptCommand::Export { output } => {
                commands::receipt::export(settings()?, output.as_deref(), out).await
            }
            ReceiptCommand::Verify {
                file,
                customer,
                result,
            } => commands::receipt::verify(&file, customer, result.as_deref(), out),
        },
        Some(Command::Show { purchase }) => commands::show::run(settings()?, &purchase, out).await,
        Some(Command::Budget { tick }) => commands::budget::run(settings()?, tick, out).await,
        Some(Command::Recover(args)) => {
            let resolution = args.resolution()?;
            commands::recover::run(settings()?, resolution, out).await
        }
        Some(Command::Wallet(args)) => commands::wallet::run(settings()?, args, out).await,
        Some(Command::Identity(args)) => commands::identity::run(settings()?, args, out).await,
        Some(Command::Doctor(args)) => {
            let asked = commands::doctor::Asked::Buyer(&args);
            commands::doctor::run(asked, &global, environment, out).await
        }
        Some(Command::Completions(args)) => commands::completions::run(self::command(), &args, out),
        Some(Command::Man) => commands::man::run(self::command(), out),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn cli(args: &[&str]) -> Customer {
        let flags = BuyArgs::augment_args(clap::Command::new("purchase"));
        let all = std::iter::once("agent-customer").chain(args.iter().copied());
        let matches = parse::parse(command(), &flags, all.map(Into::into)).unwrap();
        Customer::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_prompt_may_begin_with_a_hyphen() {
        for prompt in ["-", "-5 + 3?", "--json", "--help"] {
            let cli = cli(&["--prompt", prompt]);
            assert_eq!(cli.buy.prompt.as_deref(), Some(prompt));
            assert!(!cli.global.json);
        }
    }

    #[test]
    fn global_flags_go_before_and_after_a_command() {
        for args in [
            ["--json", "--relay", "ws://a,ws://b", "history"],
            ["history", "--json", "--relay", "ws://a,ws://b"],
            ["--json", "history", "--relay", "ws://a,ws://b"],
        ] {
            let cli = cli(&args);
            assert!(cli.global.json);
            assert_eq!(cli.global.relay.len(), 2);
        }
        let deep = cli(&["wallet", "balance", "--wallet", "sim", "--json"]);
        assert!(deep.global.json && deep.global.wallet.is_some());
    }

    #[test]
    fn the_owners_word_is_read_exactly() {
        let id = "ab".repeat(16);
        let said = |words: &[&str]| {
            let args: Vec<&str> = ["recover", "--resolve"]
                .iter()
                .chain(words)
                .copied()
                .collect();
            match cli(&args).command {
                Some(Command::Recover(args)) => args.resolution(),
                _ => panic!("not recover"),
            }
        };
        assert_eq!(said(&[&id, "paid"]).unwrap().unwrap().1, Resolution::Paid);
        assert_eq!(
            said(&[&id, "failed"]).unwrap().unwrap().1,
            Resolution::Failed
        );
        assert!(said(&[&id, "maybe"]).is_err());
        assert!(said(&["abc", "paid"]).is_err());
    }
}

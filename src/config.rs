//! Settings as the configuration file has them, and every constant of the product with its unit and
//! reason.
//!
//! * [`Home`]: the folders that everything is kept in
//! * [`Config`]: the file, checked; a program's flags and environment come on top of it (`cli::settings`)
//! * [`Select`]: how a provider is chosen
//!
//! The owner's limits in `[runway]` are the one thing that nothing on top may raise:
//! see [`Runway::lowered_by`].

mod file;
mod home;
mod patience;
mod schema;
mod select;

use std::path::PathBuf;
use std::time::Duration;

use nostr::{PublicKey, RelayUrl};

pub use self::file::ConfigError;
pub use self::home::{Home, Role};
pub use self::patience::*;
pub use self::schema::KEYS;
pub use self::select::{KeyPattern, MIN_PREFIX_DIGITS, NotASelection, Select};
use crate::secret::SecretRef;
use crate::units::{Msat, Network};

/// Relays that a program talks to unless told otherwise: large, free to write to, and run by different
/// people, so that one may be down.
pub const DEFAULT_RELAYS: [&str; 3] = [
    "wss://relay.damus.io",
    "wss://nos.lol",
    "wss://relay.nostr.band",
];
/// The most relays one session talks to. More cost connections and find nothing new.
pub const MAX_RELAYS: usize = 16;

/// Tokens a job asks for. What deployed customers ask for.
pub const DEFAULT_MAX_TOKENS: u32 = 500;
/// The longest that discovery may take; it ends as soon as the answer can't improve.
pub const DEFAULT_DISCOVERY_TIME: Duration = Duration::from_secs(3);
/// The longest that a whole purchase may take, the model's work included.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// How many other providers are asked when one has failed and nothing was paid.
pub const DEFAULT_RETRIES: u32 = 1;
/// The longest a caller may ask a purchase to take, in seconds: a day.
pub const MAX_TIMEOUT_SECS: u64 = 86_400;

/// The routing fee allowed on top of a price is the price divided by this (1 %) ...
pub const FEE_CAP_DIVISOR: u64 = 100;
/// ... and never less than this: routes have base fees, and 1 % of a small price buys none.
pub const MIN_FEE_CAP: Msat = Msat::new(10_000);

/// Bytes in the name of a tick. It is stored with every purchase.
pub const MAX_TICK_BYTES: usize = 64;
/// Bytes in an idempotency key. It is stored with every purchase.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;
/// Bytes in the name of a model. It travels in every request.
pub const MAX_MODEL_BYTES: usize = 256;

/// Bytes in a configuration file. Ours have a few thousand.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// The longest that a hold may lock our money, in seconds: a day. Longer is how escrow gets lost.
pub const DEFAULT_MAX_HOLD_SECS: u64 = 86_400;

/// What a provider asks per request: the price of deployed providers.
pub const DEFAULT_PRICE: Msat = Msat::new(10_000);
/// Jobs a provider works on at once.
pub const DEFAULT_MAX_JOBS: u32 = 4;
/// The most jobs a provider may be told to work on at once.
pub const MAX_MAX_JOBS: u32 = 1024;
/// How often a provider announces itself, in seconds.
pub const DEFAULT_ANNOUNCE_EVERY_SECS: u64 = 120;
/// Deployed customers look at announcements of the last 300 seconds only.
pub const MAX_ANNOUNCE_EVERY_SECS: u64 = 300;

/// The routing fee allowed on top of `price` unless the owner says otherwise.
#[must_use]
pub const fn default_fee_cap(price: Msat) -> Msat {
    let share = price.get() / FEE_CAP_DIVISOR;
    if share > MIN_FEE_CAP.get() {
        Msat::new(share)
    } else {
        MIN_FEE_CAP
    }
}

/// A configuration file, checked. [`Config::default`] is what an empty one means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[identity]`
    pub identity: IdentityConfig,
    /// `[relays] urls`; empty: [`DEFAULT_RELAYS`].
    pub relays: Vec<RelayUrl>,
    /// `[wallet]`
    pub wallet: WalletConfig,
    /// `[runway]`
    pub runway: Runway,
    /// `[policy]`
    pub policy: Policy,
    /// `[provider]`
    pub provider: ProviderConfig,
    /// The folder of the file: where its relative paths start.
    pub folder: PathBuf,
}

/// Where the identity is, if not in the home. At most one of the three is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityConfig {
    /// An identity file.
    pub file: Option<PathBuf>,
    /// Where a secret key is.
    pub secret_key: Option<SecretRef>,
    /// Where BIP39 words are.
    pub mnemonic: Option<SecretRef>,
}

/// Which wallet pays, or is paid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalletConfig {
    /// The backend. None is chosen unless the owner does.
    pub kind: Option<WalletKind>,
    /// `[wallet.sim]`
    pub sim: SimConfig,
    /// `[wallet.nwc]`
    pub nwc: NwcConfig,
    /// `[wallet.spark]`
    pub spark: SparkConfig,
    /// `[wallet.process]`
    pub process: ProcessConfig,
}

/// A wallet on Spark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparkConfig {
    /// The network. There is no default: real money is asked for by name.
    pub network: Option<Network>,
    /// Where the API key is, if not in the environment.
    pub api_key: Option<SecretRef>,
}

/// A wallet program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The network that it must be on; `None`: mainnet.
    pub network: Option<Network>,
}

/// Nostr Wallet Connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NwcConfig {
    /// Where the connection string is, if neither in the environment nor kept by `wallet setup`.
    pub uri: Option<SecretRef>,
    /// The network that the wallet must be on; `None`: mainnet.
    pub network: Option<Network>,
}

/// A wallet backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalletKind {
    /// Play money in a file of this machine.
    Sim,
    /// Nostr Wallet Connect (NIP-47).
    Nwc,
    /// Spark, through the Breez SDK.
    Spark,
    /// A wallet of one's own, as a process that speaks JSON lines.
    Process,
    /// Cashu ecash, through a mint.
    Cashu,
    /// A Lightning node in this process.
    Ldk,
}

impl WalletKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Sim,
        Self::Nwc,
        Self::Spark,
        Self::Process,
        Self::Cashu,
        Self::Ldk,
    ];

    /// The word in flags and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Nwc => "nwc",
            Self::Spark => "spark",
            Self::Process => "process",
            Self::Cashu => "cashu",
            Self::Ldk => "ldk",
        }
    }

    /// The kind that this word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Play money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// The file all players share; `None`: `sim-bank.sqlite` in the home.
    pub bank: Option<PathBuf>,
    /// What a payment costs on top.
    pub fee: Msat,
    /// The network its invoices claim to be on. It stays play money on any of them.
    pub network: Network,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            bank: None,
            fee: Msat::ZERO,
            network: Network::Regtest,
        }
    }
}

/// The owner's limits on spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runway {
    /// Per UTC day.
    pub daily_limit: Msat,
    /// Per tick, over all time.
    pub per_tick_limit: Msat,
    /// Per purchase, fee included.
    pub per_job_limit: Msat,
    /// What must stay in the wallet.
    pub reserve: Msat,
}

impl Default for Runway {
    /// Small enough to lose, large enough to work: a hundred jobs of ordinary price a day.
    fn default() -> Self {
        Self {
            daily_limit: Msat::from_sats_saturating(10_000),
            per_tick_limit: Msat::from_sats_saturating(1000),
            per_job_limit: Msat::from_sats_saturating(1000),
            reserve: Msat::ZERO,
        }
    }
}

impl Runway {
    /// These limits, or the stricter ones of `other` where they are stricter. What a flag, a variable
    /// or a builder says goes through here, so that it can lower what the owner wrote, never raise it.
    #[must_use]
    pub fn lowered_by(self, other: Self) -> Self {
        Self {
            daily_limit: self.daily_limit.min(other.daily_limit),
            per_tick_limit: self.per_tick_limit.min(other.per_tick_limit),
            per_job_limit: self.per_job_limit.min(other.per_job_limit),
            reserve: self.reserve.max(other.reserve),
        }
    }
}

/// Whom to buy from, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How a provider is chosen.
    pub select: Select,
    /// If not empty: these providers only.
    pub allow: Vec<PublicKey>,
    /// Never these.
    pub deny: Vec<PublicKey>,
    /// Whether messages are sealed.
    pub encrypt: Encrypt,
    /// The longest that a hold may lock our money, in seconds.
    pub max_hold_secs: u64,
    /// The most that a provider without a good record of ours is paid outside of escrow; `None`: no more
    /// than the limits allow anyway.
    pub unproven_limit: Option<Msat>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            select: Select::Cheapest,
            allow: Vec::new(),
            deny: Vec::new(),
            encrypt: Encrypt::Prefer,
            max_hold_secs: DEFAULT_MAX_HOLD_SECS,
            unproven_limit: None,
        }
    }
}

/// Whether messages travel sealed (NIP-44).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encrypt {
    /// Where the provider can.
    Prefer,
    /// Always; a provider that can't is left out.
    Required,
    /// Never.
    Off,
}

/// What runs a provider's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Whatever answers on the usual local ports.
    Auto,
    /// An OpenAI-compatible server.
    Openai,
    /// Repeats the prompt; for tests.
    Echo,
}

impl BackendKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Openai, Self::Echo];

    /// The word in flags and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Openai => "openai",
            Self::Echo => "echo",
        }
    }
}

/// How a provider sells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderConfig {
    /// What it calls itself.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// What runs the jobs.
    pub backend: BackendKind,
    /// Where the backend's server is; `None`: the usual local ports.
    pub backend_url: Option<String>,
    /// Where the key is that the server wants. Sent to `backend_url` and nowhere else.
    pub backend_key: Option<SecretRef>,
    /// The models it serves; empty: all the backend has.
    pub models: Vec<String>,
    /// What a request costs.
    pub price: Msat,
    /// What a thousand requested tokens cost on top, rounded up.
    pub price_per_1k_tokens: Msat,
    /// Send results as they are made, to customers that ask for it.
    pub stream: bool,
    /// Do jobs for money in escrow, where the wallet has hold invoices.
    pub escrow: bool,
    /// Jobs at once.
    pub max_jobs: u32,
    /// Seconds between two announcements.
    pub announce_every_secs: u64,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            name: "agent-provider".to_owned(),
            description: "Sells text generation for Lightning payments".to_owned(),
            backend: BackendKind::Auto,
            backend_url: None,
            backend_key: None,
            models: Vec::new(),
            price: DEFAULT_PRICE,
            price_per_1k_tokens: Msat::ZERO,
            stream: false,
            escrow: true,
            max_jobs: DEFAULT_MAX_JOBS,
            announce_every_secs: DEFAULT_ANNOUNCE_EVERY_SECS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fee_cap_is_one_percent_and_at_least_ten_sats() {
        assert_eq!(default_fee_cap(Msat::new(1)), Msat::new(10_000));
        assert_eq!(default_fee_cap(Msat::new(1_000_000)), Msat::new(10_000));
        assert_eq!(default_fee_cap(Msat::new(1_000_100)), Msat::new(10_001));
    }

    #[test]
    fn limits_are_lowered_and_never_raised() {
        let owner = Runway::default();
        let greedy = Runway {
            daily_limit: Msat::MAX,
            per_tick_limit: Msat::MAX,
            per_job_limit: Msat::new(5),
            reserve: Msat::ZERO,
        };
        let lowered = Runway {
            reserve: Msat::new(7),
            ..owner
        }
        .lowered_by(greedy);
        assert_eq!(
            lowered,
            Runway {
                per_job_limit: Msat::new(5),
                reserve: Msat::new(7),
                ..owner
            }
        );
    }
}

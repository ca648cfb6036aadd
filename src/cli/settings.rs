//! From flags, environment and file to one set of settings: what comes first in this order wins, except
//! that nothing raises the owner's limits.

mod wallet;

use std::time::Duration;

use nostr::{EventId, PublicKey, RelayUrl};

pub use self::wallet::{
    NWC_VARIABLES, NwcChoice, ProcessChoice, SIM_FAULT_VARIABLE, SPARK_KEY_VARIABLE, SimChoice,
    SparkChoice, WalletChoice,
};
use self::wallet::{agree_on_network, choose_wallet};
use super::args::GlobalArgs;
use super::ask::Owner;
use super::backends::BackendChoice;
use super::customer::BuyArgs;
use super::prompt::read_prompt;
use super::provider::SellArgs;
use crate::config::{
    Config, DEFAULT_RELAYS, Encrypt, Home, MAX_RELAYS, Role, Select, default_fee_cap,
};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::identity::source::{Origin, Source};
use crate::ledger::{Limits, Scope};
use crate::secret::Environment;
use crate::units::{Msat, Network};

/// The variable with the folder for everything.
pub const HOME_VARIABLE: &str = "AGENT_COMPUTE_HOME";

/// What every command of a program needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which program this is.
    pub role: Role,
    /// Where everything is kept.
    pub home: Home,
    /// The configuration file, or the defaults if there is none.
    pub config: Config,
    /// Where the identity comes from.
    pub identity: Source,
    /// The relays to talk to; never empty.
    pub relays: Vec<RelayUrl>,
    /// The wallet that was asked for, whether or not this build has it.
    pub wallet: WalletChoice,
    /// The network that offers and invoices must be on. `None`: no wallet says, and nobody asked.
    pub network: Option<Network>,
}

impl Settings {
    /// Settles what the flags, this environment and the configuration file say together.
    ///
    /// # Errors
    /// [`Code::Usage`] if one of them is off, or two contradict each other.
    pub fn resolve(
        role: Role,
        flags: &GlobalArgs,
        no_wallet: bool,
        environment: Environment,
    ) -> Result<Self> {
        let home = home_of(flags, &environment)?;
        let config = read_config(&home, flags)?;
        Self::with(role, flags, no_wallet, environment, (home, config))
    }

    /// The same, with a home and a configuration that were found already.
    ///
    /// # Errors
    /// As [`Settings::resolve`].
    pub fn with(
        role: Role,
        flags: &GlobalArgs,
        no_wallet: bool,
        environment: Environment,
        (home, config): (Home, Config),
    ) -> Result<Self> {
        let wallet = choose_wallet(role, flags, no_wallet, &config, &home, &environment)?;
        let network = agree_on_network(&wallet, flags.network)?;
        let identity = Source {
            file: config
                .identity
                .file
                .clone()
                .unwrap_or_else(|| home.identity_file(role)),
            secret_key: config.identity.secret_key.clone(),
            mnemonic: config.identity.mnemonic.clone(),
            folder: config.folder.clone(),
            environment,
        };
        Ok(Self {
            role,
            relays: choose_relays(&flags.relay, &config.relays)?,
            home,
            config,
            identity,
            wallet,
            network,
        })
    }

    /// The identity, made on first use. The password of an encrypted one is that of the environment, or
    /// the person at the terminal is asked. `note` is told what they should know.
    ///
    /// # Errors
    /// [`Code::Usage`] if the place it should come from has none that is valid, or the password is
    /// missing or wrong.
    pub async fn open_identity(&self, mut note: impl FnMut(&str)) -> Result<(Identity, Origin)> {
        let source = self.identity.clone();
        let found = off_the_runtime(move || {
            let mut owner = Owner::new(source.environment.clone());
            Ok(source.open(&mut owner)?)
        })
        .await?;
        let path = self.identity.file.display();
        if found.origin == Origin::NewFile {
            note(&self.made(found.who.public_key()));
        } else if found.encrypted == Some(false) && self.identity.password()?.is_some() {
            note(&format!(
                "{path} is not encrypted, although there is a password: `identity password` encrypts it"
            ));
        }
        Ok((found.who, found.origin))
    }

    /// What the owner should know of a key that was made just now.
    #[must_use]
    pub fn made(&self, key: PublicKey) -> String {
        let (key, path) = (key.to_hex(), self.identity.file.display());
        format!(
            "made a new key, {key}, in {path}; `identity backup` prints the words to write down"
        )
    }

    /// The owner's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits::from(self.config.runway)
    }

    /// Which budget purchases count against. Needs no wallet: a real one that is not chosen or not in
    /// this build is on mainnet unless `--network` says otherwise.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope {
            network: self.network.unwrap_or(Network::Mainnet),
            play_money: matches!(self.wallet, WalletChoice::Sim(_) | WalletChoice::Without),
        }
    }
}

/// Does what may take long, a password check or a question, where nothing else waits for it.
///
/// # Errors
/// Those of `work`.
pub(super) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::new(Code::Internal, "opening the identity panicked"))?
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Code::Usage, message)
}

/// The home that the flags name, or the environment, or else the user's own.
///
/// # Errors
/// [`Code::Usage`] if this user has none.
pub fn home_of(flags: &GlobalArgs, environment: &Environment) -> Result<Home> {
    let named = flags
        .home
        .clone()
        .or_else(|| environment.path(HOME_VARIABLE));
    match named {
        Some(folder) => Ok(Home::at(folder)),
        None => Home::of_user(),
    }
}

/// The configuration file that `--config` names, which must exist, or the home's, which need not.
///
/// # Errors
/// [`Code::Usage`] if it can't be read, or holds what it must not.
pub fn read_config(home: &Home, flags: &GlobalArgs) -> Result<Config> {
    match &flags.config {
        Some(path) => Config::read(path)?
            .ok_or_else(|| usage(format!("--config {}: no such file", path.display()))),
        None => Ok(Config::read(home.config_file())?.unwrap_or_default()),
    }
}

fn choose_relays(flags: &[RelayUrl], file: &[RelayUrl]) -> Result<Vec<RelayUrl>> {
    let chosen: Vec<RelayUrl> = match (flags, file) {
        ([], []) => DEFAULT_RELAYS
            .iter()
            .filter_map(|url| RelayUrl::parse(url).ok())
            .collect(),
        ([], file) => file.to_vec(),
        (flags, _) => flags.to_vec(),
    };
    let mut relays = Vec::new();
    for relay in chosen {
        if !relays.contains(&relay) {
            relays.push(relay);
        }
    }
    if relays.len() > MAX_RELAYS {
        return Err(usage(format!("at most {MAX_RELAYS} relays")));
    }
    Ok(relays)
}

/// One purchase, as it was asked for.
#[derive(Clone, Debug)]
pub struct PurchaseSettings {
    /// What to ask.
    pub prompt: String,
    /// Whom to ask.
    pub find: FindSettings,
    /// The routing fee allowed on top; `None`: the rule of [`default_fee_cap`].
    pub max_fee: Option<Msat>,
    /// The tick it counts against; `None`: one of its own.
    pub tick: Option<String>,
    /// The caller's name for it.
    pub idempotency_key: Option<String>,
    /// How many others may be asked when a provider has failed.
    pub retries: u32,
    /// The longest it may take as a whole.
    pub timeout: Duration,
    /// Choose only.
    pub dry_run: bool,
    /// Lock the money, and let it go after delivery.
    pub htlc: bool,
    /// Do not encrypt.
    pub plaintext: bool,
    /// The owner's limits.
    pub limits: Limits,
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct FindSettings {
    /// Look for listings.
    pub discover: bool,
    /// Look into this channel.
    pub channel: Option<EventId>,
    /// How to choose.
    pub select: Select,
    /// Only who offers this model.
    pub model: Option<String>,
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// `--max-price`; the limits bound the price as well.
    pub max_price: Option<Msat>,
    /// The longest that looking may take.
    pub discovery_time: Duration,
}

impl FindSettings {
    /// What these flags mean over these settings.
    #[must_use]
    pub fn resolve(flags: &super::customer::FindArgs, settings: &Settings) -> Self {
        let policy = &settings.config.policy;
        let select = flags
            .select
            .clone()
            .unwrap_or_else(|| policy.select.clone());
        Self {
            discover: flags.discover || flags.channel.is_none(),
            channel: flags.channel,
            select,
            model: flags.model.clone(),
            max_tokens: flags.max_tokens,
            max_price: flags.max_price,
            discovery_time: Duration::from_secs(flags.discovery_time),
        }
    }
}

impl PurchaseSettings {
    /// What these flags mean over these settings. Reads the prompt, from stdin if it says so.
    ///
    /// # Errors
    /// [`Code::Usage`] if there is no prompt or something contradicts.
    pub fn resolve(flags: &BuyArgs, settings: &Settings) -> Result<Self> {
        let Some(prompt) = &flags.prompt else {
            return Err(usage(
                "nothing to ask: give --prompt TEXT (- for stdin, @FILE for a file)",
            ));
        };
        if flags.direct {
            return Err(usage(
                "--direct: NIP-90 jobs are not part of this version; leave it out to buy through a channel",
            ));
        }
        if flags.plaintext && settings.config.policy.encrypt == Encrypt::Required {
            return Err(usage(
                "--plaintext: [policy] encrypt = \"required\" in your config forbids plain text",
            ));
        }
        if flags.htlc && settings.wallet == WalletChoice::Without {
            return Err(usage(
                "--htlc locks money, and --no-wallet pays nothing: leave one of them out",
            ));
        }
        Ok(Self {
            prompt: read_prompt(prompt)?,
            find: FindSettings::resolve(&flags.find, settings),
            max_fee: flags.max_fee,
            tick: flags.tick.clone(),
            idempotency_key: flags.idempotency_key.clone(),
            retries: flags.retries,
            timeout: Duration::from_secs(flags.timeout),
            dry_run: flags.dry_run,
            htlc: flags.htlc,
            plaintext: flags.plaintext,
            limits: settings.limits(),
        })
    }

    /// The routing fee allowed on top of `price`.
    #[must_use]
    pub fn fee_cap(&self, price: Msat) -> Msat {
        self.max_fee.unwrap_or_else(|| default_fee_cap(price))
    }
}

/// How a provider sells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleSettings {
    /// Where it works.
    pub channel: ChannelChoice,
    /// What it calls itself.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// What runs the jobs.
    pub backend: BackendChoice,
    /// The models it serves; empty: all the backend has.
    pub models: Vec<String>,
    /// Per request.
    pub price: Msat,
    /// Per thousand requested tokens, on top.
    pub price_per_1k_tokens: Msat,
    /// Send chunks.
    pub stream: bool,
    /// Jobs at once.
    pub max_jobs: u32,
    /// Between two announcements.
    pub announce_every: Duration,
}

/// Which channel a provider works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelChoice {
    /// The one it made before, or a new one if there is none.
    Own,
    /// A new one.
    New,
    /// This one.
    Join(EventId),
}

impl SaleSettings {
    /// What these flags mean over these settings.
    ///
    /// # Errors
    /// [`Code::Usage`] if no channel is named, or the backend's address or key is off.
    pub fn resolve(flags: &SellArgs, settings: &Settings) -> Result<Self> {
        let channel = match (flags.channel, flags.new_channel, flags.create_channel) {
            (Some(id), ..) => ChannelChoice::Join(id),
            (None, true, _) => ChannelChoice::New,
            (None, false, true) => ChannelChoice::Own,
            (None, false, false) => {
                return Err(usage(
                    "where to sell? --create-channel makes a channel, --channel ID joins one",
                ));
            }
        };
        let file = &settings.config.provider;
        let backend =
            BackendChoice::resolve(flags.backend, flags.backend_url.as_deref(), settings)?;
        let price = flags.price.unwrap_or(file.price);
        if price.is_zero() {
            return Err(usage(
                "[provider] price_msats: no invoice can be made for nothing",
            ));
        }
        let models = if flags.model.is_empty() {
            file.models.clone()
        } else {
            flags.model.clone()
        };
        Ok(Self {
            channel,
            name: file.name.clone(),
            description: file.description.clone(),
            backend,
            models,
            price,
            price_per_1k_tokens: flags
                .price_per_1k_tokens
                .unwrap_or(file.price_per_1k_tokens),
            stream: flags.stream || file.stream,
            max_jobs: flags.max_jobs.unwrap_or(file.max_jobs),
            announce_every: Duration::from_secs(
                flags.announce_every.unwrap_or(file.announce_every_secs),
            ),
        })
    }
}

#[cfg(test)]
mod tests;

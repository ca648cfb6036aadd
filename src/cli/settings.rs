//! From flags, environment and file to one set of settings: what comes first in this order wins, except
//! that nothing raises the owner's limits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use nostr::{EventId, PublicKey, RelayUrl};

use super::args::GlobalArgs;
use super::ask::Owner;
use super::backends::BackendChoice;
use super::customer::BuyArgs;
use super::prompt::read_prompt;
use super::provider::SellArgs;
use crate::config::{
    Config, DEFAULT_RELAYS, Encrypt, Home, MAX_RELAYS, Role, Select, WalletKind, default_fee_cap,
};
use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::identity::source::{Origin, Source};
use crate::ledger::{Limits, Scope};
use crate::secret::{Environment, Secret, SecretRef, read_private_file};
use crate::units::{Msat, Network};
use crate::wallet::nwc::Connection;
use crate::wallet::sim::Fault;

/// The variable with the folder for everything.
pub const HOME_VARIABLE: &str = "AGENT_COMPUTE_HOME";
/// The variable with the bank of play money.
pub const SIM_BANK_VARIABLE: &str = "AGENT_COMPUTE_SIM_BANK";
/// The variable with the fault that the sim wallet injects.
pub const SIM_FAULT_VARIABLE: &str = "AGENT_COMPUTE_SIM_FAULT";
/// The variables with the connection of a wallet, each also as a file (`…_FILE`). The first is ours; the
/// others are what wallets and other clients call it.
pub const NWC_VARIABLES: [&str; 3] = ["NWC_URI", "NWC_URL", "NWC_CONNECTION_STRING"];

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

/// The wallet that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalletChoice {
    /// None, neither by flag nor by file.
    Unset,
    /// `--no-wallet`: jobs without payment.
    Without,
    /// Play money.
    Sim(SimChoice),
    /// A wallet elsewhere, by Nostr Wallet Connect.
    Nwc(NwcChoice),
    /// A wallet program.
    Process(ProcessChoice),
    /// A kind that this build does not have.
    Missing(WalletKind),
}

/// Where the play money is, and how it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimChoice {
    /// The file.
    pub bank: PathBuf,
    /// The network of its invoices.
    pub network: Network,
    /// What a payment costs on top.
    pub fee: Msat,
    /// What goes wrong with payments.
    pub fault: Option<Fault>,
}

/// The wallet program that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessChoice {
    /// The program and its arguments; may be empty.
    pub command: Vec<OsString>,
    /// Variables that hold secrets of ours.
    pub hide: Vec<String>,
    /// The network that it must be on.
    pub network: Network,
}

/// The wallet connection that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NwcChoice {
    /// The connection; `None`: there is none; or what is wrong with it. Commands that need no wallet work all
    /// the same.
    pub connection: std::result::Result<Option<Box<Connection>>, String>,
    /// The network that the wallet must be on.
    pub network: Network,
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

fn choose_wallet(
    role: Role,
    flags: &GlobalArgs,
    no_wallet: bool,
    config: &Config,
    home: &Home,
    environment: &Environment,
) -> Result<WalletChoice> {
    if no_wallet {
        return match flags.wallet {
            Some(_) => Err(usage("--no-wallet and --wallet exclude each other")),
            None => Ok(WalletChoice::Without),
        };
    }
    let nwc = || NwcChoice {
        connection: nwc_connection(role, config, home, environment),
        network: flags
            .network
            .or(config.wallet.nwc.network)
            .unwrap_or(Network::Mainnet),
    };
    match flags.wallet.or(config.wallet.kind) {
        None => {
            let nwc = nwc();
            return Ok(match nwc.connection {
                Ok(None) => WalletChoice::Unset,
                _ => WalletChoice::Nwc(nwc),
            });
        }
        Some(WalletKind::Nwc) => return Ok(WalletChoice::Nwc(nwc())),
        Some(WalletKind::Process) => {
            let process = &config.wallet.process;
            return Ok(WalletChoice::Process(ProcessChoice {
                command: process.command.iter().map(OsString::from).collect(),
                hide: secret_variables(config),
                network: flags
                    .network
                    .or(process.network)
                    .unwrap_or(Network::Mainnet),
            }));
        }
        Some(WalletKind::Sim) => {}
        Some(kind) => return Ok(WalletChoice::Missing(kind)),
    }
    let sim = &config.wallet.sim;
    let fault = environment
        .get(SIM_FAULT_VARIABLE)
        .map_err(|error| usage(error.to_string()))?
        .map(|word| word.parse())
        .transpose()
        .map_err(|error| usage(format!("{SIM_FAULT_VARIABLE}: {error}")))?;
    Ok(WalletChoice::Sim(SimChoice {
        bank: environment
            .path(SIM_BANK_VARIABLE)
            .or_else(|| sim.bank.clone())
            .unwrap_or_else(|| home.sim_bank_file()),
        network: sim.network,
        fee: sim.fee,
        fault,
    }))
}

/// The variables that the configuration names as places of secrets.
fn secret_variables(config: &Config) -> Vec<String> {
    let references = [
        &config.identity.secret_key,
        &config.identity.mnemonic,
        &config.wallet.nwc.uri,
        &config.provider.backend_key,
    ];
    let named = references.into_iter().flatten();
    named
        .filter_map(|reference| match reference {
            SecretRef::Env(name) => Some(name.clone()),
            SecretRef::File(_) => None,
        })
        .collect()
}

/// The wallet connection of the environment, the configuration, or the file that `wallet setup nwc` wrote.
fn nwc_connection(
    role: Role,
    config: &Config,
    home: &Home,
    environment: &Environment,
) -> std::result::Result<Option<Box<Connection>>, String> {
    let mut found: Option<(String, Secret)> = None;
    for name in NWC_VARIABLES {
        let value = environment
            .private_secret(name)
            .map_err(|error| error.to_string())?;
        let Some(value) = value else { continue };
        match &found {
            Some((other, earlier)) if *earlier != value => {
                return Err(format!(
                    "{other} and {name} hold different connections: unset one of them"
                ));
            }
            Some(_) => {}
            None => found = Some((name.to_owned(), value)),
        }
    }
    if let (None, Some(reference)) = (&found, &config.wallet.nwc.uri) {
        let value = reference
            .resolve_private(environment, &config.folder)
            .map_err(|error| format!("[wallet.nwc] uri: {error}"))?;
        found = Some(("[wallet.nwc] uri".to_owned(), value));
    }
    let kept = home.nwc_file(role);
    if found.is_none() && kept.exists() {
        let value = read_private_file(&kept).map_err(|error| error.to_string())?;
        found = Some((kept.display().to_string(), value));
    }
    let Some((place, uri)) = found else {
        return Ok(None);
    };
    Connection::parse(&uri)
        .map(|connection| Some(Box::new(connection)))
        .map_err(|error| format!("{place}: {error}"))
}

fn agree_on_network(wallet: &WalletChoice, asked: Option<Network>) -> Result<Option<Network>> {
    let (network, whose) = match wallet {
        WalletChoice::Unset | WalletChoice::Missing(_) => return Ok(asked),
        WalletChoice::Without => (Network::Regtest, "--no-wallet"),
        WalletChoice::Sim(sim) => (sim.network, "the sim wallet (play money)"),
        // Held against what the wallet says of itself when it is opened.
        WalletChoice::Nwc(nwc) => return Ok(Some(nwc.network)),
        WalletChoice::Process(process) => return Ok(Some(process.network)),
    };
    match asked {
        Some(asked) if asked != network => {
            Err(usage(format!("--network {asked}: {whose} is on {network}")))
        }
        _ => Ok(Some(network)),
    }
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

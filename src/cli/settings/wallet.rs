//! Which wallet, from flags, environment and file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::usage;
use crate::cli::args::GlobalArgs;
use crate::config::{Config, Home, Role, WalletKind};
use crate::error::Result;
use crate::secret::{Environment, Secret, SecretRef, read_private_file};
use crate::units::{Msat, Network};
use crate::wallet::nwc::Connection;
use crate::wallet::sim::Fault;
use crate::wallet::spark::SDK_VERSION;

/// The variable with the bank of play money.
pub(super) const SIM_BANK_VARIABLE: &str = "AGENT_COMPUTE_SIM_BANK";
/// The variable with the fault that the sim wallet injects.
pub const SIM_FAULT_VARIABLE: &str = "AGENT_COMPUTE_SIM_FAULT";
/// The variable with the key of the Spark SDK's makers, also as a file.
pub const SPARK_KEY_VARIABLE: &str = "BREEZ_API_KEY";
/// The variables with the connection of a wallet, each also as a file (`…_FILE`). The first is ours; the
/// others are what wallets and other clients call it.
pub const NWC_VARIABLES: [&str; 3] = ["NWC_URI", "NWC_URL", "NWC_CONNECTION_STRING"];

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
    /// A wallet on Spark.
    Spark(SparkChoice),
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

/// The Spark wallet that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparkChoice {
    /// The network; `None`: nobody said which, and none is assumed.
    pub network: Option<Network>,
    /// The key of the SDK's makers; or why it can't be read.
    pub api_key: std::result::Result<Option<Secret>, String>,
    /// Where the SDK is, or is to be.
    pub environment: PathBuf,
    /// Where the wallet keeps its records.
    pub storage: PathBuf,
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

pub(super) fn choose_wallet(
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
        Some(WalletKind::Spark) => {
            let spark = &config.wallet.spark;
            return Ok(WalletChoice::Spark(SparkChoice {
                network: flags.network.or(spark.network),
                api_key: spark_key(config, environment),
                environment: home.spark_environment(SDK_VERSION),
                storage: home.spark_storage(role),
            }));
        }
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
        &config.wallet.spark.api_key,
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

/// The key of the Spark SDK's makers, from the environment or where the configuration says.
fn spark_key(
    config: &Config,
    environment: &Environment,
) -> std::result::Result<Option<Secret>, String> {
    let given = environment
        .private_secret(SPARK_KEY_VARIABLE)
        .map_err(|error| error.to_string())?;
    match (given, &config.wallet.spark.api_key) {
        (None, Some(reference)) => reference
            .resolve_private(environment, &config.folder)
            .map(Some)
            .map_err(|error| format!("[wallet.spark] api_key: {error}")),
        (given, _) => Ok(given),
    }
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

pub(super) fn agree_on_network(
    wallet: &WalletChoice,
    asked: Option<Network>,
) -> Result<Option<Network>> {
    let (network, whose) = match wallet {
        WalletChoice::Unset | WalletChoice::Missing(_) => return Ok(asked),
        WalletChoice::Without => (Network::Regtest, "--no-wallet"),
        WalletChoice::Sim(sim) => (sim.network, "the sim wallet (play money)"),
        // Held against what the wallet says of itself when it is opened.
        WalletChoice::Nwc(nwc) => return Ok(Some(nwc.network)),
        WalletChoice::Spark(spark) => return Ok(spark.network),
        WalletChoice::Process(process) => return Ok(Some(process.network)),
    };
    match asked {
        Some(asked) if asked != network => {
            Err(usage(format!("--network {asked}: {whose} is on {network}")))
        }
        _ => Ok(Some(network)),
    }
}

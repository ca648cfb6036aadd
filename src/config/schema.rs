//! The sections and keys of `config.toml`, and the types of their values.

use std::path::{Path, PathBuf};

use nostr::{PublicKey, RelayUrl};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{
    BackendKind, Config, Encrypt, IdentityConfig, MAX_ANNOUNCE_EVERY_SECS, MAX_MAX_JOBS,
    MAX_RELAYS, NwcConfig, Policy, ProcessConfig, ProviderConfig, Runway, Select, SimConfig,
    SparkConfig, WalletConfig, WalletKind,
};
use crate::secret::SecretRef;
use crate::units::{Msat, Network};

/// Every section, and the keys in it.
pub const KEYS: [(&str, &[&str]); 10] = [
    ("identity", &["file", "secret_key", "mnemonic"]),
    ("relays", &["urls"]),
    ("wallet", &["kind"]),
    ("wallet.sim", &["bank", "fee_msats", "network"]),
    ("wallet.nwc", &["uri", "network"]),
    ("wallet.spark", &["network", "api_key"]),
    ("wallet.process", &["command", "network"]),
    (
        "runway",
        &[
            "daily_limit_sats",
            "per_tick_limit_sats",
            "per_job_limit_sats",
            "reserve_sats",
        ],
    ),
    (
        "policy",
        &[
            "select",
            "allow",
            "deny",
            "encrypt",
            "max_hold_secs",
            "unproven_limit_sats",
        ],
    ),
    (
        "provider",
        &[
            "name",
            "description",
            "backend",
            "backend_url",
            "backend_key",
            "models",
            "price_msats",
            "price_per_1k_tokens_msats",
            "stream",
            "escrow",
            "max_jobs",
            "announce_every_secs",
        ],
    ),
];

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    identity: IdentitySection,
    relays: RelaysSection,
    wallet: WalletSection,
    runway: RunwaySection,
    policy: PolicySection,
    provider: ProviderSection,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct IdentitySection {
    file: Option<PathBuf>,
    secret_key: Option<SecretRef>,
    mnemonic: Option<SecretRef>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RelaysSection {
    urls: Relays,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WalletSection {
    kind: Option<Word<WalletKind>>,
    sim: SimSection,
    nwc: NwcSection,
    spark: SparkSection,
    process: ProcessSection,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SparkSection {
    network: Option<Network>,
    api_key: Option<SecretRef>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProcessSection {
    command: Vec<Line>,
    network: Option<Network>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NwcSection {
    uri: Option<SecretRef>,
    network: Option<Network>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SimSection {
    bank: Option<PathBuf>,
    fee_msats: Option<Millisats>,
    network: Option<Network>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunwaySection {
    daily_limit_sats: Option<Sats>,
    per_tick_limit_sats: Option<Sats>,
    per_job_limit_sats: Option<Sats>,
    reserve_sats: Option<Sats>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicySection {
    select: Option<Word<Select>>,
    allow: Vec<Key>,
    deny: Vec<Key>,
    encrypt: Option<Encrypt>,
    max_hold_secs: Option<Whole<1, { 366 * 86_400 }>>,
    unproven_limit_sats: Option<Sats>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderSection {
    name: Option<Line>,
    description: Option<Line>,
    backend: Option<BackendKind>,
    backend_url: Option<Line>,
    backend_key: Option<SecretRef>,
    models: Vec<Line>,
    price_msats: Option<Millisats>,
    price_per_1k_tokens_msats: Option<Millisats>,
    stream: bool,
    escrow: Option<bool>,
    max_jobs: Option<Whole<1, { MAX_MAX_JOBS as u64 }>>,
    announce_every_secs: Option<Whole<1, MAX_ANNOUNCE_EVERY_SECS>>,
}

impl File {
    pub(super) fn into_config(self, path: &Path) -> Result<Config, String> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let identity = self.identity;
        let places = [
            identity.file.is_some(),
            identity.secret_key.is_some(),
            identity.mnemonic.is_some(),
        ];
        if places.into_iter().filter(|place| *place).count() > 1 {
            return Err("[identity] file, secret_key and mnemonic: only one may be set".to_owned());
        }
        let (runway, policy) = (Runway::default(), Policy::default());
        let sim = SimConfig::default();
        let sats = |given: Option<Sats>, default: Msat| given.map_or(default, |sats| sats.0);
        Ok(Config {
            identity: IdentityConfig {
                file: identity.file.map(|file| folder.join(file)),
                secret_key: identity.secret_key,
                mnemonic: identity.mnemonic,
            },
            relays: self.relays.urls.0,
            wallet: WalletConfig {
                kind: self.wallet.kind.map(|kind| kind.0),
                sim: SimConfig {
                    bank: self.wallet.sim.bank.map(|bank| folder.join(bank)),
                    fee: self.wallet.sim.fee_msats.map_or(sim.fee, |fee| fee.0),
                    network: self.wallet.sim.network.unwrap_or(sim.network),
                },
                nwc: NwcConfig {
                    uri: self.wallet.nwc.uri,
                    network: self.wallet.nwc.network,
                },
                spark: SparkConfig {
                    network: self.wallet.spark.network,
                    api_key: self.wallet.spark.api_key,
                },
                process: ProcessConfig {
                    command: self
                        .wallet
                        .process
                        .command
                        .into_iter()
                        .map(|word| word.0)
                        .collect(),
                    network: self.wallet.process.network,
                },
            },
            runway: Runway {
                daily_limit: sats(self.runway.daily_limit_sats, runway.daily_limit),
                per_tick_limit: sats(self.runway.per_tick_limit_sats, runway.per_tick_limit),
                per_job_limit: sats(self.runway.per_job_limit_sats, runway.per_job_limit),
                reserve: sats(self.runway.reserve_sats, runway.reserve),
            },
            policy: Policy {
                select: self.policy.select.map_or(policy.select, |select| select.0),
                allow: self.policy.allow.into_iter().map(|key| key.0).collect(),
                deny: self.policy.deny.into_iter().map(|key| key.0).collect(),
                encrypt: self.policy.encrypt.unwrap_or(policy.encrypt),
                max_hold_secs: self
                    .policy
                    .max_hold_secs
                    .map_or(policy.max_hold_secs, |n| n.0),
                unproven_limit: self.policy.unproven_limit_sats.map(|sats| sats.0),
            },
            provider: self.provider.into_config(),
            folder,
        })
    }
}

impl ProviderSection {
    fn into_config(self) -> ProviderConfig {
        let default = ProviderConfig::default();
        ProviderConfig {
            name: self.name.map_or(default.name, |name| name.0),
            description: self.description.map_or(default.description, |text| text.0),
            backend: self.backend.unwrap_or(default.backend),
            backend_url: self.backend_url.map(|url| url.0),
            backend_key: self.backend_key,
            models: self.models.into_iter().map(|model| model.0).collect(),
            price: self.price_msats.map_or(default.price, |price| price.0),
            price_per_1k_tokens: self
                .price_per_1k_tokens_msats
                .map_or(default.price_per_1k_tokens, |price| price.0),
            stream: self.stream,
            escrow: self.escrow.unwrap_or(default.escrow),
            max_jobs: self
                .max_jobs
                .and_then(|jobs| u32::try_from(jobs.0).ok())
                .unwrap_or(default.max_jobs),
            announce_every_secs: self
                .announce_every_secs
                .map_or(default.announce_every_secs, |secs| secs.0),
        }
    }
}

/// Whole sats: no fraction, nothing negative, no more than there will ever be.
struct Sats(Msat);

impl<'de> Deserialize<'de> for Sats {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let sats = u64::deserialize(from)?;
        Msat::from_sats(sats)
            .filter(|amount| *amount <= Msat::MAX)
            .map(Self)
            .ok_or_else(|| D::Error::custom("more sats than there will ever be"))
    }
}

/// Whole millisats, likewise.
struct Millisats(Msat);

impl<'de> Deserialize<'de> for Millisats {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let amount = Msat::new(u64::deserialize(from)?);
        if amount > Msat::MAX {
            return Err(D::Error::custom("more millisats than there will ever be"));
        }
        Ok(Self(amount))
    }
}

/// A whole number within bounds.
struct Whole<const LEAST: u64, const MOST: u64>(u64);

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Whole<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        if (LEAST..=MOST).contains(&number) {
            return Ok(Self(number));
        }
        Err(D::Error::custom(format!(
            "expected a number from {LEAST} to {MOST}"
        )))
    }
}

/// A line of text that may be shown to others.
struct Line(String);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.trim().is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
            return Err(D::Error::custom(
                "expected one line of text, 1 to 1024 bytes",
            ));
        }
        Ok(Self(text))
    }
}

/// A whole public key: a prefix would let or keep out whoever forges one that begins like it.
struct Key(PublicKey);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        super::select::whole_key(&text).map(Self).ok_or_else(|| {
            D::Error::custom("expected a whole public key: an npub or 64 hex digits")
        })
    }
}

/// One of a set of words, or what else its type can be written as.
struct Word<T>(T);

impl<'de> Deserialize<'de> for Word<WalletKind> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        WalletKind::from_word(&word).map(Self).ok_or_else(|| {
            let words = WalletKind::ALL.map(WalletKind::as_str).join(", ");
            D::Error::custom(format!("expected one of {words}"))
        })
    }
}

impl<'de> Deserialize<'de> for Word<Select> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Default)]
struct Relays(Vec<RelayUrl>);

impl<'de> Deserialize<'de> for Relays {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        if texts.len() > MAX_RELAYS {
            return Err(D::Error::custom(format!("at most {MAX_RELAYS} relays")));
        }
        let urls: Result<Vec<_>, _> = texts.iter().map(|text| RelayUrl::parse(text)).collect();
        urls.map(Self)
            .map_err(|_| D::Error::custom("expected relay addresses: ws://… or wss://…"))
    }
}

//! Puts a client together: the one place on the buyer's side that names concrete adapters.

use std::sync::Arc;

use nostr::{PublicKey, RelayUrl};
use tokio::sync::OnceCell;

use super::{Code, ComputeClient, Error, Inner, Ready, Result};
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_RELAYS, Encrypt, Home, Role, Runway};
use crate::identity::{Identity, keystore};
use crate::ledger::{Ledger, Limits, Scope};
use crate::purchase::driver::Engine;
use crate::purchase::recover::{Depth, recover};
use crate::relay::pool::{PoolOptions, RelayPoolSession, parse_urls};
use crate::relay::seal::Sealer;
use crate::relay::{RelayError, RelaySession};
use crate::units::{Msat, Network};
use crate::wallet::Wallet;

/// Where to talk to providers.
#[derive(Clone, Debug)]
pub enum Relays {
    /// These addresses.
    Urls(Vec<String>),
    /// A session of one's own.
    Session(Arc<dyn RelaySession>),
}

impl From<&str> for Relays {
    fn from(url: &str) -> Self {
        Self::Urls(vec![url.to_owned()])
    }
}

impl From<String> for Relays {
    fn from(url: String) -> Self {
        Self::Urls(vec![url])
    }
}

impl From<Vec<String>> for Relays {
    fn from(urls: Vec<String>) -> Self {
        Self::Urls(urls)
    }
}

impl From<RelayUrl> for Relays {
    fn from(url: RelayUrl) -> Self {
        Self::Urls(vec![url.to_string()])
    }
}

impl From<Vec<RelayUrl>> for Relays {
    fn from(urls: Vec<RelayUrl>) -> Self {
        Self::Urls(urls.iter().map(ToString::to_string).collect())
    }
}

impl From<Arc<dyn RelaySession>> for Relays {
    fn from(session: Arc<dyn RelaySession>) -> Self {
        Self::Session(session)
    }
}

/// How a client pays.
#[derive(Clone, Debug, Default)]
enum Pays {
    #[default]
    Undecided,
    With(Arc<dyn Wallet>),
    Never,
    LooksOnly,
}

/// What the way of paying settles.
struct Money {
    wallet: Option<Arc<dyn Wallet>>,
    scope: Scope,
    network: Option<Network>,
    buys: bool,
}

/// A client in the making. What is not said comes from the home's `config.toml`, or its default; how to pay
/// must be said.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    home: Option<Home>,
    config: Option<Config>,
    identity: Option<Identity>,
    relays: Option<Relays>,
    pays: Pays,
    network: Option<Network>,
    limits: Option<Runway>,
    allow: Option<Vec<PublicKey>>,
    deny: Option<Vec<PublicKey>>,
    books: Option<Scope>,
    unproven_limit: Option<Msat>,
    encrypt: Option<Encrypt>,
    leaves_open: bool,
    clock: Clock,
}

impl Builder {
    /// The folder of ledger, identity and configuration. By default the user's own.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// The configuration, instead of the home's `config.toml`.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Who buys. By default the identity in the home, made on first use; if it is encrypted, with the
    /// password in `AGENT_COMPUTE_PASSWORD` or `AGENT_COMPUTE_PASSWORD_FILE`.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Where to buy: an address, several, or a session of one's own. By default those of the
    /// configuration.
    #[must_use]
    pub fn relays(mut self, relays: impl Into<Relays>) -> Self {
        self.relays = Some(relays.into());
        self
    }

    /// What pays. A client needs this, or [`Self::no_wallet`].
    #[must_use]
    pub fn wallet(mut self, wallet: Arc<dyn Wallet>) -> Self {
        self.pays = Pays::With(wallet);
        self
    }

    /// Pays nothing: the test mode of the original tool, on regtest.
    #[must_use]
    pub fn no_wallet(mut self) -> Self {
        self.pays = Pays::Never;
        self
    }

    /// Buys nothing: looks at offers, the books and the limits.
    #[must_use]
    pub fn looks_only(mut self) -> Self {
        self.pays = Pays::LooksOnly;
        self
    }

    /// Which purchases a client that [only looks](Self::looks_only) judges providers by, and counts against
    /// the limits. By default those in real money on its network.
    #[must_use]
    pub const fn books(mut self, scope: Scope) -> Self {
        self.books = Some(scope);
        self
    }

    /// The most that a provider without a good record is paid outside of escrow. Lowers the owner's
    /// `unproven_limit_sats`, and never raises it.
    #[must_use]
    pub const fn unproven_limit(mut self, most: Msat) -> Self {
        self.unproven_limit = Some(most);
        self
    }

    /// The network that offers and invoices must be on: the wallet's, which is also the default.
    #[must_use]
    pub const fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Limits of one's own. They lower those of the owner's configuration, and never raise them: of each, the
    /// stricter one holds. A configuration that says nothing has those of [`Runway::default`].
    #[must_use]
    pub const fn limits(mut self, limits: Runway) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Buy from these keys only. Where the configuration allows some keys only, a key must be in both lists.
    /// Empty: no further restriction.
    #[must_use]
    pub fn allow(mut self, keys: Vec<PublicKey>) -> Self {
        self.allow = Some(keys);
        self
    }

    /// Never buy from these keys, nor from those that the configuration denies.
    #[must_use]
    pub fn deny(mut self, keys: Vec<PublicKey>) -> Self {
        self.deny = Some(keys);
        self
    }

    /// Whether messages are encrypted (NIP-44). What the configuration requires stays required.
    #[must_use]
    pub const fn encrypt(mut self, encrypt: Encrypt) -> Self {
        self.encrypt = Some(encrypt);
        self
    }

    /// Leaves what a crash left open to [`ComputeClient::recover`], instead of settling it before the
    /// first purchase.
    #[must_use]
    pub const fn without_recovery(mut self) -> Self {
        self.leaves_open = true;
        self
    }

    /// What tells the time. For tests.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The client, opened on first use.
    #[must_use]
    pub fn build_lazy(self) -> ComputeClient {
        ComputeClient {
            inner: Arc::new(Inner {
                builder: self,
                ready: OnceCell::new(),
            }),
            tick: None,
        }
    }

    /// The client, opened: configuration read, ledger open, relays being connected, and what a crash
    /// left settled as far as it can be.
    ///
    /// # Errors
    /// [`Code::Usage`] if the configuration, a relay's address, the identity's file or the network is off,
    /// [`Code::Wallet`] if nothing was said of how to pay, [`Code::Ledger`] if the ledger can't be used. That
    /// no relay answers is found out later.
    pub async fn build(self) -> Result<ComputeClient> {
        let client = self.build_lazy();
        client.ready().await?;
        Ok(client)
    }

    /// Begins to connect to the relays that were named: opening the rest takes about as long.
    ///
    /// # Errors
    /// [`Code::Usage`] if an address is none.
    #[cfg(feature = "cli")]
    pub(crate) fn dial(mut self) -> Result<Self> {
        let relays = self.connect(&[])?;
        self.relays = Some(Relays::Session(relays));
        Ok(self)
    }

    pub(super) async fn open(&self) -> Result<Ready> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None => Home::of_user()?,
        };
        let config = match &self.config {
            Some(config) => config.clone(),
            None => Config::read(home.config_file())?.unwrap_or_default(),
        };
        let Money {
            wallet,
            scope,
            network,
            buys,
        } = self.money()?;
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => {
                let file = home.identity_file(Role::Customer);
                // An encrypted one takes its time.
                tokio::task::spawn_blocking(move || keystore::open_or_create(&file))
                    .await
                    .map_err(|_| Error::new(Code::Internal, "opening the identity panicked"))??
                    .0
            }
        };
        let runway = match self.limits {
            Some(limits) => config.runway.lowered_by(limits),
            None => config.runway,
        };
        // First, since a connection is made while the ledger is opened.
        let relays = self.connect(&config.relays)?;
        let folder = home.make_folder(Role::Customer)?;
        let ledger = Ledger::open(&folder, self.clock.clone()).await?;
        let unproven_limit = [config.policy.unproven_limit, self.unproven_limit];
        let unproven_limit = unproven_limit.into_iter().flatten().min();
        let mut deny = config.policy.deny;
        deny.extend(self.deny.iter().flatten());
        let engine = Engine {
            sealer: Arc::new(Sealer::new(identity.clone())),
            identity,
            relays,
            ears: Arc::default(),
            wallet,
            ledger,
            limits: Limits::from(runway),
            clock: self.clock.clone(),
        };
        // What a crash left is settled before anything new is bought. What can't be settled now stays
        // reserved, and that counts against the limits.
        let recovered = if buys && !self.leaves_open {
            recover(&engine, Depth::Open).await?
        } else {
            Vec::new()
        };
        Ok(Ready {
            engine,
            recovered,
            scope,
            books: self.books.filter(|_| !buys).unwrap_or(scope),
            network,
            buys,
            allow: self.allowed(config.policy.allow)?,
            deny,
            max_hold_secs: config.policy.max_hold_secs,
            unproven_limit,
            encrypt: self.encryption(config.policy.encrypt),
        })
    }

    fn allowed(&self, configured: Vec<PublicKey>) -> Result<Vec<PublicKey>> {
        let wanted = self.allow.as_deref().unwrap_or_default();
        if wanted.is_empty() || configured.is_empty() {
            return Ok([wanted, &configured].concat());
        }
        let both: Vec<PublicKey> = configured
            .into_iter()
            .filter(|key| wanted.contains(key))
            .collect();
        if both.is_empty() {
            // An empty list would let everybody in.
            return Err(Error::new(
                Code::Usage,
                "none of the keys to buy from is on the allow list of the owner's [policy]",
            ));
        }
        Ok(both)
    }

    fn encryption(&self, configured: Encrypt) -> Encrypt {
        match (configured, self.encrypt) {
            (Encrypt::Required, _) => Encrypt::Required,
            (configured, wanted) => wanted.unwrap_or(configured),
        }
    }

    fn money(&self) -> Result<Money> {
        let no_money = |network, play_money| Money {
            wallet: None,
            scope: Scope {
                network,
                play_money,
            },
            network: Some(network),
            buys: true,
        };
        let money = match &self.pays {
            Pays::With(wallet) => Money {
                wallet: Some(Arc::clone(wallet)),
                ..no_money(wallet.network(), wallet.capabilities().play_money)
            },
            Pays::Never => no_money(Network::Regtest, true),
            Pays::LooksOnly => {
                return Ok(Money {
                    network: self.network,
                    buys: false,
                    ..no_money(self.network.unwrap_or(Network::Mainnet), false)
                });
            }
            Pays::Undecided => {
                return Err(Error::new(
                    Code::Wallet,
                    "a client needs a wallet: Builder::wallet, or Builder::no_wallet to pay nothing",
                ));
            }
        };
        match self.network {
            Some(wanted) if wanted != money.scope.network => Err(Error::new(
                Code::Usage,
                format!(
                    "the network {wanted} was asked for, and the money is on {}",
                    money.scope.network
                ),
            )),
            _ => Ok(money),
        }
    }

    fn connect(&self, configured: &[RelayUrl]) -> Result<Arc<dyn RelaySession>> {
        let usage = |error: RelayError| Error::new(Code::Usage, error.to_string());
        let urls = match &self.relays {
            Some(Relays::Session(session)) => return Ok(Arc::clone(session)),
            Some(Relays::Urls(urls)) => parse_urls(urls).map_err(usage)?,
            None if configured.is_empty() => parse_urls(&DEFAULT_RELAYS).map_err(usage)?,
            None => configured.to_vec(),
        };
        let pool = RelayPoolSession::connect(&urls, PoolOptions::default()).map_err(usage)?;
        Ok(pool)
    }
}

//! A provider as a part of one's own program.

use std::fmt;

use nostr::{EventId, PublicKey};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Parts, ProviderConfig, ProviderEvent, Shutdown, run};
use crate::error::{Code, Error};

/// Reports that wait for a reader. Further ones are dropped: selling does not depend on who reads of it.
const REPORTS_WAITING: usize = 1024;

/// A provider at work, in a task of its own. `agent-provider` is this and a command line.
///
/// Dropping it stops it where it is, as a crash would: its listing stays until it expires, and what is paid
/// is done after the next start on the same [`store`](super::store::JobStore). [`Self::stop`] takes leave,
/// and leaves the store free when it returns.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use agent_compute::clock::Clock;
/// use agent_compute::identity::Identity;
/// use agent_compute::provider::backend::Echo;
/// use agent_compute::provider::store::JobStore;
/// use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig};
/// use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
/// use agent_compute::units::{Msat, Network};
/// use agent_compute::wallet::sim::{SimOptions, SimWallet};
///
/// let folder = tempfile::tempdir()?;
/// let relay = EmbeddedRelay::listen("127.0.0.1:0".parse()?).await?;
/// let identity = Identity::from_keys(nostr::Keys::generate());
/// let bank = folder.path().join("bank.sqlite");
/// let wallet = SimWallet::open(&bank, identity.public_key(), SimOptions::default())?;
///
/// let channel = ChannelChoice::Create { renew: false };
/// let mut config = ProviderConfig::new(channel, vec![relay.url()], Network::Regtest);
/// config.price.per_request = Msat::new(2_000);
/// let provider = Provider::start(
///     config,
///     Parts {
///         identity,
///         relays: RelayPoolSession::connect(&[relay.url()], PoolOptions::default())?,
///         wallet: Some(Arc::new(wallet)),
///         backend: Arc::new(Echo),
///         store: JobStore::open(&folder.path().join("jobs.sqlite"))?,
///         clock: Clock::system(),
///     },
/// )
/// .await?;
/// println!("{} sells in {}", provider.pubkey(), provider.channel());
/// provider.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct Provider {
    pubkey: PublicKey,
    channel: EventId,
    selling: Selling,
}

struct Selling {
    task: JoinSet<Result<(), Error>>,
    reports: mpsc::Receiver<ProviderEvent>,
    shutdown: Shutdown,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("pubkey", &self.pubkey)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Starts selling. Returns once customers can find it. Dropping the future stops what was begun.
    ///
    /// # Errors
    /// As [`run`]: [`Code::Usage`], [`Code::Ledger`] or [`Code::Network`].
    pub async fn start(config: ProviderConfig, parts: Parts) -> Result<Self, Error> {
        let mut selling = Selling::start(config, parts);
        loop {
            match selling.reports.recv().await {
                Some(ProviderEvent::Ready { pubkey, channel }) => {
                    return Ok(Self {
                        pubkey,
                        channel,
                        selling,
                    });
                }
                Some(_) => {}
                None => {
                    selling.end().await?;
                    return Err(Error::new(Code::Internal, "the provider did not start"));
                }
            }
        }
    }

    /// Its key: what customers choose it by.
    #[must_use]
    pub const fn pubkey(&self) -> PublicKey {
        self.pubkey
    }

    /// The NIP-28 channel that it works in.
    #[must_use]
    pub const fn channel(&self) -> EventId {
        self.channel
    }

    /// What it reports next; `None` once it has ended, which [`Self::stop`] then gives the reason of.
    /// Cancel-safe. Who does not read misses reports, and nothing else.
    pub async fn next_event(&mut self) -> Option<ProviderEvent> {
        self.selling.reports.recv().await
    }

    /// Withdraws the listing, takes no new jobs, finishes the paid ones, and leaves.
    ///
    /// # Errors
    /// What ended it, if it ended before.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.selling.shutdown.finish.cancel();
        self.selling.end().await
    }
}

impl Selling {
    fn start(config: ProviderConfig, parts: Parts) -> Self {
        let shutdown = Shutdown::default();
        let (show, reports) = mpsc::channel(REPORTS_WAITING);
        let (tell, mut told) = mpsc::channel(1);
        let sell = run(config, parts, tell, shutdown.clone());
        let carry = async move {
            while let Some(report) = told.recv().await {
                // Full: nobody reads.
                let _ = show.try_send(report);
            }
        };
        let mut task = JoinSet::new();
        task.spawn(async { tokio::join!(sell, carry).0 });
        Self {
            task,
            reports,
            shutdown,
        }
    }

    async fn end(&mut self) -> Result<(), Error> {
        match self.task.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Err(Error::new(
                Code::Internal,
                format!("the provider stopped unexpectedly ({error})"),
            )),
            None => Ok(()),
        }
    }
}

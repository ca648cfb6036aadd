//! `agent-customer demo`: a whole market in one process, with play money: a relay on a real WebSocket,
//! a provider, and a purchase through the same code that buys for real.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nostr::Keys;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::ask::Owner;
use crate::cli::customer::DemoArgs;
use crate::cli::output::Output;
use crate::cli::prompt::read_prompt;
use crate::cli::settings::{SimChoice, WalletChoice, off_the_runtime};
use crate::cli::signals;
use crate::cli::wallets::open_sim;
use crate::cli::watch::{short, summary, waiting_for, watch};
use crate::client::{ComputeClient, PurchaseEvent, PurchaseRequest};
use crate::clock::Clock;
use crate::config::{Config, Home, Role};
use crate::error::{Code, Error, Result};
use crate::identity::{Identity, keystore};
use crate::provider::backend::Echo;
use crate::provider::store::JobStore;
use crate::provider::{self, ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown};
use crate::relay::RelaySession as _;
use crate::relay::local::EmbeddedRelay;
use crate::relay::pool::{PoolOptions, RelayPoolSession};
use crate::secret::Environment;
use crate::units::Network;
use crate::wallet::Wallet as _;

/// Sets a market up, buys in it, and shows every step.
///
/// # Errors
/// If a part of it can't be set up, or the purchase fails.
pub async fn run(home: Option<PathBuf>, args: DemoArgs, out: &Output) -> Result<()> {
    let prompt = read_prompt(&args.prompt)?;
    // Keys that stay are encrypted as ever; those of a temporary folder go with it.
    let keys = match &home {
        Some(_) => Environment::of_process(),
        None => Environment::of([]),
    };
    let place = Place::new(home)?;
    let home = Home::at(place.folder());
    out.note("A compute market on this machine. All money in it is play money.");
    let relay = EmbeddedRelay::listen(([127, 0, 0, 1], 0).into())
        .await
        .map_err(|error| Error::new(Code::Network, format!("no relay: {error}")))?;
    out.note(&format!("relay      {}", relay.url()));
    let bank = home.sim_bank_file();
    let market = Market {
        home,
        keys,
        relay: relay.url(),
        sim: SimChoice {
            bank,
            network: Network::Regtest,
            fee: crate::units::Msat::ZERO,
            fault: None,
        },
    };
    let seller = market.open_for_business(args.stream, out).await?;
    let bought = market.buy(&prompt, args.htlc, out).await;
    seller.close().await;
    relay.shutdown().await;
    bought
}

struct Market {
    home: Home,
    /// Where the password of the keys is.
    keys: Environment,
    relay: nostr::RelayUrl,
    sim: SimChoice,
}

/// The seller, at work in the background.
struct Seller {
    work: JoinSet<Result<()>>,
    shutdown: Shutdown,
}

impl Seller {
    async fn close(mut self) {
        self.shutdown.finish.cancel();
        while self.work.join_next().await.is_some() {}
    }
}

impl Market {
    async fn identity(&self, role: Role) -> Result<Identity> {
        self.home.make_folder(role)?;
        let file = self.home.identity_file(role);
        let keys = self.keys.clone();
        off_the_runtime(move || {
            let mut owner = Owner::new(keys.clone());
            Ok(keystore::open_or_create_with(&file, &keys, &mut owner)?.0)
        })
        .await
    }

    /// Starts the provider and waits until customers can find it.
    async fn open_for_business(&self, stream: bool, out: &Output) -> Result<Seller> {
        let identity = self.identity(Role::Provider).await?;
        let wallet = open_sim(&self.sim, &identity).await?;
        let relays =
            RelayPoolSession::connect(std::slice::from_ref(&self.relay), PoolOptions::default())
                .map_err(|error| Error::new(Code::Network, error.to_string()))?;
        let key = identity.public_key().to_hex();
        let parts = Parts {
            identity,
            relays: relays.clone(),
            wallet: Some(Arc::new(wallet)),
            backend: Arc::new(Echo),
            store: JobStore::open(&self.home.jobs_file())?,
            clock: Clock::system(),
        };
        let config = ProviderConfig {
            stream,
            name: "demo provider".to_owned(),
            about: "Repeats what it is asked".to_owned(),
            ..ProviderConfig::new(
                ChannelChoice::Create { renew: false },
                vec![self.relay.clone()],
                Network::Regtest,
            )
        };
        let price = config.price.per_request;
        let shutdown = Shutdown::default();
        let (tell, mut told) = mpsc::channel(64);
        let mut seller = Seller {
            work: JoinSet::new(),
            shutdown: shutdown.clone(),
        };
        seller.work.spawn(async move {
            let sold = provider::run(config, parts, tell, shutdown).await;
            relays.close().await;
            sold
        });
        loop {
            tokio::select! {
                event = told.recv() => match event {
                    Some(ProviderEvent::Ready { .. }) => break,
                    Some(_) => {}
                    None => return Err(Error::new(Code::Internal, "the demo's provider did not start")),
                },
                Some(ended) = seller.work.join_next() => {
                    let early = || Error::new(Code::Internal, "the demo's provider ended early");
                    return Err(ended.ok().and_then(Result::err).unwrap_or_else(early));
                }
            }
        }
        // Its later reports are its own business; here the customer's side is shown.
        seller.work.spawn(async move {
            while told.recv().await.is_some() {}
            Ok(())
        });
        out.note(&format!(
            "provider   {} sells `echo` for {price}",
            short(&key)
        ));
        Ok(seller)
    }

    /// Buys one job, as any customer would.
    async fn buy(&self, prompt: &str, escrow: bool, out: &Output) -> Result<()> {
        let identity = self.identity(Role::Customer).await?;
        let key = identity.public_key().to_hex();
        let wallet = open_sim(&self.sim, &identity).await?;
        let balance = wallet.balance().await.map_err(crate::cli::wallets::told)?;
        out.note(&format!(
            "customer   {} has {balance} of play money",
            short(&key)
        ));
        let client = ComputeClient::builder()
            .home(self.home.clone())
            .config(Config::default())
            .identity(identity)
            .relays(self.relay.clone())
            .wallet(Arc::new(wallet))
            .build()
            .await?;
        let request = PurchaseRequest {
            escrow,
            ..PurchaseRequest::new(prompt)
        };
        let mut signals = signals::Stop::new()?;
        let show = |event: &PurchaseEvent| {
            if let Some(step) = step(event) {
                out.note(&step);
            }
            if let Some(status) = waiting_for(event) {
                out.status(&status);
            }
        };
        let bought = watch(client.purchase(request), &mut signals, out, show).await;
        client.close().await;
        out.note(&summary(&bought?, &WalletChoice::Sim(self.sim.clone())));
        Ok(())
    }
}

/// A step of the purchase as a line for people.
fn step(event: &PurchaseEvent) -> Option<String> {
    Some(match event {
        PurchaseEvent::Provider(seen) => {
            format!("found      {} ({})", short(&seen.provider), seen.name)
        }
        PurchaseEvent::Selected { provider, .. } => format!("selected   {}", short(provider)),
        PurchaseEvent::Requested { job_id, .. } => format!("requested  {job_id}"),
        PurchaseEvent::Quoted { price_msat, .. } => {
            format!("quoted     {price_msat}; the invoice passed every check")
        }
        PurchaseEvent::Reserved { reserved_msat, .. } => {
            format!("reserved   {reserved_msat} within the limits")
        }
        PurchaseEvent::Paying { payment_hash, .. } => {
            format!("paying     {}", short(&payment_hash.to_string()))
        }
        PurchaseEvent::Locked { amount_msat, .. } => {
            format!("locked     {amount_msat} until the result is here")
        }
        PurchaseEvent::Released { .. } => {
            "released   the preimage: the result is on record".to_owned()
        }
        PurchaseEvent::Paid {
            price_msat,
            fee_msat,
            ..
        } => {
            format!("paid       {price_msat}, fee {fee_msat}")
        }
        _ => return None,
    })
}

/// Where the demo keeps its files: a folder that is named, or one that is gone afterwards.
enum Place {
    Named(PathBuf),
    Temporary(PathBuf),
}

impl Place {
    fn new(named: Option<PathBuf>) -> Result<Self> {
        if let Some(folder) = named {
            return Ok(Self::Named(folder));
        }
        // Random enough that nobody can have put something there before.
        let name = Keys::generate().public_key().to_hex();
        let folder = std::env::temp_dir().join(format!("agent-compute-demo-{name}"));
        crate::secret::make_private_folder(&folder)
            .map_err(|error| Error::new(Code::Usage, format!("{}: {error}", folder.display())))?;
        Ok(Self::Temporary(folder))
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Named(folder) | Self::Temporary(folder) => folder,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Temporary(folder) = self
            && let Err(error) = std::fs::remove_dir_all(&*folder)
        {
            tracing::warn!(folder = %folder.display(), %error, "the demo's folder stays");
        }
    }
}

//! `agent-provider (--create-channel | --channel ID)`: sells until told to stop.

use serde::Serialize;
use tokio::sync::mpsc;

use crate::cli::output::Output;
use crate::cli::settings::{ChannelChoice as Chosen, SaleSettings, Settings, WalletChoice};
use crate::cli::signals;
use crate::cli::wallets::open_wallet;
use crate::clock::Clock;
use crate::config::Role;
use crate::error::{Code, Error, Result};
use crate::protocol::Price;
use crate::provider::store::JobStore;
use crate::provider::{self, ChannelChoice, Parts, ProviderConfig, ProviderEvent, Shutdown};
use crate::relay::RelaySession as _;
use crate::relay::pool::{PoolOptions, RelayPoolSession};
use crate::units::Network;

/// How many events may wait to be printed.
const EVENTS_WAITING: usize = 256;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a ProviderEvent,
}

/// Sells until SIGINT or SIGTERM; then finishes paid jobs and leaves. A second signal stops at once.
///
/// # Errors
/// If something it needs can't be opened, or no relay can be reached at the start.
pub async fn run(settings: Settings, sale: SaleSettings, out: &Output) -> Result<()> {
    if settings.wallet == WalletChoice::Without {
        out.note("--no-wallet: works for everybody who says to have paid; regtest only");
    }
    settings.home.make_folder(Role::Provider)?;
    let (identity, _) = settings.open_identity(|note| out.note(note)).await?;
    // Listened for before READY, whose reader may send a signal right away, and after the question for a
    // password.
    let mut signals = signals::Stop::new()?;
    let backend = sale.backend.open(|note| out.note(note)).await?;
    let wallet = open_wallet(&settings, &identity).await?;
    if let WalletChoice::Sim(sim) = &settings.wallet {
        out.note(&format!("paid in play money of {}", sim.bank.display()));
    }
    let network = wallet
        .as_ref()
        .map_or(Network::Regtest, |wallet| wallet.network());
    let relays = RelayPoolSession::connect(&settings.relays, PoolOptions::default())
        .map_err(|error| Error::new(Code::Usage, error.to_string()))?;
    let parts = Parts {
        identity,
        relays: relays.clone(),
        wallet,
        backend,
        store: JobStore::open(&settings.home.jobs_file())?,
        clock: Clock::system(),
    };
    let config = config(&settings, sale, network);
    let shutdown = Shutdown::default();
    let (tell, mut told) = mpsc::channel(EVENTS_WAITING);
    let sold = provider::run(config, parts, tell, shutdown.clone());
    tokio::pin!(sold);
    let mut telling = true;
    let outcome = loop {
        tokio::select! {
            outcome = &mut sold => break outcome,
            event = told.recv(), if telling => match event {
                Some(event) => print(&event, out),
                None => telling = false,
            },
            () = signals.asked() => {
                if shutdown.finish.is_cancelled() {
                    shutdown.now.cancel();
                } else {
                    out.note("stopping: finishing what is paid (again to stop at once)");
                    shutdown.finish.cancel();
                }
            }
        }
    };
    while let Ok(event) = told.try_recv() {
        print(&event, out);
    }
    relays.close().await;
    if shutdown.now.is_cancelled() && outcome.is_ok() {
        return Err(Error::new(
            Code::Interrupted,
            "stopped at once; what is paid is finished after the next start",
        ));
    }
    outcome
}

fn config(settings: &Settings, sale: SaleSettings, network: Network) -> ProviderConfig {
    let channel = match sale.channel {
        Chosen::Own => ChannelChoice::Create { renew: false },
        Chosen::New => ChannelChoice::Create { renew: true },
        Chosen::Join(id) => ChannelChoice::Join(id),
    };
    ProviderConfig {
        models: sale.models,
        price: Price {
            per_request: sale.price,
            per_1k_tokens: sale.price_per_1k_tokens,
        },
        stream: sale.stream,
        escrow: settings.config.provider.escrow,
        max_jobs: usize::try_from(sale.max_jobs).unwrap_or(usize::MAX),
        announce_every: sale.announce_every,
        name: sale.name,
        about: sale.description,
        ..ProviderConfig::new(channel, settings.relays.clone(), network)
    }
}

/// stdout: data for the one who started it. Jobs go to stderr, for people.
fn print(event: &ProviderEvent, out: &Output) {
    out.object(&Line { event });
    if out.is_json() {
        return;
    }
    match event {
        ProviderEvent::ChannelCreated { channel } => {
            out.line(&format!("CHANNEL CREATED: {}", channel.to_hex()));
        }
        ProviderEvent::Ready { pubkey, .. } => out.line(&format!("READY {}", pubkey.to_hex())),
        ProviderEvent::Chunk { .. } => {}
        ProviderEvent::Quoted {
            job_id, price_msat, ..
        } => {
            out.note(&format!("{job_id} quoted {price_msat}"));
        }
        ProviderEvent::Paid {
            job_id, price_msat, ..
        } => {
            out.note(&format!("{job_id} paid {price_msat}"));
        }
        ProviderEvent::Queued { job_id, position } => {
            let waits = match position {
                0 => "waits for a slot".to_owned(),
                1 => "waits behind another".to_owned(),
                others => format!("waits behind {others} others"),
            };
            out.note(&format!("{job_id} {waits}"));
        }
        ProviderEvent::Held {
            job_id, price_msat, ..
        } => {
            out.note(&format!("{job_id} holds {price_msat} in escrow"));
        }
        ProviderEvent::Released { job_id } => out.note(&format!("{job_id} released")),
        ProviderEvent::Settled { job_id, price_msat } => {
            out.note(&format!("{job_id} settled {price_msat}"));
        }
        ProviderEvent::Unreleased { job_id, price_msat } => {
            out.note(&format!(
                "{job_id} NOT RELEASED: delivered, and {price_msat} went back"
            ));
        }
        ProviderEvent::Undone { job_id, reason, .. } => {
            out.note(&format!("{job_id} failed, its money goes back: {reason}"));
        }
        ProviderEvent::Returned { job_id, price_msat } => {
            out.note(&format!("{job_id} returned {price_msat}"));
        }
        ProviderEvent::Started { job_id, model } => out.note(&format!("{job_id} runs on {model}")),
        ProviderEvent::Delivered { job_id, .. } => out.note(&format!("{job_id} delivered")),
        ProviderEvent::Refused { job_id, code, .. } => {
            out.note(&format!("{job_id} refused: {code}"));
        }
        ProviderEvent::Failed {
            job_id,
            price_msat,
            reason,
        } => {
            out.note(&format!("{job_id} FAILED, {price_msat} are owed: {reason}"));
        }
        ProviderEvent::Expired { job_id } => out.note(&format!("{job_id} was not paid in time")),
        ProviderEvent::Cancelled { job_id } => out.note(&format!("{job_id} cancelled")),
    }
}

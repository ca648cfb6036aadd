//! `recover`: settles what was left open, and fetches results that came late.

use crate::cli::customer::Resolution;
use crate::cli::output::Output;
use crate::cli::settings::{Settings, WalletChoice};
use crate::cli::signals;
use crate::cli::text::entry;
use crate::cli::wallets::refuse_new_bank;
use crate::cli::watch::{client_builder, open_looker, short};
use crate::client::{ComputeClient, Recovered};
use crate::error::{Code, Error, Result};
use crate::ids::PurchaseId;
use crate::units::Msat;

/// Recovers everything, or settles one payment by the owner's word.
///
/// # Errors
/// [`Code::PaymentUnknown`] while a payment is in doubt, [`Code::Network`] when the wallet can't be reached.
pub async fn run(
    settings: Settings,
    resolution: Option<(PurchaseId, Resolution)>,
    out: &Output,
) -> Result<()> {
    let mut wallet_trouble = None;
    let done = if let Some((purchase, word)) = resolution {
        // The owner's word needs no wallet: it is for when the wallet is gone.
        let client = open_looker(&settings, out).await?;
        let paid = word == Resolution::Paid;
        let resolved = client.resolve(&purchase.to_string(), paid).await;
        client.close().await;
        vec![resolved?]
    } else {
        let client = match with_wallet(&settings, out).await {
            Ok(client) => client,
            // Without its wallet no payment is decided, but all else is.
            Err(error) if matches!(error.code(), Code::Wallet | Code::Network) => {
                wallet_trouble = Some(error);
                open_looker(&settings, out).await?
            }
            Err(error) => return Err(error),
        };
        let mut signals = signals::Stop::new()?;
        out.status("recovering");
        let recovered = signals.or(client.recover()).await;
        client.close().await;
        out.clear_status();
        recovered?
    };
    for one in &done {
        out.event("recovered", one);
        out.line(&entry(&line(one)));
        if let Some(text) = &one.text {
            out.line(text);
        }
    }
    if done.is_empty() {
        out.note("nothing is open");
    }
    verdict(&done, wallet_trouble)
}

/// The client that can ask the wallet, where one is configured.
async fn with_wallet(settings: &Settings, out: &Output) -> Result<ComputeClient> {
    match &settings.wallet {
        WalletChoice::Unset => return open_looker(settings, out).await,
        WalletChoice::Sim(sim) => refuse_new_bank(settings, sim).await?,
        _ => {}
    }
    let builder = client_builder(settings, out).await?;
    builder.without_recovery().build().await
}

fn line(one: &Recovered) -> String {
    let trouble = one
        .trouble
        .as_ref()
        .map(|trouble| format!(": {}", trouble.message))
        .unwrap_or_default();
    format!(
        "{}  {} -> {}  paid {}, reserved {}{trouble}",
        short(&one.purchase_id.to_string()),
        one.was,
        one.state,
        one.paid_msat,
        one.reserved_msat
    )
}

fn verdict(done: &[Recovered], wallet_trouble: Option<Error>) -> Result<()> {
    let reserved = done
        .iter()
        .fold(Msat::ZERO, |sum, one| sum.saturating_add(one.reserved_msat));
    let troubles = || done.iter().filter_map(|one| one.trouble.as_ref());
    let Some(first) = troubles().next() else {
        return Ok(());
    };
    if let Some(error) = wallet_trouble {
        let message = format!("{}; the money stays reserved", error.message());
        return Err(Error::new(Code::Network, message).with_money(Msat::ZERO, reserved));
    }
    // The wallet's silence before its doubt: it is what can be mended.
    let worst = troubles()
        .find(|trouble| trouble.code == Code::Network)
        .unwrap_or(first);
    let code = match worst.code {
        Code::Network => Code::Network,
        _ => Code::PaymentUnknown,
    };
    Err(Error::new(code, worst.message.clone()).with_money(Msat::ZERO, reserved))
}

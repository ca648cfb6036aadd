//! A purchase as the terminal shows it, and the client that makes it.

use super::output::Output;
use super::pieces::Pieces;
use super::settings::{Settings, WalletChoice};
use super::signals;
use super::text::one_line;
use super::wallets::open_wallet;
use crate::client::{Builder, ComputeClient, ProviderSeen, Purchase, PurchaseEvent, Receipt};
use crate::error::{Code, Error, Result};
use crate::protocol::Feature;
use crate::protocol::record::Summary;
use crate::units::Msat;

/// Characters of a provider's name that are shown.
pub const LONGEST_NAME: usize = 60;

/// Characters of what a provider that failed said, and of what else is told of it.
const LONGEST_FAILURE: usize = 300;

/// Characters of the list of its models that are shown.
const LONGEST_MODELS: usize = 200;

/// Opens a client, and says what that settled.
///
/// # Errors
/// If one of them can't be opened, or `signals` say stop.
pub async fn open_client(
    builder: Builder,
    signals: &mut signals::Stop,
    out: &Output,
) -> Result<ComputeClient> {
    let client = signals.or(builder.build()).await?;
    for one in client.recovered() {
        let id = &one.purchase_id;
        out.note(&format!(
            "left open earlier: purchase {id} was {}, is {}, paid {}, reserved {}",
            one.was, one.state, one.paid_msat, one.reserved_msat
        ));
    }
    Ok(client)
}

/// The client of these settings, in the making.
///
/// # Errors
/// If the identity or the wallet can't be opened.
pub async fn client_builder(settings: &Settings, out: &Output) -> Result<Builder> {
    let relays = settings.relays.clone();
    let builder = ComputeClient::builder().relays(relays).dial()?;
    let (identity, _) = settings.open_identity(|note| out.note(note)).await?;
    let builder = match open_wallet(settings, &identity).await? {
        Some(wallet) => builder.wallet(wallet),
        None => builder.no_wallet(),
    };
    Ok(builder
        .home(settings.home.clone())
        .config(settings.config.clone())
        .identity(identity))
}

/// Opens a client that buys nothing, for commands that need no wallet.
///
/// # Errors
/// If the ledger can't be opened.
pub async fn open_looker(settings: &Settings, out: &Output) -> Result<ComputeClient> {
    looker_builder(settings, out).await?.build().await
}

/// The same in the making.
///
/// # Errors
/// If the identity can't be opened.
pub async fn looker_builder(settings: &Settings, out: &Output) -> Result<Builder> {
    let relays = settings.relays.clone();
    let builder = ComputeClient::builder().relays(relays).dial()?;
    let (identity, _) = settings.open_identity(|note| out.note(note)).await?;
    let builder = builder
        .looks_only()
        .home(settings.home.clone())
        .config(settings.config.clone())
        .identity(identity);
    Ok(match settings.network {
        Some(network) => builder.network(network),
        None => builder,
    })
}

/// Shows a purchase as it goes, until it is over. The first signal stops it in good order, the second at
/// once; either way the ledger is left recoverable.
///
/// # Errors
/// Those of the purchase.
pub async fn watch(
    mut purchase: Purchase,
    signals: &mut signals::Stop,
    out: &Output,
    mut show: impl FnMut(&PurchaseEvent),
) -> Result<Receipt> {
    let mut cut_off = Error::new(Code::Interrupted, "stopped");
    let mut stopped = false;
    let mut pieces = Pieces::default();
    loop {
        let event = tokio::select! {
            event = purchase.next_event() => event,
            () = signals.asked() => {
                if stopped {
                    return Err(cut_off);
                }
                stopped = true;
                out.status("stopping");
                purchase.stop();
                continue;
            }
        };
        let Some(event) = event else { break };
        show(&event);
        cut_off = as_of(cut_off, &event);
        pieces.see(&event, out);
        out.object(&event);
    }
    let receipt = purchase.receipt().await;
    out.clear_status();
    pieces.end(receipt.as_ref().ok(), out)?;
    receipt
}

/// What is to be said if the program ends before the next event.
fn as_of(error: Error, event: &PurchaseEvent) -> Error {
    match event {
        PurchaseEvent::Selected {
            purchase_id: Some(id),
            ..
        } => error.of(*id),
        PurchaseEvent::Reserved { reserved_msat, .. } => {
            error.with_money(Msat::ZERO, *reserved_msat)
        }
        // Nothing of it is paid or set aside any more.
        PurchaseEvent::FailedOver { .. } => error.with_money(Msat::ZERO, Msat::ZERO),
        PurchaseEvent::Paid {
            price_msat,
            fee_msat,
            ..
        } => error.with_money(price_msat.saturating_add(*fee_msat), Msat::ZERO),
        _ => error,
    }
}

/// What is being waited for, in words.
#[must_use]
pub fn waiting_for(event: &PurchaseEvent) -> Option<String> {
    Some(match event {
        PurchaseEvent::Selected { .. } => "asking the provider".to_owned(),
        PurchaseEvent::Requested { .. } => "waiting for the invoice".to_owned(),
        PurchaseEvent::Paying { .. } => "paying".to_owned(),
        PurchaseEvent::Paid { .. } => "waiting for the result".to_owned(),
        PurchaseEvent::Locked { .. } => "waiting for the result; the money is locked".to_owned(),
        PurchaseEvent::Released { .. } => "waiting for the provider to claim the money".to_owned(),
        _ => return None,
    })
}

/// One line on a provider that failed, and who is asked instead.
#[must_use]
pub fn failed_over(event: &PurchaseEvent) -> Option<String> {
    let PurchaseEvent::FailedOver {
        provider,
        message,
        next_provider,
        ..
    } = event
    else {
        return None;
    };
    let (who, said) = (short(provider), one_line(message, LONGEST_FAILURE));
    Some(format!(
        "{who}: {said}. Asking {} instead",
        short(next_provider)
    ))
}

/// One line on what a purchase cost, for the person at the terminal.
#[must_use]
pub fn summary(receipt: &Receipt, wallet: &WalletChoice) -> String {
    let what = match wallet {
        WalletChoice::Without => "nothing was paid (--no-wallet)".to_owned(),
        WalletChoice::Sim(_) => format!("paid {} of play money", receipt.paid_msat),
        WalletChoice::Nwc(_)
        | WalletChoice::Spark(_)
        | WalletChoice::Process(_)
        | WalletChoice::Unset
        | WalletChoice::Missing(_) => format!("paid {}", receipt.paid_msat),
    };
    let seconds = receipt.elapsed_ms / 1000;
    let tenths = receipt.elapsed_ms % 1000 / 100;
    let claimed = if receipt.reserved_msat.is_zero() {
        ""
    } else {
        ". The provider has yet to claim what was locked for it: `agent-customer recover` sees to that"
    };
    format!(
        "{what} to {} in {seconds}.{tenths} s; purchase {}{claimed}",
        short(&receipt.provider),
        receipt.purchase_id
    )
}

/// The first digits of a key: enough to tell providers apart on a screen.
#[must_use]
pub fn short(key: &str) -> String {
    key.get(..16).unwrap_or(key).to_owned()
}

/// One provider as a line for people.
#[must_use]
pub fn provider_line(seen: &ProviderSeen) -> String {
    let price = match seen.price_msat {
        Some(price) => price.to_string(),
        None => "price unknown".to_owned(),
    };
    let network = seen
        .network
        .map_or("network unknown", crate::units::Network::as_str);
    let features: Vec<&str> = seen.features.iter().copied().map(Feature::as_str).collect();
    let fits = match seen.reason.as_deref() {
        None => "fits".to_owned(),
        Some("unproven") => {
            "left out: unproven, above unproven_limit_sats (--htlc pays into escrow)".to_owned()
        }
        Some(reason) => format!("left out: {reason}"),
    };
    format!(
        "{}  {price}  {network}  {}  [{}]  [{}]  {}  {fits}",
        short(&seen.provider),
        one_line(&seen.name, LONGEST_NAME),
        one_line(&seen.models.join(", "), LONGEST_MODELS),
        features.join(", "),
        record(&seen.record),
    )
}

/// What we know of a provider, in a few words.
fn record(of: &Summary) -> String {
    if of.attempts == 0 {
        return "no record".to_owned();
    }
    let wait = of
        .first_token_ms
        .map(|ms| format!(" in {}.{} s", ms / 1000, ms % 1000 / 100))
        .unwrap_or_default();
    let (delivered, attempts) = (of.delivered, of.attempts);
    format!(
        "delivered {delivered} of {attempts}{wait}, score {}",
        of.score
    )
}

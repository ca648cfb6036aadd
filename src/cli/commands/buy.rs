//! `agent-customer --prompt TEXT`: buys one job.

use crate::cli::output::Output;
use crate::cli::settings::{FindSettings, PurchaseSettings, Settings, WalletChoice};
use crate::cli::signals;
use crate::cli::text::one_line;
use crate::cli::watch::{
    LONGEST_NAME, client_builder, failed_over, open_client, provider_line, short, summary,
    waiting_for, watch,
};
use crate::client::{PurchaseEvent, PurchaseRequest};
use crate::error::Result;

/// Buys, or with `--dry-run` says what would be bought.
///
/// # Errors
/// With the codes of the contract.
pub async fn run(settings: Settings, purchase: PurchaseSettings, out: &Output) -> Result<()> {
    if settings.wallet == WalletChoice::Without {
        out.note("--no-wallet: nothing is paid; only providers in test mode answer");
    }
    let builder = client_builder(&settings, out).await?;
    // From here on nothing waits for the terminal, where Ctrl-C has to work by itself.
    let mut signals = signals::Stop::new()?;
    let client = open_client(builder, &mut signals, out).await?;
    let request = request(&purchase);
    if purchase.dry_run {
        return signals.or(dry_run(&client, &request, out)).await;
    }
    out.status("looking for providers");
    let show = |event: &PurchaseEvent| {
        if let Some(note) = failed_over(event) {
            out.note(&note);
        }
        if let Some(status) = waiting_for(event) {
            out.status(&status);
        }
    };
    let bought = watch(client.purchase(request), &mut signals, out, show).await;
    client.close().await;
    out.note(&summary(&bought?, &settings.wallet));
    Ok(())
}

/// The request that these flags make.
#[must_use]
pub fn find(settings: &FindSettings, prompt: &str) -> PurchaseRequest {
    PurchaseRequest {
        max_tokens: settings.max_tokens,
        model: settings.model.clone(),
        select: settings.select.clone(),
        discover: settings.discover,
        channel: settings.channel,
        max_price: settings.max_price,
        discovery_time: settings.discovery_time,
        ..PurchaseRequest::new(prompt)
    }
}

fn request(purchase: &PurchaseSettings) -> PurchaseRequest {
    PurchaseRequest {
        max_fee: purchase.max_fee,
        tick: purchase.tick.clone(),
        idempotency_key: purchase.idempotency_key.clone(),
        escrow: purchase.htlc,
        retries: purchase.retries,
        timeout: purchase.timeout,
        plaintext: purchase.plaintext,
        ..find(&purchase.find, &purchase.prompt)
    }
}

async fn dry_run(
    client: &crate::client::ComputeClient,
    request: &PurchaseRequest,
    out: &Output,
) -> Result<()> {
    out.status("looking for providers");
    let preview = client.preview(request).await;
    client.close().await;
    out.clear_status();
    let preview = preview?;
    for seen in &preview.providers {
        out.object(&PurchaseEvent::Provider(seen.clone()));
        if !out.is_json() {
            out.note(&provider_line(seen));
        }
    }
    let offer = preview.selected?;
    let price_msat = offer.expected_price(request.max_tokens);
    out.object(&PurchaseEvent::Selected {
        purchase_id: None,
        provider: offer.provider.to_hex(),
        price_msat,
        others: 0,
    });
    let price = price_msat.map_or("an unknown price".to_owned(), |price| price.to_string());
    out.line(&format!(
        "would buy from {} ({}) for {price}",
        short(&offer.provider.to_hex()),
        one_line(&offer.name, LONGEST_NAME)
    ));
    Ok(())
}

//! `providers`: who can be found, what we know of them, and why each would or would not be bought from.

use super::buy::find;
use super::record::{open_books, scope};
use crate::cli::customer::FindArgs;
use crate::cli::output::Output;
use crate::cli::settings::{FindSettings, Settings};
use crate::cli::signals;
use crate::cli::watch::{looker_builder, provider_line};
use crate::client::PurchaseEvent;
use crate::error::Result;

/// Lists providers, the suitable ones first.
///
/// # Errors
/// If no relay can be reached, nobody is found at all, or the ledger can't be read.
pub async fn run(settings: Settings, args: FindArgs, out: &Output) -> Result<()> {
    out.without_advice();
    let request = find(&FindSettings::resolve(&args, &settings), "");
    let books = open_books(&settings).await?;
    let scope = scope(&settings, books.as_ref()).await?;
    let client = looker_builder(&settings, out)
        .await?
        .books(scope)
        .build()
        .await?;
    out.status("looking for providers");
    let preview = signals::Stop::new()?.or(client.preview(&request)).await;
    client.close().await;
    out.clear_status();
    let preview = preview?;
    if preview.providers.is_empty() {
        preview.selected?;
    }
    for seen in preview.providers {
        out.line(&provider_line(&seen));
        out.object(&PurchaseEvent::Provider(seen));
    }
    Ok(())
}

//! `history`: past purchases, newest first, or all of them for the owner's books.

use jiff::Timestamp;

use super::books;
use super::record::{Entry, open_books};
use crate::cli::customer::Export;
use crate::cli::output::Output;
use crate::cli::settings::{Settings, WalletChoice};
use crate::cli::watch::short;
use crate::error::Result;
use crate::ledger::HistoryQuery;
use crate::units::UnixSecs;

/// How many purchases are listed.
const MOST: u32 = 1000;

/// Lists the purchases of the chosen wallet's network; of all, if no wallet or network is chosen.
///
/// # Errors
/// If the ledger can't be read.
pub async fn run(settings: Settings, export: Option<Export>, out: &Output) -> Result<()> {
    let chosen = settings.wallet != WalletChoice::Unset || settings.network.is_some();
    let query = HistoryQuery {
        scope: chosen.then(|| settings.scope()),
        limit: MOST,
    };
    let ledger = open_books(&settings).await?;
    if let Some(form) = export {
        return books::export(ledger.as_ref(), query.scope, form, out).await;
    }
    let Some(ledger) = ledger else {
        return Ok(());
    };
    for record in ledger.history(query).await? {
        // One purchase that can't be read does not hide the others.
        let entry = match Entry::of(&record) {
            Ok(entry) => entry,
            Err(error) => {
                out.note(error.message());
                continue;
            }
        };
        out.object(&entry);
        out.line(&line(&entry));
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    let money = match (entry.paid_msat.is_zero(), entry.reserved_msat.is_zero()) {
        (false, _) => format!("paid {}", entry.paid_msat),
        (true, false) => format!("reserved {}", entry.reserved_msat),
        (true, true) => "paid nothing".to_owned(),
    };
    let play = if entry.play_money {
        " (play money)"
    } else {
        ""
    };
    format!(
        "{}  {}  {:<15}  {money}{play}  {}",
        entry.purchase_id,
        when(entry.created_at),
        entry.state,
        match &entry.provider {
            Some(provider) => short(provider),
            None => "by hand".to_owned(),
        }
    )
}

/// A moment as people read it, in UTC.
pub(super) fn when(at: UnixSecs) -> String {
    i64::try_from(at.get())
        .ok()
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .map_or_else(|| at.get().to_string(), |time| time.to_string())
}

//! `wallet pay`: an invoice paid by hand, within the owner's limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cli::args::PayArgs;
use crate::cli::ask::{can_ask, is_sure, tell};
use crate::cli::output::Output;
use crate::cli::prompt::read_text;
use crate::cli::settings::Settings;
use crate::cli::signals;
use crate::cli::text::{entry, one_line};
use crate::clock::Clock;
use crate::config::{Role, default_fee_cap};
use crate::error::{Code, Error, Result};
use crate::ledger::{BudgetReport, Ledger, Scope};
use crate::purchase::payment::{Bill, Desk, Paid, pay};
use crate::wallet::Wallet;
use crate::wallet::invoice::MAX_BYTES;

/// Characters of an invoice's description that are shown.
const LONGEST_DESCRIPTION: usize = 100;

/// Asks, pays, and says what came of it.
///
/// # Errors
/// [`Code::Usage`] if there is nobody to ask, [`Code::Interrupted`] if the answer is no, and those of
/// [`pay`](crate::purchase::payment::pay).
pub(super) async fn run(
    settings: &Settings,
    wallet: Arc<dyn Wallet>,
    args: PayArgs,
    out: &Output,
) -> Result<()> {
    if settings.role != Role::Customer {
        let message = "wallet pay: limits are kept by agent-customer, which pays within them; nothing was paid";
        return Err(Error::new(Code::Usage, message));
    }
    // There is no other provider to turn to.
    out.without_advice();
    let clock = Clock::system();
    let max_hold = settings.config.policy.max_hold_secs;
    let bill = Bill::check(
        &invoice_text(&args.invoice)?,
        wallet.network(),
        max_hold,
        clock.now(),
    )
    .map_err(|problem| {
        let message = format!("the invoice was refused: {problem}; nothing was paid");
        Error::new(Code::BadInvoice, message)
    })?;
    let folder = settings.home.make_folder(Role::Customer)?;
    let desk = Desk {
        ledger: Ledger::open(&folder, clock.clone()).await?,
        wallet,
        limits: settings.limits(),
        clock,
    };
    if !args.yes {
        ask(&desk, &bill, &args).await?;
    }
    let paid = see_through(&desk, bill, &args, out).await?;
    say(&paid, &*desk.wallet, out);
    Ok(())
}

/// The invoice itself, or what stdin has of it.
fn invoice_text(given: &str) -> Result<String> {
    match given {
        // `lightning:` and line ends come on top.
        "-" => read_text("stdin", io::stdin().lock(), 2 * MAX_BYTES as u64),
        given => Ok(given.to_owned()),
    }
}

async fn ask(desk: &Desk, bill: &Bill, args: &PayArgs) -> Result<()> {
    if !can_ask() {
        let message = "wallet pay asks before it pays, and there is no terminal to ask at: --yes pays \
                       without asking; nothing was paid";
        return Err(Error::new(Code::Usage, message));
    }
    let wallet = &desk.wallet;
    let play_money = wallet.capabilities().play_money;
    let scope = Scope {
        network: wallet.network(),
        play_money,
    };
    let tick = args.tick.as_deref();
    let report = desk.ledger.budget(scope, tick, desk.limits).await?;
    tell(&question(bill, args, &report, play_money));
    if !is_sure("Type yes to pay: ")? {
        return Err(Error::new(Code::Interrupted, "nothing was paid"));
    }
    Ok(())
}

fn question(bill: &Bill, args: &PayArgs, report: &BudgetReport, play_money: bool) -> String {
    let play = if play_money { " of play money" } else { "" };
    let cap = args.max_fee.unwrap_or_else(|| default_fee_cap(bill.amount));
    let words = match one_line(&bill.description, LONGEST_DESCRIPTION) {
        words if words.is_empty() => "(the invoice does not say)".to_owned(),
        words => words,
    };
    format!(
        "{}{play}, and at most {cap} for routing\n  to    {}\n  for   {}\n  left  {} of today's {}",
        bill.amount,
        bill.payee,
        entry(&words),
        report.left_today(),
        report.limits.daily,
    )
}

/// The first signal stops it in good order, the second at once; either way the ledger is left recoverable.
async fn see_through(desk: &Desk, bill: Bill, args: &PayArgs, out: &Output) -> Result<Paid> {
    let mut signals = signals::Stop::new()?;
    let stop = CancellationToken::new();
    out.status("paying");
    let patience = Duration::from_secs(args.timeout);
    let paying = pay(desk, bill, args.max_fee, args.tick.clone(), patience, &stop);
    tokio::pin!(paying);
    let paid = loop {
        tokio::select! {
            paid = &mut paying => break paid,
            () = signals.asked() => {
                if stop.is_cancelled() {
                    let message = "stopped; run `agent-customer recover`";
                    break Err(Error::new(Code::Interrupted, message));
                }
                stop.cancel();
            }
        }
    };
    out.clear_status();
    paid
}

fn say(paid: &Paid, wallet: &dyn Wallet, out: &Output) {
    out.object(paid);
    let play = if wallet.capabilities().play_money {
        " of play money"
    } else {
        ""
    };
    out.note(&format!(
        "paid {}{play}, fee {}; payment {}",
        paid.amount_msat, paid.fee_msat, paid.purchase_id
    ));
    match &paid.preimage {
        Some(preimage) => out.line(preimage),
        None => out.note("the wallet tells no preimage: there is no proof of payment but its word"),
    }
}

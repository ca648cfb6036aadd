//! `wallet`: what the wallet has, and how money gets into it and out of it.

mod connect;
mod pay;
mod spark;

use std::sync::Arc;

use serde::Serialize;

use crate::cli::args::WalletCommand;
use crate::cli::commands::history::when;
use crate::cli::output::Output;
use crate::cli::qr;
use crate::cli::settings::{Settings, WalletChoice};
use crate::cli::text::{entry, one_line};
use crate::cli::wallets::{open_sim, open_spark, open_wallet, refuse_new_bank, told};
use crate::error::{Code, Error, Result};
use crate::ids::PaymentHash;
use crate::units::{Msat, Network};
use crate::wallet::{Direction, InvoiceRequest, MovementState, Wallet, WalletError};

pub(in crate::cli) use self::connect::missing;

/// How long an invoice made by hand can be paid, in seconds: an hour.
const INVOICE_EXPIRY_SECS: u64 = 3600;

/// Characters of a description that are shown: strangers write them.
const LONGEST_DESCRIPTION: usize = 60;

#[derive(Serialize)]
struct Balance<'a> {
    balance_msat: Msat,
    network: Network,
    play_money: bool,
    wallet: &'a str,
    account: &'a str,
}

#[derive(Serialize)]
struct Address<'a> {
    address: &'a str,
    addresses: &'a [String],
    wallet: &'a str,
    play_money: bool,
}

#[derive(Serialize)]
struct Invoice<'a> {
    bolt11: &'a str,
    payment_hash: PaymentHash,
    amount_msat: Msat,
}

/// Does what `wallet` was asked for.
///
/// # Errors
/// [`Code::Wallet`] if there is no such wallet or it can't do this, [`Code::Network`] if it can't be
/// reached, [`Code::Usage`] for what this kind of wallet has no use for.
pub async fn run(settings: Settings, command: WalletCommand, out: &Output) -> Result<()> {
    if let WalletCommand::Setup { words } = &command {
        return connect::run(&settings, words, out).await;
    }
    if let (WalletChoice::Nwc(nwc), WalletCommand::Address { no_qr }) = (&settings.wallet, &command)
        && let Ok(Some(connection)) = &nwc.connection
        && let Some(address) = connection.lightning_address()
    {
        // Without asking the wallet, which need not be there.
        return addresses_of("nwc", &[address.to_owned()], false, *no_qr, out);
    }
    let wallet: Arc<dyn Wallet> = match &settings.wallet {
        WalletChoice::Sim(sim) => {
            let (identity, _) = settings.open_identity(|made| out.note(made)).await?;
            refuse_new_bank(&settings, sim).await?;
            let wallet = open_sim(sim, &identity).await?;
            if let WalletCommand::Fund { amount } = command {
                wallet.fund(amount.sats_floor()).await.map_err(told)?;
                return balance(&wallet, out).await;
            }
            Arc::new(wallet)
        }
        WalletChoice::Spark(spark) => {
            let (identity, _) = settings.open_identity(|made| out.note(made)).await?;
            Arc::new(open_spark(spark, &identity).await?)
        }
        _ => {
            // Its identity is not needed, so none is made for nothing.
            let nobody = crate::identity::Identity::from_keys(nostr::Keys::generate());
            open_wallet(&settings, &nobody)
                .await?
                .ok_or_else(|| Error::new(Code::Wallet, "--no-wallet: there is no wallet"))?
        }
    };
    match command {
        WalletCommand::Balance => balance(&*wallet, out).await,
        WalletCommand::Address { no_qr } => address(&*wallet, no_qr, out).await,
        WalletCommand::Invoice { amount_sats, no_qr } => {
            let bolt11 = invoice(&*wallet, amount_sats, out).await?;
            if !no_qr {
                qr::show(&qr::of_invoice(&bolt11), out);
            }
            Ok(())
        }
        WalletCommand::Pay(args) => pay::run(&settings, wallet, args, out).await,
        WalletCommand::History { limit } => history(&*wallet, limit, out).await,
        WalletCommand::Fund { .. } => Err(Error::new(
            Code::Usage,
            "wallet fund: only play money can be made; `wallet invoice` asks for the real kind",
        )),
        WalletCommand::Setup { .. } => Ok(()),
    }
}

async fn address(wallet: &dyn Wallet, no_qr: bool, out: &Output) -> Result<()> {
    let addresses = match wallet.addresses().await {
        Err(WalletError::Unsupported(_)) => Vec::new(),
        other => other.map_err(told)?,
    };
    let play_money = wallet.capabilities().play_money;
    addresses_of(&wallet.id().kind, &addresses, play_money, no_qr, out)
}

fn addresses_of(
    wallet: &str,
    addresses: &[String],
    play_money: bool,
    no_qr: bool,
    out: &Output,
) -> Result<()> {
    let Some(address) = addresses.first() else {
        let message =
            "this wallet tells no address; `wallet invoice --amount-sats N` makes an invoice";
        return Err(Error::new(Code::Wallet, message));
    };
    out.object(&Address {
        address,
        addresses,
        wallet,
        play_money,
    });
    for address in addresses {
        out.line(address);
    }
    if !no_qr {
        qr::show(address, out);
    }
    Ok(())
}

async fn history(wallet: &dyn Wallet, limit: u32, out: &Output) -> Result<()> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let movements = wallet.history(limit).await.map_err(told)?;
    if movements.is_empty() {
        out.note("nothing yet");
    }
    for movement in &movements {
        out.object(movement);
        let sign = match movement.direction {
            Direction::Incoming => '+',
            Direction::Outgoing => '-',
        };
        let at = movement.created_at.map_or_else(String::new, when);
        let state = match movement.state {
            MovementState::Pending => "pending",
            MovementState::Settled => "settled",
            MovementState::Failed => "failed",
        };
        let fee = movement.fee_msat.filter(|fee| !fee.is_zero());
        let fee = fee.map_or(String::new(), |fee| format!(" (fee {fee})"));
        let words = movement.description.as_deref().unwrap_or_default();
        let words = one_line(words, LONGEST_DESCRIPTION);
        out.line(&entry(&format!(
            "{at:<20}  {state:<7}  {sign}{}{fee}  {words}",
            movement.amount_msat
        )));
    }
    Ok(())
}

async fn balance(wallet: &dyn Wallet, out: &Output) -> Result<()> {
    let balance = wallet.balance().await.map_err(told)?;
    let play_money = wallet.capabilities().play_money;
    out.object(&Balance {
        balance_msat: balance,
        network: wallet.network(),
        play_money,
        wallet: &wallet.id().kind,
        account: &wallet.id().account,
    });
    out.line(&balance.to_string());
    if play_money && !out.is_json() {
        out.note("(play money)");
    }
    Ok(())
}

async fn invoice(wallet: &dyn Wallet, amount: Msat, out: &Output) -> Result<String> {
    let request = InvoiceRequest {
        amount,
        expiry_secs: INVOICE_EXPIRY_SECS,
        hold: None,
        description: "agent-compute".to_owned(),
    };
    let invoice = wallet.invoice(request).await.map_err(told)?;
    out.object(&Invoice {
        bolt11: &invoice.bolt11,
        payment_hash: invoice.payment_hash,
        amount_msat: invoice.amount,
    });
    out.line(&invoice.bolt11);
    Ok(invoice.bolt11)
}

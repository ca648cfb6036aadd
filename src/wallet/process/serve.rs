//! The other side: a wallet of this library as a program of its own.

use std::io;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec};

use super::wire::{
    Addresses, Answer, Balance, Call, Fee, Hello, History, IncomingState, Line, MAX_LINE_BYTES,
    Made, News, PayState, Problem, Request, VERSION,
};
use crate::wallet::{InvoiceRequest, PayRequest, Wallet, WalletError};

/// Lines that wait to be written.
const WAITING: usize = 64;

/// Answers requests for `wallet` until `input` ends, then finishes what was begun.
///
/// ```no_run
/// # async fn example(wallet: std::sync::Arc<dyn agent_compute::wallet::Wallet>) -> std::io::Result<()> {
/// agent_compute::wallet::process::serve(wallet, tokio::io::stdin(), tokio::io::stdout()).await
/// # }
/// ```
///
/// # Errors
/// If `input` is no protocol, or `output` can't be written to.
pub async fn serve(
    wallet: Arc<dyn Wallet>,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
) -> io::Result<()> {
    let (tell, mut to_write) = mpsc::channel::<String>(WAITING);
    let mut tasks = JoinSet::new();
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        let mut output = FramedWrite::new(output, LinesCodec::new());
        while let Some(line) = to_write.recv().await {
            output.send(line).await.map_err(io::Error::other)?;
        }
        Ok::<(), io::Error>(())
    });
    let mut news = JoinSet::new();
    if let Some(mut changes) = wallet.changes() {
        let tell = tell.clone();
        news.spawn(async move {
            while changes.changed().await.is_ok() {
                let changed = Line::News {
                    method: News::Changed,
                };
                if say(&tell, &changed).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut lines = FramedRead::new(input, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    while let Some(line) = lines.next().await {
        let line = line.map_err(io::Error::other)?;
        let request = match serde_json::from_str::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                // A later version may ask what this one does not know.
                let asked = serde_json::from_str::<Value>(&line).ok();
                let id = asked.as_ref().and_then(|asked| asked["id"].as_u64());
                let id = id.ok_or_else(|| io::Error::other(error))?;
                let unknown = WalletError::Unsupported("do what was asked");
                let answer = Line::Answer(Answer {
                    id,
                    result: None,
                    error: Some(unknown.into()),
                });
                let _ = say(&tell, &answer).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        // Cancelling is a hint, and what is asked here takes no time.
        let Some(id) = request.id else { continue };
        let (wallet, tell) = (Arc::clone(&wallet), tell.clone());
        tasks.spawn(async move {
            let (result, error) = match act(&*wallet, request.call).await {
                Ok(result) => (Some(result), None),
                Err(problem) => (None, Some(problem)),
            };
            let answer = Line::Answer(Answer { id, result, error });
            let _ = say(&tell, &answer).await;
        });
    }
    while tasks.join_next().await.is_some() {}
    news.shutdown().await;
    drop(tell);
    match writing.join_next().await {
        Some(Ok(written)) => written,
        _ => Ok(()),
    }
}

async fn say(tell: &mpsc::Sender<String>, line: &Line) -> Result<(), ()> {
    let line = serde_json::to_string(line).map_err(drop)?;
    tell.send(line).await.map_err(drop)
}

fn value(of: impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(of).map_err(|error| WalletError::Storage(error.to_string()).into())
}

async fn act(wallet: &dyn Wallet, call: Call) -> Result<Value, Problem> {
    match call {
        Call::Hello { version, .. } if version != VERSION => {
            Err(WalletError::Refused(format!("this program speaks version {VERSION}")).into())
        }
        Call::Hello { .. } => value(Hello {
            version: VERSION,
            account: wallet.id().to_string(),
            network: wallet.network(),
            changes: wallet.changes().is_some(),
            capabilities: wallet.capabilities().into(),
        }),
        Call::Balance {} => value(Balance {
            balance_msat: wallet.balance().await?,
        }),
        Call::Addresses {} => value(Addresses {
            addresses: wallet.addresses().await?,
        }),
        Call::FeeQuote { bolt11 } => value(Fee {
            fee_msat: wallet.fee_quote(&bolt11).await?,
        }),
        Call::Invoice {
            amount_msat,
            expiry_secs,
            description,
            payment_hash,
        } => {
            let request = InvoiceRequest {
                amount: amount_msat,
                expiry_secs,
                hold: payment_hash,
                description,
            };
            value(Made {
                bolt11: wallet.invoice(request).await?.bolt11,
            })
        }
        Call::Incoming { payment_hash } => {
            value(IncomingState::from(wallet.incoming(payment_hash).await?))
        }
        Call::Settle { preimage } => {
            let preimage = preimage
                .parse()
                .map_err(|_| WalletError::Refused("this is no preimage".to_owned()))?;
            wallet.settle(preimage).await?;
            Ok(Value::Object(serde_json::Map::new()))
        }
        Call::CancelInvoice { payment_hash } => {
            wallet.cancel(payment_hash).await?;
            Ok(Value::Object(serde_json::Map::new()))
        }
        Call::Pay {
            bolt11,
            payment_hash,
            amount_msat,
            max_fee_msat,
            purchase,
        } => {
            let request = PayRequest {
                bolt11,
                payment_hash,
                amount: amount_msat,
                max_fee: max_fee_msat,
                purchase,
            };
            value(PayState::from(wallet.pay(request).await))
        }
        Call::Outgoing { payment_hash } => {
            value(PayState::from(wallet.outgoing(payment_hash).await?))
        }
        Call::History { limit } => value(History {
            movements: wallet.history(limit).await?,
        }),
        Call::Cancel { .. } => Ok(Value::Null),
    }
}

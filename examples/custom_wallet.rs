//! Brings one's own wallet: here, one that asks its owner's policy before each payment and keeps a log.
//! Then it tries whether that wallet still keeps every promise that the library relies on.
//!
//! ```text
//! cargo run --example custom_wallet
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod market;

use std::sync::{Arc, Mutex};

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::identity::Identity;
use agent_compute::ids::{PaymentHash, Preimage, WalletId};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::conformance::{self, Harness};
use agent_compute::wallet::{
    Capabilities, FailureProof, Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome,
    PayRequest, Wallet, WalletError,
};
use async_trait::async_trait;
use market::{Market, Result};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<()> {
    let market = Market::open().await?;
    let seller = market.sell(|prompt| prompt.to_uppercase(), Msat::new(10_000));
    let seller = seller.await?;

    // Pays 15 sats and no more, whatever the client's limits say.
    let identity = Identity::from_keys(nostr::Keys::generate());
    let frugal = |request: &PayRequest| request.amount <= Msat::new(15_000);
    let wallet = Arc::new(Asking::new(market.wallet(&identity)?, frugal));
    let client = market.buyer(identity, "frugal").wallet(wallet.clone());
    let client = client.build().await?;
    println!("10 sats: {}", buy(&client).await);
    seller.stop().await?;

    let seller = market.sell(|prompt| prompt.to_uppercase(), Msat::new(20_000));
    let seller = seller.await?;
    println!("20 sats: {}", buy(&client).await);
    seller.stop().await?;
    client.close().await;
    for line in wallet.log() {
        println!("wallet:  {line}");
    }

    let report = conformance::run(&Pair::of(&market)?).await;
    print!("{report}");
    if report.is_conformant() {
        Ok(())
    } else {
        Err("the wallet breaks a promise".into())
    }
}

async fn buy(client: &ComputeClient) -> String {
    let purchase = client.purchase(PurchaseRequest::new("what is said twice is heard once"));
    match purchase.receipt().await {
        Ok(receipt) => format!("{receipt}"),
        Err(error) => format!("{}: {error}", error.code()),
    }
}

/// The owner's word on one payment.
type Policy = fn(&PayRequest) -> bool;

/// A wallet around another one. It asks before it pays, and remembers what it was asked.
#[derive(Debug)]
struct Asking<W> {
    inner: W,
    policy: Policy,
    log: Mutex<Vec<String>>,
}

impl<W> Asking<W> {
    fn new(inner: W, policy: Policy) -> Self {
        Self {
            inner,
            policy,
            log: Mutex::default(),
        }
    }

    fn note(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

#[async_trait]
impl<W: Wallet> Wallet for Asking<W> {
    async fn pay(&self, request: PayRequest) -> PayOutcome {
        // Saying no before anything was sent is a proof that nothing was paid, so the money that was set
        // aside is freed. Had we asked somebody who may have paid and can't be reached now, the answer
        // would be `Unknown`, and the money would stay reserved until `outgoing` knows.
        if !(self.policy)(&request) {
            self.note(format!("refused {}", request.amount));
            return PayOutcome::Failed(FailureProof::new("the owner's policy refuses it"));
        }
        let amount = request.amount;
        let outcome = self.inner.pay(request).await;
        self.note(match &outcome {
            PayOutcome::Paid { fee, .. } => format!("paid {amount}, fee {fee}"),
            PayOutcome::InFlight => format!("{amount} on its way"),
            PayOutcome::Failed(proof) => format!("{amount} not paid: {}", proof.reason),
            PayOutcome::Unknown { reason } => format!("{amount} in doubt: {reason}"),
        });
        outcome
    }

    // The ledger knows a balance by its id: one that is wrapped is still the same balance.
    fn id(&self) -> &WalletId {
        self.inner.id()
    }

    fn network(&self) -> Network {
        self.inner.network()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        self.inner.balance().await
    }

    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError> {
        self.inner.fee_quote(bolt11).await
    }

    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        self.inner.invoice(request).await
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        self.inner.incoming(hash).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        self.inner.settle(preimage).await
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.inner.cancel(hash).await
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        self.inner.outgoing(hash).await
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.inner.changes()
    }
}

/// Two such wallets that can pay each other: what the suite needs.
struct Pair {
    payer: Arc<dyn Wallet>,
    payee: Arc<dyn Wallet>,
}

impl Pair {
    fn of(market: &Market) -> Result<Self> {
        let wallet = || -> Result<Arc<dyn Wallet>> {
            let owner = Identity::from_keys(nostr::Keys::generate());
            Ok(Arc::new(Asking::new(market.wallet(&owner)?, |_| true)))
        };
        Ok(Self {
            payer: wallet()?,
            payee: wallet()?,
        })
    }
}

impl Harness for Pair {
    fn payer(&self) -> Arc<dyn Wallet> {
        Arc::clone(&self.payer)
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        Arc::clone(&self.payee)
    }
}

#[cfg(test)]
#[path = "../tests/it/examples/custom_wallet.rs"]
mod tests;

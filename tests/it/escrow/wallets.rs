//! Wallets that are not like play money: they answer an order to pay when the lock has ended, as a service
//! behind a relay does, and do not list what is on its way.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::client::{Code, ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::config::Home;
use agent_compute::identity::Identity;
use agent_compute::ids::WalletId;
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::SimWallet;
use agent_compute::wallet::{
    Capabilities, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, WalletError,
};
use async_trait::async_trait;

use super::*;

/// Play money behind such a service.
#[derive(Debug)]
struct Late {
    bank: SimWallet,
    /// Whether a payment that is on its way is found.
    lists: bool,
}

#[async_trait]
impl Wallet for Late {
    fn id(&self) -> &WalletId {
        self.bank.id()
    }

    fn network(&self) -> Network {
        self.bank.network()
    }

    /// To pay into escrow needs none of these.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            play_money: true,
            hold_invoices: false,
            binding_fee_quote: false,
            authoritative_lookup: false,
        }
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        self.bank.balance().await
    }

    async fn fee_quote(&self, _: &str) -> Result<Msat, WalletError> {
        Err(WalletError::Unsupported("quote fees"))
    }

    async fn invoice(&self, _: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        Err(WalletError::Unsupported("be paid"))
    }

    async fn incoming(&self, _: PaymentHash) -> Result<Incoming, WalletError> {
        Err(WalletError::Unsupported("be paid"))
    }

    async fn settle(&self, _: Preimage) -> Result<(), WalletError> {
        Err(WalletError::Unsupported("be paid"))
    }

    async fn cancel(&self, _: PaymentHash) -> Result<(), WalletError> {
        Err(WalletError::Unsupported("be paid"))
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        let hash = request.payment_hash;
        let mut outcome = self.bank.pay(request).await;
        while outcome == PayOutcome::InFlight {
            tokio::time::sleep(Duration::from_millis(10)).await;
            outcome = match self.bank.outgoing(hash).await.unwrap() {
                Outgoing::Paid { preimage, fee } => PayOutcome::Paid { preimage, fee },
                Outgoing::Failed(proof) => PayOutcome::Failed(proof),
                Outgoing::InFlight | Outgoing::NotFound => PayOutcome::InFlight,
            };
        }
        outcome
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        let found = self.bank.outgoing(hash).await?;
        let hidden = !self.lists && found == Outgoing::InFlight;
        Ok(if hidden { Outgoing::NotFound } else { found })
    }
}

async fn client(stage: &Stage, customer: &Customer, lists: bool) -> ComputeClient {
    let bank = stage.wallet(customer.keys.public_key());
    ComputeClient::builder()
        .home(Home::at(stage.world.home(&customer.home)))
        .identity(Identity::from_keys(customer.keys.clone()))
        .relays(stage.relay.url())
        .wallet(Arc::new(Late { bank, lists }))
        .build()
        .await
        .unwrap()
}

fn escrow_from(stage: &Stage, provider: &Peer) -> PurchaseRequest {
    PurchaseRequest {
        escrow: true,
        max_fee: Some(Msat::ZERO),
        ..stage.request(provider)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_the_order_is_not_waited_for() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for lists in [true, false] {
        let customer = stage.customer();
        let client = client(&stage, &customer, lists).await;
        let mut purchase = client.purchase(escrow_from(&stage, &provider));
        let held = held_job(&mut provider).await;
        while !matches!(
            purchase.next_event().await.expect("locked"),
            PurchaseEvent::Locked { .. }
        ) {}
        provider.result(&held.job.id, "Paris").await;
        claim(&mut provider, &held).await;
        let receipt = purchase.receipt().await.unwrap();
        assert_eq!(
            (receipt.paid_msat.get(), receipt.reserved_msat.get()),
            (PRICE, 0)
        );
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_comes_back_is_freed_on_the_wallets_word_alone() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for lists in [true, false] {
        let customer = stage.customer();
        let client = client(&stage, &customer, lists).await;
        let purchase = client.purchase(escrow_from(&stage, &provider));
        let held = held_job(&mut provider).await;
        provider.refuse(&held.job.id, "out of memory").await;
        let error = purchase.receipt().await.unwrap_err();
        assert_eq!(error.code(), Code::Undelivered);
        assert_eq!(
            (error.paid_msat(), error.reserved_msat()),
            (Msat::ZERO, Msat::new(PRICE))
        );
        assert_eq!(stage.books(&customer).await, locked());
        // While the order is with the wallet, "no such payment" frees nothing, and nobody takes it over.
        client.recover().await.unwrap();
        assert_eq!(stage.books(&customer).await, locked());
        provider.wallet.cancel(held.hash).await.unwrap();
        let freed = async {
            while !client.budget().await.unwrap().usage.reserved.is_zero() {
                client.recover().await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(stage::SOON, freed)
            .await
            .expect("in time");
        assert_eq!(stage.books(&customer).await, Books::untouched());
    }
}

//! A Cashu mint of cdk's, and what it pays and is paid with: an account at a bank of play money, so that mints pay each
//! other. cdk's own pretended Lightning has no preimages and pays itself.

use std::pin::Pin;
use std::sync::Arc;

use agent_compute::ids::{PaymentHash, PurchaseId};
use agent_compute::units::Msat;
use agent_compute::wallet::sim::SimWallet;
use agent_compute::wallet::{
    Incoming, InvoiceRequest, Outgoing, PayOutcome, PayRequest, Wallet as _,
};
use async_trait::async_trait;
use cdk::Amount;
use cdk::cdk_payment::{
    Bolt11Settings, CreateIncomingPaymentResponse, Error, Event, IncomingPaymentOptions,
    MakePaymentResponse, MintPayment, OutgoingPaymentOptions, PaymentIdentifier,
    PaymentQuoteResponse, SettingsResponse, WaitPaymentResponse,
};
use cdk::mint::{MintBuilder, MintMeltLimits};
use cdk::nuts::{CurrencyUnit, MeltQuoteState, PaymentMethod};
use futures::Stream;
use tokio::task::JoinSet;

/// Where a mint is, for as long as `tasks` lives.
pub(crate) async fn start(wallet: SimWallet, tasks: &mut JoinSet<()>) -> String {
    let database = Arc::new(cdk_sqlite::mint::memory::empty().await.unwrap());
    let mut builder = MintBuilder::new(Arc::clone(&database) as _);
    let limits = MintMeltLimits::new(1, 1_000_000);
    let backend = Arc::new(Lightning(wallet));
    builder
        .add_payment_processor(CurrencyUnit::Sat, PaymentMethod::BOLT11, limits, backend)
        .await
        .unwrap();
    let seed: [u8; 32] = rand::random();
    let mint = builder.build_with_seed(database, &seed).await.unwrap();
    let mint = Arc::new(mint);
    mint.start().await.unwrap();
    let methods = vec!["bolt11".to_owned()];
    let router = cdk_axum::create_mint_router(mint, methods).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

struct Lightning(SimWallet);

fn other(error: impl std::fmt::Display) -> Error {
    Error::Custom(error.to_string())
}

fn sats(amount: Msat) -> Amount<CurrencyUnit> {
    Amount::new(amount.get().div_ceil(1_000), CurrencyUnit::Sat)
}

fn hash_of(id: &PaymentIdentifier) -> Result<PaymentHash, Error> {
    match id {
        PaymentIdentifier::PaymentHash(hash) => Ok(PaymentHash::from_bytes(*hash)),
        _ => Err(Error::UnsupportedPaymentOption),
    }
}

/// The text, the hash and the amount of what a mint is to pay.
fn bill(options: OutgoingPaymentOptions) -> Result<(String, PaymentHash, Msat), Error> {
    let OutgoingPaymentOptions::Bolt11(options) = options else {
        return Err(Error::UnsupportedPaymentOption);
    };
    let invoice = options.bolt11;
    let amount = invoice
        .amount_milli_satoshis()
        .ok_or(Error::UnsupportedPaymentOption)?;
    let hash = invoice.payment_hash().to_string().parse().map_err(other)?;
    Ok((invoice.to_string(), hash, Msat::new(amount)))
}

impl Lightning {
    /// What it has received on this hash.
    async fn received(&self, hash: PaymentHash) -> Result<Option<WaitPaymentResponse>, Error> {
        if self.0.incoming(hash).await.map_err(other)? != Incoming::Settled {
            return Ok(None);
        }
        let movements = self.0.history(1_000).await.map_err(other)?;
        let mut of_hash = movements
            .into_iter()
            .filter(|it| it.payment_hash == Some(hash));
        Ok(of_hash.next().map(|movement| WaitPaymentResponse {
            payment_identifier: PaymentIdentifier::PaymentHash(*hash.as_bytes()),
            payment_amount: sats(movement.amount_msat),
            payment_id: hash.to_string(),
        }))
    }
}

#[async_trait]
impl MintPayment for Lightning {
    type Err = Error;

    async fn get_settings(&self) -> Result<SettingsResponse, Error> {
        Ok(SettingsResponse {
            unit: "sat".to_owned(),
            bolt11: Some(Bolt11Settings {
                mpp: false,
                amountless: false,
                invoice_description: true,
            }),
            bolt12: None,
            onchain: None,
            custom: Default::default(),
        })
    }

    async fn create_incoming_payment_request(
        &self,
        options: IncomingPaymentOptions,
    ) -> Result<CreateIncomingPaymentResponse, Error> {
        let IncomingPaymentOptions::Bolt11(options) = options else {
            return Err(Error::UnsupportedPaymentOption);
        };
        let request = InvoiceRequest {
            amount: Msat::new(options.amount.value() * 1_000),
            expiry_secs: 3_600,
            hold: None,
            description: options.description.unwrap_or_default(),
        };
        let made = self.0.invoice(request).await.map_err(other)?;
        Ok(CreateIncomingPaymentResponse {
            request_lookup_id: PaymentIdentifier::PaymentHash(*made.payment_hash.as_bytes()),
            request: made.bolt11,
            expiry: Some(made.expires_at.get()),
            extra_json: None,
        })
    }

    async fn get_payment_quote(
        &self,
        _: &CurrencyUnit,
        options: OutgoingPaymentOptions,
    ) -> Result<PaymentQuoteResponse, Error> {
        let (_, hash, amount) = bill(options)?;
        Ok(PaymentQuoteResponse {
            request_lookup_id: Some(PaymentIdentifier::PaymentHash(*hash.as_bytes())),
            amount: sats(amount),
            fee: sats(Msat::new(1_000)),
            state: MeltQuoteState::Unpaid,
            extra_json: None,
            estimated_blocks: None,
            fee_options: None,
        })
    }

    async fn make_payment(
        &self,
        _: &CurrencyUnit,
        options: OutgoingPaymentOptions,
    ) -> Result<MakePaymentResponse, Error> {
        let (bolt11, payment_hash, amount) = bill(options)?;
        let paid = self
            .0
            .pay(PayRequest {
                bolt11,
                payment_hash,
                amount,
                max_fee: Msat::ZERO,
                purchase: PurchaseId::random(),
            })
            .await;
        let (status, preimage, spent) = match paid {
            PayOutcome::Paid { preimage, fee } => {
                (MeltQuoteState::Paid, preimage, amount.saturating_add(fee))
            }
            PayOutcome::Failed(_) => (MeltQuoteState::Failed, None, Msat::ZERO),
            PayOutcome::InFlight => (MeltQuoteState::Pending, None, Msat::ZERO),
            PayOutcome::Unknown { .. } => (MeltQuoteState::Unknown, None, Msat::ZERO),
        };
        Ok(MakePaymentResponse {
            payment_lookup_id: PaymentIdentifier::PaymentHash(*payment_hash.as_bytes()),
            payment_proof: preimage.map(|preimage| preimage.reveal()),
            status,
            total_spent: sats(spent),
        })
    }

    /// Nothing is told: a mint asks when its wallet does.
    async fn wait_payment_event(&self) -> Result<Pin<Box<dyn Stream<Item = Event> + Send>>, Error> {
        Ok(Box::pin(futures::stream::pending()))
    }

    fn is_payment_event_stream_active(&self) -> bool {
        true
    }

    fn cancel_payment_event_stream(&self) {}

    async fn check_incoming_payment_status(
        &self,
        id: &PaymentIdentifier,
    ) -> Result<Vec<WaitPaymentResponse>, Error> {
        let received = self.received(hash_of(id)?).await?;
        Ok(received.into_iter().collect())
    }

    async fn check_outgoing_payment(
        &self,
        id: &PaymentIdentifier,
    ) -> Result<MakePaymentResponse, Error> {
        let hash = hash_of(id)?;
        let (status, preimage) = match self.0.outgoing(hash).await.map_err(other)? {
            Outgoing::Paid { preimage, .. } => (MeltQuoteState::Paid, preimage),
            Outgoing::InFlight => (MeltQuoteState::Pending, None),
            Outgoing::Failed(_) => (MeltQuoteState::Failed, None),
            Outgoing::NotFound => (MeltQuoteState::Unpaid, None),
        };
        Ok(MakePaymentResponse {
            payment_lookup_id: id.clone(),
            payment_proof: preimage.map(|preimage| preimage.reveal()),
            status,
            total_spent: sats(Msat::ZERO),
        })
    }
}

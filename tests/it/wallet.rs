//! Play money, and the suite that every wallet must pass.

use std::path::{Path, PathBuf};

use agent_compute::clock::Clock;
use agent_compute::ids::PurchaseId;
use agent_compute::units::{Msat, UnixSecs};
use agent_compute::wallet::sim::{SimOptions, SimWallet, audit};
use agent_compute::wallet::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet,
};
use nostr::Keys;
use tempfile::TempDir;

struct Bank {
    _folder: TempDir,
    file: PathBuf,
    clock: Clock,
}

impl Bank {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("home").join("bank.sqlite");
        Self {
            _folder: folder,
            file,
            clock: Clock::fixed(UnixSecs::new(1_763_000_000)),
        }
    }

    fn wallet(&self) -> SimWallet {
        self.wallet_of(&Keys::generate(), |_| {})
    }

    fn wallet_of(&self, keys: &Keys, change: impl FnOnce(&mut SimOptions)) -> SimWallet {
        let mut options = SimOptions {
            clock: self.clock.clone(),
            ..SimOptions::default()
        };
        change(&mut options);
        SimWallet::open(&self.file, keys.public_key(), options).unwrap()
    }
}

fn asking(msat: u64) -> InvoiceRequest {
    InvoiceRequest {
        amount: Msat::new(msat),
        expiry_secs: 600,
        hold: None,
        description: "a job".to_owned(),
    }
}

fn order(invoice: &IssuedInvoice) -> PayRequest {
    PayRequest {
        bolt11: invoice.bolt11.clone(),
        payment_hash: invoice.payment_hash,
        amount: invoice.amount,
        max_fee: Msat::new(10_000),
        purchase: PurchaseId::from_bytes([1; 16]),
    }
}

fn assert_balanced(file: &Path) {
    let audit = audit(file).unwrap();
    assert!(audit.is_balanced(), "{audit:?}");
}

#[tokio::test]
async fn play_money_moves_between_accounts() {
    let bank = Bank::new();
    let (payer, payee) = (bank.wallet(), bank.wallet());
    let invoice = payee.invoice(asking(12_345)).await.unwrap();
    assert_eq!(
        payee.incoming(invoice.payment_hash).await,
        Ok(Incoming::Open)
    );

    let PayOutcome::Paid { preimage, fee } = payer.pay(order(&invoice)).await else {
        panic!("not paid");
    };
    assert_eq!(preimage.unwrap().payment_hash(), invoice.payment_hash);
    assert_eq!(fee, Msat::ZERO);
    assert_eq!(payer.balance().await, Ok(Msat::new(100_000_000 - 12_345)));
    assert_eq!(payee.balance().await, Ok(Msat::new(100_000_000 + 12_345)));
    assert_eq!(
        payee.incoming(invoice.payment_hash).await,
        Ok(Incoming::Settled)
    );
    assert_eq!(
        payer.outgoing(invoice.payment_hash).await,
        Ok(Outgoing::Paid { preimage, fee })
    );
    assert_balanced(&bank.file);
}

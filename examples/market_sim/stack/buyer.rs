//! The buyer: a real client with a real ledger and a real wallet, and what its books say afterwards.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::client::{ComputeClient, PurchaseEvent, PurchaseRequest, Receipt};
use agent_compute::config::{Config, Runway};
use agent_compute::identity::Identity;
use agent_compute::ids::PurchaseId;
use agent_compute::ledger::{HistoryQuery, Ledger, PurchaseRecord, Scope, Usage};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::Wallet;
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet};
use agent_compute::{Code, Error};
use nostr::{Keys, RelayUrl};

use super::world::{OPENING, World};

/// Somebody who buys, with a home and a key of its own.
pub struct Buyer {
    pub world: Arc<World>,
    pub name: String,
    pub keys: Keys,
    pub limits: Runway,
    pub fee: u64,
}

/// All that is on record.
const EVERYTHING: HistoryQuery = HistoryQuery {
    scope: None,
    limit: 1000,
};

/// One attempt to buy, as it ended.
pub struct Attempt {
    pub prompt: String,
    /// What is on record of it: one for each seller that was asked, the last one last.
    pub purchases: Vec<PurchaseId>,
    pub ended: Result<Receipt, Error>,
}

impl Attempt {
    pub fn end(&self) -> Result<(), Code> {
        match &self.ended {
            Ok(_) => Ok(()),
            Err(error) => Err(error.code()),
        }
    }
}

/// What a ledger says, and how much is missing from the account.
pub struct Books {
    /// Oldest first.
    pub records: Vec<PurchaseRecord>,
    pub usage: Usage,
    pub spent: u64,
    pub reserved: u64,
    pub gone: u64,
}

impl Buyer {
    /// A wallet of its account, with these faults.
    pub async fn wallet(&self, fault: Option<Fault>) -> SimWallet {
        let options = SimOptions {
            fault,
            fee: Msat::new(self.fee),
            ..SimOptions::default()
        };
        self.world.wallet(self.keys.public_key(), options).await
    }

    /// The client of one process, as it were.
    pub async fn client(
        &self,
        relay: &RelayUrl,
        fault: Option<Fault>,
    ) -> Result<ComputeClient, Error> {
        let session: Arc<dyn agent_compute::relay::RelaySession> = self.world.session(relay);
        ComputeClient::builder()
            .home(self.world.home(&self.name))
            .config(Config {
                runway: self.limits,
                ..Config::default()
            })
            .identity(Identity::from_keys(self.keys.clone()))
            .relays(session)
            .wallet(Arc::new(self.wallet(fault).await))
            .clock(self.world.clock.clone())
            .without_recovery()
            .build()
            .await
    }

    /// Buys, and waits for the end; or stops, as Ctrl-C does, once so much has happened.
    pub async fn buy(
        &self,
        client: &ComputeClient,
        request: PurchaseRequest,
        stops_after: Option<usize>,
    ) -> Attempt {
        let prompt = request.prompt.clone();
        let mut purchase = client.purchase(request);
        let mut purchases = Vec::new();
        let mut happened = 0;
        while let Some(event) = purchase.next_event().await {
            happened += 1;
            if Some(happened) == stops_after {
                purchase.stop();
            }
            if let PurchaseEvent::Selected { purchase_id, .. } = event {
                purchases.extend(purchase_id);
            }
        }
        let ended = purchase.receipt().await;
        self.world.ended.send_modify(|count| *count += 1);
        Attempt {
            prompt,
            purchases,
            ended,
        }
    }

    /// Waits until nobody is at work on what is on record: the wallet of an attempt that ran out of time may be
    /// at work still, and for as long as it is, its purchase is not free to be recovered.
    pub async fn until_idle(&self) -> Result<(), Error> {
        let folder = self.world.ledger(&self.name);
        let ledger = Ledger::open_read_only(&folder, self.world.clock.clone()).await?;
        for record in ledger.history(EVERYTHING).await? {
            while ledger.owner_lives(&record.owner).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// What ledger and bank say.
    pub async fn books(&self) -> Result<Books, Error> {
        let folder = self.world.ledger(&self.name);
        let ledger = Ledger::open_read_only(&folder, self.world.clock.clone()).await?;
        let mut records = ledger.history(EVERYTHING).await?;
        records.reverse();
        let scope = Scope {
            network: Network::Regtest,
            play_money: true,
        };
        let usage = ledger.budget(scope, None, self.limits.into()).await?.usage;
        let reservations = || records.iter().filter_map(|one| one.reservation.as_ref());
        let spent = reservations()
            .filter_map(|one| one.spent)
            .map(Msat::get)
            .sum();
        let reserved = records.iter().map(|one| one.reserved().get()).sum();
        let balance = self.wallet(None).await.balance().await;
        let balance = balance.map_err(|error| Error::new(Code::Wallet, error.to_string()))?;
        Ok(Books {
            usage,
            spent,
            reserved,
            gone: OPENING - balance.get(),
            records,
        })
    }
}

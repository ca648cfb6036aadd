//! A seller's shop, played: how it lists itself, and how it asks for money.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::ids::{JobId, PaymentHash, Preimage};
use agent_compute::protocol::message::{AgentMessage, JobError};
use agent_compute::protocol::{Feature, Price};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::sim::SimWallet;
use agent_compute::wallet::{Incoming as Money, PayOutcome, Wallet};
use nostr::RelayUrl;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::watch;

use super::peer::{Job, Peer};
use super::sellers::Seller;
use super::world::{World, keys};

/// A shop that is played.
pub struct Shop {
    pub peer: Peer,
    pub seller: Seller,
    pub price: u64,
    pub escrow: bool,
    /// Whether the relay keeps something from the buyer.
    pub rough: bool,
    /// The jobs that wait for their money.
    quoted: Vec<Quoted>,
    /// The jobs in escrow whose money waits for the buyer's preimage.
    claims: Vec<(JobId, PaymentHash)>,
    /// How many jobs it was asked for.
    asked: usize,
    /// The invoice of the last job.
    earlier: Option<String>,
    /// Whether one that is too dear does not say so before it asks for money.
    hides_its_price: bool,
}

/// An invoice that may be paid, and whose money it is then.
struct Quoted {
    job: Job,
    hash: PaymentHash,
    payee: SimWallet,
    /// It is an accomplice who gets the money.
    elsewhere: bool,
}

/// What a shop sells, and how.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub seller: Seller,
    pub price: u64,
    pub escrow: bool,
    pub sealed: bool,
    pub rough: bool,
}

impl Shop {
    /// Opens and lists itself.
    pub async fn open(world: &Arc<World>, relay: &RelayUrl, terms: Terms, mut rng: StdRng) -> Self {
        let keys = keys(&mut rng);
        let hides_its_price = terms.seller == Seller::OverLimit && rng.random();
        let peer = Peer::found(world, relay, keys, rng).await;
        let mut shop = Self {
            peer,
            seller: terms.seller,
            price: terms.price,
            escrow: terms.escrow,
            rough: terms.rough,
            quoted: Vec::new(),
            claims: Vec::new(),
            asked: 0,
            earlier: None,
            hides_its_price,
        };
        shop.list(terms).await;
        shop
    }

    async fn list(&mut self, terms: Terms) {
        let lies = self.seller == Seller::LyingListing;
        let mut content = self.peer.about(self.price);
        if terms.sealed {
            content.features.insert(Feature::Nip44);
        }
        if terms.escrow || lies {
            content.features.insert(Feature::HoldInvoice);
        }
        if lies {
            content.features.extend(Feature::ALL);
            content.name = "cheapest\u{1b}[2J\u{202e}".repeat(20);
        }
        if self.seller == Seller::OverLimit {
            content.price = Price::per_request(Msat::new(u64::MAX / 20));
        }
        if self.hides_its_price {
            self.peer.list_unpriced(&content).await;
        } else {
            self.peer.list(&content).await;
        }
    }

    /// Serves for as long as the market stands.
    pub async fn serve(mut self) {
        let mut changes = self.peer.wallet.changes();
        loop {
            tokio::select! {
                heard = self.peer.hear() => {
                    if let Some(job) = self.peer.asked(&heard) {
                        self.asked += 1;
                        self.take(&job).await;
                    } else if let AgentMessage::PreimageRelease(release) = &heard.message {
                        self.claim(&release.job_id, &release.preimage).await;
                    }
                }
                () = change(&mut changes), if !self.quoted.is_empty() => {}
            }
            self.look_for_money().await;
        }
    }

    /// Serves what is paid, or locked.
    async fn look_for_money(&mut self) {
        for quoted in std::mem::take(&mut self.quoted) {
            match quoted.payee.incoming(quoted.hash).await {
                Ok(Money::Settled) if quoted.elsewhere => {
                    // It was not me who got the money.
                    let no = JobError::new(quoted.job.id.clone(), "failed", "never got it");
                    self.peer.say(&quoted.job, AgentMessage::JobError(no)).await;
                }
                Ok(Money::Settled | Money::Held { .. }) => {
                    if self.escrow {
                        self.claims.push((quoted.job.id.clone(), quoted.hash));
                    }
                    self.deliver(&quoted.job, quoted.hash).await;
                }
                Ok(Money::Open) | Err(_) => self.quoted.push(quoted),
                Ok(Money::Cancelled | Money::Expired | Money::NotFound) => {}
            }
        }
    }

    fn await_money(&mut self, job: &Job, hash: PaymentHash) {
        self.quoted.push(Quoted {
            job: job.clone(),
            hash,
            payee: self.peer.wallet.clone(),
            elsewhere: false,
        });
    }

    async fn claim(&mut self, job: &JobId, preimage: &str) {
        let waits = self.claims.iter().find(|(waiting, _)| waiting == job);
        let Some((_, hash)) = waits.filter(|_| self.seller != Seller::NeverClaims) else {
            return;
        };
        match preimage.parse::<Preimage>() {
            Ok(preimage) if preimage.payment_hash() == *hash => {
                // Once the lock has ended there is nothing to claim.
                let _ = self.peer.wallet.settle(preimage).await;
            }
            _ => self.peer.world.mishap("a buyer released a wrong preimage"),
        }
    }

    /// One job, from the request on.
    async fn take(&mut self, job: &Job) {
        match self.seller {
            Seller::GhostBefore => {}
            // It lists what it can't: to read what is sealed, to be paid into escrow.
            Seller::LyingListing => {
                if self.escrow && !job.sealed {
                    let _ = self.ask_for(job, None).await;
                }
            }
            Seller::Refuses => {
                let no = JobError::new(job.id.clone(), "no", "not today\u{1b}[2J");
                self.peer.say(job, AgentMessage::JobError(no)).await;
            }
            Seller::Free => {
                self.peer.piece(job, Some(0), "free", true).await;
                self.peer.say(job, super::peer::result(job, "free")).await;
            }
            _ => {
                if self.quote(job).await.is_none() {
                    let shop = self.seller.word();
                    let mishap = format!("the shop ({shop}) got no invoice from its wallet");
                    self.peer.world.mishap(mishap);
                }
            }
        }
    }

    /// Asks for money. `None`: the bank makes no such invoice.
    async fn quote(&mut self, job: &Job) -> Option<()> {
        let (price, on) = (self.price, self.lock(job));
        match self.seller {
            Seller::BaitAndSwitch => {
                let dear = price + self.peer.rng.random_range(1..=price);
                let bolt11 = self.trap(dear, on).await?;
                self.peer.quote(job, &bolt11, dear).await;
            }
            Seller::OverLimit => {
                let dear = 2 * price + 1_000;
                let bolt11 = self.trap(dear, on).await?;
                self.peer.quote(job, &bolt11, dear).await;
            }
            Seller::Understated => {
                // Dearer than listed, or dearer than the message says and as listed.
                let (asks, says) = if self.peer.rng.random() {
                    (price + 1, price)
                } else {
                    (price, price - 1)
                };
                let bolt11 = self.trap(asks, on).await?;
                self.peer.quote(job, &bolt11, says).await;
            }
            Seller::OtherJobs => {
                let other = Job {
                    id: JobId::from_wire(format!("job_{:016x}", self.peer.rng.random::<u64>())),
                    ..job.clone()
                };
                let bolt11 = self.trap(price, on).await?;
                self.peer.quote(&other, &bolt11, price).await;
            }
            Seller::WrongNetwork
            | Seller::Expired
            | Seller::Amountless
            | Seller::LongHold
            | Seller::Garbage => {
                let bolt11 = self.unpayable(on);
                self.peer.quote(job, &bolt11, price).await;
            }
            Seller::ForgedAuthor => {
                self.forge(job, on).await;
                self.ask_for(job, on).await?;
            }
            Seller::DoubleInvoice => self.ask_twice(job, on).await?,
            Seller::SomeoneElses | Seller::UsedInvoice => self.accomplice(job).await?,
            Seller::Trap => {
                let preimage = Preimage::from_bytes(self.peer.rng.random());
                self.ask_for(job, Some(preimage.payment_hash())).await?;
            }
            Seller::ReusedInvoice => match self.earlier.clone() {
                Some(bolt11) => self.peer.quote(job, &bolt11, price).await,
                None => self.ask_for(job, on).await?,
            },
            Seller::Replays => {
                self.replay(job).await;
                self.ask_for(job, on).await?;
            }
            _ => self.ask_for(job, on).await?,
        }
        Some(())
    }

    /// The hash to issue the invoice on.
    fn lock(&self, job: &Job) -> Option<PaymentHash> {
        job.hash().filter(|_| self.escrow)
    }

    /// A true invoice, as it should be.
    async fn ask_for(&mut self, job: &Job, on: Option<PaymentHash>) -> Option<()> {
        let invoice = self.peer.issue(self.price, on).await?;
        self.earlier = Some(invoice.bolt11.clone());
        // Only a deployed provider's `Error: …` is a failure, and its pieces have no numbers.
        if self.speaks_as_deployed() {
            let peer = &mut self.peer;
            peer.quote_deployed(job, &invoice.bolt11, self.price).await;
        } else {
            self.peer.quote(job, &invoice.bolt11, self.price).await;
        }
        self.await_money(job, invoice.payment_hash);
        Some(())
    }

    pub fn speaks_as_deployed(&self) -> bool {
        self.seller == Seller::ErrorText && self.asked % 2 == 1
    }

    /// An invoice that nobody has any reason to pay.
    async fn trap(&mut self, msat: u64, on: Option<PaymentHash>) -> Option<String> {
        let invoice = self.peer.issue(msat, on).await?;
        let peer = &self.peer;
        peer.world.trap(&peer.wallet, invoice.payment_hash);
        Some(invoice.bolt11)
    }

    /// Signed, well-formed, and not to be paid.
    fn unpayable(&mut self, on: Option<PaymentHash>) -> String {
        let mut draft = self.peer.draft(self.price, on);
        let garbage = [
            "lnbcrt100n1mock",
            "",
            "lnbcrt100n1\u{1b}[2J\0\u{202e}",
            "sprt1pgssyuuuhnrrdjswal5c3s3rafw9w3y5dd4cjy3duxlf7hjzkp0rqx6dj6mrhu",
        ];
        let peer = &mut self.peer;
        match self.seller {
            Seller::Garbage => return (*garbage.choose(&mut peer.rng).unwrap()).to_owned(),
            Seller::WrongNetwork => {
                let others = [Network::Mainnet, Network::Testnet, Network::Signet];
                draft.network = *others.choose(&mut peer.rng).unwrap();
            }
            Seller::Expired => {
                let ago = peer.rng.random_range(595..1_000_000);
                draft.created_at = draft.created_at.minus(ago);
            }
            Seller::Amountless => draft.amount = None,
            _ => draft.min_final_cltv = peer.rng.random_range(145..5_000),
        }
        peer.signed_draft(&draft)
    }

    /// A stranger answers in the provider's name: an invoice of its own, and a result.
    async fn forge(&mut self, job: &Job, on: Option<PaymentHash>) {
        let world = Arc::clone(&self.peer.world);
        let keys = keys(&mut self.peer.rng);
        let rng = self.peer.rng.clone();
        let (relay, channel) = (world.relay(), self.peer.channel);
        let mut stranger = Peer::join(&world, &relay, keys, channel, rng).await;
        // On the buyer's own hash there is one invoice at a bank: that one is the provider's to make.
        let bolt11 = match on {
            Some(_) => {
                let draft = stranger.draft(self.price, on);
                stranger.signed_draft(&draft)
            }
            None => {
                let Some(invoice) = stranger.issue(self.price, None).await else {
                    return;
                };
                world.trap(&stranger.wallet, invoice.payment_hash);
                invoice.bolt11
            }
        };
        // Nobody but the provider can seal what the buyer opens as from the provider.
        stranger.quote(job, &bolt11, self.price).await;
        let lie = super::peer::result(job, "forged");
        stranger.say(job, lie).await;
    }

    /// Two invoices. Relays may bring either one first; one is paid.
    async fn ask_twice(&mut self, job: &Job, on: Option<PaymentHash>) -> Option<()> {
        self.ask_for(job, on).await?;
        if on.is_none() {
            return self.ask_for(job, None).await;
        }
        // One hash, one invoice at the bank; the second is the first with another signature.
        let draft = self.peer.draft(self.price, on);
        let bolt11 = self.peer.signed_draft(&draft);
        self.peer.quote(job, &bolt11, self.price).await;
        Some(())
    }

    /// An invoice that pays somebody else, or that somebody has paid already.
    async fn accomplice(&mut self, job: &Job) -> Option<()> {
        let world = Arc::clone(&self.peer.world);
        let keys = keys(&mut self.peer.rng);
        let rng = self.peer.rng.clone();
        let (relay, channel) = (world.relay(), self.peer.channel);
        let friend = Peer::join(&world, &relay, keys, channel, rng).await;
        let invoice = friend.issue(self.price, None).await?;
        if self.seller == Seller::UsedInvoice {
            let outcome = self.peer.pay(&invoice.bolt11).await;
            if !matches!(outcome, Some(PayOutcome::Paid { .. })) {
                world.mishap("the accomplice's invoice could not be paid");
            }
        } else {
            self.quoted.push(Quoted {
                job: job.clone(),
                hash: invoice.payment_hash,
                payee: friend.wallet.clone(),
                elsewhere: true,
            });
        }
        self.peer.quote(job, &invoice.bolt11, self.price).await;
        Some(())
    }

    /// All that was said of the purchase before: the events themselves, and its words on this job.
    async fn replay(&mut self, job: &Job) {
        let earlier = self.peer.said.clone();
        self.peer.publish_all(&earlier).await;
        if self.earlier.is_some() {
            // On the relay before the invoice is: so it is before any payment, and counts for nothing.
            let text = super::delivering::text_of(job, "earlier");
            self.peer.result(job, &text).await;
        }
    }
}

/// Waits until something at the bank may have changed.
async fn change(changes: &mut Option<watch::Receiver<u64>>) {
    let again = Duration::from_millis(250);
    match changes {
        Some(changes) => {
            let _ = tokio::time::timeout(again, changes.changed()).await;
        }
        None => tokio::time::sleep(again).await,
    }
}

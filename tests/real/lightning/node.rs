//! An LDK node as a wallet, for the service in front of it.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, Preimage, WalletId};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::{
    Capabilities, FailureProof, Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome,
    PayRequest, Wallet, WalletError,
};
use async_trait::async_trait;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::lightning_types::payment as ldk;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use ldk_node::{Builder, Event, Node};
use tokio::sync::watch;

use super::bitcoind::{Chain, PASSWORD, USER, free_port};
use super::eventually;

/// What a block counts for in the wallet port's deadlines, as the customer's side of NIP-47 counts it.
const SECS_PER_BLOCK: u64 = 300;

/// How long `pay` waits for the payment's end before it says that it is under way.
const PAY_WITHIN: Duration = Duration::from_secs(2);

/// How far an invoice of ours is.
#[derive(Clone, Copy)]
enum Made {
    Open { expires: UnixSecs },
    Claimable { amount: u64, deadline: u32 },
    Settled,
    Failed,
}

/// A node. Clones are the same one.
#[derive(Clone)]
pub(super) struct LdkWallet(Arc<Inner>);

struct Inner {
    node: Arc<Node>,
    id: WalletId,
    made: Mutex<HashMap<PaymentHash, Made>>,
    hints: watch::Sender<u64>,
    address: SocketAddress,
}

impl fmt::Debug for LdkWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LdkWallet")
    }
}

impl LdkWallet {
    pub(super) fn start(chain: &Chain, folder: &Path) -> Self {
        let address = SocketAddress::from_str(&format!("127.0.0.1:{}", free_port())).unwrap();
        let mut builder = Builder::new();
        builder.set_network(ldk_node::bitcoin::Network::Regtest);
        let (user, password) = (USER.to_owned(), PASSWORD.to_owned());
        builder.set_chain_source_bitcoind_rpc("127.0.0.1".to_owned(), chain.rpc, user, password);
        builder.set_storage_dir_path(folder.display().to_string());
        builder
            .set_listening_addresses(vec![address.clone()])
            .unwrap();
        builder.set_log_facade_logger();
        let node = Arc::new(builder.build().unwrap());
        node.start().unwrap();
        let wallet = Self(Arc::new(Inner {
            id: WalletId {
                kind: "ldk".to_owned(),
                account: node.node_id().to_string(),
            },
            node,
            made: Mutex::default(),
            hints: watch::Sender::new(0),
            address,
        }));
        let inner = Arc::downgrade(&wallet.0);
        let node = Arc::clone(&wallet.0.node);
        std::thread::spawn(move || {
            loop {
                let event = node.wait_next_event();
                let Some(inner) = inner.upgrade() else { break };
                inner.take(event);
                if node.event_handled().is_err() {
                    break;
                }
            }
        });
        wallet
    }

    /// The height that the node has seen.
    pub(super) fn height(&self) -> u32 {
        self.0.height()
    }

    /// Stops the node, which takes a runtime that is not ending.
    pub(super) async fn stop(&self) {
        let node = Arc::clone(&self.0.node);
        tokio::task::spawn_blocking(move || node.stop())
            .await
            .unwrap()
            .unwrap();
    }

    /// Opens a channel with half of its money on either side.
    pub(super) async fn open_channel(&self, chain: &Chain, to: &Self) {
        const SATS: u64 = 1_000_000;
        let node = &self.0.node;
        let address = node.onchain_payment().new_address().unwrap();
        chain.send(&address.to_string(), "1");
        eventually("the coins are seen", async || {
            let _ = node.sync_wallets();
            node.list_balances().spendable_onchain_balance_sats > 2 * SATS
        })
        .await;
        let (peer, at) = (to.0.node.node_id(), to.0.address.clone());
        node.open_channel(peer, at, SATS, Some(SATS / 2 * 1_000), None)
            .unwrap();
        eventually("the channel is ready", async || {
            chain.mine(1);
            let _ = node.sync_wallets();
            let _ = to.0.node.sync_wallets();
            let ready = |node: &Node| node.list_channels().iter().any(|it| it.is_usable);
            ready(node) && ready(&to.0.node)
        })
        .await;
    }
}

impl Inner {
    fn take(&self, event: Event) {
        let mut made = self.made.lock().unwrap();
        match event {
            Event::PaymentClaimable {
                payment_hash,
                claimable_amount_msat,
                claim_deadline,
                ..
            } => {
                let held = Made::Claimable {
                    amount: claimable_amount_msat,
                    deadline: claim_deadline.unwrap_or_default(),
                };
                made.insert(PaymentHash::from_bytes(payment_hash.0), held);
            }
            Event::PaymentReceived { payment_hash, .. } => {
                made.insert(PaymentHash::from_bytes(payment_hash.0), Made::Settled);
            }
            _ => {}
        }
        drop(made);
        self.hints.send_modify(|count| *count += 1);
    }

    fn height(&self) -> u32 {
        self.node.status().current_best_block.height
    }

    fn made(&self, hash: PaymentHash) -> Option<Made> {
        self.made.lock().unwrap().get(&hash).copied()
    }

    fn outgoing(&self, hash: PaymentHash) -> Option<PaymentDetails> {
        let found = self.node.payment(&PaymentId(*hash.as_bytes()))?;
        (found.direction == PaymentDirection::Outbound).then_some(found)
    }

    fn what_became_of(&self, hash: PaymentHash) -> Outgoing {
        let Some(found) = self.outgoing(hash) else {
            return Outgoing::NotFound;
        };
        match found.status {
            PaymentStatus::Pending => Outgoing::InFlight,
            PaymentStatus::Failed => Outgoing::Failed(FailureProof::new("the payment failed")),
            PaymentStatus::Succeeded => {
                let preimage = match found.kind {
                    PaymentKind::Bolt11 { preimage, .. } => preimage,
                    _ => None,
                };
                Outgoing::Paid {
                    preimage: preimage.map(|it| Preimage::from_bytes(it.0)),
                    fee: Msat::new(found.fee_paid_msat.unwrap_or_default()),
                }
            }
        }
    }
}

#[async_trait]
impl Wallet for LdkWallet {
    fn id(&self) -> &WalletId {
        &self.0.id
    }

    fn network(&self) -> Network {
        Network::Regtest
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hold_invoices: true,
            authoritative_lookup: true,
            ..Capabilities::default()
        }
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        let channels = self.0.node.list_channels();
        Ok(Msat::new(
            channels.iter().map(|it| it.outbound_capacity_msat).sum(),
        ))
    }

    async fn fee_quote(&self, _bolt11: &str) -> Result<Msat, WalletError> {
        Err(WalletError::Unsupported("quote fees"))
    }

    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        let refused = |error: String| WalletError::Refused(error);
        let text =
            Description::new(request.description).map_err(|error| refused(error.to_string()))?;
        let text = Bolt11InvoiceDescription::Direct(text);
        let expiry = u32::try_from(request.expiry_secs).unwrap();
        if request.hold.is_some_and(|hash| self.0.made(hash).is_some()) {
            return Err(refused("this hash was used before".to_owned()));
        }
        let payments = self.0.node.bolt11_payment();
        let amount = request.amount.get();
        let made = match request.hold {
            None => payments.receive(amount, &text, expiry),
            Some(hash) => {
                let hash = ldk::PaymentHash(*hash.as_bytes());
                payments.receive_for_hash(amount, &text, expiry, hash)
            }
        };
        let bolt11 = made
            .map_err(|error| refused(error.to_string()))?
            .to_string();
        let parsed = parse_unchecked(&bolt11).unwrap();
        let open = Made::Open {
            expires: parsed.expires_at,
        };
        self.0
            .made
            .lock()
            .unwrap()
            .insert(parsed.payment_hash, open);
        Ok(IssuedInvoice {
            bolt11,
            payment_hash: parsed.payment_hash,
            amount: request.amount,
            expires_at: parsed.expires_at,
        })
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        let now = Clock::system().now();
        Ok(match self.0.made(hash) {
            None => Incoming::NotFound,
            Some(Made::Open { expires }) if now >= expires => Incoming::Expired,
            Some(Made::Open { .. }) => Incoming::Open,
            // The node gives it back by itself then, and says nothing.
            Some(Made::Claimable { deadline, .. }) if self.0.height() >= deadline => {
                Incoming::Cancelled
            }
            Some(Made::Claimable { deadline, .. }) => {
                let blocks = u64::from(deadline - self.0.height());
                Incoming::Held {
                    deadline: now.plus(blocks * SECS_PER_BLOCK),
                }
            }
            Some(Made::Settled) => Incoming::Settled,
            Some(Made::Failed) => Incoming::Cancelled,
        })
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        let hash = preimage.payment_hash();
        match self.0.made(hash) {
            Some(Made::Settled) => Ok(()),
            Some(Made::Claimable { amount, .. }) => {
                let (of, proof) = (*hash.as_bytes(), *preimage.as_bytes());
                let payments = self.0.node.bolt11_payment();
                // It says yes after the deadline too: the look-up has the truth.
                payments
                    .claim_for_hash(ldk::PaymentHash(of), amount, ldk::PaymentPreimage(proof))
                    .map_err(|error| WalletError::Refused(error.to_string()))
            }
            _ => Err(WalletError::Refused(
                "nothing is held under this hash".to_owned(),
            )),
        }
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        match self.0.made(hash) {
            Some(Made::Settled) => return Err(WalletError::Refused("it is settled".to_owned())),
            Some(Made::Failed) => return Ok(()),
            _ => {}
        }
        let payments = self.0.node.bolt11_payment();
        payments
            .fail_for_hash(ldk::PaymentHash(*hash.as_bytes()))
            .map_err(|error| WalletError::Refused(error.to_string()))?;
        self.0.made.lock().unwrap().insert(hash, Made::Failed);
        Ok(())
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        let hash = request.payment_hash;
        if self.0.outgoing(hash).is_none() {
            if self
                .balance()
                .await
                .is_ok_and(|balance| balance < request.amount)
            {
                return PayOutcome::Failed(FailureProof {
                    reason: "the channel has less".to_owned(),
                    insufficient_funds: true,
                });
            }
            let invoice: Bolt11Invoice = request.bolt11.parse().unwrap();
            let sent = self.0.node.bolt11_payment().send(&invoice, None);
            if let (Err(error), None) = (sent, self.0.outgoing(hash)) {
                return PayOutcome::Failed(FailureProof::new(error.to_string()));
            }
        }
        let mut hints = self.0.hints.subscribe();
        let until = tokio::time::Instant::now() + PAY_WITHIN;
        loop {
            match self.0.what_became_of(hash) {
                Outgoing::Paid { preimage, fee } => return PayOutcome::Paid { preimage, fee },
                Outgoing::Failed(proof) => return PayOutcome::Failed(proof),
                _ => {}
            }
            if tokio::time::timeout_at(until, hints.changed())
                .await
                .is_err()
            {
                return PayOutcome::InFlight;
            }
        }
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        Ok(self.0.what_became_of(hash))
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.hints.subscribe())
    }
}

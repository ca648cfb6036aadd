//! Escrow, the buyer's side: the real programs and the library against providers played by the test, which
//! issue hold invoices on the buyer's hash, see the money held, and then deliver, or do something else.

mod both;
mod buying;
mod crashes;
mod faults;
mod lies;
mod wallets;

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::protocol::Feature;
use agent_compute::protocol::message::AgentMessage;
use agent_compute::wallet::{Incoming, Wallet};

use crate::cast::{Asked, Peer};
use crate::harness::Ran;
use crate::stage::{self, Books, Customer, PRICE, Stage};

/// A job whose money is held.
#[derive(Clone)]
struct Held {
    job: Asked,
    hash: PaymentHash,
}

/// A provider that lists escrow.
async fn seller(stage: &Stage) -> Peer {
    let provider = Peer::unlisted(stage).await;
    list_escrow(&provider).await;
    provider
}

async fn list_escrow(provider: &Peer) {
    provider
        .list(|content| {
            content.features.insert(Feature::HoldInvoice);
        })
        .await;
}

/// The hash that a request in escrow names.
fn hash_of(job: &Asked) -> PaymentHash {
    assert_eq!(job.request.escrow, Some(Feature::HoldInvoice));
    let hash = job.request.payment_hash.as_ref();
    hash.expect("a hash").parse().expect("64 hex digits")
}

/// Takes the next job, quotes it with a hold invoice on the buyer's hash, and waits until its own wallet
/// says that the money is held.
async fn held_job(provider: &mut Peer) -> Held {
    let job = provider.asked().await;
    let hash = hash_of(&job);
    let invoice = provider.issue_on(PRICE, Some(hash)).await;
    provider.quote_modern(&job.id, &invoice).await;
    let money = provider.until_money(hash).await;
    assert!(matches!(money, Incoming::Held { .. }), "{money:?}");
    Held { job, hash }
}

/// Waits for the preimage of a job.
async fn preimage_of(provider: &mut Peer, held: &Held) -> Preimage {
    let text = provider
        .hear(|_, message| match message {
            AgentMessage::PreimageRelease(release) if release.job_id == held.job.id => {
                Some(release.preimage)
            }
            _ => None,
        })
        .await;
    let preimage: Preimage = text.parse().unwrap();
    assert_eq!(preimage.payment_hash(), held.hash);
    preimage
}

/// Waits for the preimage and claims the money with it.
async fn claim(provider: &mut Peer, held: &Held) {
    let preimage = preimage_of(provider, held).await;
    provider.wallet.settle(preimage).await.unwrap();
}

/// Locked, and neither paid nor back.
const fn locked() -> Books {
    Books {
        spent: 0,
        reserved: PRICE,
        unknown: 0,
        gone: PRICE,
    }
}

//! Orders to pay: each payment hash once, and what is known of it. See the table in [`nwc`](super).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::client::{Asked, locked};
use super::wire::{self, Payment, Reply, Said, Sent, Settled};
use crate::config::default_fee_cap;
use crate::ids::{PaymentHash, Preimage};
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing, PayOutcome, PayRequest, WalletError, bounded};

/// How long the wallet may take to hear of an order, unless it is waited for less. One that it hears later is
/// void.
const HEAR_WITHIN: Duration = Duration::from_secs(60);

/// How long the relays may take to pass an order on.
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// How long an order that no relay confirmed is waited for: the wallet may have heard it all the same.
const UNCONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// How long the wallet may be silent before the payment is looked up. Most answer sooner.
const LOOK_AFTER: Duration = Duration::from_secs(3);

/// The longest pause between look-ups of a payment that the wallet does not answer about.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Between two look-ups that are to prove a failure.
const PROVE_AFTER: Duration = Duration::from_millis(500);

/// How long a second answer is waited for where the wallet may hear an order more than once.
const SECOND_ANSWER: Duration = Duration::from_secs(1);

/// The most hashes whose end is remembered; those in doubt are never forgotten.
const MOST_ENDED: usize = 4096;

type Answer = SharedFuture<BoxFuture<'static, PayOutcome>>;

/// How far an order is.
enum Progress {
    UnderWay(Answer),
    /// The wallet was told to pay, and it is not proven what became of that.
    InDoubt,
    Paid {
        preimage: Option<Preimage>,
        fee: Msat,
    },
}

/// How long it counts that the wallet did not know a payment: whoever asks and then pays asks once.
const MISSING_FOR: Duration = Duration::from_secs(10);

struct Order {
    cap: Msat,
    progress: Progress,
}

/// The orders of one connection in this process.
pub(super) struct Orders {
    shared: Arc<Shared>,
    known: Arc<Mutex<HashMap<PaymentHash, Order>>>,
    /// Payments that the wallet did not know, and when it said so.
    missing: Mutex<HashMap<PaymentHash, Instant>>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Orders")
    }
}

impl Orders {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            known: Arc::default(),
            missing: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Pays, or joins whoever has that same hash paid already.
    pub(super) async fn pay(&self, request: PayRequest) -> PayOutcome {
        self.answer(request).await
    }

    fn answer(&self, request: PayRequest) -> Answer {
        let mut known = locked(&self.known);
        let hash = request.payment_hash;
        let is_doubted = match known.get(&hash).map(|order| &order.progress) {
            Some(Progress::UnderWay(answer)) => return answer.clone(),
            Some(Progress::Paid { preimage, fee }) => {
                let (preimage, fee) = (*preimage, *fee);
                let paid = PayOutcome::Paid { preimage, fee };
                return std::future::ready(paid).boxed().shared();
            }
            Some(Progress::InDoubt) => true,
            None => false,
        };
        if known.len() >= MOST_ENDED {
            known.retain(|_, order| !matches!(order.progress, Progress::Paid { .. }));
        }
        let (tell, told) = oneshot::channel();
        let answer = told
            .map(|told| {
                told.unwrap_or_else(|_| PayOutcome::Unknown {
                    reason: "the wallet connection was closed".to_owned(),
                })
            })
            .boxed()
            .shared();
        let order = Order {
            cap: request.max_fee,
            progress: Progress::UnderWay(answer.clone()),
        };
        known.insert(hash, order);
        drop(known);
        let attempt = Attempt {
            shared: Arc::clone(&self.shared),
            is_missing: locked(&self.missing)
                .remove(&hash)
                .is_some_and(|said| said.elapsed() < MISSING_FOR),
            request,
            is_doubted,
        };
        let known = Arc::clone(&self.known);
        // A task of its own: a payment that was begun goes on if nobody waits for it.
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let outcome = attempt.run().await;
            note(&mut locked(&known), hash, &outcome);
            let _ = tell.send(outcome);
        });
        answer
    }

    /// What became of a payment.
    pub(super) async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        // Asked before the wallet is: an order that ends meanwhile is known to the wallet.
        let (cap, is_under_way) = match locked(&self.known).get(&hash) {
            Some(Order {
                progress: Progress::Paid { preimage, fee },
                ..
            }) => {
                return Ok(Outgoing::Paid {
                    preimage: *preimage,
                    fee: *fee,
                });
            }
            Some(order) => (
                Some(order.cap),
                matches!(order.progress, Progress::UnderWay(_)),
            ),
            None => (None, false),
        };
        let sent = self.shared.sent(hash).await?;
        if matches!(sent, Sent::NotFound) {
            if is_under_way {
                return Ok(Outgoing::InFlight);
            }
            let mut missing = locked(&self.missing);
            missing.retain(|_, said| said.elapsed() < MISSING_FOR);
            missing.insert(hash, Instant::now());
        }
        let told = sent.told(|amount| untold_fee(cap, amount));
        if let (Outgoing::Paid { preimage, fee }, Some(cap)) = (&told, cap) {
            let progress = Progress::Paid {
                preimage: *preimage,
                fee: *fee,
            };
            let mut known = locked(&self.known);
            // The order itself still tells its own end.
            if !is_under_way {
                known.insert(hash, Order { cap, progress });
            }
        }
        Ok(told)
    }
}

/// What is booked for a fee that the wallet does not tell: all that was allowed.
fn untold_fee(cap: Option<Msat>, amount: Option<Msat>) -> Msat {
    cap.unwrap_or_else(|| default_fee_cap(amount.unwrap_or(Msat::ZERO)))
}

fn note(known: &mut HashMap<PaymentHash, Order>, hash: PaymentHash, outcome: &PayOutcome) {
    let progress = match outcome {
        PayOutcome::Paid { preimage, fee } => Progress::Paid {
            preimage: *preimage,
            fee: *fee,
        },
        PayOutcome::Failed(_) => {
            known.remove(&hash);
            return;
        }
        PayOutcome::InFlight | PayOutcome::Unknown { .. } => Progress::InDoubt,
    };
    if let Some(order) = known.get_mut(&hash) {
        order.progress = progress;
    }
}

/// One order on its way.
struct Attempt {
    shared: Arc<Shared>,
    request: PayRequest,
    /// Whether the wallet was told to pay this before, with an end that nobody knows.
    is_doubted: bool,
    /// Whether the wallet has just said that it does not know this payment.
    is_missing: bool,
}

impl Attempt {
    async fn run(&self) -> PayOutcome {
        let found = if self.is_missing {
            Ok(Sent::NotFound)
        } else {
            self.shared.sent(self.request.payment_hash).await
        };
        match found {
            Ok(Sent::NotFound) if self.is_doubted => unknown("it was told to pay this before"),
            Ok(Sent::NotFound) => match self.forbidden() {
                Some(why) => failed(why),
                None => self.order().await,
            },
            // Paid once, or tried: never told again.
            Ok(Sent::Failed(proof)) => self.proven(proof, true).await,
            Ok(found) => self.told(found),
            Err(error) if self.is_doubted => unknown(error.to_string()),
            Err(error) => failed(format!("{error}; it was told nothing, so nothing was paid")),
        }
    }

    /// What speaks against paying, without asking anybody.
    fn forbidden(&self) -> Option<String> {
        let (shared, request) = (&self.shared, &self.request);
        if !shared.can("pay_invoice") {
            return Some("this wallet connection may not pay: it lacks pay_invoice".to_owned());
        }
        let invoice = match shared.parse(&request.bolt11) {
            Ok(invoice) => invoice,
            Err(why) => return Some(why),
        };
        if invoice.payment_hash != request.payment_hash {
            return Some("the invoice is not the one with this payment hash".to_owned());
        }
        if invoice.amount != Some(request.amount) {
            return Some(format!("the invoice does not ask for {}", request.amount));
        }
        if shared.now() >= invoice.expires_at {
            return Some("the invoice has expired".to_owned());
        }
        None
    }

    /// Tells the wallet to pay, once, and finds out what became of it.
    async fn order(&self) -> PayOutcome {
        let client = &self.shared.client;
        let params = json!({ "invoice": self.request.bolt11 });
        let within = self.shared.options.pay_within;
        let valid = HEAR_WITHIN.min(within);
        let sending = client.send("pay_invoice", &params, valid, PUBLISH_WITHIN);
        let (mut asked, within, mut trouble) = match sending.await {
            Ok(asked) => (
                asked,
                within,
                "the wallet did not answer in time".to_owned(),
            ),
            Err((Some(asked), why)) => (asked, within.min(UNCONFIRMED_WITHIN), why),
            Err((None, why)) => return failed(why),
        };
        let until = Instant::now() + within;
        let mut pause = LOOK_AFTER;
        let mut is_seen = false;
        loop {
            let patient = (Instant::now() + pause).min(until);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Some(reply) = asked.reply(patient).await {
                return self.replied(reply, &mut asked).await;
            }
            match self.shared.sent(self.request.payment_hash).await {
                Ok(Sent::Paid(paid)) => return self.paid(paid),
                Ok(Sent::Failed(proof)) => return self.proven(proof, true).await,
                Ok(Sent::InFlight) => is_seen = true,
                Ok(Sent::NotFound) => {}
                Err(error) => trouble = error.to_string(),
            }
            if Instant::now() >= until {
                return if is_seen {
                    PayOutcome::InFlight
                } else {
                    unknown(trouble)
                };
            }
        }
    }

    async fn replied(&self, reply: Reply, asked: &mut Asked) -> PayOutcome {
        self.shared.client.hint();
        let said = match reply {
            Ok(value) => return self.success(value).await,
            Err(said) => said,
        };
        // A wallet that heard the order twice may say "paid" to one and "no" to the other.
        let twice = self.shared.client.connection.relays().len() > 1;
        let wait = if twice { SECOND_ANSWER } else { Duration::ZERO };
        if let Some(Ok(value)) = asked.reply(Instant::now() + wait).await {
            return self.success(value).await;
        }
        self.refused(said).await
    }

    /// The wallet says that it has paid.
    async fn success(&self, value: serde_json::Value) -> PayOutcome {
        let hash = self.request.payment_hash;
        let payment: Payment = wire::read(value).unwrap_or_default();
        let (told, fee) = (payment.preimage(hash), payment.fee());
        if let (Ok(Some(preimage)), Some(fee)) = (told, fee) {
            return PayOutcome::Paid {
                preimage: Some(preimage),
                fee,
            };
        }
        // The fee is missing, or the proof is: some wallets tell these in a look-up only.
        let proof = told.ok().flatten();
        match (self.shared.sent(hash).await, proof) {
            (Ok(Sent::Paid(found)), proof) => self.paid(Settled {
                preimage: proof.or(found.preimage),
                fee: fee.or(found.fee),
                ..found
            }),
            (_, Some(_)) => self.paid(Settled {
                preimage: proof,
                fee,
                amount: None,
            }),
            (Ok(Sent::InFlight), None) => PayOutcome::InFlight,
            (_, None) if told.is_err() => {
                unknown("its proof of payment is that of another payment")
            }
            (_, None) => unknown("it says that it has paid, without a proof or a record of it"),
        }
    }

    fn paid(&self, paid: Settled) -> PayOutcome {
        PayOutcome::Paid {
            preimage: paid.preimage,
            fee: paid.fee.unwrap_or(self.request.max_fee),
        }
    }

    /// The wallet says no.
    async fn refused(&self, said: Said) -> PayOutcome {
        let proof = said.proof();
        if !said.is_before_any_attempt() {
            return self.proven(proof, false).await;
        }
        match self.shared.sent(self.request.payment_hash).await {
            Ok(Sent::NotFound | Sent::Failed(_)) => PayOutcome::Failed(proof),
            Ok(found) => self.told(found),
            Err(error) => unknown(format!("{}; {error}", said.words)),
        }
    }

    /// Whether two look-ups agree that it failed. One was made already if `once`.
    async fn proven(&self, proof: FailureProof, once: bool) -> PayOutcome {
        let hash = self.request.payment_hash;
        let mut left = if once { 1 } else { 2 };
        loop {
            match self.shared.sent(hash).await {
                Ok(Sent::Failed(_)) if left == 1 => return PayOutcome::Failed(proof),
                Ok(Sent::Failed(_)) => left -= 1,
                Ok(Sent::NotFound) => {
                    return unknown(format!("{}; it keeps no record of it", proof.words()));
                }
                Ok(found) => return self.told(found),
                Err(error) => return unknown(format!("{}; {error}", proof.words())),
            }
            sleep(PROVE_AFTER).await;
        }
    }

    /// What a look-up found, as the answer to an order.
    fn told(&self, found: Sent) -> PayOutcome {
        match found {
            Sent::Paid(paid) => self.paid(paid),
            Sent::InFlight => PayOutcome::InFlight,
            Sent::Failed(proof) => PayOutcome::Failed(proof),
            Sent::NotFound => unknown("it knows nothing of it"),
        }
    }
}

fn failed(why: impl Into<String>) -> PayOutcome {
    PayOutcome::Failed(FailureProof::new(why))
}

fn unknown(why: impl Into<String>) -> PayOutcome {
    PayOutcome::Unknown {
        reason: bounded(&why.into()),
    }
}

//! What the loop's tasks share, and the tasks themselves: each does one slow thing and says how it went.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use nostr::{Event, EventId};
use tokio_util::sync::CancellationToken;

use super::backend::BackendError;
use super::escrow::{HoldEnd, NoHold};
use super::job::{Address, Job, JobState, JobStep, MAX_ATTEMPTS};
use super::pricing::{Quote, Refusal};
use super::store::{Finish, JobStore, Seller, StoreError, Unsent};
use super::work::Workshop;
use crate::crash::{self, Point};
use crate::ids::PaymentHash;
use crate::protocol::message::{AgentMessage, Invoice, JobAccepted};
use crate::relay::{RelayError, Subscription};
use crate::units::UnixSecs;
use crate::wallet::{Incoming, InvoiceRequest, IssuedInvoice, Wallet, WalletError};

/// How long the wallet is given for one answer.
const WALLET: Duration = Duration::from_secs(30);

/// How long an invoice is worth sending: a customer does not wait longer.
const INVOICE_PATIENCE: Duration = Duration::from_secs(60);

/// How long a result is sent again and again before it waits for the next start.
const RESULT_PATIENCE: Duration = Duration::from_secs(3_600);

/// How much longer results are tried once the provider is to leave.
pub(super) const LEAVING_PATIENCE: Duration = Duration::from_secs(60);

/// Between tries to put on record what became of a job: twice as long each time.
const STORE_RETRY_FIRST: Duration = Duration::from_millis(50);
const STORE_RETRY_SLOWEST: Duration = Duration::from_secs(2);

/// A job that ends this soon is put on record once, begun and done together.
const ONE_RECORD: Duration = Duration::from_millis(50);

/// What deployed providers without a wallet send, and deployed customers know.
const MOCK_BOLT11: &str = "lnbcrt100n1mock";
const MOCK_HASH: &str = "mock_payment_hash";

/// How a task ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A job is on record, and its invoice may go out.
    Quoted(Box<Job>),
    /// There is no quote: the request is refused, or in silence if there is nothing to say.
    NotQuoted(Address, Option<Refusal>),
    /// The wallet answered.
    LookedUp(PaymentHash, EventId, Result<Incoming, WalletError>),
    /// A late quote was paid, or is held until then, and this is its job.
    Loaded(EventId, Option<UnixSecs>, Result<Box<Job>, StoreError>),
    /// Whether the invoice of a quote can no longer be paid.
    Cancelled(EventId, Result<(), WalletError>),
    /// The backend is done, one way or the other, and that is on record, or will have to be.
    Worked(Box<Job>, Finish, Recorded),
    /// The customer was told all there is, or could not be.
    Told(Unsent, Result<(), RelayError>),
    /// We announced, or could not.
    Announced(Result<(), String>),
    /// A new subscription in place of one that ended.
    Subscribed(Result<Subscription, RelayError>),
    /// What became of held money that was to be settled or given back.
    HoldEnded(EventId, HoldEnd),
    /// What a customer said while we were away.
    Missed(Vec<Event>),
    /// Nothing that the loop has to know.
    Nothing,
}

/// How a job ended, where the store could not be written then.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) held_until: Option<UnixSecs>,
    pub(super) finish: Finish,
}

/// Whether what became of a job is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is, or never can be.
    Done,
    /// The store can't be written now.
    Later,
}

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) workshop: Workshop,
    pub(super) store: JobStore,
    pub(super) seller: Seller,
    pub(super) wallet: Option<Arc<dyn Wallet>>,
    pub(super) quote_secs: u64,
    pub(super) finish: CancellationToken,
}

/// The wallet's answer, or that none came in time.
pub(super) async fn answer<T>(
    asked: impl Future<Output = Result<T, WalletError>>,
) -> Result<T, WalletError> {
    tokio::time::timeout(WALLET, asked)
        .await
        .unwrap_or_else(|_| Err(WalletError::Unreachable("no answer in time".into())))
}

impl Shop {
    pub(super) fn now(&self) -> UnixSecs {
        self.workshop.voice.clock.now()
    }

    /// Makes the invoice and puts the job on record.
    pub(super) async fn quote(
        self: Arc<Self>,
        address: Address,
        prompt: String,
        max_tokens: u32,
        requested_at: UnixSecs,
        quote: Quote,
    ) -> Outcome {
        if let Some(hash) = quote.escrow
            && let Err(refusal) = self.may_escrow(address, hash).await
        {
            return Outcome::NotQuoted(address, Some(refusal));
        }
        let invoice = match self.invoice(address, &quote).await {
            Ok(invoice) => invoice,
            Err(WalletError::Refused(why)) if quote.escrow.is_some() => {
                tracing::warn!(job_id = %address.job_id(), %why, "no hold invoice");
                let refusal = Refusal::new(
                    "escrow",
                    "the provider's wallet can't hold on this payment_hash: use a new one",
                );
                return Outcome::NotQuoted(address, Some(refusal));
            }
            Err(trouble) => {
                tracing::error!(job_id = %address.job_id(), %trouble, "no invoice");
                let refusal =
                    Refusal::new("failed", "the provider's wallet can't make an invoice now");
                return Outcome::NotQuoted(address, Some(refusal));
            }
        };
        let payment_hash = self.wallet.as_ref().map(|_| invoice.payment_hash);
        let job = Job {
            address,
            prompt,
            model: quote.model,
            max_tokens,
            stream: quote.stream,
            deployed: quote.deployed,
            price: quote.price,
            bolt11: invoice.bolt11,
            payment_hash,
            requested_at,
            expires_at: invoice.expires_at,
            attempts: 0,
            escrow: quote.escrow.is_some(),
            held_until: None,
            waited: false,
            resumed: false,
        };
        // An invoice without a record is never sent, so nobody can pay it.
        let inserted = self.store.insert(&job, &self.seller, self.now());
        match crash::around(Point::ProviderQuote, inserted).await {
            Ok(()) => Outcome::Quoted(Box::new(job)),
            // Served before, or its job id or hash is another job's: nothing to say, since any answer
            // would bear that other job's name.
            Err(StoreError::Known) => Outcome::NotQuoted(address, None),
            Err(error) => {
                tracing::error!(job_id = %address.job_id(), %error, "no quote");
                let refusal = Refusal::new("failed", "the provider can't keep records now");
                Outcome::NotQuoted(address, Some(refusal))
            }
        }
    }

    async fn invoice(&self, address: Address, quote: &Quote) -> Result<IssuedInvoice, WalletError> {
        let Some(wallet) = &self.wallet else {
            return Ok(IssuedInvoice {
                bolt11: MOCK_BOLT11.into(),
                payment_hash: PaymentHash::from_bytes([0; 32]),
                amount: quote.price,
                expires_at: self.now().plus(self.quote_secs),
            });
        };
        let request = InvoiceRequest {
            amount: quote.price,
            expiry_secs: self.quote_secs,
            hold: quote.escrow,
            description: format!("agent-compute {}", address.job_id()),
        };
        let invoice = answer(wallet.invoice(request));
        let invoice = crash::around(Point::ProviderInvoice, invoice).await?;
        if invoice.amount != quote.price {
            let asks = invoice.amount;
            return Err(WalletError::Refused(format!("its invoice asks for {asks}")));
        }
        if quote
            .escrow
            .is_some_and(|hash| hash != invoice.payment_hash)
        {
            let why = "its invoice is on another payment hash";
            return Err(WalletError::Refused(why.into()));
        }
        Ok(invoice)
    }

    /// Sends the quote.
    pub(super) async fn send_invoice(
        self: Arc<Self>,
        address: Address,
        invoice: Invoice,
    ) -> Outcome {
        let message = AgentMessage::Invoice(invoice);
        let said = self.say(address, &message, INVOICE_PATIENCE);
        crash::around(Point::ProviderInvoiceSaid, said).await;
        Outcome::Nothing
    }

    /// The quote, as it is sent.
    pub(super) fn invoice_of(job: &Job) -> Invoice {
        let hash = job.payment_hash.map(|hash| hash.to_string());
        Invoice {
            payment_hash: Some(hash.unwrap_or_else(|| MOCK_HASH.into())),
            expires_at: Some(job.expires_at),
            ..Invoice::new(job.address.job_id(), job.bolt11.clone(), job.price)
        }
    }

    /// Sends a refusal, once.
    pub(super) async fn refuse(self: Arc<Self>, address: Address, refusal: Refusal) -> Outcome {
        let voice = &self.workshop.voice;
        match voice.refusal(address, &refusal) {
            Ok(event) => {
                let published = voice.publish(&event);
                let published = crash::around(Point::ProviderRefusalSaid, published);
                if let Err(trouble) = published.await {
                    tracing::debug!(job_id = %address.job_id(), %trouble, "a refusal was not sent");
                }
            }
            Err(error) => tracing::error!(%error, "a refusal can't be sent"),
        }
        Outcome::Nothing
    }

    /// Puts on record that a job that waits is paid, or held.
    pub(super) async fn accept(
        self: Arc<Self>,
        address: Address,
        held_until: Option<UnixSecs>,
        position: u32,
    ) -> Outcome {
        let funded = self.store.fund(address.request, held_until, self.now());
        if let Err(error) = crash::around(Point::ProviderFunded, funded).await {
            // Its end is, and that says so too.
            tracing::error!(job_id = %address.job_id(), %error, "a payment is not on record");
        }
        self.tell_position(address, position).await
    }

    /// Tells a customer how many jobs are before its own.
    pub(super) async fn tell_position(self: Arc<Self>, address: Address, position: u32) -> Outcome {
        let message = AgentMessage::JobAccepted(JobAccepted {
            job_id: address.job_id(),
            queue_position: position,
        });
        let said = self.say(address, &message, Duration::ZERO);
        crash::around(Point::ProviderPositionSaid, said).await;
        Outcome::Nothing
    }

    async fn say(&self, address: Address, message: &AgentMessage, patience: Duration) {
        let voice = &self.workshop.voice;
        let said = match voice.answer(address, message) {
            Ok(event) => voice.publish_patiently(&event, patience).await,
            Err(error) => return tracing::error!(%error, "a message can't be sent"),
        };
        if let Err(trouble) = said {
            tracing::warn!(job_id = %address.job_id(), %trouble, "a message was not sent");
        }
    }

    /// Asks the wallet whether an invoice is paid.
    pub(super) async fn look_up(self: Arc<Self>, hash: PaymentHash, job: EventId) -> Outcome {
        let found = match &self.wallet {
            Some(wallet) => answer(wallet.incoming(hash)).await,
            None => Ok(Incoming::NotFound),
        };
        Outcome::LookedUp(hash, job, found)
    }

    /// Reads a job that was paid, or held, after it had left the memory.
    pub(super) async fn load(
        self: Arc<Self>,
        request: EventId,
        held_until: Option<UnixSecs>,
    ) -> Outcome {
        let job = self.store.job(request).await;
        Outcome::Loaded(request, held_until, job.map(Box::new))
    }

    /// Makes the invoice of a quote unpayable, if it can be.
    pub(super) async fn cancel(
        self: Arc<Self>,
        request: EventId,
        hash: Option<PaymentHash>,
    ) -> Outcome {
        let done = match (&self.wallet, hash) {
            (Some(wallet), Some(hash)) => {
                crash::around(Point::ProviderQuoteCancel, answer(wallet.cancel(hash))).await
            }
            _ => Ok(()),
        };
        Outcome::Cancelled(request, done)
    }

    /// Puts on record that a quote is over.
    pub(super) async fn close(
        self: Arc<Self>,
        request: EventId,
        why: &'static [JobStep],
    ) -> Outcome {
        let closed = self.store.step(request, why, self.now());
        if let Err(error) = crash::around(Point::ProviderClosed, closed).await {
            tracing::warn!(%request, %error, "the end of a quote is not on record");
        }
        Outcome::Nothing
    }

    /// Does a job, and puts its end on record. `doubtful`: some time has passed since the wallet said that
    /// its money is held. `lost`: from here on it is not.
    pub(super) async fn work(
        self: Arc<Self>,
        mut job: Box<Job>,
        doubtful: bool,
        lost: CancellationToken,
    ) -> Outcome {
        if job.attempts >= MAX_ATTEMPTS {
            let why = format!("it was begun {} times and never ended", job.attempts);
            let finish = self.workshop.failed(&job, &BackendError::Failed(why));
            return self.ended(job, finish).await;
        }
        if doubtful {
            match self.still_held(&job).await {
                Ok(held_until) => job.held_until = held_until,
                Err(why) => return self.give_up(job, why).await,
            }
        }
        let finish = {
            let work = pin!(self.workshop.work(&job));
            tokio::select! {
                biased;
                () = lost.cancelled() => None,
                finish = self.recorded(&job, work) => Some(finish),
            }
        };
        match finish {
            Some(finish) => self.ended(job, finish).await,
            None => self.give_up(job, NoHold::gone()).await,
        }
    }

    /// Puts the end of a job on record.
    pub(super) async fn ended(self: Arc<Self>, job: Box<Job>, finish: Finish) -> Outcome {
        let request = job.address.request;
        let (held_until, now) = (job.held_until, self.now());
        let finished = self.store.finish(request, held_until, finish.clone(), now);
        let point = match (&finish.error, held_until) {
            (None, _) => Point::ProviderResult,
            (Some(_), None) => Point::ProviderFailed,
            (Some(_), Some(_)) => Point::ProviderReturning,
        };
        let recorded = match crash::around(point, finished).await {
            Ok(_) => Recorded::Done,
            Err(error) => {
                // The customer paid, so it is told all the same.
                tracing::error!(job_id = %job.address.job_id(), %error, "a result is not on record");
                match error {
                    StoreError::Storage(_) => Recorded::Later,
                    _ => Recorded::Done,
                }
            }
        };
        Outcome::Worked(job, finish, recorded)
    }

    /// Puts on record what became of a job, again and again until the store takes it: a disk that is full
    /// now may have room later, and what was paid for must not look unpaid until the next start.
    pub(super) async fn insist_on_record<W>(
        &self,
        what: &str,
        request: EventId,
        write: impl Fn() -> W,
    ) -> Result<JobState, StoreError>
    where
        W: Future<Output = Result<JobState, StoreError>>,
    {
        let insisting = async {
            let mut pause = STORE_RETRY_FIRST;
            loop {
                match write().await {
                    Err(error @ StoreError::Storage(_)) if pause == STORE_RETRY_FIRST => {
                        tracing::error!(%request, %error, "{what} is not on record yet");
                    }
                    Err(StoreError::Storage(_)) => {}
                    done => return done,
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(STORE_RETRY_SLOWEST);
            }
        };
        let leaving = async {
            self.finish.cancelled().await;
            tokio::time::sleep(STORE_RETRY_SLOWEST).await;
        };
        tokio::select! {
            done = insisting => done,
            () = leaving => {
                let why = "the provider stops; the next start asks the wallet";
                Err(StoreError::Storage(why.to_owned()))
            }
        }
    }

    /// Puts on record that a job was begun, unless it ends so soon that one record will do. A job that an
    /// earlier run may have begun is always counted, and first: it may be what ended that run.
    async fn recorded(
        &self,
        job: &Job,
        mut work: Pin<&mut impl Future<Output = Finish>>,
    ) -> Finish {
        if job.resumed {
            self.begun(job).await;
            return work.await;
        }
        if let Ok(finish) = tokio::time::timeout(ONE_RECORD, &mut work).await {
            return finish;
        }
        // The work goes on meanwhile.
        let (finish, ()) = tokio::join!(work, self.begun(job));
        finish
    }

    async fn begun(&self, job: &Job) {
        let request = job.address.request;
        let started = self.store.start(request, job.held_until, self.now());
        if let Err(error) = crash::around(Point::ProviderBegin, started).await {
            tracing::error!(job_id = %job.address.job_id(), %error, "a start is not on record");
        }
    }

    /// Publishes what is on record, or is `late` to be, and puts on record that it was.
    pub(super) async fn tell(self: Arc<Self>, what: Unsent, late: Option<Late>) -> Outcome {
        let request = what.address.request;
        let record = async {
            let Some(Late { held_until, finish }) = late else {
                return;
            };
            let write = || {
                let finish = finish.clone();
                self.store.finish(request, held_until, finish, self.now())
            };
            if let Err(error) = self.insist_on_record("a result", request, write).await {
                tracing::error!(%request, %error, "a result is not on record");
            }
        };
        let leaving = async {
            self.finish.cancelled().await;
            tokio::time::sleep(LEAVING_PATIENCE).await;
        };
        let (saying, recording) = match what.is_result {
            true => (Point::ProviderResultSaid, Point::ProviderDelivered),
            false => (Point::ProviderFailureSaid, Point::ProviderTold),
        };
        let publish = async {
            tokio::select! {
                told = crash::around(saying, self.publish(&what.messages)) => told,
                () = leaving => Err(RelayError::Closed),
            }
        };
        let (told, ()) = tokio::join!(publish, record);
        let write = || {
            let step = self.store.step(request, &[JobStep::Published], self.now());
            crash::around(recording, step)
        };
        if told.is_ok()
            && let Err(error) = self.insist_on_record("a delivery", request, write).await
        {
            tracing::warn!(job_id = %what.address.job_id(), %error, "a delivery is not on record");
        }
        Outcome::Told(what, told)
    }

    async fn publish(&self, messages: &[Event]) -> Result<(), RelayError> {
        self.workshop
            .voice
            .publish_all(messages, RESULT_PATIENCE)
            .await
    }
}

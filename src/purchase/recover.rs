//! Settles what a crash, a time-out or a lost connection left open.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::machine::{Machine, apply};
use super::driver::{Engine, Run};
use super::ears::Answers;
use super::event::PurchaseEvent;
use super::kept::Kept;
use super::listen::{Since, listen};
use super::lock::Lock;
use super::payment::{self, Payment};
use super::state::{Happening, Phase, State};
use super::wallet::look_up;
use super::watcher::Watcher;
use crate::config;
use crate::crash::{self, Point};
use crate::error::{Code, Error, Result};
use crate::ids::{PaymentHash, PurchaseId};
use crate::ledger::{DriveGuard, LedgerError, PurchaseRecord};
use crate::units::Msat;
use crate::wallet::Wallet;

/// What recovery found out about one purchase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Recovered {
    /// The purchase.
    pub purchase_id: PurchaseId,
    /// Where it stood.
    pub was: String,
    /// Where it stands now.
    pub state: String,
    /// What left the wallet for it.
    pub paid_msat: Msat,
    /// What is still set aside for it.
    pub reserved_msat: Msat,
    /// The result, if it is here now.
    pub text: Option<String>,
    /// What keeps it from being settled.
    pub trouble: Option<Trouble>,
}

/// What keeps a purchase from being settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trouble {
    /// The stable word.
    pub code: Code,
    /// In words.
    pub message: String,
}

/// How much recovery may do, and how long it may take for one purchase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What was open: money first, and results that are on the relays already. At every start, as far as
    /// a moment suffices.
    Open,
    /// That, and results of purchases that were given up as undelivered. The `recover` command.
    All,
}

impl Depth {
    const fn patience(self) -> Duration {
        match self {
            Self::Open => config::RECOVER_AT_START,
            Self::All => config::RECOVER_PATIENCE,
        }
    }
}

/// Recovers every purchase that no living process works on.
///
/// # Errors
/// If the ledger can't be used. Trouble with one purchase is reported in its [`Recovered`].
pub async fn recover(engine: &Engine, depth: Depth) -> Result<Vec<Recovered>> {
    let started = Instant::now();
    let open = engine.ledger.recoverable().await?;
    let due = open.into_iter().filter(|record| {
        let undelivered = record.state.status == crate::ledger::Status::Undelivered;
        depth == Depth::All || !undelivered || !record.reserved().is_zero()
    });
    let recovered: Vec<Option<Recovered>> = stream::iter(due)
        .map(|record| async move {
            // A payee can hold payments for a day, and as many as the limits allow. They must not keep
            // the next purchase waiting: what is not reached in time is left to `recover`.
            if depth == Depth::Open && started.elapsed() >= depth.patience() {
                return Ok(None);
            }
            recover_one(engine, record, depth).await
        })
        .buffered(config::RECOVER_AT_ONCE)
        .try_collect()
        .await?;
    Ok(recovered.into_iter().flatten().collect())
}

/// Recovers one purchase; `None` if another process was quicker, or is at work on it.
///
/// # Errors
/// If the ledger can't be used.
pub async fn recover_one(
    engine: &Engine,
    record: PurchaseRecord,
    depth: Depth,
) -> Result<Option<Recovered>> {
    let Some(driving) = engine.ledger.drive(record.id) else {
        return Ok(None);
    };
    let driving = Arc::new(driving);
    let record = match adopt(engine, &record).await {
        Ok(record) => record,
        Err(LedgerError::Conflict(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let was = record.state.label.clone();
    let id = record.id;
    let trouble = settle_and_fetch(engine, &driving, record, depth)
        .await
        .err();
    report(engine, id, was, trouble).await.map(Some)
}

/// The owner's word on a payment that no look-up decides. Logged as such.
///
/// # Errors
/// If there is no such purchase, it is not in doubt, or a living process works on it.
pub async fn resolve(engine: &Engine, id: &str, paid: bool) -> Result<Recovered> {
    let record = engine.ledger.find(id).await?;
    let busy = || {
        Error::new(
            Code::Usage,
            "a living process works on this purchase: stop it, or let it finish",
        )
    };
    let _driving = engine.ledger.drive(record.id).ok_or_else(busy)?;
    let record = match adopt(engine, &record).await {
        Err(LedgerError::Conflict(_)) => return Err(busy()),
        other => other?,
    };
    let mut kept = read(&record)?;
    let undecided = match &kept {
        Kept::Purchase(state) => state.phase.is_undecided(),
        Kept::Payment(payment) => payment.phase.is_undecided(),
    };
    if !undecided {
        let message = format!(
            "purchase {} is {}, not in doubt: there is nothing to resolve",
            record.id, record.state.label
        );
        return Err(Error::new(Code::Usage, message));
    }
    let was = record.state.label.clone();
    let word = Happening::Resolved { paid };
    match &mut kept {
        Kept::Purchase(state) => apply(engine, &mut **state, record.version, word).await?,
        Kept::Payment(payment) => apply(engine, &mut **payment, record.version, word).await?,
    };
    report(engine, record.id, was, None).await
}

async fn adopt(engine: &Engine, record: &PurchaseRecord) -> Result<PurchaseRecord, LedgerError> {
    let adopt = engine.ledger.adopt(record.id, record.version);
    crash::around(Point::RecoveryAdopt, adopt).await
}

async fn ask(wallet: &dyn Wallet, hash: PaymentHash, first_pause: Duration) -> Happening {
    let answer = look_up(wallet, hash, first_pause);
    crash::around(Point::RecoveryLookUp, answer).await
}

fn read(record: &PurchaseRecord) -> Result<Kept> {
    Kept::from_row(&record.state)
        .map_err(|error| Error::new(Code::Ledger, format!("purchase {}: {error}", record.id)))
}

/// Money first, then the result.
async fn settle_and_fetch(
    engine: &Engine,
    driving: &Arc<DriveGuard>,
    record: PurchaseRecord,
    depth: Depth,
) -> Result<(), Trouble> {
    let patience = depth.patience();
    let mut version = record.version;
    let mut state = match read(&record)? {
        Kept::Purchase(state) => *state,
        Kept::Payment(payment) => return settle(engine, *payment, version, patience).await,
    };
    let mut silence = None;
    match &state.phase {
        Phase::Requested | Phase::Quoted(_) => {
            let nobody = Watcher::new(mpsc::channel(1).0);
            let (driving, now) = (Arc::clone(driving), Instant::now());
            let run = Run::new(engine, driving, state, version, &nobody, now, now);
            return Ok(run.give_up().await?);
        }
        Phase::Paying(_) | Phase::Unknown { .. } => {
            version = decide_payment(engine, &mut state, version, patience).await?;
        }
        Phase::Locked(_) | Phase::Released { .. } | Phase::Withheld { .. } => {
            (version, silence) = look_at_lock(engine, &mut state, version, patience).await?;
        }
        Phase::Awaiting { .. }
        | Phase::Undelivered { .. }
        | Phase::Delivered { .. }
        | Phase::Failed { .. } => {}
    }
    let fetches = match &state.phase {
        // Its money was looked at; whether a result came after all can wait for `recover`.
        Phase::Withheld { .. } => depth == Depth::All,
        Phase::Undelivered { spoiled, .. } => !spoiled,
        Phase::Awaiting { .. } | Phase::Locked(_) | Phase::Released { .. } => true,
        _ => false,
    };
    if fetches {
        fetch_result(engine, driving, state, version, patience).await?;
    }
    let record = engine
        .ledger
        .purchase(record.id)
        .await
        .map_err(Error::from)?;
    if record.reserved().is_zero() {
        return Ok(());
    }
    let is_released = match read(&record)? {
        Kept::Purchase(state) => matches!(state.phase, Phase::Released { .. }),
        Kept::Payment(_) => false,
    };
    Err(silence.unwrap_or_else(|| still_locked(is_released)))
}

/// A payment by hand: there is nothing but its money.
async fn settle(
    engine: &Engine,
    mut payment: Payment,
    version: u64,
    patience: Duration,
) -> Result<(), Trouble> {
    match payment.phase {
        payment::Phase::Opened => {
            apply(engine, &mut payment, version, Happening::Interrupted).await?;
        }
        payment::Phase::Paying | payment::Phase::Unknown { .. } => {
            decide_payment(engine, &mut payment, version, patience).await?;
        }
        payment::Phase::Settled { .. } | payment::Phase::Failed { .. } => {}
    }
    Ok(())
}

/// The wallet has answered, and the money is neither paid nor back.
fn still_locked(is_released: bool) -> Trouble {
    let message = if is_released {
        "the result is here and the provider may claim the money, but has not yet; it stays reserved"
    } else {
        "no result, and the money is still locked: nothing is paid, and it stays reserved until it comes back"
    };
    Trouble {
        code: Code::PaymentUnknown,
        message: message.to_owned(),
    }
}

/// Asks the wallet that paid until it decides, for a bounded while.
async fn decide_payment(
    engine: &Engine,
    machine: &mut impl Machine,
    mut version: u64,
    patience: Duration,
) -> Result<u64, Trouble> {
    let (wallet, hash) = the_payment(engine, machine)?;
    let until = Instant::now() + patience;
    let mut pause = Duration::ZERO;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(found) = timeout(left, ask(&**wallet, hash, pause)).await else {
            break;
        };
        version = apply(engine, machine, version, found).await?;
        if !machine.waits_for_wallet() {
            return Ok(version);
        }
        pause = (pause * 2).clamp(config::LOOK_UP_FIRST, config::LOOK_UP_LONGEST);
    }
    apply(engine, machine, version, Happening::GiveUpLooking).await?;
    Err(silence_or_doubt(&**wallet, hash).await)
}

/// Doubt, or silence? The wallet is asked once more, to say the right thing.
async fn silence_or_doubt(wallet: &dyn Wallet, hash: PaymentHash) -> Trouble {
    let asked = timeout(config::LOOK_UP_LONGEST, wallet.outgoing(hash)).await;
    let (code, message) = match asked {
        Ok(Ok(_)) => (
            Code::PaymentUnknown,
            "the wallet has not decided this payment yet; its money stays reserved".to_owned(),
        ),
        Ok(Err(error)) => (Code::Network, format!("{error}; the money stays reserved")),
        Err(_) => (
            Code::Network,
            "the wallet does not answer; the money stays reserved".to_owned(),
        ),
    };
    Trouble { code, message }
}

/// The wallet that paid, which alone can say what became of a payment, and the payment's hash.
fn the_payment<'a>(
    engine: &'a Engine,
    machine: &impl Machine,
) -> Result<(&'a Arc<dyn Wallet>, PaymentHash), Trouble> {
    let (Some(wallet), Some(paid_by)) = (&engine.wallet, machine.wallet()) else {
        return Err(Trouble {
            code: Code::Wallet,
            message: "only the wallet that paid can say what became of the payment, and none is configured".to_owned(),
        });
    };
    if wallet.id() != paid_by {
        return Err(Trouble {
            code: Code::PaymentUnknown,
            message: format!(
                "only {paid_by} can say what became of the payment, and this is {}",
                wallet.id()
            ),
        });
    }
    let Some(hash) = machine.payment_hash() else {
        return Err(Trouble {
            code: Code::Internal,
            message: "a payment without an invoice".to_owned(),
        });
    };
    Ok((wallet, hash))
}

/// Asks the wallet once how a payment into escrow stands, or again while that may decide it. A wallet that
/// stays silent keeps nobody from fetching the result; what it says of itself comes back as trouble.
async fn look_at_lock(
    engine: &Engine,
    state: &mut State,
    mut version: u64,
    patience: Duration,
) -> Result<(u64, Option<Trouble>), Trouble> {
    let (wallet, hash) = the_payment(engine, state)?;
    let until = Instant::now() + patience;
    let mut pause = Duration::ZERO;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(found) = timeout(left, ask(&**wallet, hash, pause)).await else {
            return Ok((version, Some(silence_or_doubt(&**wallet, hash).await)));
        };
        version = apply(engine, state, version, found).await?;
        let counting = |lock: &Lock| lock.doubt.is_any();
        if !state.phase.lock().is_some_and(counting) {
            return Ok((version, None));
        }
        pause = (pause * 2).clamp(config::LOOK_UP_FIRST, config::LOOK_UP_LONGEST);
    }
}

/// Fetches a result that is on the relays, or comes while the buyer would still have waited for it.
async fn fetch_result(
    engine: &Engine,
    driving: &Arc<DriveGuard>,
    mut state: State,
    version: u64,
    most: Duration,
) -> Result<(), Trouble> {
    let now = engine.clock.now();
    let patience = state
        .terms
        .deadline
        .until(now)
        .clamp(config::RECOVER_STORED.min(most), most);
    // What was on the way when the process died is read again from the relays.
    state.stream = super::assembly::Assembly::default();
    state.shown = 0;
    let own = listen(&*engine.relays, &state.terms, Since::Request, patience).await?;
    let answers = Answers::from(own);
    let (tell, mut told) = mpsc::channel::<PurchaseEvent>(16);
    let started = Instant::now()
        .checked_sub(Duration::from_secs(now.since(state.terms.started_at)))
        .unwrap_or_else(Instant::now);
    let deadline = Instant::now() + patience;
    // Once given up, whether at the deadline or at the provider's word, it is looked for, not waited for.
    let given_up = matches!(
        state.phase,
        Phase::Undelivered { .. } | Phase::Withheld { .. }
    ) || state.terms.deadline <= now;
    let watcher = Watcher::new(tell);
    let driving = Arc::clone(driving);
    let run = Run::new(engine, driving, state, version, &watcher, started, deadline)
        .stored_only(given_up);
    let never = CancellationToken::new();
    let outcome = {
        let driving = run.resume(answers, &never);
        tokio::pin!(driving);
        loop {
            tokio::select! {
                outcome = &mut driving => break outcome,
                // The pieces are in the result.
                _ = told.recv() => {}
            }
        }
    };
    match outcome {
        Ok(_) => Ok(()),
        // Paid or locked, and still no result: that is what the record says now, and no trouble of recovery's.
        Err(error) if error.code() == Code::Undelivered => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn report(
    engine: &Engine,
    id: PurchaseId,
    was: String,
    trouble: Option<Trouble>,
) -> Result<Recovered> {
    let record = engine.ledger.purchase(id).await?;
    // A state that can't be read is trouble of this purchase, not of the others: the money is known.
    let paid = record.reservation.as_ref().and_then(|money| money.spent);
    let reserved = record.reserved();
    let receipt = match read(&record) {
        Ok(Kept::Purchase(state)) => state.receipt(),
        Ok(Kept::Payment(_)) | Err(_) => None,
    };
    Ok(Recovered {
        purchase_id: id,
        was,
        state: record.state.label,
        paid_msat: paid.unwrap_or(Msat::ZERO),
        reserved_msat: reserved,
        text: receipt.map(|receipt| receipt.text),
        trouble,
    })
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            message: error.message().to_owned(),
        }
    }
}

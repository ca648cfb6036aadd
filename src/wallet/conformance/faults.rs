//! Lost messages: what may have been paid is never said to have failed.

use super::{Lost, Suite, Verdict, ensure, run_cases, skipped};
use crate::wallet::{Incoming, Outgoing, PayOutcome};

pub(super) async fn run(suite: &mut Suite<'_>) {
    run_cases! { suite;
        "a lost answer leaves the payment unknown until it is looked up" => lost_answer,
        "a lost request is never said to be paid" => lost_request,
    }
}

async fn lost_answer(suite: &Suite<'_>) -> Verdict {
    let Some(losing) = suite.harness.losing(Lost::Answer) else {
        return skipped("messages can't be lost here");
    };
    let before = suite.payer.balance().await?;
    let invoice = suite.invoice().await?;
    let outcome = losing.pay(suite.order(&invoice)).await;
    ensure(
        matches!(outcome, PayOutcome::Unknown { .. } | PayOutcome::InFlight),
        || format!("the answer was {outcome:?}"),
    )?;
    let meanwhile = losing.outgoing(invoice.payment_hash).await;
    ensure(
        !matches!(meanwhile, Ok(Outgoing::NotFound | Outgoing::Failed(_))),
        || format!("while messages are lost, the look-up says {meanwhile:?}"),
    )?;
    match suite.outgoing_ends(invoice.payment_hash).await? {
        Outgoing::Paid { fee, .. } => {
            let spent = invoice.amount.saturating_add(fee);
            let left = before.saturating_sub(spent);
            suite.balance_becomes(&suite.payer, left).await
        }
        other => super::fails(format!("the look-up says {other:?}")),
    }
}

async fn lost_request(suite: &Suite<'_>) -> Verdict {
    let Some(losing) = suite.harness.losing(Lost::Request) else {
        return skipped("messages can't be lost here");
    };
    let before = suite.payer.balance().await?;
    let invoice = suite.invoice().await?;
    let outcome = losing.pay(suite.order(&invoice)).await;
    ensure(!matches!(outcome, PayOutcome::Paid { .. }), || {
        "it is said to be paid".to_owned()
    })?;
    let recorded = suite.payer.outgoing(invoice.payment_hash).await?;
    ensure(!matches!(recorded, Outgoing::Paid { .. }), || {
        "the look-up says that it is paid".to_owned()
    })?;
    if suite.payer.capabilities().authoritative_lookup {
        ensure(recorded == Outgoing::NotFound, || {
            format!("the look-up says {recorded:?}")
        })?;
    }
    let state = suite.payee.incoming(invoice.payment_hash).await?;
    ensure(state == Incoming::Open, || {
        format!("the invoice is {state:?}")
    })?;
    suite.nothing_moved(before).await
}

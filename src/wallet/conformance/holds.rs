//! Hold invoices.

use futures_util::future::try_join;

use super::{Suite, Verdict, ensure, fails, random_preimage, run_cases, skipped};
use crate::ids::Preimage;
use crate::units::{Msat, UnixSecs};
use crate::wallet::{Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, WalletError};

pub(super) async fn run(suite: &mut Suite<'_>) {
    run_cases! { suite;
        "a wallet without hold invoices says so" => says_so,
        "a hold is on the hash it was asked for" => on_its_hash,
        "a hold is held, then settled" => held_then_settled,
        "a cancelled hold returns the money" => cancelled,
        "a wrong preimage settles nothing" => wrong_preimage,
        "settling twice is a success" => settled_twice,
        "a settled hold can't be cancelled" => no_cancel_after_settle,
        "a hold on a used hash is refused" => used_hash,
        "an open hold that is asked for again is the same invoice" => asked_again,
        "a hold past its deadline returns the money" => deadline,
    }
}

async fn says_so(suite: &Suite<'_>) -> Verdict {
    if suite.payee.capabilities().hold_invoices {
        return skipped("this wallet has hold invoices");
    }
    let hash = random_preimage().payment_hash();
    match suite.payee.invoice(suite.asking(Some(hash))).await {
        Err(WalletError::Unsupported(_)) => Ok(()),
        other => fails(format!("the answer was {other:?}")),
    }
}

/// A hold invoice on the hash of a new preimage.
async fn hold(suite: &Suite<'_>) -> Verdict<(Preimage, IssuedInvoice)> {
    if !suite.payee.capabilities().hold_invoices {
        return skipped("this wallet has no hold invoices");
    }
    let preimage = random_preimage();
    let request = suite.asking(Some(preimage.payment_hash()));
    Ok((preimage, suite.payee.invoice(request).await?))
}

async fn held(suite: &Suite<'_>, invoice: &IssuedInvoice) -> Verdict<UnixSecs> {
    let is_held = |now: &Incoming| matches!(now, Incoming::Held { .. });
    let what = "the payment to be held";
    match suite
        .incoming_becomes(invoice.payment_hash, what, is_held)
        .await?
    {
        Incoming::Held { deadline } => Ok(deadline),
        other => fails(format!("the payment is {other:?}")),
    }
}

/// Pays while the payee does something with the held payment: a wallet may answer only when it has.
async fn pay_while<T>(
    suite: &Suite<'_>,
    invoice: &IssuedInvoice,
    payee_acts: impl Future<Output = Verdict<T>>,
) -> Verdict<(PayOutcome, T)> {
    let pay = async { Ok(suite.payer.pay(suite.order(invoice)).await) };
    try_join(pay, payee_acts).await
}

async fn settled(suite: &Suite<'_>, invoice: &IssuedInvoice) -> Verdict {
    suite
        .incoming_becomes(invoice.payment_hash, "the hold to be settled", |now| {
            *now == Incoming::Settled
        })
        .await
        .map(|_| ())
}

async fn on_its_hash(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    let read = crate::wallet::invoice::parse_unchecked(&invoice.bolt11);
    ensure(
        read.is_ok_and(|read| read.payment_hash == preimage.payment_hash())
            && invoice.payment_hash == preimage.payment_hash(),
        || "it is on another hash".to_owned(),
    )
}

async fn held_then_settled(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    let (payer, payee) = (suite.payer.balance().await?, suite.payee.balance().await?);
    let hash = invoice.payment_hash;
    let (outcome, ()) = pay_while(suite, &invoice, async {
        let now = suite.now().await?;
        let deadline = held(suite, &invoice).await?;
        ensure(deadline > now, || "the deadline has passed".to_owned())?;
        let while_held = suite.payer.outgoing(hash).await?;
        ensure(while_held == Outgoing::InFlight, || {
            format!("while it is held, the payer's look-up says {while_held:?}")
        })?;
        let yet = suite.payee.balance().await?;
        ensure(yet == payee, || {
            "the payee has the money before it settled".to_owned()
        })?;
        Ok(suite.payee.settle(preimage).await?)
    })
    .await?;
    ensure(!matches!(outcome, PayOutcome::Failed(_)), || {
        format!("what was settled is said to have failed: {outcome:?}")
    })?;
    settled(suite, &invoice).await?;
    let Outgoing::Paid {
        preimage: proof,
        fee,
    } = suite.outgoing_ends(hash).await?
    else {
        return fails("the payer's look-up does not say that it is paid");
    };
    ensure(proof.is_none_or(|proof| proof == preimage), || {
        "the payer was told another preimage".to_owned()
    })?;
    let left = payer.saturating_sub(invoice.amount.saturating_add(fee));
    suite.balance_becomes(&suite.payer, left).await?;
    let got = payee.saturating_add(invoice.amount);
    suite.balance_becomes(&suite.payee, got).await
}

/// A wallet where nothing can do that may say so: the money goes back by itself.
async fn give_back(suite: &Suite<'_>, invoice: &IssuedInvoice) -> Verdict {
    match suite.payee.cancel(invoice.payment_hash).await {
        Err(WalletError::Unsupported(what)) => skipped(format!("this wallet can't {what}")),
        other => Ok(other?),
    }
}

/// The payer must have its money back, and know it.
async fn returned(
    suite: &Suite<'_>,
    invoice: &IssuedInvoice,
    before: crate::units::Msat,
) -> Verdict {
    let end = suite.outgoing_ends(invoice.payment_hash).await?;
    ensure(matches!(end, Outgoing::Failed(_)), || {
        format!("the payer's look-up says {end:?}")
    })?;
    suite.balance_becomes(&suite.payer, before).await
}

async fn cancelled(suite: &Suite<'_>) -> Verdict {
    let (_, invoice) = hold(suite).await?;
    let before = suite.payer.balance().await?;
    let (outcome, ()) = pay_while(suite, &invoice, async {
        held(suite, &invoice).await?;
        give_back(suite, &invoice).await?;
        give_back(suite, &invoice).await
    })
    .await?;
    ensure(!matches!(outcome, PayOutcome::Paid { .. }), || {
        "what was cancelled is said to be paid".to_owned()
    })?;
    let state = suite.payee.incoming(invoice.payment_hash).await?;
    ensure(state == Incoming::Cancelled, || {
        format!("the payee's look-up says {state:?}")
    })?;
    returned(suite, &invoice, before).await
}

async fn wrong_preimage(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    pay_while(suite, &invoice, async {
        held(suite, &invoice).await?;
        let settled = suite.payee.settle(random_preimage()).await;
        let state = suite.payee.incoming(invoice.payment_hash).await?;
        suite.payee.settle(preimage).await?;
        ensure(settled.is_err(), || "it was accepted".to_owned())?;
        ensure(matches!(state, Incoming::Held { .. }), || {
            format!("the payment is {state:?} after it")
        })
    })
    .await
    .map(|_| ())
}

async fn settled_twice(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    let before = suite.payee.balance().await?;
    pay_while(suite, &invoice, async {
        held(suite, &invoice).await?;
        suite.payee.settle(preimage).await?;
        settled(suite, &invoice).await?;
        Ok(suite.payee.settle(preimage).await?)
    })
    .await?;
    let got = before.saturating_add(invoice.amount);
    suite.balance_becomes(&suite.payee, got).await
}

async fn no_cancel_after_settle(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    let (_, cancelled) = pay_while(suite, &invoice, async {
        held(suite, &invoice).await?;
        suite.payee.settle(preimage).await?;
        settled(suite, &invoice).await?;
        Ok(suite.payee.cancel(invoice.payment_hash).await)
    })
    .await?;
    ensure(cancelled.is_err(), || "it was cancelled".to_owned())?;
    settled(suite, &invoice).await
}

async fn used_hash(suite: &Suite<'_>) -> Verdict {
    let (_, open) = hold(suite).await?;
    let plain = suite.invoice().await?;
    suite.pay(&plain).await?;
    let of_open = suite.asking(Some(open.payment_hash));
    let for_more = InvoiceRequest {
        amount: of_open.amount.saturating_add(Msat::new(1_000)),
        ..of_open.clone()
    };
    let for_another = InvoiceRequest {
        description: "something else".to_owned(),
        ..of_open
    };
    for (request, what) in [
        (for_more, "an open invoice's hash, for more"),
        (for_another, "an open invoice's hash, for something else"),
        (suite.asking(Some(plain.payment_hash)), "a paid one's hash"),
    ] {
        let again = suite.payee.invoice(request).await;
        ensure(again.is_err(), || {
            format!("a second invoice was made on {what}")
        })?;
    }
    Ok(())
}

async fn asked_again(suite: &Suite<'_>) -> Verdict {
    let (preimage, first) = hold(suite).await?;
    let asking = || suite.payee.invoice(suite.asking(Some(first.payment_hash)));
    match asking().await {
        Ok(again) => ensure(again == first, || format!("it is another one: {again:?}"))?,
        Err(WalletError::Refused(_)) => return skipped("this wallet tells no invoice twice"),
        Err(error) => return Err(error.into()),
    }
    let (_, while_held) = pay_while(suite, &first, async {
        held(suite, &first).await?;
        let while_held = asking().await;
        suite.payee.settle(preimage).await?;
        Ok(while_held)
    })
    .await?;
    ensure(while_held.is_err(), || {
        "it was made again with money on it".to_owned()
    })
}

async fn deadline(suite: &Suite<'_>) -> Verdict {
    let (preimage, invoice) = hold(suite).await?;
    let before = suite.payer.balance().await?;
    pay_while(suite, &invoice, async {
        let deadline = held(suite, &invoice).await?;
        let secs = deadline.since(suite.now().await?);
        if !suite.harness.pass_time(secs).await {
            give_back(suite, &invoice).await?;
            return skipped("time can't be moved");
        }
        Ok(())
    })
    .await?;
    returned(suite, &invoice, before).await?;
    let settled = suite.payee.settle(preimage).await;
    ensure(settled.is_err(), || {
        "it was settled after the money went back".to_owned()
    })?;
    suite.balance_becomes(&suite.payer, before).await
}

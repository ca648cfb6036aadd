//! Invoices, payments and look-ups.

use futures_util::FutureExt;
use futures_util::future::join_all;
use nostr::secp256k1::SecretKey;

use super::{Suite, Verdict, ensure, fails, random_preimage, run_cases, skipped};
use crate::units::Msat;
use crate::wallet::invoice::parse_unchecked;
use crate::wallet::issue::{Draft, sign};
use crate::wallet::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, WalletError,
};

pub(super) async fn run(suite: &mut Suite<'_>) {
    run_cases! { suite;
        "an invoice says what was asked for" => invoice_says_what_was_asked,
        "a hash that nobody used is not found" => unknown_hash,
        "a payment moves the amount and the fee" => payment_moves_amount_and_fee,
        "a preimage proves the payment" => preimage_proves,
        "a change wakes who waits for one" => change_wakes,
        "a hash is paid once, whoever asks again" => paid_once_in_sequence,
        "a hash is paid once, however many ask at the same time" => paid_once_at_a_time,
        "a payment does not need its caller" => payment_without_caller,
        "an invoice that nobody made is a proven failure" => invoice_of_nobody,
        "other terms than the invoice's are a proven failure" => other_terms,
        "an expired invoice is a proven failure" => expired,
        "a cancelled invoice is a proven failure" => cancelled,
        "being short of funds is a proven failure" => short_of_funds,
        "a fee above the cap is a proven failure" => fee_above_cap,
        "paying oneself makes no money" => own_invoice,
    }
}

async fn invoice_says_what_was_asked(suite: &Suite<'_>) -> Verdict {
    let issued = suite.invoice().await?;
    let read = match parse_unchecked(&issued.bolt11) {
        Ok(read) => read,
        Err(problem) => return fails(problem.to_string()),
    };
    let asked = suite.harness.amount();
    ensure(issued.amount == asked && read.amount == Some(asked), || {
        format!(
            "asked for {asked}, got {:?} as {}",
            read.amount, issued.amount
        )
    })?;
    ensure(read.network == suite.payee.network(), || {
        format!("it is on {}", read.network)
    })?;
    ensure(read.payment_hash == issued.payment_hash, || {
        "it is on another hash than said".to_owned()
    })?;
    ensure(read.expires_at == issued.expires_at, || {
        "it expires at another time than said".to_owned()
    })?;
    let state = suite.payee.incoming(issued.payment_hash).await?;
    ensure(state == Incoming::Open, || {
        format!("unpaid it is {state:?}")
    })
}

async fn unknown_hash(suite: &Suite<'_>) -> Verdict {
    let hash = random_preimage().payment_hash();
    let outgoing = suite.payer.outgoing(hash).await?;
    ensure(outgoing == Outgoing::NotFound, || {
        format!("a payment never made is {outgoing:?}")
    })?;
    let incoming = suite.payee.incoming(hash).await?;
    ensure(incoming == Incoming::NotFound, || {
        format!("an invoice never made is {incoming:?}")
    })
}

async fn payment_moves_amount_and_fee(suite: &Suite<'_>) -> Verdict {
    let (payer, payee) = (suite.payer.balance().await?, suite.payee.balance().await?);
    let invoice = suite.invoice().await?;
    let quote = suite.payer.fee_quote(&invoice.bolt11).await;
    let (preimage, fee) = suite.pay(&invoice).await?;

    let cap = suite.harness.max_fee();
    ensure(fee <= cap, || {
        format!("it cost {fee}, above the cap of {cap}")
    })?;
    if let (true, Ok(quote)) = (suite.payer.capabilities().binding_fee_quote, quote) {
        ensure(fee <= quote, || {
            format!("it cost {fee}, quoted was {quote}")
        })?;
    }
    suite
        .incoming_becomes(invoice.payment_hash, "the invoice to be settled", |now| {
            *now == Incoming::Settled
        })
        .await?;
    let spent = invoice.amount.saturating_add(fee);
    let left = payer.saturating_sub(spent);
    suite.balance_becomes(&suite.payer, left).await?;
    let got = payee.saturating_add(invoice.amount);
    suite.balance_becomes(&suite.payee, got).await?;

    let recorded = suite.payer.outgoing(invoice.payment_hash).await?;
    ensure(recorded == Outgoing::Paid { preimage, fee }, || {
        format!("the look-up says {recorded:?}")
    })
}

async fn preimage_proves(suite: &Suite<'_>) -> Verdict {
    let invoice = suite.invoice().await?;
    let (told, _) = suite.pay(&invoice).await?;
    let Outgoing::Paid { preimage, .. } = suite.payer.outgoing(invoice.payment_hash).await? else {
        return fails("the look-up does not say that it is paid");
    };
    let Some(proof) = told.or(preimage) else {
        return skipped("this wallet tells no preimages");
    };
    ensure(proof.payment_hash() == invoice.payment_hash, || {
        "the preimage is not the hash's".to_owned()
    })
}

async fn change_wakes(suite: &Suite<'_>) -> Verdict {
    let Some(mut changes) = suite.payee.changes() else {
        return skipped("this wallet gives no hints");
    };
    let invoice = suite.invoice().await?;
    changes.mark_unchanged();
    suite.pay(&invoice).await?;
    match tokio::time::timeout(suite.harness.patience(), changes.changed()).await {
        Ok(Ok(())) => Ok(()),
        _ => fails("no hint came"),
    }
}

async fn paid_once_in_sequence(suite: &Suite<'_>) -> Verdict {
    let before = suite.payer.balance().await?;
    let invoice = suite.invoice().await?;
    let (_, fee) = suite.pay(&invoice).await?;
    let again = suite.payer.pay(suite.order(&invoice)).await;
    ensure(!matches!(again, PayOutcome::Failed(_)), || {
        format!("what is paid is said to have failed: {again:?}")
    })?;
    let recorded = suite.payer.outgoing(invoice.payment_hash).await?;
    ensure(matches!(recorded, Outgoing::Paid { .. }), || {
        format!("asked again, the look-up says {recorded:?}")
    })?;
    let spent = invoice.amount.saturating_add(fee);
    let left = before.saturating_sub(spent);
    suite.balance_becomes(&suite.payer, left).await
}

async fn paid_once_at_a_time(suite: &Suite<'_>) -> Verdict {
    let before = suite.payer.balance().await?;
    let invoice = suite.invoice().await?;
    let at_once = (0..8).map(|_| suite.payer.pay(suite.order(&invoice)));
    let outcomes = join_all(at_once).await;
    let Outgoing::Paid { fee, .. } = suite.outgoing_ends(invoice.payment_hash).await? else {
        return fails(format!(
            "the look-up says that it is not paid: {outcomes:?}"
        ));
    };
    ensure(
        !outcomes
            .iter()
            .any(|outcome| matches!(outcome, PayOutcome::Failed(_))),
        || format!("what is paid is said to have failed: {outcomes:?}"),
    )?;
    let spent = invoice.amount.saturating_add(fee);
    let left = before.saturating_sub(spent);
    suite.balance_becomes(&suite.payer, left).await
}

async fn payment_without_caller(suite: &Suite<'_>) -> Verdict {
    let before = suite.payer.balance().await?;
    let invoice = suite.invoice().await?;
    // Begun, and left alone at its first pause.
    let _ = suite.payer.pay(suite.order(&invoice)).now_or_never();
    match suite.outgoing_ends(invoice.payment_hash).await? {
        Outgoing::Paid { fee, .. } => {
            let spent = invoice.amount.saturating_add(fee);
            let left = before.saturating_sub(spent);
            suite.balance_becomes(&suite.payer, left).await
        }
        end => {
            suite.nothing_moved(before).await?;
            let state = suite.payee.incoming(invoice.payment_hash).await?;
            ensure(state == Incoming::Open, || {
                format!("the look-up says {end:?}, and the payee {state:?}")
            })
        }
    }
}

/// A payment that must be refused for certain, without a trace in the balance.
async fn refused(suite: &Suite<'_>, request: PayRequest) -> Verdict {
    let before = suite.payer.balance().await?;
    let hash = request.payment_hash;
    let outcome = suite.payer.pay(request).await;
    let PayOutcome::Failed(_) = outcome else {
        return fails(format!("the answer was {outcome:?}"));
    };
    let recorded = suite.payer.outgoing(hash).await?;
    ensure(
        matches!(recorded, Outgoing::NotFound | Outgoing::Failed(_)),
        || format!("the look-up says {recorded:?}"),
    )?;
    suite.nothing_moved(before).await
}

async fn invoice_of_nobody(suite: &Suite<'_>) -> Verdict {
    let draft = Draft {
        network: suite.payer.network(),
        amount: Some(suite.harness.amount()),
        payment_hash: random_preimage().payment_hash(),
        payment_secret: rand::random(),
        description: "wallet conformance".to_owned(),
        created_at: suite.now().await?,
        expiry_secs: 600,
        min_final_cltv: 18,
    };
    let key: [u8; 32] = rand::random();
    let key = SecretKey::from_slice(&key).map_err(|_| super::End::Skipped("no key".to_owned()))?;
    let bolt11 = match sign(&draft, &key) {
        Ok(bolt11) => bolt11,
        Err(problem) => return skipped(problem.to_string()),
    };
    let invoice = IssuedInvoice {
        bolt11,
        payment_hash: draft.payment_hash,
        amount: suite.harness.amount(),
        expires_at: draft.created_at.plus(600),
    };
    refused(suite, suite.order(&invoice)).await
}

async fn other_terms(suite: &Suite<'_>) -> Verdict {
    let invoice = suite.invoice().await?;
    let other_amount = PayRequest {
        amount: invoice.amount.saturating_sub(Msat::new(1)),
        ..suite.order(&invoice)
    };
    refused(suite, other_amount).await?;
    let other_hash = PayRequest {
        payment_hash: random_preimage().payment_hash(),
        ..suite.order(&invoice)
    };
    refused(suite, other_hash).await
}

async fn expired(suite: &Suite<'_>) -> Verdict {
    let invoice = suite.invoice().await?;
    let lifetime = suite.asking(None).expiry_secs;
    if !suite.harness.pass_time(lifetime).await {
        return skipped("time can't be moved");
    }
    refused(suite, suite.order(&invoice)).await?;
    let state = suite.payee.incoming(invoice.payment_hash).await?;
    ensure(state == Incoming::Expired, || format!("it is {state:?}"))
}

async fn cancelled(suite: &Suite<'_>) -> Verdict {
    let invoice = suite.invoice().await?;
    match suite.payee.cancel(invoice.payment_hash).await {
        Err(WalletError::Unsupported(what)) => return skipped(format!("this wallet can't {what}")),
        cancelled => cancelled?,
    }
    refused(suite, suite.order(&invoice)).await?;
    suite.payee.cancel(invoice.payment_hash).await?;
    let state = suite.payee.incoming(invoice.payment_hash).await?;
    ensure(state == Incoming::Cancelled, || format!("it is {state:?}"))
}

async fn short_of_funds(suite: &Suite<'_>) -> Verdict {
    let before = suite.payer.balance().await?;
    let request = InvoiceRequest {
        amount: before.saturating_add(Msat::new(1000)),
        ..suite.asking(None)
    };
    let invoice = suite.payee.invoice(request).await?;
    match suite.payer.pay(suite.order(&invoice)).await {
        PayOutcome::Failed(proof) => ensure(proof.insufficient_funds, || {
            format!("the reason given is another one: {}", proof.reason)
        })?,
        other => return fails(format!("the answer was {other:?}")),
    }
    suite.nothing_moved(before).await
}

async fn fee_above_cap(suite: &Suite<'_>) -> Verdict {
    let invoice = suite.invoice().await?;
    let quote = match suite.payer.fee_quote(&invoice.bolt11).await {
        Err(WalletError::Unsupported(_)) => return skipped("this wallet quotes no fees"),
        quote => quote?,
    };
    let Some(cap) = quote.checked_sub(Msat::new(1)) else {
        return skipped("this payment costs nothing");
    };
    let capped = PayRequest {
        max_fee: cap,
        ..suite.order(&invoice)
    };
    refused(suite, capped).await
}

async fn own_invoice(suite: &Suite<'_>) -> Verdict {
    let before = suite.payer.balance().await?;
    let invoice = suite.payer.invoice(suite.asking(None)).await?;
    match suite.payer.pay(suite.order(&invoice)).await {
        PayOutcome::Failed(_) => suite.nothing_moved(before).await,
        PayOutcome::Paid { fee, .. } => {
            let left = before.saturating_sub(fee);
            suite.balance_becomes(&suite.payer, left).await
        }
        other => fails(format!("the answer was {other:?}")),
    }
}

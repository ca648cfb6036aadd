//! Receipts from anybody: lines of a file, or a statement that somebody truly signed, whatever it says.

use agent_compute::purchase::receipt::verify::{Problem, Row, Verified, verify};
use agent_compute::purchase::receipt::{KIND_RECEIPT, Payment};
use agent_compute::units::Msat;
use agent_compute::wallet::invoice::parse_unchecked;
use nostr::{EventBuilder, JsonUtil as _, Keys, Kind, SecretKey, Timestamp};

/// The first byte says which: a row of receipts as it came, or statements to be signed, one a line.
pub fn receipt(data: &[u8]) {
    let Some((how, text)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let mut row = Row::default();
    let mut taken = 0;
    for line in text.lines() {
        let json = if how.is_multiple_of(2) {
            line.to_owned()
        } else {
            signed(line)
        };
        let alone = verify(&json);
        match row.take(&json) {
            Ok(receipt) => {
                taken += 1;
                holds(&receipt);
                // What holds in a row holds alone; and not twice in the same row.
                assert_eq!(alone.expect("alone").event.id, receipt.event.id);
                assert!(matches!(row.take(&json), Err(Problem::OutOfPlace { .. })));
            }
            Err(problem) => assert!(!problem.to_string().is_empty()),
        }
    }
    assert_eq!(row.begins_at().is_some(), taken > 0);
}

/// Dated when it says that the purchase ended, so that only what it says decides.
fn signed(content: &str) -> String {
    let says: Option<serde_json::Value> = serde_json::from_str(content).ok();
    let at = says.and_then(|says| says.get("finished_at")?.as_u64());
    let secret = SecretKey::from_slice(&[7; 32]).expect("a key");
    EventBuilder::new(Kind::from(KIND_RECEIPT), content)
        .custom_created_at(Timestamp::from_secs(at.unwrap_or(0)))
        .sign_with_keys(&Keys::new(secret))
        .expect("signed")
        .as_json()
}

fn holds(receipt: &Verified) {
    let it = &receipt.statement;
    assert_eq!(
        (it.number == 1, it.previous.is_none()),
        (it.number == 1, it.number == 1)
    );
    assert!(it.requested_at <= it.finished_at);
    assert_eq!(receipt.event.created_at.as_secs(), it.finished_at.get());
    // It says nothing that is not in the words that were signed; digits in hex may have been in capitals.
    let spelled = |value: &serde_json::Value| value.to_string().to_lowercase();
    let again = serde_json::to_value(it).expect("what was read can be written");
    let signed: serde_json::Value = serde_json::from_str(&receipt.event.content).expect("JSON");
    for (name, said) in signed.as_object().expect("an object") {
        assert_eq!(again.get(name).map(spelled), Some(spelled(said)), "{name}");
    }
    let Some(payment) = &it.payment else {
        assert_eq!(it.paid_at, None);
        return;
    };
    let Payment {
        price_msat: price,
        fee_msat: fee,
        paid_msat: paid,
        preimage,
        ..
    } = payment;
    let invoice = parse_unchecked(&payment.bolt11).expect("a signed invoice");
    assert_eq!(invoice.payment_hash, payment.payment_hash);
    assert_eq!(
        (invoice.amount, invoice.network),
        (Some(*price), it.network)
    );
    let spent = u128::from(price.get()) + u128::from(fee.get());
    let came_back = payment.escrow && *paid == Msat::ZERO && *fee == Msat::ZERO;
    assert!(came_back || spent == u128::from(paid.get()));
    if let Some(preimage) = preimage {
        assert_eq!(preimage.payment_hash(), payment.payment_hash);
    }
    assert_eq!(
        payment.proves_payment,
        !payment.escrow && preimage.is_some()
    );
}

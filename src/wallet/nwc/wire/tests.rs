use serde_json::{Value, json};

use super::*;
use crate::wallet::MOST_WORDS;

const NOW: UnixSecs = UnixSecs::new(1_800_000_000);

fn hash() -> PaymentHash {
    Preimage::from_bytes([7; 32]).payment_hash()
}

fn transaction(value: Value) -> Transaction {
    serde_json::from_value(value).unwrap()
}

fn sent(value: Value) -> Sent {
    transaction(value).as_sent(hash())
}

fn received(value: Value) -> Incoming {
    transaction(value).as_received(NOW, NOW.plus(9))
}

fn paid(preimage: Option<[u8; 32]>, fee: Option<u64>) -> Sent {
    Sent::Paid(Settled {
        preimage: preimage.map(Preimage::from_bytes),
        fee: fee.map(Msat::new),
        amount: None,
    })
}

#[test]
fn a_payment_is_paid_only_if_the_wallet_says_so() {
    let proof = "07".repeat(32);
    let other = "08".repeat(32);
    for (said, expected) in [
        (
            json!({"type": "outgoing", "state": "settled"}),
            paid(None, None),
        ),
        (
            json!({"type": "outgoing", "state": "SETTLED", "preimage": proof, "fees_paid": 3}),
            paid(Some([7; 32]), Some(3)),
        ),
        (
            json!({"type": "outgoing", "state": "settled", "preimage": other, "fees_paid": "4"}),
            paid(None, Some(4)),
        ),
        (
            json!({"type": "outgoing", "settled_at": 1_700_000_000, "fees_paid": 5.0}),
            paid(None, Some(5)),
        ),
        (
            json!({"type": "outgoing", "preimage": proof, "fees_paid": -1}),
            paid(Some([7; 32]), None),
        ),
        (json!({"settled_at": 1_700_000_000}), paid(None, None)),
        // A preimage without a direction may be that of an invoice of our own.
        (json!({"preimage": proof}), Sent::InFlight),
        (
            json!({"type": "outgoing", "preimage": other}),
            Sent::InFlight,
        ),
        (
            json!({"type": "outgoing", "settled_at": null, "state": "pending"}),
            Sent::InFlight,
        ),
        // A success is not undone by a state that contradicts it; a state is not outdone by a time.
        (
            json!({"type": "outgoing", "state": "pending", "settled_at": 1}),
            Sent::InFlight,
        ),
        (
            json!({"type": "outgoing", "state": "expired"}),
            Sent::InFlight,
        ),
        (
            json!({"type": "outgoing", "state": "whatever"}),
            Sent::InFlight,
        ),
        (json!({"type": "outgoing"}), Sent::InFlight),
        (json!({}), Sent::InFlight),
        (
            json!({"type": "incoming", "state": "settled", "preimage": proof}),
            Sent::NotFound,
        ),
    ] {
        assert_eq!(sent(said.clone()), expected, "{said}");
    }
    let failed = sent(json!({"type": "outgoing", "state": "failed"}));
    assert!(matches!(failed, Sent::Failed(_)));
}

#[test]
fn an_invoice_is_settled_only_if_the_wallet_says_so() {
    let proof = "07".repeat(32);
    let over = NOW.get();
    for (said, expected) in [
        (
            json!({"type": "incoming", "state": "settled"}),
            Incoming::Settled,
        ),
        (json!({"settled_at": 5}), Incoming::Settled),
        (json!({"settled_at": 0}), Incoming::Open),
        // A wallet knows the preimage of its own invoice before anybody has paid.
        (
            json!({"type": "incoming", "preimage": proof}),
            Incoming::Open,
        ),
        (
            json!({"type": "incoming", "preimage": proof, "state": "pending"}),
            Incoming::Open,
        ),
        (json!({"state": "pending", "settled_at": 5}), Incoming::Open),
        (
            json!({"state": "accepted"}),
            Incoming::Held {
                deadline: NOW.plus(9),
            },
        ),
        (json!({"state": "failed"}), Incoming::Cancelled),
        (json!({"state": "canceled"}), Incoming::Cancelled),
        (json!({"state": "expired"}), Incoming::Expired),
        (
            json!({"state": "pending", "expires_at": over}),
            Incoming::Expired,
        ),
        (
            json!({"state": "pending", "expires_at": over + 1}),
            Incoming::Open,
        ),
        (json!({"expires_at": 0}), Incoming::Open),
        (
            json!({"type": "outgoing", "state": "settled"}),
            Incoming::NotFound,
        ),
    ] {
        assert_eq!(received(said.clone()), expected, "{said}");
        let is_held = matches!(expected, Incoming::Held { .. });
        assert_eq!(transaction(said.clone()).is_held(), is_held, "{said}");
    }
}

#[test]
fn an_answer_about_another_payment_is_seen() {
    let about = |value| transaction(value).is_about(hash());
    assert!(about(json!({ "payment_hash": hash().to_string() })));
    assert!(about(json!({ "payment_hash": "" })));
    assert!(about(json!({})));
    assert!(!about(json!({ "payment_hash": "07".repeat(32) })));
    assert!(!about(json!({ "payment_hash": "nonsense" })));
}

#[test]
fn errors_are_read_in_all_their_forms() {
    let kind = |text: &str| reply(text).map(|reply| reply.map_err(|said| said.kind));
    assert_eq!(kind("nonsense"), None);
    assert_eq!(kind("[]"), None);
    assert_eq!(kind("{\"error\": 7}"), None);
    assert_eq!(kind("{}"), Some(Ok(Value::Null)));
    assert_eq!(
        kind(r#"{"error":null,"result":{"a":1}}"#),
        Some(Ok(json!({"a": 1})))
    );
    assert_eq!(
        kind(r#"{"error":{"code":"NOT_FOUND"},"result":{"a":1}}"#),
        Some(Err(Kind::NotFound))
    );
    assert_eq!(
        kind(r#"{"error":{"code":7,"message":[]}}"#),
        Some(Err(Kind::Late))
    );
    let Some(Err(said)) = reply(&format!(
        r#"{{"error":{{"code":"INTERNAL","message":"a\u001b[31m{}"}}}}"#,
        "x".repeat(1000)
    )) else {
        panic!("no error");
    };
    assert!(said.words.len() <= MOST_WORDS && !said.words.contains('\u{1b}'));
}

#[test]
fn what_a_wallet_says_of_itself_is_read_in_all_its_forms() {
    let info = |value: Value| serde_json::from_value::<Info>(value).unwrap();
    let full = info(json!({
        "alias": "mine", "network": "bitcoin", "block_height": "800000",
        "methods": ["pay_invoice", 7, "get_info"], "notifications": "payment_received payment_sent",
    }));
    assert_eq!(full.network(), Some(Network::Mainnet));
    assert_eq!(full.block_height, Some(800_000));
    assert_eq!(full.methods, ["pay_invoice", "get_info"]);
    assert_eq!(full.notifications.len(), 2);
    let empty = info(json!({"alias": null, "network": "moon", "methods": {}}));
    assert_eq!(
        (empty.network(), empty.alias, empty.methods.len()),
        (None, None, 0)
    );
}

#[test]
fn news_is_read() {
    let said = json!({
        "notification_type": "hold_invoice_accepted",
        "notification": {"payment_hash": hash().to_string(), "settle_deadline": 820_000},
    });
    assert_eq!(
        notification(&said.to_string()),
        Some((Some(hash()), Some(820_000)))
    );
    assert_eq!(notification("{\"notification\":{}}"), Some((None, None)));
    assert_eq!(notification("{}"), None);
}

#[test]
fn a_history_is_read_line_by_line() {
    let line = |value: Value| transaction(value).as_movement(NOW);
    let paid = line(json!({
        "type": "outgoing", "state": "settled", "amount": 7_000, "fees_paid": 5,
        "payment_hash": hash().to_string(), "created_at": 1_700_000_000, "description": "a\njob",
    }));
    let expected = Movement {
        direction: Direction::Outgoing,
        state: MovementState::Settled,
        amount_msat: Msat::new(7_000),
        fee_msat: Some(Msat::new(5)),
        payment_hash: Some(hash()),
        created_at: Some(UnixSecs::new(1_700_000_000)),
        description: Some("a job".to_owned()),
    };
    assert_eq!(paid, Some(expected));
    for (said, state) in [
        (
            json!({"type": "incoming", "amount": 1, "state": "accepted"}),
            MovementState::Pending,
        ),
        (
            json!({"type": "incoming", "amount": 1, "state": "pending"}),
            MovementState::Pending,
        ),
        (
            json!({"type": "incoming", "amount": 1, "state": "pending", "expires_at": 5}),
            MovementState::Failed,
        ),
        (
            json!({"type": "incoming", "amount": 1, "settled_at": 5}),
            MovementState::Settled,
        ),
        (
            json!({"type": "outgoing", "amount": 1}),
            MovementState::Pending,
        ),
        (
            json!({"type": "outgoing", "amount": 1, "state": "failed"}),
            MovementState::Failed,
        ),
    ] {
        assert_eq!(
            line(said.clone()).map(|line| line.state),
            Some(state),
            "{said}"
        );
    }
    for nothing in [
        json!({}),
        json!({"type": "outgoing"}),
        json!({"type": "sideways", "amount": 1}),
        json!({"amount": 1}),
    ] {
        assert_eq!(line(nothing), None);
    }
}

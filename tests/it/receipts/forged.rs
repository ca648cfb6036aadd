//! Receipts that somebody has changed, forged, cut or mixed: each is found out, and the first thing that is wrong
//! is named.

use nostr::{Event, EventBuilder, JsonUtil as _, Keys, Kind, Timestamp};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "NOSTR_SECRET_KEY";

/// Three receipts of a customer whose key we have.
fn receipts() -> (World, Keys, Vec<String>) {
    let (world, keys) = (World::new(), Keys::generate());
    let _seller = world.provider("seller", &[]);
    for (prompt, way) in [
        ("one", "--plaintext"),
        ("two", "--htlc"),
        ("three", "--plaintext"),
    ] {
        let mut buy = world.customer("agent", &["--prompt", prompt, way]);
        run(buy.env(SECRET, keys.secret_key().to_secret_hex())).expect(0);
    }
    let lines = exported(&world, "agent");
    assert_eq!(lines.len(), 3);
    (world, keys, lines)
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// The statement, signed anew as of then.
fn signed(keys: &Keys, statement: &Value, at: u64) -> String {
    EventBuilder::new(Kind::from(9_748), statement.to_string())
        .custom_created_at(Timestamp::from_secs(at))
        .sign_with_keys(keys)
        .unwrap()
        .as_json()
}

fn statement(line: &str) -> Value {
    serde_json::from_str(parsed(line)["content"].as_str().unwrap()).unwrap()
}

/// All places of a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, &format!("{at}/{name}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

/// Something else of the same kind, as near as can be.
fn another(value: &Value) -> Value {
    match value {
        Value::Null => json!("00".repeat(32)),
        Value::Bool(was) => json!(!was),
        Value::Number(was) => json!(was.as_u64().unwrap() + 1),
        Value::String(was) => {
            let last = was
                .chars()
                .last()
                .map(|last| if last == '0' { '1' } else { '0' });
            let kept: String = was
                .chars()
                .take(was.chars().count().saturating_sub(1))
                .collect();
            json!(format!("{kept}{}", last.unwrap_or('0')))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_receipt_with_one_thing_changed_does_not_hold() {
    let (world, _, lines) = receipts();
    for line in &lines {
        let event = parsed(line);
        for field in [
            "id",
            "pubkey",
            "created_at",
            "kind",
            "sig",
            "content",
            "tags",
        ] {
            let mut altered = event.clone();
            altered[field] = match field {
                "tags" => json!([["x"]]),
                _ => another(&event[field]),
            };
            problem(verify(&world, &[altered.to_string()], &[]));
            let mut lacking = event.clone();
            lacking.as_object_mut().unwrap().remove(field);
            problem(verify(&world, &[lacking.to_string()], &[]));
        }
        // And each thing that it says.
        let said = statement(line);
        let mut all = Vec::new();
        places(&said, "", &mut all);
        assert!(all.len() > 25, "{all:?}");
        for place in all {
            let mut lie = said.clone();
            let field = lie.pointer_mut(&place).unwrap();
            *field = another(field);
            let mut altered = event.clone();
            altered["content"] = json!(lie.to_string());
            let problem = problem(verify(&world, &[altered.to_string()], &[]));
            assert!(
                problem.contains("something in it was changed"),
                "{place}: {problem}"
            );
        }
    }
}

#[test]
fn its_own_customer_can_not_change_it_either_once_there_is_a_next_one() {
    let (world, keys, lines) = receipts();
    for nth in [0, 1] {
        let said = statement(&lines[nth]);
        let at = parsed(&lines[nth])["created_at"].as_u64().unwrap();
        let mut all = Vec::new();
        places(&said, "", &mut all);
        for place in all {
            let mut lie = said.clone();
            let field = lie.pointer_mut(&place).unwrap();
            *field = another(field);
            let mut row = lines.clone();
            row[nth] = signed(&keys, &lie, at);
            problem(verify(&world, &row, &[]));
        }
    }
}

#[test]
fn what_can_not_be_is_not_believed_though_it_is_signed() {
    let (world, keys, lines) = receipts();
    let others = |place: &str| statement(&lines[2]).pointer(place).unwrap().clone();
    let now = parsed(&lines[0])["created_at"].as_u64().unwrap();
    for (place, lie, words) in [
        ("/v", json!(2), "version 2"),
        ("/number", json!(0), "number 0"),
        ("/number", json!(2), "does not name the one before it"),
        ("/previous", json!("ab".repeat(32)), "names one before it"),
        (
            "/job_id",
            json!("job_0011223344556677"),
            "does not belong to the request",
        ),
        ("/outcome", json!("undelivered"), "tells a result"),
        ("/outcome", json!("excellent"), "not a receipt's"),
        ("/result", Value::Null, "tells no result"),
        ("/result/sha256", json!("xyz"), "no SHA-256"),
        ("/network", json!("mainnet"), "on the network regtest"),
        ("/payment/bolt11", json!("lnbcrt1"), "its invoice is none"),
        (
            "/payment/bolt11",
            others("/payment/bolt11"),
            "on the payment hash",
        ),
        (
            "/payment/payment_hash",
            others("/payment/payment_hash"),
            "on the payment hash",
        ),
        (
            "/payment/preimage",
            others("/payment/preimage"),
            "unlocks another payment",
        ),
        ("/payment/preimage", Value::Null, "no preimage"),
        ("/payment/price_msat", json!(9_999), "for 10 sats"),
        ("/payment/paid_msat", json!(9_999), "not the price"),
        ("/payment/paid_msat", json!(0), "not the price"),
        ("/payment/fee_msat", json!(u64::MAX), "not the price"),
        ("/payment/escrow", json!(true), "no proof of payment"),
        (
            "/payment/proves_payment",
            json!(false),
            "the seller made it",
        ),
        ("/payment/note", json!("\u{1b}[2Jpaid"), "another note"),
        ("/listing/price_msat", json!(1), "above the"),
        ("/paid_at", Value::Null, "not when"),
        ("/paid_at", json!(now + 1), "after it had ended"),
        ("/paid_at", json!(1), "before it was asked for"),
        ("/requested_at", json!(now + 9), "before it was asked for"),
        ("/finished_at", json!(now + 9), "it is dated"),
        ("/replaces", json!("ab".repeat(32)), "and is the first"),
    ] {
        let mut said = statement(&lines[0]);
        *said.pointer_mut(place).unwrap() = lie.clone();
        let ran = verify(&world, &[signed(&keys, &said, now)], &[]);
        let problem = problem(ran);
        assert!(problem.contains(words), "{place} = {lie}: {problem}");
    }
    // A field that nobody knows, and one that is missing.
    let mut more = statement(&lines[0]);
    more["tip_msat"] = json!(1);
    problem(verify(&world, &[signed(&keys, &more, now)], &[]));
    let mut less = statement(&lines[0]);
    less.as_object_mut().unwrap().remove("provider");
    problem(verify(&world, &[signed(&keys, &less, now)], &[]));
    // An escrow whose receipt claims a proof.
    let mut escrow = statement(&lines[1]);
    escrow["payment"]["proves_payment"] = json!(true);
    let at = parsed(&lines[1])["created_at"].as_u64().unwrap();
    let words = problem(verify(&world, &[signed(&keys, &escrow, at)], &[]));
    assert!(words.contains("buyer made this preimage"), "{words}");
}

#[test]
fn a_row_is_whole_in_order_and_of_one_key() {
    let (world, keys, lines) = receipts();
    let pick = |of: &[usize]| of.iter().map(|nth| lines[*nth].clone()).collect::<Vec<_>>();
    for (nth, words) in [
        (&[0, 2][..], "missing"),
        (&[1, 0, 2], "out of place"),
        (&[0, 2, 1], "missing"),
        (&[0, 0], "there twice"),
        (&[0, 1, 1, 2], "there twice"),
    ] {
        let problem = problem(verify(&world, &pick(nth), &[]));
        assert!(problem.contains(words), "{nth:?}: {problem}");
        assert!(problem.starts_with("line "), "{problem}");
    }
    // Cut off at the beginning it holds, and says so; nobody can tell what was cut off at the end.
    let rest = verify(&world, &pick(&[1, 2]), &[]).expect(0).last();
    assert_eq!(
        (&rest["receipts"], &rest["begins_at"]),
        (&json!(2), &json!(2))
    );
    verify(&world, &pick(&[0, 1]), &[]).expect(0);

    let customer = keys.public_key().to_hex();
    verify(&world, &lines, &["--customer", &customer]).expect(0);
    let stranger = Keys::generate();
    // The same words under another key: a row of its own, and not this customer's.
    let at = parsed(&lines[0])["created_at"].as_u64().unwrap();
    let forged = signed(&stranger, &statement(&lines[0]), at);
    let words = problem(verify(
        &world,
        std::slice::from_ref(&forged),
        &["--customer", &customer],
    ));
    assert!(words.contains("not by"), "{words}");
    // In the middle of the row it leaves a gap in it.
    let mixed = [
        lines[0].clone(),
        signed(&stranger, &statement(&lines[1]), at + 60),
        lines[2].clone(),
    ];
    problem(verify(&world, &mixed, &[]));
    // One of this key that was never written, between two that were.
    let mut put_in = statement(&lines[1]);
    put_in["purchase_id"] = json!("ab".repeat(16));
    let date = parsed(&lines[1])["created_at"].as_u64().unwrap();
    let row = [
        lines[0].clone(),
        signed(&keys, &put_in, date),
        lines[2].clone(),
    ];
    let words = problem(verify(&world, &row, &[]));
    assert!(words.contains("put in later"), "{words}");
}

#[test]
fn a_purchase_has_one_receipt_that_holds() {
    let (world, keys, lines) = receipts();
    let before = Event::from_json(&lines[2]).unwrap();
    let next = |purchase: &Value, replaces: Value| {
        let mut next = statement(&lines[2]);
        next["number"] = json!(4);
        next["previous"] = json!(before.id.to_hex());
        next["purchase_id"] = purchase.clone();
        next["replaces"] = replaces;
        let mut row = lines.clone();
        row.push(signed(&keys, &next, before.created_at.as_secs()));
        problem(verify(&world, &row, &[]))
    };
    let known = &statement(&lines[2])["purchase_id"];
    assert!(next(known, Value::Null).contains("earlier receipt"));
    assert!(next(known, json!("ab".repeat(32))).contains("not the latest"));
    assert!(next(known, json!(before.id.to_hex())).contains("nothing undoes a delivery"));
    let unknown = json!("ab".repeat(16));
    assert!(next(&unknown, json!(before.id.to_hex())).contains("no such receipt"));
}

#[test]
fn what_is_no_receipt_is_said_to_be_none() {
    let (world, keys, lines) = receipts();
    let other = EventBuilder::text_note("paid, honestly").sign_with_keys(&keys);
    for (text, words) in [
        (String::new(), "no receipt in it"),
        ("\n\n".into(), "no receipt in it"),
        ("paid".into(), "no signed event"),
        ("{}".into(), "no signed event"),
        ("[".repeat(20_000), "too long"),
        ("[".repeat(10_000), "no signed event"),
        ("x".repeat(2_000_000), "too long"),
        (other.unwrap().as_json(), "of kind 1"),
        (lines[0][..lines[0].len() / 2].to_owned(), "no signed event"),
        (format!("{{\n{}", "x".repeat(1_000_000)), "too long"),
    ] {
        let problem = problem(verify(&world, std::slice::from_ref(&text), &[]));
        assert!(problem.contains(words), "{words}: {problem}");
    }
    let file = world.dir.path().join("bytes");
    std::fs::write(&file, [0xff, 0, b'{', 0xfe]).unwrap();
    let path = file.to_str().unwrap();
    problem(receipt(&world, "a stranger", &["--json", "verify", path]));
    receipt(&world, "a stranger", &["verify", "/no/such/file"]).expect(2);
}

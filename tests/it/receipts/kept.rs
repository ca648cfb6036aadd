//! What is written, when, and how it is shown.

use std::sync::Mutex;

use agent_compute::ids::PurchaseId;
use agent_compute::purchase::receipt::{Outcome, ResultDigest};
use serde_json::Value;

use super::*;
use crate::cast::Peer;
use crate::stage::{PRICE, Stage};

#[test]
fn each_purchase_has_one_that_anybody_can_check_offline() {
    let (mut world, seller) = somebody_who_bought();
    drop(seller);
    world.kill_relay();
    let file = world.home("agent").join("customer/ledger.sqlite");
    assert_eq!(assert_receipts(&file).len(), 3);
    let lines = exported(&world, "agent");
    let verified = verify(&world, &lines, &[]).expect(0).events();
    let proves: Vec<&Value> = verified[..3]
        .iter()
        .map(|it| &it["proves_payment"])
        .collect();
    // The second was an escrow: that preimage was the buyer's own.
    assert_eq!(proves, [true, false, true]);
    assert_eq!(verified[3]["receipts"], 3);
    assert_eq!(verified[3]["begins_at"], 1);

    // What it says is what was bought.
    let history = run(&mut world.bare_customer("agent", &["--json", "history"])).expect(0);
    for (number, bought) in (1..=3).rev().zip(history.events()) {
        let id = bought["purchase_id"].as_str().unwrap();
        let shown = receipt(&world, "agent", &["--json", "show", id])
            .expect(0)
            .last();
        let it = &shown["statement"];
        assert_eq!(it["number"], number);
        for same in [
            "purchase_id",
            "provider",
            "network",
            "play_money",
            "job_id",
            "model",
        ] {
            assert_eq!(it[same], bought[same], "{same}");
        }
        for same in ["payment_hash", "price_msat", "paid_msat", "fee_msat"] {
            assert_eq!(it["payment"][same], bought[same], "{same}");
        }
        assert!(it["listing"]["event"].is_string());
        assert_eq!(it["listing"]["price_msat"], bought["price_msat"]);
        // Its own line passes for a file, as it is and laid out by hand.
        let pretty = serde_json::to_string_pretty(&shown).unwrap();
        for form in [shown.to_string(), pretty] {
            verify(&world, &[form], &[]).expect(0);
        }
    }
    let escrow = receipt(&world, "agent", &["show", &purchase_of(&lines[1])]).expect(0);
    assert!(escrow.stdout.contains("no proof of payment"), "{escrow:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_ones_own_has_it_too() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let client = stage.client(&customer).await;
    let request = stage.request(&provider);
    let (bought, ()) = tokio::join!(client.purchase(request).receipt(), async {
        let job = provider.paid_job().await;
        provider.result(&job.id, "Paris").await;
    });
    let id = bought.unwrap().purchase_id;
    let receipt = client.signed_receipt(id).await.unwrap().unwrap();
    assert_eq!(receipt.customer(), customer.keys.public_key());
    assert_eq!(receipt.statement.purchase_id, id);
    assert_eq!(receipt.statement.result, Some(ResultDigest::of(b"Paris")));
    let other = PurchaseId::from_bytes([1; 16]);
    assert!(client.signed_receipt(other).await.unwrap().is_none());
}

fn statement(line: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap();
    serde_json::from_str(event["content"].as_str().unwrap()).unwrap()
}

fn purchase_of(line: &str) -> String {
    statement(line)["purchase_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_result_is_told_from_any_other() {
    let (world, _seller) = somebody_who_bought();
    let one = [exported(&world, "agent").remove(0)];
    let file = world.dir.path().join("result.txt");
    let path = file.to_str().unwrap();
    // As the program prints it, and as it is.
    for (text, holds) in [
        ("one", true),
        ("one\n", true),
        ("One", false),
        ("one\n\n", false),
    ] {
        std::fs::write(&file, text).unwrap();
        let ran = verify(&world, &one, &["--result", path]);
        assert_eq!(ran.code, if holds { 0 } else { 14 }, "{text:?}: {ran:?}");
    }
    let two = &exported(&world, "agent")[..2];
    verify(&world, two, &["--result", path]).expect(2);
}

#[test]
fn what_cost_nothing_and_brought_nothing_has_none() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    let args = ["--prompt", "hi"];
    world.config("agent", "[runway]\nper_job_limit_sats = 1\n");
    world.buy("agent", &[&args[..], &["--max-price", "9000"]].concat());
    let refused = [&args[..], &["--max-price", "100000"]].concat();
    let ended = world.buy("agent", &refused).last();
    drop(seller);
    assert_ne!(ended["event"], "result", "{ended}");
    let file = world.home("agent").join("customer/ledger.sqlite");
    assert_eq!(assert_receipts(&file).len(), 0);
    assert_eq!(exported(&world, "agent").len(), 0);
    if let Some(id) = ended["purchase_id"].as_str() {
        let shown = receipt(&world, "agent", &["show", id]).expect(2);
        assert!(
            shown.stderr.contains("nothing was paid for it"),
            "{shown:?}"
        );
    }
    receipt(&world, "nobody", &["show", "ab"]).expect(2);
    receipt(&world, "nobody", &["export"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_late_replaces_the_receipt_without_it() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let late = Mutex::new(None);
    let quick = ["--timeout", "4"];
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &quick), async {
        let job = provider.paid_job().await;
        *late.lock().unwrap() = Some(job);
    });
    ran.expect(7);
    let ledger = stage
        .world
        .home(&customer.home)
        .join("customer/ledger.sqlite");
    let first = assert_receipts(&ledger);
    let [paid] = &first[..] else {
        panic!("one receipt: {first:?}")
    };
    let it = &paid.statement;
    assert_eq!((it.outcome, &it.result), (Outcome::Undelivered, &None));
    let payment = it.payment.as_ref().unwrap();
    assert!(payment.proves_payment && payment.paid_msat.get() == PRICE);

    // Nothing new is no new receipt.
    stage.recover(&customer).await.expect(0);
    assert_eq!(assert_receipts(&ledger).len(), 1);

    let job = late.lock().unwrap().take().unwrap();
    provider.result(&job.id, "late").await;
    stage.recover(&customer).await.expect(0);
    let both = assert_receipts(&ledger);
    let [_, whole] = &both[..] else {
        panic!("two receipts: {both:?}")
    };
    assert_eq!(whole.statement.replaces, Some(paid.event.id));
    assert_eq!(whole.statement.outcome, Outcome::Delivered);
    assert_eq!(whole.statement.payment, paid.statement.payment);
    assert_eq!(whole.statement.paid_at, paid.statement.paid_at);
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let (world, _seller) = somebody_who_bought();
    let file = world.dir.path().join("mine");
    let export = ["export", "--output", file.to_str().unwrap()];
    receipt(&world, "agent", &export).expect(0);
    let before = std::fs::read_to_string(&file).unwrap();
    assert_eq!(before.lines().count(), 3);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    receipt(&world, "agent", &export).expect(2);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn the_books_have_a_line_for_each_purchase() {
    let (world, _seller) = somebody_who_bought();
    world
        .buy("agent", &["--prompt", "x", "--select", &"ab".repeat(32)])
        .expect(3);
    world
        .buy("agent", &["--prompt", "x", "--tick", "=cmd()"])
        .expect(0);
    let export = |form: &str| {
        let ran = run(&mut world.bare_customer("agent", &["history", "--export", form]));
        ran.expect(0).stdout
    };
    let lines: Vec<Value> = export("json")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let csv = export("csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), rows.len()), (4, 5));
    for (line, row) in lines.iter().zip(&rows[1..]) {
        let cell = |name: &str| row[rows[0].iter().position(|it| *it == name).unwrap()];
        for name in [
            "purchase_id",
            "state",
            "provider",
            "payment_hash",
            "receipt_id",
        ] {
            assert_eq!(line[name], cell(name), "{name}");
        }
        for name in ["price_msat", "fee_msat", "paid_msat", "reserved_msat"] {
            assert_eq!(line[name].to_string(), cell(name), "{name}");
        }
        let created = cell("created_at");
        assert!(
            created.ends_with('Z') && created.starts_with("20"),
            "{created}"
        );
    }
    assert_eq!(lines[3]["tick"], "=cmd()");
    assert!(rows[4].contains(&"'=cmd()"), "{csv}");
    // All of it, whatever the page is; and an empty home has empty books.
    let empty = run(&mut world.bare_customer("nobody", &["history", "--export", "csv"]));
    assert_eq!(empty.expect(0).stdout.lines().count(), 1);
}

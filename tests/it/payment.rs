//! `wallet pay`: an invoice paid by hand, as two processes and a bank see it.

use std::process::{Command, Stdio};

use agent_compute::crash::Point;
use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::units::Msat;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use agent_compute::wallet::{InvoiceRequest, Wallet};
use nostr::Keys;
use serde_json::Value;

use crate::harness::{Ran, Running, World, assert_conserved, eventually, run, run_with_input};

const OPENING_BALANCE: u64 = 100_000_000;
const AMOUNT: u64 = 500_000;

/// Nobody listens here: what is paid by hand needs no relay.
const NO_RELAY: &str = "ws://127.0.0.1:9";

fn world() -> World {
    World::on(NO_RELAY.to_owned())
}

/// An invoice of the payee's, for so many sats.
fn invoice(world: &World, sats: u64) -> String {
    let sats = sats.to_string();
    let args = [
        "--wallet",
        "sim",
        "wallet",
        "invoice",
        "--amount-sats",
        &sats,
    ];
    let ran = run(&mut world.bare_provider("payee", &args)).expect(0);
    ran.stdout.trim().to_owned()
}

fn paying(world: &World, args: &[&str]) -> Command {
    let mut all = vec!["--json", "wallet", "pay", "--yes"];
    all.extend_from_slice(args);
    world.customer("payer", &all)
}

fn pay(world: &World, args: &[&str]) -> Ran {
    run(&mut paying(world, args))
}

fn recover(world: &World) -> Ran {
    run(&mut world.customer("payer", &["--json", "recover"]))
}

fn history(world: &World) -> Vec<Value> {
    run(&mut world.customer("payer", &["--json", "history"]))
        .expect(0)
        .events()
}

/// What the payee has more than at first.
fn received(world: &World) -> u64 {
    world.provider_balance("payee") - OPENING_BALANCE
}

/// Ledger and bank tell one story: so much left the payer, arrived, and is booked; nothing is set aside.
#[track_caller]
fn assert_paid(world: &World, msat: u64) {
    assert_eq!(world.daily("payer"), (msat, 0, 0));
    assert_eq!(world.balance("payer"), OPENING_BALANCE - msat);
    assert_eq!(received(world), msat);
    assert_conserved(&world.bank());
}

#[test]
fn it_pays_once_and_the_books_have_it() {
    let world = world();
    let bolt11 = invoice(&world, 500);
    let paid = pay(&world, &[&bolt11, "--tick", "monday"]).expect(0).last();
    assert_eq!(
        (&paid["v"], &paid["amount_msat"]),
        (&1.into(), &AMOUNT.into())
    );
    let preimage: Preimage = paid["preimage"].as_str().unwrap().parse().unwrap();
    let hash = preimage.payment_hash().to_string();
    assert_eq!(paid["payment_hash"], *hash);
    assert_paid(&world, AMOUNT);

    let id = paid["purchase_id"].as_str().unwrap();
    let entry = history(&world).remove(0);
    for (key, value) in [
        ("purchase_id", Value::from(id)),
        ("kind", "payment".into()),
        ("state", "settled".into()),
        ("provider", Value::Null),
        ("job_id", Value::Null),
        ("tick", "monday".into()),
        ("paid_msat", AMOUNT.into()),
        ("payment_hash", hash.into()),
    ] {
        assert_eq!(entry[key], value, "{key} of {entry}");
    }
    let shown = run(&mut world.customer("payer", &["--json", "show", id])).expect(0);
    let shown = shown.last();
    assert_eq!(shown["preimage"], *preimage.reveal());
    assert_eq!(shown["bolt11"], *bolt11);
    assert_eq!(shown["payee"].as_str().unwrap().len(), 66);
    let plain = run(&mut world.customer("payer", &["show", id])).expect(0);
    assert!(plain.stdout.starts_with("payment   "), "{}", plain.stdout);
    let books = run(&mut world.customer("payer", &["history", "--export", "csv"])).expect(0);
    assert!(books.stdout.lines().nth(1).unwrap().ends_with(",payment"));
    let tick = run(&mut world.customer("payer", &["--json", "budget", "--tick", "monday"]));
    assert_eq!(tick.expect(0).last()["tick"]["spent_msat"], AMOUNT);
    let receipt = run(&mut world.customer("payer", &["receipt", "show", id])).expect(2);
    assert!(receipt.stderr.contains("by hand"), "{}", receipt.stderr);
    assert_eq!(recover(&world).expect(0).events(), Vec::<Value>::new());

    // No invoice twice.
    let again = pay(&world, &[&bolt11]).expect(11);
    assert_eq!(again.last()["paid_msat"], 0);
    assert_paid(&world, AMOUNT);
}

#[test]
fn an_invoice_comes_in_all_the_ways_that_people_have_it() {
    let world = world();
    for (n, dress) in [
        |bolt11: String| format!("lightning:{bolt11}"),
        |bolt11: String| format!("LIGHTNING:{}", bolt11.to_uppercase()),
        |bolt11: String| format!(" {bolt11}\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let bolt11 = dress(invoice(&world, 100));
        let ran = if n == 2 {
            run_with_input(&mut paying(&world, &["-"]), &bolt11)
        } else {
            pay(&world, &[&bolt11])
        };
        ran.expect(0);
    }
    assert_paid(&world, 300_000);
}

#[test]
fn what_is_no_bill_to_pay_is_refused_and_nothing_is_on_record() {
    let world = world();
    let bolt11 = invoice(&world, 500);
    let mut damaged = bolt11.clone();
    damaged.replace_range(20..21, if &damaged[20..21] == "q" { "p" } else { "q" });
    let amountless = "lnbc1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
    for bad in [
        "",
        "hello",
        "lightning:",
        &damaged,
        amountless,
        &"l".repeat(20_000),
    ] {
        let ran = pay(&world, &[bad]).expect(11);
        assert!(
            ran.last()["message"]
                .as_str()
                .unwrap()
                .contains("nothing was paid")
        );
    }
    let elsewhere = pay(&world, &[&bolt11, "--network", "mainnet"]).code;
    assert_eq!(elsewhere, 2, "the wallet is on another network");
    assert_eq!(history(&world), Vec::<Value>::new());
    assert_paid(&world, 0);
}

#[test]
fn it_obeys_the_limits() {
    let limits = "[runway]\ndaily_limit_sats = 1200\nper_tick_limit_sats = 900\n\
                  per_job_limit_sats = 700\nreserve_sats = 99000\n";
    let world = world();
    world.config("payer", limits);
    let refused = |sats: u64, more: &[&str], by: &str| {
        let bolt11 = invoice(&world, sats);
        let mut args = vec![bolt11.as_str(), "--max-fee", "0"];
        args.extend_from_slice(more);
        let ran = pay(&world, &args).expect(4);
        let message = ran.last()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(by), "{message}");
    };
    refused(701, &[], "per_job_limit_sats");
    pay(&world, &[&invoice(&world, 600), "--tick", "t"]).expect(0);
    refused(301, &["--tick", "t"], "per_tick_limit_sats");
    refused(601, &[], "daily_limit_sats");
    refused(401, &[], "reserve_sats");
    pay(&world, &[&invoice(&world, 400)]).expect(0);
    assert_paid(&world, 1_000_000);
}

#[test]
fn it_pays_nothing_unasked_and_nothing_for_the_seller() {
    let world = world();
    let bolt11 = invoice(&world, 500);
    let unasked = run(&mut world.customer("payer", &["wallet", "pay", &bolt11])).expect(2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let args = ["--wallet", "sim", "wallet", "pay", "--yes", &bolt11];
    let seller = run(&mut world.bare_provider("seller", &args)).expect(2);
    assert!(
        seller.stderr.contains("agent-customer"),
        "{}",
        seller.stderr
    );
    let help = run(&mut world.bare_provider("seller", &["wallet", "--help"])).expect(0);
    assert!(!help.stdout.contains(" pay "), "{}", help.stdout);
    assert_eq!(received(&world), 0);
}

#[test]
fn killed_at_any_point_it_is_decided_once_and_for_good() {
    let arm = |command: &mut Command, point: Point, side: &str| {
        let at = format!("{}.{side}:1", point.as_str());
        command.env("AGENT_COMPUTE_CRASH_AT", at);
    };
    for (point, side, is_paid) in [
        (Point::CustomerOpen, "before", false),
        (Point::CustomerOpen, "after", false),
        (Point::CustomerReserve, "before", false),
        (Point::CustomerReserve, "after", false),
        (Point::CustomerPay, "before", false),
        (Point::CustomerPay, "after", true),
        (Point::CustomerSettle, "before", true),
        (Point::CustomerSettle, "after", true),
    ] {
        let world = world();
        let bolt11 = invoice(&world, 500);
        let mut command = paying(&world, &[&bolt11]);
        arm(&mut command, point, side);
        let ended = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(ended.status.code(), None, "{point:?} {side}: it went on");
        recover(&world).expect(0);
        assert_paid(&world, if is_paid { AMOUNT } else { 0 });
        // As the owner tries again.
        let again = pay(&world, &[&bolt11]);
        let paid_in_the_end = u64::from(is_paid || again.code == 0) * AMOUNT;
        assert!([0, 11].contains(&again.code), "{point:?} {side}: {again:?}");
        assert_paid(&world, paid_in_the_end);
    }
    for (fault, point) in [
        ("timeout-after", Point::CustomerUnknown),
        ("refuse", Point::CustomerFree),
    ] {
        for side in ["before", "after"] {
            let world = world();
            let bolt11 = invoice(&world, 500);
            let mut command = paying(&world, &[&bolt11]);
            command.env("AGENT_COMPUTE_SIM_FAULT", fault);
            arm(&mut command, point, side);
            let ended = command.stdin(Stdio::null()).output().unwrap();
            assert_eq!(ended.status.code(), None, "{point:?} {side}: it went on");
            recover(&world).expect(0);
            assert_paid(&world, if fault == "refuse" { 0 } else { AMOUNT });
        }
    }
}

#[test]
fn a_wallet_that_does_not_say_leaves_it_in_doubt_until_it_does() {
    for (fault, is_paid) in [("timeout-after", true), ("timeout-before", false)] {
        let world = world();
        let bolt11 = invoice(&world, 500);
        let mut command = paying(&world, &[&bolt11, "--timeout", "1", "--max-fee", "0"]);
        command.env("AGENT_COMPUTE_SIM_FAULT", fault);
        let ran = run(&mut command).expect(6);
        assert_eq!(ran.last()["reserved_msat"], AMOUNT);
        assert_eq!(world.daily("payer"), (0, AMOUNT, AMOUNT));
        recover(&world).expect(0);
        assert_paid(&world, u64::from(is_paid) * AMOUNT);
    }
    let world = world();
    let mut command = paying(&world, &[&invoice(&world, 500)]);
    command.env("AGENT_COMPUTE_SIM_FAULT", "refuse");
    run(&mut command).expect(5);
    assert_paid(&world, 0);
}

#[test]
fn the_owners_word_settles_what_no_wallet_decides() {
    for (word, booked) in [("paid", AMOUNT), ("failed", 0)] {
        let world = world();
        let bolt11 = invoice(&world, 500);
        let mut command = paying(&world, &[&bolt11, "--timeout", "1", "--max-fee", "0"]);
        command.env("AGENT_COMPUTE_SIM_FAULT", "timeout-before");
        let id = run(&mut command).expect(6).last()["purchase_id"].clone();
        let args = ["recover", "--resolve", id.as_str().unwrap(), word];
        run(&mut world.customer("payer", &args)).expect(0);
        assert_eq!(world.daily("payer"), (booked, 0, 0));
        run(&mut world.customer("payer", &args)).expect(2);
    }
}

/// A hold invoice of a payee who takes its time.
async fn hold(world: &World, hash: PaymentHash) -> (SimWallet, String) {
    let payee = Keys::generate().public_key();
    let wallet = SimWallet::open(&world.bank(), payee, SimOptions::default()).unwrap();
    let request = InvoiceRequest {
        amount: Msat::new(AMOUNT),
        expiry_secs: 600,
        hold: Some(hash),
        description: "held".to_owned(),
    };
    let issued = wallet.invoice(request).await.unwrap();
    (wallet, issued.bolt11)
}

#[tokio::test]
async fn money_that_the_payee_holds_stays_set_aside_until_it_is_claimed_or_back() {
    for (claims, stopped) in [(true, true), (true, false), (false, false)] {
        let world = world();
        let preimage = Preimage::from_bytes(rand::random());
        let (payee, bolt11) = hold(&world, preimage.payment_hash()).await;
        let timeout = if stopped { "60" } else { "1" };
        let mut payer = Running::start(&mut paying(
            &world,
            &[&bolt11, "--timeout", timeout, "--max-fee", "0"],
        ));
        eventually("it is held", || world.daily("payer").1 == AMOUNT);
        if stopped {
            payer.signal("INT");
        }
        eventually("it has left", || payer.exit_code().is_some());
        assert_eq!(payer.exit_code(), Some(if stopped { 130 } else { 6 }));
        recover(&world).expect(6);
        assert_eq!(world.daily("payer").1, AMOUNT, "held still");
        if claims {
            payee.settle(preimage).await.unwrap();
        } else {
            payee.cancel(preimage.payment_hash()).await.unwrap();
        }
        let recovered = recover(&world).expect(0).last();
        let state = if claims { "settled" } else { "failed" };
        assert_eq!(recovered["state"], state);
        let spent = u64::from(claims) * AMOUNT;
        assert_eq!(world.daily("payer"), (spent, 0, 0));
        assert_conserved(&world.bank());
        if claims {
            let id = recovered["purchase_id"].as_str().unwrap();
            let shown = run(&mut world.customer("payer", &["--json", "show", id]));
            assert_eq!(shown.expect(0).last()["preimage"], *preimage.reveal());
        }
    }
}

#[test]
fn of_many_that_pay_one_invoice_one_does() {
    let world = world();
    let bolt11 = invoice(&world, 500);
    // The home is made, with its key.
    assert_eq!(world.balance("payer"), OPENING_BALANCE);
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let payers: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| pay(&world, &[&bolt11]).code))
            .collect();
        payers
            .into_iter()
            .map(|payer| payer.join().unwrap())
            .collect()
    });
    let paid = codes.iter().filter(|code| **code == 0).count();
    assert_eq!(paid, 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, 11].contains(code)), "{codes:?}");
    assert_paid(&world, AMOUNT);
}

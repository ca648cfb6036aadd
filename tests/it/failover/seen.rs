//! Who is asked, in which order, and what the user sees of it.

use super::*;

async fn refuse_all(providers: Vec<&mut Peer>, words: &str) {
    for provider in providers {
        let job = provider.asked().await;
        provider.refuse(&job.id, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ranking_is_the_order_and_nobody_is_asked_twice() {
    let stage = Stage::new().await;
    let [mut first, mut second, mut third] = three(&stage).await;
    let customer = stage.customer();
    let args = ["--retries", "4000000000"];
    let (ran, ()) = tokio::join!(
        buy(&stage, &customer, &args),
        refuse_all(vec![&mut first, &mut second, &mut third], "no")
    );
    let ran = ran.expect(10);
    assert_eq!(failures(&ran), ["provider_refused", "provider_refused"]);
    let selected = all(&ran, "selected").into_iter();
    let selected: Vec<Value> = selected.map(|event| event["provider"].clone()).collect();
    let ranked = [first.key(), second.key(), third.key()].map(|key| key.to_hex());
    assert_eq!(selected, ranked);
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 1]);
    assert_eq!(stage.books(&customer).await, Books::untouched());

    // Each attempt is a purchase of its own, and the error is of the last.
    let history = stage.run(&customer, &["--json", "history"]).await.expect(0);
    let ids: Vec<Value> = history
        .events()
        .into_iter()
        .rev()
        .map(|it| it["purchase_id"].clone())
        .collect();
    let told: Vec<Value> = all(&ran, "selected")
        .into_iter()
        .map(|it| it["purchase_id"].clone())
        .collect();
    assert_eq!(ids, told);
    assert_eq!(ran.last()["purchase_id"], told[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_other_is_asked_by_default() {
    let stage = Stage::new().await;
    let [mut first, mut second, third] = three(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(
        buy(&stage, &customer, &[]),
        refuse_all(vec![&mut first, &mut second], "no")
    );
    let error = ran.expect(10).last();
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("2 of 3 providers that suit were tried"),
        "{message}"
    );
    assert!(message.contains(&first.key().to_hex()[..16]), "{message}");
    assert_eq!(error["retryable"], true);
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 0]);
}

/// One who takes the first that is heard of looks for the others when one has failed.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_first_finds_the_others_when_they_are_needed() {
    let stage = Stage::new().await;
    let mut providers = three(&stage).await;
    let customer = stage.customer();
    for (retries, failed, code) in [("1", 2, 10), ("2", 3, 10), ("9", 3, 10), ("2", 2, 0)] {
        let args = ["--select", "first", "--retries", retries];
        let (ran, ()) = tokio::join!(buy(&stage, &customer, &args), async {
            for _ in 0..failed {
                let (job, peer) = whoever_is_asked(&mut providers).await;
                peer.refuse(&job.id, "no").await;
            }
            if code == 0 {
                let (job, peer) = whoever_is_asked(&mut providers).await;
                let invoice = peer.issue(PRICE - 1).await;
                peer.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
                peer.until_money(invoice.payment_hash).await;
                peer.result(&job.id, "Paris").await;
            }
        });
        let ran = ran.expect(code);
        let asked = failed + usize::from(code == 0);
        let selected = all(&ran, "selected").into_iter();
        let mut selected: Vec<String> = selected.map(|it| it["provider"].to_string()).collect();
        assert_eq!((selected.len(), failures(&ran).len()), (asked, asked - 1));
        selected.sort();
        selected.dedup();
        assert_eq!(selected.len(), asked, "nobody twice");
    }
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE - 1));
}

/// The next job that any of these is asked for.
async fn whoever_is_asked(providers: &mut [Peer; 3]) -> (crate::cast::Asked, &Peer) {
    let [first, second, third] = providers;
    tokio::select! {
        job = first.asked() => (job, first),
        job = second.asked() => (job, second),
        job = third.asked() => (job, third),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_two_listings_is_asked_once() {
    let stage = Stage::new().await;
    let mut provider = selling_at(&stage, PRICE).await;
    let elsewhere = Peer::unlisted(&stage).await.channel.to_hex();
    provider
        .list_with(
            "",
            &[
                &["d", "another"],
                &["channel", &elsewhere],
                &["price", "10001", "per-request", "msats"],
            ],
        )
        .await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(
        buy(&stage, &customer, &["--retries", "9"]),
        refuse_all(vec![&mut provider], "no")
    );
    let ran = ran.expect(10);
    assert_eq!(all(&ran, "provider").len(), 2, "both listings were seen");
    assert_eq!(all(&ran, "selected").len(), 1);
    assert_eq!(failures(&ran), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_in_a_line_who_failed_why_and_who_is_next() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.run(&customer, &["--prompt", "hello"]), async {
        refuse_all(
            vec![&mut first],
            "\u{1b}[2Jbusy\nerror: all is lost\u{202e}",
        )
        .await;
        second.sell("Paris").await;
    });
    let ran = ran.expect(0);
    assert_eq!(ran.stdout, "Paris\n");
    let digits = |peer: &Peer| peer.key().to_hex()[..16].to_owned();
    let line = format!(
        "{}: the provider refused: busy error: all is lost (failed); nothing was paid. Asking {} instead",
        digits(&first),
        digits(&second)
    );
    assert!(
        ran.stderr.lines().any(|said| said == line),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains(['\u{1b}', '\u{202e}']));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_words_in_the_last_error_are_bounded_and_on_one_line() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    let customer = stage.customer();
    let words = "error: no\n".repeat(1000);
    let args = ["--prompt", "hello"];
    let (ran, ()) = tokio::join!(stage.run(&customer, &args), async {
        refuse_all(vec![&mut first], &words).await;
        refuse_all(vec![&mut second], "no").await;
    });
    let ran = ran.expect(10);
    let of_ours = ran.stderr.lines().filter(|line| line.starts_with("error:"));
    assert_eq!(of_ours.count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.len() < 2000, "{}", ran.stderr.len());
}

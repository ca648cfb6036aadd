//! Providers that cheat with the result: none, too early, too much, broken, contradictory.

use agent_compute::protocol::message::{AgentMessage, JobAccepted};
use agent_compute::units::Msat;

use crate::cast::{Asked, Peer, chunk};
use crate::harness::Ran;
use crate::stage::{Books, Customer, PRICE, Stage, chunks};

/// Buys from `provider`, which takes the money and then does `what`.
async fn after_payment(
    stage: &Stage,
    provider: &mut Peer,
    modern: bool,
    args: &[&str],
    what: impl AsyncFnOnce(&Peer, &Asked),
) -> (Customer, Ran) {
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), args), async {
        let job = provider.paid_job_in(modern).await;
        what(provider, &job).await;
    });
    (customer, ran)
}

/// The purchase ends as paid and undelivered, and the books say so.
#[track_caller]
fn undelivered(ran: Ran, why: &str) {
    let error = ran.expect(7).last();
    assert_eq!(error["code"], "undelivered");
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&PRICE.into(), &0.into())
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(why), "{why}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_money_and_stays_silent_is_found_out_and_a_late_result_is_fetched() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let (customer, ran) = after_payment(
        &stage,
        &mut provider,
        false,
        &["--timeout", "4"],
        async |_, _| (),
    )
    .await;
    undelivered(ran, "sent nothing in time");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    // Still nothing: listed as undelivered, and no trouble of ours.
    let recovered = stage.recover(&customer).await.expect(0).last();
    assert_eq!(recovered["state"], "undelivered");
    assert_eq!(recovered["paid_msat"], PRICE);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_results_of_every_shape_are_fetched_by_recover() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    // A whole text; numbered pieces that are too long to be followed by one; a failure, then a text.
    let long = "long ".repeat(10_000);
    for (what, expected) in [("text", "late"), ("pieces", &long), ("after all", "late")] {
        let mut jobs = None;
        let (customer, ran) = after_payment(
            &stage,
            &mut provider,
            true,
            &["--timeout", "4"],
            async |provider, job| {
                jobs = Some(job.clone());
                if what == "after all" {
                    provider.refuse(&job.id, "sorry").await;
                }
            },
        )
        .await;
        undelivered(ran, "");
        let job = jobs.unwrap();
        match what {
            "pieces" => {
                let middle = long.len() / 2;
                provider
                    .chunk(&job.id, Some(0), &long[..middle], false)
                    .await;
                provider
                    .chunk(&job.id, Some(1), &long[middle..], true)
                    .await;
            }
            _ => provider.result(&job.id, expected).await,
        }
        let recovered = stage.recover(&customer).await.expect(0).last();
        assert_eq!(recovered["state"], "delivered", "{what}: {recovered}");
        assert_eq!(recovered["text"], expected);
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_before_payment_and_undelivered_after_it() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        assert_eq!(job.request.max_price_msats, Some(Msat::new(PRICE)));
        provider.refuse(&job.id, "no").await;
    });
    assert_eq!(ran.expect(10).last()["code"], "provider_refused");
    assert_eq!(stage.books(&customer).await, Books::untouched());

    let (customer, ran) =
        after_payment(&stage, &mut provider, false, &[], async |provider, job| {
            provider.refuse(&job.id, "no").await;
        })
        .await;
    undelivered(ran, "no (failed)");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_none_are_undelivered() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let quick = &["--timeout", "4"];
    for (what, why) in [
        ("empty", "empty"),
        ("error", "it broke"),
        ("contradiction", "not what it streamed"),
        ("gap", "broke off"),
        ("too large", "sent nothing"),
        ("in another channel", "sent nothing"),
    ] {
        let modern = what != "error";
        let (customer, ran) = after_payment(
            &stage,
            &mut provider,
            modern,
            quick,
            async |provider, job| match what {
                "empty" => provider.result(&job.id, "").await,
                "error" => provider.result(&job.id, "Error: it broke").await,
                "contradiction" => {
                    provider.chunk(&job.id, Some(0), "one thing", true).await;
                    provider.result(&job.id, "another").await;
                }
                "gap" => {
                    provider.chunk(&job.id, Some(0), "a", false).await;
                    provider.chunk(&job.id, Some(2), "c", true).await;
                }
                "too large" => provider.result(&job.id, &"x".repeat(33 * 1024)).await,
                _ => {
                    let channel = nostr::EventId::from_byte_array([9; 32]);
                    let keys = provider.keys.clone();
                    let elsewhere = Peer::join(&stage, keys, channel).await;
                    elsewhere.result(&job.id, "stray").await;
                }
            },
        )
        .await;
        undelivered(ran, why);
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_are_shuffled_repeated_and_late_make_up_the_text() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let (customer, ran) = after_payment(&stage, &mut provider, true, &[], async |provider, job| {
        let id = &job.id;
        provider.chunk(id, Some(2), "c", true).await;
        provider.chunk(id, Some(9), "beyond", true).await;
        provider.chunk(id, Some(1), "b", false).await;
        provider.chunk(id, Some(1), "other", false).await;
        provider.chunk(id, Some(0), "a", false).await;
        provider.chunk(id, Some(0), "again", true).await;
        provider.chunk(id, Some(u32::MAX), "last", true).await;
        provider.result(id, "abc").await;
    })
    .await;
    let ran = ran.expect(0);
    assert_eq!(ran.last()["text"], "abc");
    assert_eq!(chunks(&ran).concat(), "abc");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_before_the_payment_buys_nothing_and_one_beside_it_counts() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    // Before any invoice: free advice, which a purchase is not.
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &["--timeout", "4"]),
        async {
            let job = provider.asked().await;
            provider.chunk(&job.id, Some(0), "free", true).await;
            provider.result(&job.id, "free").await;
        }
    );
    assert_eq!(ran.expect(9).last()["code"], "timeout");
    assert_eq!(stage.books(&customer).await, Books::untouched());
    // Right behind the invoice: it is on the relay when the payment is through, or it is fetched.
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &["--timeout", "4"]),
        async {
            let job = provider.asked().await;
            let invoice = provider.issue(PRICE).await;
            provider.quote_modern(&job.id, &invoice).await;
            provider.result(&job.id, "eager").await;
        }
    );
    if ran.code != 0 {
        undelivered(ran, "sent nothing in time");
        let recovered = stage.recover(&customer).await.expect(0).last();
        assert_eq!(recovered["text"], "eager");
    }
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

/// The most memory that a process has had, in KiB; 0 where nobody says.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = peak.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_stream_ends_and_memory_is_bounded() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let key = provider.key().to_hex();
    let args = [
        "--json",
        "--timeout",
        "40",
        "--select",
        &key,
        "--prompt",
        "x",
    ];
    let mut buying = stage.start(&customer, &args);
    let job = provider.paid_job().await;
    let mut sent = 0;
    while buying.child.try_wait().unwrap().is_none() {
        let piece = format!("{sent:030720}");
        provider.chunk(&job.id, None, &piece, false).await;
        sent += 1;
        assert!(sent < 1000, "30 MB and no end");
        let most = memory(buying.child.id());
        assert!(
            most < 100 * 1024,
            "{most} KiB for a stream of {sent} pieces"
        );
    }
    let error = tokio::task::spawn_blocking(move || {
        let error = buying.wait_for("the error", |line| {
            line.contains("\"event\":\"error\"")
                .then(|| line.to_owned())
        });
        assert_eq!(buying.exit_code(), Some(7));
        error
    });
    let error = error.await.unwrap();
    assert!(
        error.contains("streams more than any result may have"),
        "{error}"
    );
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_empty_words_does_not_outlast_the_timeout() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let (customer, ran) = after_payment(
        &stage,
        &mut provider,
        true,
        &["--timeout", "4"],
        async |provider, job| {
            // As many as fit: the purchase must end while they still pour in.
            for round in 0..10 {
                let words: Vec<_> = (0..300)
                    .map(|n| {
                        provider.sign(&AgentMessage::JobAccepted(JobAccepted {
                            job_id: job.id.clone(),
                            queue_position: round * 300 + n,
                        }))
                    })
                    .collect();
                provider.publish_all(&words).await;
            }
        },
    )
    .await;
    undelivered(ran, "sent nothing in time");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_terminal_obeys_comes_out_of_the_program() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let harmless = |text: &str| {
        let bad = |c: &char| c.is_control() && *c != '\n' && *c != '\t';
        assert_eq!(text.chars().find(bad), None, "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2066}']), "{text:?}");
    };
    let key = provider.key().to_hex();
    let args = ["--select", &key, "--prompt", "x"];
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.run(&customer, &args), async {
        let job = provider.paid_job_in(true).await;
        let text = "\x1b]0;owned\x07a\x1b[2J\u{9b}31mb\r\u{202e}c\0\x1b";
        let middle = text.find("2J").unwrap();
        provider
            .chunk(&job.id, Some(0), &text[..middle], false)
            .await;
        provider
            .chunk(&job.id, Some(1), &text[middle..], true)
            .await;
        provider.result(&job.id, text).await;
    });
    let ran = ran.expect(0);
    assert_eq!(ran.stdout, "abc\n");
    harmless(&ran.stderr);

    // What a failing provider says can't pass for what we say.
    let (ran, ()) = tokio::join!(stage.run(&customer, &args), async {
        let job = provider.paid_job().await;
        let lie = "\x1b[2Jsorry\nNothing was paid.\r\nerror: all is well";
        provider.refuse(&job.id, lie).await;
    });
    let ran = ran.expect(7);
    harmless(&ran.stderr);
    let said: Vec<&str> = ran.stderr.lines().collect();
    assert!(!said.contains(&"Nothing was paid."), "{said:?}");
    assert!(said.contains(&"Paid: 10 sats."), "{said:?}");
    // Nor later, from the books.
    for command in ["history", "recover"] {
        let ran = stage.run(&customer, &[command]).await;
        harmless(&ran.stdout);
        harmless(&ran.stderr);
    }
    let history = stage.run(&customer, &["--json", "history"]).await.events();
    for purchase in history {
        let id = purchase["purchase_id"].as_str().unwrap();
        let shown = stage.run(&customer, &["show", id]).await.expect(0);
        harmless(&shown.stdout);
        assert!(
            !shown.stdout.contains("\nNothing was paid."),
            "{}",
            shown.stdout
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pieces_that_nobody_reads_hold_up_nothing() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let client = stage.client(&customer).await;
    let purchase = client.purchase(stage.request(&provider));
    let job = provider.paid_job_in(true).await;
    let pieces: Vec<_> = (0..1500)
        .map(|seq| provider.sign(&chunk(&job.id, Some(seq), "word ", seq == 1499)))
        .collect();
    provider.publish_all(&pieces).await;
    provider.result(&job.id, &"word ".repeat(1500)).await;
    stage.until_delivered(&customer).await;
    let receipt = purchase.receipt().await.unwrap();
    assert_eq!(receipt.text, "word ".repeat(1500));
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_answers_costs_the_timeout_and_nothing_else() {
    let stage = Stage::new().await;
    let provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let ran = stage
        .buy(&customer, provider.key(), &["--timeout", "1"])
        .await;
    assert_eq!(ran.expect(9).last()["code"], "timeout");
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_the_result_alone_whatever_order_its_pieces_came_in() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let key = provider.key().to_hex();
    let args = ["--select", &key, "--prompt", "x"];
    let (ran, ()) = tokio::join!(stage.run(&customer, &args), async {
        let job = provider.paid_job_in(false).await;
        provider.chunk(&job.id, None, "two", false).await;
        provider.chunk(&job.id, None, "one ", true).await;
        provider.result(&job.id, "one two").await;
    });
    assert_eq!(ran.expect(0).stdout, "one two\n");
}

//! Crashes, restarts, departures: what was paid is done, once, and what was not is taken back.

use super::*;

#[tokio::test]
async fn a_paid_job_is_done_after_a_restart_and_only_once() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let before = peer.buy(request(us, "before")).await;
    assert_eq!(peer.result(&before).await, "BEFORE");
    seller.until_delivered(&before).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 2
    })
    .await;
    let quoted = peer.ask(request(us, "paid while nobody was there")).await;
    let invoice = peer.invoice(&quoted).await;
    let channel = seller.channel;
    seller.stop_at_once().await;

    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(seller.channel, channel, "it comes back to its channel");
    assert!(!seller.created);
    assert_eq!(peer.result(&quoted).await, "PAID WHILE NOBODY WAS THERE");
    backend.gate.notify_one();
    assert_eq!(peer.result(&running).await, "waited");
    seller.until_delivered(&running).await;

    // The relay has sent all old requests again by now; nobody is asked or served twice.
    let after = peer.buy(request(us, "after")).await;
    assert_eq!(peer.result(&after).await, "AFTER");
    assert_eq!(backend.began.load(Ordering::SeqCst), 3);
    assert_eq!(world.store().latest(100).await.unwrap().len(), 4);
    assert_eq!(world.said(us, "JobResult").await.len(), 4);
}

#[tokio::test]
async fn a_result_that_no_relay_took_is_delivered_after_the_next_start() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;

    world.relay.shutdown().await;
    backend.gate.notify_one();
    let store = world.store();
    eventually("the result is on record", async || {
        summary(&store, &job).await.state == JobState::Done
    })
    .await;
    seller.stop_at_once().await;
    world.relay.resume().await.unwrap();

    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    seller.until_delivered(&job).await;
    assert_eq!(peer.result(&job).await, "waited");
    assert_eq!(
        backend.began.load(Ordering::SeqCst),
        0,
        "nothing is done twice"
    );
    assert_eq!(summary(&store, &job).await.state, JobState::Delivered);
}

#[tokio::test]
async fn a_payment_that_is_seen_after_the_quote_expired_is_served() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let started = agent_compute::units::UnixSecs::new(Timestamp::now().as_secs() - 400);
    let clock = Clock::fixed(started);
    let options = SimOptions {
        clock: clock.clone(),
        ..SimOptions::default()
    };
    let open = |of| SimWallet::open(&world.file("bank.sqlite"), of, options.clone()).unwrap();
    let wallet = Arc::new(Moody::new(open(us)));
    wallet.say(Money::Open);
    let config = ProviderConfig {
        announce_every: Duration::from_secs(300),
        ..world.config()
    };
    let parts = Parts {
        wallet: Some(Arc::clone(&wallet) as Arc<dyn Wallet>),
        clock: clock.clone(),
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(config, parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    peer.wallet = open(peer.keys.public_key());

    let job = peer.ask(request(us, "better late")).await;
    let invoice = peer.invoice(&job).await;
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    clock.set(started.plus(301));
    let expired = |event: &ProviderEvent| match event {
        ProviderEvent::Expired { job_id } => Some(job_id.clone()),
        _ => None,
    };
    assert_eq!(seller.until(expired).await, job);
    // Not paid for good yet, and nobody asked for escrow: it is looked at again.
    wallet.say(Money::Held {
        deadline: started.plus(7_200),
    });
    let asked = wallet.asked.load(Ordering::SeqCst);
    peer.paid(&job).await;
    eventually("the wallet is asked", async || {
        wallet.asked.load(Ordering::SeqCst) > asked
    })
    .await;
    wallet.say(None);
    let again = PaymentSent {
        job_id: job.clone(),
        payment_id: "again".into(),
    };
    peer.say(AgentMessage::PaymentSent(again)).await;
    assert_eq!(peer.result(&job).await, "better late");
    seller.until_delivered(&job).await;
}

#[tokio::test]
async fn one_store_has_one_seller_and_a_start_without_relays_says_so() {
    let (world, keys) = (World::new().await, Keys::generate());
    let seller = world.sell(&keys).await;
    let second = run(
        world.config(),
        world.parts(&keys),
        mpsc::channel(1).0,
        Shutdown::default(),
    );
    assert_eq!(second.await.unwrap_err().code(), Code::Ledger);
    seller.stop_at_once().await;

    let no_such_model = ProviderConfig {
        models: vec!["gpt".into()],
        ..world.config()
    };
    let refused = run(
        no_such_model,
        world.parts(&keys),
        mpsc::channel(1).0,
        Shutdown::default(),
    );
    assert_eq!(refused.await.unwrap_err().code(), Code::Usage);
}

#[tokio::test]
async fn a_new_channel_is_made_when_asked_for() {
    let (world, keys) = (World::new().await, Keys::generate());
    let seller = world.sell(&keys).await;
    let first = seller.channel;
    seller.stop().await.unwrap();
    let renew = ChannelChoice::Create { renew: true };
    let config = ProviderConfig {
        channel: renew,
        ..world.config()
    };
    let seller = Seller::start(config, world.parts(&keys)).await;
    assert!(seller.created);
    let second = seller.channel;
    assert_ne!(second, first);
    seller.stop().await.unwrap();
    let seller = world.sell(&keys).await;
    assert_eq!(
        seller.channel, second,
        "the last one made is the one to come back to"
    );
    seller.stop().await.unwrap();
    let joined = ProviderConfig {
        channel: ChannelChoice::Join(first),
        ..world.config()
    };
    let seller = Seller::start(joined, world.parts(&keys)).await;
    assert_eq!(seller.channel, first);
}

#[tokio::test]
async fn a_relay_that_comes_back_finds_the_seller_at_work() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    world.relay.shutdown().await;
    world.relay.resume().await.unwrap();
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "still here")).await;
    assert_eq!(peer.result(&job).await, "still here");
    seller.until_delivered(&job).await;
}
#[tokio::test]
async fn leaving_finishes_what_is_paid_and_takes_back_what_is_not() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(
        world.findable(us).await.len(),
        2,
        "a listing and an announcement"
    );
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let quoted = peer.ask(request(us, "not paid")).await;
    let invoice = peer.invoice(&quoted).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;

    seller.shutdown.finish.cancel();
    eventually("the listing is gone", async || {
        world.findable(us).await.is_empty()
    })
    .await;
    let late = peer.ask(request(us, "too late")).await;
    assert_eq!(peer.refusal(&late).await, "busy");
    eventually("the quote is given up", async || {
        summary(&world.store(), &quoted).await.state == JobState::Cancelled
    })
    .await;
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Failed(_)));
    assert!(!seller.run.is_finished());
    backend.gate.notify_one();
    assert_eq!(peer.result(&running).await, "waited");
    seller.stop().await.unwrap();
    assert_eq!(
        summary(&world.store(), &running).await.state,
        JobState::Delivered
    );

    // It can come back at once, and is found again.
    let seller = world.sell(&keys).await;
    assert_eq!(world.findable(us).await.len(), 2);
    seller.stop().await.unwrap();
    assert!(world.findable(us).await.is_empty());
}

#[tokio::test]
async fn wherever_it_is_cut_off_what_is_paid_is_delivered_once() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut paid = Vec::new();
    // Each round is cut off one report later than the last: quoted, paid, started, delivered, of its own
    // jobs and of those that earlier rounds left.
    for reports in (1..=8).cycle() {
        if paid.len() >= 12 {
            break;
        }
        let mut seller = world.sell(&keys).await;
        let mut peer = Peer::join(&world, us, seller.channel).await;
        let job_set = format!("{:016x}", rand::random::<u64>());
        let buy = async {
            let mut asked = Vec::new();
            for n in 0..2 {
                let prompt = format!("job {n} of {job_set}");
                asked.push((peer.ask(request(us, &prompt)).await, prompt));
            }
            for (job, prompt) in asked {
                let invoice = peer.invoice(&job).await;
                assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
                paid.push((job.clone(), prompt));
                peer.paid(&job).await;
            }
        };
        tokio::select! {
            biased;
            () = seller.until_said(reports) => {}
            () = async { buy.await; std::future::pending().await } => {}
        }
        seller.stop_at_once().await;
    }

    let _seller = world.sell(&keys).await;
    for (job, prompt) in paid {
        eventually("it is delivered", async || {
            summary(&world.store(), &job).await.state == JobState::Delivered
        })
        .await;
        let results = world.said(us, "JobResult").await;
        let about = |event: &&Event| event.content.contains(job.as_str());
        let of_job: Vec<_> = results.iter().filter(about).collect();
        assert_eq!(of_job.len(), 1, "{prompt}");
        assert!(of_job[0].content.contains(&prompt));
    }
}

#[tokio::test]
async fn however_often_it_leaves_and_comes_back_it_is_listed_at_once_and_gone_at_once() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    // All within one second, and so that the times say how often it had to try.
    let now = agent_compute::units::UnixSecs::new(Timestamp::now().as_secs());
    for round in 0..5 {
        let parts = Parts {
            clock: Clock::fixed(now),
            ..world.parts(&keys)
        };
        let seller = Seller::start(world.config(), parts).await;
        let said = world.findable(us).await;
        let times: Vec<u64> = said
            .iter()
            .map(|event| event.created_at.as_secs())
            .collect();
        let expected = now.plus(2 * round).get();
        assert_eq!(times, [expected; 2], "a listing and an announcement");
        assert_eq!(world.offers(Some(seller.channel)).await, [us]);
        assert_eq!(world.offers(None).await, [us]);

        let channel = seller.channel;
        seller.stop().await.unwrap();
        assert!(world.offers(Some(channel)).await.is_empty());
        let listings = Filter::new().kind(Kind::Custom(31_990));
        let left = fetch(world.session().as_ref(), listings, SOON, 10).await;
        assert_eq!(left.unwrap().events, [], "not even an empty listing");
    }
}

#[tokio::test]
async fn a_relay_that_was_away_for_a_moment_and_forgot_everything_is_told_again() {
    let (mut world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let seller = world.sell(&keys).await;
    let address = world.relay.addr();
    world.relay.shutdown().await;
    // A connection of another test may have the port for a moment.
    let until = std::time::Instant::now() + SOON;
    world.relay = loop {
        match EmbeddedRelay::listen(address).await {
            Ok(relay) => break relay,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    eventually("it is listed and announced again", async || {
        world.findable(us).await.len() == 2
    })
    .await;
    assert_eq!(world.offers(None).await, [us]);
    assert_eq!(world.offers(Some(seller.channel)).await, [us]);
}

#[tokio::test]
async fn leaving_takes_back_what_was_said_before_a_crash_too() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    for _ in 0..2 {
        world.sell(&keys).await.stop_at_once().await;
    }
    let seller = world.sell(&keys).await;
    let announced = world.said(us, "ServiceAnnouncement").await;
    assert_eq!(announced.len(), 3);
    seller.stop().await.unwrap();
    assert!(world.findable(us).await.is_empty());
}

/// All chunks of a job that were published, in order, without repetitions.
async fn streamed(world: &World, seller: PublicKey, job: &JobId) -> Vec<(u32, String, bool)> {
    let mut chunks: Vec<(u32, String, bool)> = Vec::new();
    for event in world.said(seller, "StreamChunk").await {
        if let Ok(AgentMessage::StreamChunk(chunk)) = codec::decode(&event.content)
            && chunk.job_id == *job
        {
            chunks.push((chunk.seq.unwrap(), chunk.chunk, chunk.is_final));
        }
    }
    chunks.sort();
    chunks.dedup();
    chunks
}

#[tokio::test]
async fn a_stream_that_was_cut_off_goes_on_and_contradicts_nothing() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let change = |config: &mut ProviderConfig| config.stream = true;
    for (prompt, again, expected) in [
        ("stream", "stream", None),
        ("stream", "another text", Some("ANOTHER TEXT")),
    ] {
        let (seller, backend) = world.sell_led(&keys, change).await;
        let mut peer = Peer::join(&world, us, seller.channel).await;
        let streaming = JobRequest {
            stream: Some(true),
            ..request(us, prompt)
        };
        let job = peer.buy(streaming).await;
        let mut seen = String::new();
        while !seen.ends_with("100 ") {
            let chunk = peer.hear(&job, |message| match message {
                AgentMessage::StreamChunk(chunk) => Some(chunk.chunk),
                _ => None,
            });
            seen.push_str(&chunk.await);
        }
        eventually("the run is on record", async || {
            summary(&world.store(), &job).await.state == JobState::Running
        })
        .await;
        seller.stop_at_once().await;
        drop(backend);

        let db = rusqlite::Connection::open(world.file("jobs.sqlite")).unwrap();
        let other = "UPDATE jobs SET prompt = ?1 WHERE state = 'running'";
        assert_eq!(db.execute(other, [again]).unwrap(), 1);
        drop(db);
        let (mut seller, backend) = world.sell_led(&keys, change).await;
        if expected.is_none() {
            eventually("it goes on", async || {
                backend.began.load(Ordering::SeqCst) == 1
            })
            .await;
            backend.gate.notify_one();
        }
        let result = peer.result(&job).await;
        seller.until_delivered(&job).await;
        match expected {
            None => assert_eq!(
                result,
                (0..200).map(|n| format!("{n} ")).collect::<String>()
            ),
            Some(text) => assert_eq!(result, format!("{seen}\n\n{text}")),
        }
        let chunks = streamed(&world, us, &job).await;
        let numbers: Vec<u32> = chunks.iter().map(|(seq, ..)| *seq).collect();
        let count = u32::try_from(numbers.len()).unwrap();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "one text a number");
        let text: String = chunks.iter().map(|(_, text, _)| text.as_str()).collect();
        assert_eq!(text, result);
        let finals = chunks.iter().filter(|(.., is_final)| *is_final).count();
        assert_eq!(finals, 1);
        let left = rusqlite::Connection::open(world.file("jobs.sqlite")).unwrap();
        let left = left.query_row("SELECT count(*) FROM chunks", [], |row| {
            row.get::<_, u32>(0)
        });
        assert_eq!(left.unwrap(), 0);
        seller.stop().await.unwrap();
    }
}

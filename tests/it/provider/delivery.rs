//! How results reach their customers.

use super::*;

#[tokio::test]
async fn a_paid_job_is_delivered() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    assert!(seller.created);
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let job = peer.ask(request(us, "What  is 2+2? ")).await;
    let invoice = peer.invoice(&job).await;
    let parsed = parse_unchecked(&invoice.bolt11).unwrap();
    assert_eq!(invoice.amount_msats, Msat::new(10_000));
    assert_eq!(parsed.amount, Some(invoice.amount_msats));
    assert_eq!(invoice.payment_hash, Some(parsed.payment_hash.to_string()));
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Paid { .. }));
    peer.paid(&job).await;
    assert_eq!(peer.result(&job).await, "What  is 2+2? ");
    seller.until_delivered(&job).await;

    let done = summary(&world.store(), &job).await;
    assert_eq!(done.state, JobState::Delivered);
    assert_eq!(done.price_msat, Msat::new(10_000));
    assert!(done.settled_at.is_some());
    seller.stop().await.unwrap();
}

#[tokio::test]
async fn a_backend_that_fails_or_panics_is_told_and_stops_nobody_else() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    for prompt in ["fail", "panic", "nothing"] {
        let job = peer.buy(request(us, prompt)).await;
        let told = peer.hear(&job, |message| match message {
            AgentMessage::JobError(error) => Some(error),
            other => panic!("{other:?} instead of an error"),
        });
        let told = told.await;
        assert_eq!(told.code, "failed");
        assert!(!told.message.contains("secret"));
        let reason = seller.until(|event| match event {
            ProviderEvent::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        assert!(!reason.await.is_empty());
        let failed = summary(&world.store(), &job).await;
        assert_eq!(failed.state, JobState::Failed);
        assert!(failed.settled_at.is_some(), "what is owed stays on record");
    }
    // Deployed customers send no nonce, and know no errors but such results.
    let deployed = JobRequest {
        nonce: None,
        ..request(us, "fail")
    };
    let job = peer.buy(deployed).await;
    assert!(peer.result(&job).await.starts_with("Error: "));
    let job = peer.buy(request(us, "keep")).await;
    assert_eq!(peer.result(&job).await, "kept its end open");
    let job = peer.buy(request(us, "and yet")).await;
    assert_eq!(peer.result(&job).await, "AND YET");
}

#[tokio::test]
async fn paid_jobs_wait_in_order_when_all_slots_are_taken() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 1).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let running = peer.buy(request(us, "wait")).await;
    eventually("the slot is taken", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    let mut waiting = Vec::new();
    for n in 0..3 {
        let job = peer.buy(request(us, &format!("number {n}"))).await;
        let position = peer.hear(&job, |message| match message {
            AgentMessage::JobAccepted(accepted) => Some(accepted.queue_position),
            _ => None,
        });
        assert_eq!(position.await, n);
        waiting.push(job);
    }
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);
    backend.gate.notify_one();
    let mut began = vec![];
    while began.len() < 3 {
        let started = seller.until(|event| match event {
            ProviderEvent::Started { job_id, .. } => Some(job_id.clone()),
            _ => None,
        });
        let started = started.await;
        if started != running {
            began.push(started);
        }
    }
    assert_eq!(began, waiting);
}

#[tokio::test]
async fn a_customer_with_many_jobs_does_not_hold_up_another() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 1).await;
    let mut many = Peer::join(&world, us, seller.channel).await;
    let mut one = Peer::join(&world, us, seller.channel).await;
    many.buy(request(us, "wait")).await;
    eventually("the slot is taken", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    let position = |message| match message {
        AgentMessage::JobAccepted(accepted) => Some(accepted.queue_position),
        _ => None,
    };
    let mut last = None;
    for n in 0..6 {
        // The third of the six keeps the slot, so that those behind it stay where they are.
        let prompt = if n == 2 { "wait" } else { "quick" };
        let job = many.buy(request(us, prompt)).await;
        assert_eq!(many.hear(&job, position).await, n);
        last = Some(job);
    }
    let theirs = one.buy(request(us, "first of all")).await;
    assert_eq!(one.hear(&theirs, position).await, 0);
    backend.gate.notify_one();
    let mut started = Vec::new();
    while started.len() < 2 {
        let next = seller.until(|event| match event {
            ProviderEvent::Started { job_id, .. } => Some(job_id.clone()),
            _ => None,
        });
        started.push(next.await);
    }
    assert_eq!(started[1], theirs, "before the six that came first");
    assert_eq!(one.result(&theirs).await, "FIRST OF ALL");
    // Who comes much nearer is told.
    let last = last.unwrap();
    assert_eq!(many.hear(&last, position).await, 2);
    backend.gate.notify_one();
    assert_eq!(many.result(&last).await, "QUICK");
}

#[tokio::test]
async fn chunks_come_in_order_and_make_up_the_result() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |config| config.stream = true).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let streaming = JobRequest {
        stream: Some(true),
        ..request(us, "stream")
    };
    let job = peer.buy(streaming).await;
    let whole: String = (0..200).map(|n| format!("{n} ")).collect();
    let mut text = String::new();
    let mut seq = 0;
    loop {
        let chunk = peer.hear(&job, |message| match message {
            AgentMessage::StreamChunk(chunk) => Some(chunk),
            _ => None,
        });
        let chunk = chunk.await;
        assert_eq!(chunk.seq, Some(seq));
        seq += 1;
        text.push_str(&chunk.chunk);
        if text.ends_with("100 ") {
            assert!(!chunk.is_final, "it comes while the backend is at work");
            backend.gate.notify_one();
        }
        if chunk.is_final {
            break;
        }
    }
    assert!((2..50).contains(&seq), "{seq} chunks for 200 tokens");
    assert_eq!(text, whole);
    assert_eq!(peer.result(&job).await, whole);

    let not_asked_for = peer.buy(request(us, "quiet")).await;
    let first = peer.hear(&not_asked_for, Some).await;
    assert!(matches!(first, AgentMessage::JobResult(_)), "{first:?}");
}

#[tokio::test]
async fn a_result_too_long_for_one_message_goes_as_chunks_alone() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let job = peer.buy(request(us, "long")).await;
    let mut text = String::new();
    for seq in 0.. {
        let chunk = peer.hear(&job, |message| match message {
            AgentMessage::StreamChunk(chunk) => Some(chunk),
            AgentMessage::JobResult(_) => panic!("a result that can't fit"),
            _ => None,
        });
        let chunk = chunk.await;
        assert_eq!(chunk.seq, Some(seq));
        text.push_str(&chunk.chunk);
        if chunk.is_final {
            break;
        }
    }
    assert_eq!(text, "\"word\" \n".repeat(20_000));
    seller.until_delivered(&job).await;
}

#[tokio::test]
async fn without_a_wallet_it_is_what_deployed_customers_know() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let config = ProviderConfig {
        stream: true,
        ..world.config()
    };
    let parts = Parts {
        wallet: None,
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(config, parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut stranger = Peer::join(&world, us, seller.channel).await;

    // The captured customer's own words, but for the key they are addressed to.
    let capture = include_str!("../../fixtures/captures/original-channel.ndjson");
    let theirs = capture
        .lines()
        .find(|line| line.contains("JobRequest"))
        .unwrap();
    let theirs: Event = nostr::JsonUtil::from_json(theirs).unwrap();
    let captured_seller = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";
    let content = theirs.content.replace(captured_seller, &us.to_hex());
    assert_ne!(content, theirs.content);
    let event = channel::message(seller.channel, &peer.url, content, None);
    let event = event.sign_with_keys(&peer.keys).unwrap();
    peer.publish(&event).await;
    let job = JobId::of_request(&event.id);

    let invoice = peer.invoice(&job).await;
    let ours = codec::encode(&AgentMessage::Invoice(Invoice {
        expires_at: None,
        ..invoice
    }))
    .unwrap();
    let captured = capture
        .lines()
        .find(|line| line.contains(r#"\"Invoice\""#))
        .unwrap();
    let captured: Event = nostr::JsonUtil::from_json(captured).unwrap();
    let captured_job = JobId::of_request(&theirs.id);
    assert_eq!(
        ours,
        captured
            .content
            .replace(captured_job.as_str(), job.as_str())
    );

    stranger.paid(&job).await;
    let other = stranger.ask(request(us, "another")).await;
    stranger.invoice(&other).await;
    assert_eq!(summary(&world.store(), &job).await.state, JobState::Quoted);
    peer.paid(&job).await;
    let first = peer.hear(&job, Some).await;
    assert!(matches!(first, AgentMessage::StreamChunk(_)), "{first:?}");
    assert_eq!(peer.result(&job).await, "What is 2+2?");
    seller.until_delivered(&job).await;
    seller.stop().await.unwrap();

    let parts = Parts {
        wallet: None,
        ..world.parts(&keys)
    };
    let config = ProviderConfig {
        network: Network::Mainnet,
        ..world.config()
    };
    let refused = run(config, parts, mpsc::channel(1).0, Shutdown::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Usage);
}

#[tokio::test]
async fn many_at_once_are_all_delivered_and_nothing_stays_behind() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let channel = seller.channel;
    let customers = (0..8).map(async |customer| {
        let mut peer = Peer::join(&world, us, channel).await;
        for n in 0..4 {
            let job = peer.buy(request(us, &format!("job {customer} {n}"))).await;
            assert_eq!(peer.result(&job).await, format!("JOB {customer} {n}"));
        }
    });
    futures_util::future::join_all(customers).await;
    let mut delivered = 0;
    while delivered < 32 {
        let is_delivery = |event: &ProviderEvent| matches!(event, ProviderEvent::Delivered { .. });
        delivered += usize::from(seller.until(|event| Some(is_delivery(event))).await);
    }
    assert_eq!(backend.began.load(Ordering::SeqCst), 32);
    seller.stop().await.unwrap();
}

//! What is quoted, what is refused, and that only money starts work.

use super::*;

#[tokio::test]
async fn nobody_gets_work_without_paying_whatever_is_said() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut stranger = Peer::join(&world, us, seller.channel).await;

    let unpaid = peer.ask(request(us, "free work")).await;
    peer.invoice(&unpaid).await;
    for _ in 0..30 {
        peer.paid(&unpaid).await;
        stranger.paid(&unpaid).await;
    }
    // Whatever these made the provider do, it did before it answers this one.
    let paid = stranger.buy(request(us, "paid work")).await;
    assert_eq!(stranger.result(&paid).await, "PAID WORK");
    seller.until_delivered(&paid).await;
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);
    assert_eq!(
        summary(&world.store(), &unpaid).await.state,
        JobState::Quoted
    );

    // And the money makes the difference.
    let other = stranger.ask(request(us, "seen by itself")).await;
    let invoice = stranger.invoice(&other).await;
    stranger.pay(&invoice).await;
    assert_eq!(stranger.result(&other).await, "SEEN BY ITSELF");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_what_is_not_for_us_is_ignored() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let other = Keys::generate().public_key();
    let ignored = [
        peer.ask(request(other, "for another")).await,
        peer.ask(JobRequest {
            kind: 5_930,
            target_provider: None,
            ..request(us, "another kind, asked of all")
        })
        .await,
    ];
    let old = Timestamp::from(Timestamp::now().as_secs() - 3_600);
    let ahead = Timestamp::from(Timestamp::now().as_secs() + 3_600);
    for at in [old, ahead] {
        let late = AgentMessage::JobRequest(request(us, "at the wrong time"));
        let _ = peer.session.publish(&peer.sign_at(&late, at), SOON).await;
    }
    for (code, refused) in [
        (
            "invalid",
            JobRequest {
                kind: 5_930,
                ..request(us, "kind")
            },
        ),
        ("invalid", request(us, "  ")),
        (
            "invalid",
            JobRequest {
                max_tokens: 0,
                ..request(us, "tokens")
            },
        ),
        (
            "model",
            JobRequest {
                model: Some("none".into()),
                ..request(us, "model")
            },
        ),
        (
            "price",
            JobRequest {
                max_price_msats: Some(Msat::new(9_999)),
                ..request(us, "price")
            },
        ),
        (
            "escrow",
            JobRequest {
                escrow: Some(Feature::HoldInvoice),
                ..request(us, "escrow")
            },
        ),
    ] {
        let job = peer.ask(refused).await;
        assert_eq!(peer.refusal(&job).await, code);
    }
    let hex = us.to_hex().to_uppercase();
    let taken = peer
        .ask(JobRequest {
            target_provider: Some(hex),
            model: Some("other".into()),
            ..request(us, "x")
        })
        .await;
    peer.invoice(&taken).await;
    let untargeted = JobRequest {
        target_provider: None,
        ..request(us, "asked of all")
    };
    let untargeted = peer.ask(untargeted).await;
    peer.invoice(&untargeted).await;

    let jobs = world.store().latest(100).await.unwrap();
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert!(!jobs.iter().any(|job| ignored.contains(&job.job_id)));
}

#[tokio::test]
async fn a_full_queue_says_busy_and_a_cancelled_quote_frees_its_place_and_cant_be_paid() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = Seller::start(
        ProviderConfig {
            max_quotes_per_customer: 2,
            max_jobs: 1,
            max_queue: 2,
            ..world.config()
        },
        world.parts(&keys),
    )
    .await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;

    let first = peer.ask(request(us, "one")).await;
    let invoice = peer.invoice(&first).await;
    let second = peer.ask(request(us, "two")).await;
    peer.invoice(&second).await;
    let third = peer.ask(request(us, "three")).await;
    assert_eq!(
        peer.refusal(&third).await,
        "busy",
        "too many of one customer"
    );
    let theirs = other.ask(request(us, "theirs")).await;
    other.invoice(&theirs).await;
    let fourth = other.ask(request(us, "four")).await;
    assert_eq!(other.refusal(&fourth).await, "busy", "too many of all");

    // Nobody cancels for another.
    let cancel = |job: &JobId| {
        AgentMessage::Cancel(Cancel {
            job_id: job.clone(),
        })
    };
    other.say(cancel(&first)).await;
    other.say(cancel(&theirs)).await;
    let cancelled = |event: &ProviderEvent| match event {
        ProviderEvent::Cancelled { job_id } => Some(job_id.clone()),
        _ => None,
    };
    assert_eq!(seller.until(cancelled).await, theirs);
    peer.say(cancel(&first)).await;
    assert_eq!(seller.until(cancelled).await, first);
    assert!(matches!(peer.pay(&invoice).await, PayOutcome::Failed(_)));
    let fifth = peer.buy(request(us, "five")).await;
    assert_eq!(peer.result(&fifth).await, "five");
    eventually("both are on record as cancelled", async || {
        let store = world.store();
        let first = summary(&store, &first).await.state;
        let theirs = summary(&store, &theirs).await.state;
        (first, theirs) == (JobState::Cancelled, JobState::Cancelled)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_bad_requests_is_answered_sparingly_and_harms_nobody() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    let flooder = Peer::join(&world, us, seller.channel).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    for _ in 0..400 {
        flooder.ask(request(us, " ")).await;
    }
    let job = peer.buy(request(us, "still served")).await;
    assert_eq!(peer.result(&job).await, "still served");
    seller.until_delivered(&job).await;
    let refusals = world.said(us, "JobError").await.len();
    assert!(refusals < 200, "{refusals} answers to 400 requests");
}

#[tokio::test]
async fn one_customer_gets_no_more_than_half_of_the_places_even_if_it_pays() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world
        .sell_led(&keys, |config| (config.max_jobs, config.max_queue) = (1, 5))
        .await;
    let mut greedy = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;
    for _ in 0..3 {
        greedy.buy(request(us, "wait")).await;
    }
    let fourth = greedy.ask(request(us, "one more")).await;
    assert_eq!(greedy.refusal(&fourth).await, "busy");
    let theirs = other.buy(request(us, "served")).await;
    // It takes its turn once it is known to be paid; before that, the next of the others is due.
    seller
        .until(|event| match event {
            ProviderEvent::Paid { job_id, .. } => (*job_id == theirs).then_some(()),
            _ => None,
        })
        .await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) >= 1
    })
    .await;
    backend.gate.notify_one();
    assert_eq!(other.result(&theirs).await, "SERVED");
}

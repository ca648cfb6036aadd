//! Escrow over crashes, restarts and departures: what is held is settled or given back in the end.

use super::*;

fn ended(job: &JobId) -> impl Fn(&ProviderEvent) -> Option<&'static str> {
    let job = job.clone();
    move |event| match event {
        ProviderEvent::Settled { job_id, .. } if *job_id == job => Some("settled"),
        ProviderEvent::Unreleased { job_id, .. } if *job_id == job => Some("unreleased"),
        ProviderEvent::Returned { job_id, .. } if *job_id == job => Some("returned"),
        _ => None,
    }
}

#[tokio::test]
async fn a_release_that_came_while_nobody_was_there_is_found() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let escrow = peer.order(us, "release me").await;
    assert_eq!(peer.result(&escrow.job).await, "release me");
    seller.until_delivered(&escrow.job).await;
    world.until_state(&escrow, JobState::Delivered).await;
    seller.stop_at_once().await;
    // Longer ago than anything else that is read of what was stored.
    let long_ago = Timestamp::from(Timestamp::now().as_secs() - 2 * 3_600);
    peer.publish(&peer.sign_at(&escrow.release(), long_ago))
        .await;

    let db = rusqlite::Connection::open(world.file("jobs.sqlite")).unwrap();
    let aged = "UPDATE jobs SET changed_at = changed_at - 7200, published_at = published_at - 7200";
    assert_eq!(db.execute(aged, []).unwrap(), 1);
    drop(db);
    // In another channel by now: that of the job is listened to all the same.
    let config = ProviderConfig {
        channel: ChannelChoice::Create { renew: true },
        ..world.config()
    };
    let mut seller = Seller::start(config, world.parts(&keys)).await;
    assert_eq!(seller.until(ended(&escrow.job)).await, "settled");
    world.until_state(&escrow, JobState::Settled).await;
    assert_eq!(world.earned(&keys).await, PRICE);
}

#[tokio::test]
async fn no_customer_talks_so_much_that_the_release_of_another_is_missed() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let seller = world.sell(&keys).await;
    let mut honest = Peer::join(&world, us, seller.channel).await;
    let mut loud = Peer::join(&world, us, seller.channel).await;
    let escrow = honest.order(us, "release me").await;
    assert_eq!(honest.result(&escrow.job).await, "release me");
    let kept = loud.order(us, "keep me").await;
    assert_eq!(loud.result(&kept.job).await, "keep me");
    for job in [&escrow, &kept] {
        world.until_state(job, JobState::Delivered).await;
    }
    seller.stop_at_once().await;
    honest.released(&escrow).await;
    // More than a relay gives to one request, and later than the release.
    let talk = AgentMessage::PaymentSent(PaymentSent {
        job_id: kept.job.clone(),
        payment_id: "talk".into(),
    });
    let later = Timestamp::now() + 1;
    for n in 0..600 {
        loud.publish(&loud.sign_at(&talk, later + n)).await;
    }
    let mut seller = world.sell(&keys).await;
    assert_eq!(seller.until(ended(&escrow.job)).await, "settled");
    assert_eq!(world.earned(&keys).await, PRICE);
}

#[tokio::test]
async fn what_was_quoted_in_an_earlier_channel_is_released_there() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let seller = world.sell(&keys).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let escrow = peer.ask_in_escrow(us, "release me").await;
    seller.stop_at_once().await;
    peer.lock(&escrow).await;
    let config = ProviderConfig {
        channel: ChannelChoice::Create { renew: true },
        ..world.config()
    };
    let mut seller = Seller::start(config, world.parts(&keys)).await;
    assert_eq!(peer.result(&escrow.job).await, "release me");
    peer.released(&escrow).await;
    assert_eq!(seller.until(ended(&escrow.job)).await, "settled");
}

#[tokio::test]
async fn held_jobs_are_done_after_a_restart_if_the_money_is_still_held() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 2).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let (running, lost) = (peer.order(us, "wait").await, peer.order(us, "wait").await);
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 2
    })
    .await;
    let waiting = peer.order(us, "in the queue").await;
    for (escrow, state) in [
        (&running, JobState::Running),
        (&lost, JobState::Running),
        (&waiting, JobState::Held),
    ] {
        world.until_state(escrow, state).await;
    }
    let quoted = peer
        .ask_in_escrow(us, "locked while nobody was there")
        .await;
    // Released before its time, and never again.
    peer.released(&running).await;
    let db = world.file("jobs.sqlite");
    eventually("the early release is on record", async || {
        let db = rusqlite::Connection::open(&db).unwrap();
        let released = "SELECT count(*) FROM jobs WHERE preimage IS NOT NULL";
        db.query_row(released, [], |row| row.get::<_, u32>(0)) == Ok(1)
    })
    .await;
    seller.stop_at_once().await;
    peer.lock(&quoted).await;
    world.wallet(us).cancel(lost.hash()).await.unwrap();

    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(peer.refusal(&lost.job).await, "escrow");
    backend.gate.notify_one();
    for (escrow, text) in [
        (&running, "waited"),
        (&waiting, "IN THE QUEUE"),
        (&quoted, "LOCKED WHILE NOBODY WAS THERE"),
    ] {
        assert_eq!(peer.result(&escrow.job).await, text);
        if escrow.job != running.job {
            peer.released(escrow).await;
        }
        assert_eq!(seller.until(ended(&escrow.job)).await, "settled");
    }
    world.until_state(&lost, JobState::Returned).await;
    assert_eq!(backend.began.load(Ordering::SeqCst), 3);
    assert_eq!(world.earned(&keys).await, 3 * PRICE);
}

#[tokio::test]
async fn a_prompt_that_kills_the_process_gets_its_money_back() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut escrow = None;
    for run in 1..=3 {
        let (seller, backend) = world.sell_led(&keys, |_| ()).await;
        if escrow.is_none() {
            let mut peer = Peer::join(&world, us, seller.channel).await;
            escrow = Some((peer.order(us, "wait").await, peer));
        }
        let (order, _) = escrow.as_ref().unwrap();
        eventually("the backend is at work", async || {
            backend.began.load(Ordering::SeqCst) == 1
        })
        .await;
        let db = world.file("jobs.sqlite");
        eventually("the run is on record", async || {
            let db = rusqlite::Connection::open(&db).unwrap();
            let attempts = "SELECT attempts FROM jobs WHERE state = 'running'";
            db.query_row(attempts, [], |row| row.get::<_, u32>(0)) == Ok(run)
        })
        .await;
        world.until_state(order, JobState::Running).await;
        seller.stop_at_once().await;
    }
    let (order, mut peer) = escrow.unwrap();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(peer.refusal(&order.job).await, "failed");
    assert_eq!(seller.until(ended(&order.job)).await, "returned");
    peer.until_returned(&order).await;
    assert_eq!(backend.began.load(Ordering::SeqCst), 0);
    assert_eq!(peer.balance().await, OPENING);
}

#[tokio::test]
async fn leaving_finishes_what_is_held_and_does_not_wait_for_ever_for_releases() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let kept = peer.order(us, "kept").await;
    assert_eq!(peer.result(&kept.job).await, "KEPT");
    seller.until_delivered(&kept.job).await;
    let quoted = peer.ask_in_escrow(us, "not locked").await;
    let running = peer.order(us, "wait").await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 2
    })
    .await;

    seller.shutdown.finish.cancel();
    assert_eq!(peer.refusal(&quoted.job).await, "busy");
    assert!(matches!(
        peer.pay(&quoted.invoice).await,
        PayOutcome::Failed(_)
    ));
    backend.gate.notify_one();
    assert_eq!(peer.result(&running.job).await, "waited");
    peer.released(&running).await;
    assert_eq!(seller.until(ended(&running.job)).await, "settled");
    seller.stop().await.unwrap();
    world.until_state(&kept, JobState::Delivered).await;

    let mut seller = world.sell(&keys).await;
    peer.released(&kept).await;
    assert_eq!(seller.until(ended(&kept.job)).await, "settled");
    assert_eq!(world.earned(&keys).await, 2 * PRICE);
}

#[tokio::test]
async fn what_another_wallet_holds_waits_for_that_wallet() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let running = peer.order(us, "wait").await;
    let delivered = peer.order(us, "delivered").await;
    assert_eq!(peer.result(&delivered.job).await, "DELIVERED");
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 2
    })
    .await;
    world.until_state(&running, JobState::Running).await;
    world.until_state(&delivered, JobState::Delivered).await;
    seller.stop_at_once().await;

    let other = SimWallet::open(&world.file("other.sqlite"), us, SimOptions::default()).unwrap();
    let parts = Parts {
        wallet: Some(Arc::new(other)),
        ..world.parts(&keys)
    };
    let seller = Seller::start(world.config(), parts).await;
    peer.released(&delivered).await;
    seller.stop().await.unwrap();
    world.until_state(&running, JobState::Running).await;
    world.until_state(&delivered, JobState::Delivered).await;

    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    assert_eq!(seller.until(ended(&delivered.job)).await, "settled");
    backend.gate.notify_one();
    assert_eq!(peer.result(&running.job).await, "waited");
}

#[tokio::test]
async fn a_wallet_that_fails_for_a_while_settles_and_returns_in_the_end() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let wallet = Arc::new(Moody::new(world.wallet(us)));
    wallet.refusals.store(6, Ordering::SeqCst);
    let parts = Parts {
        wallet: Some(Arc::clone(&wallet) as Arc<dyn Wallet>),
        backend: Arc::new(Led::default()),
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(world.config(), parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let settled = peer.order(us, "settled").await;
    assert_eq!(peer.result(&settled.job).await, "SETTLED");
    peer.released(&settled).await;
    assert_eq!(seller.until(ended(&settled.job)).await, "settled");
    assert_eq!(wallet.refusals.load(Ordering::SeqCst), 0);
    wallet.refusals.store(6, Ordering::SeqCst);
    let returned = peer.order(us, "fail").await;
    assert_eq!(seller.until(ended(&returned.job)).await, "returned");
    assert_eq!(wallet.refusals.load(Ordering::SeqCst), 0);
    assert_eq!(world.earned(&keys).await, PRICE);
    assert_eq!(peer.balance().await, OPENING - PRICE);
}

#[tokio::test]
async fn wherever_it_is_cut_off_what_is_held_is_settled_or_returned_and_never_both() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut orders = Vec::new();
    // Each round is cut off one report later than the last.
    for reports in 1..=9 {
        let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
        let mut peer = Peer::join(&world, us, seller.channel).await;
        let buy = async {
            for prompt in ["good", "fail"] {
                let escrow = peer.ask_in_escrow(us, prompt).await;
                let pay = peer.pay(&escrow.invoice).await;
                assert_eq!(pay, PayOutcome::InFlight);
                let job = escrow.job.clone();
                let release = escrow.release();
                orders.push((escrow, prompt, peer.keys.clone()));
                peer.paid(&job).await;
                if prompt == "good" {
                    peer.result(&job).await;
                    peer.say(release).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = seller.until_said(reports) => {}
            () = async { buy.await; std::future::pending().await } => {}
        }
        seller.stop_at_once().await;
    }
    let (seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut speaker = Peer::join(&world, us, seller.channel).await;
    let mut earned = 0;
    for (escrow, prompt, keys) in orders {
        let good = prompt == "good";
        if good {
            let delivered = [JobState::Delivered, JobState::Released, JobState::Settled];
            eventually("it is delivered", async || {
                let state = summary(&world.store(), &escrow.job).await.state;
                delivered.contains(&state)
            })
            .await;
            speaker.keys = keys;
            speaker.released(&escrow).await;
            earned += PRICE;
        }
        let end = if good {
            JobState::Settled
        } else {
            JobState::Returned
        };
        world.until_state(&escrow, end).await;
        let results = world.said(us, "JobResult").await;
        let about = |event: &&Event| event.content.contains(escrow.job.as_str());
        assert_eq!(results.iter().filter(about).count(), usize::from(good));
    }
    assert_eq!(world.earned(&keys).await, earned);
}

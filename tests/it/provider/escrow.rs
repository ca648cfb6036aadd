//! Jobs in escrow: held, done, released, settled; or given back, and nothing in between.

mod restart;

use agent_compute::protocol::message::{HtlcLocked, PreimageRelease};
use agent_compute::units::UnixSecs;

use super::*;

/// A job in escrow, as its customer knows it.
struct Escrow {
    job: JobId,
    preimage: Preimage,
    invoice: Invoice,
}

impl Escrow {
    fn hash(&self) -> PaymentHash {
        self.preimage.payment_hash()
    }

    fn release(&self) -> AgentMessage {
        AgentMessage::PreimageRelease(PreimageRelease {
            job_id: self.job.clone(),
            preimage: self.preimage.reveal(),
        })
    }

    fn locked(&self) -> HtlcLocked {
        HtlcLocked {
            job_id: self.job.clone(),
            payment_hash: self.hash().to_string(),
            amount_msats: self.invoice.amount_msats,
            expiry_secs: 3_600,
            token: None,
        }
    }
}

fn in_escrow(seller: PublicKey, prompt: &str, hash: PaymentHash) -> JobRequest {
    JobRequest {
        escrow: Some(Feature::HoldInvoice),
        payment_hash: Some(hash.to_string()),
        ..request(seller, prompt)
    }
}

impl Peer {
    /// Asks for a job in escrow; its invoice is a hold invoice on the very hash.
    async fn ask_in_escrow(&mut self, seller: PublicKey, prompt: &str) -> Escrow {
        let preimage = Preimage::from_bytes(rand::random());
        let hash = preimage.payment_hash();
        let job = self.ask(in_escrow(seller, prompt, hash)).await;
        let invoice = self.invoice(&job).await;
        let parsed = parse_unchecked(&invoice.bolt11).unwrap();
        assert_eq!(parsed.payment_hash, hash);
        assert_eq!(parsed.amount, Some(invoice.amount_msats));
        Escrow {
            job,
            preimage,
            invoice,
        }
    }

    /// Locks the money, and says so.
    async fn lock(&self, escrow: &Escrow) {
        assert_eq!(self.pay(&escrow.invoice).await, PayOutcome::InFlight);
        self.say(AgentMessage::HtlcLocked(escrow.locked())).await;
        self.paid(&escrow.job).await;
    }

    async fn order(&mut self, seller: PublicKey, prompt: &str) -> Escrow {
        let escrow = self.ask_in_escrow(seller, prompt).await;
        self.lock(&escrow).await;
        escrow
    }

    async fn released(&self, escrow: &Escrow) {
        self.say(escrow.release()).await;
    }

    async fn balance(&self) -> u64 {
        self.wallet.balance().await.unwrap().get()
    }

    async fn until_returned(&self, escrow: &Escrow) {
        eventually("the money is back", async || {
            let found = self.wallet.outgoing(escrow.hash()).await.unwrap();
            matches!(found, Outgoing::Failed(_))
        })
        .await;
    }
}

impl World {
    async fn earned(&self, keys: &Keys) -> u64 {
        let balance = self.wallet(keys.public_key()).balance().await;
        balance.unwrap().get() - OPENING
    }

    async fn until_state(&self, escrow: &Escrow, state: JobState) {
        eventually(state.as_str(), async || {
            summary(&self.store(), &escrow.job).await.state == state
        })
        .await;
    }
}

/// What an account opens with, and what a job costs, in msat.
const OPENING: u64 = 100_000_000;
const PRICE: u64 = 10_000;

#[tokio::test]
async fn a_job_in_escrow_is_done_when_held_and_settled_when_released() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;

    let escrow = peer.ask_in_escrow(us, "trust").await;
    // Words lock nothing.
    for _ in 0..3 {
        peer.say(AgentMessage::HtlcLocked(escrow.locked())).await;
        peer.paid(&escrow.job).await;
    }
    // Not the event that is to count later.
    let before = Timestamp::from(Timestamp::now().as_secs() - 60);
    peer.publish(&peer.sign_at(&escrow.release(), before)).await;
    let plain = peer.buy(request(us, "plain")).await;
    assert_eq!(peer.result(&plain).await, "PLAIN");
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);

    peer.lock(&escrow).await;
    assert_eq!(peer.result(&escrow.job).await, "TRUST");
    seller.until_delivered(&escrow.job).await;
    assert_eq!(world.earned(&keys).await, PRICE, "not ours yet");
    let waiting = summary(&world.store(), &escrow.job).await;
    assert_eq!(waiting.state, JobState::Delivered);
    assert!(waiting.escrow && waiting.held_at.is_some() && waiting.settled_at.is_none());

    for _ in 0..3 {
        peer.released(&escrow).await;
    }
    let settled = seller.until(|event| match event {
        ProviderEvent::Settled { job_id, price_msat } => Some((job_id.clone(), price_msat.get())),
        _ => None,
    });
    assert_eq!(settled.await, (escrow.job.clone(), PRICE));
    assert_eq!(world.earned(&keys).await, 2 * PRICE);
    let done = summary(&world.store(), &escrow.job).await;
    assert_eq!(done.state, JobState::Settled);
    assert!(done.settled_at.is_some());
    // Said again, it is no news.
    peer.released(&escrow).await;
    seller.stop().await.unwrap();
    assert_eq!(world.earned(&keys).await, 2 * PRICE);
}

#[tokio::test]
async fn what_is_offered_is_what_the_wallet_can_do_and_the_owner_wants() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let says = async |channel| {
        let request = DiscoveryRequest {
            listings: true,
            channel: Some(channel),
            provider: None,
            first: false,
            within: SOON,
        };
        let session = world.session();
        let clock = Clock::system();
        let found = discover(session.as_ref(), &clock, &request, |_| true, |_| ());
        let offers = found.await.unwrap().offers;
        assert!(!offers.is_empty());
        offers
            .iter()
            .all(|offer| offer.features.contains(&Feature::HoldInvoice))
    };
    let seller = world.sell(&keys).await;
    assert!(says(seller.channel).await);
    seller.stop().await.unwrap();

    let config = ProviderConfig {
        escrow: false,
        ..world.config()
    };
    let seller = Seller::start(config, world.parts(&keys)).await;
    assert!(!says(seller.channel).await);
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let hash = Preimage::from_bytes([7; 32]).payment_hash();
    let job = peer.ask(in_escrow(us, "trust me", hash)).await;
    assert_eq!(peer.refusal(&job).await, "escrow");
}

#[tokio::test]
async fn a_hash_that_is_malformed_or_used_is_refused() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let seller = world.sell(&keys).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;
    let first = peer.ask_in_escrow(us, "first").await;
    for whose in [&mut peer, &mut other] {
        let again = whose.ask(in_escrow(us, "again", first.hash())).await;
        assert_eq!(whose.refusal(&again).await, "escrow");
    }
    let plain = peer.buy(request(us, "plain")).await;
    let of_a_payment = summary(&world.store(), &plain).await;
    assert!(!of_a_payment.escrow);
    for bad in ["", "ab", &"zz".repeat(32)] {
        let request = JobRequest {
            payment_hash: Some(bad.into()),
            ..in_escrow(us, "bad", first.hash())
        };
        let job = peer.ask(request).await;
        assert_eq!(peer.refusal(&job).await, "escrow");
    }
    // A word that nobody has heard of, and the same in good order.
    let unknown = codec::encode(&AgentMessage::JobRequest(in_escrow(us, "x", first.hash())));
    let unknown = unknown.unwrap().replace("hold-invoice", "pinky-promise");
    let event = channel::message(seller.channel, &peer.url, unknown, None);
    let event = event.sign_with_keys(&peer.keys).unwrap();
    peer.publish(&event).await;
    let job = JobId::of_request(&event.id);
    assert_eq!(peer.refusal(&job).await, "escrow");
    peer.lock(&first).await;
    assert_eq!(peer.result(&first.job).await, "first");
}

#[tokio::test]
async fn of_two_that_ask_with_one_hash_the_first_that_came_is_quoted() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let seller = world.sell(&keys).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut copier = Peer::join(&world, us, seller.channel).await;
    // The copy is on its way while the first is being quoted.
    for round in 0..20 {
        let preimage = Preimage::from_bytes(rand::random());
        let wanted = in_escrow(us, &format!("round {round}"), preimage.payment_hash());
        let job = peer.ask(wanted.clone()).await;
        let copy = copier.ask(wanted).await;
        assert_eq!(copier.refusal(&copy).await, "escrow");
        let invoice = peer.invoice(&job).await;
        let parsed = parse_unchecked(&invoice.bolt11).unwrap();
        assert_eq!(parsed.payment_hash, preimage.payment_hash());
    }
}

#[tokio::test]
async fn without_a_result_the_money_goes_back_at_once() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, _) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    for prompt in ["fail", "panic", "nothing"] {
        let escrow = peer.order(us, prompt).await;
        assert_eq!(peer.refusal(&escrow.job).await, "failed");
        peer.until_returned(&escrow).await;
        // Released all the same: too late, and nothing to take.
        peer.released(&escrow).await;
        world.until_state(&escrow, JobState::Returned).await;
        let returned = seller.until(|event| match event {
            ProviderEvent::Returned { job_id, .. } => Some(job_id.clone()),
            _ => None,
        });
        assert_eq!(returned.await, escrow.job);
    }
    assert_eq!(peer.balance().await, OPENING);
    assert_eq!(world.earned(&keys).await, 0);
}

#[tokio::test]
async fn a_hold_that_is_too_short_for_the_work_is_given_back() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let options = SimOptions {
        hold_blocks: 1,
        ..SimOptions::default()
    };
    let wallet = SimWallet::open(&world.file("bank.sqlite"), us, options).unwrap();
    let backend = Arc::new(Led::default());
    let parts = Parts {
        wallet: Some(Arc::new(wallet)),
        backend: Arc::clone(&backend) as Arc<dyn Backend>,
        ..world.parts(&keys)
    };
    let seller = Seller::start(world.config(), parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let escrow = peer.order(us, "quick").await;
    assert_eq!(peer.refusal(&escrow.job).await, "escrow");
    peer.until_returned(&escrow).await;
    world.until_state(&escrow, JobState::Returned).await;
    assert_eq!(backend.began.load(Ordering::SeqCst), 0);
    assert_eq!(peer.balance().await, OPENING);
}

#[tokio::test]
async fn a_release_is_heard_from_its_customer_only_and_only_if_it_is_the_preimage() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (seller, backend) = world.sell_led(&keys, |_| ()).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;
    let escrow = peer.order(us, "wait").await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    other.say(escrow.release()).await;
    let with = |preimage: String| {
        AgentMessage::PreimageRelease(PreimageRelease {
            job_id: escrow.job.clone(),
            preimage,
        })
    };
    for preimage in ["00".repeat(32), escrow.hash().to_string(), "x".into()] {
        peer.say(with(preimage)).await;
    }
    backend.gate.notify_one();
    assert_eq!(peer.result(&escrow.job).await, "waited");
    world.until_state(&escrow, JobState::Delivered).await;
    other.say(escrow.release()).await;
    peer.say(with("11".repeat(32))).await;
    let after = other.buy(request(us, "after")).await;
    assert_eq!(other.result(&after).await, "AFTER");
    let state = summary(&world.store(), &escrow.job).await.state;
    assert_eq!(state, JobState::Delivered);
    peer.released(&escrow).await;
    world.until_state(&escrow, JobState::Settled).await;

    // Released before the result is here: taken only when it is.
    let early = peer.order(us, "wait").await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 3
    })
    .await;
    peer.released(&early).await;
    let after = other.buy(request(us, "after")).await;
    assert_eq!(other.result(&after).await, "AFTER");
    assert_eq!(world.earned(&keys).await, 3 * PRICE);
    backend.gate.notify_one();
    world.until_state(&early, JobState::Settled).await;
    assert_eq!(peer.result(&early.job).await, "waited");
}

#[tokio::test]
async fn whose_result_is_kept_has_to_pay_first_for_a_while() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let start = UnixSecs::new(Timestamp::now().as_secs());
    let clock = Clock::fixed(start);
    let options = SimOptions {
        clock: clock.clone(),
        ..SimOptions::default()
    };
    let open = |of| SimWallet::open(&world.file("bank.sqlite"), of, options.clone()).unwrap();
    let parts = Parts {
        wallet: Some(Arc::new(open(us))),
        clock: clock.clone(),
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(world.config(), parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut other = Peer::join(&world, us, seller.channel).await;
    (peer.wallet, other.wallet) = (open(peer.keys.public_key()), open(other.keys.public_key()));

    let kept = peer.order(us, "kept").await;
    assert_eq!(peer.result(&kept.job).await, "kept");
    seller.until_delivered(&kept.job).await;
    // The six hours of the hold pass.
    clock.set(start.plus(6 * 3_600 + 1));
    let unreleased = seller.until(|event| match event {
        ProviderEvent::Unreleased { job_id, .. } => Some(job_id.clone()),
        _ => None,
    });
    assert_eq!(unreleased.await, kept.job);
    world.until_state(&kept, JobState::Unreleased).await;
    assert_eq!(peer.balance().await, OPENING);

    clock.set(start);
    let hash = Preimage::from_bytes(rand::random()).payment_hash();
    let again = peer.ask(in_escrow(us, "again", hash)).await;
    let told = peer.hear(&again, |message| match message {
        AgentMessage::JobError(error) => Some(error),
        other => panic!("{other:?} instead of a refusal"),
    });
    let told = told.await;
    assert_eq!(told.code, "escrow");
    assert!(told.message.contains("pay first"), "{}", told.message);
    let paid = peer.buy(request(us, "paid")).await;
    assert_eq!(peer.result(&paid).await, "paid");
    let trusted = other.order(us, "another customer").await;
    assert_eq!(other.result(&trusted.job).await, "another customer");

    // And is forgiven after 30 days.
    seller.stop_at_once().await;
    let later = Timestamp::now().as_secs() + 31 * 86_400;
    let store = world.store();
    let standing = store.standing(
        us,
        peer.keys.public_key(),
        UnixSecs::new(later - 30 * 86_400),
        UnixSecs::new(later),
    );
    assert_eq!(standing.await.unwrap().check(), Ok(()));
}

#[tokio::test]
async fn a_hold_that_is_taken_back_ends_the_work() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 1).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let running = peer.order(us, "wait").await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    let waiting = peer.order(us, "never begun").await;
    let queued = seller.until(|event| match event {
        ProviderEvent::Queued { job_id, .. } => Some(job_id.clone()),
        _ => None,
    });
    assert_eq!(queued.await, waiting.job);
    // As the payer's side does when its time is over.
    for escrow in [&waiting, &running] {
        world.wallet(us).cancel(escrow.hash()).await.unwrap();
        assert_eq!(peer.refusal(&escrow.job).await, "escrow");
        world.until_state(escrow, JobState::Returned).await;
    }
    // The slot is free again.
    let next = peer.order(us, "next").await;
    assert_eq!(peer.result(&next.job).await, "NEXT");
    assert_eq!(backend.began.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn held_and_not_begun_it_can_be_cancelled() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let (mut seller, backend) = world.sell_led(&keys, |config| config.max_jobs = 1).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let running = peer.order(us, "wait").await;
    eventually("the backend is at work", async || {
        backend.began.load(Ordering::SeqCst) == 1
    })
    .await;
    let waiting = peer.order(us, "not wanted").await;
    let queued = seller.until(|event| match event {
        ProviderEvent::Queued { job_id, .. } => Some(job_id.clone()),
        _ => None,
    });
    assert_eq!(queued.await, waiting.job);
    for escrow in [&waiting, &running] {
        let job_id = escrow.job.clone();
        peer.say(AgentMessage::Cancel(Cancel { job_id })).await;
    }
    peer.until_returned(&waiting).await;
    world.until_state(&waiting, JobState::Returned).await;
    backend.gate.notify_one();
    assert_eq!(peer.result(&running.job).await, "waited");
}

#[tokio::test]
async fn lies_about_locked_money_cost_a_look_and_get_nothing() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let wallet = Arc::new(Moody::new(world.wallet(us)));
    let backend = Arc::new(Led::default());
    let parts = Parts {
        wallet: Some(Arc::clone(&wallet) as Arc<dyn Wallet>),
        backend: Arc::clone(&backend) as Arc<dyn Backend>,
        ..world.parts(&keys)
    };
    let seller = Seller::start(world.config(), parts).await;
    let mut liar = Peer::join(&world, us, seller.channel).await;
    let mut victim = Peer::join(&world, us, seller.channel).await;
    let theirs = victim.ask_in_escrow(us, "theirs").await;
    let own = liar.ask_in_escrow(us, "own").await;
    let plain = liar.ask(request(us, "pay first")).await;
    liar.invoice(&plain).await;

    let absurd = [(0, 0), (u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 0)];
    let mut lies = Vec::new();
    for (amount, expiry_secs) in absurd {
        for (job_id, payment_hash) in [
            (&own.job, own.hash().to_string()),
            (&own.job, theirs.hash().to_string()),
            (&own.job, "zz".repeat(32)),
            (&own.job, String::new()),
            (&theirs.job, theirs.hash().to_string()),
            (&plain, own.hash().to_string()),
        ] {
            lies.push(HtlcLocked {
                job_id: job_id.clone(),
                payment_hash,
                amount_msats: Msat::new(amount),
                expiry_secs,
                token: Some("cashuA".into()),
            });
        }
    }
    let stranger = HtlcLocked {
        job_id: JobId::from_wire("job_0000000000000000"),
        ..own.locked()
    };
    lies.push(stranger);
    for _ in 0..10 {
        for lie in &lies {
            liar.say(AgentMessage::HtlcLocked(lie.clone())).await;
        }
    }
    let honest = victim.buy(request(us, "honest")).await;
    assert_eq!(victim.result(&honest).await, "HONEST");
    assert_eq!(backend.began.load(Ordering::SeqCst), 1);
    let asked = wallet.asked.load(Ordering::SeqCst);
    assert!(asked < 150, "{asked} look-ups for 250 lies");
    for job in [&own.job, &theirs.job, &plain] {
        assert_eq!(summary(&world.store(), job).await.state, JobState::Quoted);
    }
    // Who locks is served.
    victim.lock(&theirs).await;
    assert_eq!(victim.result(&theirs.job).await, "THEIRS");
}

#[tokio::test]
async fn money_that_is_seen_to_be_held_after_the_quote_expired_is_worked_for() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let start = UnixSecs::new(Timestamp::now().as_secs());
    let clock = Clock::fixed(start);
    let options = SimOptions {
        clock: clock.clone(),
        ..SimOptions::default()
    };
    let open = |of| SimWallet::open(&world.file("bank.sqlite"), of, options.clone()).unwrap();
    let wallet = Arc::new(Moody::new(open(us)));
    wallet.say(Money::Open);
    let parts = Parts {
        wallet: Some(Arc::clone(&wallet) as Arc<dyn Wallet>),
        clock: clock.clone(),
        ..world.parts(&keys)
    };
    let mut seller = Seller::start(world.config(), parts).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    peer.wallet = open(peer.keys.public_key());
    let escrow = peer.order(us, "better late").await;
    clock.set(start.plus(301));
    let expired = |event: &ProviderEvent| match event {
        ProviderEvent::Expired { job_id } => Some(job_id.clone()),
        _ => None,
    };
    assert_eq!(seller.until(expired).await, escrow.job);
    wallet.say(None);
    // As the last time, and yet another event.
    let again = PaymentSent {
        job_id: escrow.job.clone(),
        payment_id: "again".into(),
    };
    peer.say(AgentMessage::PaymentSent(again)).await;
    assert_eq!(peer.result(&escrow.job).await, "better late");
    peer.released(&escrow).await;
    world.until_state(&escrow, JobState::Settled).await;
}

#[tokio::test]
async fn what_one_customer_may_leave_unreleased_is_bounded() {
    let (world, keys) = (World::new().await, Keys::generate());
    let us = keys.public_key();
    let mut seller = world.sell(&keys).await;
    let mut peer = Peer::join(&world, us, seller.channel).await;
    let mut last = None;
    for n in 0..64 {
        let escrow = peer.ask_in_escrow(us, &format!("job {n}")).await;
        if n % 16 == 0 {
            peer.lock(&escrow).await;
            peer.result(&escrow.job).await;
            last = Some(escrow);
        }
    }
    let hash = Preimage::from_bytes(rand::random()).payment_hash();
    let more = peer.ask(in_escrow(us, "one more", hash)).await;
    assert_eq!(peer.refusal(&more).await, "busy");
    let paid = peer.buy(request(us, "paid")).await;
    assert_eq!(peer.result(&paid).await, "paid");
    let last = last.unwrap();
    peer.released(&last).await;
    let settled = seller.until(|event| match event {
        ProviderEvent::Settled { job_id, .. } => Some(job_id.clone()),
        _ => None,
    });
    assert_eq!(settled.await, last.job);
    peer.ask_in_escrow(us, "one more").await;
}

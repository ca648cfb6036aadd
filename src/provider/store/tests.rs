use std::path::{Path, PathBuf};

use nostr::{EventBuilder, Keys, Kind};

use super::*;
use crate::ids::Preimage;

const NOW: UnixSecs = UnixSecs::new(1_800_000_000);

fn keys(n: u8) -> PublicKey {
    PublicKey::from_byte_array([n; 32])
}

fn seller(wallet: Option<&str>) -> Seller {
    Seller {
        key: keys(1),
        wallet: wallet.map(str::to_owned),
        network: Network::Regtest,
    }
}

/// The job number `n`, under an id and hash of its own.
fn job(n: u8) -> Job {
    Job {
        address: Address {
            channel: EventId::from_byte_array([0xcc; 32]),
            request: EventId::from_byte_array([n; 32]),
            customer: keys(2),
            sealed: n % 2 == 1,
        },
        prompt: format!("prompt {n}"),
        model: "echo".into(),
        max_tokens: 10,
        stream: false,
        deployed: false,
        price: Msat::new(10_000),
        bolt11: "lnbcrt…".into(),
        payment_hash: Some(PaymentHash::from_bytes([n; 32])),
        requested_at: NOW.minus(1),
        expires_at: NOW.plus(300),
        attempts: 0,
        escrow: false,
        held_until: None,
        waited: false,
        resumed: false,
    }
}

fn result() -> Finish {
    let message =
        EventBuilder::new(Kind::ChannelMessage, "line\nbreak\n").sign_with_keys(&Keys::generate());
    Finish {
        error: None,
        messages: message.into_iter().collect(),
        tokens: Some(7),
    }
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("deeper").join("jobs.sqlite")
}

fn store() -> (tempfile::TempDir, JobStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = JobStore::open(&file(&folder)).expect("a store");
    (folder, store)
}

async fn quote(store: &JobStore, n: u8) -> EventId {
    let quoted = store.insert(&job(n), &seller(Some("sim:a")), NOW).await;
    assert_eq!(quoted, Ok(()));
    job(n).address.request
}

fn refused(path: &Path) -> String {
    match JobStore::open(path) {
        Ok(_) => panic!("it opens"),
        Err(error) => {
            assert_eq!(error.code(), Code::Ledger);
            error.to_string()
        }
    }
}

#[tokio::test]
async fn a_job_is_read_back_as_it_was_written() {
    let (_folder, store) = store();
    let request = quote(&store, 3).await;
    let read = store.job(request).await;
    let resumed = true;
    assert_eq!(read, Ok(Job { resumed, ..job(3) }));
}

#[tokio::test]
async fn a_request_a_job_id_and_a_payment_hash_are_on_record_once() {
    let (_folder, store) = store();
    quote(&store, 3).await;
    let us = seller(Some("sim:a"));
    assert_eq!(
        store.insert(&job(3), &us, NOW).await,
        Err(StoreError::Known)
    );
    let mut same_hash = job(4);
    same_hash.payment_hash = job(3).payment_hash;
    assert_eq!(
        store.insert(&same_hash, &us, NOW).await,
        Err(StoreError::Known)
    );
    let mut same_job_id = job(4);
    let mut id = [3; 32];
    id[31] = 9;
    same_job_id.address.request = EventId::from_byte_array(id);
    assert_eq!(
        store.insert(&same_job_id, &us, NOW).await,
        Err(StoreError::Known)
    );
    // Without a wallet there is no hash to be unique.
    for n in [5, 6] {
        let mut unpaid = job(n);
        unpaid.payment_hash = None;
        assert_eq!(store.insert(&unpaid, &seller(None), NOW).await, Ok(()));
    }
}

#[tokio::test]
async fn a_start_finds_what_is_to_be_done_and_whose_it_is() {
    let (_folder, store) = store();
    for n in 3..=9 {
        quote(&store, n).await;
    }
    let id = |n: u8| job(n).address.request;
    let settled = &[JobStep::Settled];
    store.step(id(4), settled, NOW.plus(2)).await.expect("paid");
    store.step(id(5), settled, NOW.plus(1)).await.expect("paid");
    store
        .start(id(5), None, NOW.plus(1))
        .await
        .expect("started");
    store
        .finish(id(6), None, result(), NOW)
        .await
        .expect("done at once");
    store
        .finish(id(7), None, result(), NOW)
        .await
        .expect("done");
    store
        .step(id(7), &[JobStep::Published], NOW)
        .await
        .expect("delivered");
    store
        .step(id(8), &[JobStep::Withdrawn], NOW)
        .await
        .expect("cancelled");

    let ids = |jobs: &[Job]| {
        jobs.iter()
            .map(|job| job.address.request)
            .collect::<Vec<_>>()
    };
    let us = seller(Some("sim:a"));
    let left = store
        .unfinished(&us, NOW, NOW.minus(60))
        .await
        .expect("read");
    assert_eq!(ids(&left.quoted), [id(3), id(9)]);
    assert_eq!(ids(&left.paid), [id(5), id(4)], "the oldest payment first");
    assert_eq!(left.paid[0].attempts, 1);
    assert_eq!(left.unsent.len(), 1);
    assert_eq!(left.unsent[0].address, job(6).address);
    assert_eq!(left.unsent[0].messages[0].content, "line\nbreak\n");
    assert_eq!(left.recent.len(), 7);
    assert_eq!(left.last_request, Some(NOW.minus(1)));

    let later = store
        .unfinished(&us, NOW.plus(300), NOW.plus(60))
        .await
        .expect("read");
    assert_eq!((later.quoted.len(), later.late.len()), (0, 2));
    assert!(later.recent.is_empty());

    // Another wallet can't tell what became of these quotes; what is paid is owed all the same.
    let other = seller(Some("nwc:b"));
    let left = store.unfinished(&other, NOW, NOW).await.expect("read");
    assert_eq!((left.quoted.len(), left.late.len()), (0, 0));
    assert_eq!((left.paid.len(), left.unsent.len()), (2, 1));
    // Another key can't speak for them at all.
    let other = Seller { key: keys(9), ..us };
    let left = store.unfinished(&other, NOW, NOW).await.expect("read");
    assert!(left.quoted.is_empty() && left.paid.is_empty() && left.unsent.is_empty());
}

#[tokio::test]
async fn steps_that_the_diagram_lacks_change_nothing() {
    let (_folder, store) = store();
    let request = quote(&store, 3).await;
    let illegal = store
        .step(request, &[JobStep::Settled, JobStep::Published], NOW)
        .await;
    assert_eq!(illegal, Err(StoreError::Illegal(JobState::Paid)));
    let state = store.latest(1).await.map(|jobs| jobs[0].state);
    assert_eq!(state, Ok(JobState::Quoted), "not even the first of the two");
    let unknown = EventId::from_byte_array([0xee; 32]);
    let missing = store.step(unknown, &[JobStep::Settled], NOW).await;
    assert_eq!(missing, Err(StoreError::NotFound));
}

#[tokio::test]
async fn texts_are_dropped_and_figures_stay() {
    let (_folder, store) = store();
    let (done, owed) = (quote(&store, 3).await, quote(&store, 4).await);
    store.finish(done, None, result(), NOW).await.expect("done");
    store
        .step(done, &[JobStep::Published], NOW)
        .await
        .expect("delivered");
    assert_eq!(
        store.job(done).await,
        Err(StoreError::NotFound),
        "no prompt any more"
    );
    store
        .step(owed, &[JobStep::Settled], NOW)
        .await
        .expect("paid");
    assert_eq!(store.drop_texts(NOW).await, Ok(0), "not old enough");
    assert_eq!(store.drop_texts(NOW.plus(1)).await, Ok(1));
    assert!(
        store.job(owed).await.is_ok(),
        "what is to be done keeps its prompt"
    );
    let listed = store.latest(10).await.expect("listed");
    assert_eq!(listed.len(), 2);
    let done = listed
        .iter()
        .find(|job| job.request_id == done)
        .expect("there");
    assert_eq!((done.tokens, done.settled_at), (Some(7), Some(NOW)));
}

#[test]
fn a_file_that_is_not_ours_is_left_alone_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jobs.sqlite");
    std::fs::write(&path, b"certainly not a database, however long one reads").expect("written");
    assert!(refused(&path).contains("jobs.sqlite"));

    let path = folder.path().join("other.sqlite");
    let other = rusqlite::Connection::open(&path).expect("opens");
    other
        .execute_batch("CREATE TABLE theirs (n)")
        .expect("made");
    assert!(refused(&path).contains("another program"));

    let path = folder.path().join("newer.sqlite");
    drop(JobStore::open(&path).expect("made"));
    let newer = rusqlite::Connection::open(&path).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("set");
    assert!(refused(&path).contains("update"));
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, store) = store();
    quote(&store, 3).await;
    let _lock = store.lock().expect("the lock");
    let inside = std::fs::read_dir(folder.path().join("deeper")).expect("read");
    let mut files = 0;
    for entry in inside {
        let mode = entry
            .and_then(|entry| entry.metadata())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0);
        files += 1;
    }
    assert!(files >= 3, "the store, its journal, its lock");
}

#[test]
fn one_sells_from_a_store_at_a_time() {
    let (folder, store) = store();
    let lock = store.lock().expect("free");
    let again = JobStore::open(&file(&folder)).expect("opens");
    assert_eq!(
        again.lock().err().map(|error| error.code()),
        Some(Code::Ledger)
    );
    drop(lock);
    assert!(again.lock().is_ok());
}

#[tokio::test]
async fn recent_announcements_are_known_until_they_are_taken_back() {
    let (folder, store) = store();
    let id = |n: u8| EventId::from_byte_array([n; 32]);
    let (us, others) = (keys(1), keys(2));
    for (n, whose, at) in [(1, us, 0), (2, us, 50), (3, others, 50), (4, us, 100)] {
        let (at, recent) = (NOW.plus(at), NOW.plus(at).minus(60));
        let said = store.remember_announcement(whose, id(n), at, recent);
        said.await.expect("written");
    }
    drop(store);
    let store = JobStore::open(&file(&folder)).expect("opens");
    let known = async |whose| {
        store
            .announcements(whose, NOW.minus(9))
            .await
            .expect("read")
    };
    assert_eq!(known(us).await, [id(4), id(2)]);
    store.forget_announcements(us).await.expect("written");
    assert_eq!(known(us).await, []);
    assert_eq!(known(others).await, [id(3)]);
}

/// The job number `n`, in escrow and held.
async fn held(store: &JobStore, n: u8) -> EventId {
    let escrow = true;
    let quoted = Job { escrow, ..job(n) };
    let insert = store.insert(&quoted, &seller(Some("sim:a")), NOW).await;
    assert_eq!(insert, Ok(()));
    let request = quoted.address.request;
    let funded = store.fund(request, Some(NOW.plus(3_600)), NOW).await;
    assert_eq!(funded, Ok(JobState::Held));
    request
}

fn preimage(n: u8) -> Preimage {
    Preimage::from_bytes([n + 0x50; 32])
}

#[tokio::test]
async fn a_start_finds_held_money_whatever_was_to_be_done_with_it() {
    let (_folder, store) = store();
    let until = Some(NOW.plus(3_600));
    let mut at = NOW;
    let mut next = || {
        at = at.plus(1);
        at
    };
    let waiting = held(&store, 3).await;
    let running = held(&store, 4).await;
    store.start(running, until, next()).await.expect("begun");
    let (done, early) = (held(&store, 5).await, held(&store, 6).await);
    store
        .finish(done, until, result(), NOW)
        .await
        .expect("done");
    let kept = store.release(early, preimage(6), NOW).await;
    assert_eq!(
        kept,
        Ok(JobState::Held),
        "before the result it changes nothing"
    );
    store
        .finish(early, until, result(), NOW)
        .await
        .expect("done");
    let released = held(&store, 7).await;
    store
        .finish(released, until, result(), NOW)
        .await
        .expect("done");
    let published = store.step(released, &[JobStep::Published], NOW).await;
    assert_eq!(published, Ok(JobState::Delivered));
    for _ in 0..2 {
        let said = store.release(released, preimage(7), NOW).await;
        assert_eq!(said, Ok(JobState::Released));
    }
    let failed = held(&store, 8).await;
    let error = Some("no".to_owned());
    let no_result = Finish { error, ..result() };
    let undone = store.finish(failed, until, no_result.clone(), NOW).await;
    assert_eq!(undone, Ok(JobState::Returning));
    let at_work = store.release(running, preimage(4), NOW).await;
    assert_eq!(at_work, Ok(JobState::Running));
    let refused = store.release(failed, preimage(8), NOW).await;
    assert_eq!(refused, Err(StoreError::Illegal(JobState::Returning)));
    let settled = held(&store, 9).await;
    store
        .finish(settled, until, result(), NOW)
        .await
        .expect("done");
    store
        .release(settled, preimage(9), NOW)
        .await
        .expect("released");
    let ours = store.step_by(settled, JobStep::Claimed, next()).await;
    assert_eq!(ours, Ok(JobState::Settled));
    let told = held(&store, 10).await;
    store
        .finish(told, until, result(), NOW)
        .await
        .expect("done");
    store.release(told, preimage(10), NOW).await.expect("ours");
    let steps = &[JobStep::Claimed, JobStep::Published];
    let published = store.step(told, steps, next()).await;
    assert_eq!(published, Ok(JobState::Settled));

    let us = seller(Some("sim:a"));
    let left = store.unfinished(&us, NOW, NOW).await.expect("read");
    let paid: Vec<_> = left.paid.iter().map(|job| job.address.request).collect();
    assert_eq!(paid, [waiting, running]);
    assert!(left.paid.iter().all(|job| job.held_until == until));
    let holds: Vec<_> = left
        .holds
        .iter()
        .map(|hold| (hold.address.request, hold.state, hold.preimage))
        .collect();
    let expected = [
        (running, JobState::Running, Some(preimage(4))),
        (done, JobState::Done, None),
        (early, JobState::Done, Some(preimage(6))),
        (released, JobState::Released, Some(preimage(7))),
        (failed, JobState::Returning, None),
    ];
    assert_eq!(holds, expected);
    let unsent: Vec<_> = left
        .unsent
        .iter()
        .map(|unsent| (unsent.address.request, unsent.is_result))
        .collect();
    assert_eq!(
        unsent,
        [
            (done, true),
            (early, true),
            (failed, false),
            (settled, true)
        ],
        "a result is owed until a relay has it, also where its money is ours already"
    );
    assert!(!format!("{left:?}").contains(&preimage(7).reveal()));

    // What another wallet holds only that wallet can tell; what is signed can be said.
    let other = seller(Some("nwc:b"));
    let left = store.unfinished(&other, NOW, NOW).await.expect("read");
    assert_eq!(
        (left.paid.len(), left.holds.len(), left.unsent.len()),
        (0, 0, 4)
    );
    let listed = store.latest(10).await.expect("listed");
    let earned: Vec<_> = listed.iter().filter_map(|job| job.settled_at).collect();
    assert_eq!(earned.len(), 2, "what is held is not earned");
}

#[tokio::test]
async fn a_customers_standing_is_what_it_released_and_what_it_kept() {
    let (_folder, store) = store();
    let until = Some(NOW.plus(3_600));
    let known = |hash| store.knows_hash(hash);
    let hash = job(3).payment_hash.expect("a hash");
    assert_eq!(known(hash).await, Ok(false));
    for n in 3..=8 {
        let request = held(&store, n).await;
        store
            .finish(request, until, result(), NOW)
            .await
            .expect("done");
        store
            .step(request, &[JobStep::Published], NOW)
            .await
            .expect("delivered");
    }
    assert_eq!(known(hash).await, Ok(true));
    let id = |n: u8| job(n).address.request;
    store
        .release(id(3), preimage(3), NOW)
        .await
        .expect("released");
    store
        .step_by(id(3), JobStep::Claimed, NOW)
        .await
        .expect("settled");
    store
        .step_by(id(4), JobStep::Vanished, NOW)
        .await
        .expect("kept");
    // Released, and we were too late.
    store
        .release(id(5), preimage(5), NOW)
        .await
        .expect("released");
    store
        .step_by(id(5), JobStep::Vanished, NOW)
        .await
        .expect("lost");
    let standing = async |who, since, overdue| {
        let standing = store.standing(keys(1), who, since, overdue).await;
        standing.map(|all| (all.released, all.kept))
    };
    let customer = keys(2);
    assert_eq!(standing(customer, NOW, NOW).await, Ok((1, 1)));
    assert_eq!(standing(customer, NOW, NOW.plus(1)).await, Ok((1, 4)));
    assert_eq!(standing(customer, NOW.plus(1), NOW).await, Ok((0, 0)));
    assert_eq!(standing(keys(3), NOW, NOW).await, Ok((0, 0)));
}

#[tokio::test]
async fn chunks_are_known_in_order_until_the_result_is() {
    let (_folder, store) = store();
    let request = quote(&store, 3).await;
    assert_eq!(store.streamed(request).await, Ok(Streamed::default()));
    for (seq, text) in [(0, "one "), (1, "two "), (2, "three")] {
        let kept = store.remember_chunk(request, seq, text.into()).await;
        assert_eq!(kept, Ok(()));
    }
    let twice = store.remember_chunk(request, 2, "other".into()).await;
    assert_eq!(twice, Err(StoreError::Known));
    let streamed = store.streamed(request).await.expect("read");
    assert_eq!(
        (streamed.text.as_str(), streamed.chunks),
        ("one two three", 3)
    );
    assert_eq!(streamed.last, "three");
    store
        .finish(request, None, result(), NOW)
        .await
        .expect("done");
    assert_eq!(store.streamed(request).await, Ok(Streamed::default()));
}

//! The place of receipts: a number each, one after the other, written with the end of the purchase or not at all.

use std::sync::Arc;
use std::sync::Mutex;

use agent_compute::ledger::{ReceiptDraft, ReceiptPlace, WrittenReceipt};
use nostr::{EventId, Keys, PublicKey};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::*;

type Places = Arc<Mutex<Vec<ReceiptPlace>>>;

/// A receipt that keeps its place, and has a random id.
fn draft(customer: PublicKey, places: &Places) -> Entry {
    let places = Arc::clone(places);
    Entry::Receipt(ReceiptDraft::new(customer, move |place| {
        places.lock().unwrap().push(*place);
        Ok(WrittenReceipt {
            id: EventId::from_byte_array(rand::random()),
            json: format!("{{\"number\":{}}}", place.number),
        })
    }))
}

async fn end(
    ledger: &Ledger,
    id: PurchaseId,
    status: Status,
    entries: Vec<Entry>,
) -> Result<u64, LedgerError> {
    let version = ledger.purchase(id).await?.version;
    ledger.commit(id, version, state(status), entries).await
}

#[tokio::test]
async fn receipts_are_numbered_for_each_customer_and_name_the_one_before() {
    let dir = TempDir::new().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let places = Places::default();
    let (one, other) = (Keys::generate().public_key(), Keys::generate().public_key());
    let (mut ids, mut now) = (Vec::new(), NOON);
    for customer in [one, other, one] {
        let id = paying(&ledger, 1_000).await;
        now = now.plus(10);
        clock.set(now);
        // The order of entries does not matter: the money is booked first.
        let entries = vec![draft(customer, &places), settle(1_000)];
        end(&ledger, id, Status::Delivered, entries).await.unwrap();
        ids.push(id);
    }
    let written: Vec<_> = ledger.receipts_after(0, 100).await.unwrap();
    let purchases: Vec<_> = written.iter().map(|it| it.purchase).collect();
    assert_eq!(purchases, ids);
    let places = places.lock().unwrap().clone();
    assert_eq!(
        places.iter().map(|it| it.number).collect::<Vec<_>>(),
        [1, 1, 2]
    );
    assert_eq!((places[0].previous, places[1].previous), (None, None));
    let books = ledger.books(None, 0, 100).await.unwrap();
    assert_eq!(places[2].previous, books[0].receipt);
    for (nth, place) in places.iter().enumerate() {
        let now = NOON.plus(10 * (nth as u64 + 1));
        assert_eq!((place.paid_at, place.finished_at), (Some(now), now));
        assert_eq!(place.requested_at, NOON.plus(10 * nth as u64));
        assert_eq!((place.scope, place.replaces), (PLAY, None));
    }
    // Page by page it is the same.
    let mut paged = Vec::new();
    while let [next] = &ledger.receipts_after(paged.len() as u64, 1).await.unwrap()[..] {
        paged.push(next.clone());
    }
    assert_eq!(paged, written);
    assert_eq!(
        ledger.books(None, books[1].seq, 1).await.unwrap()[0]
            .record
            .id,
        ids[2]
    );
    let elsewhere = Scope {
        network: Network::Mainnet,
        play_money: false,
    };
    assert_eq!(
        ledger.books(Some(elsewhere), 0, 100).await.unwrap().len(),
        0
    );
    assert_eq!(ledger.books(Some(PLAY), 0, 100).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_later_receipt_of_the_same_purchase_replaces_the_earlier_one() {
    let dir = TempDir::new().unwrap();
    let clock = Clock::fixed(NOON);
    let ledger = open(&dir, &clock).await;
    let (places, customer) = (Places::default(), Keys::generate().public_key());
    let id = paying(&ledger, 1_000).await;
    let entries = vec![settle(1_000), draft(customer, &places)];
    end(&ledger, id, Status::Undelivered, entries)
        .await
        .unwrap();
    let first = ledger.books(None, 0, 1).await.unwrap()[0].receipt;
    assert!(first.is_some());
    clock.set(NOON.plus(100));
    end(
        &ledger,
        id,
        Status::Delivered,
        vec![draft(customer, &places)],
    )
    .await
    .unwrap();
    let places = places.lock().unwrap().clone();
    assert_eq!((places[1].number, places[1].replaces), (2, first));
    assert_eq!(
        (places[1].paid_at, places[1].finished_at),
        (Some(NOON), NOON.plus(100))
    );
    assert_eq!(ledger.receipts_of(id).await.unwrap().len(), 2);
    let latest = ledger.books(None, 0, 1).await.unwrap()[0].receipt;
    assert!(latest.is_some() && latest != first);
    // Money that came back was not paid.
    let id = paying(&ledger, 1_000).await;
    let some = Places::default();
    let entries = vec![release(), draft(customer, &some)];
    end(&ledger, id, Status::Delivered, entries).await.unwrap();
    assert_eq!(some.lock().unwrap()[0].paid_at, None);
}

#[tokio::test]
async fn an_end_whose_receipt_can_not_be_signed_is_not_on_record_either() {
    let dir = TempDir::new().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let id = paying(&ledger, 1_000).await;
    let customer = Keys::generate().public_key();
    let draft = ReceiptDraft::new(customer, |_| Err("no pen".to_owned()));
    let entries = vec![settle(1_000), Entry::Receipt(draft)];
    let refused = end(&ledger, id, Status::Delivered, entries).await;
    assert!(
        matches!(&refused, Err(LedgerError::Illegal(why)) if why.contains("no pen")),
        "{refused:?}"
    );
    let record = ledger.purchase(id).await.unwrap();
    assert_eq!(record.state.status, Status::Open);
    assert_eq!(
        record.reservation.unwrap().status,
        ReservationStatus::InFlight
    );
    assert_eq!(usage(&ledger, None).await.spent_today, Msat::ZERO);
    assert_eq!(ledger.receipts_after(0, 10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_handles_at_once_write_one_row() {
    const EACH: usize = 8;
    let dir = TempDir::new().unwrap();
    let clock = Clock::fixed(NOON);
    let (places, customer) = (Places::default(), Keys::generate().public_key());
    let mut tasks = JoinSet::new();
    for _ in 0..EACH {
        let (ledger, places) = (open(&dir, &clock).await, Arc::clone(&places));
        tasks.spawn(async move {
            for _ in 0..EACH {
                let id = paying(&ledger, 100).await;
                let entries = vec![settle(100), draft(customer, &places)];
                end(&ledger, id, Status::Delivered, entries).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let ledger = open(&dir, &clock).await;
    let written = ledger.receipts_after(0, 100).await.unwrap();
    let numbers: Vec<String> = written.into_iter().map(|it| it.json).collect();
    let expected: Vec<String> = (1..=EACH * EACH)
        .map(|n| format!("{{\"number\":{n}}}"))
        .collect();
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn the_file_itself_keeps_receipts_as_they_are() {
    let dir = TempDir::new().unwrap();
    let ledger = open(&dir, &Clock::fixed(NOON)).await;
    let (places, customer) = (Places::default(), Keys::generate().public_key());
    let id = paying(&ledger, 1_000).await;
    let entries = vec![settle(1_000), draft(customer, &places)];
    end(&ledger, id, Status::Delivered, entries).await.unwrap();
    let db = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    for sql in [
        "UPDATE receipts SET json = '{}'",
        "UPDATE receipts SET number = 2",
        "DELETE FROM receipts",
        "INSERT INTO receipts (purchase, customer, number, id, json)
            SELECT purchase, customer, number + 2, printf('%064d', 1), json FROM receipts",
        "INSERT INTO receipts (purchase, customer, number, id, json)
            SELECT purchase, customer, number, printf('%064d', 1), json FROM receipts",
        "INSERT INTO receipts (purchase, customer, number, id, json)
            SELECT purchase, customer, number + 1, id, json FROM receipts",
    ] {
        assert!(db.execute(sql, []).is_err(), "{sql}");
    }
    assert_eq!(ledger.receipts_of(id).await.unwrap().len(), 1);
}

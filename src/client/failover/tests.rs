#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::ledger::{Reservation, Scope, StateRow};
use crate::protocol::{Offer, OfferSource};
use crate::units::{Msat, Network, UnixSecs};

/// An attempt on record.
fn record(status: Status, money: Option<ReservationStatus>) -> PurchaseRecord {
    PurchaseRecord {
        id: PurchaseId::from_bytes([1; 16]),
        scope: Scope {
            network: Network::Regtest,
            play_money: true,
        },
        tick: None,
        idempotency_key: None,
        state: StateRow {
            json: "{}".to_owned(),
            label: status.as_str().to_owned(),
            status,
        },
        version: 2,
        owner: "o".to_owned(),
        created_at: UnixSecs::new(1),
        updated_at: UnixSecs::new(2),
        reservation: money.map(|status| Reservation {
            status,
            price: Msat::new(1),
            fee_cap: Msat::ZERO,
            payment_hash: PaymentHash::from_bytes([2; 32]),
            wallet: WalletId {
                kind: "sim".to_owned(),
                account: "a".to_owned(),
            },
            spent: None,
            fee: None,
        }),
    }
}

#[test]
fn an_attempt_is_dead_only_when_it_failed_and_its_money_was_never_set_aside_or_is_released() {
    let all = [
        None,
        Some(ReservationStatus::Reserved),
        Some(ReservationStatus::InFlight),
        Some(ReservationStatus::Unknown),
        Some(ReservationStatus::Settled),
        Some(ReservationStatus::Released),
    ];
    for status in [
        Status::Open,
        Status::Delivered,
        Status::Undelivered,
        Status::Failed,
    ] {
        for money in all {
            let here = matches!(money, None | Some(ReservationStatus::Released));
            let expected = status == Status::Failed && here;
            assert_eq!(
                is_dead(&record(status, money)),
                expected,
                "{status:?} {money:?}"
            );
        }
    }
}

/// The rows of the table of codes in the docs: the code, and what its second and third columns say.
fn table() -> Vec<(&'static str, &'static str, &'static str)> {
    let docs = include_str!("../failover.rs").lines();
    let rows = docs.filter_map(|line| line.strip_prefix("//! | `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[0].trim_end_matches('`'), cells[1], cells[2])
    })
    .collect()
}

#[test]
fn every_code_does_what_the_table_says() {
    let table = table();
    let words: Vec<&str> = table.iter().map(|(word, ..)| *word).collect();
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words, all, "one row for each code, in their order");
    for (word, on, why) in table {
        let code = Code::from_word(word).unwrap();
        assert!(matches!(on, "yes" | "no"), "{word}: {on}");
        assert_eq!(leads_on(code, true), on == "yes", "{word}");
        let without_wallet = on == "yes" || why.contains("(`--no-wallet`)");
        assert_eq!(leads_on(code, false), without_wallet, "{word}");
    }
}

#[test]
fn nothing_that_may_have_cost_money_or_is_our_own_leads_on() {
    for code in [
        Code::PaymentUnknown,
        Code::Interrupted,
        Code::Ledger,
        Code::Internal,
    ] {
        assert!(!leads_on(code, true) && !leads_on(code, false), "{code}");
    }
}

#[test]
fn a_provider_has_a_fair_share_of_the_time_and_the_last_one_all_of_it() {
    let now = Instant::now();
    let secs = Duration::from_secs;
    let most = |known, at_most, left| {
        let patience = quote_patience(Behind { known, at_most }, now, left)?;
        Some((patience.once_sent, patience.until - now))
    };
    assert_eq!(most(0, 0, secs(120)), None);
    assert_eq!(most(1, 1, secs(120)), Some((QUOTE_PATIENCE, secs(60))));
    assert_eq!(most(3, 3, secs(8)), Some((secs(2), secs(2))));
    assert_eq!(most(1, 1, Duration::ZERO), None, "no time for another");
    assert_eq!(most(1, 1, secs(1)), None, "no time for another");
    assert_eq!(most(1, 1, secs(2)), Some((secs(1), secs(1))));
    let crowd = most(usize::MAX, usize::MAX, secs(9)).unwrap();
    assert_eq!(crowd.0, secs(9) / u32::MAX);
    // Whether there is anybody else is yet to be found out.
    assert_eq!(most(0, 9, secs(120)), Some((secs(60), secs(60))));
}

fn candidates(many: usize) -> Vec<Candidate> {
    let one = |_| {
        let provider = nostr::Keys::generate().public_key();
        Candidate {
            offer: Offer {
                provider,
                name: String::new(),
                price: None,
                models: Vec::new(),
                network: None,
                channel: None,
                features: [].into(),
                relays: Vec::new(),
                at: UnixSecs::new(1),
                expires_at: None,
                source: OfferSource::Listing,
                event: None,
            },
            max_price: None,
        }
    };
    (0..many).map(one).collect()
}

#[test]
fn a_queue_gives_each_once_and_no_more_than_the_retries_allow() {
    for (found, retries, given) in [(3, 0, 1), (3, 1, 2), (3, 2, 3), (3, u32::MAX, 3), (1, 9, 1)] {
        let found = candidates(found);
        let keys: Vec<PublicKey> = found.iter().map(|one| one.offer.provider).collect();
        let mut queue = Queue::new(found, retries, false);
        let mut got = Vec::new();
        while let Some(next) = queue.next() {
            got.push(next.offer.provider);
            assert_eq!(queue.behind().known, given - got.len());
            assert_eq!(queue.behind().at_most, queue.behind().known);
        }
        assert_eq!(got, keys[..given]);
        assert_eq!(queue.asked(), got);
    }
}

#[test]
fn what_is_found_later_counts_against_the_same_retries() {
    let mut queue = Queue::new(candidates(1), 1, true);
    assert!(queue.next().is_some());
    let nobody_known = Behind {
        known: 0,
        at_most: 1,
    };
    assert_eq!(queue.behind(), nobody_known);
    queue.add(candidates(2));
    assert_eq!((queue.behind().known, queue.suitable()), (1, 3));
    assert!(queue.next().is_some());
    assert_eq!(queue.behind().at_most, 0);
    assert!(queue.next().is_none());
}

fn failed(message: &str) -> Error {
    Error::new(Code::BadInvoice, message)
        .of(PurchaseId::from_bytes([3; 16]))
        .with_money(Msat::ZERO, Msat::new(7))
}

fn tried(message: &str) -> Tried {
    Tried {
        provider: "ab".repeat(32),
        message: message.to_owned(),
    }
}

#[test]
fn the_last_error_stays_what_it_is_and_retells_the_others() {
    let alone = sum_up(failed("no"), &[], 5);
    assert_eq!(alone.message(), "no");
    let last = sum_up(failed("no"), &[tried("too\nbusy  now")], 5);
    assert_eq!(
        last.message(),
        "no. 2 of 5 providers that suit were tried; before this one: (1) abababababababab: too busy now"
    );
    assert_eq!(last.code(), Code::BadInvoice);
    assert_eq!(last.purchase(), Some(PurchaseId::from_bytes([3; 16])));
    assert_eq!(last.reserved_msat(), Msat::new(7));
}

#[test]
fn what_is_retold_is_bounded_however_many_said_however_much() {
    let many: Vec<Tried> = (0..1000).map(|_| tried(&"é ".repeat(20_000))).collect();
    let message = sum_up(failed("no"), &many, 1001).message().to_owned();
    assert!(message.chars().count() < 1200, "{message}");
    assert!(message.contains("1001 of 1001"), "{message}");
    assert!(message.ends_with("… and 996 more"), "{message}");
}

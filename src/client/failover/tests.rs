#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::{PaymentHash, PurchaseId, WalletId};
use crate::ledger::{Reservation, Scope, StateRow};
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
    assert_eq!(quote_patience(0, now, secs(120)), None);
    let most = |others, left| {
        let patience = quote_patience(others, now, left).unwrap();
        (patience.once_sent, patience.until - now)
    };
    assert_eq!(most(1, secs(120)), (QUOTE_PATIENCE, secs(60)));
    assert_eq!(most(3, secs(8)), (secs(2), secs(2)));
    assert_eq!(most(1, Duration::ZERO), (Duration::ZERO, Duration::ZERO));
    assert_eq!(most(usize::MAX, secs(1)).0, secs(1) / u32::MAX);
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

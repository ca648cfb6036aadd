#![allow(clippy::unwrap_used)]

use nostr::SECP256K1;
use nostr::secp256k1::SecretKey;
use proptest::prelude::*;

use super::*;
use crate::wallet::issue::{Draft, MOST_MSAT, sign};

const NOW: UnixSecs = UnixSecs::new(1_763_000_000);

fn node_key() -> SecretKey {
    SecretKey::from_slice(&[0x42; 32]).unwrap()
}

fn draft() -> Draft {
    Draft {
        network: Network::Regtest,
        amount: Some(Msat::new(10_000)),
        payment_hash: PaymentHash::from_bytes([3; 32]),
        payment_secret: [4; 32],
        description: "one job".to_owned(),
        created_at: NOW,
        expiry_secs: 600,
        min_final_cltv: 18,
    }
}

fn terms() -> Terms {
    Terms {
        amount: Msat::new(10_000),
        ceiling: Msat::new(10_000),
        network: Network::Regtest,
        now: NOW,
        min_time_left_secs: 10,
        max_hold_secs: 86_400,
        on_hash: None,
    }
}

fn refusal(change: impl FnOnce(&mut Draft, &mut Terms)) -> InvoiceProblem {
    let (mut draft, mut terms) = (draft(), terms());
    change(&mut draft, &mut terms);
    check(&sign(&draft, &node_key()).unwrap(), &terms).unwrap_err()
}

#[test]
fn an_invoice_on_its_terms_may_be_paid() {
    let bolt11 = sign(&draft(), &node_key()).unwrap();
    let checked = check(&bolt11, &terms()).unwrap();
    assert_eq!(checked.payment_hash, PaymentHash::from_bytes([3; 32]));
    assert_eq!(checked.amount, Msat::new(10_000));
    assert_eq!(checked.expires_at, NOW.plus(600));
    assert_eq!(checked.payee, node_key().public_key(SECP256K1));
    assert_eq!(checked.min_final_cltv, 18);
    // As a QR code has it, and with the whitespace of a careless sender.
    let shouted = format!(" {}\n", bolt11.to_uppercase());
    assert_eq!(check(&shouted, &terms()).unwrap(), checked);
}

#[test]
fn each_altered_term_is_refused_for_what_it_is() {
    use InvoiceProblem as P;
    let msat = Msat::new;
    assert_eq!(
        refusal(|draft, _| draft.network = Network::Mainnet),
        P::WrongNetwork {
            found: Network::Mainnet,
            ours: Network::Regtest
        }
    );
    assert_eq!(refusal(|draft, _| draft.amount = None), P::Amountless);
    assert_eq!(
        refusal(|draft, terms| {
            draft.amount = Some(Msat::ZERO);
            terms.amount = Msat::ZERO;
        }),
        P::Amountless
    );
    assert_eq!(
        refusal(|_, terms| terms.amount = msat(9_999)),
        P::AmountDiffers {
            invoice: msat(10_000),
            message: msat(9_999)
        }
    );
    assert_eq!(
        refusal(|_, terms| terms.ceiling = msat(9_999)),
        P::AboveCeiling {
            amount: msat(10_000),
            ceiling: msat(9_999)
        }
    );
    assert_eq!(
        refusal(|_, terms| terms.on_hash = Some(PaymentHash::from_bytes([9; 32]))),
        P::NotOurHash
    );
    assert_eq!(
        refusal(|draft, _| draft.min_final_cltv = 145),
        P::HoldTooLong {
            hold_secs: 87_000,
            max_hold_secs: 86_400
        }
    );
}

#[test]
fn an_amount_that_bolt11_cannot_express_is_not_signed() {
    for (amount, signable) in [(MOST_MSAT, true), (MOST_MSAT + 1, false), (u64::MAX, false)] {
        let draft = Draft {
            amount: Some(Msat::new(amount)),
            ..draft()
        };
        assert_eq!(sign(&draft, &node_key()).is_ok(), signable, "{amount}");
    }
}

#[test]
fn each_bound_is_the_last_value_that_may_be_paid() {
    assert_eq!(MAX_LIFETIME_SECS, 2_592_000, "30 days");
    let may_be_paid = |change: &dyn Fn(&mut Draft, &mut Terms)| {
        let (mut draft, mut terms) = (draft(), terms());
        change(&mut draft, &mut terms);
        check(&sign(&draft, &node_key()).unwrap(), &terms).is_ok()
    };
    assert!(may_be_paid(&|draft, _| {
        draft.created_at = NOW.plus(MAX_CLOCK_SKEW_SECS);
    }));
    assert!(may_be_paid(
        &|draft, _| draft.expiry_secs = MAX_LIFETIME_SECS
    ));
    assert!(may_be_paid(&|draft, _| draft.created_at = NOW.minus(590)));
    assert!(may_be_paid(&|draft, _| draft.min_final_cltv = 144));
    assert!(may_be_paid(&|draft, terms| {
        draft.created_at = NOW.minus(599);
        terms.min_time_left_secs = 1;
    }));
}

#[test]
fn what_breaks_bolt11_behind_a_right_checksum_is_told_apart() {
    use InvoiceProblem as P;
    let amount = P::Malformed("unreadable amount");
    let nothing = "q".repeat(111);
    for (begins, checksum, problem) in [
        ("lnxx", "mqwh29", P::UnknownNetwork),
        ("lnbc1mm", "prmz8n", P::NotAnInvoice),
        ("lnbc1x", "veajuv", amount.clone()),
        ("lnbc99999999999999999999999m", "wgk5gw", amount.clone()),
        ("lnbc18446744073709551615m", "x827tk", amount),
    ] {
        let text = format!("{begins}1{nothing}{checksum}");
        assert_eq!(parse_unchecked(&text), Err(problem), "{begins}");
    }
    // A signature that no key can have made.
    let text = format!("lnbc1{}l4qvdjk", "q".repeat(110));
    assert_eq!(parse_unchecked(&text), Err(P::BadSignature));
}

#[test]
fn a_text_is_looked_at_up_to_its_bound() {
    let bolt11 = sign(&draft(), &node_key()).unwrap();
    let padded = |bytes: usize| format!("{bolt11:<bytes$}");
    assert!(check(&padded(MAX_BYTES), &terms()).is_ok());
    assert_eq!(
        check(&padded(MAX_BYTES + 1), &terms()),
        Err(InvoiceProblem::TooLong(MAX_BYTES + 1))
    );
}

#[test]
fn an_invoice_is_paid_within_its_time_only() {
    use InvoiceProblem as P;
    let made_ahead = |secs| refusal(|draft, _| draft.created_at = NOW.plus(secs));
    assert_eq!(made_ahead(601), P::FromTheFuture { ahead_secs: 601 });
    assert_eq!(
        refusal(|draft, _| draft.created_at = NOW.minus(600)),
        P::Expired { ago_secs: 0 }
    );
    assert_eq!(
        refusal(|draft, _| draft.created_at = NOW.minus(591)),
        P::TooLittleTime {
            left_secs: 9,
            needed_secs: 10
        }
    );
    for lifetime_secs in [MAX_LIFETIME_SECS + 1, u64::MAX / 2] {
        assert_eq!(
            refusal(|draft, _| draft.expiry_secs = lifetime_secs),
            P::LivesTooLong { lifetime_secs }
        );
    }
    assert!(matches!(
        refusal(|draft, _| draft.expiry_secs = u64::MAX),
        P::LivesTooLong { .. }
    ));
}

#[test]
fn what_is_no_invoice_is_called_by_its_name() {
    use InvoiceProblem as P;
    let good = sign(&draft(), &node_key()).unwrap();
    let damaged = good.replace("lnbcrt100n", "lnbcrt900n");
    let simnet = "lnsb1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
    for (text, problem) in [
        ("", P::Empty),
        (" \n", P::Empty),
        ("hello", P::NotAnInvoice),
        ("lnurl1dp68gurn8ghj7", P::NotAnInvoice),
        (
            "lno1qgsqvgnwgcg35z6ee2h3yczraddm72xrfua9uve2rlrm9deu7xyfzrc",
            P::NotAnInvoice,
        ),
        ("ln", P::Damaged),
        ("lnbcrt100n1mock", P::Mock),
        ("LNBCRT100N1MOCK", P::Mock),
        ("sprt1pgssyuuuhnrrdjswal5c3s3rafw9w3y5dd4cjy3duxl", P::Spark),
        (
            "spark1pgssyuuuhnrrdjswal5c3s3rafw9w3y5dd4cjy3duxl",
            P::Spark,
        ),
        (
            "sp1pgssyuuuhnrrdjswal5c3s3rafw9w3y5dd4cjy3duxl7jf",
            P::Spark,
        ),
        ("spring1abc", P::NotAnInvoice),
        (&good[..good.len() - 1], P::Damaged),
        (&damaged, P::Damaged),
        (simnet, P::Damaged),
        (&"l".repeat(MAX_BYTES + 1), P::TooLong(MAX_BYTES + 1)),
    ] {
        assert_eq!(check(text, &terms()), Err(problem), "{text}");
    }
}

/// The examples of BOLT11 that every reader must take, and some that it must refuse.
#[test]
fn the_examples_of_the_standard_are_read_as_it_says() {
    let donation = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
    let invoice = parse_unchecked(donation).unwrap();
    assert_eq!(invoice.amount, None);
    assert_eq!(invoice.network, Network::Mainnet);
    assert_eq!(
        invoice.payee.to_string(),
        "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
    );
    let no_secret = "lnbc1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq8rkx3yf5tcsyz3d73gafnh3cax9rn449d9p5uxz9ezhhypd0elx87sjle52x86fux2ypatgddc6k63n7erqz25le42c4u4ecky03ylcqca784w";
    assert_eq!(
        parse_unchecked(no_secret),
        Err(InvoiceProblem::NoPaymentSecret)
    );
}

#[test]
fn a_payee_that_did_not_sign_is_refused() {
    // Signed by one key, naming another.
    let (hash, secret) = ([3; 32], [4; 32]);
    let other = SecretKey::from_slice(&[0x43; 32]).unwrap();
    let forged = lightning_invoice::InvoiceBuilder::new(lightning_invoice::Currency::Regtest)
        .description("one job".to_owned())
        .payment_hash(Hash::from_byte_array(hash))
        .payment_secret(lightning_invoice::PaymentSecret(secret))
        .duration_since_epoch(Duration::from_secs(NOW.get()))
        .min_final_cltv_expiry_delta(18)
        .amount_milli_satoshis(10_000)
        .payee_pub_key(node_key().public_key(SECP256K1))
        .build_signed(|hash| SECP256K1.sign_ecdsa_recoverable(hash, &other))
        .unwrap()
        .to_string();
    assert_eq!(check(&forged, &terms()), Err(InvoiceProblem::BadSignature));
}

proptest! {
    #[test]
    fn no_text_can_panic_the_reader(text in "\\PC{0,200}") {
        let _ = parse_unchecked(&text);
    }

    #[test]
    fn no_altered_character_goes_unnoticed(at in any::<prop::sample::Index>(), with in "[ -~]") {
        let good = sign(&draft(), &node_key()).unwrap();
        let at = at.index(good.len());
        let altered = format!("{}{with}{}", &good[..at], &good[at + 1..]);
        prop_assume!(altered.to_lowercase() != good);
        prop_assume!(altered.trim().len() == good.len());
        prop_assert!(check(&altered, &terms()).is_err());
    }

    #[test]
    fn no_data_with_a_right_checksum_can_panic_the_reader(
        hrp in "ln(bc|tb|tbs|bcrt|sb)[0-9]{0,22}[munp]?",
        data in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        // Nothing but the checksum is right, so this reaches the parsers behind it.
        let text = bech32(&hrp, &data);
        let _ = check(&text, &terms());
    }

    #[test]
    fn any_signed_invoice_says_what_was_signed(
        msat in 1..=MOST_MSAT,
        hash: [u8; 32],
        network in prop::sample::select(&Network::ALL),
        expiry_secs in 10..MAX_LIFETIME_SECS,
        min_final_cltv in 0_u64..=144,
        description in "\\PC{0,150}",
    ) {
        let draft = Draft {
            network,
            amount: Some(Msat::new(msat)),
            payment_hash: PaymentHash::from_bytes(hash),
            description,
            expiry_secs,
            min_final_cltv,
            ..draft()
        };
        let terms = Terms {
            amount: Msat::new(msat),
            ceiling: Msat::new(msat),
            network,
            ..terms()
        };
        let checked = check(&sign(&draft, &node_key()).unwrap(), &terms).unwrap();
        prop_assert_eq!(checked.amount, Msat::new(msat));
        prop_assert_eq!(checked.payment_hash, PaymentHash::from_bytes(hash));
        prop_assert_eq!(checked.expires_at, NOW.plus(expiry_secs));
        prop_assert_eq!(checked.min_final_cltv, min_final_cltv);
    }
}

/// BIP 173, for any human-readable part and data.
fn bech32(hrp: &str, data: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    fn step(check: u32, digit: u8) -> u32 {
        let top = check >> 25;
        let mut check = (check & 0x01ff_ffff) << 5 ^ u32::from(digit);
        for (i, generator) in [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ]
        .into_iter()
        .enumerate()
        {
            if top >> i & 1 == 1 {
                check ^= generator;
            }
        }
        check
    }
    let digits: Vec<u8> = data.iter().map(|byte| byte & 31).collect();
    let expanded = hrp
        .bytes()
        .map(|byte| byte >> 5)
        .chain([0])
        .chain(hrp.bytes().map(|byte| byte & 31))
        .chain(digits.iter().copied())
        .chain([0; 6]);
    let check = expanded.fold(1, step) ^ 1;
    let checksum = (0..6).map(|i| (check >> (5 * (5 - i)) & 31) as u8);
    let text = digits
        .iter()
        .copied()
        .chain(checksum)
        .map(|digit| char::from(DIGITS[usize::from(digit)]));
    format!("{hrp}1{}", text.collect::<String>())
}

#[test]
fn the_tests_own_checksum_is_right() {
    // Too short to be an invoice, which is only found out after the checksum.
    assert_eq!(bech32("a", &[]), "a12uel5l");
}

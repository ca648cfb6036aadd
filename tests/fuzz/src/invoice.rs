//! Whether an invoice may be paid. Coverage alone would never get past a checksum and a signature, so the
//! invoices here are put together from 5-bit words, whatever they say, and then truly signed. What the check says
//! of one is held against what went into it.

use std::ops::RangeInclusive;

use agent_compute::ids::PaymentHash;
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::invoice::{
    Checked, InvoiceProblem, MAX_CLOCK_SKEW_SECS, MAX_LIFETIME_SECS, SECS_PER_BLOCK, Terms, check,
    parse_unchecked,
};
use nostr::SECP256K1;
use nostr::hashes::{Hash, sha256};
use nostr::secp256k1::{Message, PublicKey, SecretKey};

use super::tape::Tape;

pub(crate) const NOW: u64 = 1_800_000_000;

/// The tagged fields of BOLT11, by their letters' values.
const P: u8 = 1;
const S: u8 = 16;
const D: u8 = 13;
const H: u8 = 23;
const N: u8 = 19;
const X: u8 = 6;
const C: u8 = 24;
const FEATURES: u8 = 5;
const OTHERS: [u8; 4] = [9, 3, 27, 31];
const WORDS_OF_32_BYTES: usize = 52;
const WORDS_OF_33_BYTES: usize = 53;

/// An invoice before it is text, as its maker means it.
struct Written {
    prefix: &'static str,
    digits: String,
    unit: &'static str,
    timestamp: u64,
    fields: Vec<(u8, Vec<u8>)>,
}

/// Text as it came, or an invoice whose signature and checksum are right whatever it says.
pub fn invoice(data: &[u8]) {
    let mut tape = Tape::new(data);
    let how = tape.byte();
    let mut terms = terms(&mut tape);
    if how.is_multiple_of(8) {
        let text = String::from_utf8_lossy(tape.rest());
        any_text(&text, &terms);
        return;
    }
    let written = written(&mut tape);
    let text = written.signed();
    any_text(&text, &terms);
    // Mostly the message tells the truth about the amount: there is more behind that check than before it.
    if how % 8 != 1
        && let Some(amount) = written.msat()
    {
        terms.amount = amount;
    }
    match check(&text, &terms) {
        Ok(checked) => written.allows(&checked, &terms),
        Err(problem) => written.deserves(&problem, &terms),
    }
}

fn any_text(text: &str, terms: &Terms) {
    let parsed = parse_unchecked(text);
    let checked = check(text, terms);
    match (&parsed, &checked) {
        (Ok(parsed), Ok(checked)) => {
            assert_eq!(parsed.bolt11, checked.bolt11);
            assert!(
                checked
                    .bolt11
                    .bytes()
                    .all(|byte| !byte.is_ascii_uppercase() && !byte.is_ascii_whitespace())
            );
            // What the wallet is handed is what was checked.
            assert_eq!(check(&checked.bolt11, terms).as_ref(), Ok(checked));
            let shouted = format!("\n{} ", checked.bolt11.to_uppercase());
            assert_eq!(check(&shouted, terms).as_ref(), Ok(checked));
        }
        (Ok(_), Err(problem)) => assert!(is_of_the_terms(problem), "{problem:?} of what was read"),
        (Err(unread), Err(problem)) => assert_eq!(unread, problem),
        (Err(problem), Ok(_)) => panic!("{problem:?}, and it may be paid"),
    }
}

const fn is_of_the_terms(problem: &InvoiceProblem) -> bool {
    use InvoiceProblem as Is;
    matches!(
        problem,
        Is::WrongNetwork { .. }
            | Is::Amountless
            | Is::AmountDiffers { .. }
            | Is::AboveCeiling { .. }
            | Is::FromTheFuture { .. }
            | Is::LivesTooLong { .. }
            | Is::Expired { .. }
            | Is::TooLittleTime { .. }
            | Is::NotOurHash
            | Is::HoldTooLong { .. }
    )
}

fn terms(tape: &mut Tape<'_>) -> Terms {
    Terms {
        amount: Msat::new(tape.amount()),
        ceiling: Msat::new(tape.amount()),
        network: tape.one_of(&Network::ALL),
        now: UnixSecs::new(NOW),
        min_time_left_secs: u64::from(tape.byte()),
        max_hold_secs: u64::from(tape.byte()) * SECS_PER_BLOCK,
        on_hash: tape.maybe(|tape| PaymentHash::from_bytes([tape.byte(); 32])),
    }
}

fn written(tape: &mut Tape<'_>) -> Written {
    let prefix = tape.one_of(&["bc", "tb", "tbs", "bcrt", "sb", "xx"]);
    let digits = match tape.below(4) {
        0 => String::new(),
        1 => tape.amount().to_string(),
        2 => format!("00{}", tape.byte()),
        _ => tape.byte().to_string(),
    };
    let unit = tape.one_of(&["", "m", "u", "n", "p"]);
    let offset = u64::from(u16::from_be_bytes(tape.array()));
    let timestamp = match tape.below(8) {
        0 => tape.number(),
        1 => NOW.saturating_sub(offset * 100),
        2 => NOW + offset,
        _ => NOW - offset % 64,
    };
    let mut fields = Vec::new();
    // What every invoice has, unless the tape leaves it out.
    let left_out = tape.byte();
    let hash = tape.byte();
    for (bit, (field, data)) in [
        (P, words_of(&[hash; 32])),
        (S, words_of(&[7; 32])),
        (D, words_of(b"a job")),
        // Bits 8 and 14: the payment secret, and what it needs.
        (FEATURES, vec![16, 8, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        if left_out & (1 << bit) == 0 {
            fields.push((field, data));
        }
    }
    while !tape.is_over() && fields.len() < 16 {
        let known = [P, S, D, H, N, X, C, FEATURES];
        let field = match tape.below(4) {
            0 => tape.one_of(&OTHERS),
            1 => tape.byte() % 32,
            _ => tape.one_of(&known),
        };
        let data = match (field, tape.below(4)) {
            (P | S | H, 1..) => words_of(&[tape.byte(); 32]),
            (N, 1..) => words_of(&key().public_key(SECP256K1).serialize()),
            (X | C, 1..) => minimal(tape.amount()),
            (FEATURES, 1) => minimal(1 << 14 | 1 << 8 | tape.amount() & 0xff_ffff),
            _ => {
                let length = usize::from(tape.byte());
                tape.bytes(length).iter().map(|byte| byte % 32).collect()
            }
        };
        let at = tape.below(fields.len() + 1);
        fields.insert(at, (field, data));
    }
    Written {
        prefix,
        digits,
        unit,
        // The 35 bits that there are.
        timestamp: timestamp & ((1 << 35) - 1),
        fields,
    }
}

fn key() -> SecretKey {
    SecretKey::from_slice(&[0x42; 32]).unwrap()
}

impl Written {
    fn signed(&self) -> String {
        let hrp = format!("ln{}{}{}", self.prefix, self.digits, self.unit);
        let mut words: Vec<u8> = (0..7)
            .rev()
            .map(|at| low_bits(self.timestamp >> (5 * at)))
            .collect();
        for (field, data) in &self.fields {
            words.extend([
                *field,
                low_bits(data.len() as u64 >> 5),
                low_bits(data.len() as u64),
            ]);
            words.extend(data);
        }
        let mut said = hrp.clone().into_bytes();
        said.extend(bytes_of(&words));
        let digest = Message::from_digest(sha256::Hash::hash(&said).to_byte_array());
        let (recovery, signature) = SECP256K1
            .sign_ecdsa_recoverable(&digest, &key())
            .serialize_compact();
        let mut signature = signature.to_vec();
        signature.push(u8::try_from(recovery.to_i32()).unwrap());
        words.extend(words_of(&signature));
        bech32(&hrp, &words)
    }

    /// The value of the first field of this kind, if there is one of that length.
    fn first(&self, wanted: u8, length: RangeInclusive<usize>) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(field, data)| *field == wanted && length.contains(&data.len()));
        found.map(|(_, data)| data.as_slice())
    }

    fn count(&self, kinds: &[u8], length: RangeInclusive<usize>) -> usize {
        let fields = self.fields.iter();
        fields
            .filter(|(field, data)| kinds.contains(field) && length.contains(&data.len()))
            .count()
    }

    fn number(&self, field: u8, default: u64) -> u128 {
        let words = self.first(field, 0..=usize::MAX);
        words.map_or(u128::from(default), |words| {
            words.iter().fold(0_u128, |sum, word| {
                sum.saturating_mul(32).saturating_add(u128::from(*word))
            })
        })
    }

    fn pico_btc(&self) -> Option<u128> {
        let number: u128 = self.digits.parse().ok()?;
        let each = match self.unit {
            "m" => 1_000_000_000,
            "u" => 1_000_000,
            "n" => 1_000,
            "p" => 1,
            _ => 1_000_000_000_000,
        };
        Some(number * each)
    }

    fn msat(&self) -> Option<Msat> {
        u64::try_from(self.pico_btc()? / 10).ok().map(Msat::new)
    }

    fn network(&self) -> Option<Network> {
        match self.prefix {
            // Without a number, the unit reads as a part of the network's name.
            _ if self.digits.is_empty() && !self.unit.is_empty() => None,
            "bc" => Some(Network::Mainnet),
            "tb" => Some(Network::Testnet),
            "tbs" => Some(Network::Signet),
            "bcrt" => Some(Network::Regtest),
            _ => None,
        }
    }

    fn hash(&self) -> Option<PaymentHash> {
        let bytes = bytes_of(self.first(P, WORDS_OF_32_BYTES..=WORDS_OF_32_BYTES)?);
        bytes[..32].try_into().ok().map(PaymentHash::from_bytes)
    }

    /// Whether it is written as the library would write it. Of another, the library takes the signature to be of
    /// what it would have written, so the payee is nobody, or not the one that is named.
    fn is_plain(&self) -> bool {
        let number = |words: &[u8]| words.first().is_some_and(|word| *word != 0);
        let bytes = |words: &[u8]| {
            let mut bytes = bytes_of(words);
            bytes.truncate(words.len() * 5 / 8);
            words_of(&bytes) == words && std::str::from_utf8(&bytes).is_ok()
        };
        let plain = |(field, words): &(u8, Vec<u8>)| match *field {
            X | C | FEATURES => number(words),
            // Made of whole bytes above, or of words that may be anything.
            P | S | H | N => words.last().is_none_or(|last| *last & 0xf == 0),
            D => bytes(words),
            other => !OTHERS.contains(&other),
        };
        self.fields.iter().all(plain) && (self.digits == "0" || !self.digits.starts_with('0'))
    }

    /// Whether it names a payee that did not sign it, or that is no key at all.
    fn names_another_payee(&self) -> bool {
        let signer = key().public_key(SECP256K1).serialize();
        let names = |words: &[u8]| words.len() == WORDS_OF_33_BYTES;
        self.fields
            .iter()
            .any(|(field, words)| *field == N && names(words) && bytes_of(words)[..33] != signer)
    }

    fn expires_at(&self) -> u128 {
        u128::from(self.timestamp) + self.number(X, 3600)
    }

    fn hold_secs(&self) -> u128 {
        self.number(C, 18) * u128::from(SECS_PER_BLOCK)
    }

    /// It may be paid, said the check: then all of this holds.
    fn allows(&self, checked: &Checked, terms: &Terms) {
        assert_eq!(self.network(), Some(terms.network));
        let pico = self
            .pico_btc()
            .expect("an invoice without an amount may be paid");
        assert_eq!(
            (pico % 10, pico / 10),
            (0, u128::from(checked.amount.get()))
        );
        assert_eq!(checked.amount, terms.amount);
        assert!(!checked.amount.is_zero() && checked.amount <= terms.ceiling.min(Msat::MAX));
        let whole = WORDS_OF_32_BYTES..=WORDS_OF_32_BYTES;
        assert_eq!(self.count(&[P], whole.clone()), 1, "one hash");
        assert_eq!(self.count(&[S], whole), 1, "one payment secret");
        assert_eq!(Some(checked.payment_hash), self.hash());
        assert!(
            terms
                .on_hash
                .is_none_or(|hash| hash == checked.payment_hash)
        );
        let payee: PublicKey = key().public_key(SECP256K1);
        assert!(checked.payee == payee || !self.is_plain());
        let (now, made) = (u128::from(NOW), u128::from(self.timestamp));
        assert!(made <= now + u128::from(MAX_CLOCK_SKEW_SECS));
        assert_eq!(u128::from(checked.expires_at.get()), self.expires_at());
        assert!(self.expires_at() > now);
        assert!(self.expires_at() - now >= u128::from(terms.min_time_left_secs));
        assert!(self.expires_at() - made <= u128::from(MAX_LIFETIME_SECS));
        assert!(self.hold_secs() <= u128::from(terms.max_hold_secs));
        assert_eq!(self.number(C, 18), u128::from(checked.min_final_cltv));
    }

    /// It was refused: for what it is, and not for something else.
    fn deserves(&self, problem: &InvoiceProblem, terms: &Terms) {
        use InvoiceProblem as Is;
        let now = u128::from(NOW);
        let deserved = match problem {
            Is::WrongNetwork { .. } => self.network() != Some(terms.network),
            Is::UnknownNetwork => self.network().is_none(),
            Is::Amountless => self
                .pico_btc()
                .is_none_or(|pico| pico < 10 || u64::try_from(pico).is_err()),
            Is::AbsurdAmount => self.msat().is_none_or(|amount| amount > Msat::MAX),
            Is::AmountDiffers { .. } => self.msat() != Some(terms.amount),
            Is::AboveCeiling { .. } => self.msat().is_none_or(|amount| amount > terms.ceiling),
            Is::FromTheFuture { .. } => u128::from(self.timestamp) > now,
            Is::LivesTooLong { .. } => self.number(X, 3600) > u128::from(MAX_LIFETIME_SECS),
            Is::Expired { .. } => self.expires_at() <= now,
            Is::TooLittleTime { .. } => {
                self.expires_at() < now + u128::from(terms.min_time_left_secs)
            }
            Is::NotOurHash => self.hash() != terms.on_hash,
            Is::HoldTooLong { .. } => self.hold_secs() > u128::from(terms.max_hold_secs),
            Is::NoPaymentSecret => self.count(&[S], WORDS_OF_32_BYTES..=WORDS_OF_32_BYTES) == 0,
            Is::Spark | Is::Mock | Is::Empty | Is::Damaged | Is::TooLong(_) => false,
            Is::BadSignature => !self.is_plain() || self.names_another_payee(),
            Is::NotAnInvoice | Is::Malformed(_) | Is::UnknownFeatures => true,
        };
        assert!(deserved, "refused as {problem:?}");
    }
}

fn low_bits(number: u64) -> u8 {
    u8::try_from(number & 31).unwrap()
}

fn words_of(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let word = |bits: &[u8]| (0..5).fold(0, |word, at| word << 1 | bits.get(at).unwrap_or(&0));
    bits.chunks(5).map(word).collect()
}

/// As BOLT11 hashes them: the last byte filled up with zeros.
fn bytes_of(words: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = words
        .iter()
        .flat_map(|word| (0..5).rev().map(move |at| word >> at & 1))
        .collect();
    let byte = |bits: &[u8]| (0..8).fold(0, |byte, at| byte << 1 | bits.get(at).unwrap_or(&0));
    bits.chunks(8).map(byte).collect()
}

fn minimal(number: u64) -> Vec<u8> {
    let words = (0..13)
        .rev()
        .map(|at| low_bits(number.checked_shr(5 * at).unwrap_or(0)));
    words.skip_while(|word| *word == 0).collect()
}

/// BIP173, without its limit on the length.
fn bech32(hrp: &str, words: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let expanded = hrp
        .bytes()
        .map(|byte| byte >> 5)
        .chain([0])
        .chain(hrp.bytes().map(|byte| byte & 31));
    let checked = expanded.chain(words.iter().copied()).chain([0; 6]);
    let sum = checked.fold(1_u32, |sum, word| {
        let generators = [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ];
        let rotated = (sum & 0x1ff_ffff) << 5 ^ u32::from(word);
        let chosen = generators
            .iter()
            .enumerate()
            .filter(|(at, _)| sum >> 25 >> at & 1 == 1);
        chosen.fold(rotated, |sum, (_, generator)| sum ^ generator)
    }) ^ 1;
    let checksum = (0..6).rev().map(|at| low_bits(u64::from(sum) >> (5 * at)));
    let letters = words
        .iter()
        .copied()
        .chain(checksum)
        .map(|word| char::from(LETTERS[usize::from(word)]));
    format!("{hrp}1{}", letters.collect::<String>())
}

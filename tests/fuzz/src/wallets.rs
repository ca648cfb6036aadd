//! What wallets say: over Nostr Wallet Connect, on the stdout of a program, and the connection string that an
//! owner hands over.

use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::secret::Secret;
use agent_compute::units::UnixSecs;
use agent_compute::wallet::nwc::{Connection, reply_to_look_up};
use agent_compute::wallet::process::answer_to_look_up;
use agent_compute::wallet::{Incoming, Outgoing};

use super::tape::Tape;

/// The most characters of a wallet's words.
const MOST_WORDS: usize = 200;

/// A reply of a wallet, a line of a program, or a connection string.
pub fn wallets(data: &[u8]) {
    let mut tape = Tape::new(data);
    let which = tape.byte() % 3;
    let text = String::from_utf8_lossy(tape.rest()).into_owned();
    let hash = Preimage::from_bytes([7; 32]).payment_hash();
    match which {
        0 => over_nostr(&text, hash),
        1 => on_stdout(&text, hash),
        _ => connection(&text),
    }
}

fn over_nostr(text: &str, hash: PaymentHash) {
    let now = UnixSecs::new(1_800_000_000);
    match reply_to_look_up(text, hash, now) {
        None => {}
        Some(Err(words)) => shown(&words),
        Some(Ok((sent, received))) => {
            let said = |word: &str| text.to_ascii_lowercase().contains(word);
            // JSON can write any letter as \u….
            let is_escaped = text.contains('\\');
            paid(
                &sent,
                hash,
                is_escaped || said("settled") || said("preimage"),
            );
            let is_settled = received == Incoming::Settled;
            assert!(!is_settled || is_escaped || said("settled"), "{text}");
            // One transaction is not both.
            assert!(
                !(is_settled && matches!(sent, Outgoing::Failed(_))),
                "{text}"
            );
        }
    }
}

fn on_stdout(text: &str, hash: PaymentHash) {
    match answer_to_look_up(text, hash) {
        None => {}
        Some(Err(words)) => shown(&words),
        Some(Ok(found)) => paid(&found, hash, text.contains('\\') || text.contains("paid")),
    }
}

fn paid(found: &Outgoing, hash: PaymentHash, is_said: bool) {
    match found {
        Outgoing::Paid { preimage, .. } => {
            assert!(is_said);
            assert!(preimage.is_none_or(|preimage| preimage.payment_hash() == hash));
        }
        Outgoing::Failed(proof) => shown(&proof.reason),
        Outgoing::InFlight | Outgoing::NotFound => {}
    }
}

fn shown(words: &str) {
    assert!(words.chars().count() <= MOST_WORDS);
    assert!(!words.chars().any(char::is_control), "{words:?}");
}

fn connection(text: &str) {
    let secret = text.split("secret=").nth(1).and_then(|rest| rest.get(..64));
    match Connection::parse(&Secret::new(text)) {
        Ok(connection) => {
            let shown = format!("{connection:?} {}", connection.id());
            // A key may be its own secret in no honest string; a fuzzer's is not honest.
            let is_public = |secret: &str| {
                [connection.wallet(), connection.client()]
                    .map(|key| key.to_hex())
                    .contains(&secret.to_ascii_lowercase())
                    || connection
                        .relays()
                        .iter()
                        .any(|relay| relay.to_string().contains(secret))
            };
            if let Some(secret) = secret.filter(|secret| !is_public(secret)) {
                assert!(!shown.contains(secret), "{shown}");
            }
            assert!(!connection.relays().is_empty());
        }
        Err(problem) => {
            let problem = problem.to_string();
            assert!(secret.is_none_or(|secret| !problem.contains(secret)));
        }
    }
}

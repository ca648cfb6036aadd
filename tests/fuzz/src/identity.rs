//! Who we are: words, keys, and the file that keeps them. No error repeats any of it.

use std::path::Path;

use agent_compute::identity::keystore::{self as file, Kept};
use agent_compute::identity::{Identity, mnemonic};
use agent_compute::secret::Secret;
use nostr::nips::nip19::ToBech32 as _;
use nostr::{Keys, PublicKey, SecretKey};
use serde_json::Value;

use super::tape::Tape;

/// Words or a key as their owner typed them.
pub fn identity(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.byte() % 4 {
        0 => words_of_entropy(&mut tape),
        1 => key(&mut tape),
        _ => {
            let text = String::from_utf8_lossy(tape.rest()).into_owned();
            match mnemonic::normalize(&Secret::new(text.clone())) {
                Ok(words) => normal(&words),
                Err(error) => never_repeats(&error.to_string(), &text, of_words),
            }
        }
    }
}

/// The one form that words are kept in.
fn normal(words: &Secret) {
    assert_eq!(mnemonic::normalize(words).expect("normal words"), *words);
    let said = words.expose();
    assert!(
        said.split(' ')
            .all(|word| word.chars().all(|c| c.is_ascii_lowercase()))
    );
    let debugged = format!("{words:?}");
    assert!(!debugged.contains(said));
}

/// What is said of words that are none.
fn of_words(text: &str) -> Option<String> {
    let refused = mnemonic::normalize(&Secret::new(text)).err();
    refused.map(|error| error.to_string())
}

/// What is said of a key that is none.
fn of_key(text: &str) -> Option<String> {
    let refused = Identity::from_secret_key(&Secret::new(text), None).err();
    refused.map(|error| error.to_string())
}

/// A text of several long words stays out of an error. `said_of` is what is said of any text.
fn never_repeats(error: &str, text: &str, said_of: fn(&str) -> Option<String>) {
    // The errors' own sentences have words too; a stretch of 16 bytes is nobody's by chance.
    let bytes: Vec<char> = text.chars().collect();
    for stretch in bytes.chunks(16).filter(|stretch| stretch.len() == 16) {
        let stretch: String = stretch.iter().collect();
        let repeats = error.contains(&stretch);
        assert!(
            !repeats || is_own(&stretch, text, said_of),
            "{error:?} repeats {stretch:?}"
        );
    }
}

/// Whether errors say this whatever they are about. A fuzzer sees what its input is compared with, and tries the
/// errors' own sentences.
fn is_own(stretch: &str, text: &str, said_of: impl Fn(&str) -> Option<String>) -> bool {
    let blank = |c: char| if c.is_whitespace() { c } else { 'x' };
    let without = text.replace(stretch, &stretch.chars().map(blank).collect::<String>());
    said_of(&without).is_some_and(|said| said.contains(stretch))
}

/// True words, written carelessly: they are read as they were meant.
fn words_of_entropy(tape: &mut Tape<'_>) {
    let size = tape.one_of(&[16_usize, 20, 24, 28, 32]);
    let mut entropy = tape.bytes(size).to_vec();
    entropy.resize(size, 0);
    let meant = bip39::Mnemonic::from_entropy(&entropy)
        .expect("a size that BIP39 has")
        .to_string();
    let spaces = [" ", "\n", "\t", "  ", " \r\n"];
    let mut typed = tape.one_of(&spaces).to_owned();
    let mut changed = false;
    for word in meant.split(' ') {
        let mut word = match tape.below(4) {
            0 => word.to_uppercase(),
            _ => word.to_owned(),
        };
        if tape.byte() == 255 {
            word.push('x');
            changed = true;
        }
        typed.push_str(&word);
        typed.push_str(tape.one_of(&spaces));
    }
    match mnemonic::normalize(&Secret::new(typed.clone())) {
        Ok(words) => {
            assert!(!changed, "{typed} was taken");
            assert_eq!(words.expose(), meant);
            normal(&words);
        }
        Err(error) => {
            assert!(changed, "{error} of {meant}");
            never_repeats(&error.to_string(), &typed, of_words);
        }
    }
}

/// A secret key in its forms, or any text in their place.
fn key(tape: &mut Tape<'_>) {
    let how = tape.byte();
    let secret = SecretKey::from_slice(&tape.array::<32>()).ok();
    let text = match (how % 4, &secret) {
        (0, Some(secret)) => secret.to_bech32().unwrap_or_default(),
        (1, Some(secret)) => secret.to_secret_hex(),
        (2, Some(secret)) => format!(" {}\n", secret.to_secret_hex().to_uppercase()),
        _ => String::from_utf8_lossy(tape.bytes(usize::MAX)).into_owned(),
    };
    match Identity::from_secret_key(&Secret::new(text.clone()), None) {
        Ok(identity) => {
            let hex = identity.keys().secret_key().to_secret_hex();
            assert!(!format!("{identity:?}").contains(&hex));
            if let (0..=2, Some(secret)) = (how % 4, secret) {
                assert_eq!(identity.public_key(), Keys::new(secret).public_key());
            }
        }
        Err(error) => {
            assert!(how % 4 == 3 || secret.is_none(), "{error}");
            never_repeats(&error.to_string(), &text, of_key);
        }
    }
}

/// The bytes of an identity file, which may come from anybody.
pub fn keystore(data: &[u8]) {
    let secrets = secrets_in(data);
    let text = String::from_utf8_lossy(data);
    let of_file = |text: &str| {
        let read = file::read(Path::new("identity.enc"), text.as_bytes());
        Some(match read {
            Ok(stored) => stored.public_key().err()?.to_string(),
            Err(error) => error.to_string(),
        })
    };
    let keeps_silent = |said: &str| {
        for secret in &secrets {
            let repeats = said.contains(secret);
            assert!(
                !repeats || is_own(secret, &text, of_file),
                "{said:?} repeats {secret:?}"
            );
        }
    };
    let stored = match file::read(Path::new("identity.enc"), data) {
        Ok(stored) => stored,
        Err(error) => return keeps_silent(&error.to_string()),
    };
    assert!(data.len() <= 16 * 1024);
    keeps_silent(&format!("{stored:?}"));
    match stored.public_key() {
        Ok(key) => usable(key),
        Err(error) => {
            assert!(!stored.is_encrypted());
            keeps_silent(&error.to_string());
        }
    }
    if !stored.is_encrypted() {
        let kept = stored.open(&mut NoPassword).expect("nothing is encrypted");
        keeps_silent(&format!("{kept:?}"));
        let (Kept::Words(text) | Kept::SecretKey(text)) = &kept;
        let said = secrets_said(data);
        assert!(said.first().is_none_or(|said| said == text.expose()));
    }
}

fn usable(key: PublicKey) {
    assert!(key.xonly().is_ok(), "a key on no curve");
}

/// For files that need no password.
struct NoPassword;

impl agent_compute::identity::password::Ask for NoPassword {
    fn ask(
        &mut self,
        _: agent_compute::identity::password::Wanted<'_>,
        _: u32,
    ) -> Result<Option<Secret>, agent_compute::identity::IdentityError> {
        Ok(None)
    }
}

fn secrets_said(data: &[u8]) -> Vec<String> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(data) else {
        return Vec::new();
    };
    let texts = ["words", "secret_key"]
        .iter()
        .filter_map(|name| fields.get(*name)?.as_str());
    texts.map(str::to_owned).collect()
}

/// Those that stand in no error by chance.
fn secrets_in(data: &[u8]) -> Vec<String> {
    let mut secrets = secrets_said(data);
    secrets.retain(|secret| secret.len() >= 24);
    secrets
}

//! Single words that have a meaning: keys, hashes, networks, references, addresses.

use agent_compute::config::{MIN_PREFIX_DIGITS, NotASelection, Select, WalletKind};
use agent_compute::ids::{PaymentHash, Preimage, PurchaseId};
use agent_compute::protocol::Feature;
use agent_compute::protocol::channel::id_from_text;
use agent_compute::provider::backend::openai::ServerAddress;
use agent_compute::purchase::state::PayBy;
use agent_compute::secret::SecretRef;
use agent_compute::units::Network;
use nostr::nips::nip19::ToBech32 as _;
use nostr::{EventId, PublicKey};

use super::tape::Tape;
use super::wire::keys;

/// A text as it came, or one that has a meaning, altered a little.
pub fn words(data: &[u8]) {
    let mut tape = Tape::new(data);
    let text = match tape.byte() % 4 {
        0 => altered(&mut tape),
        _ => String::from_utf8_lossy(tape.bytes(usize::MAX)).into_owned(),
    };
    select(&text);
    hex(&text);
    address(&text);
    if let Ok(id) = id_from_text(&text) {
        assert_eq!(id_from_text(&id.to_hex()), Ok(id));
    }
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.as_str(), text);
    }
    assert!(Feature::from_word(&text).is_none_or(|feature| feature.as_str() == text));
    assert!(WalletKind::from_word(&text).is_none_or(|kind| kind.as_str() == text));
    reference(&text);
}

/// `env:` and a name, or `file:` and a path, and nothing else: a secret itself must not pass for one.
fn reference(text: &str) {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let expected = match (text.strip_prefix("env:"), text.strip_prefix("file:")) {
        (Some(name), _) if !name.is_empty() && name.chars().all(of_name) => {
            Some(SecretRef::Env(name.to_owned()))
        }
        (_, Some(path)) if !path.is_empty() => Some(SecretRef::File(path.into())),
        _ => None,
    };
    assert_eq!(SecretRef::parse(text).ok(), expected);
}

fn altered(tape: &mut Tape<'_>) -> String {
    let keys = keys(1 + tape.byte() % 8);
    let event = EventId::from_byte_array([tape.byte(); 32]);
    let key = keys.public_key();
    let forms = [
        key.to_hex(),
        key.to_hex().to_uppercase(),
        key.to_bech32().unwrap_or_default(),
        keys.secret_key().to_bech32().unwrap_or_default(),
        event.to_bech32().unwrap_or_default(),
        format!("nostr:{}", key.to_bech32().unwrap_or_default()),
        "http://127.0.0.1:11434/v1/chat/completions".to_owned(),
        "http://[::1]:8080".to_owned(),
    ];
    let mut text = forms[tape.below(forms.len())].clone();
    let from = text.floor_char_boundary(usize::from(tape.byte()));
    let to = text.floor_char_boundary(from + tape.below(4));
    text.replace_range(from..to, &tape.text());
    text
}

fn select(text: &str) {
    match text.parse::<Select>() {
        Ok(select) => {
            let shown = select.to_string();
            assert_eq!(shown.parse::<Select>().as_ref(), Ok(&select));
            let Select::Provider(pattern) = select else {
                assert_eq!(shown, text);
                return;
            };
            assert!((MIN_PREFIX_DIGITS..=64).contains(&shown.len()));
            assert!(
                shown
                    .bytes()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            );
            assert_eq!(pattern.exact(), PublicKey::from_hex(&shown).ok());
            for other in 1..9 {
                let key = keys(other).public_key();
                assert_eq!(pattern.matches(&key), key.to_hex().starts_with(&shown));
            }
        }
        Err(error) => {
            let lower = text.to_ascii_lowercase();
            let secret = lower.starts_with("nsec1") || lower.starts_with("ncryptsec1");
            assert!(!secret || error == NotASelection::SecretKey);
        }
    }
}

fn hex(text: &str) {
    let is_hex = |digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lower = text.to_ascii_lowercase();
    let hash = text.parse::<PaymentHash>();
    assert_eq!(hash.is_ok(), is_hex(64));
    assert!(hash.is_err() || hash.is_ok_and(|hash| hash.to_string() == lower));
    let id = text.parse::<PurchaseId>();
    assert_eq!(id.is_ok(), is_hex(32));
    assert!(id.is_err() || id.is_ok_and(|id| id.to_string() == lower));
    let preimage = text.parse::<Preimage>();
    assert_eq!(preimage.is_ok(), is_hex(64));
    let Ok(preimage) = preimage else {
        return;
    };
    assert_eq!(preimage.reveal(), lower);
    let pay_by = PayBy::Escrow {
        wallet: agent_compute::ids::WalletId {
            kind: "sim".to_owned(),
            account: "a".to_owned(),
        },
        preimage,
    };
    assert!(
        !format!("{pay_by:?}").contains(&lower),
        "a preimage in Debug"
    );
}

fn address(text: &str) {
    let Ok(address) = text.parse::<ServerAddress>() else {
        return;
    };
    let base = address.base();
    assert!(base.starts_with("http://") || base.starts_with("https://"));
    assert!(!base.ends_with('/') && !base.contains(['?', '#']), "{base}");
    let server = base.split('/').nth(2).unwrap_or_default();
    assert!(
        !server.is_empty() && !server.contains('@'),
        "{base} has a name or a password"
    );
    assert_eq!(
        base.parse::<ServerAddress>().as_ref(),
        Ok(&address),
        "{text:?}"
    );
}

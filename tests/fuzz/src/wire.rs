//! What peers say: messages, what is sealed in them, the events around them, and requests to a seller.

use std::sync::LazyLock;

use agent_compute::identity::Identity;
use agent_compute::ids::PaymentHash;
use agent_compute::protocol::channel::{self as nip28, ReplyTo};
use agent_compute::protocol::codec::{
    CodecError, MAX_MESSAGE_BYTES, MAX_SEALED_BYTES, decode, decode_opened, encode,
};
use agent_compute::protocol::message::{AgentMessage, MAX_EXPLANATION_BYTES, Sealed};
use agent_compute::protocol::{Feature, KIND_TEXT_GENERATION, Price};
use agent_compute::provider::pricing::{self, Terms};
use agent_compute::relay::seal::Sealer;
use agent_compute::units::Msat;
use nostr::base64::Engine as _;
use nostr::base64::engine::general_purpose::STANDARD as BASE64;
use nostr::nips::nip44::v2::{self, ConversationKey};
use nostr::secp256k1::schnorr::Signature;
use nostr::{Event, EventId, Keys, Kind, PublicKey, SecretKey, Tag, Timestamp};

use super::tape::Tape;

/// The peers of all targets, by the byte that their secret keys are made of. Making a key takes longer than most of
/// what is done with it.
static KEYS: LazyLock<Vec<Keys>> = LazyLock::new(|| {
    let secret =
        |of| SecretKey::from_slice(&[of; 32]).expect("a number below the order of the curve");
    (1..16).map(|of| Keys::new(secret(of))).collect()
});

pub(crate) fn keys(of: u8) -> &'static Keys {
    &KEYS[usize::from(of) - 1]
}

/// An event as it would come out of a relay: read, its signature another matter.
pub(crate) fn event(
    author: PublicKey,
    kind: u16,
    at: u64,
    tags: &[Vec<String>],
    content: &str,
) -> Event {
    let tags = tags.iter().filter_map(|tag| Tag::parse(tag).ok());
    Event::new(
        EventId::all_zeros(),
        author,
        Timestamp::from_secs(at),
        Kind::from(kind),
        tags,
        content,
        Signature::from_slice(&[0; 64]).unwrap(),
    )
}

/// The content of a channel message.
pub fn message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = decode(&text);
    let opened = decode_opened(&text);
    let Ok(message) = read else {
        assert!(
            opened.is_err(),
            "what can't be read can't be read in a seal"
        );
        return;
    };
    let sealed = matches!(message, AgentMessage::Sealed(_));
    let most = if sealed {
        MAX_SEALED_BYTES
    } else {
        MAX_MESSAGE_BYTES
    };
    assert!(text.len() <= most);
    assert_eq!(opened.ok().as_ref(), (!sealed).then_some(&message));
    read_again(&message, text.len());
    if let AgentMessage::PreimageRelease(release) = &message
        && release.preimage.len() >= 32
        && !release.job_id.as_str().contains(&release.preimage)
    {
        assert!(!format!("{message:?}").contains(&release.preimage));
    }
    if let Some(id) = message.job_id() {
        assert!(id.as_str().len() <= 64);
    }
    if let AgentMessage::JobError(error) = &message {
        assert!(error.message.len() <= MAX_EXPLANATION_BYTES);
    }
}

/// Whatever is read is written so that it is read as the same. What was written more tersely than we write
/// (no names, or a word for an escrow that we don't know) may be too long for that.
fn read_again(message: &AgentMessage, read: usize) {
    match encode(message) {
        Ok(text) => {
            let again = decode(&text).expect("what was written is read");
            assert_eq!(&again, message);
            assert_eq!(encode(&again).expect("what was written once"), text);
        }
        Err(CodecError::TooLarge(_)) if read + 512 > MAX_MESSAGE_BYTES => {}
        Err(error) => panic!("{message:?} was read, and can't be written: {error}"),
    }
}

static BUYER: LazyLock<Sealer> =
    LazyLock::new(|| Sealer::new(Identity::from_keys(keys(5).clone())));
static SELLER: LazyLock<Sealer> =
    LazyLock::new(|| Sealer::new(Identity::from_keys(keys(3).clone())));
static BETWEEN: LazyLock<ConversationKey> =
    LazyLock::new(|| ConversationKey::derive(keys(5).secret_key(), &keys(3).public_key()).unwrap());

/// What is in a `Sealed` message: as it came, or well encrypted by a peer who can write anything.
pub fn sealed(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (how, at) = (tape.byte(), usize::from(tape.byte()));
    let buyer = keys(5).public_key();
    let inner = tape.rest();
    if how.is_multiple_of(2) {
        let payload = String::from_utf8_lossy(inner).into_owned();
        if let Ok(message) = SELLER.open(&buyer, &Sealed { payload }) {
            assert!(!matches!(message, AgentMessage::Sealed(_)), "sealed twice");
        }
        return;
    }
    if inner.is_empty() || inner.len() > 65_535 {
        return;
    }
    let mut bytes = v2::encrypt_to_bytes(&BETWEEN, inner).expect("NIP-44 takes this many");
    let payload = BASE64.encode(&bytes);
    let opened = SELLER.open(&buyer, &Sealed { payload }).ok();
    let plain = std::str::from_utf8(inner).ok();
    let expected = plain.and_then(|plain| decode_opened(plain).ok());
    assert_eq!(
        opened, expected,
        "what is inside is read as if it had come by itself"
    );
    // One bit further, and nothing opens.
    let at = at % bytes.len();
    bytes[at] ^= 1;
    let payload = BASE64.encode(&bytes);
    assert!(
        SELLER.open(&buyer, &Sealed { payload }).is_err(),
        "byte {at} altered"
    );
    let Some(message) = opened else {
        return;
    };
    if let Ok(content) = BUYER.seal(&keys(3).public_key(), &message) {
        assert!(content.len() <= MAX_SEALED_BYTES);
        let Ok(AgentMessage::Sealed(sealed)) = decode(&content) else {
            panic!("a seal that can't be read: {content}");
        };
        assert_eq!(SELLER.open(&buyer, &sealed).ok(), Some(message));
    }
}

/// The tags of a channel message: which channel, and what it answers.
pub fn channel(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (root, other) = (
        EventId::from_byte_array([1; 32]),
        EventId::from_byte_array([2; 32]),
    );
    let (names, marks) = (
        ["e", "p", "E", ""],
        ["root", "reply", "mention", "", "ROOT"],
    );
    let mut tags = Vec::new();
    while !tape.is_over() && tags.len() < 20 {
        let id = match tape.below(4) {
            0 => root.to_hex(),
            1 => other.to_hex(),
            2 => root.to_hex().to_uppercase(),
            _ => tape.text(),
        };
        let parts = [
            tape.one_of(&names).to_owned(),
            id,
            tape.text(),
            tape.one_of(&marks).to_owned(),
            tape.text(),
        ];
        let most = 1 + tape.below(parts.len());
        tags.push(parts[..most].to_vec());
    }
    let event = event(keys(3).public_key(), 42, 1_800_000_000, &tags, "{}");
    let id_of = |tag: &Vec<String>| EventId::from_hex(tag.get(1)?).ok();
    let e_tags = || tags.iter().filter(|tag| tag[0] == "e");
    let marked = |mark: &'static str| {
        e_tags()
            .filter(move |tag| tag.get(3).is_some_and(|said| said == mark))
            .find_map(id_of)
    };
    let expected = marked("root").or_else(|| e_tags().find_map(id_of));
    assert_eq!(nip28::channel_of(&event), expected);
    assert_eq!(nip28::answered(&event), marked("reply"));
    let Some(channel) = expected else {
        return;
    };
    let to = ReplyTo {
        event: other,
        author: keys(5).public_key(),
    };
    let relay = tags[0].get(2).cloned().unwrap_or_default();
    let reply = nip28::message(channel, &relay, "{}".to_owned(), Some(to));
    let reply = reply.sign_with_keys(keys(3)).expect("tags of ours");
    assert_eq!(nip28::channel_of(&reply), Some(channel));
    assert_eq!(nip28::answered(&reply), Some(other));
}

/// A request to a seller: what it quotes is what it sells.
pub fn request(data: &[u8]) {
    let mut tape = Tape::new(data);
    let terms = Terms {
        price: Price {
            per_request: Msat::new(tape.amount()),
            per_1k_tokens: Msat::new(tape.amount()),
        },
        models: vec!["echo".to_owned(), "llama3".to_owned()],
        max_tokens: u32::try_from(tape.amount()).unwrap_or(u32::MAX),
        stream: tape.flag(),
        escrow: tape.flag(),
    };
    let text = String::from_utf8_lossy(tape.rest());
    let Ok(AgentMessage::JobRequest(asked)) = decode(&text) else {
        return;
    };
    let quote = match pricing::quote(&asked, &terms) {
        Ok(quote) => quote,
        Err(refusal) => {
            let codes = ["invalid", "model", "price", "escrow"];
            assert!(codes.contains(&refusal.code), "{}", refusal.code);
            // It is said to the customer, who would not read it if it were longer.
            assert!(refusal.message.len() <= MAX_EXPLANATION_BYTES);
            return;
        }
    };
    let Price {
        per_request,
        per_1k_tokens,
    } = terms.price;
    let on_top = u128::from(per_1k_tokens.get()) * u128::from(asked.max_tokens);
    let exact = u128::from(per_request.get()) + on_top.div_ceil(1000);
    assert_eq!(u128::from(quote.price.get()), exact);
    assert!(quote.price <= asked.max_price_msats.unwrap_or(Msat::MAX).min(Msat::MAX));
    assert_eq!(asked.kind, KIND_TEXT_GENERATION);
    assert!((1..=terms.max_tokens).contains(&asked.max_tokens));
    assert!(!asked.prompt.trim().is_empty());
    assert!(terms.models.contains(&quote.model));
    assert!(asked.model.is_none_or(|model| model == quote.model));
    assert!(terms.stream || !quote.stream);
    let hash = asked.payment_hash.map(|hash| hash.parse::<PaymentHash>());
    assert_eq!(
        quote.escrow,
        hash.transpose().expect("a quote on what is no hash")
    );
    assert_eq!(
        quote.escrow.is_some(),
        asked.escrow == Some(Feature::HoldInvoice)
    );
    assert!(quote.escrow.is_none() || terms.escrow);
}

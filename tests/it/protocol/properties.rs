//! What holds for any message and any bytes.

use agent_compute::ids::JobId;
use agent_compute::protocol::message::*;
use agent_compute::protocol::{Feature, Price, codec, offer};
use agent_compute::units::{Msat, Network, UnixSecs};
use nostr::{EventBuilder, Kind, Tag};
use proptest::prelude::*;

use super::{MESSAGES, signed};

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,40}",
        "\\PC{0,20}",
        any::<String>().prop_map(|s| s.chars().take(30).collect())
    ]
}

fn some_word() -> impl Strategy<Value = Option<String>> {
    prop::option::of(word())
}

fn words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(), 0..4)
}

fn msat() -> impl Strategy<Value = Msat> {
    any::<u64>().prop_map(Msat::new)
}

fn job() -> impl Strategy<Value = JobId> {
    "[ -~]{0,40}".prop_map(JobId::from_wire)
}

fn network() -> impl Strategy<Value = Network> {
    prop::sample::select(Network::ALL.to_vec())
}

fn feature() -> impl Strategy<Value = Feature> {
    prop::sample::select(Feature::ALL.to_vec())
}

fn announcement() -> impl Strategy<Value = AgentMessage> {
    let deployed = (any::<u16>(), msat(), word(), network(), some_word());
    let rest = (words(), words(), prop::option::of(msat()), words());
    (deployed, rest).prop_map(|(a, b)| {
        AgentMessage::ServiceAnnouncement(ServiceAnnouncement {
            kind: a.0,
            price_msats: a.1,
            spark_address: a.2,
            network: a.3,
            provider_pubkey: a.4,
            models: b.0,
            capabilities: b.1,
            price_per_1k_msats: b.2,
            features: b.3,
        })
    })
}

fn request() -> impl Strategy<Value = AgentMessage> {
    let deployed = (any::<u16>(), any::<String>(), any::<u32>(), some_word());
    let ours = (
        some_word(),
        some_word(),
        any::<Option<bool>>(),
        prop::option::of(msat()),
        prop::option::of(feature()),
        some_word(),
    );
    (deployed, ours).prop_map(|(a, b)| {
        AgentMessage::JobRequest(JobRequest {
            kind: a.0,
            prompt: a.1,
            max_tokens: a.2,
            target_provider: a.3,
            nonce: b.0,
            model: b.1,
            stream: b.2,
            max_price_msats: b.3,
            escrow: b.4,
            payment_hash: b.5,
        })
    })
}

fn invoice() -> impl Strategy<Value = AgentMessage> {
    let deployed = (job(), word(), msat(), some_word());
    let ours = (
        any::<Option<u64>>(),
        some_word(),
        words(),
        any::<Option<u64>>(),
    );
    (deployed, ours).prop_map(|(a, b)| {
        AgentMessage::Invoice(Invoice {
            job_id: a.0,
            bolt11: a.1,
            amount_msats: a.2,
            payment_hash: a.3,
            expires_at: b.0.map(UnixSecs::new),
            lock_to: b.1,
            mints: b.2,
            min_lock_secs: b.3,
        })
    })
}

fn message() -> impl Strategy<Value = AgentMessage> {
    let sent = (job(), word()).prop_map(|(job_id, payment_id)| PaymentSent { job_id, payment_id });
    let result = (job(), any::<String>()).prop_map(|(job_id, result)| JobResult { job_id, result });
    let chunk = (job(), any::<String>(), any::<bool>(), any::<Option<u32>>()).prop_map(
        |(job_id, chunk, is_final, seq)| StreamChunk {
            job_id,
            chunk,
            is_final,
            seq,
        },
    );
    let locked = (job(), word(), msat(), any::<u64>(), some_word()).prop_map(
        |(job_id, payment_hash, amount_msats, expiry_secs, token)| HtlcLocked {
            job_id,
            payment_hash,
            amount_msats,
            expiry_secs,
            token,
        },
    );
    let released =
        (job(), word()).prop_map(|(job_id, preimage)| PreimageRelease { job_id, preimage });
    let failed = (job(), "[a-z_]{0,30}", word())
        .prop_map(|(job_id, code, text)| JobError::new(job_id, code, &text));
    let accepted = (job(), any::<u32>()).prop_map(|(job_id, queue_position)| JobAccepted {
        job_id,
        queue_position,
    });
    prop_oneof![
        announcement(),
        request(),
        invoice(),
        sent.prop_map(AgentMessage::PaymentSent),
        result.prop_map(AgentMessage::JobResult),
        chunk.prop_map(AgentMessage::StreamChunk),
        locked.prop_map(AgentMessage::HtlcLocked),
        released.prop_map(AgentMessage::PreimageRelease),
        failed.prop_map(AgentMessage::JobError),
        accepted.prop_map(AgentMessage::JobAccepted),
        job().prop_map(|job_id| AgentMessage::Cancel(Cancel { job_id })),
        word().prop_map(|payload| AgentMessage::Sealed(Sealed { payload })),
    ]
}

/// A tag such as listings have, or something like it.
fn hostile_tag() -> impl Strategy<Value = Vec<String>> {
    let name = prop::sample::select(vec![
        "handler",
        "handler_type",
        "capability",
        "price",
        "channel",
        "relay",
        "network",
        "model",
        "d",
        "k",
        "feature",
        "expiration",
        "status",
        "x",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "compute_provider",
            "text-generation",
            "per-request",
            "per-1k-tokens",
            "msats",
            "sats",
            "5050",
            "regtest",
            "nip44",
            "0",
            "18446744073709551615",
        ])
        .prop_map(str::to_owned),
        word(),
    ];
    (name, prop::collection::vec(value, 0..5)).prop_map(|(name, values)| {
        let mut tag = vec![name.to_owned()];
        tag.extend(values);
        tag
    })
}

proptest! {
    #[test]
    fn every_message_round_trips(message in message()) {
        let content = codec::encode(&message).unwrap();
        prop_assert_eq!(codec::decode(&content).unwrap(), message);
    }

    #[test]
    fn any_text_is_a_message_or_refused(text in any::<String>()) {
        let _ = codec::decode(&text);
    }

    #[test]
    fn any_bytes_in_a_message_are_read_or_refused(
        line in prop::sample::select(MESSAGES.lines().collect::<Vec<_>>()),
        at in any::<prop::sample::Index>(),
        cut in 0_usize..6,
        bytes in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut altered = line.as_bytes().to_vec();
        let from = at.index(altered.len());
        let to = (from + cut).min(altered.len());
        altered.splice(from..to, bytes);
        if let Ok(message) = codec::decode(&String::from_utf8_lossy(&altered)) {
            let again = codec::encode(&message).unwrap();
            prop_assert_eq!(codec::decode(&again).unwrap(), message);
        }
    }

    #[test]
    fn any_listing_makes_a_bounded_offer_or_none(
        tags in prop::collection::vec(hostile_tag(), 0..12),
        content in prop_oneof![any::<String>(), Just(r#"{"name":1,"nip90Params":[],"amount":{}}"#.to_owned())],
    ) {
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap());
        let event = signed(EventBuilder::new(Kind::from(31_990), content).tags(tags), 1);
        if let Ok(offer) = offer::from_listing(&event) {
            prop_assert!(offer.name.len() <= offer::MAX_NAME_BYTES);
            prop_assert!(offer.models.len() <= offer::MAX_MODELS);
            prop_assert_eq!(offer.provider, event.pubkey);
            let _ = offer.expected_price(u32::MAX);
        }
    }

    #[test]
    fn expected_prices_are_rounded_up_and_never_wrap(
        per_request in any::<u64>(), per_1k in any::<u64>(), max_tokens in any::<u32>(),
    ) {
        let price = Price { per_request: Msat::new(per_request), per_1k_tokens: Msat::new(per_1k) };
        let exact = u128::from(per_1k) * u128::from(max_tokens);
        let expected = u128::from(per_request) + exact.div_ceil(1000);
        let within = expected <= u128::from(Msat::MAX.get());
        prop_assert_eq!(price.of_job(max_tokens).map(|p| u128::from(p.get())), within.then_some(expected));
    }
}

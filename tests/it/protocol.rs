//! The wire, against events that deployed software wrote, and against everything else there is.

mod listings;
mod properties;

use std::collections::{BTreeMap, BTreeSet};

use agent_compute::ids::JobId;
use agent_compute::protocol::channel;
use agent_compute::protocol::codec::{self, CodecError, MAX_MESSAGE_BYTES, MAX_SEALED_BYTES};
use agent_compute::protocol::message::*;
use nostr::{Event, EventBuilder, JsonUtil, Keys, Kind, Timestamp};

const CHANNEL: &str = include_str!("../fixtures/captures/original-channel.ndjson");
const DIRECT: &str = include_str!("../fixtures/captures/original-direct.ndjson");
const FOREIGN: &str = include_str!("../fixtures/captures/nip90-ndk-and-nostrdvm.ndjson");
const MESSAGES: &str = include_str!("../fixtures/messages.ndjson");

fn events(capture: &str) -> Vec<Event> {
    let parse = |line| Event::from_json(line).unwrap();
    capture.lines().map(parse).collect()
}

fn captured() -> Vec<Event> {
    [CHANNEL, DIRECT, FOREIGN].map(events).concat()
}

fn said(event: &Event) -> AgentMessage {
    codec::decode(&event.content).unwrap()
}

fn type_of(content: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(content).unwrap();
    value["type"].as_str().unwrap().to_owned()
}

fn signed(builder: EventBuilder, at: u64) -> Event {
    let builder = builder.custom_created_at(Timestamp::from_secs(at));
    builder.sign_with_keys(&Keys::generate()).unwrap()
}

#[test]
fn deployed_messages_keep_their_bytes() {
    let mut seen = BTreeMap::new();
    for event in captured() {
        event.verify().unwrap();
        if event.kind == Kind::ChannelMessage {
            let again = codec::encode(&said(&event)).unwrap();
            assert_eq!(again, event.content);
            *seen.entry(type_of(&event.content)).or_insert(0) += 1;
        }
    }
    let types: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(
        types,
        [
            "HtlcLocked",
            "Invoice",
            "JobRequest",
            "JobResult",
            "PaymentSent",
            "PreimageRelease",
            "ServiceAnnouncement",
            "StreamChunk"
        ]
    );
}

#[test]
fn every_message_keeps_the_bytes_of_its_golden_vectors() {
    let mut types = BTreeSet::new();
    for line in MESSAGES.lines() {
        let message = codec::decode(line).unwrap();
        assert_eq!(codec::encode(&message).unwrap(), line);
        types.insert(type_of(line));
    }
    assert_eq!(types.len(), 12, "{types:?}");
}

#[test]
fn a_captured_invoice_is_bound_to_the_event_that_asked_for_it() {
    let mut requests = Vec::new();
    let mut answers = 0;
    for event in events(CHANNEL) {
        if event.kind != Kind::ChannelMessage {
            continue;
        }
        match said(&event) {
            AgentMessage::JobRequest(_) => requests.push(JobId::of_request(&event.id)),
            message => {
                let Some(job) = message.job_id() else {
                    continue;
                };
                assert_eq!(Some(job), requests.last());
                answers += 1;
            }
        }
    }
    assert_eq!(requests.len(), 2);
    assert!(answers > 40, "{answers}");
}

#[test]
fn captured_events_name_their_channel() {
    let all = events(CHANNEL);
    let made = all
        .iter()
        .find(|event| event.kind == Kind::ChannelCreation)
        .unwrap();
    let messages = all
        .iter()
        .filter(|event| event.kind == Kind::ChannelMessage);
    assert!(messages.clone().count() > 40);
    for message in messages {
        assert_eq!(channel::channel_of(message), Some(made.id));
    }
    assert_eq!(channel::channel_of(made), None);
}

#[test]
fn a_channel_is_made_with_the_bytes_of_a_deployed_one() {
    let all = events(CHANNEL);
    let deployed = all
        .iter()
        .find(|event| event.kind == Kind::ChannelCreation)
        .unwrap();
    let relays = ["wss://relay.damus.io".to_owned()];
    let about = "Agents negotiate NIP-90 jobs with Bitcoin payments";
    let ours = channel::create("OpenAgents Compute Marketplace", about, &relays);
    let ours = ours.sign_with_keys(&Keys::generate()).unwrap();
    assert_eq!(ours.content, deployed.content);
    assert_eq!(ours.tags, deployed.tags);
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let added = r#"{"new":{"a":[1]},"type":"Cancel","job_id":"job_1","why":null}"#;
    let cancel = AgentMessage::Cancel(Cancel {
        job_id: JobId::from_wire("job_1"),
    });
    assert_eq!(codec::decode(added).unwrap(), cancel);
    let absent =
        r#"{"type":"Invoice","job_id":"j","bolt11":"b","amount_msats":1,"payment_hash":null}"#;
    assert!(codec::decode(absent).is_ok());
}

#[test]
fn what_is_no_message_is_void() {
    for content in [
        "",
        "null",
        "[]",
        "hello",
        r#"{"type":"Whatever","job_id":"j"}"#,
        r#"{"job_id":"j"}"#,
        r#"{"type":"Cancel"}"#,
        r#"{"type":"Cancel","job_id":7}"#,
        r#"{"type":"Cancel","job_id":"a","job_id":"b"}"#,
        r#"{"type":"Invoice","job_id":"j","bolt11":"b","amount_msats":-1}"#,
        r#"{"type":"Invoice","job_id":"j","bolt11":"b","amount_msats":1.5}"#,
        r#"{"type":"Invoice","job_id":"j","bolt11":"b","amount_msats":18446744073709551616}"#,
        r#"{"type":"Invoice","job_id":"j","bolt11":"b","amount_msats":"1"}"#,
        r#"{"type":"ServiceAnnouncement","kind":5050,"price_msats":1,"spark_address":"","network":"bitcoin"}"#,
        r#"{"type":"ServiceAnnouncement","kind":70000,"price_msats":1,"spark_address":"","network":"regtest"}"#,
        r#"{"type":"JobRequest","kind":5050,"prompt":"p","max_tokens":4294967296}"#,
    ] {
        let refused = codec::decode(content);
        assert!(
            matches!(refused, Err(CodecError::Malformed(_))),
            "{content}"
        );
    }
    let deep = format!(
        r#"{{"type":"Cancel","job_id":"j","x":{}"#,
        "[".repeat(10_000)
    );
    assert!(codec::decode(&deep).is_err());
}

#[test]
fn sizes_are_bounded_both_ways() {
    let result = |len| {
        AgentMessage::JobResult(JobResult {
            job_id: JobId::from_wire("job_0ee45599d633f793"),
            result: "x".repeat(len),
        })
    };
    let around = codec::encode(&result(0)).unwrap().len();
    let largest = codec::encode(&result(MAX_MESSAGE_BYTES - around)).unwrap();
    assert_eq!(largest.len(), MAX_MESSAGE_BYTES);
    assert!(codec::decode(&largest).is_ok());
    let too_large = codec::encode(&result(MAX_MESSAGE_BYTES - around + 1));
    assert!(matches!(too_large, Err(CodecError::TooLarge(_))));
    let padded = format!("{largest} ");
    assert!(matches!(
        codec::decode(&padded),
        Err(CodecError::TooLarge(_))
    ));
    let huge = " ".repeat(MAX_SEALED_BYTES + 1);
    assert!(matches!(codec::decode(&huge), Err(CodecError::TooLarge(_))));
}

#[test]
fn the_largest_message_fits_once_sealed_and_is_sealed_once() {
    use nostr::nips::nip44;
    let (a, b) = (Keys::generate(), Keys::generate());
    let plaintext = "x".repeat(MAX_MESSAGE_BYTES);
    let version = nip44::Version::V2;
    let payload = nip44::encrypt(a.secret_key(), &b.public_key(), plaintext, version).unwrap();
    let sealed = AgentMessage::Sealed(Sealed { payload });
    let content = codec::encode(&sealed).unwrap();
    assert_eq!(codec::decode(&content).unwrap(), sealed);

    let inner = r#"{"type":"Sealed","payload":""}"#;
    assert!(codec::decode(inner).is_ok());
    assert!(matches!(
        codec::decode_opened(inner),
        Err(CodecError::SealedTwice)
    ));
    assert!(codec::decode_opened(r#"{"type":"Cancel","job_id":"j"}"#).is_ok());
}

#[test]
fn a_field_out_of_bounds_voids_its_message() {
    let long = "x".repeat(8_000);
    for content in [
        format!(r#"{{"type":"Cancel","job_id":"{long}"}}"#),
        format!(r#"{{"type":"Invoice","job_id":"j","bolt11":"{long}","amount_msats":1}}"#),
        format!(r#"{{"type":"PaymentSent","job_id":"j","payment_id":"{long}"}}"#),
        format!(r#"{{"type":"JobRequest","kind":1,"prompt":"p","max_tokens":1,"nonce":"{long}"}}"#),
        format!(r#"{{"type":"JobError","job_id":"j","code":"c","message":"{long}"}}"#),
    ] {
        let refused = codec::decode(&content);
        assert!(
            matches!(refused, Err(CodecError::FieldTooLong { .. })),
            "{}",
            &content[..60]
        );
    }
    let mints = vec!["\"m\""; 17].join(",");
    let many = format!(
        r#"{{"type":"Invoice","job_id":"j","bolt11":"","amount_msats":1,"mints":[{mints}]}}"#
    );
    assert!(matches!(
        codec::decode(&many),
        Err(CodecError::ListTooLong { .. })
    ));

    let explained = JobError::new(JobId::from_wire("j"), "failed", &"é".repeat(2_000));
    assert!(codec::encode(&AgentMessage::JobError(explained)).is_ok());
}

#[test]
fn a_preimage_is_not_shown() {
    let release = codec::decode(r#"{"type":"PreimageRelease","job_id":"j","preimage":"5ec4e7"}"#);
    assert!(!format!("{release:?}").contains("5ec4e7"));
}

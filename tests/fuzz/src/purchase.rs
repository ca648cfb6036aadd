//! The purchase machine: bytes are whatever can happen to a purchase, in any order, crashes included. The money it
//! books is held against an [account], which allows what the ledger's diagram allows.

mod account;

use std::sync::LazyLock;

use agent_compute::error::Code;
use agent_compute::ids::{JobId, Preimage, PurchaseId, WalletId};
use agent_compute::ledger::budget::{Refusal, RefusedBy};
use agent_compute::ledger::{StateRow, Status};
use agent_compute::protocol::codec;
use agent_compute::protocol::message::{AgentMessage, Invoice, JobError, JobResult, StreamChunk};
use agent_compute::purchase::state::{Happening, PayBy, Phase, State, Terms};
use agent_compute::purchase::step::{Now, step};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::{FailureProof, Outgoing, PayOutcome};
use nostr::{Event, EventBuilder, EventId, Kind, Timestamp};

use self::account::Run;
use super::invoice::NOW;
use super::tape::Tape;
use super::wire::keys;

const PRICE: Msat = Msat::new(10_000);

/// The first line is a state as the ledger keeps it; what follows happens to it.
pub fn row(data: &[u8]) {
    let end = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (json, rest) = data.split_at(end);
    let row = StateRow {
        json: String::from_utf8_lossy(json).into_owned(),
        label: String::new(),
        status: Status::Open,
    };
    let Ok(mut state) = State::from_row(&row) else {
        return;
    };
    let mut tape = Tape::new(rest.get(1..).unwrap_or_default());
    let mut at = NOW;
    for _ in 0..32 {
        let row = state.to_row().expect("what was read can be written");
        let again = State::from_row(&row).expect("what was written can be read");
        assert_eq!(again.to_row().expect("written again"), row);
        assert_eq!(again.terms, state.terms);
        let secret = state
            .terms
            .pay_by
            .preimage()
            .map(|preimage| preimage.reveal());
        assert!(secret.is_none_or(|secret| !format!("{:?}", state.terms.pay_by).contains(&secret)));
        if tape.is_over() {
            break;
        }
        let was_over = matches!(state.phase, Phase::Delivered { .. } | Phase::Failed { .. });
        let before = state.phase.clone();
        let Some(happening) = any_happening(&mut tape, &state, &mut at) else {
            continue;
        };
        let taken = step(&mut state, happening, now(at));
        assert!(taken.save || taken.entries.is_empty());
        assert!(!was_over || (state.phase == before && taken.effects.is_empty()));
    }
}

/// The first bytes are the terms; the others what happens.
pub fn purchase(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut run = Run::begin(&mut tape);
    for _ in 0..64 {
        if tape.is_over() {
            break;
        }
        match any_happening(&mut tape, &run.state, &mut run.at) {
            Some(happening) => run.take(happening),
            None => run.crash(),
        }
    }
}

fn now(at: u64) -> Now {
    Now {
        at: UnixSecs::new(at),
        elapsed_ms: at.saturating_sub(NOW).saturating_mul(1000),
    }
}

fn preimage(of: u8) -> Preimage {
    Preimage::from_bytes([of; 32])
}

/// Signing it takes longer than everything else here.
static REQUEST: LazyLock<Event> = LazyLock::new(|| {
    EventBuilder::new(Kind::ChannelMessage, "{}")
        .custom_created_at(Timestamp::from_secs(NOW))
        .sign_with_keys(keys(5))
        .unwrap()
});

fn terms(tape: &mut Tape<'_>) -> Terms {
    let wallet = WalletId {
        kind: "sim".to_owned(),
        account: "a".to_owned(),
    };
    Terms {
        id: PurchaseId::from_bytes([1; 16]),
        provider: keys(3).public_key(),
        channel: EventId::all_zeros(),
        model: None,
        request: REQUEST.clone(),
        network: Network::Regtest,
        pay_by: match tape.below(3) {
            0 => PayBy::Invoice(wallet),
            1 => PayBy::Escrow {
                wallet,
                preimage: preimage(9),
            },
            _ => PayBy::Nothing,
        },
        listing: None,
        listed: tape.maybe(|_| PRICE),
        max_price: tape.maybe(|tape| Msat::new(tape.amount())),
        max_fee: None,
        max_hold_secs: 86_400,
        sealed: tape.flag(),
        fingerprint: None,
        started_at: UnixSecs::new(NOW),
        deadline: UnixSecs::new(NOW + 120),
    }
}

/// What happens next; `None` is a crash.
fn any_happening(tape: &mut Tape<'_>, state: &State, at: &mut u64) -> Option<Happening> {
    let job_id = state.terms.job_id();
    Some(match tape.byte() % 32 {
        0 | 1 => from_provider(state, AgentMessage::Invoice(an_invoice(tape, state, *at))),
        2 | 3 => Happening::Prepared {
            fee_cap: Msat::new(tape.amount()),
            seen: None,
        },
        4 => Happening::PayAnswered(PayOutcome::Paid {
            preimage: proof(tape),
            fee: fee(tape),
        }),
        5 => Happening::PayAnswered(PayOutcome::Unknown {
            reason: tape.text(),
        }),
        6 => Happening::PayAnswered(PayOutcome::InFlight),
        7 => Happening::PayAnswered(PayOutcome::Failed(failure(tape))),
        8..=10 => Happening::LookedUp {
            authoritative: tape.flag(),
            found: match tape.below(4) {
                0 => Outgoing::Paid {
                    preimage: proof(tape),
                    fee: fee(tape),
                },
                1 => Outgoing::InFlight,
                2 => Outgoing::Failed(failure(tape)),
                _ => Outgoing::NotFound,
            },
        },
        11 | 12 => {
            let result = tape.text();
            from_provider(state, AgentMessage::JobResult(JobResult { job_id, result }))
        }
        13..=15 => {
            let chunk = StreamChunk {
                job_id,
                seq: tape.maybe(|tape| u32::from(tape.byte() % 8)),
                is_final: tape.byte() > 200,
                chunk: tape.text(),
            };
            from_provider(state, AgentMessage::StreamChunk(chunk))
        }
        16 => Happening::NoWholeText,
        17 => Happening::Deadline,
        18 => Happening::Interrupted,
        19 => Happening::HashUsed,
        20 => Happening::OverBudget(Refusal {
            by: RefusedBy::Daily,
            asked: PRICE,
            allowed: Msat::ZERO,
        }),
        21 => Happening::CannotPay {
            code: Code::Wallet,
            message: "it is locked".to_owned(),
        },
        22 => Happening::GiveUpLooking,
        23 => Happening::SayAgain,
        24 => {
            let error = JobError::new(job_id, "failed", &tape.text());
            from_provider(state, AgentMessage::JobError(error))
        }
        25 => Happening::NotSent(tape.text()),
        26 => Happening::Resolved { paid: tape.flag() },
        27 => from_provider(state, codec::decode(&tape.text()).ok()?),
        28 => stranger(tape, state, *at),
        29 => {
            let by = [1, 60, 3_600, 86_400, 200_000];
            *at += tape.one_of(&by);
            Happening::Deadline
        }
        30 => Happening::Resumed,
        _ => return None,
    })
}

fn from_provider(state: &State, message: AgentMessage) -> Happening {
    Happening::Message {
        from: state.terms.provider,
        message,
    }
}

/// Somebody else's word, or the provider's on another job: whatever it says, nothing may come of it.
fn stranger(tape: &mut Tape<'_>, state: &State, at: u64) -> Happening {
    let (job_id, from) = match tape.flag() {
        true => (
            JobId::from_wire("job_0000000000000000"),
            state.terms.provider,
        ),
        false => (state.terms.job_id(), keys(7).public_key()),
    };
    let message = match tape.below(3) {
        0 => AgentMessage::Invoice(Invoice {
            job_id,
            ..an_invoice(tape, state, at)
        }),
        1 => AgentMessage::JobResult(JobResult {
            job_id,
            result: tape.text(),
        }),
        _ => AgentMessage::JobError(JobError::new(job_id, "busy", "no")),
    };
    Happening::Message { from, message }
}

fn fee(tape: &mut Tape<'_>) -> Msat {
    Msat::new(tape.amount())
}

fn proof(tape: &mut Tape<'_>) -> Option<Preimage> {
    tape.maybe(|tape| preimage(9 - tape.byte() % 2))
}

fn failure(tape: &mut Tape<'_>) -> FailureProof {
    FailureProof {
        insufficient_funds: tape.flag(),
        reason: tape.text(),
    }
}

fn an_invoice(tape: &mut Tape<'_>, state: &State, at: u64) -> Invoice {
    let flaws = tape.byte();
    let flawed = |bit: u8| flaws & (1 << bit) != 0;
    let amount = if flawed(0) {
        Msat::new(tape.amount())
    } else {
        PRICE
    };
    let draft = Draft {
        network: if flawed(1) {
            Network::Mainnet
        } else {
            Network::Regtest
        },
        amount: (!flawed(2)).then_some(amount),
        payment_hash: preimage(if flawed(3) { 8 } else { 9 }).payment_hash(),
        payment_secret: [4; 32],
        description: "a job".to_owned(),
        created_at: UnixSecs::new(at),
        expiry_secs: if flawed(4) {
            u64::from(tape.byte())
        } else {
            300
        },
        min_final_cltv: if flawed(5) {
            u64::from(tape.byte())
        } else {
            18
        },
    };
    let bolt11 = match state.terms.pay_by {
        PayBy::Nothing if !flawed(6) => "lnbcrt100n1mock".to_owned(),
        _ if flawed(6) => tape.text(),
        _ => sign(&draft, keys(4).secret_key()).unwrap_or_default(),
    };
    Invoice {
        expires_at: flawed(7).then_some(UnixSecs::new(at + 300)),
        payment_hash: tape.maybe(|tape| preimage(9 - tape.byte() % 2).payment_hash().to_string()),
        ..Invoice::new(state.terms.job_id(), bolt11, amount)
    }
}

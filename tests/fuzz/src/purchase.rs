//! The purchase machine: bytes are whatever can happen to a purchase, in any order, crashes included. The money it
//! books is held against an account kept here, which allows what the ledger's diagram allows.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use agent_compute::error::Code;
use agent_compute::ids::{JobId, PaymentHash, Preimage, PurchaseId, WalletId};
use agent_compute::ledger::budget::{Refusal, RefusedBy};
use agent_compute::ledger::{Entry, StateRow, Status};
use agent_compute::protocol::codec;
use agent_compute::protocol::message::{AgentMessage, Invoice, JobError, JobResult, StreamChunk};
use agent_compute::purchase::event::PurchaseEvent;
use agent_compute::purchase::state::{
    Booking, Effect, Finish, Happening, PayBy, Phase, State, Step, Terms,
};
use agent_compute::purchase::step::{Now, step};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::{FailureProof, Outgoing, PayOutcome};
use nostr::{Event, EventBuilder, EventId, Kind, Timestamp};

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

/// Where the money is, by the entries so far. `None`: none was ever set aside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Money {
    Reserved,
    InFlight,
    Unknown,
    Settled { spent: Msat },
    Released,
}

impl Money {
    const fn is_open(self) -> bool {
        matches!(self, Self::Reserved | Self::InFlight | Self::Unknown)
    }
}

/// A purchase, its money, and what the buyer was shown.
struct Run {
    state: State,
    /// As it is on record.
    row: StateRow,
    at: u64,
    money: Option<Money>,
    reserved: Option<(Msat, PaymentHash)>,
    pays: u32,
    shown: String,
    shown_in_order: bool,
    said: Said,
}

/// What the provider has said of the order of its text, in numbered pieces.
#[derive(Default)]
struct Said {
    pieces: BTreeMap<u32, (String, bool)>,
    unnumbered: bool,
    two_things: bool,
}

impl Said {
    fn hear(&mut self, chunk: &StreamChunk) {
        match chunk.seq {
            None => self.unnumbered = true,
            Some(seq) => {
                let piece = (chunk.chunk.clone(), chunk.is_final);
                let before = self.pieces.insert(seq, piece.clone());
                self.two_things |= before.is_some_and(|before| before != piece);
            }
        }
        let ends = self.pieces.values().filter(|(_, is_final)| *is_final);
        self.two_things |= ends.count() > 1 || (self.unnumbered && !self.pieces.is_empty());
    }
}

impl Run {
    fn begin(tape: &mut Tape<'_>) -> Self {
        let state = State::new(terms(tape));
        Self {
            row: state.to_row().expect("a new state"),
            state,
            at: NOW,
            money: None,
            reserved: None,
            pays: 0,
            shown: String::new(),
            shown_in_order: true,
            said: Said::default(),
        }
    }

    /// The process is gone, and with it what was not on record. Another takes the purchase up.
    fn crash(&mut self) {
        self.state = State::from_row(&self.row).expect("what is on record can be read");
        self.shown.clear();
        self.shown_in_order = true;
        self.said = Said::default();
        self.take(Happening::Resumed);
    }

    fn take(&mut self, happening: Happening) {
        let before = self.state.clone();
        let not_ours = matches!(&happening, Happening::Message { from, message }
            if *from != before.terms.provider || message.job_id() != Some(&before.terms.job_id()));
        if let Happening::Message {
            message: AgentMessage::StreamChunk(chunk),
            ..
        } = &happening
            && !not_ours
            && before.phase.takes_results()
        {
            self.said.hear(chunk);
        }
        let taken = step(&mut self.state, happening, now(self.at));
        if not_ours {
            assert_eq!(self.state, before);
            assert!(taken.effects.is_empty() && taken.entries.is_empty() && taken.tell.is_empty());
        }
        assert_eq!(
            self.state.terms, before.terms,
            "the terms were fixed before"
        );
        if matches!(before.phase, Phase::Delivered { .. } | Phase::Failed { .. }) {
            assert_eq!(self.state.phase, before.phase, "what is over stays over");
            assert!(taken.effects.is_empty() && taken.entries.is_empty());
        }
        for booking in &taken.entries {
            self.book(booking);
        }
        self.keep(&taken);
        self.show(&taken);
        for effect in &taken.effects {
            self.allow(effect, &before, &taken);
        }
        self.money_fits();
    }

    /// As the ledger's diagram has it.
    fn book(&mut self, booking: &Booking) {
        let entry = match booking {
            Booking::Reserve {
                price,
                fee_cap,
                payment_hash,
                wallet,
                ..
            } => {
                assert_eq!(self.money.replace(Money::Reserved), None, "set aside twice");
                let terms = &self.state.terms;
                assert_eq!(Some(wallet), terms.pay_by.wallet());
                let ceiling = [terms.listed, terms.max_price].into_iter().flatten().min();
                assert!(ceiling.is_none_or(|ceiling| *price <= ceiling) && !price.is_zero());
                let ours = terms.pay_by.preimage().map(|ours| ours.payment_hash());
                assert!(
                    ours.is_none_or(|ours| ours == *payment_hash),
                    "an escrow on another's hash"
                );
                self.reserved = Some((price.saturating_add(*fee_cap), *payment_hash));
                return;
            }
            Booking::Plain(entry) => entry,
        };
        let next = match (entry, self.money) {
            (Entry::Note(_) | Entry::Observe(_) | Entry::Receipt(_), money) => money,
            (Entry::InFlight, Some(Money::Reserved | Money::Unknown)) => Some(Money::InFlight),
            (Entry::Unknown { .. }, Some(Money::InFlight | Money::Unknown)) => Some(Money::Unknown),
            (Entry::Settle { price, fee }, Some(money)) if money.is_open() => {
                Some(Money::Settled {
                    spent: price.saturating_add(*fee),
                })
            }
            (Entry::Release { proof }, Some(money)) if money.is_open() => {
                assert!(
                    !proof.trim().is_empty(),
                    "the ledger takes no release without words"
                );
                Some(Money::Released)
            }
            (entry, money) => panic!("the ledger does not allow {entry:?} when {money:?}"),
        };
        self.money = next;
    }

    /// What must be on record is, and is read back as it was.
    fn keep(&mut self, taken: &Step) {
        let phase = &self.state.phase;
        if !taken.save {
            assert!(taken.entries.is_empty());
            let never_kept = matches!(phase, Phase::Quoted(_));
            assert!(never_kept || phase.label() == self.row.label, "not saved");
            assert_eq!(phase.status(), self.row.status);
            return;
        }
        let row = self.state.to_row().expect("a state can be written");
        let read = State::from_row(&row).expect("what is on record can be read");
        assert_eq!(read.to_row().expect("written again"), row);
        assert_eq!(read.terms, self.state.terms);
        self.row = row;
    }

    fn show(&mut self, taken: &Step) {
        for event in &taken.tell {
            match event {
                PurchaseEvent::Chunk { text, in_order, .. } => {
                    self.shown.push_str(text);
                    self.shown_in_order &= in_order;
                }
                PurchaseEvent::Released { .. } => {
                    assert_eq!(self.row.label, "released", "the result is on record first");
                }
                _ => {}
            }
        }
    }

    fn allow(&mut self, effect: &Effect, before: &State, taken: &Step) {
        match effect {
            Effect::Pay => {
                self.pays += 1;
                let set_aside = taken
                    .entries
                    .iter()
                    .any(|entry| matches!(entry, Booking::Reserve { .. }));
                assert!(
                    self.pays == 1 && set_aside && taken.save,
                    "paid without a reservation"
                );
                let hash = self
                    .state
                    .phase
                    .quote()
                    .and_then(|quote| quote.invoice.as_ref());
                let hash = hash.map(|invoice| invoice.payment_hash);
                assert_eq!(hash, self.reserved.map(|(_, hash)| hash));
            }
            Effect::Say(message) => self.may_say(message, before, taken),
            Effect::Finish(finish) => self.may_end(finish),
            Effect::LookUp | Effect::WatchOrder => {
                assert!(self.money.is_some_and(Money::is_open), "nothing to look up");
            }
            Effect::Prepare | Effect::WaitForWallet(_) | Effect::AwaitWholeText => {}
        }
    }

    fn may_say(&self, message: &AgentMessage, before: &State, taken: &Step) {
        let job = self.state.terms.job_id();
        assert_eq!(message.job_id(), Some(&job));
        codec::encode(message).expect("what we say, others can read");
        let pay_by = &self.state.terms.pay_by;
        let open = self.money.is_some_and(Money::is_open);
        let settled = matches!(self.money, Some(Money::Settled { .. }));
        match message {
            // Deployed providers begin on it.
            AgentMessage::PaymentSent(_) => match pay_by {
                PayBy::Invoice(_) => assert!(settled, "PaymentSent, and it is not paid"),
                PayBy::Escrow { .. } => assert!(open || settled),
                PayBy::Nothing => assert_eq!(self.money, None),
            },
            AgentMessage::HtlcLocked(_) => assert!(open && pay_by.is_escrow()),
            AgentMessage::PreimageRelease(_) => {
                let Phase::Released { text, .. } = &self.state.phase else {
                    panic!("the preimage is let go in {:?}", self.state.phase);
                };
                let was = matches!(before.phase, Phase::Released { .. });
                assert!(
                    !text.is_empty() && (taken.save || was),
                    "let go before it is on record"
                );
            }
            AgentMessage::Cancel(_) => assert!(!settled, "cancelled what is paid"),
            other => panic!("a buyer does not say {other:?}"),
        }
        if !matches!(message, AgentMessage::PreimageRelease(_)) {
            let said = codec::encode(message).unwrap_or_default();
            assert!(
                pay_by
                    .preimage()
                    .is_none_or(|secret| !said.contains(&secret.reveal()))
            );
        }
    }

    /// What the buyer is told fits where the money is.
    fn may_end(&self, finish: &Finish) {
        let receipt = self.state.receipt();
        match finish {
            Finish::Delivered => {
                let receipt = receipt.expect("delivered, and no receipt");
                assert!(!receipt.text.is_empty(), "delivered nothing");
                let spent = match self.money {
                    Some(Money::Settled { spent }) => spent,
                    _ => Msat::ZERO,
                };
                assert_eq!(receipt.paid_msat, spent);
            }
            Finish::Failed { code, message } => {
                assert!(!message.is_empty());
                match code {
                    Code::PaymentUnknown => assert!(self.money.is_some_and(Money::is_open)),
                    Code::Undelivered => {
                        assert_ne!(self.state.phase.status(), Status::Delivered);
                        assert_ne!(
                            self.money.is_none(),
                            self.state.terms.pay_by.wallet().is_some()
                        );
                    }
                    Code::Interrupted => {}
                    _ => {
                        assert!(
                            matches!(self.money, None | Some(Money::Released)),
                            "{code:?}: {message}"
                        );
                        assert_eq!(self.state.phase.status(), Status::Failed);
                    }
                }
            }
        }
    }

    fn money_fits(&self) {
        let phase = &self.state.phase;
        let open = self.money.is_some_and(Money::is_open);
        assert_eq!(
            phase.is_undecided(),
            open,
            "{} with {:?}",
            phase.label(),
            self.money
        );
        if self.state.terms.pay_by.wallet().is_none() {
            assert_eq!(self.money, None, "paid without a wallet");
        }
        match phase.status() {
            Status::Failed => assert!(matches!(self.money, None | Some(Money::Released))),
            Status::Delivered => assert!(!open),
            Status::Open | Status::Undelivered => assert_ne!(self.money, Some(Money::Released)),
        }
        if let Some(settled) = phase.settled() {
            let booked = match self.money {
                Some(Money::Settled { spent }) => spent,
                _ => Msat::ZERO,
            };
            assert_eq!(
                settled.paid(),
                booked,
                "the state and the ledger say two things"
            );
            let hash = self.reserved.map(|(_, hash)| hash);
            let proves = |preimage: &Preimage| Some(preimage.payment_hash()) == hash;
            assert!(
                settled.preimage.as_ref().is_none_or(proves),
                "a proof of another payment"
            );
        }
        // Of a stream that says two things the whole text decides.
        let bound = self.shown_in_order && !self.shown.is_empty() && !self.said.two_things;
        let whole = self.state.receipt().map(|receipt| receipt.text);
        if let Some(whole) = whole.filter(|_| bound) {
            assert_eq!(
                self.shown, whole,
                "what was shown in order is not the result"
            );
        }
    }
}

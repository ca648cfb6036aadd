//! A purchase as it must go: its money held against what the ledger's diagram allows, and what the buyer was shown
//! against what the provider said.

use std::collections::BTreeMap;

use agent_compute::error::Code;
use agent_compute::ids::{PaymentHash, Preimage};
use agent_compute::ledger::{Entry, StateRow, Status};
use agent_compute::protocol::codec;
use agent_compute::protocol::message::{AgentMessage, StreamChunk};
use agent_compute::purchase::event::PurchaseEvent;
use agent_compute::purchase::state::{
    Booking, Effect, Finish, Happening, PayBy, Phase, State, Step,
};
use agent_compute::purchase::step::step;
use agent_compute::units::Msat;

use super::{NOW, Tape, now, terms};

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
pub(super) struct Run {
    pub(super) state: State,
    /// As it is on record.
    row: StateRow,
    pub(super) at: u64,
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
    pub(super) fn begin(tape: &mut Tape<'_>) -> Self {
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
    pub(super) fn crash(&mut self) {
        self.state = State::from_row(&self.row).expect("what is on record can be read");
        self.shown.clear();
        self.shown_in_order = true;
        self.said = Said::default();
        self.take(Happening::Resumed);
    }

    pub(super) fn take(&mut self, happening: Happening) {
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

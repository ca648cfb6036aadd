//! A buyer's process around the purchase machine: what `purchase::driver` and `purchase::recover` do, in
//! one thread, where any of it may be cut off between any two steps.

use std::collections::VecDeque;
use std::str::FromStr;

use agent_compute::Code;
use agent_compute::ids::{PaymentHash, Preimage, PurchaseId, WalletId};
use agent_compute::ledger::Entry;
use agent_compute::protocol::message::{AgentMessage, JobRequest};
use agent_compute::protocol::{Feature, KIND_TEXT_GENERATION};
use agent_compute::purchase::state::{Effect, Finish, Happening, PayBy, Phase, State, Step, Terms};
use agent_compute::purchase::step::{Now, step};
use agent_compute::units::{Network, UnixSecs};
use agent_compute::wallet::Outgoing;
use nostr::{Event, EventId, Kind, PublicKey, Tags, Timestamp};

use super::books::No;
use super::evidence::{Heard, Proof};
use super::wire::Letter;
use super::world::{LISTED, World};

/// How long the buyer waits for all of it, in milliseconds.
const TIMEOUT_MS: u64 = 120_000;

/// The order to pay, as long as the wallet has not answered it.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub begun: bool,
}

/// A purchase under way in a living process.
#[derive(Clone, Debug)]
pub struct Run {
    pub state: State,
    pub version: u64,
    queue: VecDeque<Happening>,
    publishes: bool,
    pub prepares: bool,
    /// A look-up is under way.
    pub looks: bool,
    pub deadline_ms: u64,
    whole_text: bool,
    doubt: bool,
    again: bool,
    pub resumed: bool,
    pub stored_only: bool,
    /// So many of the letters on their way are what the relays have stored.
    pub stored_left: usize,
    finished: Option<Finish>,
    /// What was shown of the result, and whether all of it came in order.
    pub shown: String,
    pub in_order: bool,
}

/// One purchase, dead or alive.
#[derive(Clone, Debug)]
pub struct Buyer {
    pub key: PublicKey,
    pub terms: Terms,
    pub account: usize,
    pub process: u32,
    pub run: Option<Run>,
    pub order: Option<Order>,
    /// An order of a process that died, which its wallet has yet to take up.
    pub stray: bool,
    /// What the buyer was told in the end.
    pub told: Option<Result<(), Code>>,
    /// How often the wallet was told to pay.
    pub pays: u32,
    /// What its provider said that could be a result, in the present run.
    pub heard: Heard,
    /// Whether its provider took back its own word on the text, and the same before its last word, which may
    /// not have got on record.
    pub spoiled: bool,
    pub spoiled_before: bool,
    /// What proves that a payment failed.
    pub proof: Proof,
    /// The same before the last word of the wallet, which may not have got on record.
    pub proof_before: Proof,
}

impl Run {
    pub fn new(state: State, version: u64, deadline_ms: u64) -> Self {
        Self {
            state,
            version,
            queue: VecDeque::new(),
            publishes: false,
            prepares: false,
            looks: false,
            deadline_ms,
            whole_text: false,
            doubt: false,
            again: false,
            resumed: false,
            stored_only: false,
            stored_left: 0,
            finished: None,
            shown: String::new(),
            in_order: true,
        }
    }
}

/// What became of putting a step on record.
pub enum Put {
    Done,
    Refused(Happening),
    Stale,
    /// The ledger could not be written, as far as anybody can tell.
    Failed,
    /// The process is dead.
    Dead,
}

impl World {
    /// Puts a purchase on record and sets it going.
    pub fn begin_purchase(&mut self, escrow: bool) {
        let number = u8::try_from(self.buyers.len()).unwrap() + 1;
        let wallet = WalletId {
            kind: "sim".to_owned(),
            account: "buyer".to_owned(),
        };
        let secret = escrow.then(|| Preimage::from_bytes(self.bytes()));
        let pay_by = match secret {
            _ if self.case.adversary.no_wallet => PayBy::Nothing,
            Some(preimage) => PayBy::Escrow { wallet, preimage },
            None => PayBy::Invoice(wallet),
        };
        let key = PublicKey::from_byte_array([number; 32]);
        let started_at = self.wall();
        let terms = Terms {
            id: PurchaseId::from_bytes([number; 16]),
            provider: self.provider,
            channel: EventId::all_zeros(),
            model: None,
            request: request(key, EventId::from_byte_array(self.bytes()), started_at),
            network: Network::Regtest,
            pay_by,
            listing: None,
            listed: Some(LISTED),
            max_price: None,
            max_fee: None,
            max_hold_secs: 86_400,
            sealed: false,
            fingerprint: None,
            started_at,
            deadline: started_at.plus(TIMEOUT_MS / 1_000),
        };
        let state = State::new(terms.clone());
        let process = u32::from(number);
        let account = self.books.open(state.to_row().unwrap(), process);
        let mut run = Run::new(state, 1, self.at_ms() + TIMEOUT_MS);
        run.publishes = true;
        self.wire.to_buyers.push(Vec::new());
        self.buyers.push(Buyer {
            key,
            terms,
            account,
            process,
            run: Some(run),
            order: None,
            stray: false,
            told: None,
            pays: 0,
            heard: Heard::default(),
            spoiled: false,
            spoiled_before: false,
            proof: Proof::default(),
            proof_before: Proof::default(),
        });
    }

    /// A message reaches some buyer that listens, unless its time is up.
    pub fn hear_buyer(&mut self) {
        let b = self.below(self.buyers.len());
        let Some(run) = &self.buyers[b].run else {
            return;
        };
        if self.at_ms() >= run.deadline_ms {
            return self.feed(b, Happening::Deadline);
        }
        let Some(letter) = self.next_letter(|wire| &mut wire.to_buyers[b]) else {
            return;
        };
        let Letter { from, message, .. } = letter;
        self.feed(b, Happening::Message { from, message });
        if let Some(run) = &mut self.buyers[b].run
            && run.stored_left > 0
        {
            run.stored_left -= 1;
            let found = matches!(run.state.phase, Phase::Released { .. });
            if run.stored_left == 0 && run.stored_only && !found {
                self.feed(b, Happening::Deadline);
            }
        }
    }

    /// Something that a buyer waits for is done.
    pub fn serve_buyer(&mut self) {
        let b = self.below(self.buyers.len());
        let turn = self.below(4);
        let Some(run) = &mut self.buyers[b].run else {
            return self.order_turn(b);
        };
        match turn {
            0 if run.publishes => {
                run.publishes = false;
                self.publish(b);
            }
            1 if run.prepares => {
                run.prepares = false;
                let ready = self.prepare(b);
                self.feed(b, ready);
            }
            2 if run.looks => {
                if let Some(found) = self.look_up(b) {
                    if let Some(run) = &mut self.buyers[b].run {
                        run.looks = false;
                    }
                    self.feed(b, found);
                }
            }
            _ => self.order_turn(b),
        }
    }

    /// The wallet has to do with an order to pay.
    fn order_turn(&mut self, b: usize) {
        let Some(answer) = self.order_answer(b) else {
            return;
        };
        self.buyers[b].order = None;
        self.feed(b, Happening::PayAnswered(answer));
    }

    fn publish(&mut self, b: usize) {
        if self.hits(self.case.adversary.odds.refuse) {
            return self.feed(b, Happening::NotSent("no relay took it".to_owned()));
        }
        let terms = &self.buyers[b].terms;
        let hash = terms.pay_by.preimage().map(|it| it.payment_hash());
        let request = JobRequest {
            nonce: Some("00".repeat(16)),
            stream: Some(true),
            escrow: hash.is_some().then_some(Feature::HoldInvoice),
            payment_hash: hash.map(|hash| hash.to_string()),
            max_price_msats: Some(LISTED),
            ..JobRequest::new(KIND_TEXT_GENERATION, "a question", 100, terms.provider)
        };
        let letter = Letter {
            from: self.buyers[b].key,
            event: terms.request.id,
            message: AgentMessage::JobRequest(request),
        };
        self.post_to_seller(letter);
    }

    /// Some timer of a buyer rings, early or late: what else happens may take any time.
    pub fn ring(&mut self) {
        let b = self.below(self.buyers.len());
        let turn = self.below(5);
        let Some(run) = &mut self.buyers[b].run else {
            return;
        };
        match turn {
            0 if run.whole_text => {
                run.whole_text = false;
                self.feed(b, Happening::NoWholeText);
            }
            1 if run.doubt => {
                run.doubt = false;
                self.feed(b, Happening::GiveUpLooking);
            }
            2 if run.again => self.feed(b, Happening::SayAgain),
            3 if self.hits(200) => self.feed(b, Happening::Deadline),
            _ => {}
        }
    }

    /// What a driver hears out of turn: of a session that ended, of timers that outlived their reason, of an
    /// answer that comes twice.
    pub fn surprise_buyer(&mut self, b: usize) {
        let happening = match self.below(7) {
            0 => Happening::NotSent("the relay session ended".to_owned()),
            1 => Happening::SayAgain,
            2 => Happening::NoWholeText,
            3 => Happening::GiveUpLooking,
            4 => Happening::Resumed,
            5 => Happening::CannotPay {
                code: Code::Wallet,
                message: "locked; nothing was paid".to_owned(),
            },
            _ => self.prepare(b),
        };
        self.feed(b, happening);
    }

    pub fn stop_buyer(&mut self, b: usize) {
        self.feed(b, Happening::Interrupted);
    }

    /// Feeds a run, and all that comes of it.
    pub fn feed(&mut self, b: usize, happening: Happening) {
        let mut next = Some(happening);
        while let Some(happening) = next {
            if self.buyers[b].run.is_none() || self.is_broken() {
                return;
            }
            self.take(b, happening);
            next = self.buyers[b]
                .run
                .as_mut()
                .and_then(|run| run.queue.pop_front());
            let finished = self.buyers[b]
                .run
                .as_ref()
                .and_then(|run| run.finished.clone());
            if let Some(finish) = finished {
                return self.finish(b, &finish);
            }
        }
    }

    /// Decide, commit, act.
    fn take(&mut self, b: usize, happening: Happening) {
        let run = self.buyers[b].run.as_ref().unwrap();
        let mut state = run.state.clone();
        let resumed = run.resumed;
        let Some((before, next)) = self.decide(b, &mut state, &happening) else {
            return;
        };
        let looked_up = matches!(happening, Happening::LookedUp { .. });
        let in_flight = matches!(
            happening,
            Happening::LookedUp {
                found: Outgoing::InFlight,
                ..
            }
        );
        let run = self.buyers[b].run.as_mut().unwrap();
        run.state = state;
        let version = run.version;
        if next.save {
            let row_of = run.state.clone();
            match self.put(b, &row_of, version, &next) {
                Put::Done => self.buyers[b].run.as_mut().unwrap().version += 1,
                Put::Dead => return,
                Put::Failed => return self.books_closed(b, before.phase),
                other => {
                    let run = self.buyers[b].run.as_mut().unwrap();
                    run.state.phase = before.phase;
                    match other {
                        Put::Refused(happening) => run.queue.push_front(happening),
                        _ => run.prepares = true,
                    }
                    return;
                }
            }
        }
        self.show(b, &next);
        let run = self.buyers[b].run.as_mut().unwrap();
        let phase = &run.state.phase;
        let waits = matches!(phase, Phase::Released { .. } | Phase::Withheld { .. });
        if in_flight && !waits {
            run.doubt = false;
        } else if phase.is_in_doubt() && !looked_up {
            run.doubt = true;
        }
        if looked_up && phase.is_undecided() {
            run.looks = true;
        }
        self.act_all(b, next.effects, resumed);
    }

    /// One step of the machine, and what must hold of it.
    pub fn decide(
        &mut self,
        b: usize,
        state: &mut State,
        happening: &Happening,
    ) -> Option<(State, Step)> {
        let now = Now {
            at: self.wall(),
            elapsed_ms: 7,
        };
        let before = state.clone();
        self.hear_evidence(b, &before, happening);
        let next = step(state, happening.clone(), now);
        self.steps += 1;
        let (was, is, save) = (before.phase.label(), state.phase.label(), next.save);
        self.log(|| {
            let mut what = format!("{happening:?}");
            what.truncate(what.floor_char_boundary(170));
            let effects: Vec<String> = next.effects.iter().map(name_of).collect();
            let saved = if save { ", on record" } else { "" };
            format!("buyer {b}: {what}: {was} -> {is}{saved} {effects:?}")
        });
        self.check_step(b, &before, state, happening, &next, now);
        (!self.is_broken()).then_some((before, next))
    }

    /// Puts a step on record, if the process lives to see it.
    pub fn put(&mut self, b: usize, state: &State, version: u64, next: &Step) -> Put {
        let odds = self.case.adversary.odds;
        if self.dies(b) {
            self.forget_last_word(b);
            return Put::Dead;
        }
        let entries: Vec<Entry> = next
            .entries
            .iter()
            .map(|it| it.entry(self.books.limits))
            .collect();
        let row = state.to_row().unwrap();
        self.check_row(state, &row);
        let fails = self.hits(odds.books);
        if fails && self.flip() {
            self.forget_last_word(b);
            self.log(|| "  the ledger can't be written".to_owned());
            return Put::Failed;
        }
        let buyer = &self.buyers[b];
        let key = (buyer.account, buyer.process, version);
        let wall = self.wall();
        match self.books.commit(key, row, &entries, wall) {
            Ok(_) => {}
            Err(No::Refused(refusal)) => {
                self.log(|| format!("  refused: {refusal}"));
                return Put::Refused(Happening::OverBudget(refusal));
            }
            Err(No::HashUsed) => return Put::Refused(Happening::HashUsed),
            Err(No::Stale) => return Put::Stale,
            Err(No::Conflict) => {
                self.broke("a purchase that this process owns was changed by another");
                return Put::Failed;
            }
            Err(No::Illegal(why)) => {
                self.broke(format!("not a step that the ledger allows: {why}"));
                return Put::Failed;
            }
        }
        self.check_record(b, state);
        if entries.iter().any(|it| matches!(it, Entry::Reserve(_))) {
            self.check_reserve(b);
        }
        if fails {
            self.log(|| "  the ledger says that it can't be written, and it was".to_owned());
            return Put::Failed;
        }
        if self.dies(b) {
            return Put::Dead;
        }
        Put::Done
    }

    /// The books can't be written: the purchase ends here, for recovery to go on with.
    fn books_closed(&mut self, b: usize, before: Phase) {
        let code = if before.is_undecided() {
            Code::PaymentUnknown
        } else if !before.paid().is_zero() {
            Code::Undelivered
        } else {
            Code::Ledger
        };
        self.end_run(b, Err(code));
    }

    fn act_all(&mut self, b: usize, effects: Vec<Effect>, resumed: bool) {
        for effect in effects {
            if self.dies(b) {
                return;
            }
            let now = self.at_ms();
            let Some(run) = &mut self.buyers[b].run else {
                return;
            };
            match effect {
                Effect::Say(message) => {
                    run.again |= matches!(message, AgentMessage::PreimageRelease(_));
                    let (from, event) = (self.buyers[b].key, self.buyers[b].terms.request.id);
                    self.post_to_seller(Letter {
                        from,
                        event,
                        message,
                    });
                }
                Effect::Prepare => run.prepares = true,
                Effect::Pay => self.give_order(b),
                Effect::LookUp | Effect::WatchOrder => run.looks = true,
                Effect::WaitForWallet(patience) => {
                    run.doubt = true;
                    let until = now + u64::try_from(patience.as_millis()).unwrap();
                    if !resumed {
                        run.deadline_ms = run.deadline_ms.max(until);
                    }
                }
                Effect::AwaitWholeText => run.whole_text = true,
                Effect::Finish(finish) => run.finished = Some(finish),
            }
        }
    }

    fn finish(&mut self, b: usize, finish: &Finish) {
        self.check_finish(b, finish);
        let told = match finish {
            Finish::Delivered => Ok(()),
            Finish::Failed { code, .. } => Err(*code),
        };
        self.end_run(b, told);
    }

    fn end_run(&mut self, b: usize, told: Result<(), Code>) {
        self.log(|| format!("buyer {b} is told {told:?}"));
        let buyer = &mut self.buyers[b];
        buyer.run = None;
        buyer.told = Some(told);
        self.wire.to_buyers[b].clear();
    }

    /// Whether the process dies at this very point.
    fn dies(&mut self, b: usize) -> bool {
        let dead = self.hits(self.case.adversary.odds.kill_buyer);
        if dead {
            self.kill_buyer(b);
        }
        dead
    }

    pub fn kill_buyer(&mut self, b: usize) {
        self.log(|| format!("buyer {b} is killed"));
        self.wire.to_buyers[b].clear();
        let not_begun = self.buyers[b].order.is_some_and(|order| !order.begun);
        // A wallet elsewhere may have the order on its way to it still.
        let stray = not_begun && !self.authoritative && self.hits(500);
        let buyer = &mut self.buyers[b];
        buyer.stray |= stray;
        buyer.order = None;
        buyer.run = None;
        buyer.process += 16;
    }

    /// The hash that this purchase pays or would pay to, if it has a quote.
    pub fn hash_of(state: &State) -> Option<(PaymentHash, UnixSecs)> {
        let invoice = state.phase.quote()?.invoice.as_ref()?;
        Some((invoice.payment_hash, invoice.expires_at))
    }
}

/// An event that carries a request. Nobody verifies it here.
fn request(author: PublicKey, id: EventId, at: UnixSecs) -> Event {
    let signature = nostr::secp256k1::schnorr::Signature::from_str(&"07".repeat(64)).unwrap();
    Event::new(
        id,
        author,
        Timestamp::from_secs(at.get()),
        Kind::ChannelMessage,
        Tags::new(),
        "{}",
        signature,
    )
}

fn name_of(effect: &Effect) -> String {
    let mut name = format!("{effect:?}");
    name.truncate(name.floor_char_boundary(40));
    name
}

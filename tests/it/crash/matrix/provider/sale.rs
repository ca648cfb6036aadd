//! One sale: a seller of its own, a buyer or two, and what must have become of it all.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::customer::{count, nothing};
use super::super::market::{Market, Party, end_within, until_ready};
use super::*;
use crate::openai::server::{Server, Step, stream};

/// How long a process may take to come by its point.
const SOON: Duration = Duration::from_secs(20);

/// What happens while the seller is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sale {
    /// It starts; a buyer comes when it is back.
    Start,
    PaidFirst,
    Escrow,
    /// The backend takes a while.
    Slow,
    SlowInEscrow,
    /// The backend is busy with somebody else's job.
    Queue,
    QueueInEscrow,
    /// The backend takes nothing.
    Undone,
    UndoneInEscrow,
    /// The buyer wants more tokens than anybody gets.
    Refused,
    /// The buyer is dead, with an invoice unpaid, and the seller is told to stop.
    Leaving,
}

impl Sale {
    const fn is_escrow(self) -> bool {
        matches!(self, Escrow | SlowInEscrow | QueueInEscrow | UndoneInEscrow)
    }

    pub(super) const fn has_a_waiting_buyer(self) -> bool {
        !matches!(self, Start | Leaving)
    }

    /// How the purchase ends, and what it costs.
    const fn ends(self) -> (i32, u64) {
        match self {
            Undone => (7, PRICE),
            UndoneInEscrow => (7, 0),
            Refused => (10, 0),
            _ => (0, PRICE),
        }
    }
}

/// The servers that sellers work with.
pub(in super::super) struct Backends {
    nothing: Server,
    /// Says nothing to a prompt that begins with `slow` until that is let go.
    pub(in super::super) slow: Server,
    let_go: Arc<Mutex<HashSet<String>>>,
}

impl Backends {
    pub(in super::super) async fn new() -> Self {
        let let_go: Arc<Mutex<HashSet<String>>> = Arc::default();
        let goes = Arc::clone(&let_go);
        let slow = Server::chat(move |request| {
            let prompt = &request.body["messages"][0]["content"];
            let prompt = prompt.as_str().unwrap();
            match prompt.starts_with("slow") && !goes.lock().unwrap().contains(prompt) {
                true => vec![Step::Hang],
                false => stream(&["one ", "two ", "three"]),
            }
        })
        .await;
        Self {
            nothing: nothing().await,
            slow,
            let_go,
        }
    }

    /// From now on this prompt is answered.
    pub(in super::super) fn let_go(&self, prompt: &str) {
        self.let_go.lock().unwrap().insert(prompt.to_owned());
    }
}

/// Where sales take place.
pub(super) struct Bench<'a> {
    market: Market,
    backends: &'a Backends,
}

/// A sale whose seller is dead, or back.
pub(super) struct Selling<'a> {
    bench: &'a Bench<'a>,
    sale: Sale,
    seller: Party,
    process: Running,
    /// With what they ask for.
    buyers: Vec<(Party, String, Option<Running>)>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(backends: &'a Backends) -> Self {
        Self {
            market: Market::new(),
            backends,
        }
    }

    fn seller(&self, sale: Sale, seller: &Party) -> Command {
        let server = match sale {
            Slow | SlowInEscrow | Queue | QueueInEscrow => &self.backends.slow,
            Undone | UndoneInEscrow => &self.backends.nothing,
            _ => return self.market.seller(seller, &[]),
        };
        let args = ["--backend", "openai", "--backend-url", &server.url];
        let mut command = self.market.seller(seller, &args);
        command.args(["--max-jobs", "1"]);
        command
    }

    fn buy(&self, sale: Sale, seller: &Party, buyer: &Party, prompt: &str) -> Command {
        let mut kind = vec!["--prompt", prompt];
        if sale.is_escrow() {
            kind.push("--htlc");
        }
        if sale == Refused {
            kind.extend(["--max-tokens", "40000"]);
        }
        self.market.buy(buyer, &seller.key(), Some("k"), &kind)
    }

    /// A sale in which the seller has died there, and the buyer with it if `both`.
    pub(super) fn cut_off(&self, sale: Sale, at: At, both: bool) -> Result<Selling<'_>, String> {
        let seller = self.market.party("seller");
        let process = Running::start(at.arm(&mut self.seller(sale, &seller)));
        let mut selling = Selling {
            bench: self,
            sale,
            seller,
            process,
            buyers: Vec::new(),
        };
        if sale != Start {
            until_ready(&mut selling.process);
            selling.buyers_come();
        }
        if sale == Leaving {
            selling.process.signal("TERM");
        }
        selling.is_dead()?;
        if both {
            selling.kill_buyers();
        }
        Ok(selling)
    }
}

impl Selling<'_> {
    fn buyers_come(&mut self) {
        match self.sale {
            Slow | SlowInEscrow => self.buyer_comes("slow"),
            Queue | QueueInEscrow => {
                self.buyer_comes("slow");
                let slow = self.buyers[0].1.clone();
                crate::harness::eventually("the backend is asked", || {
                    let asked = self.bench.backends.slow.bodies();
                    asked.iter().any(|body| body.to_string().contains(&slow))
                });
                self.buyer_comes("quick");
            }
            Leaving => {
                let buyer = self.bench.market.buyer();
                let mut buy = self.bench.buy(self.sale, &self.seller, &buyer, TEXT);
                let dead = Ended::of(At::before(CustomerReserve).arm(&mut buy));
                assert!(dead.was_killed(), "{dead:#?}");
                self.buyers.push((buyer, TEXT.to_owned(), None));
            }
            _ => self.buyer_comes(TEXT),
        }
    }

    /// A buyer asks; a prompt for the slow backend is made one of its own.
    fn buyer_comes(&mut self, prompt: &str) {
        let buyer = self.bench.market.buyer();
        let prompt = match prompt {
            TEXT => TEXT.to_owned(),
            kind => format!("{kind}, for {}", buyer.home),
        };
        let mut buy = self.bench.buy(self.sale, &self.seller, &buyer, &prompt);
        let buying = Running::start(&mut buy);
        self.buyers.push((buyer, prompt, Some(buying)));
    }

    fn kill_buyers(&mut self) {
        for (_, _, buying) in &mut self.buyers {
            if let Some(mut buying) = buying.take() {
                buying.kill();
            }
        }
    }

    fn is_dead(&mut self) -> Result<(), String> {
        match end_within(&mut self.process, SOON) {
            Some(status) if was_killed(status) => Ok(()),
            ended => Err(format!("the seller: {ended:?}")),
        }
    }

    /// Is started again, only to die there.
    pub(super) fn dies_again(&mut self, at: At) -> Result<(), String> {
        let mut command = self.bench.seller(self.sale, &self.seller);
        self.process = Running::start(at.arm(&mut command));
        self.is_dead()
    }

    pub(super) fn restart(&mut self) {
        for (_, prompt, _) in &self.buyers {
            self.bench.backends.let_go(prompt);
        }
        let mut command = self.bench.seller(self.sale, &self.seller);
        self.process = Running::start(&mut command);
        until_ready(&mut self.process);
        if self.sale == Start {
            self.buyers_come();
        }
    }

    /// Sees every purchase to its end, asks for it once more, and checks everything.
    pub(super) fn comes_back(mut self, why: &str) {
        let market = &self.bench.market;
        let mut spent = 0;
        for (buyer, prompt, buying) in &mut self.buyers {
            let (code, price) = self.sale.ends();
            if let Some(buying) = buying {
                let last = last_line(buying);
                assert_eq!(buying.exit_code(), Some(code), "{why}: {last}");
            }
            market.recover(buyer, why);
            let story = market.story(buyer, why);
            let bought = story.labels().contains(&"delivered");
            assert!(
                bought == (story.spent > 0) || code != 0,
                "{why}: {story:#?}"
            );
            let mut again = self.bench.buy(self.sale, &self.seller, buyer, prompt);
            Ended::of(&mut again).expect(code, why);
            market.recover(buyer, why);
            let story = market.story(buyer, why);
            assert_eq!(story.spent, price, "{why}: {story:#?}");
            let delivered = count(&story.labels(), "delivered");
            assert_eq!(delivered, usize::from(code == 0), "{why}: {story:#?}");
            spent += story.spent;
        }
        self.is_over(spent, why);
    }

    /// By the seller's own books nothing is left to be done, and what it was paid is what they spent.
    fn is_over(&self, spent: u64, why: &str) {
        let market = &self.bench.market;
        let jobs = match self.sale {
            // It never had one.
            Refused => Vec::new(),
            _ => market.jobs_once_over(&self.seller, why),
        };
        assert_eq!(market.earned(&self.seller), spent, "{why}: {jobs:?}");
        let states: Vec<&str> = jobs.iter().map(String::as_str).collect();
        let paid = ["delivered", "settled", "failed"].map(|state| count(&states, state));
        let paid: usize = paid.iter().sum();
        assert_eq!(paid as u64 * PRICE, spent, "{why}: {jobs:?}");
    }
}

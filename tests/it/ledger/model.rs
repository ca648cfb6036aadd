//! Random sequences of everything that can be done to a ledger, against a plain model of it.

use proptest::prelude::*;

use super::*;

const TIGHT: Limits = Limits {
    daily: Msat::new(1_000),
    per_tick: Msat::new(600),
    per_job: Msat::new(400),
    floor: Msat::ZERO,
};
const TICKS: [&str; 2] = ["a", "b"];

/// Purchases and handles are named by an index that wraps around.
#[derive(Clone, Debug)]
enum Op {
    /// Moves the clock by so many seconds, back too.
    Clock(i64),
    Open {
        by: usize,
        tick: Option<usize>,
    },
    Commit {
        by: usize,
        purchase: usize,
        entry: Kind,
        stale: bool,
    },
    Adopt {
        by: usize,
        purchase: usize,
    },
    /// The process ends and begins again, as another owner.
    Restart(usize),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reserve(u64),
    /// A hash that was there before.
    ReserveAgain,
    InFlight,
    Unknown,
    Settle(u64),
    Release,
    Note,
}

fn any_op() -> impl Strategy<Value = Op> {
    let entry = prop_oneof![
        4 => (0..450_u64).prop_map(Kind::Reserve),
        1 => Just(Kind::ReserveAgain),
        3 => Just(Kind::InFlight),
        2 => Just(Kind::Unknown),
        3 => (0..500_u64).prop_map(Kind::Settle),
        2 => Just(Kind::Release),
        1 => Just(Kind::Note),
    ];
    let (by, purchase) = (0..2_usize, 0..64_usize);
    prop_oneof![
        1 => (-90_000..90_000_i64).prop_map(Op::Clock),
        3 => (by.clone(), proptest::option::of(0..2_usize))
            .prop_map(|(by, tick)| Op::Open { by, tick }),
        10 => (by.clone(), purchase.clone(), entry, proptest::bool::weighted(0.05))
            .prop_map(|(by, purchase, entry, stale)| Op::Commit { by, purchase, entry, stale }),
        2 => (by.clone(), purchase).prop_map(|(by, purchase)| Op::Adopt { by, purchase }),
        1 => by.prop_map(Op::Restart),
    ]
}

struct Bought {
    id: PurchaseId,
    tick: Option<usize>,
    owner: String,
    version: u64,
    money: Option<Money>,
}

#[derive(Clone, Copy)]
struct Money {
    status: ReservationStatus,
    aside: u64,
    spent: u64,
    closed_day: u64,
}

/// What the ledger ought to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Conflict,
    Illegal,
    HashUsed,
    Refused(RefusedBy),
}

impl Said {
    fn of<T: std::fmt::Debug>(answer: &Result<T, LedgerError>) -> Self {
        match answer {
            Ok(_) => Self::Done,
            Err(LedgerError::Conflict(_)) => Self::Conflict,
            Err(LedgerError::Illegal(_)) => Self::Illegal,
            Err(LedgerError::HashUsed(_)) => Self::HashUsed,
            Err(LedgerError::Refused(refusal)) => Self::Refused(refusal.by),
            Err(other) => panic!("{other}"),
        }
    }
}

struct Model {
    dir: TempDir,
    clock: Clock,
    /// The latest time at which something was written.
    time: UnixSecs,
    handles: Vec<Ledger>,
    bought: Vec<Bought>,
    used_hash: PaymentHash,
}

impl Model {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(NOON);
        let handles = vec![open(&dir, &clock).await, open(&dir, &clock).await];
        Self {
            dir,
            clock,
            time: UnixSecs::new(0),
            handles,
            bought: Vec::new(),
            used_hash: hash(),
        }
    }

    fn now(&self) -> UnixSecs {
        self.time.max(self.clock.now())
    }

    /// Spent and open, of one tick or of all.
    fn total(&self, counts: impl Fn(&Bought, &Money) -> bool) -> u64 {
        let of = |it: &Bought| {
            let money = it.money.filter(|money| counts(it, money))?;
            Some(match money.status {
                ReservationStatus::Settled => money.spent,
                ReservationStatus::Released => 0,
                _ => money.aside,
            })
        };
        self.bought.iter().filter_map(of).sum()
    }

    fn usage(&self, tick: Option<usize>) -> Usage {
        let today = self.now().utc_day();
        let settled = |money: &Money| money.status == ReservationStatus::Settled;
        let unknown = |money: &Money| money.status == ReservationStatus::Unknown;
        let same = |it: &Bought| tick.is_some() && it.tick == tick;
        let sum = |counts: &dyn Fn(&Bought, &Money) -> bool| Msat::new(self.total(counts));
        Usage {
            spent_today: sum(&|_, money| settled(money) && money.closed_day == today),
            reserved: sum(&|_, money| money.status.is_open()),
            unknown: sum(&|_, money| unknown(money)),
            tick_spent: sum(&|it, money| same(it) && settled(money)),
            tick_reserved: sum(&|it, money| same(it) && money.status.is_open()),
            tick_unknown: sum(&|it, money| same(it) && unknown(money)),
        }
    }

    /// The diagram and the limits once more, written the other way round: by state, then by entry.
    fn expect(&self, at: usize, entry: Kind) -> (Said, Option<Money>) {
        use ReservationStatus as Is;
        let it = &self.bought[at];
        let day = self.now().utc_day();
        let done = |status, money: Money| (Said::Done, Some(Money { status, ..money }));
        let close = |status, spent, money: Money| {
            let closed_day = day;
            done(
                status,
                Money {
                    spent,
                    closed_day,
                    ..money
                },
            )
        };
        let Some(money) = it.money else {
            return match entry {
                Kind::Note => (Said::Done, None),
                Kind::Reserve(amount) => self.expect_reserve(it.tick, amount),
                Kind::ReserveAgain => (Said::HashUsed, None),
                _ => (Said::Illegal, None),
            };
        };
        match (money.status, entry) {
            (_, Kind::Note) => (Said::Done, it.money),
            (Is::Reserved | Is::Unknown, Kind::InFlight) => done(Is::InFlight, money),
            (Is::InFlight | Is::Unknown, Kind::Unknown) => done(Is::Unknown, money),
            (Is::Reserved | Is::InFlight | Is::Unknown, Kind::Release) => {
                close(Is::Released, 0, money)
            }
            (Is::Reserved | Is::InFlight | Is::Unknown | Is::Released, Kind::Settle(spent)) => {
                close(Is::Settled, spent, money)
            }
            _ => (Said::Illegal, it.money),
        }
    }

    fn expect_reserve(&self, tick: Option<usize>, amount: u64) -> (Said, Option<Money>) {
        let usage = self.usage(tick);
        let in_tick = usage.tick_spent.get() + usage.tick_reserved.get() + amount;
        let today = usage.spent_today.get() + usage.reserved.get() + amount;
        let refused = if amount > 400 {
            RefusedBy::PerJob
        } else if in_tick > 600 {
            RefusedBy::PerTick
        } else if today > 1_000 {
            RefusedBy::Daily
        } else {
            let money = Money {
                status: ReservationStatus::Reserved,
                aside: amount,
                spent: 0,
                closed_day: 0,
            };
            return (Said::Done, Some(money));
        };
        (Said::Refused(refused), None)
    }

    fn entry(&self, kind: Kind) -> Entry {
        match kind {
            Kind::Reserve(msat) => Entry::Reserve(Reserve {
                price: Msat::new(msat - msat / 10),
                fee_cap: Msat::new(msat / 10),
                limits: TIGHT,
                ..reserve(0)
            }),
            Kind::ReserveAgain => Entry::Reserve(Reserve {
                payment_hash: self.used_hash,
                limits: TIGHT,
                ..reserve(1)
            }),
            Kind::InFlight => Entry::InFlight,
            Kind::Unknown => Entry::Unknown {
                reason: "no answer".to_owned(),
            },
            Kind::Settle(msat) => Entry::Settle {
                price: Msat::new(msat - msat / 7),
                fee: Msat::new(msat / 7),
            },
            Kind::Release => release(),
            Kind::Note => Entry::Note("a remark".to_owned()),
        }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Clock(by) => {
                let now = self.clock.now();
                let to = match u64::try_from(by) {
                    Ok(on) => now.plus(on),
                    Err(_) => now.minus(by.unsigned_abs()),
                };
                self.clock.set(to);
            }
            Op::Open { by, tick } => {
                let new = NewPurchase {
                    tick: tick.map(|tick| TICKS[tick].to_owned()),
                    ..new_purchase()
                };
                let record = opened(&self.handles[by], new).await;
                self.time = self.now();
                assert_eq!(record.created_at, self.time);
                self.bought.push(Bought {
                    id: record.id,
                    tick,
                    owner: record.owner,
                    version: record.version,
                    money: None,
                });
            }
            Op::Commit {
                by,
                purchase,
                entry,
                stale,
            } if !self.bought.is_empty() => {
                self.commit(by, purchase % self.bought.len(), entry, stale)
                    .await;
            }
            Op::Adopt { by, purchase } if !self.bought.is_empty() => {
                self.adopt(by, purchase % self.bought.len()).await;
            }
            Op::Restart(by) => {
                // The new process may begin before the old one has ended.
                self.handles[by] = open(&self.dir, &self.clock).await;
            }
            Op::Commit { .. } | Op::Adopt { .. } => {}
        }
    }

    async fn commit(&mut self, by: usize, at: usize, kind: Kind, stale: bool) {
        let it = &self.bought[at];
        let (said, money) = if stale || it.owner != self.handles[by].owner() {
            (Said::Conflict, it.money)
        } else {
            self.expect(at, kind)
        };
        let version = it.version - u64::from(stale);
        let answer = self.handles[by]
            .commit(it.id, version, state(Status::Open), vec![self.entry(kind)])
            .await;
        assert_eq!(Said::of(&answer), said, "{kind:?}: {answer:?}");
        if let Ok(version) = answer {
            self.time = self.now();
            let it = &mut self.bought[at];
            assert_eq!(version, it.version + 1);
            (it.version, it.money) = (version, money);
        }
    }

    async fn adopt(&mut self, by: usize, at: usize) {
        let it = &self.bought[at];
        let other = &self.handles[1 - by];
        let answer = self.handles[by].adopt(it.id, it.version).await;
        let lives = it.owner == other.owner();
        assert_eq!(answer.is_err(), lives, "{answer:?}");
        if let Ok(record) = answer {
            if it.owner != record.owner {
                self.time = self.now();
            }
            let it = &mut self.bought[at];
            (it.owner, it.version) = (record.owner, record.version);
        }
    }

    /// The ledger agrees with the model, and both with what may never be.
    async fn check(&self, before: &[Option<Money>]) {
        let ledger = &self.handles[0];
        for tick in [None, Some(0), Some(1)] {
            let name = tick.map(|tick| TICKS[tick]);
            let report = ledger.budget(PLAY, name, TIGHT).await.unwrap();
            assert_eq!(report.usage, self.usage(tick), "{tick:?}");
            assert!(report.usage.unknown <= report.usage.reserved);
            assert!(report.usage.tick_reserved <= report.usage.reserved);
        }
        for (was, is) in before.iter().zip(&self.bought) {
            if let Some(was) = was.filter(|was| was.status == ReservationStatus::Settled) {
                let is = is.money.unwrap();
                assert_eq!((is.status, is.spent), (was.status, was.spent));
            }
        }
        for it in &self.bought {
            let record = ledger.purchase(it.id).await.unwrap();
            assert_eq!((&record.owner, record.version), (&it.owner, it.version));
            let money = record.reservation.map(|money| money.status);
            assert_eq!(money, it.money.map(|money| money.status));
        }
        assert_eq!(ledger.time().await.unwrap(), self.now());
    }
}

async fn run(ops: Vec<Op>) {
    let mut model = Model::new().await;
    // One reservation of nothing, so that there is a hash that was used.
    let once = Reserve {
        payment_hash: model.used_hash,
        ..reserve(0)
    };
    ask(&model.handles[0], None, once).await.unwrap();
    model.time = model.now();
    for op in ops {
        let before: Vec<Option<Money>> = model.bought.iter().map(|it| it.money).collect();
        let said = format!("{op:?}");
        let reserved = matches!(
            op,
            Op::Commit {
                entry: Kind::Reserve(_),
                ..
            }
        );
        let held = model.usage(None).reserved;
        model.apply(op).await;
        model.check(&before).await;
        let now = model.usage(None);
        if reserved && now.reserved > held {
            let used = now.spent_today.saturating_add(now.reserved);
            assert!(used <= TIGHT.daily, "{said}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_done_the_ledger_agrees_with_a_plain_model(
        ops in proptest::collection::vec(any_op(), 1..40)
    ) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(run(ops));
    }
}

//! Who is in the way: each adversary as a few habits and the odds of a few accidents.

/// What a provider sends as its quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotes {
    /// One invoice, as listed.
    Fair,
    /// Another price than the listed one.
    Dearer,
    /// One price in the message, another in the invoice.
    Disagrees,
    /// An invoice of another network.
    OtherNetwork,
    /// One that can no longer be paid.
    Expired,
    /// One that leaves the amount to the payer.
    Amountless,
    /// One on a hash that this buyer has in its books already.
    UsedHash,
    /// One on a hash of its own where the buyer's was asked for, and a message that names another hash.
    OtherHash,
    /// One from the future.
    Future,
    /// One that lets it keep the money in flight for weeks.
    LongHold,
    /// One that stays payable for months.
    LongLife,
    /// No invoice at all: text, a mock, an altered invoice.
    Garbage,
    /// Two invoices, both as listed.
    Twice,
    /// What deployed providers without a wallet send.
    Mock,
    /// Silence.
    Never,
    /// A refusal.
    Refuses,
}

/// What a provider sends as its answer, once it likes the state of the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Pieces, and the whole text.
    Fair,
    /// Silence.
    Never,
    /// A text without a letter.
    Empty,
    /// Pieces, the last one missing, and never a whole.
    Truncated,
    /// Pieces in any order.
    Reordered,
    /// Everything twice.
    Duplicated,
    /// More than anybody takes.
    Oversized,
    /// Pieces, and a whole that is another text.
    Contradicts,
    /// Pieces with a gap, and a whole in which what came after the gap is missing.
    Gap,
    /// Pieces without numbers, the middle one missing, and never a whole.
    Unnumbered,
    /// An error.
    Fails,
    /// An error, and then a result.
    FailsAtFirst,
    /// Pieces without end.
    Endless,
    /// The result before there is any money.
    Early,
}

/// How often something goes wrong, in a thousandth of the times that it could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// A relay loses a message for good.
    pub lose: u32,
    /// A relay delivers a message twice.
    pub double: u32,
    /// Messages overtake each other.
    pub reorder: u32,
    /// A relay says again what was said long ago.
    pub replay: u32,
    /// A copy of a message comes from another key, or about another job.
    pub alter: u32,
    /// A relay does not take the request.
    pub refuse: u32,
    /// A relay dies: what it has not delivered comes again from its store.
    pub die: u32,
    /// The buyer's wallet does not answer.
    pub mute_wallet: u32,
    /// It gives no answer to the order to pay, whether it pays or not.
    pub doubt: u32,
    /// It refuses to pay.
    pub no_route: u32,
    /// It takes its time.
    pub slow: u32,
    /// Of a payment under way it says that there is none, or that it failed: never the latter twice in a row.
    pub misread: u32,
    /// It does not tell the preimage, or another one.
    pub no_preimage: u32,
    /// Routing costs more than was allowed.
    pub overrun: u32,
    /// The buyer's process dies.
    pub kill_buyer: u32,
    /// The seller's process dies.
    pub kill_seller: u32,
    /// The buyer's ledger can't be written; what it says of that may be wrong.
    pub books: u32,
    /// The buyer's wall clock jumps.
    pub clock: u32,
    /// The owner stops the purchase.
    pub stop: u32,
    /// The owner says what became of a payment, and is right.
    pub owner: u32,
    /// Something is heard out of turn.
    pub surprise: u32,
    /// Hours go by.
    pub leap: u32,
    /// The backend fails.
    pub backend: u32,
}

/// One adversary.
#[derive(Clone, Copy, Debug)]
pub struct Adversary {
    /// Its name: a stable word.
    pub word: &'static str,
    /// `None`: the provider is the honest one, with its states, its store and its crashes.
    pub rogue: Option<(Quotes, Answers)>,
    /// Whether others speak under keys of their own about the buyer's jobs.
    pub forger: bool,
    /// Whether the provider keeps money that was paid to an ordinary invoice in flight.
    pub sits: bool,
    /// Whether it has learned the preimage of an escrow by some other way than from the buyer.
    pub leaks: bool,
    /// Whether the buyer pays nothing to anybody, and says so.
    pub no_wallet: bool,
    /// Whether a customer without honour buys beside the honest one.
    pub pest: bool,
    /// The accidents.
    pub odds: Odds,
    /// Whether paying first is at risk here by its nature. Escrow never is.
    pub risk: bool,
}

const CALM: Odds = Odds {
    lose: 0,
    double: 0,
    reorder: 0,
    replay: 0,
    alter: 0,
    refuse: 0,
    die: 0,
    mute_wallet: 0,
    doubt: 0,
    no_route: 0,
    slow: 0,
    misread: 0,
    no_preimage: 0,
    overrun: 0,
    kill_buyer: 0,
    kill_seller: 0,
    books: 0,
    clock: 0,
    stop: 0,
    owner: 0,
    surprise: 0,
    leap: 20,
    backend: 0,
};

const HONEST: Adversary = Adversary {
    word: "honest",
    rogue: None,
    forger: false,
    sits: false,
    leaks: false,
    no_wallet: false,
    pest: false,
    odds: CALM,
    risk: false,
};

/// A provider that is up to something: with its money it may always do nothing, so paying first is at risk.
const fn rogue(word: &'static str, quotes: Quotes, answers: Answers, risk: bool) -> Adversary {
    Adversary {
        word,
        rogue: Some((quotes, answers)),
        risk,
        ..HONEST
    }
}

/// Everybody is honest, and something breaks.
const fn accident(word: &'static str, odds: Odds, risk: bool) -> Adversary {
    Adversary {
        word,
        odds,
        risk,
        ..HONEST
    }
}

/// Everything that breaks in a moderate way, all at once.
const STORM: Odds = Odds {
    lose: 30,
    double: 150,
    reorder: 500,
    replay: 60,
    alter: 100,
    refuse: 30,
    die: 20,
    mute_wallet: 200,
    doubt: 300,
    no_route: 60,
    slow: 400,
    misread: 250,
    no_preimage: 300,
    overrun: 0,
    kill_buyer: 30,
    kill_seller: 10,
    books: 15,
    clock: 15,
    stop: 8,
    owner: 20,
    surprise: 60,
    leap: 80,
    backend: 50,
};

/// All of them.
pub const ADVERSARIES: &[Adversary] = &[
    HONEST,
    Adversary {
        forger: true,
        ..rogue("forged_author", Quotes::Fair, Answers::Fair, false)
    },
    rogue("bait_and_switch", Quotes::Dearer, Answers::Fair, false),
    rogue("two_prices", Quotes::Disagrees, Answers::Fair, false),
    rogue("double_invoice", Quotes::Twice, Answers::Fair, false),
    rogue("wrong_network", Quotes::OtherNetwork, Answers::Fair, false),
    rogue("expired_invoice", Quotes::Expired, Answers::Fair, false),
    rogue(
        "amountless_invoice",
        Quotes::Amountless,
        Answers::Fair,
        false,
    ),
    rogue("used_hash", Quotes::UsedHash, Answers::Never, false),
    rogue("other_hash", Quotes::OtherHash, Answers::Never, false),
    rogue("future_invoice", Quotes::Future, Answers::Fair, false),
    rogue("long_hold", Quotes::LongHold, Answers::Fair, false),
    rogue("long_life", Quotes::LongLife, Answers::Fair, false),
    rogue("no_invoice", Quotes::Garbage, Answers::Fair, false),
    rogue("refusal", Quotes::Refuses, Answers::Never, false),
    rogue("ghost_before_payment", Quotes::Never, Answers::Never, false),
    rogue("ghost_after_payment", Quotes::Fair, Answers::Never, true),
    rogue("empty_result", Quotes::Fair, Answers::Empty, true),
    rogue("truncated_stream", Quotes::Fair, Answers::Truncated, true),
    rogue("reordered_stream", Quotes::Fair, Answers::Reordered, false),
    rogue(
        "duplicated_stream",
        Quotes::Fair,
        Answers::Duplicated,
        false,
    ),
    rogue("oversized_result", Quotes::Fair, Answers::Oversized, true),
    rogue("endless_stream", Quotes::Fair, Answers::Endless, true),
    rogue("contradiction", Quotes::Fair, Answers::Contradicts, true),
    rogue("gap", Quotes::Fair, Answers::Gap, true),
    rogue("unnumbered_gap", Quotes::Fair, Answers::Unnumbered, true),
    rogue("error_after_payment", Quotes::Fair, Answers::Fails, true),
    rogue(
        "error_then_result",
        Quotes::Fair,
        Answers::FailsAtFirst,
        false,
    ),
    rogue("early_result", Quotes::Fair, Answers::Early, true),
    Adversary {
        sits: true,
        ..rogue("sits_on_money", Quotes::Fair, Answers::Never, true)
    },
    Adversary {
        no_wallet: true,
        ..rogue("no_wallet", Quotes::Mock, Answers::Fair, false)
    },
    Adversary {
        no_wallet: true,
        ..rogue("no_wallet_for_a_bill", Quotes::Twice, Answers::Fair, false)
    },
    Adversary {
        leaks: true,
        ..rogue("leaked_preimage", Quotes::Fair, Answers::Never, true)
    },
    Adversary {
        pest: true,
        ..HONEST_BESIDE_A_PEST
    },
    accident("relay_drops", Odds { lose: 200, ..CALM }, true),
    accident(
        "relay_doubles",
        Odds {
            double: 500,
            ..CALM
        },
        false,
    ),
    accident(
        "relay_reorders",
        Odds {
            reorder: 900,
            ..CALM
        },
        false,
    ),
    accident(
        "relay_replays",
        Odds {
            replay: 200,
            ..CALM
        },
        false,
    ),
    accident("relay_alters", Odds { alter: 500, ..CALM }, false),
    accident(
        "relay_refuses",
        Odds {
            refuse: 500,
            ..CALM
        },
        false,
    ),
    accident("relay_dies", Odds { die: 80, ..CALM }, false),
    accident(
        "wallet_mute",
        Odds {
            mute_wallet: 700,
            ..CALM
        },
        false,
    ),
    accident("wallet_doubts", Odds { doubt: 800, ..CALM }, false),
    accident(
        "wallet_refuses",
        Odds {
            no_route: 500,
            ..CALM
        },
        false,
    ),
    accident("wallet_slow", Odds { slow: 900, ..CALM }, false),
    accident(
        "wallet_misreads",
        Odds {
            doubt: 500,
            slow: 600,
            misread: 600,
            leap: 150,
            ..CALM
        },
        false,
    ),
    accident(
        "wallet_no_preimage",
        Odds {
            no_preimage: 900,
            ..CALM
        },
        false,
    ),
    accident(
        "wallet_overruns",
        Odds {
            overrun: 700,
            ..CALM
        },
        false,
    ),
    accident(
        "buyer_killed",
        Odds {
            kill_buyer: 120,
            ..CALM
        },
        false,
    ),
    accident(
        "seller_killed",
        Odds {
            kill_seller: 120,
            ..CALM
        },
        true,
    ),
    accident(
        "both_killed",
        Odds {
            kill_buyer: 100,
            kill_seller: 100,
            doubt: 300,
            ..CALM
        },
        true,
    ),
    accident("disk_fails", Odds { books: 200, ..CALM }, false),
    accident("clock_jumps", Odds { clock: 200, ..CALM }, false),
    accident(
        "owner_stops",
        Odds {
            stop: 60,
            doubt: 400,
            kill_buyer: 20,
            owner: 300,
            ..CALM
        },
        false,
    ),
    accident(
        "driver_surprised",
        Odds {
            surprise: 700,
            doubt: 300,
            ..CALM
        },
        false,
    ),
    accident(
        "backend_breaks",
        Odds {
            backend: 700,
            ..CALM
        },
        true,
    ),
    accident("storm", STORM, true),
    Adversary {
        odds: STORM,
        forger: true,
        ..rogue("storm_and_ghost", Quotes::Twice, Answers::Never, true)
    },
    Adversary {
        odds: STORM,
        forger: true,
        sits: true,
        ..rogue("storm_and_liar", Quotes::Fair, Answers::Contradicts, true)
    },
    Adversary {
        odds: STORM,
        ..rogue("storm_and_gap", Quotes::Fair, Answers::Gap, true)
    },
    Adversary {
        odds: STORM,
        ..rogue(
            "storm_and_turncoat",
            Quotes::Fair,
            Answers::FailsAtFirst,
            true,
        )
    },
];

/// Customers: payment messages for nothing, jobs and hashes of others, locks that are none, results kept.
const HONEST_BESIDE_A_PEST: Adversary = Adversary {
    word: "hostile_customer",
    odds: Odds { leap: 200, ..CALM },
    ..HONEST
};

/// The adversary of this name.
pub fn named(word: &str) -> Option<&'static Adversary> {
    ADVERSARIES.iter().find(|it| it.word == word)
}

/// How many buyers there are, and how they pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// One buyer that pays first.
    First,
    /// One buyer that pays into escrow.
    Escrow,
    /// Two buyers, in two processes, on one ledger whose limits admit one of them at a time.
    Pair,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Escrow, Self::Pair];
}

/// What one attempt is made of, beside the adversary.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub adversary: &'static Adversary,
    pub setting: Setting,
    pub seed: u64,
    /// At most so many happenings before the world calms down and every end must come.
    pub most: u32,
}

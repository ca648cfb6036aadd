//! Sellers, honest and not: what each is called, what may at most be lost to it, how an attempt to buy from
//! it may end. What they do is in [`quoting`](super::quoting) and [`delivering`](super::delivering).

use agent_compute::Code;

/// How a seller behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seller {
    /// The real provider.
    Provider,
    /// Plays by the rules, and is played.
    Honest,
    /// Somebody else answers in its name, first.
    ForgedAuthor,
    /// Asks more than it lists.
    BaitAndSwitch,
    /// Says one amount and invoices another.
    Understated,
    /// Sends two invoices for one job.
    DoubleInvoice,
    WrongNetwork,
    Expired,
    Amountless,
    /// An invoice that pays an accomplice.
    SomeoneElses,
    /// An invoice that somebody else has paid.
    UsedInvoice,
    /// The invoice of the purchase before.
    ReusedInvoice,
    /// An invoice under another job's name.
    OtherJobs,
    /// An invoice that lets it hold the money for weeks.
    LongHold,
    /// Text that is no invoice.
    Garbage,
    /// Paid first: an invoice that holds the money and never settles.
    Trap,
    /// Lists a feature that it has not.
    LyingListing,
    /// Lists a price above what the owner allows, or none, and asks for more than that.
    OverLimit,
    /// Never answers.
    GhostBefore,
    /// Takes the money, or sees it locked, and is gone.
    GhostAfter,
    /// Says no to the request.
    Refuses,
    /// The money, then an error.
    ErrorText,
    Empty,
    /// A stream with a hole, and no end.
    Truncated,
    Reordered,
    Duplicated,
    /// A message that no relay or reader should take.
    Oversized,
    Endless,
    /// Streams one text and concludes with another.
    Contradicting,
    Escapes,
    /// The result comes when the buyer has given up.
    Late,
    /// The result comes before any invoice, and no invoice.
    Free,
    /// Delivers, and never claims what is locked.
    NeverClaims,
    /// Tries to claim what is locked without delivering.
    ClaimsEarly,
    /// Says again all that it said of the purchase before.
    Replays,
}

use Seller::{
    Amountless, BaitAndSwitch, ClaimsEarly, Contradicting, DoubleInvoice, Duplicated, Empty,
    Endless, ErrorText, Escapes, Expired, ForgedAuthor, Free, Garbage, GhostAfter, GhostBefore,
    Honest, Late, LongHold, LyingListing, NeverClaims, OtherJobs, OverLimit, Oversized, Provider,
    Refuses, Reordered, Replays, ReusedInvoice, SomeoneElses, Trap, Truncated, Understated,
    UsedInvoice, WrongNetwork,
};

/// How an attempt ended: with a result, or with this code.
pub type End = Result<(), Code>;

/// Time ran out: where depends on how busy the machine is.
const OUT_OF_TIME: [End; 3] = [
    Err(Code::Timeout),
    Err(Code::Undelivered),
    Err(Code::PaymentUnknown),
];

impl Seller {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Provider,
        Honest,
        ForgedAuthor,
        BaitAndSwitch,
        Understated,
        DoubleInvoice,
        WrongNetwork,
        Expired,
        Amountless,
        SomeoneElses,
        UsedInvoice,
        ReusedInvoice,
        OtherJobs,
        LongHold,
        Garbage,
        Trap,
        LyingListing,
        OverLimit,
        GhostBefore,
        GhostAfter,
        Refuses,
        ErrorText,
        Empty,
        Truncated,
        Reordered,
        Duplicated,
        Oversized,
        Endless,
        Contradicting,
        Escapes,
        Late,
        Free,
        NeverClaims,
        ClaimsEarly,
        Replays,
    ];

    /// The stable word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Provider => "honest provider",
            Honest => "honest peer",
            ForgedAuthor => "forged author",
            BaitAndSwitch => "bait and switch",
            Understated => "understated invoice",
            DoubleInvoice => "double invoice",
            WrongNetwork => "wrong network",
            Expired => "expired invoice",
            Amountless => "amountless invoice",
            SomeoneElses => "someone else's invoice",
            UsedInvoice => "paid invoice",
            ReusedInvoice => "own earlier invoice",
            OtherJobs => "another job's invoice",
            LongHold => "holds too long",
            Garbage => "garbage invoice",
            Trap => "hold as a trap",
            LyingListing => "lying listing",
            OverLimit => "price over the limit",
            GhostBefore => "ghost before payment",
            GhostAfter => "ghost after payment",
            Refuses => "refusal",
            ErrorText => "error text",
            Empty => "empty result",
            Truncated => "truncated stream",
            Reordered => "reordered stream",
            Duplicated => "duplicated stream",
            Oversized => "oversized result",
            Endless => "endless stream",
            Contradicting => "contradicting result",
            Escapes => "terminal escapes",
            Late => "late result",
            Free => "result before payment",
            NeverClaims => "never claims",
            ClaimsEarly => "claims without delivering",
            Replays => "replays",
        }
    }

    /// The form that it is about; `None`: both.
    pub const fn escrow_only(self) -> Option<bool> {
        match self {
            Trap | SomeoneElses | UsedInvoice => Some(false),
            NeverClaims | ClaimsEarly => Some(true),
            _ => None,
        }
    }

    /// Whether it takes two purchases.
    pub const fn needs_an_earlier_purchase(self) -> bool {
        matches!(self, ReusedInvoice | Replays)
    }

    /// Whether the buyer's patience ends the attempt.
    pub const fn runs_out_of_time(self) -> bool {
        matches!(
            self,
            OtherJobs
                | Trap
                | LyingListing
                | GhostBefore
                | GhostAfter
                | Truncated
                | Oversized
                | Late
                | Free
                | ClaimsEarly
        )
    }

    /// Whether money is ordered to be paid at all.
    pub fn reaches_payment(self, escrow: bool, earlier: bool) -> bool {
        let refused = [
            BaitAndSwitch,
            Understated,
            WrongNetwork,
            Expired,
            Amountless,
            OtherJobs,
            LongHold,
            Garbage,
            LyingListing,
            OverLimit,
            GhostBefore,
            Refuses,
            Free,
        ];
        match self {
            SomeoneElses | UsedInvoice => !escrow,
            ReusedInvoice => earlier,
            other => !refused.contains(&other),
        }
    }

    /// Whether paying it first puts the price at risk by its nature: it has the money, and the result is
    /// its to give or not.
    pub const fn keeps_what_is_paid(self) -> bool {
        matches!(
            self,
            SomeoneElses
                | GhostAfter
                | ErrorText
                | Empty
                | Truncated
                | Oversized
                | Endless
                | Contradicting
        )
    }

    /// How an attempt may end, with relays and wallets that do as they should. `earlier`: it is the first
    /// of two.
    pub fn ends(self, escrow: bool, earlier: bool) -> Vec<End> {
        match self {
            Provider | Honest | ForgedAuthor | DoubleInvoice | Reordered | Duplicated | Escapes
            | NeverClaims | Replays => vec![Ok(())],
            ReusedInvoice if earlier => vec![Ok(())],
            BaitAndSwitch | Understated | WrongNetwork | Expired | Amountless | LongHold
            | Garbage | ReusedInvoice => vec![Err(Code::BadInvoice)],
            UsedInvoice => vec![Err(Code::PaymentFailed)],
            // Nobody is found where a busy machine is slow to tell of it.
            OverLimit => vec![Err(Code::Budget), Err(Code::NoProvider)],
            Refuses => vec![Err(Code::ProviderRefused)],
            SomeoneElses | ErrorText | Empty | Endless | Contradicting => {
                vec![Err(Code::Undelivered)]
            }
            OtherJobs | GhostBefore | Free => vec![Err(Code::Timeout)],
            // Sealed: it can't read the request. In escrow: its invoice is an ordinary one.
            LyingListing if escrow => vec![Err(Code::BadInvoice), Err(Code::Timeout)],
            LyingListing => vec![Err(Code::Timeout)],
            // Some give the money back at once.
            Trap => vec![Err(Code::PaymentUnknown), Err(Code::PaymentFailed)],
            GhostAfter | Truncated | Oversized | Late | ClaimsEarly => OUT_OF_TIME.to_vec(),
        }
    }
}

//! How much, and how long, a purchase puts up with.

use std::time::Duration;

/// The most bytes a result may have. Far more than a text of tens of thousands of tokens, far less than
/// would hurt.
pub const MAX_RESULT_BYTES: usize = 4 * 1024 * 1024;

/// The most numbered pieces a result may come in. A token a piece, and each of a few bytes, it is full before.
pub const MAX_PIECES: usize = 1024 * 1024;

/// An invoice must be payable for at least this long: a payment that arrives late is a payment in doubt.
pub const MIN_INVOICE_LIFE_SECS: u64 = 10;

/// This long after an invoice expired, a wallet that twice knows of no payment of it never made one.
pub const SETTLED_LONG_AGO_SECS: u64 = 3600;

/// Clocks of peers differ by minutes: what they date this much earlier than we would is still looked at.
pub const CLOCK_SKEW_SECS: u64 = 900;

/// The first pause between look-ups of a payment. Hints of the wallet cut every pause short.
pub const LOOK_UP_FIRST: Duration = Duration::from_millis(20);

/// The longest pause between look-ups of a payment.
pub const LOOK_UP_LONGEST: Duration = Duration::from_secs(2);

/// How often a floor that others' open payments make too high is tried again, after growing pauses from
/// [`LOOK_UP_FIRST`]: a second in all. Money that has left the wallet and is not booked yet counts twice against it.
pub const FLOOR_TRIES: u32 = 6;

/// How long a provider may take to quote, once its request is at a relay, while there is another to ask. A
/// quote is an invoice and two messages: well under a second for most, a few for a remote wallet.
pub const QUOTE_PATIENCE: Duration = Duration::from_secs(5);

/// With less time left than this, no other provider is asked: it would be paid, and then not waited for.
pub const LEAST_TIME_FOR_ANOTHER: Duration = Duration::from_secs(1);

/// How long a payment whose wallet can't say what became of it is looked up before it is left to
/// `recover`. The wallet has had its own, longer time before it said so.
pub const DOUBT_PATIENCE: Duration = Duration::from_secs(5);

/// How long after the order to pay into escrow the payment is looked up for the first time. Most wallets
/// answer the order sooner; some answer it when the lock has ended.
pub const ORDER_PATIENCE: Duration = Duration::from_millis(500);

/// How long a delivered purchase waits for its wallet to say that the provider has claimed the money.
/// A provider claims at once or is gone, and the money stays set aside for `recover`.
pub const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a purchase without a result waits for its wallet to say that the provider has given the locked
/// money back.
pub const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// The first pause before the preimage is said again to a provider that has not claimed.
pub const RELEASE_AGAIN_FIRST: Duration = Duration::from_secs(1);

/// How long to wait for the whole text after the last piece of a stream. It follows at once or not at all.
pub const WHOLE_TEXT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a purchase waits for its watcher to read one of a thousand events that it has not read yet.
pub const WATCHER_PATIENCE: Duration = Duration::from_secs(2);

/// How long what is said last may take to leave.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// The first pause before saying something again that no relay took.
pub const RETRY_FIRST: Duration = Duration::from_millis(250);

/// The longest such pause.
pub const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// How long recovery waits for one purchase: for its wallet, and for its result.
pub const RECOVER_PATIENCE: Duration = Duration::from_secs(10);

/// The same before the first purchase of a process, which does not depend on it.
pub const RECOVER_AT_START: Duration = Duration::from_secs(2);

/// Purchases that are recovered at once: most of the time goes into waiting, each for its own. Relays
/// allow a connection some ten subscriptions.
pub const RECOVER_AT_ONCE: usize = 8;

/// How long recovery waits for what the relays have stored of a purchase that is long over.
pub const RECOVER_STORED: Duration = Duration::from_secs(3);

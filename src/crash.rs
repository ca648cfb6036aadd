//! Crash points: the places where a test ends a process as a crash would.
//!
//! Each effect that outlives the process (a commit, a word to the wallet, a message to the relays) has a
//! name here, and a place right [`before`] and right [`after`] it. With the feature `crash-points`, which
//! only the tests switch on, a process that finds `AGENT_COMPUTE_CRASH_AT=<point>.before` or
//! `<point>.after` in its environment kills itself there, with SIGKILL, the first time it comes by, or the
//! `n`th with `:n` at the end. Without the feature nothing of this is in the program.
//!
//! What recovery does about each point is in the docs of [`purchase`](crate::purchase) and of
//! `provider::job`. `tests/it/crash/matrix` kills at all of them, and holds those tables to this list.

use std::future::Future;

macro_rules! points {
    ($($(#[$meaning:meta])* $name:ident = $word:literal,)+) => {
        /// An effect that outlives the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[$meaning])* $name,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word for it, in the environment and in the tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

points! {
    /// A new key, put in its place on disk.
    IdentityCreate = "identity.create",

    /// The ledger's folders and its file, still empty.
    LedgerCreate = "ledger.create",
    /// The file that says that this process lives: made before the point, locked after it.
    LedgerOwner = "ledger.owner",
    /// The commit of the ledger's migrations.
    LedgerMigrate = "ledger.migrate",
    /// Room on the disk, kept for what must be on record even when that is full.
    LedgerRoom = "ledger.room",
    /// Up to where the ledger was written, noted beside it, so that a log that is lost is missed.
    LedgerMark = "ledger.mark",
    /// Each commit of the ledger, from the inside: before it all is written, and nothing stands.
    LedgerCommit = "ledger.commit",

    /// The purchase, and with it the preimage of an escrow, on record.
    CustomerOpen = "customer.open",
    /// The request, to the relays.
    CustomerRequest = "customer.request",
    /// Over before any payment, on record.
    CustomerFail = "customer.fail",
    /// `Cancel`, to the relays.
    CustomerCancelSaid = "customer.cancel-said",
    /// The money set aside and the payment begun, on record.
    CustomerReserve = "customer.reserve",
    /// The same, for a payment into escrow.
    CustomerLock = "customer.lock",
    /// The order to pay, to the wallet.
    CustomerPay = "customer.pay",
    /// The payment in doubt, on record.
    CustomerUnknown = "customer.unknown",
    /// A payment into escrow that was in doubt and was seen alive, on record.
    CustomerSeenAgain = "customer.seen-again",
    /// The payment proven failed, and its money free, on record.
    CustomerFree = "customer.free",
    /// The payment settled, on record.
    CustomerSettle = "customer.settle",
    /// `PaymentSent`, to the relays.
    CustomerPaidSaid = "customer.paid-said",
    /// `HtlcLocked`, to the relays.
    CustomerLockedSaid = "customer.locked-said",
    /// The result of what was paid first, on record.
    CustomerResult = "customer.result",
    /// That there is no result of what was paid, on record.
    CustomerUndelivered = "customer.undelivered",
    /// The result of what is locked, on record: from here on the preimage may go.
    CustomerRelease = "customer.release",
    /// `PreimageRelease`, to the relays.
    CustomerPreimageSaid = "customer.preimage-said",
    /// Delivered, and the provider has claimed the money, on record.
    CustomerClaimed = "customer.claimed",
    /// Delivered, and the money came back unclaimed, on record.
    CustomerUnclaimed = "customer.unclaimed",
    /// No result, so that the preimage stays here, on record.
    CustomerWithhold = "customer.withhold",
    /// The locked money back and free, on record.
    CustomerBack = "customer.back",

    /// The purchase of a dead process taken over, on record.
    RecoveryAdopt = "recovery.adopt",
    /// The question to the wallet what became of a payment: after it the answer is known and not on record.
    RecoveryLookUp = "recovery.look-up",

    /// The job store's file, still empty.
    StoreCreate = "store.create",
    /// The commit of the job store's migrations.
    StoreMigrate = "store.migrate",
    /// The lock that makes this process the one that sells from the store.
    StoreLock = "store.lock",
    /// Room on the disk, kept for what must be on record even when that is full.
    StoreRoom = "store.room",
    /// Each commit of the job store, from the inside: before it all is written, and nothing stands.
    StoreCommit = "store.commit",

    /// A new channel, on record.
    ProviderChannel = "provider.channel",
    /// The channel, to the relays.
    ProviderChannelSaid = "provider.channel-said",
    /// The time of what is said next about ourselves, on record.
    ProviderListing = "provider.listing",
    /// The listing, to the relays.
    ProviderListingSaid = "provider.listing-said",
    /// The announcement in the channel, on record.
    ProviderAnnouncement = "provider.announcement",
    /// The announcement, to the relays.
    ProviderAnnouncementSaid = "provider.announcement-said",
    /// What takes listing and announcements back, to the relays.
    ProviderWithdrawalSaid = "provider.withdrawal-said",
    /// That all announcements are taken back, on record.
    ProviderWithdrawn = "provider.withdrawn",

    /// A `JobError` to a request that gets no quote, to the relays.
    ProviderRefusalSaid = "provider.refusal-said",
    /// The invoice, or hold invoice, in the wallet.
    ProviderInvoice = "provider.invoice",
    /// The quoted job, on record.
    ProviderQuote = "provider.quote",
    /// `Invoice`, to the relays.
    ProviderInvoiceSaid = "provider.invoice-said",
    /// An unpaid quote's invoice cancelled, in the wallet.
    ProviderQuoteCancel = "provider.quote-cancel",
    /// The end of an unpaid quote, or of a hold that ended by itself, on record.
    ProviderClosed = "provider.closed",
    /// A job that has to wait paid or held, on record.
    ProviderFunded = "provider.funded",
    /// `JobAccepted`, to the relays.
    ProviderPositionSaid = "provider.position-said",
    /// A job that takes a while, or is begun once more, running, on record.
    ProviderBegin = "provider.begin",
    /// The backend's work.
    ProviderWork = "provider.work",
    /// A chunk, on record.
    ProviderChunk = "provider.chunk",
    /// The chunk, to the relays.
    ProviderChunkSaid = "provider.chunk-said",
    /// The result, signed, on record.
    ProviderResult = "provider.result",
    /// The result, to the relays.
    ProviderResultSaid = "provider.result-said",
    /// That a relay took the result, on record.
    ProviderDelivered = "provider.delivered",
    /// The customer's preimage, on record.
    ProviderPreimage = "provider.preimage",
    /// The held money claimed, in the wallet.
    ProviderSettle = "provider.settle",
    /// What became of the claim, on record.
    ProviderSettled = "provider.settled",
    /// That a paid job has no result, on record.
    ProviderFailed = "provider.failed",
    /// That a job in escrow has no result and its money is to go back, on record.
    ProviderReturning = "provider.returning",
    /// The held money given back, in the wallet.
    ProviderGiveBack = "provider.give-back",
    /// What became of the giving back, on record.
    ProviderReturned = "provider.returned",
    /// That there is no result, to the relays.
    ProviderFailureSaid = "provider.failure-said",
    /// That a relay took the message that there is no result, on record.
    ProviderTold = "provider.told",
}

impl AsRef<[Self]> for Point {
    fn as_ref(&self) -> &[Self] {
        std::slice::from_ref(self)
    }
}

/// The effect of this name is about to be.
#[inline]
pub fn before(point: Point) {
    reached(point, Side::Before);
}

/// The effect of this name has been, and nobody has heard of it yet.
#[inline]
pub fn after(point: Point) {
    reached(point, Side::After);
}

/// An effect with its points on both sides; one that is several at once, with those of all.
#[cfg(feature = "crash-points")]
pub async fn around<F: Future>(points: impl AsRef<[Point]>, effect: F) -> F::Output {
    points.as_ref().iter().copied().for_each(before);
    let done = effect.await;
    points.as_ref().iter().copied().for_each(after);
    done
}

/// An effect with its points on both sides. Built without them it is the effect itself.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn around<F: Future>(_: impl AsRef<[Point]>, effect: F) -> impl Future<Output = F::Output> {
    effect
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

#[cfg(not(feature = "crash-points"))]
#[inline]
const fn reached(_: Point, _: Side) {}

#[cfg(feature = "crash-points")]
use armed::reached;

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::{Point, Side};

    const VARIABLE: &str = "AGENT_COMPUTE_CRASH_AT";

    /// Where this process is to end.
    #[derive(Debug)]
    struct Target {
        point: Point,
        side: Side,
        /// How often it comes by before that.
        passes: AtomicU32,
    }

    impl Target {
        /// Reads `<point>.<side>`, with `:n` at the end for the nth time.
        fn read(text: &str) -> Option<Self> {
            let (place, times) = text.split_once(':').unwrap_or((text, "1"));
            let (word, side) = place.rsplit_once('.')?;
            let side = match side {
                "before" => Side::Before,
                "after" => Side::After,
                _ => return None,
            };
            let point = Point::ALL.iter().find(|point| point.as_str() == word)?;
            let passes = AtomicU32::new(times.parse::<u32>().ok()?.checked_sub(1)?);
            Some(Self {
                point: *point,
                side,
                passes,
            })
        }

        fn is_due(&self, point: Point, side: Side) -> bool {
            let here = self.point == point && self.side == side;
            let one_less = |passes: u32| passes.checked_sub(1);
            here && self
                .passes
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_err()
        }
    }

    #[expect(clippy::disallowed_methods, reason = "tests alone set it, and read it")]
    fn target() -> Option<&'static Target> {
        static TARGET: OnceLock<Option<Target>> = OnceLock::new();
        let read = || Target::read(&std::env::var(VARIABLE).ok()?);
        TARGET.get_or_init(read).as_ref()
    }

    pub(super) fn reached(point: Point, side: Side) {
        if target().is_some_and(|target| target.is_due(point, side)) {
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is on its way, and nothing more may happen here meanwhile.
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn a_point_is_named_with_its_side_and_may_be_passed_a_few_times() {
            for point in Point::ALL {
                for (side, word) in [(Side::Before, "before"), (Side::After, "after")] {
                    let name = format!("{}.{word}", point.as_str());
                    let target = Target::read(&name).unwrap();
                    assert_eq!((target.point, target.side), (*point, side));
                    assert!(target.is_due(*point, side), "{name}");
                }
            }
            let third = Target::read("customer.pay.before:3").unwrap();
            let came_by = |side| third.is_due(Point::CustomerPay, side);
            assert!(!came_by(Side::Before) && !came_by(Side::After) && !came_by(Side::Before));
            assert!(came_by(Side::Before));
            assert!(!third.is_due(Point::CustomerSettle, Side::Before));
        }

        #[test]
        fn what_names_no_point_ends_nobody() {
            for text in [
                "",
                "customer.pay",
                "customer.pay.during",
                "customer.pai.before",
                "customer.pay.before:0",
                "customer.pay.before:x",
            ] {
                assert!(Target::read(text).is_none(), "{text}");
            }
        }
    }
}

//! One purchase, from intent to receipt: a persisted state machine.
//!
//! ```text
//!                invoice passes                 wallet ready,
//!                every check                    limits allow, committed        wallet: paid
//!  requested ──────────────────► quoted ─────────────────────────► paying ───────────────► paid
//!      │                           │                                │  │                   │  │
//!      │ refused, bad invoice,     │ over budget,                   │  │ in doubt   ┌──────┘  │ result
//!      │ too late, stopped         │ short of funds                 │  ▼            │         ▼
//!      ▼                           ▼            proof of failure    │ payment_  ────┘      delivered
//!    failed ◄──────────────────────┴────────────────────────────────┴ unknown   look-up:     ▲
//!                                                                               paid         │ late result
//!                                                              paid ── no result ──► undelivered
//! ```
//!
//! In escrow (`--htlc`) the money is locked to the hash of a preimage that the buyer made before it asked, and
//! the preimage is let go only with a complete result on record:
//!
//! ```text
//!                         result on record:
//!            committed    preimage let go          wallet: paid, or back
//!  quoted ─────────────► locked ─────────► released ─────────────────────► delivered
//!                         │  ▲  │             ▲
//!                  in     ▼  │  │ no result   │ late result
//!                  doubt  ?──┘  ▼             │                wallet: back
//!                            undelivered ─────┴──────────────────────────► failed: nothing paid
//!                            (withheld: locked still)
//! ```
//!
//! From each of *locked*, *released* and *withheld* the wallet's word decides the money: back, and it is freed;
//! paid, and it is booked, also where nobody let the preimage go (then the purchase goes on as *paid*). Time
//! alone decides nothing; at the deadline the provider is told (`Cancel`), so that one that has not begun gives
//! the money back rather than work for nothing.
//!
//! [`step`] decides (pure), [`driver`] commits and acts, [`recover`] picks up what a crash left.
//!
//! # What a restart does
//!
//! | on record | what is certain | recovery |
//! |---|---|---|
//! | requested | nothing was set aside or paid | failed; the provider is told, if a relay is there |
//! | quoted | never on record | |
//! | paying | the money is set aside; the wallet may or may not have been told | look up by payment hash |
//! | payment_unknown | the same, and the wallet could not say | look up by payment hash |
//! | paid | settled in the ledger | say so again, fetch the result; else undelivered |
//! | undelivered | settled in the ledger | fetch the result; else it stays |
//! | locked | the money is set aside; it is locked, or the wallet was never told | look up, say so again, fetch the result; else withheld |
//! | released | the result; the provider may know the preimage | say the preimage again, look up |
//! | undelivered (withheld) | nothing was let go; the money is locked or back | look up; fetch the result, and let go for it |
//! | delivered, failed | over | nothing |
//!
//! A look-up that says *paid* books the payment; one that proves failure frees the money; any other
//! answer, and no answer, leaves the money reserved.
//!
//! # Crash points
//!
//! What a purchase does that outlives the process, by the names of [`crash`](crate::crash), and what
//! becomes of it when the process dies right before or right after. Nothing else can be interrupted: between
//! two of these the ledger, the wallet and the relays stand still. Recovery is that of the table above, and
//! may itself die at any of them and begin anew. `tests/it/crash/matrix` kills at all of them, with the seller
//! alive and with it killed too, and then counts the money.
//!
//! | point | effect | died before it | died after it |
//! |---|---|---|---|
//! | `identity.create` | a new key, put in its place on disk | there is none: another is made, and nobody has seen this one | it is the key for good |
//! | `ledger.create` | the ledger's empty file | there is no ledger: nothing was ever bought | an empty file, which the next start makes a ledger |
//! | `ledger.owner` | the lock that says that this process lives | a free lock, which is cleared away | the same: the lock ends with the process |
//! | `ledger.migrate` | the tables, or their next version | rolled back, and done by the next start | there |
//! | `ledger.room` | room kept on the disk | none is kept | the next start gives it back |
//! | `ledger.mark` | the note up to where the ledger was written | the note is behind the ledger, which is no loss | it says what the ledger says |
//! | `ledger.commit` | any commit, seen from inside SQLite | rolled back: as before the point that it belongs to | as after that point |
//! | `customer.open` | *requested* on record, with the preimage of an escrow | no purchase; nobody knows its hash | failed: nothing was asked or paid |
//! | `customer.request` | the request said | failed: nothing was asked or paid | failed; the provider, who may have quoted, is told |
//! | `customer.fail` | *failed* on record, before any payment | failed, for being cut off | failed |
//! | `customer.cancel-said` | `Cancel` said | the quote ends by itself | the quote is taken back |
//! | `customer.reserve` | the money set aside and *paying* on record, in one commit | failed: nothing was set aside or paid | the wallet knows no such payment: the money is free |
//! | `customer.lock` | the same for *locked* | failed: nothing was set aside or locked | the wallet knows no such payment: the money is free |
//! | `customer.pay` | the wallet told to pay | the wallet knows no such payment: the money is free | the wallet says that it is paid, or locked: the result is fetched |
//! | `customer.unknown` | the doubt on record | looked up, as after an order that nobody heard the answer to | looked up |
//! | `customer.seen-again` | on record that a payment into escrow that was in doubt is on its way | looked up again | locked |
//! | `customer.free` | the proof of failure, and the money free, on record | looked up, and proven again | failed: nothing was paid |
//! | `customer.settle` | *paid* on record | looked up: paid | the provider is told, the result fetched |
//! | `customer.paid-said` | `PaymentSent` said | said, and the result fetched | the same: saying it twice does no harm |
//! | `customer.locked-said` | `HtlcLocked` said | said, and the result fetched | the same |
//! | `customer.result` | the result of what is paid on record | fetched from the relays | delivered: printed again for the same key |
//! | `customer.undelivered` | on record that there is none | the provider's word is read again | undelivered, with the proof of payment; a late result is fetched |
//! | `customer.release` | the result of what is locked on record | fetched from the relays; until then the preimage stays here | the preimage is said |
//! | `customer.preimage-said` | the preimage said | said | said again: the provider settles once |
//! | `customer.claimed` | on record that the provider has the money | looked up: paid | delivered |
//! | `customer.unclaimed` | on record that it came back, with the result here | looked up: back | delivered, and nothing paid |
//! | `customer.withhold` | on record that there is no result, so that the preimage stays | the provider's word, or the wallet's, is read again | looked up until the money is back |
//! | `customer.back` | the locked money back and free, on record | looked up: back | failed: nothing was paid |
//! | `recovery.adopt` | a dead process's purchase taken over | the next recovery takes it | the next one takes it from this one |
//! | `recovery.look-up` | the wallet asked what became of a payment | asked | asked again: asking changes nothing |

#[doc(hidden)]
pub mod assembly;
mod doubt;
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod ears;
#[doc(hidden)]
pub mod effect;
pub mod event;
#[doc(hidden)]
pub mod kept;
#[doc(hidden)]
pub mod listen;
#[doc(hidden)]
pub mod lock;
mod notary;
#[doc(hidden)]
pub mod observed;
pub mod payment;
mod points;
mod preimage_text;
pub mod receipt;
pub mod recover;
#[doc(hidden)]
pub mod state;
#[doc(hidden)]
pub mod step;
#[doc(hidden)]
pub mod terms;
mod wallet;
#[doc(hidden)]
pub mod watcher;

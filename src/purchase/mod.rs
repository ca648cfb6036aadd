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

#[doc(hidden)]
pub mod assembly;
#[doc(hidden)]
pub mod driver;
pub mod event;
#[doc(hidden)]
pub mod listen;
#[doc(hidden)]
pub mod lock;
#[doc(hidden)]
pub mod observed;
mod points;
mod preimage_text;
pub mod recover;
#[doc(hidden)]
pub mod state;
#[doc(hidden)]
pub mod step;
#[doc(hidden)]
pub mod terms;
#[doc(hidden)]
pub mod watcher;

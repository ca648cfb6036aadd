//! A payment by hand: an invoice that the owner pays, with no provider, job or result.
//!
//! It is set aside, booked and recovered in the same ledger as a purchase, within the same limits and by the
//! same rules: the money is reserved on record before the wallet is told, no payment hash is paid twice, and
//! only proof of failure frees what was set aside.
//!
//! ```text
//!           wallet ready, limits allow,
//!           committed                       wallet: paid
//!  opened ─────────────────────────► paying ─────────────► settled
//!    │                                │  │ in doubt           ▲
//!    │ over budget, short of funds,   │  ▼                    │ look-up: paid
//!    ▼ too late, stopped              │ payment_unknown ──────┘
//!  failed ◄───────────────────────────┴───── │
//!            proof of failure ◄──────────────┘
//! ```
//!
//! What dies while *opened* has failed, with nothing set aside; from *paying* and *payment_unknown* recovery
//! looks the payment up. Its points in [`crash`](crate::crash) are those of a purchase: `customer.open`,
//! `customer.reserve`, `customer.pay`, `customer.unknown`, `customer.settle`, `customer.free`, `customer.fail`.
//!
//! There is no receipt of one: a receipt says who was to deliver what. The invoice and the preimage, which
//! `show` prints, prove it.

mod order;
#[doc(hidden)]
pub mod state;

pub(super) use self::order::points;
pub use self::order::{Desk, Paid, pay};
pub use self::state::{Bill, Payment, Phase};

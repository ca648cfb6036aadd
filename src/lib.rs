//! Agents buy compute for themselves: they find providers on Nostr, negotiate, pay over Lightning and
//! stay within their owner's budget.
//!
//! # From nothing to a purchase
//!
#![cfg_attr(feature = "provider", doc = "```")]
#![cfg_attr(not(feature = "provider"), doc = "```ignore")]
//! use std::sync::Arc;
//!
//! use agent_compute::client::{Code, ComputeClient, PurchaseRequest};
//! use agent_compute::config::{Home, Role};
//! use agent_compute::identity::keystore;
//! use agent_compute::wallet::sim::{SimOptions, SimWallet};
//!
//! # use agent_compute::clock::Clock;
//! # use agent_compute::identity::Identity;
//! # use agent_compute::provider::backend::Echo;
//! # use agent_compute::provider::store::JobStore;
//! # use agent_compute::provider::{ChannelChoice, Parts, Provider, ProviderConfig};
//! # use agent_compute::relay::{EmbeddedRelay, PoolOptions, RelayPoolSession};
//! # use agent_compute::units::Network;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let embedded = EmbeddedRelay::listen("127.0.0.1:0".parse()?).await?;
//! # let relay = embedded.url();
//! # let home = Home::at(folder.path());
//! # let seller = Identity::from_keys(nostr::Keys::generate());
//! # let channel = ChannelChoice::Create { renew: false };
//! # let config = ProviderConfig::new(channel, vec![relay.clone()], Network::Regtest);
//! # let bank = home.sim_bank_file();
//! # let provider = Provider::start(config, Parts {
//! #     relays: RelayPoolSession::connect(&[relay.clone()], PoolOptions::default())?,
//! #     wallet: Some(Arc::new(SimWallet::open(&bank, seller.public_key(), SimOptions::default())?)),
//! #     backend: Arc::new(Echo),
//! #     store: JobStore::open(&folder.path().join("jobs.sqlite"))?,
//! #     clock: Clock::system(),
//! #     identity: seller,
//! # }).await?;
//! # /*
//! let relay = "ws://127.0.0.1:7777"; // agent-provider relay --listen 127.0.0.1:7777
//! let home = Home::of_user()?; // or Home::at("folder")
//! # */
//! // Who buys: a key that is made on first use. What pays: play money; or a wallet of your own.
//! let (identity, _) = keystore::open_or_create(&home.identity_file(Role::Customer))?;
//! let bank = home.sim_bank_file();
//! let wallet = SimWallet::open(&bank, identity.public_key(), SimOptions::default())?;
//! let client = ComputeClient::builder()
//!     .home(home) // the ledger, and the owner's limits in config.toml
//!     .identity(identity)
//!     .relays(relay)
//!     .wallet(Arc::new(wallet))
//!     .build()
//!     .await?;
//!
//! // One pass of the agent's loop. All that is bought in it counts against its limit, and the day's.
//! let tick = client.tick("tick-1");
//! let wanted = PurchaseRequest::new("What is the capital of France?");
//! match tick.purchase(wanted).receipt().await {
//!     Ok(receipt) => println!("{receipt}, for {}", receipt.paid_msat),
//!     Err(refused) if refused.code() == Code::Budget => println!("enough for today: {refused}"),
//!     Err(error) => println!("{error} (paid {})", error.paid_msat()),
//! }
//! println!("{} left in this tick", tick.budget().await?.left_in_tick());
//! # assert_eq!(tick.budget().await?.usage.tick_spent.get(), 10_000);
//! # provider.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! * To buy: [`client`]. In the repository, `examples/tick_loop.rs` is a whole agent.
#![cfg_attr(
    feature = "provider",
    doc = "* To sell: [`provider::Provider`], with a [`provider::backend::Backend`] of your own."
)]
//! * To bring a wallet: [`wallet::Wallet`], and [`wallet::conformance`] to try it.
//! * What may be spent: [`config::Runway`]; what was: [`client::ComputeClient::budget`].
//! * What can go wrong: [`Code`], and where the money is then: [`Error`].
//!
//! Futures of this crate are `Send` and need a Tokio runtime. Amounts are [`units::Msat`], integer
//! millisatoshi, unless a name says sats. What [`purchase`], [`discovery`], [`market`], [`ledger`] and
//! [`protocol`] show beyond what [`client`] returns is how it works, and changes as that does.
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `provider` | yes | the seller's side |
//! | `cli` | yes | the two programs; implies `provider` |
//! | `crash-points` | no | for the tests of this crate alone: lets a process be killed at a named point |
//!
//! # The map
//!
//! Left may import right; modules on one level don't import each other. `tests/it/architecture.rs` holds
//! the code to it.
//!
//! ```text
//! bins ► cli ► { client, provider } ► { purchase, discovery, market }
//!      ► ports { wallet, relay, ledger, provider::backend }
//!      ► { identity, protocol, config } ► { units, ids, error, clock, secret, look, disk, crash }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`units`], [`ids`], [`error`], [`clock`], [`secret`] | money, names, failures, time and secrets as types |
//! | [`look`] | reading an SQLite file without changing anything |
//! | [`crash`] | crash points: where a test kills the process, before and after each effect; else nothing |
//! | `disk` | room that is kept for what can't wait, and files that are lost while they are open |
//! | [`protocol`] | the wire: messages, channel events, listings; what a buyer's record of a provider is; pure |
//! | [`identity`], [`config`] | who we are, and the file that keeps it; settings and constants |
//! | [`relay`] | several Nostr relays as one (port); signing and sealing (NIP-44); the embedded relay |
//! | [`wallet`] | where money is (port), invoice checks (pure), play money, Nostr Wallet Connect |
//! | [`ledger`] | what is set aside and spent, and how providers behaved; limits (pure), SQLite |
//! | [`discovery`], [`market`] | who offers what; whom to take, and what a record is worth (pure) |
//! | [`purchase`] | one purchase, paid first or in escrow: pure step, driver, recovery, signed receipts; a payment by hand |
//! | [`client`] | the buyer |
//! | `provider` | the seller: quotes, queue, escrow, the job store |
//! | `provider::backend` | what makes the text (port): echo, any OpenAI-compatible server |
//! | `cli` | the two programs |
//!
//! Buyer and seller never import each other: they meet through [`protocol`] alone, so a test of both is a
//! test of the wire.
//!
//! # What holds, always
//!
//! * No reservation is granted that would exceed a limit, over all processes that share the ledger.
//! * No payment is attempted without a durable reservation and a durable record of what is about to be paid.
//! * At most one live or settled payment per purchase, and per payment hash.
//! * A purchase that ends with money spent or a result here has a signed receipt, from the same transaction.
//! * A payment in doubt keeps its money reserved; only a look-up that proves failure frees it.
//! * The preimage of an escrow is on record before its hash leaves the process, and leaves the process only
//!   with a complete result on record.
//! * Whatever a process was doing when it died, its next start, or `recover`, brings it to an end: killed at
//!   any of its crash points, it loses no money, and spends none twice.
//! * Each process holds a lock and stamps its purchases; recovery takes only those whose owner is dead.
//! * What is to be sealed is not sent in the open instead, whatever fails, and whatever a later listing says.
//! * A provider starts no paid work before its own wallet says that the money is there: paid, or held.
//! * Nothing read from the network can panic a process, grow its memory without bound, or reach a terminal
//!   unescaped.

pub mod client;
pub mod clock;
pub mod config;
#[doc(hidden)]
pub mod crash;
pub mod discovery;
mod disk;
pub mod error;
pub mod identity;
pub mod ids;
pub mod ledger;
pub mod look;
pub mod market;
pub mod protocol;
#[cfg(feature = "provider")]
pub mod provider;
pub mod purchase;
pub mod relay;
pub mod secret;
pub mod units;
pub mod wallet;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

pub use error::{Code, Error, Result};

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

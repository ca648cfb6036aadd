//! The figures, by the rows of the table.

mod alone;
mod bought;
mod streamed;

use super::Plan;
use super::report::Report;

/// One part of the table.
pub type Measure = fn(&Plan, &mut Report);

/// All of them, in the order of the table.
pub const ALL: &[(&str, Measure)] = &[
    ("warm", bought::warm),
    ("cold", bought::cold),
    ("stream", streamed::stream),
    ("crowd", bought::crowd),
    ("ledger", alone::ledger),
    ("discovery", alone::discovery),
    ("provider", bought::provider),
    ("help", alone::help),
];

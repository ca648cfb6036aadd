//! A look at a bank that makes and changes nothing: for `doctor`.

use std::path::Path;
use std::time::Duration;

use nostr::PublicKey;
use rusqlite::{Connection, OptionalExtension, params};

use super::bank::{Problem, explain, is_bank, storage};
use super::books;
use crate::look::{self, Soundness};
use crate::units::{Msat, Network};
use crate::wallet::WalletError;

/// How a bank was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What the account can spend; `None` if it has none yet, and would get one on first use.
    pub balance: Option<Msat>,
    /// Whether the file is in order.
    pub soundness: Soundness,
}

/// What an account gets when it is opened.
pub const OPENING_BALANCE: Msat = books::OPENING_BALANCE;

/// Looks into the bank in this file, for this account. Reads the whole file, but not for longer than
/// `within`, and blocks that long. `None` if there is no bank yet.
///
/// # Errors
/// [`WalletError::Storage`] if the file is no bank, of a newer version, or can't be read.
pub fn look(
    bank: &Path,
    account: PublicKey,
    network: Network,
    within: Duration,
) -> Result<Option<Look>, WalletError> {
    if matches!(bank.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let account = account.to_hex();
    let is_well = |found: &Option<Look>| found.as_ref().is_none_or(|it| it.soundness.is_well());
    let looked = look::twice(
        || read(&look::open(bank)?, &account, network, within),
        |found| found.as_ref().is_ok_and(is_well),
    );
    looked.map_err(|problem| match problem {
        Problem::Refused(why) => storage(bank, &why),
        problem => explain(bank, problem),
    })
}

fn read(
    books: &Connection,
    account: &str,
    network: Network,
    within: Duration,
) -> Result<Option<Look>, Problem> {
    if !is_bank(books)? {
        return Ok(None);
    }
    let soundness = look::soundness(books, within)?;
    let balance = match soundness {
        Soundness::Damaged(_) => None,
        Soundness::Sound | Soundness::NotReadToTheEnd => books
            .query_row(
                "SELECT balance_msat FROM account WHERE pubkey = ?1 AND network = ?2",
                params![account, network.as_str()],
                |row| row.get(0).map(Msat::new),
            )
            .optional()?,
    };
    Ok(Some(Look { balance, soundness }))
}

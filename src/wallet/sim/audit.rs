//! Adding up the whole bank.

use std::path::Path;

use rusqlite::Connection;

use super::bank::{Bank, Problem};
use crate::units::Msat;
use crate::wallet::WalletError;

/// Where all play money of a bank is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// All that was ever put into accounts.
    pub funded: Msat,
    /// The sum of all balances.
    pub balances: Msat,
    /// What hold invoices hold, with the fees of those payments.
    pub held: Msat,
    /// What payments have cost.
    pub fees: Msat,
    /// Each account whose balance is not what its payments come to, in words.
    pub discrepancies: Vec<String>,
}

impl Audit {
    /// Whether all money is accounted for, to the millisatoshi.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let found = self
            .balances
            .checked_add(self.held)
            .and_then(|sum| sum.checked_add(self.fees));
        found == Some(self.funded) && self.discrepancies.is_empty()
    }
}

/// Adds up the bank in this file as it is at one moment, and changes nothing.
///
/// # Errors
/// If there is no bank in the file, or it can't be read.
pub fn audit(bank: &Path) -> Result<Audit, WalletError> {
    let bank = Bank::open(bank, false)?;
    bank.look(|books| {
        let sum = |sql: &str| -> Result<Msat, Problem> {
            Ok(books.query_row(sql, [], |row| row.get(0).map(Msat::new))?)
        };
        Ok(Audit {
            funded: sum("SELECT coalesce(sum(funded_msat), 0) FROM account")?,
            balances: sum("SELECT coalesce(sum(balance_msat), 0) FROM account")?,
            held: sum(
                "SELECT coalesce(sum(amount_msat + fee_msat), 0) FROM payment WHERE state = 'held'",
            )?,
            fees: sum("SELECT fees_msat FROM bank")?,
            discrepancies: discrepancies(books)?,
        })
    })
}

/// Follows every account from its funding through its payments to its balance.
fn discrepancies(books: &Connection) -> Result<Vec<String>, Problem> {
    let mut accounts = books.prepare(
        "SELECT pubkey, network, balance_msat, funded_msat
            + (SELECT coalesce(sum(amount_msat), 0) FROM invoice
                WHERE payee = account.id AND state = 'settled')
            - (SELECT coalesce(sum(amount_msat + fee_msat), 0) FROM payment
                WHERE payer = account.id AND state <> 'returned') AS expected
         FROM account WHERE balance_msat <> expected",
    )?;
    let found = accounts.query_map([], |row| {
        let (pubkey, network): (String, String) = (row.get(0)?, row.get(1)?);
        let (balance, expected): (i64, i64) = (row.get(2)?, row.get(3)?);
        Ok(format!(
            "account {pubkey} on {network} has {balance} msat, its payments come to {expected}"
        ))
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

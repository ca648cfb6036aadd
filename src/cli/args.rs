//! Flags and subcommands that both programs have, and how values are read.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};
use nostr::nips::nip19::{FromBech32 as _, Nip19Event};
use nostr::{EventId, RelayUrl};

use crate::config::{BackendKind, MAX_MODEL_BYTES, WalletKind};
use crate::units::{Msat, Network};

/// Flags that go before or after a subcommand.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Print compact JSON on stdout, one object a line; errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Read this configuration instead of the home's config.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep configuration, keys and records in this folder (default: $AGENT_COMPUTE_HOME, then the XDG folders)
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// The wallet (default: [wallet] kind of the configuration)
    #[arg(long, global = true, value_name = "KIND")]
    pub wallet: Option<WalletKind>,
    /// A relay, ws:// or wss://; repeatable, or comma-separated (default: relay.damus.io, nos.lol, relay.nostr.band)
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', value_parser = relay)]
    pub relay: Vec<RelayUrl>,
    /// Refuse offers and invoices of other networks (default: the wallet's)
    #[arg(long, global = true, value_name = "NET")]
    pub network: Option<Network>,
}

/// `identity …`
#[derive(Subcommand, Clone, Debug)]
pub enum IdentityCommand {
    /// Make a new key from fresh randomness; an existing one is never overwritten
    ///
    /// It is encrypted if there is a password: AGENT_COMPUTE_NEW_PASSWORD, else AGENT_COMPUTE_PASSWORD,
    /// else what is typed on a terminal.
    New {
        /// How many BIP39 words it is made of
        #[arg(long, value_name = "COUNT", default_value = "12", value_parser = ["12", "24"])]
        words: String,
    },
    /// Keep a key that you have: BIP39 words, an nsec, hex, or an ncryptsec
    ///
    /// It is read from a prompt, from stdin, or from @FILE; never from the command line, which every
    /// user of the machine can read. The password of an ncryptsec is AGENT_COMPUTE_PASSWORD. What is kept
    /// is encrypted as with `new`.
    Import {
        /// `-` for stdin (the default), or @FILE
        // All words that are typed here are taken, so that no error of the parser repeats a secret.
        #[arg(value_name = "-|@FILE", num_args = 0.., hide_possible_values = true)]
        from: Vec<String>,
    },
    /// Show the public key, where it comes from, and whether it is encrypted; needs no password
    Show,
    /// Set or change the password of the key's file, or take it away
    ///
    /// The present password is AGENT_COMPUTE_PASSWORD, the new one AGENT_COMPUTE_NEW_PASSWORD; without
    /// them you are asked, if this is a terminal. Nothing of the old file is left in the folder.
    Password {
        /// Take the password away: the key is then guarded by the file's permissions alone
        #[arg(long)]
        remove: bool,
    },
    /// Print the secret, BIP39 words or an nsec, to write it down; asks first
    ///
    /// It goes to stdout and nowhere else, and takes no --json. Who has it has the key, and the money of
    /// wallets that are derived from it.
    Backup {
        /// Don't ask; needed where there is no terminal
        #[arg(long)]
        yes: bool,
    },
}

/// `wallet …`
#[derive(Subcommand, Clone, Debug)]
pub enum WalletCommand {
    /// What can be spent
    Balance,
    /// Where to send money to; on a terminal with a QR code
    Address {
        /// Show no QR code
        #[arg(long)]
        no_qr: bool,
    },
    /// Make an invoice (BOLT11); on a terminal with a QR code
    Invoice {
        /// Show no QR code
        #[arg(long)]
        no_qr: bool,
        /// What it asks for, in sats
        #[arg(long, value_name = "SATS", value_parser = sats)]
        amount_sats: Msat,
    },
    /// Pay an invoice (BOLT11) by hand, within the limits of [runway]
    ///
    /// Asks first. The payment is set aside, booked and recovered like a purchase, and `history`, `show` and
    /// `budget` have it. Prints the preimage, which with the invoice is the proof of payment. No invoice is ever
    /// paid twice.
    Pay(PayArgs),
    /// What this wallet was paid and has paid, by whatever program; newest first
    ///
    /// What was bought with it is in `history`.
    History {
        /// How many lines
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Add play money (sim only)
    Fund {
        /// How much, in sats
        #[arg(value_name = "SATS", value_parser = sats)]
        amount: Msat,
    },
    /// Connect your own wallet: ask it for a connection (NIP-47), and keep that for this program; or `setup spark`
    ///
    /// `wallet setup spark` installs the Spark SDK in an environment of its own in the data folder, for which it needs
    /// Python and the network. The wallet's seed are the words of this program's key.
    ///
    /// For `nwc` the connection string, nostr+walletconnect://…, is read from a prompt, from stdin, or from @FILE; never
    /// from the command line, which every user of the machine can read. Give the connection a budget in your
    /// wallet: that is the limit that nothing here can pass. The wallet is asked before anything is kept.
    Setup {
        /// `spark`; or nothing or `nwc`, then `-` for stdin (the default) or @FILE
        // All words that are typed here are taken, so that no error of the parser repeats a secret.
        #[arg(value_name = "nwc|spark] [-|@FILE", num_args = 0.., hide_possible_values = true)]
        words: Vec<String>,
    },
}

/// `wallet pay`
#[derive(Args, Clone, Debug)]
pub struct PayArgs {
    /// The invoice, with or without `lightning:` before it; `-` for stdin
    #[arg(value_name = "BOLT11")]
    pub invoice: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The routing fee allowed on top, in millisats (default: 1 % of the amount, at least 10000)
    #[arg(long, value_name = "MSATS", value_parser = msats_or_none)]
    pub max_fee: Option<Msat>,
    /// Count this payment against tick ID (at most 64 bytes; summed over all time)
    #[arg(long, value_name = "ID", value_parser = tick)]
    pub tick: Option<String>,
    /// How long to wait for the wallet's word; what is undecided then is left to `recover`
    #[arg(long, value_name = "SECS", default_value_t = crate::config::DEFAULT_TIMEOUT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=crate::config::MAX_TIMEOUT_SECS))]
    pub timeout: u64,
}

/// `doctor`
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Try writing to public relays too: each is sent one event that relays don't store, from a throwaway key
    ///
    /// Relays on this machine and in private networks are sent one in any case.
    #[arg(long)]
    pub write: bool,
}

/// `completions …`
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell to complete for
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

impl ValueEnum for WalletKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for BackendKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for Network {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

/// A relay's address.
pub(super) fn relay(text: &str) -> Result<RelayUrl, String> {
    RelayUrl::parse(text.trim()).map_err(|_| "expected ws://HOST or wss://HOST".to_owned())
}

/// A channel's id: 64 hex digits, a `note`, or a `nevent`.
pub(super) fn channel(text: &str) -> Result<EventId, String> {
    EventId::from_hex(text)
        .or_else(|_| EventId::from_bech32(text))
        .ok()
        .or_else(|| {
            Nip19Event::from_bech32(text)
                .ok()
                .map(|event| event.event_id)
        })
        .ok_or_else(|| "expected 64 hex digits, a note or a nevent".to_owned())
}

/// An amount in millisats, not zero.
pub(super) fn msats(text: &str) -> Result<Msat, String> {
    amount(text, "millisats").map(Msat::new).and_then(sane)
}

/// An amount in millisats, or none.
pub(super) fn msats_or_none(text: &str) -> Result<Msat, String> {
    match text {
        "0" => Ok(Msat::ZERO),
        _ => msats(text),
    }
}

/// An amount in sats, not zero.
pub(super) fn sats(text: &str) -> Result<Msat, String> {
    let sats = amount(text, "sats")?;
    sane(Msat::from_sats(sats).unwrap_or(Msat::new(u64::MAX)))
}

fn amount(text: &str, unit: &str) -> Result<u64, String> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(0) => Err(format!("expected at least 1 ({unit})")),
        Ok(amount) if digits_only => Ok(amount),
        Err(_) if digits_only => Ok(u64::MAX),
        _ => Err(format!("expected a whole number of {unit}")),
    }
}

fn sane(amount: Msat) -> Result<Msat, String> {
    if amount > Msat::MAX {
        return Err("more than there will ever be".to_owned());
    }
    Ok(amount)
}

/// The name of a model.
pub(super) fn model(text: &str) -> Result<String, String> {
    bounded(text, MAX_MODEL_BYTES)
}

/// The name of a tick.
pub(super) fn tick(text: &str) -> Result<String, String> {
    bounded(text, crate::config::MAX_TICK_BYTES)
}

/// An idempotency key.
pub(super) fn idempotency_key(text: &str) -> Result<String, String> {
    bounded(text, crate::config::MAX_IDEMPOTENCY_KEY_BYTES)
}

fn bounded(text: &str, most: usize) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > most || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {most} bytes of plain text"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use nostr::nips::nip19::ToBech32 as _;

    use super::*;

    #[test]
    fn amounts_are_whole_positive_and_possible() {
        assert_eq!(msats("1"), Ok(Msat::new(1)));
        assert_eq!(sats("2100000000000000"), Ok(Msat::MAX));
        assert_eq!(msats_or_none("0"), Ok(Msat::ZERO));
        for bad in ["", "0", "-1", "+1", "1.0", "1e3", "0x1", " 1", "1_000"] {
            assert!(msats(bad).is_err(), "{bad}");
        }
        for large in [
            "2100000000000001",
            "18446744073709551616",
            "9".repeat(40).as_str(),
        ] {
            assert!(sats(large).unwrap_err().contains("ever be"), "{large}");
        }
    }

    #[test]
    fn channels_are_named_in_three_ways() {
        let id = EventId::from_byte_array([7; 32]);
        let nevent = Nip19Event::new(id).to_bech32().unwrap();
        for text in [id.to_hex(), id.to_bech32().unwrap(), nevent] {
            assert_eq!(channel(&text), Ok(id), "{text}");
        }
        assert!(channel("general").is_err());
        assert!(channel(&"7".repeat(63)).is_err());
    }

    #[test]
    fn relays_are_websockets() {
        assert!(relay("ws://127.0.0.1:7000").is_ok());
        for bad in ["", "http://x", "relay.example", "wss://"] {
            assert!(relay(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_bounded_and_plain() {
        assert!(tick(&"t".repeat(64)).is_ok());
        for bad in ["", " ", "a\nb", &"t".repeat(65)] {
            assert!(tick(bad).is_err());
        }
    }
}

//! The connection string that a wallet hands out: whom to ask, where, and the key to ask with.

use std::fmt;

use nostr::nips::nip47::NostrWalletConnectURI;
use nostr::{Keys, PublicKey, RelayUrl};

use crate::config::MAX_RELAYS;
use crate::identity::Identity;
use crate::ids::WalletId;
use crate::secret::Secret;

/// A connection to a wallet, as a `nostr+walletconnect://` address has it.
///
/// Whoever has that address can spend from the wallet what its owner allowed this connection to, so neither
/// `Debug` nor an error of this module shows any part of it that is secret.
#[derive(Clone)]
pub struct Connection {
    wallet: PublicKey,
    client: Identity,
    relays: Vec<RelayUrl>,
    lightning_address: Option<String>,
}

/// Characters of a Lightning address that are shown. Longer is none.
const MAX_ADDRESS: usize = 320;

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id() && self.relays == other.relays
    }
}

impl Eq for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wallet", &self.wallet.to_hex())
            .field("client", &self.client.public_key().to_hex())
            .field("relays", &self.relays)
            .finish_non_exhaustive()
    }
}

/// Why a text is no connection to a wallet. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAConnection {
    /// Some other text.
    #[error(
        "this is no wallet connection (NIP-47): it begins with nostr+walletconnect:// and holds the \
         wallet's key, a relay and a secret"
    )]
    Malformed,
    /// Its key, relay or secret is missing or not what it should be.
    #[error("the wallet connection is damaged: its key, relay or secret is missing or cut off")]
    Damaged,
    /// One relay of it is no relay.
    #[error("the wallet connection names a relay that is none")]
    BadRelay,
    /// More relays than a session talks to.
    #[error("the wallet connection names more than {MAX_RELAYS} relays")]
    TooManyRelays,
}

impl Connection {
    /// Reads a connection string.
    ///
    /// # Errors
    /// If it is none, or incomplete.
    pub fn parse(uri: &Secret) -> Result<Self, NotAConnection> {
        const SCHEME: &str = "nostr+walletconnect:";
        let text = uri.expose().trim();
        let body = text
            .get(..SCHEME.len())
            .filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
            .and_then(|_| text.get(SCHEME.len()..))
            .ok_or(NotAConnection::Malformed)?;
        // Some wallets leave the slashes out.
        let body = body.trim_start_matches('/');
        let whole = Secret::new(format!("{SCHEME}//{body}"));
        let uri =
            NostrWalletConnectURI::parse(whole.expose()).map_err(|_| NotAConnection::Damaged)?;
        // The parser passes over a relay that is none: a payment would wait for a wallet that listens there.
        let named = body
            .split(['?', '&'])
            .filter(|pair| pair.starts_with("relay="));
        if named.count() != uri.relays.len() {
            return Err(NotAConnection::BadRelay);
        }
        let mut relays: Vec<RelayUrl> = Vec::new();
        for relay in uri.relays {
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        if relays.len() > MAX_RELAYS {
            return Err(NotAConnection::TooManyRelays);
        }
        Ok(Self {
            wallet: uri.public_key,
            client: Identity::from_keys(Keys::new(uri.secret)),
            relays,
            lightning_address: uri.lud16.filter(|address| {
                let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
                address.len() <= MAX_ADDRESS
                    && address.contains('@')
                    && address.chars().all(is_plain)
            }),
        })
    }

    /// The wallet's key: whom requests are for, and who signs the answers.
    #[must_use]
    pub const fn wallet(&self) -> PublicKey {
        self.wallet
    }

    /// The key that requests are signed with. Public.
    #[must_use]
    pub fn client(&self) -> PublicKey {
        self.client.public_key()
    }

    /// Where the wallet listens.
    #[must_use]
    pub fn relays(&self) -> &[RelayUrl] {
        &self.relays
    }

    /// Where others can send money to: the wallet's Lightning address, if the string has one. Whoever handed
    /// over the string says so; nothing proves it.
    #[must_use]
    pub fn lightning_address(&self) -> Option<&str> {
        self.lightning_address.as_deref()
    }

    pub(super) const fn identity(&self) -> &Identity {
        &self.client
    }

    /// Which balance this is. A second connection to the same wallet is another one: it may have a budget of
    /// its own, and need not see the payments of the first.
    #[must_use]
    pub fn id(&self) -> WalletId {
        WalletId {
            kind: "nwc".to_owned(),
            account: format!("{}/{}", self.wallet.to_hex(), self.client().to_hex()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALLET: &str = "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4";
    const SECRET: &str = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";

    fn parse(text: &str) -> Result<Connection, NotAConnection> {
        Connection::parse(&Secret::new(text))
    }

    #[test]
    fn a_connection_is_read_in_all_its_spellings() {
        let relay = "wss%3A%2F%2Frelay.example";
        for text in [
            format!("nostr+walletconnect://{WALLET}?relay={relay}&secret={SECRET}"),
            format!("nostr+walletconnect:{WALLET}?secret={SECRET}&relay={relay}&lud16=a@b.example"),
            format!(
                " NOSTR+WALLETCONNECT://{WALLET}?relay=wss://relay.example&relay={relay}&secret={SECRET}\n"
            ),
        ] {
            let connection = parse(&text).unwrap();
            assert_eq!(connection.wallet().to_hex(), WALLET);
            assert_eq!(connection.relays().len(), 1);
            let address = text.contains("lud16").then_some("a@b.example");
            assert_eq!(connection.lightning_address(), address);
            assert_eq!(
                connection.id().account,
                format!("{WALLET}/{}", connection.client())
            );
        }
    }

    #[test]
    fn whatever_is_wrong_is_said_without_the_secret() {
        let many: String = (0..=MAX_RELAYS)
            .map(|n| format!("&relay=wss://r{n}.example"))
            .collect();
        for (text, problem) in [
            (SECRET.to_owned(), NotAConnection::Malformed),
            (String::new(), NotAConnection::Malformed),
            (
                format!("https://{WALLET}?secret={SECRET}"),
                NotAConnection::Malformed,
            ),
            (
                format!("nostr+walletconnect://{WALLET}?secret={SECRET}"),
                NotAConnection::Damaged,
            ),
            (
                format!("nostr+walletconnect://{WALLET}?relay=wss://r.example"),
                NotAConnection::Damaged,
            ),
            (
                format!(
                    "nostr+walletconnect://{WALLET}?relay=wss://r.example&secret={}",
                    &SECRET[1..]
                ),
                NotAConnection::Damaged,
            ),
            (
                format!("nostr+walletconnect://abc?relay=wss://r.example&secret={SECRET}"),
                NotAConnection::Damaged,
            ),
            (
                format!(
                    "nostr+walletconnect://{WALLET}?relay=wss://r.example&relay=http://x.example&secret={SECRET}"
                ),
                NotAConnection::BadRelay,
            ),
            (
                format!("nostr+walletconnect://{WALLET}?secret={SECRET}{many}"),
                NotAConnection::TooManyRelays,
            ),
        ] {
            let found = parse(&text).unwrap_err();
            assert_eq!(found, problem, "{text}");
            assert!(!found.to_string().contains(&SECRET[1..9]));
        }
    }

    #[test]
    fn it_does_not_show_its_secret() {
        let text = format!("nostr+walletconnect://{WALLET}?relay=wss://r.example&secret={SECRET}");
        let connection = parse(&text).unwrap();
        assert!(!format!("{connection:?}").contains(&SECRET[..8]));
    }
}

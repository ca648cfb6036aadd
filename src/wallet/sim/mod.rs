//! Play money: a Lightning network of one SQLite file, for demonstrations and tests.
//!
//! The invoices are real, signed BOLT11 with real payment hashes and preimages; only the money is not.
//! Wallets that name the same file can pay each other, over as many processes as there are. An
//! account is a public key; it opens with 100,000 play sats, and [`SimWallet::fund`] adds more. Not a
//! millisatoshi comes into being or is lost otherwise ([`audit`]).
//!
//! # Hold invoices
//!
//! [`Wallet::pay`] answers [`PayOutcome::InFlight`] at once. The money is the payee's after
//! [`Wallet::settle`], and the payer's again after [`Wallet::cancel`] or when the deadline has passed,
//! which is [`SimOptions::hold_blocks`] of ten minutes after the payment. Whoever touches the bank
//! next, in whatever process, gives overdue money back first; the invoice is `Cancelled` then.
//!
//! # Payments
//!
//! A payment is one transaction: it is on record with the money moved, or it never was. So `NotFound` is proof,
//! and a payment that is still waiting for the file is `InFlight` to its own process.

mod audit;
mod bank;
mod books;
mod faults;
mod hints;
mod look;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nostr::PublicKey;
use nostr::secp256k1::SecretKey;
use rusqlite::Connection;
use tokio::sync::watch;

pub use self::audit::{Audit, audit};
use self::bank::{Bank, Begun, Problem, lock};
use self::books::{Attempt, NewInvoice};
pub use self::faults::{Fault, SLOW, UnknownFault};
pub use self::look::{Look, OPENING_BALANCE, look};
use super::invoice::{MAX_LIFETIME_SECS, Parsed, parse_unchecked};
use super::issue::{Draft, description, sign};
use super::{
    Capabilities, FailureProof, Incoming, InvoiceRequest, IssuedInvoice, Movement, Outgoing,
    PayOutcome, PayRequest, Wallet, WalletError,
};
use crate::clock::Clock;
use crate::ids::{PaymentHash, Preimage, WalletId};
use crate::units::{Msat, Network, UnixSecs};

/// The blocks that the payee of an ordinary invoice has to claim it: BOLT11's default.
const PLAIN_BLOCKS: u64 = 18;

/// What every description begins with, so that nobody takes such an invoice for real.
const MARK: &str = "[play money] ";

/// How a play-money wallet behaves. The default is a wallet without faults or fees on regtest.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Tells the time.
    pub clock: Clock,
    /// The network that its invoices are on, and the only one whose invoices it pays.
    pub network: Network,
    /// What goes wrong with its payments.
    pub fault: Option<Fault>,
    /// What each of its payments costs on top.
    pub fee: Msat,
    /// How long a payment to its hold invoices is held, in blocks of ten minutes.
    pub hold_blocks: u32,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            network: Network::Regtest,
            fault: None,
            fee: Msat::ZERO,
            // Six hours: longer than any job, well below the day that a customer accepts by default.
            hold_blocks: 36,
        }
    }
}

/// A wallet of play money. Clones are the same wallet.
#[derive(Clone)]
pub struct SimWallet(Arc<Inner>);

struct Inner {
    bank: Arc<Bank>,
    account: i64,
    node_key: SecretKey,
    id: WalletId,
    options: SimOptions,
    /// Payments about which a [`Fault`] has silenced this wallet.
    silent: Mutex<HashSet<PaymentHash>>,
}

impl fmt::Debug for SimWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimWallet")
            .field("id", &self.0.id)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl SimWallet {
    /// The wallet of `account` at the bank in the file `bank`. Makes the file (0600) and its folder
    /// (0700) if they are missing, and opens the account if it is new. Blocks on the file.
    ///
    /// # Errors
    /// [`WalletError::Storage`] if the file is damaged, of a newer version, or can't be made or used;
    /// [`WalletError::Unreachable`] if another process keeps it locked.
    pub fn open(bank: &Path, account: PublicKey, options: SimOptions) -> Result<Self, WalletError> {
        let bank = Bank::open(bank, true)?;
        let now = options.clock.now();
        let pubkey = account.to_hex();
        let network = options.network;
        let known = bank.read(now, |books| books::account(books, &pubkey, network))?;
        let account = match known {
            Some(account) => account,
            None => bank.write(now, |books| {
                books::open_account(books, &pubkey, network, &new_node_key())?;
                books::account(books, &pubkey, network)?
                    .ok_or_else(|| Problem::refused("the account could not be opened"))
            })?,
        };
        let node_key = SecretKey::from_slice(&account.node_key)
            .map_err(|_| WalletError::Storage(format!("the node key of {pubkey} is no key")))?;
        let id = WalletId {
            kind: "sim".to_owned(),
            account: format!("{}/{pubkey}", bank.id()),
        };
        Ok(Self(Arc::new(Inner {
            bank,
            account: account.id,
            node_key,
            id,
            options,
            silent: Mutex::default(),
        })))
    }

    /// Adds `sats` play sats to the account. Returns the new balance.
    ///
    /// # Errors
    /// [`WalletError::Refused`] if there would be more play money than there is bitcoin; else if the bank
    /// can't be used.
    pub async fn fund(&self, sats: u64) -> Result<Msat, WalletError> {
        self.on_bank(move |wallet| {
            let amount = Msat::from_sats(sats)
                .ok_or_else(|| WalletError::Refused(format!("{sats} sats are too many")))?;
            let now = wallet.options.clock.now();
            wallet
                .bank
                .write(now, |books| books::fund(books, wallet.account, amount))
        })
        .await
    }

    /// Runs `act` where it may block. Once started it runs to its end, whether or not anybody waits.
    async fn on_bank<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T, WalletError> + Send + 'static,
    ) -> Result<T, WalletError> {
        let wallet = Arc::clone(&self.0);
        let cut_off = || WalletError::Unreachable("the call was cut off".to_owned());
        let turn = self.0.bank.callers.acquire().await.map_err(|_| cut_off())?;
        let acting = tokio::task::spawn_blocking(move || act(&wallet)).await;
        drop(turn);
        acting.unwrap_or_else(|_| Err(cut_off()))
    }
}

fn new_node_key() -> [u8; 32] {
    loop {
        // All but one in 2^128 are keys.
        let bytes: [u8; 32] = rand::random();
        if SecretKey::from_slice(&bytes).is_ok() {
            return bytes;
        }
    }
}

impl Inner {
    fn issue(&self, request: &InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        let refused = |why: &str| Err(WalletError::Refused(why.to_owned()));
        if request.amount.is_zero() {
            return refused("an invoice over nothing");
        }
        if request.expiry_secs == 0 || request.expiry_secs > MAX_LIFETIME_SECS {
            return refused("an invoice lives for at least a second and at most 30 days");
        }
        let (payment_hash, preimage, min_final_cltv) = match request.hold {
            Some(hash) => (hash, None, u64::from(self.options.hold_blocks)),
            None => {
                let preimage = Preimage::from_bytes(rand::random());
                (preimage.payment_hash(), Some(preimage), PLAIN_BLOCKS)
            }
        };
        let now = self.options.clock.now();
        let draft = Draft {
            network: self.options.network,
            amount: Some(request.amount),
            payment_hash,
            payment_secret: rand::random(),
            description: format!("{MARK}{}", request.description),
            created_at: now,
            expiry_secs: request.expiry_secs,
            min_final_cltv,
        };
        let bolt11 = sign(&draft, &self.node_key)
            .map_err(|problem| WalletError::Refused(problem.to_string()))?;
        let expires_at = now.plus(request.expiry_secs);
        self.bank.write(now, |books| {
            let earlier = match request.hold {
                Some(hash) => books::open_hold(books, self.account, hash, now)?,
                None => None,
            };
            let asks_again = |earlier: &IssuedInvoice| {
                earlier.amount == request.amount
                    && description(&earlier.bolt11).as_ref() == Some(&draft.description)
            };
            if let Some(earlier) = earlier.filter(asks_again) {
                return Ok(earlier);
            }
            let invoice = NewInvoice {
                payment_hash,
                payee: self.account,
                bolt11: &bolt11,
                amount: request.amount,
                expires_at,
                preimage,
            };
            books::add_invoice(books, &invoice)?;
            Ok(IssuedInvoice {
                bolt11: bolt11.clone(),
                payment_hash,
                amount: request.amount,
                expires_at,
            })
        })
    }

    fn attempt(&self, request: &PayRequest, begun: &Begun) -> PayOutcome {
        if self.options.fault == Some(Fault::Slow) {
            std::thread::sleep(SLOW);
        }
        // Before the transaction: verifying a signature takes longer than all of its SQL.
        let invoice = self.payable(request);
        let now = self.options.clock.now();
        let attempt = self.bank.write(now, |books| {
            let attempt = self.attempt_in(books, request, invoice, now)?;
            Ok((attempt, begun.is_alone()))
        });
        match attempt {
            Ok((Attempt::Refused(proof), true)) => PayOutcome::Failed(proof),
            // Refused now; but money may come in before the other attempt is decided.
            Ok((Attempt::Refused(proof), false)) => PayOutcome::Unknown {
                reason: format!("{}; another attempt is on its way", proof.reason),
            },
            Ok((Attempt::Recorded(recorded), _)) => match self.as_told(recorded) {
                Outgoing::Paid { preimage, fee } => PayOutcome::Paid { preimage, fee },
                Outgoing::InFlight => PayOutcome::InFlight,
                Outgoing::Failed(proof) => PayOutcome::Failed(proof),
                Outgoing::NotFound => PayOutcome::Unknown {
                    reason: "the payment left no record".to_owned(),
                },
            },
            // A commit that failed may be on disk all the same, and so may an earlier attempt.
            Err(error) => PayOutcome::Unknown {
                reason: error.to_string(),
            },
        }
    }

    fn attempt_in(
        &self,
        books: &Connection,
        request: &PayRequest,
        invoice: Result<Parsed, String>,
        now: UnixSecs,
    ) -> Result<Attempt, Problem> {
        // Whatever speaks against paying now, an earlier attempt may have gone through.
        let recorded = books::outgoing(books, self.account, request.payment_hash)?;
        if recorded != Outgoing::NotFound {
            return Ok(Attempt::Recorded(recorded));
        }
        match invoice {
            Ok(invoice) => {
                let fee = self.options.fee;
                books::pay(books, self.account, request, &invoice, fee, now)
            }
            Err(why) => Ok(Attempt::Refused(FailureProof::new(why))),
        }
    }

    /// The invoice to pay, or what can be said against that without looking at the books.
    fn payable(&self, request: &PayRequest) -> Result<Parsed, String> {
        if self.options.fault == Some(Fault::Refuse) {
            return Err("this play-money wallet was told to refuse every payment".to_owned());
        }
        let invoice = self.read(&request.bolt11)?;
        if invoice.payment_hash != request.payment_hash {
            return Err("the invoice is not the one with this payment hash".to_owned());
        }
        if invoice.amount != Some(request.amount) {
            return Err(format!("the invoice does not ask for {}", request.amount));
        }
        let (fee, cap) = (self.options.fee, request.max_fee);
        if fee > cap {
            return Err(format!(
                "paying costs {fee} on top, more than the {cap} allowed"
            ));
        }
        Ok(invoice)
    }

    /// An invoice on our network.
    fn read(&self, bolt11: &str) -> Result<Parsed, String> {
        let invoice = parse_unchecked(bolt11).map_err(|problem| problem.to_string())?;
        let ours = self.options.network;
        if invoice.network != ours {
            return Err(format!(
                "the invoice is on {}, this wallet on {ours}",
                invoice.network
            ));
        }
        Ok(invoice)
    }

    /// The record as this wallet tells it.
    fn as_told(&self, recorded: Outgoing) -> Outgoing {
        match recorded {
            Outgoing::Paid { fee, .. } if self.options.fault == Some(Fault::NoPreimage) => {
                Outgoing::Paid {
                    preimage: None,
                    fee,
                }
            }
            recorded => recorded,
        }
    }

    fn fall_silent(&self, about: PaymentHash) -> PayOutcome {
        lock(&self.silent).insert(about);
        PayOutcome::Unknown {
            reason: "the wallet did not answer in time".to_owned(),
        }
    }
}

#[async_trait]
impl Wallet for SimWallet {
    fn id(&self) -> &WalletId {
        &self.0.id
    }

    fn network(&self) -> Network {
        self.0.options.network
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            play_money: true,
            hold_invoices: true,
            binding_fee_quote: true,
            authoritative_lookup: true,
        }
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        self.on_bank(|wallet| {
            let now = wallet.options.clock.now();
            wallet
                .bank
                .read(now, |books| books::balance(books, wallet.account))
        })
        .await
    }

    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError> {
        self.0.read(bolt11).map_err(WalletError::Refused)?;
        Ok(self.0.options.fee)
    }

    async fn invoice(&self, request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        self.on_bank(move |wallet| wallet.issue(&request)).await
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        self.on_bank(move |wallet| {
            let now = wallet.options.clock.now();
            wallet.bank.read(now, |books| {
                books::incoming(books, wallet.account, hash, now)
            })
        })
        .await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        self.on_bank(move |wallet| {
            let now = wallet.options.clock.now();
            wallet.bank.write(now, |books| {
                books::settle(books, wallet.account, &preimage, now)
            })
        })
        .await
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.on_bank(move |wallet| {
            let now = wallet.options.clock.now();
            wallet
                .bank
                .write(now, |books| books::cancel(books, wallet.account, hash, now))
        })
        .await
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        let hash = request.payment_hash;
        if self.0.options.fault == Some(Fault::TimeoutBefore) {
            return self.0.fall_silent(hash);
        }
        let begun = self.0.bank.begin(self.0.account, hash);
        if self.0.options.fault == Some(Fault::TimeoutAfter) {
            // Before the payment, so that it is silent too if nobody waits for the answer.
            self.0.fall_silent(hash);
        }
        let paying = self.on_bank(move |wallet| Ok(wallet.attempt(&request, &begun)));
        match paying.await {
            Ok(_) if self.0.options.fault == Some(Fault::TimeoutAfter) => self.0.fall_silent(hash),
            Ok(outcome) => outcome,
            Err(error) => PayOutcome::Unknown {
                reason: error.to_string(),
            },
        }
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        if lock(&self.0.silent).contains(&hash) {
            let silent = "it does not answer about this payment".to_owned();
            return Err(WalletError::Unreachable(silent));
        }
        self.on_bank(move |wallet| {
            // Asked before the books are: what is no longer begun then is in them.
            let begun = wallet.bank.is_begun(wallet.account, hash);
            let now = wallet.options.clock.now();
            let recorded = wallet
                .bank
                .read(now, |books| books::outgoing(books, wallet.account, hash))?;
            Ok(match recorded {
                Outgoing::NotFound if begun => Outgoing::InFlight,
                recorded => wallet.as_told(recorded),
            })
        })
        .await
    }

    async fn addresses(&self) -> Result<Vec<String>, WalletError> {
        Ok(vec![self.id().account.clone()])
    }

    async fn history(&self, limit: usize) -> Result<Vec<Movement>, WalletError> {
        self.on_bank(move |wallet| {
            let now = wallet.options.clock.now();
            let found = wallet.bank.read(now, |books| {
                books::movements(books, wallet.account, now, limit)
            })?;
            let mut movements: Vec<Movement> = found
                .into_iter()
                .map(|(bolt11, movement)| Movement {
                    created_at: parse_unchecked(&bolt11).ok().map(|it| it.created_at),
                    description: description(&bolt11),
                    ..movement
                })
                .collect();
            movements.sort_by_key(|movement| std::cmp::Reverse(movement.created_at));
            Ok(movements)
        })
        .await
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.0.bank.hints.listen(&self.0.bank)
    }
}

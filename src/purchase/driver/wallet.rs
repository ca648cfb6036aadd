//! What a purchase under way asks of its wallet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Run;
use crate::config::{self, default_fee_cap};
use crate::ledger::Refusal;
use crate::purchase::state::{Booking, Happening, Quote, Step};
use crate::purchase::wallet::{Asked, Claim, look_up, may_be_twice, ordered, prepare};
use crate::units::Msat;
use crate::wallet::{PayRequest, Wallet};

impl Run<'_> {
    fn wallet_and_quote(&self) -> Option<(Arc<dyn Wallet>, Quote)> {
        let wallet = Arc::clone(self.engine.wallet.as_ref()?);
        let quote = self.state.phase.quote()?.clone();
        (Some(wallet.id()) == self.state.terms.pay_by.wallet()).then_some((wallet, quote))
    }

    pub(super) fn prepare(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let cap = self
            .state
            .terms
            .max_fee
            .unwrap_or_else(|| default_fee_cap(quote.amount));
        let Some(invoice) = quote.invoice else { return };
        let ledger = self.engine.ledger.clone();
        let floor = self.engine.limits.floor;
        let pause = std::mem::take(&mut self.prepare_after);
        self.work.spawn(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let asked = Asked {
                bolt11: &invoice.bolt11,
                hash: invoice.payment_hash,
                amount: quote.amount,
            };
            Some(prepare(&*wallet, &ledger, asked, cap, floor).await)
        });
    }

    /// Whether a floor that refuses this step is worth another try.
    pub(super) fn may_be_twice(&self, step: &Step, refusal: Refusal) -> bool {
        let seen = step.entries.iter().find_map(|booking| match booking {
            Booking::Reserve { seen, .. } => *seen,
            Booking::Plain(_) => None,
        });
        may_be_twice(seen, self.engine.limits.floor, refusal)
    }

    pub(super) fn pay(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let request = PayRequest {
            bolt11: invoice.bolt11,
            payment_hash: invoice.payment_hash,
            amount: quote.amount,
            max_fee: Msat::ZERO,
            purchase: self.state.terms.id,
        };
        let claim = Claim::new(&self.engine.ledger, &self.driving);
        let answer = ordered(wallet, request, claim);
        self.work
            .spawn(async move { Some(Happening::PayAnswered(answer.await)) });
    }

    /// Asks the wallet what became of the payment, soon at first.
    pub(super) fn look_up_soon(&mut self) {
        self.look_after = config::LOOK_UP_FIRST;
        self.look_up();
    }

    /// Asks the wallet once more, after a hint or a growing pause.
    pub(super) fn look_up(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let first_pause = self.look_after;
        self.look_after = (first_pause * 2).min(config::LOOK_UP_LONGEST);
        let hash = invoice.payment_hash;
        self.look(async move { Some(look_up(&*wallet, hash, first_pause).await) });
    }

    /// Looks up a payment whose order the wallet has not answered for a while. No hint cuts that short: an
    /// order that is about to be refused is in flight to some wallets until then.
    pub(super) fn watch_order(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let hash = invoice.payment_hash;
        self.look(async move {
            sleep(config::ORDER_PATIENCE).await;
            Some(look_up(&*wallet, hash, Duration::ZERO).await)
        });
    }

    /// One look-up at a time: a new one takes the place of the one before.
    fn look(&mut self, look: impl Future<Output = Option<Happening>> + Send + 'static) {
        if let Some(earlier) = self.looking.replace(self.work.spawn(look)) {
            earlier.abort();
        }
    }
}

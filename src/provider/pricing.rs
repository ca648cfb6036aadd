//! Whether a request is one that we take, and what it costs. Pure.
//!
//! # Refusals
//!
//! A request that is not taken is answered with a `JobError` whose `code` is stable:
//!
//! | code | why | is it worth another try? |
//! |---|---|---|
//! | `invalid` | the kind is not served here; the prompt is empty; `max_tokens` is 0 or above our limit; the price would be more money than there is | not as it is |
//! | `model` | the model is not served here; the message lists what is | with another model |
//! | `price` | `max_price_msats` is below our price, which the message names | with a higher one |
//! | `escrow` | no escrow here, or not of this kind; `payment_hash` missing, malformed, without an escrow, or used before; the wallet can't hold on it; results were kept without releasing the money | pay first; with a new hash |
//! | `escrow`, after the money was held | the hold is too short for the work, or was taken back | with a longer hold |
//! | `busy` | the queue is full; too many quotes of this customer are unpaid, too many of its jobs are under way, or too many of its jobs in escrow are not released; this provider is about to stop | later, or elsewhere |
//! | `unreadable` | a `Sealed` request to us that does not open | sealed anew, or in the open |
//! | `failed` | before payment: no invoice or record can be made now. After it: there is no result; what was held goes back, what was paid is owed | elsewhere |
//!
//! What is not addressed to us, too old, from the future or not a message at all is ignored in silence.

use crate::ids::PaymentHash;
use crate::protocol::message::JobRequest;
use crate::protocol::{Feature, KIND_TEXT_GENERATION, Price};
use crate::units::Msat;

/// For each result that a customer kept without releasing the money, so many that it released make up.
const RELEASES_PER_KEPT: u64 = 10;

/// What is on sale.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What a job costs.
    pub price: Price,
    /// The models served; the first one does what names none. Never empty.
    pub models: Vec<String>,
    /// The most tokens that one job may ask for.
    pub max_tokens: u32,
    /// Whether chunks are sent to those who want them.
    pub stream: bool,
    /// Whether jobs are done for money that is only held (hold invoices).
    pub escrow: bool,
}

/// A request that we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the invoice will ask for.
    pub price: Msat,
    /// The model that will do it.
    pub model: String,
    /// Whether chunks are sent as they come.
    pub stream: bool,
    /// Whether the customer speaks the deployed protocol only: ours always send a nonce.
    pub deployed: bool,
    /// For a job in escrow: what the money is to be locked to.
    pub escrow: Option<PaymentHash>,
}

/// Why a request is not taken: a stable word and a sentence, both of which the customer sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// See the [module](self)'s table.
    pub code: &'static str,
    /// Why, for a person.
    pub message: String,
}

impl Refusal {
    /// A refusal in words.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Quotes a request, or says why not.
///
/// # Errors
/// The [`Refusal`] to send.
pub fn quote(request: &JobRequest, terms: &Terms) -> Result<Quote, Refusal> {
    let invalid = |why: String| Err(Refusal::new("invalid", why));
    if request.kind != KIND_TEXT_GENERATION {
        return invalid(format!(
            "kind {} is not served here, only {KIND_TEXT_GENERATION}",
            request.kind
        ));
    }
    if request.prompt.trim().is_empty() {
        return invalid("the prompt is empty".into());
    }
    if request.max_tokens == 0 || request.max_tokens > terms.max_tokens {
        return invalid(format!("max_tokens must be 1 to {}", terms.max_tokens));
    }
    let escrow = escrow(request, terms)?;
    let model = match &request.model {
        None => terms.models.first(),
        Some(wanted) => terms.models.iter().find(|model| *model == wanted),
    };
    let Some(model) = model else {
        let served = terms.models.join(", ");
        return Err(Refusal::new(
            "model",
            format!("that model is not served here, only {served}"),
        ));
    };
    let Some(price) = terms.price.of_job(request.max_tokens) else {
        return invalid("the price of so many tokens is more money than there is".into());
    };
    if request.max_price_msats.is_some_and(|most| most < price) {
        return Err(Refusal::new(
            "price",
            format!("this job costs {} msat", price.get()),
        ));
    }
    let deployed = request.nonce.is_none();
    let wants_stream = request.stream.unwrap_or(deployed);
    Ok(Quote {
        price,
        model: model.clone(),
        stream: terms.stream && wants_stream,
        deployed,
        escrow,
    })
}

/// What the money is to be locked to, if the request asks for that.
fn escrow(request: &JobRequest, terms: &Terms) -> Result<Option<PaymentHash>, Refusal> {
    let refused = |why: &str| Err(Refusal::new("escrow", why));
    match (request.escrow, &request.payment_hash) {
        (None, None) => Ok(None),
        (None, Some(_)) => refused("a payment_hash is for escrow, and no escrow was asked for"),
        (Some(_), _) if !terms.escrow => refused("escrow is not offered here: pay first"),
        (Some(Feature::HoldInvoice), None) => refused("escrow needs a payment_hash"),
        (Some(Feature::HoldInvoice), Some(hash)) => match hash.parse() {
            Ok(hash) => Ok(Some(hash)),
            Err(_) => refused("the payment_hash must be 64 hex digits"),
        },
        (Some(_), _) => refused("this kind of escrow is not offered here, only hold-invoice"),
    }
}

/// How a customer has behaved in escrow of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Jobs that it released.
    pub released: u64,
    /// Results that it kept without releasing the money.
    pub kept: u64,
}

impl Standing {
    /// Whether we do one more job for it before it pays. Accidents happen, so that results which were kept
    /// are made up for by many that were released, and by time.
    ///
    /// # Errors
    /// The [`Refusal`] to send.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.kept.saturating_mul(RELEASES_PER_KEPT) > self.released {
            let (kept, s) = (self.kept, if self.kept == 1 { "" } else { "s" });
            let why = format!(
                "you kept {kept} result{s} of the last 30 days without releasing the money: pay first"
            );
            return Err(Refusal::new("escrow", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Feature;

    fn terms() -> Terms {
        Terms {
            price: Price {
                per_request: Msat::new(10_000),
                per_1k_tokens: Msat::new(1_500),
            },
            models: vec!["first".into(), "second".into()],
            max_tokens: 2_000,
            stream: true,
            escrow: true,
        }
    }

    fn request() -> JobRequest {
        let anyone = nostr::Keys::generate().public_key();
        JobRequest::new(KIND_TEXT_GENERATION, "hello", 100, anyone)
    }

    fn refused(change: impl FnOnce(&mut JobRequest)) -> &'static str {
        let mut request = request();
        change(&mut request);
        quote(&request, &terms()).map_or_else(|refusal| refusal.code, |_| "taken")
    }

    #[test]
    fn the_price_grows_with_the_tokens_and_rounds_up() {
        let price = |tokens| {
            let mut request = request();
            request.max_tokens = tokens;
            quote(&request, &terms()).map(|quote| quote.price.get())
        };
        assert_eq!(price(1), Ok(10_002));
        assert_eq!(price(1_000), Ok(11_500));
        assert_eq!(price(2_000), Ok(13_000));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_own_word() {
        assert_eq!(refused(|_| ()), "taken");
        assert_eq!(refused(|r| r.kind = 5_930), "invalid");
        assert_eq!(refused(|r| r.prompt = " \n".into()), "invalid");
        assert_eq!(refused(|r| r.max_tokens = 0), "invalid");
        assert_eq!(refused(|r| r.max_tokens = 2_001), "invalid");
        assert_eq!(refused(|r| r.model = Some("third".into())), "model");
        assert_eq!(
            refused(|r| r.max_price_msats = Some(Msat::new(10_149))),
            "price"
        );
        assert_eq!(
            refused(|r| r.max_price_msats = Some(Msat::new(10_150))),
            "taken"
        );
    }

    #[test]
    fn escrow_needs_a_kind_that_we_have_and_a_hash() {
        let asks = |escrow: Option<Feature>, hash: Option<String>| {
            let mut request = request();
            (request.escrow, request.payment_hash) = (escrow, hash);
            quote(&request, &terms()).map(|quote| quote.escrow)
        };
        let (hold, hash) = (Some(Feature::HoldInvoice), "ab".repeat(32));
        let locked = PaymentHash::from_bytes([0xab; 32]);
        assert_eq!(asks(hold, Some(hash.clone())), Ok(Some(locked)));
        assert_eq!(asks(None, None), Ok(None));
        for (escrow, hash) in [
            (hold, None),
            (None, Some(hash.clone())),
            (Some(Feature::Other), Some(hash.clone())),
            (Some(Feature::CashuHtlc), Some(hash.clone())),
            (Some(Feature::Stream), Some(hash.clone())),
            (hold, Some(String::new())),
            (hold, Some("ab".repeat(31))),
            (hold, Some("zz".repeat(32))),
            (hold, Some(format!("0x{}", "ab".repeat(31)))),
        ] {
            let refused = asks(escrow, hash).map_err(|refusal| refusal.code);
            assert_eq!(refused, Err("escrow"), "{escrow:?}");
        }
        let without = Terms {
            escrow: false,
            ..terms()
        };
        let mut request = request();
        (request.escrow, request.payment_hash) = (hold, Some(hash));
        let refused = quote(&request, &without).map_err(|refusal| refusal.code);
        assert_eq!(refused, Err("escrow"));
    }

    #[test]
    fn kept_results_end_escrow_until_they_are_made_up_for() {
        let check = |released, kept| {
            let standing = Standing { released, kept };
            standing.check().map_err(|refusal| refusal.code)
        };
        assert_eq!(check(0, 0), Ok(()));
        assert_eq!(check(0, 1), Err("escrow"));
        assert_eq!(check(9, 1), Err("escrow"));
        assert_eq!(check(10, 1), Ok(()));
        assert_eq!(check(10, 2), Err("escrow"));
        assert_eq!(check(u64::MAX, u64::MAX), Ok(()));
    }

    #[test]
    fn chunks_go_to_those_who_want_them_and_to_deployed_customers() {
        let streams = |nonce: bool, stream: Option<bool>| {
            let mut request = request();
            request.nonce = nonce.then(|| "00".repeat(16));
            request.stream = stream;
            quote(&request, &terms()).map(|quote| quote.stream)
        };
        assert_eq!(streams(true, Some(true)), Ok(true));
        assert_eq!(streams(true, None), Ok(false));
        assert_eq!(streams(false, None), Ok(true));
        assert_eq!(streams(false, Some(false)), Ok(false));
    }

    #[test]
    fn the_first_model_does_what_names_none() {
        assert_eq!(
            quote(&request(), &terms()).map(|quote| quote.model),
            Ok("first".into())
        );
    }
}

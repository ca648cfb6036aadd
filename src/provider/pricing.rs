//! Whether a request is one that we take, and what it costs. Pure.

use crate::protocol::message::JobRequest;
use crate::protocol::{KIND_TEXT_GENERATION, Price};
use crate::units::Msat;

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
}

/// Why a request is not taken: a stable word and a sentence, both of which the customer sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `invalid`, `model`, `price`, `escrow`, `busy`, `unreadable` or `failed`.
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
    if request.escrow.is_some() || request.payment_hash.is_some() {
        return Err(Refusal::new("escrow", "escrow is not offered here"));
    }
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
    })
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
        assert_eq!(refused(|r| r.escrow = Some(Feature::HoldInvoice)), "escrow");
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

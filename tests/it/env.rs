//! What a person at the keyboard may ask of the tests: how long, from which seed. Nothing of the product reads
//! these variables.

/// The variable `name`, if it is set.
#[expect(clippy::disallowed_methods, reason = "read by the tests alone")]
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The variable `name`, if it is set, which must be a number then: a typing error must not pass for the default.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = text(name)?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

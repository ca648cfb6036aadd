//! One purchase, from intent to receipt.

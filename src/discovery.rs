//! Finding providers.

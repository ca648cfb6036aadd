//! Payments that go wrong.

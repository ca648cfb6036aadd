//! Checks a BOLT11 invoice against the quote it came with.

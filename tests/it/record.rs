//! What the ledger remembers of providers, and how that decides whom to buy from.

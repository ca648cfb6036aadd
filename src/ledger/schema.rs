//! The ledger's tables and their migrations.

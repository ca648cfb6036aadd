//! The seller.

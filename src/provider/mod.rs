//! The seller.
pub mod backend;
pub mod job;
mod pieces;
pub mod pricing;
pub mod store;

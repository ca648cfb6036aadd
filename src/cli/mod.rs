//! The two programs.

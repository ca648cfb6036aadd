//! Secrets, and references to where they are kept.

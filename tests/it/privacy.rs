//! Sealed messages: who can read them, and who can't.

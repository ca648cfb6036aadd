//! The lock that says that a process lives.

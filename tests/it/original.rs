//! The deployed original as peer, in the words that were recorded from it.

//! Escrow end to end: locked, delivered, released; and every way in which it is not.

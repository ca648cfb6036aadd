//! Which offer to take: a pure choice.

//! Settings, and every constant with its unit and reason.

//! A session with several relays.

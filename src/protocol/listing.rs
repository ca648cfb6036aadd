//! NIP-89 listings (kind 31990).

//! Play money on one machine.

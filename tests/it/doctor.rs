//! What `doctor` finds, and the commands it names.

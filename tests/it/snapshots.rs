//! Help, errors and JSON, as users see them.

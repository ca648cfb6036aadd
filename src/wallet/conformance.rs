//! A suite that every wallet backend passes, faults included.

//! The buyer: `ComputeClient`.

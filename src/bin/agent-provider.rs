//! Sells compute to agents.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_compute::cli::provider::main()
}

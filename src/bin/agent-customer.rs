//! Buys compute for an agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_compute::cli::customer::main()
}

//! `completions`: a completion script for a shell.

use crate::cli::args::CompletionsArgs;
use crate::cli::output::Output;
use crate::error::{Code, Error, Result};

/// Prints the script.
///
/// # Errors
/// [`Code::Usage`] with `--json`: a script is not JSON.
pub fn run(mut command: clap::Command, args: &CompletionsArgs, out: &Output) -> Result<()> {
    if out.is_json() {
        return Err(Error::new(Code::Usage, "completions takes no --json"));
    }
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.raw(&script);
    Ok(())
}

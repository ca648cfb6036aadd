//! `man`: the manual page, in roff.

use crate::cli::output::Output;
use crate::error::{Code, Error, Result};

/// Prints the page.
///
/// # Errors
/// [`Code::Usage`] with `--json`: a manual page is not JSON.
pub fn run(command: clap::Command, out: &Output) -> Result<()> {
    if out.is_json() {
        return Err(Error::new(Code::Usage, "man takes no --json"));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|problem| Error::new(Code::Internal, format!("no manual page: {problem}")))?;
    out.raw(&page);
    Ok(())
}

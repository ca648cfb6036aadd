//! From words to matches: usage errors in the form that was asked for, and flags of the default command
//! that stand before another one refused rather than ignored.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::output::Output;
use super::text::without_secrets;
use crate::error::{Code, Error};

/// Why parsing ended without a command to run: help was asked for, or the words make no sense.
#[derive(Debug)]
pub(super) struct Stop {
    error: clap::Error,
    json: bool,
}

impl Stop {
    /// Prints what is to be said, and gives the exit code.
    #[must_use]
    pub(super) fn exit(self) -> ExitCode {
        let wanted = matches!(
            self.error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        if wanted {
            // A reader that has left needs no help.
            let _ = self.error.print();
            return ExitCode::SUCCESS;
        }
        if self.json {
            let error = Error::new(Code::Usage, message_of(&self.error));
            return Output::of_process(true).end(&Err(error));
        }
        let help = self.error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if help {
            let _ = self.error.print();
        } else {
            // Typed text is quoted in errors, so what looks like a secret is cut out.
            let text = without_secrets(&self.error.render().to_string());
            Output::of_process(false).note(text.trim_end());
        }
        ExitCode::from(Code::Usage.exit_code())
    }
}

/// What clap has to say, on one line and without the usage lines.
fn message_of(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command or a flag is missing; see --help".to_owned();
    }
    let text = error.render().to_string();
    let told = text.split("\n\nUsage:").next().unwrap_or_default();
    let told = told
        .split("\n\nFor more information")
        .next()
        .unwrap_or_default();
    let words: Vec<&str> = told
        .strip_prefix("error: ")
        .unwrap_or(told)
        .split_whitespace()
        .collect();
    without_secrets(&words.join(" "))
}

/// Parses `words`. `own` has the flags that belong to the default command alone.
///
/// # Errors
/// [`Stop`], which says so.
pub(super) fn parse(
    mut command: Command,
    own: &Command,
    words: impl Iterator<Item = OsString>,
) -> Result<ArgMatches, Stop> {
    let words: Vec<OsString> = words.collect();
    let json = asks_for_json(&words);
    let matches = command
        .try_get_matches_from_mut(words)
        .map_err(|error| Stop { error, json })?;
    if let Some((name, _)) = matches.subcommand() {
        let misplaced = own.get_arguments().find(|flag| {
            let id = flag.get_id().as_str();
            matches.try_contains_id(id).unwrap_or(false)
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        });
        if let Some(flag) = misplaced.and_then(clap::Arg::get_long) {
            let problem =
                format!("--{flag} does not go before `{name}`: put it after, if it has it");
            let error = command.error(ErrorKind::ArgumentConflict, problem);
            return Err(Stop { error, json });
        }
    }
    Ok(matches)
}

/// An error of turning matches into a type: a bug of ours, told as it is.
#[must_use]
pub(super) fn stop_in_conversion(error: clap::Error) -> Stop {
    Stop { error, json: false }
}

/// Whether `--json` is among the words, for when they can't be parsed as a whole. Text after `--prompt`
/// or `--` is not a flag.
fn asks_for_json(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--json" {
            return true;
        }
        if word == "--" {
            return false;
        }
        if word == "--prompt" {
            words.next();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn json_is_seen_where_it_is_a_flag() {
        assert!(asks_for_json(&words("x --nonsense --json")));
        assert!(asks_for_json(&words("x --prompt hello --json")));
        assert!(!asks_for_json(&words("x --prompt --json")));
        assert!(!asks_for_json(&words("x -- --json")));
        assert!(!asks_for_json(&words("--json")));
    }
}

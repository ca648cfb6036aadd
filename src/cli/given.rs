//! A secret that the owner hands over: typed at a prompt, piped in, or in a file. Never an argument.

use std::io::{self, IsTerminal as _};

use super::ask::hidden;
use super::prompt::read_text;
use crate::error::{Code, Error, Result};
use crate::secret::{MAX_SECRET_FILE_BYTES, Secret, read_secret_file};

/// Where a secret is.
pub(super) enum Given<'a> {
    /// A file.
    File(&'a str),
    /// Stdin, or a prompt if that is a terminal.
    Stdin,
}

impl<'a> Given<'a> {
    /// What these words say; `command` is named in errors.
    ///
    /// # Errors
    /// [`Code::Usage`] if they are anything but nothing, `-` or `@FILE`: they may be the secret itself.
    pub(super) fn of(words: &'a [String], command: &str) -> Result<Self> {
        match words {
            [] => Ok(Self::Stdin),
            [word] if word == "-" => Ok(Self::Stdin),
            [word] => match word.strip_prefix('@') {
                Some(path) => Ok(Self::File(path)),
                None => Err(never_argv(command)),
            },
            _ => Err(never_argv(command)),
        }
    }

    /// The secret, without the white space around it. `question` is put to a person.
    ///
    /// # Errors
    /// [`Code::Usage`] if there is none.
    pub(super) fn read(&self, question: &str, command: &str) -> Result<Secret> {
        let stdin = io::stdin();
        let text = match self {
            Self::File(path) => {
                return read_secret_file(path.as_ref())
                    .map_err(|error| usage(&format!("{command}: {error}")));
            }
            Self::Stdin if stdin.is_terminal() => {
                hidden(question).map_err(|error| usage(error.message()))?
            }
            Self::Stdin => Secret::new(read_text("stdin", stdin.lock(), MAX_SECRET_FILE_BYTES)?),
        };
        match text.expose().trim() {
            "" => Err(usage(&format!("{command}: nothing was given"))),
            secret => Ok(Secret::new(secret)),
        }
    }
}

fn usage(message: &str) -> Error {
    Error::new(Code::Usage, message)
}

fn never_argv(command: &str) -> Error {
    usage(&format!(
        "{command}: a secret is never given on the command line, which every user of this machine can \
         read: use - for stdin, @FILE for a file, or nothing for a prompt. If a real secret stood here, \
         consider it seen"
    ))
}

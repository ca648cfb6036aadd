//! Questions to the person at the terminal: passwords, and whether they are sure. They go to stderr, and
//! answers come from stdin, or from the terminal itself where stdin is a file or a pipe. Where there is no
//! terminal nobody is asked.
//!
//! Ask before signals are listened for: while the system waits for a line, only the signal's own effect,
//! which is to end the process, lets Ctrl-C through.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _};

use console::Term;

use super::text::clean;
use crate::error::{Code, Error, Result};
use crate::identity::IdentityError;
use crate::identity::password::{Ask, Wanted};
use crate::identity::source::PASSWORD_VARIABLE;
use crate::secret::{Environment, Secret};

/// How often a password may be typed before it is an error.
const TRIES: u32 = 3;

/// The terminal of this process, where stdin is another thing. Unix only.
const TERMINAL: &str = "/dev/tty";

/// Whether there is somebody to ask.
#[must_use]
pub(super) fn can_ask() -> bool {
    Term::stderr().is_term() && (io::stdin().is_terminal() || has_a_terminal())
}

fn has_a_terminal() -> bool {
    let mut options = OpenOptions::new();
    cfg!(unix) && options.read(true).write(true).open(TERMINAL).is_ok()
}

/// Takes a line that is not shown. Without the white space around it: what the environment has is taken
/// so too, and both must open the same file.
///
/// # Errors
/// [`Code::Usage`] if the terminal can't be read.
pub(super) fn hidden(question: &str) -> Result<Secret> {
    let term = Term::stderr();
    term.write_str(&clean(question))
        .and_then(|()| term.read_secure_line())
        .map(Secret::new)
        .map(|line| Secret::new(line.expose().trim()))
        .map_err(unreadable)
}

/// Whether the answer is `yes`, all of it.
///
/// # Errors
/// [`Code::Usage`] if the terminal can't be read.
pub(super) fn is_sure(question: &str) -> Result<bool> {
    let answer = Term::stderr()
        .write_str(&clean(question))
        .and_then(|()| shown_line())
        .map_err(unreadable)?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

fn shown_line() -> io::Result<String> {
    let mut line = String::new();
    let stdin = io::stdin();
    if stdin.is_terminal() {
        stdin.read_line(&mut line)?;
    } else {
        BufReader::new(File::open(TERMINAL)?).read_line(&mut line)?;
    }
    Ok(line)
}

/// Tells the person at the terminal something.
pub(super) fn tell(text: &str) {
    // Who can't be told will see by the outcome.
    let _ = Term::stderr().write_line(&clean(text));
}

fn unreadable(problem: io::Error) -> Error {
    Error::new(
        Code::Usage,
        format!("the terminal can't be read: {problem}"),
    )
}

/// The environment, and the person at the terminal if it has no password.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    environment: Environment,
}

impl Owner {
    pub(super) const fn new(environment: Environment) -> Self {
        Self { environment }
    }
}

impl Ask for Owner {
    fn ask(&mut self, wanted: Wanted<'_>, refused: u32) -> Result<Option<Secret>, IdentityError> {
        if let Some(password) = self.environment.secret(PASSWORD_VARIABLE)? {
            return Ok((refused == 0).then_some(password));
        }
        if refused == TRIES || !can_ask() {
            return Ok(None);
        }
        if refused > 0 {
            tell("That is not the password.");
        }
        let question = match wanted {
            Wanted::File(path) => format!("Password of {}: ", path.display()),
            Wanted::Ncryptsec => "Password of the ncryptsec: ".to_owned(),
        };
        let password = hidden(&question)
            .map_err(|error| IdentityError::NoAnswer(error.message().to_owned()))?;
        Ok(Some(password).filter(|password| !password.expose().is_empty()))
    }
}

/// Asks for a new password, twice, until it is one that `check` takes. `None` for an empty one.
///
/// # Errors
/// [`Code::Usage`] if the terminal can't be read, or after three that can't be taken.
pub(super) fn new_password<T>(
    question: &str,
    check: impl Fn(Secret) -> Result<T, IdentityError>,
) -> Result<Option<T>> {
    let mut last = Error::new(Code::Usage, "no password was set");
    for _ in 0..TRIES {
        let password = hidden(question)?;
        if password.expose().is_empty() {
            return Ok(None);
        }
        let again = password.clone();
        match check(password) {
            Ok(taken) if hidden("Once more: ")? == again => return Ok(Some(taken)),
            Ok(_) => {
                last = Error::new(Code::Usage, "the two passwords differ; nothing was changed")
            }
            Err(error @ IdentityError::WeakPassword(_)) => last = error.into(),
            Err(error) => return Err(error.into()),
        }
        tell(last.message());
    }
    Err(last)
}

//! `identity`: make, import and show a program's key. Prints public keys only.

use std::io::{self, IsTerminal as _};

use nostr::PublicKey;
use nostr::nips::nip19::ToBech32 as _;
use serde::Serialize;

use crate::cli::args::IdentityCommand;
use crate::cli::output::Output;
use crate::cli::prompt::read_text;
use crate::cli::settings::Settings;
use crate::error::{Code, Error, Result};
use crate::identity::keystore::{self, Kept};
use crate::identity::mnemonic::{self, WordCount};
use crate::secret::{MAX_SECRET_FILE_BYTES, Secret, read_secret_file};

#[derive(Serialize)]
struct Shown {
    pubkey: String,
    npub: String,
    /// Where the key comes from: `environment`, `config` or `file`.
    source: &'static str,
}

/// Does what `identity` was asked for.
///
/// # Errors
/// [`Code::Usage`] if there is an identity file already, or what was given is no key.
pub fn run(settings: Settings, command: IdentityCommand, out: &Output) -> Result<()> {
    match command {
        IdentityCommand::Show => {
            let (identity, origin) = settings.open_identity(|made| out.note(made))?;
            show(identity.public_key(), origin.as_str(), out)
        }
        IdentityCommand::New { words } => {
            let count = match words.as_str() {
                "24" => WordCount::TwentyFour,
                _ => WordCount::Twelve,
            };
            refuse_if_kept(&settings)?;
            let words = mnemonic::generate(count)?;
            keep(&settings, &Kept::Words(words), out)
        }
        IdentityCommand::Import { from } => {
            // Told first: a secret that was typed here has been seen, whatever else is wrong.
            let place = Place::of(&from)?;
            refuse_if_kept(&settings)?;
            let text = place.read(out)?;
            let password = settings.identity.password()?;
            let kept = Kept::from_text(&text, password.as_ref())?;
            keep(&settings, &kept, out)
        }
    }
}

/// Says no before a secret is typed in vain. Creation itself says no as well.
fn refuse_if_kept(settings: &Settings) -> Result<()> {
    let file = &settings.identity.file;
    match file.symlink_metadata() {
        Ok(_) => Err(crate::identity::IdentityError::Exists(file.clone()).into()),
        Err(_) => Ok(()),
    }
}

fn keep(settings: &Settings, kept: &Kept, out: &Output) -> Result<()> {
    let file = &settings.identity.file;
    let identity = kept.identity()?;
    keystore::create(file, kept)?;
    out.note(&format!("kept in {}: back this file up", file.display()));
    let by_environment = settings.identity.of_environment()?.is_some();
    let config = &settings.config.identity;
    if by_environment || config.secret_key.is_some() || config.mnemonic.is_some() {
        out.note("note: the key that the environment or the configuration names is used before it");
    }
    show(identity.public_key(), "file", out)
}

fn show(key: PublicKey, source: &'static str, out: &Output) -> Result<()> {
    let npub = key
        .to_bech32()
        .map_err(|_| Error::new(Code::Internal, "the public key has no npub"))?;
    let shown = Shown {
        pubkey: key.to_hex(),
        npub,
        source,
    };
    out.object(&shown);
    out.line(&format!("npub:   {}", shown.npub));
    out.line(&format!("pubkey: {}", shown.pubkey));
    out.line(&format!("source: {}", shown.source));
    Ok(())
}

/// Where an imported secret is.
enum Place<'a> {
    /// A file.
    File(&'a str),
    /// Stdin, or a prompt if that is a terminal.
    Stdin,
}

impl<'a> Place<'a> {
    fn of(words: &'a [String]) -> Result<Self> {
        match words {
            [] => Ok(Self::Stdin),
            [word] if word == "-" => Ok(Self::Stdin),
            [word] => match word.strip_prefix('@') {
                Some(path) => Ok(Self::File(path)),
                None => Err(usage(NEVER_ARGV)),
            },
            _ => Err(usage(NEVER_ARGV)),
        }
    }

    fn read(&self, out: &Output) -> Result<Secret> {
        let stdin = io::stdin();
        let text = match self {
            Self::File(path) => {
                return read_secret_file(path.as_ref()).map_err(|error| usage(&error.to_string()));
            }
            Self::Stdin if stdin.is_terminal() => {
                out.note(
                    "BIP39 words, an nsec, hex or an ncryptsec, then Enter (nothing is shown):",
                );
                console::Term::stderr()
                    .read_secure_line()
                    .map_err(|problem| usage(&format!("the terminal can't be read: {problem}")))?
            }
            Self::Stdin => read_text("stdin", stdin.lock(), MAX_SECRET_FILE_BYTES)?,
        };
        match text.trim() {
            "" => Err(usage("nothing was given")),
            secret => Ok(Secret::new(secret)),
        }
    }
}

fn usage(message: &str) -> Error {
    Error::new(Code::Usage, format!("identity import: {message}"))
}

const NEVER_ARGV: &str = "a secret is never given on the command line, which every user of this machine \
     can read: use - for stdin, @FILE for a file, or nothing for a prompt. If a real secret stood here, \
     consider it seen";

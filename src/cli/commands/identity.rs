//! `identity`: make, import and show a program's key, guard it with a password, and write it down. Only
//! `backup` prints the secret.

use nostr::PublicKey;
use nostr::nips::nip19::ToBech32 as _;
use serde::Serialize;

use crate::cli::args::IdentityCommand;
use crate::cli::ask::{self, Owner, can_ask};
use crate::cli::given::Given;
use crate::cli::output::Output;
use crate::cli::settings::{Settings, off_the_runtime};
use crate::error::{Code, Error, Result};
use crate::identity::IdentityError;
use crate::identity::keystore::{self, Kept, Stored};
use crate::identity::mnemonic::{self, WordCount};
use crate::identity::password::StrongPassword;
use crate::identity::source::{NEW_PASSWORD_VARIABLE, Origin, Source};
use crate::secret::Secret;

#[derive(Serialize)]
struct Shown {
    pubkey: String,
    npub: String,
    /// Where the key comes from: `environment`, `config` or `file`.
    source: &'static str,
    /// Whether its file is encrypted; `null` if it comes from elsewhere.
    encrypted: Option<bool>,
}

/// Does what `identity` was asked for.
///
/// # Errors
/// [`Code::Usage`] if there is an identity file already, what was given is no key, or a password is
/// missing, wrong or weak.
pub async fn run(settings: Settings, command: IdentityCommand, out: &Output) -> Result<()> {
    match command {
        IdentityCommand::Show => {
            let source = settings.identity.clone();
            let found = off_the_runtime(move || {
                let mut owner = Owner::new(source.environment.clone());
                Ok(source.public_key(&mut owner)?)
            })
            .await?;
            if found.origin == Origin::NewFile {
                out.note(&settings.made(found.who));
            }
            show(found.who, found.origin.as_str(), found.encrypted, out)
        }
        IdentityCommand::New { words } => {
            let count = match words.as_str() {
                "24" => WordCount::TwentyFour,
                _ => WordCount::Twelve,
            };
            refuse_if_kept(&settings)?;
            let words = mnemonic::generate(count)?;
            keep(settings.identity, Kept::Words(words), out).await
        }
        IdentityCommand::Import { from } => {
            // Told first: a secret that was typed here has been seen, whatever else is wrong.
            let given = Given::of(&from, "identity import")?;
            refuse_if_kept(&settings)?;
            let text = given.read(QUESTION, "identity import")?;
            let source = settings.identity;
            let mut owner = Owner::new(source.environment.clone());
            let kept = off_the_runtime(move || Ok(Kept::from_text(&text, &mut owner)?)).await?;
            keep(source, kept, out).await
        }
        IdentityCommand::Password { remove } => change(settings.identity, remove, out).await,
        IdentityCommand::Backup { yes } => back_up(settings.identity, yes, out).await,
    }
}

/// Says no before a secret is typed in vain. Creation itself says no as well.
fn refuse_if_kept(settings: &Settings) -> Result<()> {
    let file = &settings.identity.file;
    match file.symlink_metadata() {
        Ok(_) => Err(IdentityError::Exists(file.clone()).into()),
        Err(_) => Ok(()),
    }
}

async fn keep(source: Source, kept: Kept, out: &Output) -> Result<()> {
    let public_key = kept.identity()?.public_key();
    let (file, before) = (source.file.clone(), source.comes_before_the_file()?);
    let encrypted = off_the_runtime(move || {
        let password = match wanted_password(&source, &kept)? {
            None if can_ask() => ask::new_password(
                "Password to encrypt the key with (empty: none, then whoever can read the file has the \
                 key): ",
                |typed| keystore::strong(typed, &kept, &source.environment),
            )?,
            wanted => wanted,
        };
        keystore::create(&source.file, &kept, password.as_ref())?;
        Ok(password.is_some())
    })
    .await?;
    let how = if encrypted {
        "encrypted"
    } else {
        "not encrypted"
    };
    out.note(&format!(
        "kept in {}, {how}; `identity backup` prints what to write down",
        file.display()
    ));
    if before {
        out.note(BEFORE_THE_FILE);
    }
    show(public_key, "file", Some(encrypted), out)
}

const BEFORE_THE_FILE: &str =
    "note: the key that the environment or the configuration names is used before that of the file";

/// The password to set that the environment has.
fn wanted_password(source: &Source, kept: &Kept) -> Result<Option<StrongPassword>> {
    let password = match new_password_of_environment(source)? {
        None => source.password()?,
        new => new,
    };
    let strong = |password| keystore::strong(password, kept, &source.environment);
    Ok(password.map(strong).transpose()?)
}

fn new_password_of_environment(source: &Source) -> Result<Option<Secret>> {
    let new = source.environment.secret(NEW_PASSWORD_VARIABLE);
    new.map_err(|error| IdentityError::Secret(error).into())
}

fn stored(source: &Source) -> Result<Stored> {
    keystore::load(&source.file)?.ok_or_else(|| {
        let file = source.file.display();
        Error::new(
            Code::Usage,
            format!("there is no identity file yet, {file}: `identity new` or `identity import` makes it"),
        )
    })
}

/// Sets, changes or removes the password of the file.
async fn change(source: Source, remove: bool, out: &Output) -> Result<()> {
    let file = source.file.clone();
    let before = source.comes_before_the_file()?;
    let changed = off_the_runtime(move || {
        let stored = stored(&source)?;
        let public_key = stored.public_key()?;
        if remove && !stored.is_encrypted() {
            return Ok((public_key, None));
        }
        let kept = stored.open(&mut Owner::new(source.environment.clone()))?;
        let password = match remove {
            true => None,
            false => Some(next_password(&source, &stored, &kept)?),
        };
        let elsewhere = stored.replace(&kept, password.as_ref())?;
        Ok((public_key, Some(elsewhere)))
    });
    let (public_key, elsewhere) = changed.await?;
    let file = file.display();
    out.note(&match (remove, elsewhere) {
        (_, None) => format!("{file} has no password"),
        (true, _) => format!("{file} is no longer encrypted: whoever can read it has the key"),
        (false, _) => {
            format!("{file} is encrypted with the new password; nobody can recover a lost one")
        }
    });
    if elsewhere == Some(true) {
        out.note(
            "what it was before still has another name on this disk (a hard link): remove that",
        );
    }
    if before {
        out.note(BEFORE_THE_FILE);
    }
    show(public_key, "file", Some(!remove), out)
}

fn next_password(source: &Source, stored: &Stored, kept: &Kept) -> Result<StrongPassword> {
    let of_environment = if stored.is_encrypted() {
        let new = new_password_of_environment(source)?;
        let strong = |new| keystore::strong(new, kept, &source.environment);
        new.map(strong).transpose()?
    } else {
        wanted_password(source, kept)?
    };
    let typed = match of_environment {
        None if can_ask() => ask::new_password("New password: ", |typed| {
            keystore::strong(typed, kept, &source.environment)
        })?,
        password => password,
    };
    typed.ok_or_else(|| {
        Error::new(
            Code::Usage,
            "identity password: there is no new password, nothing was changed: set \
             AGENT_COMPUTE_NEW_PASSWORD (or AGENT_COMPUTE_NEW_PASSWORD_FILE), or run this on a terminal; \
             --remove takes the password away",
        )
    })
}

/// Prints the secret itself.
async fn back_up(source: Source, yes: bool, out: &Output) -> Result<()> {
    let refused = |message: &str| Err(usage(&format!("identity backup: {message}")));
    if out.is_json() {
        return refused("takes no --json");
    }
    if !yes && !can_ask() {
        return refused(
            "prints the secret itself, and there is no terminal to ask whether that is meant: --yes says \
             so",
        );
    }
    let before = source.comes_before_the_file()?;
    let file = source.file.clone();
    let (public_key, secret) = off_the_runtime(move || {
        let stored = stored(&source)?;
        let public_key = stored.public_key()?;
        if !yes && !ask::is_sure(SURE)? {
            return Err(usage("identity backup: not confirmed; nothing was printed"));
        }
        let kept = stored.open(&mut Owner::new(source.environment))?;
        Ok((public_key, written_down(&kept)?))
    })
    .await?;
    let (key, file) = (public_key.to_hex(), file.display());
    out.note(&format!(
        "the secret of {key}, kept in {file}: write it down, and show it to nobody"
    ));
    if before {
        out.note(BEFORE_THE_FILE);
    }
    out.line(secret.expose());
    Ok(())
}

const SURE: &str = "This prints the secret of your key: who sees it has the key for ever, and the money \
                    of wallets derived from it.\nIs nobody looking? Type yes: ";

/// Words as they are, a key as an nsec (NIP-19).
fn written_down(kept: &Kept) -> Result<Secret> {
    match kept {
        Kept::Words(words) => Ok(words.clone()),
        Kept::SecretKey(_) => {
            let identity = kept.identity()?;
            let Ok(nsec) = identity.keys().secret_key().to_bech32();
            Ok(Secret::new(nsec))
        }
    }
}

fn show(key: PublicKey, source: &'static str, encrypted: Option<bool>, out: &Output) -> Result<()> {
    let npub = key
        .to_bech32()
        .map_err(|_| Error::new(Code::Internal, "the public key has no npub"))?;
    let shown = Shown {
        pubkey: key.to_hex(),
        npub,
        source,
        encrypted,
    };
    out.object(&shown);
    out.line(&format!("npub:   {}", shown.npub));
    out.line(&format!("pubkey: {}", shown.pubkey));
    let encrypted = match encrypted {
        Some(true) => " (encrypted)",
        Some(false) => " (not encrypted)",
        None => "",
    };
    out.line(&format!("source: {}{encrypted}", shown.source));
    Ok(())
}

fn usage(message: &str) -> Error {
    Error::new(Code::Usage, message)
}

const QUESTION: &str = "BIP39 words, an nsec, hex or an ncryptsec, then Enter (nothing is shown): ";

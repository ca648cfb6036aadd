//! Where an identity comes from: the environment, a reference in the configuration, or a file that is
//! made on first use; in this order.

use std::path::PathBuf;

use nostr::PublicKey;

use super::password::{Ask, Wanted};
use super::{Identity, IdentityError, keystore, mnemonic};
use crate::secret::{Environment, Secret, SecretError, SecretRef};

/// The variable with a secret key: nsec, hex or ncryptsec.
pub const SECRET_KEY_VARIABLE: &str = "NOSTR_SECRET_KEY";
/// The variable with BIP39 words.
pub const MNEMONIC_VARIABLE: &str = "AGENT_COMPUTE_MNEMONIC";
/// The variable with the password of the identity file, or of an ncryptsec.
pub const PASSWORD_VARIABLE: &str = "AGENT_COMPUTE_PASSWORD";
/// The variable with the password to set, where another is needed to open.
pub const NEW_PASSWORD_VARIABLE: &str = "AGENT_COMPUTE_NEW_PASSWORD";

/// Where to look for an identity. Nothing is read before [`Source::open`].
#[derive(Clone, Debug)]
pub struct Source {
    /// Looked into first, for [`SECRET_KEY_VARIABLE`] and [`MNEMONIC_VARIABLE`].
    pub environment: Environment,
    /// Then: where a secret key is.
    pub secret_key: Option<SecretRef>,
    /// Or where words are.
    pub mnemonic: Option<SecretRef>,
    /// Where relative paths of these references start.
    pub folder: PathBuf,
    /// The file otherwise.
    pub file: PathBuf,
}

/// Which of the places an identity came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A variable, or the file that its `*_FILE` names.
    Environment,
    /// A reference in the configuration.
    Config,
    /// The identity file.
    File,
    /// The identity file, which was made just now.
    NewFile,
}

impl Origin {
    /// The word for it in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Config => "config",
            Self::File | Self::NewFile => "file",
        }
    }
}

/// An identity, or only its public key, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// The identity or its public key.
    pub who: T,
    /// The place that had it.
    pub origin: Origin,
    /// Whether it is kept in a file that is encrypted; `None` if it is not kept in our file.
    pub encrypted: Option<bool>,
}

impl<T> Found<T> {
    const fn elsewhere(who: T, origin: Origin) -> Self {
        Self {
            who,
            origin,
            encrypted: None,
        }
    }
}

impl Source {
    /// The password that the environment has.
    ///
    /// # Errors
    /// If it is said to be in a file that can't be used.
    pub fn password(&self) -> Result<Option<Secret>, IdentityError> {
        Ok(self.environment.secret(PASSWORD_VARIABLE)?)
    }

    /// Whether the environment or the configuration names a key, which comes before the file.
    ///
    /// # Errors
    /// If the environment can't be read.
    pub fn comes_before_the_file(&self) -> Result<bool, IdentityError> {
        let set = |name| self.environment.secret(name).map(|secret| secret.is_some());
        Ok(set(SECRET_KEY_VARIABLE)?
            || set(MNEMONIC_VARIABLE)?
            || self.secret_key.is_some()
            || self.mnemonic.is_some())
    }

    /// The identity, from the first place that has one. The file is made if it has to be, encrypted if
    /// the environment has a password. Takes some tenths of a second of work if there is a password: don't
    /// call it on an async runtime's thread.
    ///
    /// # Errors
    /// If the place that counts has no valid identity, or no password that is offered opens it. The next
    /// one is not tried then: the owner meant this one.
    pub fn open(&self, ask: &mut dyn Ask) -> Result<Found<Identity>, IdentityError> {
        if let Some(found) = self.before_the_file(ask)? {
            return Ok(found);
        }
        let (who, made) = keystore::open_or_create_with(&self.file, &self.environment, ask)?;
        let stored = keystore::load(&self.file)?;
        Ok(Found {
            who,
            origin: if made { Origin::NewFile } else { Origin::File },
            encrypted: stored.map(|stored| stored.is_encrypted()),
        })
    }

    /// Whose identity it is. As [`Self::open`], but an encrypted file stays closed: it says whose it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn public_key(&self, ask: &mut dyn Ask) -> Result<Found<PublicKey>, IdentityError> {
        if !self.comes_before_the_file()?
            && let Some(stored) = keystore::load(&self.file)?
        {
            return Ok(Found {
                who: stored.public_key()?,
                origin: Origin::File,
                encrypted: Some(stored.is_encrypted()),
            });
        }
        let Found {
            who,
            origin,
            encrypted,
        } = self.open(ask)?;
        Ok(Found {
            who: who.public_key(),
            origin,
            encrypted,
        })
    }

    fn before_the_file(&self, ask: &mut dyn Ask) -> Result<Option<Found<Identity>>, IdentityError> {
        let key = self.environment.secret(SECRET_KEY_VARIABLE)?;
        let words = self.environment.secret(MNEMONIC_VARIABLE)?;
        let of_environment = match (key, words) {
            (Some(_), Some(_)) => {
                return Err(IdentityError::Secret(SecretError::Both(
                    SECRET_KEY_VARIABLE.to_owned(),
                    MNEMONIC_VARIABLE.to_owned(),
                )));
            }
            (Some(key), None) => Some(of_key(&key, ask)?),
            (None, Some(words)) => Some(mnemonic::identity(&words)?),
            (None, None) => None,
        };
        if let Some(identity) = of_environment {
            return Ok(Some(Found::elsewhere(identity, Origin::Environment)));
        }
        let of_config = if let Some(place) = &self.secret_key {
            let key = place.resolve(&self.environment, &self.folder)?;
            Some(of_key(&key, ask)?)
        } else if let Some(place) = &self.mnemonic {
            let words = place.resolve(&self.environment, &self.folder)?;
            Some(mnemonic::identity(&words)?)
        } else {
            None
        };
        Ok(of_config.map(|identity| Found::elsewhere(identity, Origin::Config)))
    }
}

/// The identity of a key as its owner gave it. Who is asked for the password of an ncryptsec may try until
/// they give up.
///
/// # Errors
/// If it is no key, or an ncryptsec that no password opens.
pub(super) fn of_key(key: &Secret, ask: &mut dyn Ask) -> Result<Identity, IdentityError> {
    let without_password = Identity::from_secret_key(key, None);
    if !matches!(without_password, Err(IdentityError::NeedsPassword)) {
        return without_password;
    }
    let mut refused = 0;
    while let Some(password) = ask.ask(Wanted::Ncryptsec, refused)? {
        match Identity::from_secret_key(key, Some(&password)) {
            Err(IdentityError::WrongPassword) => refused += 1,
            done => return done,
        }
    }
    Err(match refused {
        0 => IdentityError::NeedsPassword,
        _ => IdentityError::WrongPassword,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    const KEY_A: &str = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a";
    const KEY_B: &str = "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add";
    const WORDS_A: &str =
        "leader monkey parrot ring guide accident before fence cannon height naive bean";

    fn source(folder: &Path, environment: Environment) -> Source {
        Source {
            environment,
            secret_key: None,
            mnemonic: None,
            folder: folder.to_owned(),
            file: folder.join("customer/identity.enc"),
        }
    }

    fn secret_of(source: &Source) -> (String, Origin) {
        let found = source.open(&mut &source.environment).unwrap();
        (found.who.keys().secret_key().to_secret_hex(), found.origin)
    }

    #[test]
    fn the_environment_comes_before_the_configuration_and_that_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let with = |environment| source(folder.path(), environment);

        let empty = with(Environment::of([]));
        let (made, origin) = secret_of(&empty);
        assert_eq!(origin, Origin::NewFile);
        assert_eq!(secret_of(&empty), (made, Origin::File));

        std::fs::write(folder.path().join("key"), KEY_B).unwrap();
        let mut configured = with(Environment::of([]));
        configured.secret_key = Some(SecretRef::File("key".into()));
        assert_eq!(secret_of(&configured), (KEY_B.to_owned(), Origin::Config));

        configured.environment = Environment::of([(SECRET_KEY_VARIABLE, KEY_A)]);
        assert_eq!(
            secret_of(&configured),
            (KEY_A.to_owned(), Origin::Environment)
        );
        let by_words = with(Environment::of([(MNEMONIC_VARIABLE, WORDS_A)]));
        assert_eq!(secret_of(&by_words).0, KEY_A);
    }

    #[test]
    fn a_place_that_counts_and_is_broken_is_an_error_not_the_next_place() {
        let folder = tempfile::tempdir().unwrap();
        let broken = [
            Environment::of([(SECRET_KEY_VARIABLE, "garbage")]),
            Environment::of([(MNEMONIC_VARIABLE, "garbage")]),
            Environment::of([("NOSTR_SECRET_KEY_FILE", "/nowhere")]),
            Environment::of([(SECRET_KEY_VARIABLE, KEY_A), (MNEMONIC_VARIABLE, WORDS_A)]),
        ];
        for environment in broken {
            let source = source(folder.path(), environment);
            assert!(source.open(&mut &source.environment).is_err());
            assert!(!source.file.exists(), "no key is made behind an error");
        }
        let mut missing = source(folder.path(), Environment::of([]));
        missing.mnemonic = Some(SecretRef::Env("NOT_SET".into()));
        assert!(
            missing
                .open(&mut &missing.environment)
                .unwrap_err()
                .to_string()
                .contains("NOT_SET")
        );
    }
}

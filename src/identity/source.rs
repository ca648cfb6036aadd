//! Where an identity comes from: the environment, a reference in the configuration, or a file that is
//! made on first use; in this order.

use std::path::PathBuf;

use super::{Identity, IdentityError, keystore, mnemonic};
use crate::secret::{Environment, Secret, SecretRef};

/// The variable with a secret key: nsec, hex or ncryptsec.
pub const SECRET_KEY_VARIABLE: &str = "NOSTR_SECRET_KEY";
/// The variable with BIP39 words.
pub const MNEMONIC_VARIABLE: &str = "AGENT_COMPUTE_MNEMONIC";
/// The variable with the password of an ncryptsec.
pub const PASSWORD_VARIABLE: &str = "AGENT_COMPUTE_PASSWORD";

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

impl Source {
    /// The password that the environment has, for an ncryptsec.
    ///
    /// # Errors
    /// If it is said to be in a file that can't be used.
    pub fn password(&self) -> Result<Option<Secret>, IdentityError> {
        Ok(self.environment.secret(PASSWORD_VARIABLE)?)
    }

    /// The identity that the environment has, which comes before every file.
    ///
    /// # Errors
    /// If it has two, or what it has is not valid.
    pub fn of_environment(&self) -> Result<Option<Identity>, IdentityError> {
        let key = self.environment.secret(SECRET_KEY_VARIABLE)?;
        let words = self.environment.secret(MNEMONIC_VARIABLE)?;
        match (key, words) {
            (Some(_), Some(_)) => Err(IdentityError::Secret(crate::secret::SecretError::Both(
                SECRET_KEY_VARIABLE.to_owned(),
                MNEMONIC_VARIABLE.to_owned(),
            ))),
            (Some(key), None) => self.of_key(&key).map(Some),
            (None, Some(words)) => mnemonic::identity(&words).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The identity, from the first place that has one. The file is made if it has to be.
    ///
    /// # Errors
    /// If the place that counts has no valid identity. The next one is not tried then: the owner meant
    /// this one.
    pub fn open(&self) -> Result<(Identity, Origin), IdentityError> {
        if let Some(identity) = self.of_environment()? {
            return Ok((identity, Origin::Environment));
        }
        if let Some(place) = &self.secret_key {
            let key = place.resolve(&self.environment, &self.folder)?;
            return Ok((self.of_key(&key)?, Origin::Config));
        }
        if let Some(place) = &self.mnemonic {
            let words = place.resolve(&self.environment, &self.folder)?;
            return Ok((mnemonic::identity(&words)?, Origin::Config));
        }
        let (identity, made) = keystore::open_or_create(&self.file)?;
        let origin = if made { Origin::NewFile } else { Origin::File };
        Ok((identity, origin))
    }

    fn of_key(&self, key: &Secret) -> Result<Identity, IdentityError> {
        let password = self.password()?;
        Identity::from_secret_key(key, password.as_ref())
    }
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
        let (identity, origin) = source.open().unwrap();
        (identity.keys().secret_key().to_secret_hex(), origin)
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
            assert!(source.open().is_err());
            assert!(!source.file.exists(), "no key is made behind an error");
        }
        let mut missing = source(folder.path(), Environment::of([]));
        missing.mnemonic = Some(SecretRef::Env("NOT_SET".into()));
        assert!(missing.open().unwrap_err().to_string().contains("NOT_SET"));
    }
}

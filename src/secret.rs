//! Secrets, references to where they are kept, and the environment.
//!
//! A secret is typed by its owner into the environment, a file or a prompt; never into argv, which
//! every user of the machine can read, and never into the configuration, which gets shared. This is
//! the one module that reads the environment (clap's `--help` aside), so that precedence and the
//! `*_FILE` convention are the same everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroize as _;

/// The most bytes a file with a secret may have. The longest secret we know, a wallet connection
/// string, has a few hundred.
pub const MAX_SECRET_FILE_BYTES: u64 = 16 * 1024;

/// A value that must not be shown. `Debug` shows nothing of it, and there is no `Display`: to use the
/// value is to call [`Secret::expose`], which is easy to search for. Its memory is overwritten when it
/// is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes custody of `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value. Never pass it to a log, an error or argv.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Bytes that are overwritten when they are dropped: a key, or a file on its way to becoming a [`Secret`].
pub(crate) struct Wiped<B: AsMut<[u8]>>(pub(crate) B);

impl<B: AsMut<[u8]>> Drop for Wiped<B> {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

/// Why a secret can't be had. The messages name places, never values.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment has no such variable.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The variable, or the file, holds bytes that are no text.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// The file can't be read.
    #[error("{path} can't be read: {problem}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        problem: std::io::Error,
    },
    /// The file is larger than any secret.
    #[error("{path} is larger than {MAX_SECRET_FILE_BYTES} bytes: not a secret", path = .0.display())]
    TooLarge(PathBuf),
    /// Others on this machine can read, or change, the file of a secret that is as good as money.
    #[error("{path} is open to others (mode {mode:03o}): chmod 600 it, and consider what it held seen", path = path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Two places that exclude each other.
    #[error("{0} and {1} are both set: unset one of them")]
    Both(String, String),
}

/// The environment variables, as they were at start or as a test has them. An empty variable counts as
/// one that is not set.
#[derive(Clone, Default)]
pub struct Environment(Option<Arc<BTreeMap<String, String>>>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(…)")
    }
}

impl Environment {
    /// The one of this process.
    #[must_use]
    pub const fn of_process() -> Self {
        Self(None)
    }

    /// Exactly these variables.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(Some(Arc::new(BTreeMap::from(owned))))
    }

    /// The value of a variable that is no secret.
    ///
    /// # Errors
    /// [`SecretError::NotText`].
    pub fn get(&self, name: &str) -> Result<Option<String>, SecretError> {
        let value = match &self.0 {
            Some(variables) => variables.get(name).cloned(),
            None => read_variable(name)
                .map(|value| value.into_string())
                .transpose()
                .map_err(|_| SecretError::NotText(name.to_owned()))?,
        };
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The value of a variable that is a path; it need not be text.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        match &self.0 {
            Some(variables) => variables.get(name).map(PathBuf::from),
            None => read_variable(name).map(PathBuf::from),
        }
        .filter(|path| !path.as_os_str().is_empty())
    }

    /// A secret from the variable `name`, or from the file that `name_FILE` names.
    ///
    /// # Errors
    /// If both are set, or the file can't be used.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, SecretError> {
        self.secret_by(name, read_secret_file)
    }

    /// The same, from a file for its owner alone.
    ///
    /// # Errors
    /// If both are set, or the file can't be used or is open to others.
    pub fn private_secret(&self, name: &str) -> Result<Option<Secret>, SecretError> {
        self.secret_by(name, read_private_file)
    }

    fn secret_by(
        &self,
        name: &str,
        read: impl FnOnce(&Path) -> Result<Secret, SecretError>,
    ) -> Result<Option<Secret>, SecretError> {
        let file_variable = format!("{name}_FILE");
        match (self.get(name)?, self.path(&file_variable)) {
            (Some(_), Some(_)) => Err(SecretError::Both(name.to_owned(), file_variable)),
            (Some(value), None) => Ok(Some(trimmed(value))),
            (None, Some(path)) => read(&path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// A secret without the white space around it. No copy of it is left behind.
fn trimmed(value: String) -> Secret {
    let value = Secret::new(value);
    Secret::new(value.expose().trim())
}

#[expect(clippy::disallowed_methods, reason = "this is its one place")]
fn read_variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Where the configuration says that a secret is: `env:NAME` or `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable.
    Env(String),
    /// In this file. A relative path starts at the folder of the configuration file.
    File(PathBuf),
}

impl SecretRef {
    /// Reads a reference.
    ///
    /// # Errors
    /// For anything else, with an explanation that does not repeat it: it may be the secret itself.
    pub fn parse(text: &str) -> Result<Self, NotAReference> {
        match text.split_once(':') {
            Some(("env", name)) if is_variable_name(name) => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err(NotAReference),
        }
    }

    /// The secret. `folder` is where relative paths start.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn resolve(&self, environment: &Environment, folder: &Path) -> Result<Secret, SecretError> {
        self.resolve_by(environment, folder, read_secret_file)
    }

    /// The same, where a file must be for its owner alone.
    ///
    /// # Errors
    /// If it isn't there, or its file is open to others.
    pub fn resolve_private(
        &self,
        environment: &Environment,
        folder: &Path,
    ) -> Result<Secret, SecretError> {
        self.resolve_by(environment, folder, read_private_file)
    }

    fn resolve_by(
        &self,
        environment: &Environment,
        folder: &Path,
        read: impl FnOnce(&Path) -> Result<Secret, SecretError>,
    ) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => match environment.get(name)? {
                Some(value) => Ok(trimmed(value)),
                None => Err(SecretError::NotSet(name.clone())),
            },
            Self::File(path) => read(&folder.join(path)),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text =
            String::deserialize(from).map_err(|_| serde::de::Error::custom(NotAReference))?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Something other than a reference stood where one is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret in the configuration is a reference, env:NAME or file:PATH, never the value itself; if a \
     real secret stands here, move it, and consider it seen"
)]
pub struct NotAReference;

/// Reads a secret from a file, without the white space around it. Warns when others may read it too.
///
/// # Errors
/// If the file can't be read, is empty, no text, or larger than [`MAX_SECRET_FILE_BYTES`].
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretError> {
    read_file(path, |file| {
        warn_if_open_to_others(path, file);
        Ok(())
    })
}

/// Reads a secret from a file that its owner alone may read, and refuses any other: whoever has a wallet's
/// connection has the money.
///
/// # Errors
/// As [`read_secret_file`], and [`SecretError::OpenToOthers`].
pub fn read_private_file(path: &Path) -> Result<Secret, SecretError> {
    read_file(path, |file| match mode_open_to_others(file) {
        Some(mode) => Err(SecretError::OpenToOthers {
            path: path.to_owned(),
            mode,
        }),
        None => Ok(()),
    })
}

fn read_file(
    path: &Path,
    check: impl FnOnce(&std::fs::File) -> Result<(), SecretError>,
) -> Result<Secret, SecretError> {
    let unreadable = |problem| SecretError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    check(&file)?;
    let mut bytes = Wiped(Vec::new());
    file.take(MAX_SECRET_FILE_BYTES + 1)
        .read_to_end(&mut bytes.0)
        .map_err(unreadable)?;
    if bytes.0.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    let named = || path.display().to_string();
    let text = std::str::from_utf8(&bytes.0).map_err(|_| SecretError::NotText(named()))?;
    match text.trim() {
        "" => Err(SecretError::Empty(named())),
        secret => Ok(Secret::new(secret)),
    }
}

/// The permissions of a file that others may read or change.
#[cfg(unix)]
fn mode_open_to_others(file: &std::fs::File) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;

    let metadata = file.metadata().ok()?;
    let mode = metadata.permissions().mode() & 0o777;
    (metadata.is_file() && mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn mode_open_to_others(_file: &std::fs::File) -> Option<u32> {
    None
}

/// Tells the log when a file that holds a secret can be read by others.
pub(crate) fn warn_if_open_to_others(path: &Path, file: &std::fs::File) {
    if let Some(mode) = mode_open_to_others(file) {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:03o}"),
            "this file holds a secret and is open to others: chmod 600 it"
        );
    }
}

/// Makes a folder for its owner alone (0700), and those above it. One that exists is left as it is.
pub(crate) fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// Makes a new file for its owner alone (0600).
pub(crate) fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let environment = Environment::of([("PASSWORD", "hunter2")]);
        assert!(!format!("{environment:?}").contains("hunter2"));
    }

    #[test]
    fn references_are_read_and_literals_refused_without_repeating_them() {
        assert_eq!(
            SecretRef::parse("env:NWC_URI"),
            Ok(SecretRef::Env("NWC_URI".into()))
        );
        assert_eq!(
            SecretRef::parse("file:/run/secrets/key"),
            Ok(SecretRef::File("/run/secrets/key".into()))
        );
        for literal in [
            "hunter2", "env:", "file:", "env:a b", "env:${X}", "", "nsec1abc",
        ] {
            let error = SecretRef::parse(literal).unwrap_err().to_string();
            assert!(literal.is_empty() || !error.contains(literal) || literal.ends_with(':'));
        }
    }

    #[test]
    fn a_variable_or_its_file_but_not_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, " from the file\n").unwrap();
        let path = path.to_str().unwrap();

        let of_file = Environment::of([("KEY_FILE", path)]);
        assert_eq!(
            of_file.secret("KEY").unwrap().unwrap().expose(),
            "from the file"
        );
        let both = Environment::of([("KEY", "x"), ("KEY_FILE", path)]);
        assert!(matches!(both.secret("KEY"), Err(SecretError::Both(..))));
        let emptied = Environment::of([("KEY", ""), ("KEY_FILE", path)]);
        assert!(emptied.secret("KEY").unwrap().is_some());
        assert_eq!(Environment::of([]).secret("KEY").unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_as_good_as_money_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uri");
        std::fs::write(&path, "the connection").unwrap();
        let environment = Environment::of([("URI_FILE", path.to_str().unwrap())]);
        let reference = SecretRef::File(path.clone());
        for (mode, is_taken) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            for read in [
                read_private_file(&path),
                environment.private_secret("URI").map(Option::unwrap),
                reference.resolve_private(&environment, folder.path()),
            ] {
                assert_eq!(read.is_ok(), is_taken, "{mode:o}");
            }
            assert!(read_secret_file(&path).is_ok());
        }
    }

    #[test]
    fn a_file_of_secrets_is_bounded_and_must_hold_text() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let large = write("large", &vec![b'a'; 20_000]);
        assert!(matches!(
            read_secret_file(&large),
            Err(SecretError::TooLarge(_))
        ));
        let binary = write("binary", &[0xff, 0xfe]);
        assert!(matches!(
            read_secret_file(&binary),
            Err(SecretError::NotText(_))
        ));
        let empty = write("empty", b" \n");
        assert!(matches!(
            read_secret_file(&empty),
            Err(SecretError::Empty(_))
        ));
        let missing = folder.path().join("missing");
        assert!(matches!(
            read_secret_file(&missing),
            Err(SecretError::Unreadable { .. })
        ));
    }
}

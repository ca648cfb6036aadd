//! The file an identity is kept in: a versioned JSON envelope, readable by its owner only.
//!
//! ```json
//! {"v":1,"protection":"none","words":"…"}
//! {"v":1,"protection":"none","secret_key":"…64 hex digits…"}
//! ```
//!
//! `protection` names how the rest is guarded; `none` is file permissions alone. A reader refuses a
//! version or a protection that it does not know, and never overwrites such a file.
//!
//! # Creation
//!
//! The envelope is written to a file of another name, synced, and put in place by a hard link, which
//! fails if the place is taken. So a reader sees a whole envelope or none, and of two programs that
//! start at once, both use what the faster one made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::mnemonic::{self, WordCount};
use super::{Identity, IdentityError};
use crate::secret::{Secret, make_private_folder, private_file};

/// The most bytes an identity file may have.
const MAX_FILE_BYTES: u64 = 16 * 1024;

const VERSION: u32 = 1;

/// What an identity file keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// BIP39 words.
    Words(Secret),
    /// A secret key that was imported as such, in hex.
    SecretKey(Secret),
}

impl Kept {
    /// The identity that it stands for.
    ///
    /// # Errors
    /// If the words or the key are not valid.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        match self {
            Self::Words(words) => mnemonic::identity(words),
            Self::SecretKey(key) => Identity::from_secret_key(key, None),
        }
    }

    /// What to keep of text that its owner gave: words, an nsec, hex, or an ncryptsec and its password.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn from_text(text: &Secret, password: Option<&Secret>) -> Result<Self, IdentityError> {
        if text.expose().split_whitespace().nth(1).is_some() {
            return mnemonic::normalize(text).map(Self::Words);
        }
        let identity = Identity::from_secret_key(text, password)?;
        let hex = identity.keys().secret_key().to_secret_hex();
        Ok(Self::SecretKey(Secret::new(hex)))
    }
}

/// The parts of every envelope that say whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    v: u32,
    protection: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Envelope {
    v: u32,
    protection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    words: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_key: Option<String>,
}

/// The identity in the file at `path`; `None` if there is no such file.
///
/// # Errors
/// If the file can't be read, or is not one that this version understands.
pub fn read(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(io_error(path, problem)),
    };
    crate::secret::warn_if_open_to_others(path, &file);
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|problem| io_error(path, problem))?;
    let kept = decode(&bytes).map_err(|problem| IdentityError::Malformed {
        path: path.to_owned(),
        problem,
    })?;
    // What went wrong is told as a fault of the file: the reader did not type anything.
    kept.identity()
        .map(Some)
        .map_err(|error| IdentityError::Malformed {
            path: path.to_owned(),
            problem: error.to_string(),
        })
}

/// The identity in the file at `path`, made now from the randomness of the operating system if there
/// is none. Says whether it was made now.
///
/// # Errors
/// If the file can't be read or made.
pub fn open_or_create(path: &Path) -> Result<(Identity, bool), IdentityError> {
    if let Some(identity) = read(path)? {
        return Ok((identity, false));
    }
    let words = mnemonic::generate(WordCount::default())?;
    let created = match create(path, &Kept::Words(words)) {
        Ok(()) => true,
        Err(IdentityError::Exists(_)) => false,
        Err(error) => return Err(error),
    };
    // What counts is what is in the file, whoever put it there.
    match read(path)? {
        Some(identity) => Ok((identity, created)),
        None => Err(io_error(path, io::ErrorKind::NotFound.into())),
    }
}

/// Puts an identity into a new file at `path`, which becomes its owner's alone (0600). Its folder is
/// made if it isn't there.
///
/// # Errors
/// [`IdentityError::Exists`] if there is a file already, whatever it holds.
pub fn create(path: &Path, kept: &Kept) -> Result<(), IdentityError> {
    let mut envelope = Envelope {
        v: VERSION,
        protection: "none".to_owned(),
        ..Envelope::default()
    };
    match kept {
        Kept::Words(words) => envelope.words = Some(words.expose().to_owned()),
        Kept::SecretKey(key) => envelope.secret_key = Some(key.expose().to_owned()),
    }
    let json =
        serde_json::to_string(&envelope).map_err(|problem| io_error(path, problem.into()))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    make_private_folder(folder).map_err(|problem| io_error(folder, problem))?;
    place(path, folder, json.as_bytes())
}

/// A file that is removed when this goes out of scope.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing to be done if it fails: the file is private, and its name says what it is.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn place(path: &Path, folder: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let suffix: u64 = rand::rng().random();
    let temporary = Temporary(folder.join(format!(".identity-{suffix:016x}.tmp")));
    let write = || {
        let mut file = private_file(&temporary.0)?;
        file.write_all(content)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|problem| io_error(&temporary.0, problem))?;
    match std::fs::hard_link(&temporary.0, path) {
        Ok(()) => {}
        Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
            return Err(IdentityError::Exists(path.to_owned()));
        }
        // A file system without hard links. Between the look and the rename another process may put
        // its file there; both then read whichever came last.
        Err(_) if path.symlink_metadata().is_ok() => {
            return Err(IdentityError::Exists(path.to_owned()));
        }
        Err(_) => {
            std::fs::rename(&temporary.0, path).map_err(|problem| io_error(path, problem))?;
        }
    }
    sync_folder(folder).map_err(|problem| io_error(folder, problem))
}

fn decode(bytes: &[u8]) -> Result<Kept, String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {MAX_FILE_BYTES} bytes"));
    }
    // The parser's own message may repeat what it read, so only the place is told.
    let not_json = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        format!("no identity envelope (line {line}, column {column})")
    };
    let head: Head = serde_json::from_slice(bytes).map_err(not_json)?;
    if head.v != VERSION {
        return Err(format!(
            "its version is {}, and this program knows version {VERSION}; use a newer program",
            head.v
        ));
    }
    if head.protection != "none" {
        return Err(
            "it is protected in a way that this program does not know; use a newer program"
                .to_owned(),
        );
    }
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(not_json)?;
    match (envelope.words, envelope.secret_key) {
        (Some(words), None) => Ok(Kept::Words(Secret::new(words))),
        (None, Some(key)) => Ok(Kept::SecretKey(Secret::new(key))),
        _ => Err("it must hold words or a secret_key, one of them".to_owned()),
    }
}

fn io_error(path: &Path, problem: io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.to_owned(),
        problem,
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const WORDS: &str =
        "leader monkey parrot ring guide accident before fence cannon height naive bean";

    #[test]
    fn what_was_put_in_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let nsec = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";
        for (name, text) in [("words", WORDS), ("key", nsec)] {
            let path = folder.path().join("made").join(name);
            let kept = Kept::from_text(&Secret::new(text), None).unwrap();
            assert!(read(&path).unwrap().is_none());
            create(&path, &kept).unwrap();
            let identity = read(&path).unwrap().unwrap();
            assert_eq!(
                identity.public_key().to_hex(),
                "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917"
            );
            assert!(matches!(
                create(&path, &kept),
                Err(IdentityError::Exists(_))
            ));
        }
        let left = std::fs::read_dir(folder.path().join("made")).unwrap();
        assert_eq!(left.count(), 2, "no temporary file stays");
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        for (i, (content, says)) in [
            ("", "no identity envelope"),
            ("not json SECRET", "no identity envelope"),
            (r#"{"v":1,"protection":"none","words":42}"#, "envelope"),
            (r#"{"v":"SECRET","protection":"none"}"#, "envelope"),
            (
                r#"{"v":2,"protection":"none","words":"SECRET"}"#,
                "version is 2",
            ),
            (
                r#"{"v":1,"protection":"aes-256-gcm","data":"SECRET"}"#,
                "newer program",
            ),
            (r#"{"v":1,"protection":"none"}"#, "one of them"),
            (
                r#"{"v":1,"protection":"none","words":"SECRET","secret_key":"SECRET"}"#,
                "one of them",
            ),
            (r#"{"v":1,"protection":"none","words":"SECRET"}"#, "1 words"),
            (
                r#"{"v":1,"protection":"none","secret_key":"SECRET"}"#,
                "hex",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(i.to_string());
            std::fs::write(&path, content).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{content}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
            assert!(open_or_create(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let path = folder.path().join("large");
        std::fs::write(&path, " ".repeat(20_000)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger"));
    }
}

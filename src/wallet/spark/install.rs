//! Puts the SDK into an environment of its own.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use crate::wallet::bounded;

/// The version of the SDK.
pub const SDK_VERSION: &str = "0.27.2";

/// The oldest Python that it runs on.
pub const MIN_PYTHON: (u32, u32) = (3, 9);

/// What is installed, each file by its hash: whoever serves it can't change it.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// Says that the environment is whole, and with which version.
const MARK: &str = "installed";

/// Bytes of what the installer says that are kept, for an error.
const MAX_WORDS: usize = 64 * 1024;

/// Why the SDK is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// There is no Python that would do.
    #[error(
        "the Spark SDK needs Python 3.9 or later with its venv module (Debian: python3-venv): {0}"
    )]
    Python(String),
    /// The package could not be downloaded.
    #[error("the Spark SDK can't be downloaded: {0}")]
    Download(String),
    /// What was downloaded does not install, or does not run here.
    #[error("the Spark SDK can't be used on this machine: {0}")]
    Broken(String),
    /// The folder can't be written.
    #[error("{0}: {1}")]
    Folder(PathBuf, io::Error),
}

/// Whether the environment has the SDK in this version.
#[must_use]
pub fn is_installed(environment: &Path) -> bool {
    let mark = std::fs::read_to_string(environment.join(MARK));
    mark.is_ok_and(|version| version == SDK_VERSION)
}

/// The Python of an environment.
pub(super) fn python(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

/// Makes the environment with `python` (a name or a path) and installs the SDK in it. `say` is told what goes on.
/// What an earlier try has left half done is replaced.
///
/// # Errors
/// If Python, the network or the room for it is missing. Nothing half done counts as installed.
pub async fn install(
    environment: &Path,
    python_program: &OsStr,
    mut say: impl FnMut(&str),
) -> Result<(), InstallError> {
    let folder = |problem| InstallError::Folder(environment.to_owned(), problem);
    say("looking for Python");
    check_python(python_program).await?;
    say("making a private environment");
    if environment.join("pyvenv.cfg").exists() {
        std::fs::remove_dir_all(environment).map_err(folder)?;
    }
    let mut venv = command(python_program);
    venv.args(["-I", "-m", "venv"]).arg(environment);
    let made = run(&mut venv).await.map_err(InstallError::Python)?;
    if !made.status.success() {
        return Err(InstallError::Python(last_words(&made)));
    }
    let requirements = environment.join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENTS).map_err(folder)?;
    say("downloading");
    download(environment, &requirements, &mut say).await?;
    say("trying it");
    let mut import = command(python(environment).as_os_str());
    import.args(["-I", "-c", "import breez_sdk_spark"]);
    let imported = run(&mut import).await.map_err(InstallError::Broken)?;
    if !imported.status.success() {
        return Err(InstallError::Broken(last_words(&imported)));
    }
    std::fs::write(environment.join(MARK), SDK_VERSION).map_err(folder)
}

async fn check_python(program: &OsStr) -> Result<(), InstallError> {
    let name = program.to_string_lossy().into_owned();
    let mut version = command(program);
    version.args([
        "-I",
        "-c",
        "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])",
    ]);
    let found = run(&mut version)
        .await
        .map_err(|problem| InstallError::Python(format!("{name}: {problem}")))?;
    if !found.status.success() {
        let words = last_words(&found);
        return Err(InstallError::Python(format!("{name}: {words}")));
    }
    let text = String::from_utf8_lossy(&found.stdout);
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    let mut parts = text.trim().split('.');
    match (number(parts.next()), number(parts.next())) {
        (Some(major), Some(minor)) if (major, minor) >= MIN_PYTHON => Ok(()),
        _ => Err(InstallError::Python(format!(
            "{name} is {}",
            bounded(text.trim())
        ))),
    }
}

async fn download(
    environment: &Path,
    requirements: &Path,
    say: &mut impl FnMut(&str),
) -> Result<(), InstallError> {
    let mut pip = command(python(environment).as_os_str());
    pip.args(["-I", "-m", "pip", "install"])
        .args(["--disable-pip-version-check", "--no-input", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes"])
        .args(["--retries", "2", "--timeout", "20", "--requirement"])
        .arg(requirements)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let broken = |problem: io::Error| InstallError::Broken(problem.to_string());
    let mut child = pip.spawn().map_err(broken)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut words = String::new();
    let told = async {
        let mut lines = BufReader::new(stdout?).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            say(&bounded(line.trim()));
        }
        Some(())
    };
    let complained = async {
        let stderr = stderr?;
        let most = u64::try_from(MAX_WORDS).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let mut stderr = stderr.take(most);
        stderr.read_to_end(&mut bytes).await.ok()?;
        // What is more is not kept, and must not keep it waiting.
        let mut rest = stderr.into_inner();
        tokio::io::copy(&mut rest, &mut tokio::io::sink())
            .await
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (_, complaints) = tokio::join!(told, complained);
    words.push_str(&complaints.unwrap_or_default());
    let status = child.wait().await.map_err(broken)?;
    if status.success() {
        return Ok(());
    }
    let last = last_line(&words);
    // It tries another address before it gives up, and then says that there is no such version.
    let unreachable = ["connection broken", "Connection", "resolve", "timed out"];
    Err(match unreachable.iter().any(|word| words.contains(word)) {
        true => InstallError::Download(format!("no network? {last}")),
        false => InstallError::Download(last),
    })
}

fn command(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().await;
    output.map_err(|problem| match problem.kind() {
        io::ErrorKind::NotFound => "there is no such program".to_owned(),
        _ => problem.to_string(),
    })
}

fn last_words(of: &Output) -> String {
    let errors = String::from_utf8_lossy(&of.stderr);
    match last_line(&errors) {
        words if words.is_empty() => last_line(&String::from_utf8_lossy(&of.stdout)),
        words => words,
    }
}

fn last_line(of: &str) -> String {
    let mut lines = of.lines().map(str::trim).filter(|line| !line.is_empty());
    bounded(lines.next_back().unwrap_or_default())
}

//! Configuration, folders, files and the key: what is on this machine before anything is opened.

use std::path::{Path, PathBuf};

use nostr::PublicKey;

use super::{Finding, Patient, named, quoted};
use crate::cli::args::GlobalArgs;
use crate::cli::settings::{Settings, home_of, read_config};
use crate::config::{Config, Role};
use crate::error::Code;
use crate::identity::keystore;
use crate::look::beside;
use crate::secret::Environment;

/// Reads the configuration. Without settings nothing else can be looked at; with one that is off, the rest
/// is looked at as it is by default.
pub(super) fn configuration(
    role: Role,
    flags: &GlobalArgs,
    environment: Environment,
    program: &str,
) -> (Vec<Finding>, Option<Settings>) {
    let home = match home_of(flags, &environment) {
        Ok(home) => home,
        Err(error) => {
            let finding = Finding::problem("config", "home", Code::Usage, error.message())
                .fix(format!("{program} --home DIR doctor"));
            return (vec![finding], None);
        }
    };
    let file = flags.config.as_deref().unwrap_or(home.config_file());
    let subject = file.display();
    let mut findings = Vec::new();
    let config = match read_config(&home, flags) {
        Ok(config) => {
            findings.push(read_well(file, &config));
            config
        }
        Err(error) => {
            findings.push(
                Finding::problem("config", subject, Code::Usage, error.message())
                    .fix(format!("${{EDITOR:-vi}} {}", quoted(file))),
            );
            Config::default()
        }
    };
    findings.extend(open_to_change(file));
    let with = |flags: &GlobalArgs, environment| {
        Settings::with(
            role,
            flags,
            false,
            environment,
            (home.clone(), config.clone()),
        )
    };
    let settings = with(flags, environment.clone()).or_else(|error| {
        // Flags and variables that contradict each other: each says so by itself.
        findings.push(
            Finding::problem(
                "config",
                "flags and environment",
                Code::Usage,
                error.message(),
            )
            .fix(format!("{program} --help")),
        );
        let place = GlobalArgs {
            json: flags.json,
            config: flags.config.clone(),
            home: flags.home.clone(),
            ..GlobalArgs::default()
        };
        with(&place, environment)
    });
    (findings, settings.ok())
}

fn read_well(file: &Path, config: &Config) -> Finding {
    let limits = &config.runway;
    let limits = format!(
        "limits: {} a job, {} a tick, {} a day",
        limits.per_job_limit, limits.per_tick_limit, limits.daily_limit
    );
    let how = if file.exists() {
        "every key is known"
    } else {
        "there is none, so defaults apply"
    };
    Finding::ok("config", file.display(), format!("{how}; {limits}"))
}

/// Who may write to the configuration can raise the limits.
fn open_to_change(file: &Path) -> Option<Finding> {
    let mode = mode(file)?;
    (mode & 0o022 != 0).then(|| {
        let message = format!("others may change it, and with it your limits (mode {mode:03o})");
        Finding::problem("config", file.display(), Code::Usage, message)
            .fix(format!("chmod go-w {}", quoted(file)))
    })
}

/// The permission bits of a file or folder; `None` where there is none, or no such thing.
fn mode(path: &Path) -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        Some(path.metadata().ok()?.permissions().mode() & 0o777)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Whether folders and files are their owner's alone: one finding for each that is not.
pub(super) fn files(patient: &Patient) -> Vec<Finding> {
    let settings = &patient.settings;
    let home = &settings.home;
    let own = home.folder(settings.role);
    let mut found = Vec::new();
    let data = home.data_folder();
    if !data.exists() {
        let message = "not there yet: it is made on first use";
        return vec![Finding::ok("files", data.display(), message)];
    }
    for folder in [data.to_owned(), own.clone(), own.join("owners")] {
        if folder.exists() && !folder.is_dir() {
            let message = "there is a file where a folder must be";
            found.push(
                Finding::problem("files", folder.display(), Code::Usage, message)
                    .fix(format!("mv {0} {0}.aside", quoted(&folder))),
            );
        } else if let Some(mode) = mode(&folder).filter(|mode| mode & 0o077 != 0) {
            let message = format!("this folder is open to others (mode {mode:03o})");
            found.push(
                Finding::warning("files", folder.display(), message)
                    .fix(format!("chmod 700 {}", quoted(&folder))),
            );
        }
    }
    let books = match settings.role {
        Role::Customer => home.ledger_file(),
        Role::Provider => home.jobs_file(),
    };
    let mut kept: Vec<PathBuf> = vec![settings.identity.file.clone()];
    kept.extend(["", "-wal", "-shm"].map(|ending| beside(&books, ending)));
    for file in kept {
        let Some(mode) = mode(&file).filter(|mode| mode & 0o077 != 0) else {
            continue;
        };
        let mend = format!("chmod 600 {}", quoted(&file));
        let finding = if file == settings.identity.file {
            let message = format!("it holds the key and is open to others (mode {mode:03o})");
            Finding::problem("files", file.display(), Code::Usage, message)
        } else {
            let message = format!("it holds prompts and is open to others (mode {mode:03o})");
            Finding::warning("files", file.display(), message)
        };
        found.push(finding.fix(mend));
    }
    if found.is_empty() {
        found.push(Finding::ok("files", data.display(), "yours alone"));
    }
    found
}

/// The key: where it comes from and how it is kept. Nothing is made and no password asked for, so the public
/// key may stay unknown.
pub(super) fn identity(patient: &Patient) -> (Finding, Option<PublicKey>) {
    let source = &patient.settings.identity;
    let problem =
        |subject: &str, message: &str| Finding::problem("identity", subject, Code::Usage, message);
    let known = |subject: &str, key: PublicKey, how: &str| {
        let message = format!("{}{how}", named(key));
        (Finding::ok("identity", subject, message), Some(key))
    };
    match source.comes_before_the_file() {
        // Somebody else's place: nothing is made by looking there.
        Ok(true) => {
            let mut from_environment = &source.environment;
            return match source.public_key(&mut from_environment) {
                Ok(found) => known(found.origin.as_str(), found.who, ""),
                Err(error) => (problem("environment or config", &error.to_string()), None),
            };
        }
        Ok(false) => {}
        Err(error) => return (problem("environment", &error.to_string()), None),
    }
    let subject = source.file.display().to_string();
    let stored = match keystore::load(&source.file) {
        Ok(Some(stored)) => stored,
        Ok(None) => {
            let message = "there is none yet: it is made on first use";
            return (Finding::ok("identity", subject, message), None);
        }
        Err(error) => {
            let mend = "restore it from a backup, or move it away and run `identity new`";
            return (problem(&subject, &format!("{error}; {mend}")), None);
        }
    };
    let how = if stored.is_encrypted() {
        ", encrypted with a password"
    } else {
        ", not encrypted: file permissions alone guard it (`identity password` encrypts it)"
    };
    match stored.public_key() {
        Ok(key) => known(&subject, key, how),
        Err(error) => (problem(&subject, &error.to_string()), None),
    }
}

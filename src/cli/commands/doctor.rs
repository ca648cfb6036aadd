//! `doctor`: looks for what would keep a program from working, and says what mends it.
//!
//! It only looks: no key, ledger or bank is made by it, nothing is repaired, no password is asked for. Every
//! wait is bounded, and the checks that wait go on side by side.
//!
//! | file | looks at |
//! |---|---|
//! | `setup` | configuration, folders, files, identity |
//! | `books` | ledger or job store |
//! | `outside` | relays, the provider's listing, the clock |
//! | `money` | wallet |
//! | `selling` | backend |

mod books;
mod money;
mod outside;
mod selling;
mod setup;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nostr::PublicKey;
use serde::Serialize;

use crate::cli::args::{DoctorArgs, GlobalArgs};
use crate::cli::output::Output;
use crate::cli::provider::SellerDoctorArgs;
use crate::cli::settings::Settings;
use crate::cli::signals;
use crate::cli::text::{entry, one_line};
use crate::config::Role;
use crate::error::{Code, Error, Result};
use crate::secret::Environment;

/// The longest that one step of one check may take.
const WITHIN: Duration = Duration::from_secs(4);

/// Characters of a message: some quote relays, which are strangers.
const LONGEST_MESSAGE: usize = 400;

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Problem,
}

/// What one check found: a line of output.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was looked at: a stable word.
    check: &'static str,
    /// Which one: a file, a relay, a wallet.
    subject: String,
    status: Status,
    message: String,
    /// The command that mends it.
    fix: Option<String>,
    /// What the program would end with because of it.
    #[serde(skip)]
    code: Option<Code>,
}

impl Finding {
    fn new(check: &'static str, subject: impl ToString, status: Status, message: &str) -> Self {
        Self {
            check,
            subject: subject.to_string(),
            status,
            message: one_line(message, LONGEST_MESSAGE),
            fix: None,
            code: None,
        }
    }

    fn ok(check: &'static str, subject: impl ToString, message: impl AsRef<str>) -> Self {
        Self::new(check, subject, Status::Ok, message.as_ref())
    }

    fn warning(check: &'static str, subject: impl ToString, message: impl AsRef<str>) -> Self {
        Self::new(check, subject, Status::Warning, message.as_ref())
    }

    fn problem(
        check: &'static str,
        subject: impl ToString,
        code: Code,
        message: impl AsRef<str>,
    ) -> Self {
        Self {
            code: Some(code),
            ..Self::new(check, subject, Status::Problem, message.as_ref())
        }
    }

    fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }
}

/// Whose doctor it is, and its flags.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// `agent-customer`'s.
    Buyer(&'a DoctorArgs),
    /// `agent-provider`'s.
    Seller(&'a SellerDoctorArgs),
}

/// Who is looked at.
struct Patient {
    settings: Settings,
    /// The configuration file, whether or not there is one.
    config: PathBuf,
    /// This program with the flags that say where its home is, for commands to be typed.
    program: String,
    /// Whether relays that are not in a private network are written to.
    writes: bool,
}

impl Patient {
    /// A command of this program that mends something.
    fn command(&self, words: &str) -> String {
        format!("{} {words}", self.program)
    }

    /// The command that opens the configuration for editing.
    fn edit(&self) -> String {
        format!("${{EDITOR:-vi}} {}", quoted(&self.config))
    }

    const fn is_provider(&self) -> bool {
        matches!(self.settings.role, Role::Provider)
    }
}

/// Looks at everything, and tells what was found.
///
/// # Errors
/// With the code of the gravest problem.
pub async fn run(
    asked: Asked<'_>,
    flags: &GlobalArgs,
    environment: Environment,
    out: &Output,
) -> Result<()> {
    let mut signals = signals::Stop::new()?;
    out.without_advice();
    out.status("looking");
    let findings = signals
        .or(async { Ok(examine(&asked, flags, environment).await) })
        .await?;
    out.clear_status();
    for finding in &findings {
        out.object(finding);
        if !out.is_json() {
            print(finding, out);
        }
    }
    verdict(&findings, out)
}

async fn examine(asked: &Asked<'_>, flags: &GlobalArgs, environment: Environment) -> Vec<Finding> {
    let (role, args) = match asked {
        Asked::Buyer(args) => (Role::Customer, *args),
        Asked::Seller(args) => (Role::Provider, &args.doctor),
    };
    let program = program(role, flags);
    let (mut findings, settings) = setup::configuration(role, flags, environment, &program);
    let Some(settings) = settings else {
        return findings;
    };
    let config = flags.config.clone();
    let patient = Patient {
        config: config.unwrap_or_else(|| settings.home.config_file().to_owned()),
        settings,
        program,
        writes: args.write,
    };
    findings.extend(setup::files(&patient));
    let (identity, key) = setup::identity(&patient);
    findings.push(identity);
    let (books, relays, wallet, backend) = tokio::join!(
        books::look(&patient),
        outside::ask(&patient, key),
        money::look(&patient, key),
        backend(&patient, asked),
    );
    findings.extend(books.findings);
    findings.push(outside::clock(&relays, books.time));
    findings.extend(outside::tell(&patient, &relays, key, books.selling));
    findings.push(wallet);
    findings.extend(backend);
    findings
}

async fn backend(patient: &Patient, asked: &Asked<'_>) -> Option<Finding> {
    let Asked::Seller(args) = asked else {
        return None;
    };
    let wanted = selling::Wanted {
        kind: args.backend,
        url: args.backend_url.as_deref(),
    };
    Some(selling::look(patient, &wanted).await)
}

/// The program's name and the flags that say where its home is.
fn program(role: Role, flags: &GlobalArgs) -> String {
    let mut words = match role {
        Role::Customer => "agent-customer".to_owned(),
        Role::Provider => "agent-provider".to_owned(),
    };
    for (flag, path) in [("--home", &flags.home), ("--config", &flags.config)] {
        if let Some(path) = path {
            words.push_str(&format!(" {flag} {}", quoted(path)));
        }
    }
    words
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn print(finding: &Finding, out: &Output) {
    let status = match finding.status {
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Problem => "problem",
    };
    let Finding {
        check,
        subject,
        message,
        ..
    } = finding;
    out.line(&entry(&format!(
        "{status:<8} {check:<9} {subject}: {message}"
    )));
    if let Some(fix) = &finding.fix {
        out.line(&entry(&format!("{:<8} {:<9} mend it: {fix}", "", "")));
    }
}

/// What is graver comes first: what keeps the program from starting before what keeps it from paying, and
/// that before what keeps it from being heard.
const BY_GRAVITY: [Code; 6] = [
    Code::Usage,
    Code::Ledger,
    Code::Wallet,
    Code::Budget,
    Code::Network,
    Code::BadInvoice,
];

fn verdict(findings: &[Finding], out: &Output) -> Result<()> {
    let count = |status: Status| findings.iter().filter(|it| it.status == status).count();
    let counted = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let problems = count(Status::Problem);
    let warnings = match count(Status::Warning) {
        0 => String::new(),
        n => format!(", {}", counted(n, "warning")),
    };
    if problems == 0 {
        out.note(&format!("no problems{warnings}"));
        return Ok(());
    }
    let gravest = BY_GRAVITY
        .into_iter()
        .find(|code| findings.iter().any(|it| it.code == Some(*code)))
        .unwrap_or(Code::Usage);
    let message = format!("{}{warnings}", counted(problems, "problem"));
    Err(Error::new(gravest, message))
}

/// Does what blocks on files where it may. `None` if it takes too long: a file system can hang.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let done = tokio::task::spawn_blocking(work);
    tokio::time::timeout(WITHIN * 2, done).await.ok()?.ok()
}

/// What a key is called in messages.
fn named(key: PublicKey) -> String {
    use nostr::nips::nip19::ToBech32 as _;

    key.to_bech32().unwrap_or_else(|_| key.to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for (path, quoted_) in [
            ("/home/a/x.toml", "/home/a/x.toml"),
            ("/a b", "'/a b'"),
            ("/it's", r"'/it'\''s'"),
            ("/$(rm)", "'/$(rm)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(Path::new(path)), quoted_);
        }
    }

    #[test]
    fn the_gravest_problem_decides() {
        let out = Output::to(
            true,
            false,
            Box::new(std::io::sink()),
            Box::new(std::io::sink()),
        );
        let problem = |code| Finding::problem("x", "y", code, "z");
        let code = |findings: &[Finding]| verdict(findings, &out).err().map(|it| it.code());
        assert_eq!(code(&[Finding::warning("x", "y", "z")]), None);
        let network = problem(Code::Network);
        let ledger = problem(Code::Ledger);
        assert_eq!(code(&[network.clone(), ledger]), Some(Code::Ledger));
        assert_eq!(code(&[network]), Some(Code::Network));
    }
}

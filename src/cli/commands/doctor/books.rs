//! The ledger, or the job store.

use super::{Finding, Patient, WITHIN, apart, quoted};
use crate::config::Role;
use crate::error::{Code, Error};
use crate::ledger::{self, Checkup};
use crate::look::Soundness;
use crate::provider::store::{self, JobStore};
use crate::units::UnixSecs;

/// What the books say.
#[derive(Default)]
pub(super) struct Books {
    pub(super) findings: Vec<Finding>,
    /// The latest time in the ledger.
    pub(super) time: Option<UnixSecs>,
    /// Whether a provider sells from this home now.
    pub(super) selling: bool,
}

/// Looks into the books of this program.
pub(super) async fn look(patient: &Patient) -> Books {
    match patient.settings.role {
        Role::Customer => ledger(patient).await,
        Role::Provider => jobs(patient).await,
    }
}

async fn ledger(patient: &Patient) -> Books {
    let home = &patient.settings.home;
    let (folder, file) = (home.folder(Role::Customer), home.ledger_file());
    let looked = apart(move || ledger::check_up(&folder, WITHIN)).await;
    let subject = file.display().to_string();
    let found = match looked {
        Some(Ok(found)) => found,
        Some(Err(error)) => return Books::of(unusable("ledger", &subject, &error.into())),
        None => return Books::of(cut_off("ledger", &subject)),
    };
    let Some(found) = found else {
        let message = "there is none yet: it is made with the first purchase";
        return Books::of(Finding::ok("ledger", subject, message));
    };
    if let Some(finding) = damaged("ledger", &subject, &found.soundness) {
        return Books::of(finding);
    }
    if !may_write(&file) {
        let message = "this user may not write to it";
        let finding = Finding::problem("ledger", &subject, Code::Ledger, message)
            .fix(format!("chmod u+rw {}", quoted(&file)));
        return Books::of(finding);
    }
    let time = Some(found.time);
    Books {
        time,
        ..Books::of(state_of_ledger(patient, &subject, &found))
    }
}

fn state_of_ledger(patient: &Patient, subject: &str, found: &Checkup) -> Finding {
    let mut said = vec![health(
        &found.soundness,
        (found.version, found.latest_version),
    )];
    if !found.users.is_empty() {
        said.push(format!("open in {}", processes(&found.users)));
    }
    let waiting = [
        (found.in_doubt, "payment in doubt", "payments in doubt"),
        (found.open, "purchase open", "purchases open"),
        (found.undelivered, "undelivered", "undelivered"),
    ];
    said.extend(
        waiting
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, more)| format!("{count} {}", if *count == 1 { one } else { more })),
    );
    if !found.reserved.is_zero() {
        said.push(format!("{} set aside", found.reserved));
    }
    // What is open while a buyer is at work is its business.
    let left = found.open > 0 && found.users.is_empty();
    // What is paid for good and never came is not mended by looking again; what is locked is.
    let locked = found.undelivered > 0 && !found.reserved.is_zero() && found.users.is_empty();
    let message = said.join(", ");
    if found.in_doubt > 0 || locked || left {
        return Finding::warning("ledger", subject, message).fix(patient.command("recover"));
    }
    Finding::ok("ledger", subject, message)
}

async fn jobs(patient: &Patient) -> Books {
    let file = patient.settings.home.jobs_file();
    let path = file.clone();
    let looked = apart(move || JobStore::check_up(&path, WITHIN)).await;
    let subject = file.display().to_string();
    let found = match looked {
        Some(Ok(found)) => found,
        Some(Err(error)) => return Books::of(unusable("jobs", &subject, &error)),
        None => return Books::of(cut_off("jobs", &subject)),
    };
    let Some(found) = found else {
        let message = "there is none yet: it is made when selling begins";
        return Books::of(Finding::ok("jobs", subject, message));
    };
    if let Some(finding) = damaged("jobs", &subject, &found.soundness) {
        return Books::of(finding);
    }
    Books {
        selling: found.selling,
        ..Books::of(state_of_jobs(patient, &subject, &found))
    }
}

fn state_of_jobs(patient: &Patient, subject: &str, found: &store::Checkup) -> Finding {
    let mut said = vec![health(
        &found.soundness,
        (found.version, found.latest_version),
    )];
    if found.selling {
        said.push(format!("sold from by {}", processes(&[found.seller])));
    }
    for (count, what) in [
        (found.unfinished, "paid and not done"),
        (found.unsettled, "in escrow and not settled"),
        (found.untold, "done and not told"),
        (found.failed, "paid and failed: their money is owed"),
    ] {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    }
    let message = said.join(", ");
    if found.unfinished + found.unsettled + found.untold > 0 && !found.selling {
        // Selling again does what is left.
        return Finding::warning("jobs", subject, message).fix(patient.command("--create-channel"));
    }
    if found.failed > 0 {
        return Finding::warning("jobs", subject, message)
            .fix(patient.command("jobs --state failed"));
    }
    Finding::ok("jobs", subject, message)
}

impl Books {
    fn of(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
            ..Self::default()
        }
    }
}

fn unusable(check: &'static str, subject: &str, error: &Error) -> Finding {
    Finding::problem(check, subject, Code::Ledger, error.message())
}

fn cut_off(check: &'static str, subject: &str) -> Finding {
    Finding::problem(
        check,
        subject,
        Code::Ledger,
        "looking into it took too long",
    )
}

fn damaged(check: &'static str, subject: &str, soundness: &Soundness) -> Option<Finding> {
    let Soundness::Damaged(how) = soundness else {
        return None;
    };
    let message = format!("it is damaged; restore it from a backup ({how})");
    let quoted = quoted(subject.as_ref());
    let finding = Finding::problem(check, subject, Code::Ledger, message);
    // Keeps what can be read, and leaves the damaged file where it is.
    Some(finding.fix(format!(
        "sqlite3 {quoted} .recover | sqlite3 {quoted}.saved"
    )))
}

fn health(soundness: &Soundness, (version, latest): (usize, usize)) -> String {
    let whole = match soundness {
        Soundness::NotReadToTheEnd => "too large to be checked to its end",
        Soundness::Sound | Soundness::Damaged(_) => "in order",
    };
    if version < latest {
        return format!("{whole}, of an earlier version (brought up to date on next use)");
    }
    whole.to_owned()
}

/// Whether this user may write to the file. Opening it so changes nothing.
fn may_write(file: &std::path::Path) -> bool {
    std::fs::OpenOptions::new().write(true).open(file).is_ok()
}

fn processes(ids: &[Option<u32>]) -> String {
    let known: Vec<String> = ids.iter().flatten().map(ToString::to_string).collect();
    match (ids.len(), known.is_empty()) {
        (1, false) => format!("process {}", known.join("")),
        (1, true) => "another process".to_owned(),
        (count, true) => format!("{count} other processes"),
        (_, false) => format!("processes {}", known.join(", ")),
    }
}

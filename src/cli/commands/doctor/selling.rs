//! What runs a provider's jobs.

use std::time::Duration;

use super::{Finding, Patient};
use crate::cli::backends::BackendChoice;
use crate::cli::text::one_line;
use crate::config::BackendKind;
use crate::error::Code;

/// The longest that finding a model server and asking it for its models may take together.
const WITHIN: Duration = Duration::from_secs(6);

/// Characters of the list of models that are shown.
const LONGEST_LIST: usize = 200;

/// The backend that was asked for by flags.
pub(super) struct Wanted<'a> {
    pub(super) kind: Option<BackendKind>,
    pub(super) url: Option<&'a str>,
}

/// Looks at the backend: whether it answers, and with which models.
pub(super) async fn look(patient: &Patient, wanted: &Wanted<'_>) -> Finding {
    let settings = &patient.settings;
    let kind = wanted.kind.unwrap_or(settings.config.provider.backend);
    let word = kind.as_str();
    let choice = match BackendChoice::resolve(wanted.kind, wanted.url, settings) {
        Ok(choice) => choice,
        Err(error) => {
            // What the file says, or names, is mended there; what a flag says, on the command line.
            let fix = if error.message().starts_with("[provider]") {
                patient.edit()
            } else {
                patient.command("--help")
            };
            return Finding::problem("backend", word, error.code(), error.message()).fix(fix);
        }
    };
    let elsewhere = || patient.command("doctor --backend-url http://HOST:PORT");
    let asked = tokio::time::timeout(WITHIN, models(&choice)).await;
    match asked {
        Ok(Ok((subject, models))) => served(patient, &subject, &models),
        Ok(Err(finding)) => finding.fix(elsewhere()),
        Err(_) => {
            let message = format!("no answer within {} s", WITHIN.as_secs());
            Finding::problem("backend", word, Code::Network, message).fix(elsewhere())
        }
    }
}

/// What the backend is, and the models it has.
async fn models(choice: &BackendChoice) -> Result<(String, Vec<String>), Finding> {
    let subject = match choice {
        BackendChoice::Echo => "echo".to_owned(),
        BackendChoice::Find => "auto".to_owned(),
        BackendChoice::At(address, _) => address.to_string(),
    };
    let problem = |code, message: &str| Finding::problem("backend", &subject, code, message);
    let backend = choice
        .open(|_| {})
        .await
        .map_err(|error| problem(error.code(), error.message()))?;
    let models = backend
        .models()
        .await
        .map_err(|error| problem(Code::Network, &error.to_string()))?;
    Ok((subject, models))
}

/// Whether it has what is to be sold.
fn served(patient: &Patient, subject: &str, models: &[String]) -> Finding {
    let list = one_line(&models.join(", "), LONGEST_LIST);
    let wanted = &patient.settings.config.provider.models;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|model| !models.contains(model))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "it has {list}, and not {}, which [provider] models names",
            missing.join(", ")
        );
        return Finding::problem("backend", subject, Code::Usage, message).fix(patient.edit());
    }
    match models {
        [] => Finding::problem(
            "backend",
            subject,
            Code::Network,
            "it answers, and has no model",
        )
        .fix(patient.command("doctor --backend-url http://HOST:PORT")),
        [only] if only == "echo" && subject == "echo" => {
            Finding::ok("backend", subject, "repeats the prompt: for tests")
        }
        _ => Finding::ok("backend", subject, format!("answers, with {list}")),
    }
}

//! What runs a provider's jobs.

use super::{Finding, Patient};
use crate::config::BackendKind;
use crate::error::Code;

/// Looks at the backend that the configuration names. Nothing for a customer.
pub(super) async fn look(patient: &Patient) -> Option<Finding> {
    if !patient.is_provider() {
        return None;
    }
    let chosen = patient.settings.config.provider.backend;
    let word = chosen.as_str();
    Some(match chosen {
        BackendKind::Echo => {
            Finding::ok("backend", word, "model echo: repeats the prompt, for tests")
        }
        _ => Finding::problem(
            "backend",
            word,
            Code::Usage,
            "this version has the backend echo only",
        )
        .fix(patient.command("--create-channel --backend echo")),
    })
}

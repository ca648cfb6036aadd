//! Looks for a server on the ports of this machine where one usually is.

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;

use super::{OpenAi, ServerAddress};
use crate::provider::backend::{Backend as _, BackendError};

/// Where servers listen unless told otherwise: Ollama, llama.cpp, and a second Ollama. In this order.
pub const LOCAL_PORTS: [u16; 3] = [11434, 8080, 11435];

/// How long a port of this machine is given to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// No port has a server with models. Says of each what is there instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no model server on this machine ({}); start one, or name one with --backend-url URL",
    Ports(.0)
)]
pub struct NoServer(Vec<(u16, String)>);

struct Ports<'a>(&'a [(u16, String)]);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (port, why)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}port {port}: {why}")?;
        }
        Ok(())
    }
}

/// Asks all `ports` of this machine at once, without any key, and takes the first of them, in their order,
/// that lists models. Returns them as well.
///
/// # Errors
/// [`NoServer`].
pub async fn find(ports: &[u16]) -> Result<(OpenAi, Vec<String>), NoServer> {
    let asked = join_all(ports.iter().map(|port| ask(*port))).await;
    let mut without = Vec::new();
    for (port, answer) in ports.iter().zip(asked) {
        match answer {
            Ok(found) => return Ok(found),
            Err(why) => without.push((*port, why)),
        }
    }
    Err(NoServer(without))
}

async fn ask(port: u16) -> Result<(OpenAi, Vec<String>), String> {
    let address = ServerAddress::local(port).ok_or("no port")?;
    let server = OpenAi::new(address, None).map_err(|error| error.to_string())?;
    let models = tokio::time::timeout(PATIENCE, server.models()).await;
    match models {
        Err(_) => Err("does not answer".into()),
        Ok(Err(BackendError::Unreachable(_))) => Err("nothing answers".into()),
        Ok(Err(error)) => Err(format!("no list of models, {error}")),
        Ok(Ok(models)) if models.is_empty() => Err("a server without models".into()),
        Ok(Ok(models)) => Ok((server, models)),
    }
}

//! `agent-provider relay`: the embedded relay, for tests and LANs.

use std::net::SocketAddr;

use serde::Serialize;

use crate::cli::output::Output;
use crate::cli::signals;
use crate::error::{Code, Error, Result};
use crate::relay::local::EmbeddedRelay;

#[derive(Serialize)]
struct Listening<'a> {
    url: &'a str,
}

/// Listens until SIGINT or SIGTERM. Prints the relay's address once it can be reached.
///
/// # Errors
/// [`Code::Usage`] if the address can't be listened on.
pub async fn run(listen: SocketAddr, out: &Output) -> Result<()> {
    // Asked for first: whoever reads the address may send a signal right away.
    let mut stop = signals::Stop::new()?;
    let relay = EmbeddedRelay::listen(listen)
        .await
        .map_err(|problem| Error::new(Code::Usage, format!("--listen {listen}: {problem}")))?;
    let url = relay.url().to_string();
    let url = url.trim_end_matches('/');
    out.event("listening", &Listening { url });
    out.line(url);
    stop.asked().await;
    relay.shutdown().await;
    Ok(())
}

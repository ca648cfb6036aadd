//! What both programs do around a command: the runtime, the log, and an exit code whatever happens.

use std::future::Future;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::output::Output;
use super::signals;
use super::text::clean;
use crate::error::{Code, Error, Result};

/// What is logged unless `RUST_LOG` says otherwise. The relay pool's own warnings repeat what we report, and
/// those of the backend's client whole answers.
const DEFAULT_LOG: &str = "warn,nostr_relay_pool=error,nostr_relay_builder=off,async_openai=off";

/// How long blocking work that was left behind may hold up the exit.
const LAST_WORK: Duration = Duration::from_secs(5);

/// How many threads the runtime has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Threads {
    /// This one: a purchase waits for one thing at a time, and a customer is to stay small.
    One,
    /// A few: jobs of several customers go on at once.
    Few,
}

/// Runs a command to its end, and says how it ended.
#[must_use]
pub(super) fn run<F, W>(out: &Output, threads: Threads, work: W) -> ExitCode
where
    W: FnOnce() -> F,
    F: Future<Output = Result<()>>,
{
    start_log();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime(threads)?;
        let result = runtime.block_on(async {
            signals::outlive_file_limits()?;
            work().await
        });
        runtime.shutdown_timeout(LAST_WORK);
        result
    }));
    // The panic itself is on stderr by now; this is the line that programs read.
    let result = result.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the program panicked")));
    out.end(&result)
}

fn runtime(threads: Threads) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Few => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2);
            builder
        }
    };
    builder
        .enable_all()
        .build()
        .map_err(|problem| Error::new(Code::Internal, format!("no runtime: {problem}")))
}

/// Sends the log to stderr, cleaned of what a terminal would obey: it quotes relays and peers.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| CleanStderr)
        .with_ansi(false)
        .try_init();
    // A log that runs already, in a test, is as good.
    drop(started);
}

struct CleanStderr;

impl Write for CleanStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = clean(&String::from_utf8_lossy(bytes));
        // A log that nobody can read is no reason to fail: told of it, the logger would print a complaint
        // to this very stderr, and that panics, with money perhaps on its way.
        let _ = io::stderr().write_all(text.as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

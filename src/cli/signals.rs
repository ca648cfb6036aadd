//! Being asked to stop: Ctrl-C, and SIGTERM where there is such a thing. And a signal that must not end us.

use crate::error::{Code, Error, Result};

/// SIGXFSZ, by the number that it has on all systems but MIPS.
#[cfg(unix)]
const FILE_TOO_LONG: i32 = 25;

/// Makes a write beyond what the process may write to one file (`ulimit -f`) fail as on a full disk. By itself
/// it ends the process, with money perhaps on its way and no last line. Call it on the runtime.
///
/// # Errors
/// [`Code::Internal`] if the system refuses.
pub(super) fn outlive_file_limits() -> Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        // Nobody waits for it: that it is listened for is enough, and stays so.
        let _listening = signal(SignalKind::from_raw(FILE_TOO_LONG))
            .map_err(|problem| Error::new(Code::Internal, format!("no signals: {problem}")))?;
    }
    Ok(())
}

/// Listens for signals from the moment it is made, so that one that comes early is not lost.
#[derive(Debug)]
pub struct Stop {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// Begins to listen. From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// [`Code::Internal`] if the system refuses.
    pub fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};

            let listen = |kind| {
                signal(kind)
                    .map_err(|problem| Error::new(Code::Internal, format!("no signals: {problem}")))
            };
            Ok(Self {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Does `work`, or gives it up when asked to stop.
    ///
    /// # Errors
    /// Those of `work`; [`Code::Interrupted`] if it was given up.
    pub async fn or<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Error::new(Code::Interrupted, "stopped")),
            done = work => done,
        }
    }

    /// Waits to be asked to stop. Call it again to wait for the next signal. Cancel-safe.
    pub async fn asked(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

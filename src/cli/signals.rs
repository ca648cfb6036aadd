//! Being asked to stop: Ctrl-C, and SIGTERM where there is such a thing.

use crate::error::{Code, Error, Result};

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

//! What the tests of real money share: our programs as children, and two wallets for the suite. `tests/cdk` has it too.

use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use agent_compute::wallet::Wallet;
use agent_compute::wallet::conformance::Harness;
use async_trait::async_trait;
use serde_json::Value;

/// The exit code, and the last line of what was said in JSON.
pub(crate) fn last(ran: &Output) -> (Option<i32>, Value) {
    let said = String::from_utf8_lossy(&ran.stdout);
    let last = said.lines().last().unwrap_or("null");
    (ran.status.code(), serde_json::from_str(last).unwrap())
}

/// A provider that is ready. Killed when dropped.
pub(crate) struct Seller(Child);

impl Seller {
    pub(crate) fn start(command: &mut Command) -> Self {
        use std::io::BufRead as _;
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.starts_with("READY"));
        assert!(is_ready, "the provider is not ready");
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Self(child)
    }
}

impl Drop for Seller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One wallet that pays another of its kind.
pub(crate) struct Pair<W>(pub(crate) W, pub(crate) W);

#[async_trait]
impl<W: Wallet + Clone + 'static> Harness for Pair<W> {
    fn payer(&self) -> Arc<dyn Wallet> {
        Arc::new(self.0.clone())
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        Arc::new(self.1.clone())
    }
}

//! A wallet as a program of its own: what `--wallet process` starts and talks to. This one has play money, the
//! account of a public key at the bank in a file; put your own [`Wallet`](agent_compute::wallet::Wallet) in
//! its place.
//!
//! ```text
//! cargo build --example wallet_process
//! cat >> config.toml <<EOF
//! [wallet.process]
//! command = ["target/debug/examples/wallet_process", "bank.sqlite", "<64 hex digits>"]
//! network = "regtest"
//! EOF
//! agent-customer --wallet process wallet balance
//! ```
#![allow(clippy::print_stderr, missing_docs)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use agent_compute::wallet::process::serve;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use nostr::PublicKey;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bank, account] = words.as_slice() else {
        eprintln!("usage: wallet_process BANK PUBLIC_KEY");
        return ExitCode::from(2);
    };
    match run(bank, account).await {
        Ok(()) => ExitCode::SUCCESS,
        // stdout is the protocol's; this goes to the log of whoever started us.
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(bank: &str, account: &str) -> Result<(), Box<dyn std::error::Error>> {
    let account = PublicKey::from_hex(account)?;
    let wallet = SimWallet::open(Path::new(bank), account, SimOptions::default())?;
    serve(Arc::new(wallet), tokio::io::stdin(), tokio::io::stdout()).await?;
    Ok(())
}

//! Buys one job from inside a program, with play money.
//!
//! ```text
//! agent-provider relay --listen 127.0.0.1:7777
//! AGENT_COMPUTE_SIM_BANK=bank.sqlite agent-provider --create-channel --backend echo --wallet sim --relay ws://127.0.0.1:7777
//! cargo run --example buy_once -- ws://127.0.0.1:7777 bank.sqlite "What is the capital of France?"
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::sync::Arc;

use agent_compute::client::{Code, ComputeClient, Error, Inference};
use agent_compute::config::{Home, Role};
use agent_compute::identity::keystore;
use agent_compute::wallet::sim::{SimOptions, SimWallet};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [relay, bank, prompt] = args.as_slice() else {
        return Err("usage: buy_once RELAY BANK PROMPT".into());
    };
    // The agent's own key and books, kept in the user's home (or AGENT_COMPUTE_HOME of the programs).
    let client = client(Home::of_user()?, relay, Path::new(bank))?;
    match buy(&client, prompt).await {
        Ok(result) => {
            println!("{result}");
            eprintln!("paid {}", result.receipt.paid_msat);
        }
        Err(error) => report(&error),
    }
    client.close().await;
    Ok(())
}

fn client(
    home: Home,
    relay: &str,
    bank: &Path,
) -> Result<ComputeClient, Box<dyn std::error::Error>> {
    let (identity, _) = keystore::open_or_create(&home.identity_file(Role::Customer))?;
    let wallet = SimWallet::open(bank, identity.public_key(), SimOptions::default())?;
    let client = ComputeClient::builder()
        .home(home)
        .identity(identity)
        .relays(relay)
        .wallet(Arc::new(wallet));
    Ok(client.build_lazy())
}

async fn buy(client: &ComputeClient, prompt: &str) -> Result<Inference, Error> {
    let providers = client.discover_providers(3).await?;
    let provider = ComputeClient::select_cheapest_provider(&providers, 1000)
        .ok_or_else(|| Error::new(Code::NoProvider, "nobody sells for 1000 sats or less"))?;
    client.request_inference(provider, prompt, 100, 1000).await
}

/// Where the money is when a purchase did not work out.
fn report(error: &Error) {
    eprintln!("{}: {error}", error.code());
    eprintln!(
        "paid {}, still reserved {}",
        error.paid_msat(),
        error.reserved_msat()
    );
}

#[cfg(test)]
#[path = "../tests/it/examples/buy_once.rs"]
mod tests;

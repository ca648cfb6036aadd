//! Processes of the program and tasks of an agent, all at one home: limits admit as many as they admit, a
//! key buys once, and recovery takes nothing from the living. `RACE_ROUNDS=N` makes it go on for longer.

mod limits;
mod recovery;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_compute::client::{ComputeClient, PurchaseRequest};
use agent_compute::config::{Home, Role};
use agent_compute::error::Code;
use agent_compute::identity::keystore;
use agent_compute::wallet::sim::{SimOptions, SimWallet};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{World, run};

const PROCESSES: usize = 8;
const TASKS: usize = 64;

/// How one of them ended: the exit code, and `result` or `error`.
#[derive(Clone, Debug)]
struct Ended {
    code: i32,
    last: Value,
}

/// A client in this process, on the home and the bank of a customer of this world.
async fn client(world: &World, home: &str) -> ComputeClient {
    let folder = Home::at(world.home(home));
    folder.make_folder(Role::Customer).unwrap();
    let (identity, _) = keystore::open_or_create(&folder.identity_file(Role::Customer)).unwrap();
    let options = SimOptions::default();
    let wallet = SimWallet::open(&world.bank(), identity.public_key(), options).unwrap();
    let builder = ComputeClient::builder().home(folder);
    let builder = builder
        .relays(world.relay.as_str())
        .wallet(Arc::new(wallet));
    builder.build().await.unwrap()
}

/// Buys, and says how that ended in the words of the program.
async fn bought(client: ComputeClient, request: PurchaseRequest) -> Ended {
    match client.purchase(request).receipt().await {
        Ok(receipt) => Ended {
            code: 0,
            last: serde_json::to_value(receipt).unwrap(),
        },
        Err(error) => Ended {
            code: error.code().exit_code().into(),
            last: Value::String(error.to_string()),
        },
    }
}

/// The same purchase by eight processes and sixty-four tasks of two clients, all at once. `args` and `request`
/// say the same.
async fn everybody(
    world: &World,
    home: &str,
    args: &[&str],
    request: PurchaseRequest,
) -> Vec<Ended> {
    let clients = [client(world, home).await, client(world, home).await];
    let mut race = JoinSet::new();
    for _ in 0..PROCESSES {
        let mut command = world.customer(home, &["--json", "--prompt", &request.prompt]);
        command.args(args);
        race.spawn_blocking(move || {
            let ran = run(&mut command);
            let last = ran.last();
            Ended {
                code: ran.code,
                last,
            }
        });
    }
    for n in 0..TASKS {
        race.spawn(bought(clients[n % 2].clone(), request.clone()));
    }
    let ended = race.join_all().await;
    for client in clients {
        client.close().await;
    }
    ended
}

fn codes(ended: &[Ended]) -> BTreeMap<i32, usize> {
    let mut codes = BTreeMap::new();
    for one in ended {
        *codes.entry(one.code).or_default() += 1;
    }
    codes
}

fn exit(code: Code) -> i32 {
    code.exit_code().into()
}

//! Recovery beside the living: by several processes and tasks, over and over, while others buy and some of
//! them are killed.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::crash::{
    Moments, OPENING_BALANCE, PRICE, assert_one_story, history, in_state, jobs, recover, settle,
    usual_time,
};
use crate::env::number;
use crate::harness::{Running, eventually};

/// Recovers until told to stop, in this process or in one that is started each time. Nobody may say more
/// than that something is still open: what another one works on is nobody else's trouble.
fn keep_recovering(world: &World, home: &str, enough: &AtomicBool) -> usize {
    let mut times = 0;
    while !enough.load(Ordering::Relaxed) {
        let ran = recover(world, home);
        assert!([0, 6].contains(&ran.code), "{ran:#?}");
        times += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_beside_living_and_dying_buyers_takes_from_the_dead_alone() {
    let world = World::new();
    let _seller = world.provider("seller", &["--stream"]);
    let home = "buyer";
    let usual = usual_time(&world, home);
    let mut moments = Moments::of("recovery beside buyers");
    let clients = [client(&world, home).await, client(&world, home).await];
    let enough = AtomicBool::new(false);
    let mut survived = 1;
    let rounds = number("RACE_ROUNDS").unwrap_or(4);
    let (world, enough) = (&world, &enough);
    std::thread::scope(|threads| {
        let recovering: Vec<_> = (0..2)
            .map(|_| threads.spawn(|| keep_recovering(world, home, enough)))
            .collect();
        let runtime = tokio::runtime::Handle::current();
        for round in 0..rounds {
            let mut buying: Vec<Running> = (0..6)
                .map(|n| {
                    let mut buy = world.customer(home, &["--json", "--prompt", "one two three"]);
                    buy.args((n % 2 == 1).then_some("--htlc"));
                    buy.envs((n == 4).then_some(("AGENT_COMPUTE_SIM_FAULT", "slow")));
                    Running::start(&mut buy)
                })
                .collect();
            // Agents of this process buy, and recover, all the while.
            let tasks: Vec<_> = (0..4)
                .map(|n| {
                    let client = clients[n % 2].clone();
                    let request = PurchaseRequest {
                        escrow: n % 2 == 0,
                        ..PurchaseRequest::new("one two three")
                    };
                    runtime.spawn(async move {
                        client.recover().await.unwrap();
                        let ended = bought(client.clone(), request).await;
                        client.recover().await.unwrap();
                        ended
                    })
                })
                .collect();
            for one in &mut buying[..2] {
                moments.pass(usual);
                one.kill();
            }
            for one in &mut buying[2..] {
                assert_eq!(one.exit_code(), Some(0), "round {round}");
                survived += 1;
            }
            for task in tasks {
                let ended = tokio::task::block_in_place(|| runtime.block_on(task)).unwrap();
                assert_eq!(ended.code, 0, "{ended:?}");
                survived += 1;
            }
        }
        enough.store(true, Ordering::Relaxed);
        let times: Vec<usize> = recovering
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect();
        println!("recovered {times:?} times beside {survived} that lived");
    });
    for client in clients {
        client.close().await;
        drop(client);
    }
    settle(world, home);
    let spent = assert_one_story(world, home);
    assert!(spent >= survived * PRICE, "{spent}");
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
    let purchases = history(world, home);
    assert_eq!(
        in_state(&purchases, "delivered").len() as u64,
        spent / PRICE
    );
    eventually("no job that was paid is open", || {
        let jobs = jobs(world, "seller");
        let sold = in_state(&jobs, "delivered").len() + in_state(&jobs, "settled").len();
        sold as u64 == spent / PRICE
    });
}

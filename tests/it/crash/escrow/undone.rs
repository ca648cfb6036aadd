//! Jobs that can't be done, with somebody killed on the way: the money comes back, once.

use serde_json::json;

use super::*;
use crate::openai::server::{Server, json_answer};

/// A provider whose backend takes nothing.
fn unable(world: &World, backend: &Server) -> Seller {
    let url = &backend.url;
    Seller::on(
        &world.relay,
        world,
        &["--backend", "openai", "--backend-url", url],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn with_somebody_killed_while_it_goes_back_the_money_comes_back_once() {
    let refusal = json!({"error": {"message": "no", "type": "invalid_request_error"}});
    let backend = Server::chat(move |_| vec![json_answer(400, &refusal)]).await;
    tokio::task::block_in_place(|| {
        let world = World::new();
        let mut jobs_of_now = 0;
        for step in ["held", "started", "undone", "returned"] {
            for who in ["provider", "customer", "both"] {
                let mut seller = unable(&world, &backend);
                let home = format!("buyer-{step}-{who}");
                let mut buying = start_buying(&world, &home, &["--timeout", "20"]);
                seller.0.wait_for(step, reached(step));
                if who != "provider" {
                    buying.kill();
                }
                if who != "customer" {
                    seller.0.kill();
                    seller = unable(&world, &backend);
                }
                let code = buying.exit_code();
                assert!([None, Some(7)].contains(&code), "{step}, {who}: {code:?}");
                settle(&world, &home);
                let purchases = history(&world, &home);
                assert_eq!(purchases[0]["state"], "failed", "{step}, {who}");
                assert_eq!(assert_one_story(&world, &home), 0, "{step}, {who}");
                jobs_of_now += 1;
                until_sold(&world);
                let all = jobs(&world, "seller");
                assert_eq!(
                    in_state(&all, "returned").len(),
                    jobs_of_now,
                    "{step}, {who}"
                );
                seller.0.kill();
            }
        }
        assert_eq!(world.provider_balance("seller"), OPENING_BALANCE);
    });
}

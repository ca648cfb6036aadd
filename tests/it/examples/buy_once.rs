//! One purchase from a seller in the same market.

use super::*;

#[path = "../../../examples/market/mod.rs"]
mod market;

use agent_compute::units::Msat;
use market::Market;

#[tokio::test]
async fn it_buys_one_answer_and_says_where_the_money_is_if_not() {
    let market = Market::open().await.unwrap();
    let seller = market.sell(str::to_uppercase, Msat::new(10_000));
    let seller = seller.await.unwrap();
    let home = Home::at(market.path("buyer"));
    let relay = market.relay().to_string();
    let client = client(home, &relay, &market.path("bank.sqlite")).unwrap();
    let result = buy(&client, "hello").await.unwrap();
    assert_eq!(result.to_string(), "HELLO");
    assert_eq!(result.receipt.paid_msat, Msat::new(10_000));
    seller.stop().await.unwrap();
    let nobody = buy(&client, "hello").await.unwrap_err();
    assert_eq!(nobody.code(), Code::NoProvider);
    report(&nobody);
    client.close().await;
}

//! The owner's policy has the last word on a payment, and the wallet keeps its promises all the same.

use agent_compute::client::Code;

use super::*;

#[test]
fn it_runs_as_it_is_and_its_wallet_is_conformant() {
    super::main().unwrap();
}

#[tokio::test]
async fn what_the_policy_refuses_is_not_paid_and_nothing_stays_reserved() {
    let market = Market::open().await.unwrap();
    let seller = market.sell(str::to_uppercase, Msat::new(10_000));
    let _seller = seller.await.unwrap();
    let identity = Identity::from_keys(nostr::Keys::generate());
    let inner = market.wallet(&identity).unwrap();
    let before = inner.balance().await.unwrap();
    let wallet = Arc::new(Asking::new(inner, |_| false));
    let client = market.buyer(identity, "buyer").wallet(wallet.clone());
    let client = client.build().await.unwrap();
    let refused = client.purchase(PurchaseRequest::new("x")).receipt().await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PaymentFailed, "{refused}");
    assert!(refused.message().contains("policy"), "{refused}");
    assert_eq!(wallet.balance().await.unwrap(), before);
    assert_eq!(wallet.log(), ["refused 10 sats"]);
    let usage = client.budget().await.unwrap().usage;
    assert_eq!(
        (usage.spent_today, usage.reserved),
        (Msat::ZERO, Msat::ZERO)
    );
}

#[tokio::test]
async fn what_the_policy_allows_is_paid_once_and_logged() {
    let market = Market::open().await.unwrap();
    let seller = market.sell(str::to_uppercase, Msat::new(10_000));
    let _seller = seller.await.unwrap();
    let identity = Identity::from_keys(nostr::Keys::generate());
    let wallet = Arc::new(Asking::new(market.wallet(&identity).unwrap(), |_| true));
    let client = market.buyer(identity, "buyer").wallet(wallet.clone());
    let client = client.build().await.unwrap();
    assert_eq!(buy(&client).await, "WHAT IS SAID TWICE IS HEARD ONCE");
    assert_eq!(wallet.log(), ["paid 10 sats, fee 0 sats"]);
}

//! A seller in this process, with a backend of its own.

use agent_compute::client::Code;

use super::*;

#[test]
fn it_runs_as_it_is() {
    super::main().unwrap();
}

#[tokio::test]
async fn what_the_backend_makes_is_what_is_bought() {
    let market = Market::open().await.unwrap();
    let provider = sell(&market).await.unwrap();
    assert_eq!(buy(&market, "a b c").await.unwrap(), "c b a");
    provider.stop().await.unwrap();
    let nobody = buy(&market, "a").await.unwrap_err();
    assert!(nobody.to_string().contains("no provider"), "{nobody}");
}

#[tokio::test]
async fn a_backend_that_fails_is_reported_to_both() {
    let market = Market::open().await.unwrap();
    let mut provider = sell(&market).await.unwrap();
    let failed = buy(&market, &"a ".repeat(1001)).await.unwrap_err();
    let failed = failed.downcast_ref::<agent_compute::Error>().unwrap();
    assert_eq!(failed.code(), Code::Undelivered, "{failed}");
    assert_eq!(failed.paid_msat(), Msat::new(3_000));
    loop {
        match provider.next_event().await {
            Some(ProviderEvent::Failed { reason, .. }) => {
                assert!(reason.contains("1001 words"), "{reason}");
                break;
            }
            Some(_) => {}
            None => panic!("no report of it"),
        }
    }
}

#[tokio::test]
async fn who_reads_no_reports_loses_nothing_else() {
    let market = Market::open().await.unwrap();
    let provider = sell(&market).await.unwrap();
    let identity = Identity::from_keys(nostr::Keys::generate());
    let wallet = Arc::new(market.wallet(&identity).unwrap());
    let client = market.buyer(identity, "buyer").wallet(wallet);
    let client = client.build().await.unwrap();
    for n in 0..3 {
        let long: Vec<String> = (0..400).map(|word| format!("{n}-{word}")).collect();
        let bought = client.purchase(PurchaseRequest::new(long.join(" ")));
        let text = bought.receipt().await.unwrap().text;
        assert_eq!(text.split(' ').count(), 400);
    }
    provider.stop().await.unwrap();
}

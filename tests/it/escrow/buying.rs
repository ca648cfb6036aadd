//! The whole way, with a provider that keeps its word.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_money_is_locked_first_and_let_go_after_delivery() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let (ran, hash) = tokio::join!(stage.buy(&customer, provider.key(), &["--htlc"]), async {
        let held = held_job(&mut provider).await;
        let locked = provider
            .hear(|_, message| match message {
                AgentMessage::HtlcLocked(locked) => Some(locked),
                _ => None,
            })
            .await;
        assert_eq!(locked.payment_hash, held.hash.to_string());
        assert_eq!(locked.amount_msats.get(), PRICE);
        assert_eq!(locked.expiry_secs, 36 * 600);
        provider
            .hear(|_, message| matches!(message, AgentMessage::PaymentSent(_)).then_some(()))
            .await;
        provider.chunk(&held.job.id, Some(0), "Par", false).await;
        provider.chunk(&held.job.id, Some(1), "is", true).await;
        provider.result(&held.job.id, "Paris").await;
        claim(&mut provider, &held).await;
        held.hash
    });
    let ran = ran.expect(0);
    let names: Vec<String> = ran
        .events()
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .filter(|name| name != "provider" && name != "chunk")
        .collect();
    assert_eq!(
        names,
        [
            "selected",
            "requested",
            "quoted",
            "reserved",
            "paying",
            "locked",
            "released",
            "paid",
            "result"
        ]
    );
    let locked = ran.event("locked").unwrap();
    assert_eq!(locked["amount_msat"], PRICE);
    assert_eq!(locked["payment_hash"], hash.to_string());
    let result = ran.last();
    assert_eq!(result["text"], "Paris");
    assert_eq!(
        (&result["paid_msat"], &result["reserved_msat"]),
        (&PRICE.into(), &0.into())
    );
    let preimage: Preimage = result["preimage"].as_str().unwrap().parse().unwrap();
    assert_eq!(preimage.payment_hash(), hash);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

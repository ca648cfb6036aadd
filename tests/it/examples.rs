//! The examples run, and hold what they say. Each has its tests as a module of its own, so that these can
//! look at what a reader sees.
#![allow(
    clippy::duplicate_mod,
    reason = "each example is a program of its own, and has its own market"
)]

#[path = "../../examples/buy_once.rs"]
#[allow(dead_code, reason = "its command line is not used here")]
mod buy_once;
#[path = "../../examples/custom_wallet.rs"]
mod custom_wallet;
#[path = "../../examples/embed_provider.rs"]
mod embed_provider;
#[path = "../../examples/tick_loop.rs"]
mod tick_loop;

mod ticks;

/// What an agent needs of a library: to keep its values anywhere, and to await its calls in any task.
#[test]
fn the_library_can_be_used_from_any_task() {
    use agent_compute::client::{Builder, ComputeClient, Purchase, PurchaseRequest, Receipt};
    use agent_compute::provider::Provider;

    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>(_: &T) {}
    shared::<(Builder, ComputeClient, PurchaseRequest, Receipt)>();
    shared::<(Purchase, Provider, agent_compute::Error)>();

    let calls = async |client: ComputeClient, purchase: Purchase| {
        client.discover_providers(1).await?;
        client.preview(&PurchaseRequest::new("x")).await?;
        client.recover().await?;
        client.budget().await?;
        client.close().await;
        purchase.receipt().await
    };
    let of = async move {
        let client = ComputeClient::builder().no_wallet().build_lazy();
        let purchase = client.purchase(PurchaseRequest::new("x"));
        calls(client, purchase).await
    };
    sent(&of);
}

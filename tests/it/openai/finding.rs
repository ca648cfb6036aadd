//! The search for a server on this machine.

use agent_compute::provider::backend::openai::find;
use serde_json::json;

use super::server::{Server, answer, json_answer, models};

async fn lists(ids: &'static [&'static str]) -> Server {
    Server::start(move |_, _| vec![json_answer(200, &models(ids))]).await
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn the_first_port_in_order_that_lists_models_is_taken() {
    let empty = lists(&[]).await;
    let web = Server::start(|_, _| vec![answer(200, "", b"<html>hello")]).await;
    let (first, second) = (lists(&["one", "two"]).await, lists(&["three"]).await);
    let ports = [free_port(), empty.port, web.port, first.port, second.port];
    let (server, models) = find(&ports).await.unwrap();
    assert_eq!(server.address().to_string(), format!("{}/v1", first.url));
    assert_eq!(models, ["one", "two"]);
}

#[tokio::test]
async fn without_a_server_every_port_is_named_with_what_is_there() {
    let empty = lists(&[]).await;
    let locked = Server::start(|_, _| vec![json_answer(401, &json!({ "error": "key?" }))]).await;
    let nobody = free_port();
    let none = find(&[nobody, empty.port, locked.port]).await.unwrap_err();
    let said = none.to_string();
    for words in [
        format!("port {nobody}: nothing answers"),
        format!("port {}: a server without models", empty.port),
        format!("port {}: no list of models", locked.port),
        "--backend-url".into(),
        "backend_key".into(),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
}

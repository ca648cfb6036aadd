//! How servers are asked: what is sent, where to, how often, and what their refusals mean.

use agent_compute::provider::backend::{Backend, BackendError, OpenAi};
use serde_json::{Value, json};

use super::server::{Server, Step, answer, json_answer, models, piece, stream, stream_head, whole};
use super::{backend, backend_with_key, failure, text};

fn refusal(status: u16, message: &str) -> Step {
    json_answer(
        status,
        &json!({ "error": { "message": message, "type": "invalid_request_error" } }),
    )
}

#[tokio::test]
async fn a_request_is_the_prompt_and_what_was_asked_for_and_nothing_else() {
    let server = Server::chat(|_| stream(&["x"])).await;
    text(&backend(&server)).await;
    assert_eq!(
        server.bodies()[0],
        json!({
            "model": "tiny",
            "messages": [{ "role": "user", "content": "river stone" }],
            "max_tokens": 500,
            "stream": true,
            "stream_options": { "include_usage": true },
        })
    );
    let asked = server.asked().remove(0);
    assert_eq!(asked.call, "POST /v1/chat/completions");
    assert!(asked.head.contains("content-type: application/json"));
    assert!(!asked.head.contains("authorization"), "{}", asked.head);
    assert!(!asked.head.contains("openai-"), "{}", asked.head);
}

#[tokio::test]
async fn a_key_goes_with_every_request_and_into_no_error() {
    let server = Server::start(|asked, _| match asked.call.as_str() {
        "GET /v1/models" => vec![json_answer(200, &models(&["tiny"]))],
        _ => vec![refusal(401, "Incorrect API key provided: sk-hunter2")],
    })
    .await;
    let backend = backend_with_key(&server, "sk-hunter2");
    backend.models().await.unwrap();
    let error = failure(&backend).await.to_string();
    assert!(error.contains("refuses the key"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    for asked in server.asked() {
        assert!(asked.head.contains("authorization: bearer sk-hunter2\r\n"));
    }
    let without = failure(&super::backend(&server)).await.to_string();
    assert!(without.contains("backend_key"), "{without}");
}

#[tokio::test]
async fn refusals_mean_what_they_mean_and_are_not_repeated() {
    type Is = fn(&BackendError) -> bool;
    let failed: Is = |error| matches!(error, BackendError::Failed(_));
    let too_long: Is = |error| matches!(error, BackendError::TooLong(_));
    let cases: [(Step, Is, &str); 9] = [
        (
            refusal(400, "temperature is off"),
            failed,
            "temperature is off",
        ),
        (
            refusal(400, "the request exceeds the available context size"),
            too_long,
            "context",
        ),
        (
            refusal(413, "maximum context length is 8192 tokens"),
            too_long,
            "8192",
        ),
        (refusal(403, "not for you"), failed, "wants a key"),
        (
            refusal(404, "model 'tiny' not found"),
            failed,
            "'tiny' not found",
        ),
        (
            refusal(500, "CUDA\n\u{1b}[31mout of memory"),
            failed,
            "out of memory",
        ),
        (
            answer(404, "content-type: text/html\r\n", b"<html>\n404"),
            failed,
            "404",
        ),
        (answer(500, "", &vec![b'x'; 1_000_000]), failed, "xxx"),
        (
            answer(200, "content-type: application/json\r\n", b"<html>"),
            failed,
            "not what it should be",
        ),
    ];
    for (step, is, words) in cases {
        let server = Server::chat(move |_| vec![step.clone()]).await;
        let error = failure(&backend(&server)).await;
        assert!(is(&error), "{error:?}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.to_string().len() < 500);
        assert_eq!(server.bodies().len(), 1, "{words}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_or_breaks_off_is_asked_again_and_then_no_more() {
    let server = Server::start(|_, number| match number {
        0 => vec![refusal(503, "Loading model")],
        _ => stream(&["ready"]),
    })
    .await;
    assert_eq!(text(&backend(&server)).await, "ready");
    assert_eq!(server.bodies().len(), 2);

    let breaks = Server::start(|_, number| match number {
        0 => vec![Step::Reset],
        _ => stream(&["back"]),
    })
    .await;
    assert_eq!(text(&backend(&breaks)).await, "back");

    let busy = Server::chat(|_| vec![answer(429, "retry-after: 0\r\n", b"slow down")]).await;
    let error = failure(&backend(&busy)).await;
    assert!(matches!(error, BackendError::Busy(_)), "{error}");
    assert!(error.to_string().contains("slow down"));
    assert!(error.for_customers().contains("overloaded"));
    assert_eq!(busy.bodies().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}"),
    ] {
        let backend = OpenAi::new(url.parse().unwrap(), None).unwrap();
        let error = backend.models().await.unwrap_err();
        assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
        assert!(
            error.to_string().to_lowercase().contains("refused"),
            "{error}"
        );
        assert!(error.for_customers().contains("not running"));
    }
}

#[tokio::test]
async fn a_server_is_learned_to_be_one_that_does_not_stream() {
    let server = Server::chat(|asked| match asked.body["stream"] == true {
        true => vec![refusal(400, "stream is not supported by this server")],
        false => vec![whole("in one piece")],
    })
    .await;
    let backend = backend(&server);
    assert_eq!(text(&backend).await, "in one piece");
    assert_eq!(text(&backend).await, "in one piece");
    let streams: Vec<Value> = server
        .bodies()
        .iter()
        .map(|body| body["stream"].clone())
        .collect();
    assert_eq!(streams, [true, false, false]);
    assert_eq!(server.bodies()[1].get("stream_options"), None);
}

#[tokio::test]
async fn a_field_that_a_server_does_not_know_is_left_out() {
    let server = Server::chat(|asked| {
        if asked.body.get("stream_options").is_some() {
            vec![refusal(422, "extra field: stream_options")]
        } else if asked.body.get("max_tokens").is_some() {
            vec![refusal(
                400,
                "'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            )]
        } else {
            stream(&["understood"])
        }
    })
    .await;
    assert_eq!(text(&backend(&server)).await, "understood");
    let last = server.bodies().pop().unwrap();
    assert_eq!(last["max_completion_tokens"], 500);
    assert_eq!(last["stream"], true);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::chat(|_| stream(&["stolen"])).await;
    let to = format!("location: {}/v1/chat/completions\r\n", elsewhere.url);
    let server = Server::chat(move |_| vec![answer(307, &to, b"")]).await;
    let error = failure(&backend_with_key(&server, "sk-hunter2")).await;
    assert!(error.to_string().contains("another address"), "{error}");
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn models_are_listed_leniently_and_asked_for_by_their_own_names() {
    let list = json!({ "object": "list", "models": [], "data": [
        { "id": "/srv/models/tiny" },
        { "id": "meta-llama/Llama-3" },
        { "id": "meta-llama/Llama-3", "owned_by": null },
        { "id": null }, {}, { "id": "" }, { "id": "line\nbreak" }, { "id": "x".repeat(300) },
    ] });
    let server = Server::start(move |asked, _| match asked.call.as_str() {
        "GET /v1/models" => vec![json_answer(200, &list)],
        _ => vec![stream_head(), piece("x"), super::server::done()],
    })
    .await;
    let backend = backend(&server);
    assert_eq!(
        backend.models().await.unwrap(),
        ["tiny", "meta-llama/Llama-3"]
    );
    text(&backend).await;
    assert_eq!(server.bodies()[0]["model"], "/srv/models/tiny");
    for none in [json!({ "data": null }), json!({ "data": [] }), json!({})] {
        let server = Server::start(move |_, _| vec![json_answer(200, &none)]).await;
        assert!(super::backend(&server).models().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn tls_is_ready_before_and_after_a_relay_is_spoken_to_over_it() {
    use agent_compute::relay::RelaySession as _;
    use agent_compute::relay::pool::{PoolOptions, RelayPoolSession};

    let no_tls = Server::start(|_, _| vec![Step::Send(b"no TLS here".to_vec())]).await;
    let url = format!("https://127.0.0.1:{}", no_tls.port);
    let list = async || {
        let backend = OpenAi::new(url.parse().unwrap(), None).unwrap();
        let error = backend.models().await.unwrap_err();
        assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
    };
    list().await;
    let relay = format!("wss://127.0.0.1:{}", no_tls.port).parse().unwrap();
    let session = RelayPoolSession::connect(&[relay], PoolOptions::default()).unwrap();
    let wait = std::time::Duration::from_millis(300);
    let nothing = session.subscribe(nostr::Filter::new().limit(1), wait).await;
    assert!(nothing.is_err());
    session.close().await;
    list().await;
}

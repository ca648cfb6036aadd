//! What becomes of a server's answers, the good and the bad.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::provider::backend::openai::Silence;
use agent_compute::provider::backend::{Backend, BackendError};
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use super::server::{
    Server, Step, answer, done, event, last_piece, piece, recorded, soon, stream, stream_head,
    whole,
};
use super::{SHORT, backend, failure, generate, request, shared, text};

#[tokio::test]
async fn pieces_are_passed_on_while_the_server_is_still_at_work() {
    let go_on = shared(Notify::new());
    let gate = Arc::clone(&go_on);
    let server = Server::chat(move |_| {
        let wait = Step::Wait(Arc::clone(&gate));
        let rest = [piece("two"), last_piece("stop"), done()];
        [vec![stream_head(), piece("one "), wait], rest.into()].concat()
    })
    .await;
    let backend = backend(&server);
    let (chunks, mut sent) = mpsc::channel(16);
    let generate = backend.generate(request(500), chunks);
    let watch = async {
        assert_eq!(sent.recv().await.as_deref(), Some("one "));
        go_on.notify_one();
        assert_eq!(sent.recv().await.as_deref(), Some("two"));
    };
    let (made, ()) = soon("the end", async { tokio::join!(generate, watch) }).await;
    let made = made.unwrap();
    assert_eq!((made.text.as_str(), made.tokens), ("one two", Some(2)));
}

#[tokio::test]
async fn the_recorded_streams_of_a_real_server_are_read_however_they_are_cut() {
    for at_once in [1, 7, 100_000] {
        let server = Server::chat(move |asked| {
            let streamed = asked.body["stream"] == true;
            let name = if streamed { "streamed" } else { "whole" };
            vec![Step::Dribble(recorded(name), at_once)]
        })
        .await;
        let (made, chunks) = generate(&backend(&server), 8).await;
        let made = made.unwrap();
        assert_eq!(made.text, " fire zero key größe light night day größe");
        assert_eq!(made.tokens, Some(8));
        assert_eq!(chunks.len(), 8);
        assert_eq!(chunks.concat(), made.text);
    }
}

#[tokio::test]
async fn a_real_server_that_says_nothing_in_its_stream_is_asked_why() {
    let server = Server::start(|asked, _| {
        let name = match (asked.call.as_str(), asked.body["stream"] == true) {
            ("GET /v1/models", _) => "models",
            (_, true) => "too-long-streamed",
            (_, false) => "too-long-whole",
        };
        vec![Step::Send(recorded(name))]
    })
    .await;
    let backend = backend(&server);
    assert_eq!(backend.models().await.unwrap(), ["tiny"]);
    let error = failure(&backend).await;
    assert!(matches!(error, BackendError::TooLong(_)), "{error}");
    assert!(error.to_string().contains("512 tokens"), "{error}");
    assert!(error.for_customers().contains("too long"));
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test]
async fn a_real_server_that_drops_the_work_for_another_request_has_delivered_nothing() {
    let server = Server::chat(|asked| match asked.body["stream"] == true {
        true => vec![Step::Send(recorded("interrupted"))],
        false => vec![whole("asked again")],
    })
    .await;
    assert_eq!(text(&backend(&server)).await, "asked again");

    let halfway = Server::chat(|_| {
        let piece = json!({ "delta": { "content": "half " }, "finish_reason": null });
        vec![stream_head(), event(&json!({ "choices": [piece] })), done()]
    })
    .await;
    let error = failure(&backend(&halfway)).await;
    assert!(error.to_string().contains("half-way"), "{error}");
}

#[tokio::test]
async fn max_tokens_is_sent_and_a_server_that_ignores_it_is_cut_off() {
    let word = b"data: {\"choices\":[{\"delta\":{\"content\":\"more \"}}]}\n\n";
    let server = Server::chat(|_| vec![stream_head(), Step::Forever(word.to_vec())]).await;
    let (made, chunks) = generate(&backend(&server), 7).await;
    let made = made.unwrap();
    assert_eq!(made.text, "more ".repeat(7));
    assert_eq!((made.tokens, chunks.len()), (Some(7), 7));
    assert_eq!(server.bodies()[0]["max_tokens"], 7);
    server.is_left_alone().await;
}

#[tokio::test]
async fn thoughts_count_as_tokens_and_are_not_the_result() {
    let thought = || event(&json!({ "choices": [{ "delta": { "reasoning_content": "hm" } }] }));
    let server = Server::chat(move |_| {
        let talk = vec![
            stream_head(),
            thought(),
            thought(),
            piece("a"),
            piece("b"),
            piece("c"),
        ];
        [talk, vec![Step::Hang]].concat()
    })
    .await;
    let (made, chunks) = generate(&backend(&server), 4).await;
    assert_eq!(made.unwrap().text, "ab");
    assert_eq!(chunks, ["a", "b"]);
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_stream_is_whole_once_the_model_has_ended_whatever_follows() {
    let ends: [&[Step]; 4] = [
        &[last_piece("stop"), done()],
        &[last_piece("stop")],
        &[last_piece("length"), Step::Reset],
        &[last_piece("stop"), Step::Hang],
    ];
    for end in ends.map(<[Step]>::to_vec) {
        let server =
            Server::chat(move |_| [vec![stream_head(), piece("all")], end.clone()].concat()).await;
        assert_eq!(text(&backend(&server)).await, "all");
    }
    // Without a reason to end, [DONE] will do, and the count of tokens may come last.
    let server = Server::chat(|_| {
        let count = event(&json!({ "choices": [], "usage": { "completion_tokens": 12 } }));
        vec![stream_head(), piece("all"), count, done(), Step::Hang]
    })
    .await;
    let (made, _) = generate(&backend(&server), 500).await;
    let made = made.unwrap();
    assert_eq!((made.text.as_str(), made.tokens), ("all", Some(12)));
}

#[tokio::test]
async fn line_ends_comments_and_split_characters_do_not_matter() {
    let server = Server::chat(|_| {
        let stream = "\u{feff}: hello\r\n\r\nevent: message\r\nid: 1\r\nretry: 5\r\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"größe \"}}]}\r\n\r\n: ping\r\n\r\n\
            data:{\"choices\":[{\"delta\":{\"content\":\"日本🦀\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n";
        vec![stream_head(), Step::Dribble(stream.into(), 1)]
    })
    .await;
    assert_eq!(text(&backend(&server)).await, "größe 日本🦀");
}

#[tokio::test]
async fn a_stream_that_goes_wrong_fails_the_job_and_says_how() {
    let error = |error| event(&json!({ "error": error }));
    let raw = |bytes: &[u8]| Step::Send(bytes.to_vec());
    let endings: [(&str, Vec<Step>); 9] = [
        ("cut off", vec![]),
        ("cut off", vec![raw(b"data: {\"choices\":[{\"del")]),
        ("", vec![Step::Reset]),
        (
            "out of memory",
            vec![error(
                json!({ "message": "CUDA\nout of memory", "code": 500 }),
            )],
        ),
        ("crashed", vec![error(json!("model crashed"))]),
        (
            "gone",
            vec![
                raw(b"error: {\"code\":500,\"message\":\"gone\"}\n\n"),
                done(),
            ],
        ),
        (
            "not what it should be",
            vec![raw(b"data: {garbage}\n\n"), done()],
        ),
        ("UTF8", vec![raw(b"data: \xff\xfe\n\n"), done()]),
        (
            "2097152 bytes",
            vec![raw(b"data: "), raw(&vec![b'x'; 10 * 1024 * 1024]), done()],
        ),
    ];
    for (why, ending) in endings {
        let server =
            Server::chat(move |_| [vec![stream_head(), piece("half ")], ending.clone()].concat())
                .await;
        let error = failure(&backend(&server)).await;
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(server.bodies().len(), 1, "{why}: something was streamed");
    }
}

#[tokio::test]
async fn a_result_without_end_is_bounded() {
    let long = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(500_000)
    );
    let server =
        Server::chat(move |_| vec![stream_head(), Step::Forever(long.clone().into())]).await;
    let error = failure(&backend(&server)).await;
    assert!(error.to_string().contains("more than"), "{error}");
    server.is_left_alone().await;
    let comments = Server::chat(|_| vec![stream_head(), Step::Forever(b": ping\n".repeat(10_000))]);
    let comments = comments.await;
    let error = failure(&backend(&comments)).await;
    assert!(error.to_string().contains("33554432 bytes"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_before_and_within_its_answer() {
    let beginnings: [&[Step]; 3] = [&[], &[stream_head()], &[stream_head(), piece("half ")]];
    for beginning in beginnings.map(<[Step]>::to_vec) {
        let server = Server::chat(move |_| [beginning.clone(), vec![Step::Hang]].concat()).await;
        let error = failure(&backend(&server).with_silence(SHORT)).await;
        assert!(error.to_string().contains("silent"), "{error}");
        server.is_left_alone().await;
    }
}

#[tokio::test]
async fn a_server_that_says_who_speaks_may_still_read_the_prompt() {
    let gate = shared(Notify::new());
    let opened = Arc::clone(&gate);
    let server = Server::chat(move |_| {
        let who = json!({ "delta": { "role": "assistant" }, "finish_reason": null });
        let beginning = vec![stream_head(), event(&json!({ "choices": [who] }))];
        let end = b"data: {\"choices\":[{\"delta\":{\"content\":\"read\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let rest = vec![Step::Wait(Arc::clone(&gate)), Step::Send(end.to_vec())];
        [beginning, rest].concat()
    })
    .await;
    let patient = backend(&server).with_silence(Silence {
        first: Duration::from_secs(60),
        between: Duration::from_millis(20),
    });
    let open = async {
        // Longer than the patience between pieces.
        tokio::time::sleep(Duration::from_millis(200)).await;
        opened.notify_one();
    };
    let ((made, _), ()) = tokio::join!(generate(&patient, 500), open);
    assert_eq!(made.unwrap().text, "read");
}

#[tokio::test]
async fn an_abandoned_job_is_abandoned_at_the_server_too() {
    let server = Server::chat(|_| vec![stream_head(), piece("one "), Step::Hang]).await;
    let backend = backend(&server);
    let (chunks, mut sent) = mpsc::channel(16);
    {
        let generate = backend.generate(request(500), chunks);
        tokio::pin!(generate);
        tokio::select! {
            _ = &mut generate => panic!("there is no end"),
            chunk = sent.recv() => assert_eq!(chunk.as_deref(), Some("one ")),
        }
    }
    server.is_left_alone().await;
}

#[tokio::test]
async fn an_answer_in_one_piece_to_a_request_for_a_stream_is_taken() {
    let server = Server::chat(|_| vec![whole("in one piece")]).await;
    let (made, chunks) = generate(&backend(&server), 500).await;
    let made = made.unwrap();
    assert_eq!((made.text.as_str(), made.tokens), ("in one piece", Some(3)));
    assert_eq!(chunks, ["in one piece"]);
    // Written over several lines, as some do.
    let server = Server::chat(|_| {
        let body = b"{\r\n  \"choices\": [\n{\"message\":{\"content\":\"pretty\"}}\n]\n}\n";
        vec![answer(
            200,
            "content-type: application/json; charset=utf-8\r\n",
            body,
        )]
    })
    .await;
    assert_eq!(text(&backend(&server)).await, "pretty");
}

#[tokio::test]
async fn an_empty_stream_is_an_empty_result() {
    let server = Server::chat(|_| stream(&[])).await;
    assert_eq!(text(&backend(&server)).await, "");
}

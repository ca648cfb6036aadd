//! A backend that repeats the prompt, for tests and demonstrations.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Backend, BackendError, GenerateRequest, Generated};

/// Has one model, `echo`. Repeats the whole prompt, whatever its length, a chunk a word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

/// Cuts a text before each word but the first; the pieces, put together, are the text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let word = rest.find(|c: char| !c.is_whitespace())?;
        let after = rest[word..]
            .find(char::is_whitespace)
            .map_or(rest.len(), |end| word + end);
        let next = rest[after..]
            .find(|c: char| !c.is_whitespace())
            .map_or(rest.len(), |start| after + start);
        let (token, tail) = rest.split_at(next);
        rest = tail;
        Some(token)
    })
}

#[async_trait]
impl Backend for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec!["echo".into()])
    }

    fn chunks_stand_alone(&self) -> bool {
        true
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        chunks: mpsc::Sender<String>,
    ) -> Result<Generated, BackendError> {
        let mut text = String::with_capacity(request.prompt.len());
        let mut tokens = 0;
        for word in words(&request.prompt) {
            text.push_str(word);
            tokens += 1;
            // Nobody listening is no reason to stop: the whole text is asked for as well.
            let _ = chunks.send(word.to_owned()).await;
        }
        Ok(Generated {
            text,
            tokens: Some(tokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo(prompt: &str) -> (String, Vec<String>) {
        let (chunks, mut out) = mpsc::channel(64);
        let request = GenerateRequest {
            model: "echo".into(),
            prompt: prompt.into(),
            max_tokens: 1,
        };
        let made = Echo.generate(request, chunks).await;
        let mut pieces = Vec::new();
        while let Some(piece) = out.recv().await {
            pieces.push(piece);
        }
        (made.map(|made| made.text).unwrap_or_default(), pieces)
    }

    #[tokio::test]
    async fn the_chunks_put_together_are_the_prompt() {
        for prompt in [
            "one",
            "What  is\n\n2+2? ",
            "  leading\t",
            "é ü\u{a0}ß",
            "a b",
        ] {
            let (text, pieces) = echo(prompt).await;
            assert_eq!(text, prompt);
            assert_eq!(pieces.concat(), prompt);
            assert_eq!(pieces.len(), prompt.split_whitespace().count());
        }
    }
}

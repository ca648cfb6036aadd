//! How a provider speaks in its channel: signs, publishes, and tries again.

use std::sync::Arc;
use std::time::Duration;

use nostr::{Event, EventBuilder, EventId};
use tokio::time::Instant;

use super::job::Address;
use super::pricing::Refusal;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::protocol::channel::{self, ReplyTo};
use crate::protocol::codec;
use crate::protocol::message::{AgentMessage, JobError};
use crate::relay::seal::{self, Sealer};
use crate::relay::{RelayError, RelaySession};
use crate::units::UnixSecs;

/// How long relays are given to take one event, once.
pub(super) const PUBLISH: Duration = Duration::from_secs(10);

/// Between tries: twice as long each time, and a random part on top, so that many do not come at once.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_SLOWEST: Duration = Duration::from_secs(30);

/// Signs and publishes. One is shared by all jobs.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) identity: Identity,
    pub(super) sealer: Sealer,
    pub(super) clock: Clock,
    pub(super) relay: Arc<dyn RelaySession>,
    /// The relay that is named in tags as where the channel is.
    pub(super) relay_hint: String,
}

/// A message could not be made into an event. The words are for the owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message can't be made: {0}")]
pub(super) struct Unspeakable(String);

fn unspeakable(error: impl std::fmt::Display) -> Unspeakable {
    Unspeakable(error.to_string())
}

impl Voice {
    /// Signs an event as of `at`.
    pub(super) fn sign_at(&self, event: EventBuilder, at: UnixSecs) -> Result<Event, Unspeakable> {
        seal::sign(&self.identity, event, at).map_err(unspeakable)
    }

    /// A message to all of a channel, as of `at`.
    pub(super) fn broadcast_at(
        &self,
        channel: EventId,
        message: &AgentMessage,
        at: UnixSecs,
    ) -> Result<Event, Unspeakable> {
        let content = codec::encode(message).map_err(unspeakable)?;
        self.compose(channel, content, None, at)
    }

    /// A message that answers a request, sealed if the request was.
    pub(super) fn answer(&self, to: Address, message: &AgentMessage) -> Result<Event, Unspeakable> {
        let reply = ReplyTo {
            event: to.request,
            author: to.customer,
        };
        let content = if to.sealed {
            self.sealer
                .seal(&to.customer, message)
                .map_err(unspeakable)?
        } else {
            codec::encode(message).map_err(unspeakable)?
        };
        self.compose(to.channel, content, Some(reply), self.clock.now())
    }

    /// The answer that says no.
    pub(super) fn refusal(&self, to: Address, refusal: &Refusal) -> Result<Event, Unspeakable> {
        let message = AgentMessage::JobError(JobError {
            job_id: to.job_id(),
            code: refusal.code.to_owned(),
            message: refusal.message.clone(),
        });
        self.answer(to, &message)
    }

    fn compose(
        &self,
        channel: EventId,
        content: String,
        reply: Option<ReplyTo>,
        at: UnixSecs,
    ) -> Result<Event, Unspeakable> {
        let message = channel::message(channel, &self.relay_hint, content, reply);
        self.sign_at(message, at)
    }

    /// Publishes once.
    pub(super) async fn publish(&self, event: &Event) -> Result<(), RelayError> {
        self.relay.publish(event, PUBLISH).await.map(drop)
    }

    /// Publishes until a relay has taken the event, or `patience` is over.
    pub(super) async fn publish_patiently(
        &self,
        event: &Event,
        patience: Duration,
    ) -> Result<(), RelayError> {
        let ends = Instant::now() + patience;
        let mut pause = RETRY_FIRST;
        loop {
            let trouble = match self.publish(event).await {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            let next = Instant::now() + pause.mul_f64(1.0 + rand::random::<f64>() / 2.0);
            if trouble == RelayError::Closed || next >= ends {
                return Err(trouble);
            }
            tracing::debug!(event = %event.id, %trouble, "not published yet");
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(RETRY_SLOWEST);
        }
    }

    /// Publishes one event after the other, each patiently, and stops at the first that no relay takes.
    pub(super) async fn publish_all(
        &self,
        events: &[Event],
        patience: Duration,
    ) -> Result<(), RelayError> {
        for event in events {
            self.publish_patiently(event, patience).await?;
        }
        Ok(())
    }
}

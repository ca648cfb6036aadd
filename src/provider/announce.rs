//! How a provider is found: its channel, its listing (NIP-89), its announcement in the channel.

use std::sync::Mutex;
use std::time::Duration;

use nostr::nips::nip01::Coordinate;
use nostr::nips::nip09::EventDeletionRequest;
use nostr::{Event, EventBuilder, EventId, Kind, RelayUrl, Tag};

use super::pricing::Terms;
use super::store::JobStore;
use super::voice::{Unspeakable, Voice};
use super::{ChannelChoice, ProviderConfig};
use crate::error::{Code, Error};
use crate::protocol::message::{AgentMessage, ServiceAnnouncement};
use crate::protocol::{Feature, KIND_TEXT_GENERATION, channel};
use crate::units::{Network, UnixSecs};

/// How long a start tries to make its channel known.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A listing outlives this many announcements, and then fades: a dead provider is not found for long.
const LISTING_LIVES: u32 = 3;

/// The channel to work in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub(super) channel: EventId,
    /// Whether it was made just now.
    pub(super) created: bool,
}

/// Finds or makes the channel.
pub(super) async fn join(
    config: &ProviderConfig,
    store: &JobStore,
    voice: &Voice,
) -> Result<Joined, Error> {
    let renew = match config.channel {
        ChannelChoice::Join(channel) => {
            return Ok(Joined {
                channel,
                created: false,
            });
        }
        ChannelChoice::Create { renew } => renew,
    };
    let relays = relay_set(&config.relays);
    let key = voice.identity.public_key();
    let before = if renew {
        None
    } else {
        store.channel(key, relays.clone()).await?
    };
    if let Some(before) = before {
        return again(&before, voice).await;
    }
    let urls: Vec<String> = config.relays.iter().map(ToString::to_string).collect();
    let made = voice
        .sign(channel::create(&config.name, &config.about, &urls))
        .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    // On record first: a start that fails here comes back to the same channel.
    store.remember_channel(relays, made.clone()).await?;
    publish(&made, voice).await?;
    Ok(Joined {
        channel: made.id,
        created: true,
    })
}

/// Relays may have lost a channel since; sending its event again does no harm where they have it.
async fn again(made: &Event, voice: &Voice) -> Result<Joined, Error> {
    publish(made, voice).await?;
    Ok(Joined {
        channel: made.id,
        created: false,
    })
}

async fn publish(made: &Event, voice: &Voice) -> Result<(), Error> {
    voice
        .publish_patiently(made, START_PATIENCE)
        .await
        .map_err(|error| {
            Error::new(
                Code::Network,
                format!("the channel can't be made known: {error}"),
            )
        })
}

/// The name of a set of relays, whatever order they are given in.
fn relay_set(relays: &[RelayUrl]) -> String {
    let mut urls: Vec<&str> = relays
        .iter()
        .map(RelayUrl::as_str_without_trailing_slash)
        .collect();
    urls.sort_unstable();
    urls.dedup();
    urls.join(" ")
}

/// What is announced, again and again.
#[derive(Debug)]
pub(super) struct Announcer {
    pub(super) channel: EventId,
    pub(super) terms: Terms,
    pub(super) network: Network,
    pub(super) name: String,
    pub(super) about: String,
    pub(super) relays: Vec<RelayUrl>,
    pub(super) every: Duration,
    /// When the last listing was made. A newer one must be newer to the second, or relays keep either.
    pub(super) last: Mutex<UnixSecs>,
}

impl Announcer {
    /// Announces once, by both ways.
    pub(super) async fn announce(&self, voice: &Voice) -> Result<(), String> {
        let listing = self.sign(voice, self.listing(voice.clock.now()));
        let said = voice.broadcast(self.channel, &self.announcement(voice));
        let (listing, said) = match (listing, said) {
            (Ok(listing), Ok(said)) => (listing, said),
            (Err(error), _) | (_, Err(error)) => return Err(error.to_string()),
        };
        let (listed, said) = tokio::join!(voice.publish(&listing), voice.publish(&said));
        listed.and(said).map_err(|error| error.to_string())
    }

    /// Takes the listing back.
    pub(super) async fn withdraw(&self, voice: &Voice) -> Result<(), String> {
        let listing = Coordinate::new(Kind::Custom(31990), voice.identity.public_key())
            .identifier("agent-compute");
        let request = EventDeletionRequest::new().coordinate(listing);
        let gone = self
            .sign(voice, EventBuilder::delete(request))
            .map_err(|error| error.to_string())?;
        voice.publish(&gone).await.map_err(|error| error.to_string())
    }

    /// Signs what replaces or deletes the listing: later than all before, to the second.
    fn sign(&self, voice: &Voice, event: EventBuilder) -> Result<Event, Unspeakable> {
        let at = {
            let mut last = self.last.lock().unwrap_or_else(|held| held.into_inner());
            *last = voice.clock.now().max(last.plus(1));
            *last
        };
        voice.sign_at(event, at)
    }

    fn features(&self) -> Vec<&'static str> {
        let stream = self.terms.stream.then_some(Feature::Stream.as_str());
        stream.into_iter().collect()
    }

    fn announcement(&self, voice: &Voice) -> AgentMessage {
        let price = self.terms.price;
        AgentMessage::ServiceAnnouncement(ServiceAnnouncement {
            kind: KIND_TEXT_GENERATION,
            price_msats: price.per_request,
            spark_address: "none".into(),
            network: self.network,
            provider_pubkey: Some(voice.identity.public_key().to_hex()),
            models: self.terms.models.clone(),
            capabilities: vec!["text-generation".into()],
            price_per_1k_msats: Some(price.per_1k_tokens).filter(|price| !price.is_zero()),
            features: self.features().into_iter().map(str::to_owned).collect(),
        })
    }

    fn listing(&self, now: UnixSecs) -> EventBuilder {
        let price = self.terms.price.per_request.get().to_string();
        let mut tags: Vec<Vec<String>> = vec![
            vec!["handler".into(), "compute_provider".into()],
            vec!["capability".into(), "text-generation".into()],
            vec!["price".into(), price, "per-request".into(), "msats".into()],
            vec!["channel".into(), self.channel.to_hex()],
        ];
        tags.extend(self.relays.iter().map(|url| vec!["relay".into(), url.to_string()]));
        tags.push(vec!["network".into(), self.network.to_string()]);
        tags.extend(self.terms.models.iter().map(|model| vec!["model".into(), model.clone()]));
        tags.push(vec!["d".into(), "agent-compute".into()]);
        tags.push(vec!["k".into(), KIND_TEXT_GENERATION.to_string()]);
        let fades = now.plus(self.every.as_secs() * u64::from(LISTING_LIVES));
        tags.push(vec!["expiration".into(), fades.get().to_string()]);
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let content = serde_json::json!({ "name": self.name, "description": self.about });
        EventBuilder::new(Kind::Custom(31990), content.to_string()).tags(tags)
    }
}

//! How a provider is found: its channel, its listing (NIP-89), its announcement in the channel.

use std::time::Duration;

use nostr::{Event, EventId, RelayUrl};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::store::JobStore;
use super::voice::{Unspeakable, Voice};
use super::{ChannelChoice, ProviderConfig};
use crate::crash::{self, Point};
use crate::error::{Code, Error};
use crate::protocol::channel;
use crate::protocol::listing::{self, ListingContent};
use crate::protocol::message::AgentMessage;
use crate::protocol::offer::ANNOUNCEMENT_MAX_AGE_SECS;
use crate::units::UnixSecs;

/// How long relays and backend are given at the start.
pub(super) const START: Duration = Duration::from_secs(10);

/// A listing outlives this many announcements, and then fades: a dead provider is not found for long.
const LISTING_LIVES: u64 = 3;

/// Seconds that an earlier listing may be dated ahead of the clock and still be respected.
const CLOCK_DRIFT: u64 = 600;

/// What stands where deployed providers put their Spark address.
const NO_SPARK_ADDRESS: &str = "none";

/// The channel to work in.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) channel: EventId,
    /// The event that made it, if it is ours.
    made: Option<Event>,
    /// Whether it was made just now.
    pub(super) is_new: bool,
}

/// Finds the channel, or makes one.
pub(super) async fn join(
    config: &ProviderConfig,
    store: &JobStore,
    voice: &Voice,
) -> Result<Joined, Error> {
    let renew = match config.channel {
        ChannelChoice::Join(channel) => {
            return Ok(Joined {
                channel,
                made: None,
                is_new: false,
            });
        }
        ChannelChoice::Create { renew } => renew,
    };
    let relays = relay_set(&config.relays);
    let before = store
        .channel(voice.identity.public_key(), relays.clone())
        .await?;
    // Two channels of one name, made in one second, would be one event.
    let earliest = before
        .as_ref()
        .map_or(0, |before| before.created_at.as_secs() + 1);
    if let Some(before) = before.filter(|_| !renew) {
        return Ok(Joined {
            channel: before.id,
            made: Some(before),
            is_new: false,
        });
    }
    let urls: Vec<String> = config.relays.iter().map(ToString::to_string).collect();
    let at = voice.clock.now().max(UnixSecs::new(earliest));
    let made = voice
        .sign_at(channel::create(&config.name, &config.about, &urls), at)
        .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    // On record before it is known: a start that is cut off comes back to the same channel.
    let remembered = store.remember_channel(relays, made.clone());
    crash::around(Point::ProviderChannel, remembered).await?;
    Ok(Joined {
        channel: made.id,
        made: Some(made),
        is_new: true,
    })
}

impl Joined {
    /// Publishes the event that made the channel. Relays may have lost an old one, and where they have not
    /// this does no harm; only of a new one it matters that they take it.
    pub(super) async fn make_known(&self, voice: &Voice) -> Result<(), Error> {
        let Some(made) = &self.made else {
            return Ok(());
        };
        let patience = if self.is_new { START } else { Duration::ZERO };
        let published = voice.publish_patiently(made, patience);
        match crash::around(Point::ProviderChannelSaid, published).await {
            Err(trouble) if self.is_new => Err(Error::new(
                Code::Network,
                format!("the channel can't be made known: {trouble}"),
            )),
            Err(trouble) => {
                tracing::warn!(channel = %self.channel, %trouble, "the channel was not published again");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
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

/// What is announced, again and again. One thing is said at a time, so that a withdrawal comes after
/// all that it withdraws, and nothing comes after it.
#[derive(Debug)]
pub(super) struct Announcer {
    content: ListingContent,
    every: Duration,
    said: Mutex<Said>,
}

/// What was said so far.
#[derive(Debug)]
struct Said {
    /// The time of what was said last. What is said next must be later to the second: of two listings from
    /// one second relays may keep either, and an announcement would be the same event as the one that an
    /// earlier run has deleted.
    last: UnixSecs,
    /// When the present round of announcing began, and what of it is done.
    round: Option<Instant>,
    listed: bool,
    announced: bool,
    withdrawn: bool,
}

impl Said {
    /// The time of what is said next: now, and later than all before, that of earlier runs included.
    async fn next_time(&mut self, voice: &Voice, store: &JobStore) -> Result<UnixSecs, String> {
        let now = voice.clock.now();
        self.last = match self.last.plus(1) {
            // A clock that was once far ahead must not date listings into the future for ever.
            next if next > now.plus(CLOCK_DRIFT) => now,
            next => next.max(now),
        };
        // On record before it is said: a start after a crash goes on from there.
        let remembered = store.remember_listing(voice.identity.public_key(), self.last);
        let remembered = crash::around(Point::ProviderListing, remembered);
        remembered.await.map_err(|error| error.to_string())?;
        Ok(self.last)
    }
}

impl Announcer {
    /// Announces `content` from now on. `last` is the time of what an earlier run said last.
    pub(super) fn new(content: ListingContent, every: Duration, last: UnixSecs) -> Self {
        let said = Mutex::new(Said {
            last,
            round: None,
            listed: false,
            announced: false,
            withdrawn: false,
        });
        Self {
            content,
            every,
            said,
        }
    }

    /// Announces once, by both ways. After a failure only what failed is said again, until it is time to
    /// say all, or what was said may be `forgotten`. The earlier announcement in the channel stays:
    /// customers take the latest.
    pub(super) async fn announce(
        &self,
        voice: &Voice,
        store: &JobStore,
        forgotten: bool,
    ) -> Result<(), String> {
        let mut said = self.said.lock().await;
        if said.withdrawn {
            return Ok(());
        }
        let round_is_over = said.round.is_none_or(|began| began.elapsed() >= self.every);
        if forgotten || round_is_over || (said.listed && said.announced) {
            said.round = Some(Instant::now());
            (said.listed, said.announced) = (false, false);
        }
        let at = said.next_time(voice, store).await?;
        let listed = match said.listed {
            true => Ok(()),
            false => self.list(voice, at).await,
        };
        let announced = match said.announced {
            true => Ok(()),
            false => self.say(voice, store, at).await,
        };
        (said.listed, said.announced) = (listed.is_ok(), announced.is_ok());
        listed.and(announced)
    }

    async fn list(&self, voice: &Voice, at: UnixSecs) -> Result<(), String> {
        let lives = self.every.as_secs().saturating_mul(LISTING_LIVES);
        let content = ListingContent {
            expires_at: Some(at.plus(lives)),
            ..self.content.clone()
        };
        let published = publish(voice, voice.sign_at(listing::listing(&content), at));
        crash::around(Point::ProviderListingSaid, published).await
    }

    async fn say(&self, voice: &Voice, store: &JobStore, at: UnixSecs) -> Result<(), String> {
        let Some(channel) = self.content.channel else {
            return Ok(());
        };
        let key = voice.identity.public_key();
        let announcement = listing::announcement(&self.content, key, NO_SPARK_ADDRESS);
        let message = AgentMessage::ServiceAnnouncement(announcement);
        let event = voice.broadcast_at(channel, &message, at);
        if let Ok(event) = &event {
            // On record before it is said: whatever happens, the next run can take it back.
            let remembered = store.remember_announcement(key, event.id, at, recent(at));
            let remembered = crash::around(Point::ProviderAnnouncement, remembered);
            remembered.await.map_err(|error| error.to_string())?;
        }
        crash::around(Point::ProviderAnnouncementSaid, publish(voice, event)).await
    }

    /// Takes the listing and the announcements back, for good: those of runs that were cut off, too.
    pub(super) async fn withdraw(&self, voice: &Voice, store: &JobStore) -> Result<(), String> {
        let mut said = self.said.lock().await;
        said.withdrawn = true;
        let last = said.last;
        let now = said.next_time(voice, store).await?;
        let key = voice.identity.public_key();
        let announcements = store.announcements(key, recent(now)).await;
        let announcements = announcements.map_err(|error| error.to_string())?;
        for (event, at) in listing::withdraw(key, &announcements, last.min(now), now) {
            let published = publish(voice, voice.sign_at(event, at));
            crash::around(Point::ProviderWithdrawalSaid, published).await?;
        }
        let forgotten = store.forget_announcements(key);
        let forgotten = crash::around(Point::ProviderWithdrawn, forgotten).await;
        forgotten.map_err(|error| error.to_string())
    }
}

/// Since when announcements are looked at by customers, whatever their clocks say.
const fn recent(now: UnixSecs) -> UnixSecs {
    now.minus(2 * ANNOUNCEMENT_MAX_AGE_SECS)
}

async fn publish(voice: &Voice, event: Result<Event, Unspeakable>) -> Result<(), String> {
    let event = event.map_err(|error| error.to_string())?;
    let published = voice.publish(&event).await;
    published.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_relays_has_one_name_whatever_the_order() {
        let urls = |list: &[&str]| -> Vec<RelayUrl> {
            list.iter()
                .filter_map(|url| RelayUrl::parse(url).ok())
                .collect()
        };
        let one = urls(&["wss://a.example", "ws://127.0.0.1:7000/"]);
        let other = urls(&["ws://127.0.0.1:7000", "wss://a.example/", "wss://a.example"]);
        assert_eq!(relay_set(&one), relay_set(&other));
        assert_ne!(relay_set(&one), relay_set(&one[..1]));
    }
}

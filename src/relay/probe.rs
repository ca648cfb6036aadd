//! Trying one relay: for a check-up. It is asked for something, and told something only if wanted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nostr::{Event, EventBuilder, Filter, Keys, Kind, RelayUrl, Tag};
use tokio::time::{Instant, timeout_at};

use super::pool::{PoolOptions, RelayPoolSession};
use super::transport::DatedTransport;
use super::{Incoming, Refusal, RelayError, RelaySession};
use crate::clock::Clock;

/// An ephemeral kind (NIP-01): relays pass such events on and don't keep them.
const PROBE_KIND: u16 = 29_190;

/// The most events that are kept of an answer, whatever a relay sends: one was asked for.
const MOST_EVENTS: usize = 16;

/// What to try.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What to ask for.
    pub filter: Filter,
    /// Whether to publish an event that is not kept, signed by a key that is thrown away.
    pub write: bool,
    /// The longest that each step may take: to connect and be answered, and to be told.
    pub within: Duration,
    /// What time we think it is.
    pub clock: Clock,
}

/// How a relay did.
#[derive(Clone, Debug)]
pub struct Probed {
    /// From asking to the answer, on a connection that is up.
    pub round_trip: Duration,
    /// What it had.
    pub events: Vec<Event>,
    /// Why it did not take the event; `None` if that was not tried.
    pub took: Option<Result<(), String>>,
    /// How many seconds its clock is ahead of ours, or behind if negative, if it says what time it is.
    pub ahead: Option<i64>,
}

/// Connects to a relay and tries it. Bounded by three times [`Probe::within`].
///
/// # Errors
/// Why it can't be reached or does not answer, in its words or the socket's: text from the network.
pub async fn probe(url: &RelayUrl, probe: &Probe) -> Result<Probed, String> {
    let dated = Arc::new(DatedTransport::new(probe.clock.clone()));
    let options = PoolOptions {
        connect_within: probe.within,
        clock: probe.clock.clone(),
        transport: dated.clone(),
    };
    let urls = std::slice::from_ref(url);
    let session = RelayPoolSession::connect(urls, options).map_err(|error| error.to_string())?;
    let tried = attempt(&*session, probe).await;
    session.close().await;
    let (round_trip, events, took) = tried?;
    Ok(Probed {
        round_trip,
        events,
        took,
        ahead: dated.ahead(),
    })
}

type Tried = (Duration, Vec<Event>, Option<Result<(), String>>);

async fn attempt(session: &dyn RelaySession, probe: &Probe) -> Result<Tried, String> {
    let events = ask(session, &probe.filter, probe.within).await?;
    // A second question tells the round trip alone: the first one waited for the connection.
    let begun = Instant::now();
    let nothing = Filter::new().kind(Kind::from(PROBE_KIND)).limit(1);
    ask(session, &nothing, probe.within).await?;
    let round_trip = begun.elapsed();
    let took = match probe.write {
        true => Some(tell(session, probe.within).await),
        false => None,
    };
    Ok((round_trip, events, took))
}

async fn ask(
    session: &dyn RelaySession,
    filter: &Filter,
    within: Duration,
) -> Result<Vec<Event>, String> {
    let ends = Instant::now() + within;
    let asked = session.subscribe(filter.clone(), within).await;
    let mut subscription = asked.map_err(|error| in_words(&error))?;
    let mut events = Vec::new();
    loop {
        match timeout_at(ends, subscription.next()).await {
            Ok(Some(Incoming::Event(event))) if events.len() < MOST_EVENTS => events.push(*event),
            Ok(Some(Incoming::Event(_))) => {}
            Ok(Some(Incoming::StoredDone { failed, .. })) => {
                return match failed.first() {
                    Some(Refusal { reason, .. }) => Err(reason.clone()),
                    None => Ok(events),
                };
            }
            Ok(None) => return Err("the connection was lost".to_owned()),
            Err(_) => return Err(format!("no answer within {} s", within.as_secs())),
        }
    }
}

async fn tell(session: &dyn RelaySession, within: Duration) -> Result<(), String> {
    let event = EventBuilder::new(Kind::from(PROBE_KIND), "")
        .tag(Tag::alt("a check-up: is this relay open for writing?"))
        .sign_with_keys(&Keys::generate())
        .map_err(|error| error.to_string())?;
    match session.publish(&event, within).await {
        Ok(_) => Ok(()),
        Err(error) => Err(in_words(&error)),
    }
}

/// What the only relay said.
fn in_words(error: &RelayError) -> String {
    match error {
        RelayError::NotPublished(refusals) | RelayError::Unreachable(refusals) => refusals
            .first()
            .map_or_else(|| "no answer".to_owned(), |refusal| refusal.reason.clone()),
        error => error.to_string(),
    }
}

/// Whether a relay is on this machine or in a private network, where an event for nobody bothers nobody.
#[must_use]
pub fn is_private(url: &RelayUrl) -> bool {
    let url: nostr::Url = url.clone().into();
    let Some(host) = url.host_str() else {
        return false;
    };
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => host == "localhost" || host.ends_with(".local") || !host.contains('.'),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn private_networks_are_known() {
        for (url, private) in [
            ("ws://127.0.0.1:7777", true),
            ("ws://[::1]:7777", true),
            ("ws://localhost", true),
            ("ws://relay:7777", true),
            ("ws://192.168.1.4", true),
            ("ws://10.0.0.1", true),
            ("ws://[fd00::1]", true),
            ("wss://relay.damus.io", false),
            ("ws://8.8.8.8", false),
            ("ws://[2001:db8::1]", false),
            ("wss://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_private(&RelayUrl::parse(url).unwrap()), private, "{url}");
        }
    }
}

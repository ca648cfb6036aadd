//! What a choice comes to, in words: something to take, or why there is nothing.

use std::collections::BTreeSet;

use nostr::PublicKey;

use super::{Choice, Headroom, Reason};
use crate::units::Msat;

/// What a choice comes to. The texts are for a person and may quote text from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an offer to take.
    Ok,
    /// Nothing was found, or nothing that matches what was asked.
    NoProvider(String),
    /// Something matches, and only the owner's limits rule it out.
    Budget(String),
    /// The key that was asked for fits several providers.
    Ambiguous(String),
}

impl Choice {
    /// Whether there is something to take, and if not, why: how many were left out for what, and
    /// how near the nearest came.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.ranked.is_empty() {
            return Verdict::Ok;
        }
        let has = |word: &str| self.left_out.iter().any(|(_, why)| why.as_str() == word);
        if has("ambiguous") {
            Verdict::Ambiguous(self.ambiguity())
        } else if has("budget") {
            Verdict::Budget(self.summary("none within budget"))
        } else {
            Verdict::NoProvider(self.summary("none matches"))
        }
    }

    /// `3 providers found, none matches: 2 too expensive (…), 1 without model llama3 (…)`.
    fn summary(&self, outcome: &str) -> String {
        let found = self.providers(|_| true).len();
        if found == 0 {
            return "no provider found".to_owned();
        }
        let mut words: Vec<&str> = Vec::new();
        for (_, why) in &self.left_out {
            if !words.contains(&why.as_str()) {
                words.push(why.as_str());
            }
        }
        // What came nearest to being taken first: the reasons are tested in the order of `Reason`.
        words.sort_by_key(|word| std::cmp::Reverse(rank(word)));
        let parts: Vec<String> = words.iter().map(|word| self.part(word)).collect();
        let providers = if found == 1 { "provider" } else { "providers" };
        format!("{found} {providers} found, {outcome}: {}", parts.join(", "))
    }

    /// The providers left out for one word, and the nearest miss among them.
    fn part(&self, word: &str) -> String {
        let count = self.providers(|why| why.as_str() == word).len();
        let mut of_word = self.left_out.iter().map(|(_, why)| why);
        let Some(example) = of_word.find(|why| why.as_str() == word) else {
            return String::new();
        };
        let cheapest = self.cheapest(word);
        let text = match example {
            Reason::Own => "is your own".to_owned(),
            Reason::Denied => "on the deny list".to_owned(),
            Reason::NotAllowed => "not on the allow list".to_owned(),
            Reason::Key { wanted } => format!("with a key other than {wanted}"),
            Reason::Ambiguous { wanted } => format!("fitting {wanted}"),
            Reason::Expired => "expired".to_owned(),
            Reason::Stale => "not heard of lately".to_owned(),
            Reason::Network { wanted, .. } => {
                format!("not on {wanted} ({})", self.networks())
            }
            Reason::NoChannel => "without a channel".to_owned(),
            Reason::OtherChannel => "in another channel".to_owned(),
            Reason::Model { wanted, .. } => {
                format!("without model {wanted}{}", self.nearest_model(wanted))
            }
            Reason::Feature { lacks } => format!("without {}", super::needed(*lacks)),
            Reason::Unsealed => {
                "no longer taking encrypted messages (--plaintext buys all the same)".to_owned()
            }
            Reason::Price { most, .. } => {
                format!("too expensive ({}--max-price is {most})", asking(cheapest))
            }
            Reason::Unproven { limit, .. } => format!(
                "without a good record ({}unproven_limit_sats leaves them {limit}: --htlc pays into escrow)",
                asking(cheapest)
            ),
            Reason::Budget { headroom, .. } => {
                let Headroom { most, limit } = headroom;
                format!("over budget ({}{limit} leaves {most})", asking(cheapest))
            }
        };
        format!("{count} {text}")
    }

    fn ambiguity(&self) -> String {
        let keys = self.providers(|why| !matches!(why, Reason::Key { .. } | Reason::Own));
        let keys: Vec<String> = keys.iter().map(PublicKey::to_hex).take(5).collect();
        let wanted = self.left_out.iter().find_map(|(_, why)| match why {
            Reason::Ambiguous { wanted } => Some(wanted.to_string()),
            _ => None,
        });
        format!(
            "the key {} fits several providers, give more of it: {}",
            wanted.unwrap_or_default(),
            keys.join(", ")
        )
    }

    /// The lowest known price among those left out for `word`.
    fn cheapest(&self, word: &str) -> Option<Msat> {
        let of_word = self.left_out.iter().filter(|(_, why)| why.as_str() == word);
        of_word
            .filter_map(|(_, why)| match why {
                Reason::Price { asks, .. }
                | Reason::Unproven { asks, .. }
                | Reason::Budget { asks, .. } => *asks,
                _ => None,
            })
            .min()
    }

    fn networks(&self) -> String {
        let theirs: BTreeSet<&str> = self
            .left_out
            .iter()
            .filter_map(|(_, why)| match why {
                Reason::Network { offers, .. } => Some(offers.as_str()),
                _ => None,
            })
            .collect();
        Vec::from_iter(theirs).join(", ")
    }

    /// The model most like the wanted one that a provider without it does offer.
    fn nearest_model(&self, wanted: &str) -> String {
        let offered: Vec<String> = self
            .left_out
            .iter()
            .filter_map(|(_, why)| match why {
                Reason::Model { offers, .. } => offers.clone(),
                _ => None,
            })
            .collect();
        super::nearest_model(wanted, &offered)
            .map_or_else(String::new, |model| format!(" (one offers {model})"))
    }

    /// The providers, each once, of all offers with such a reason.
    fn providers(&self, such: impl Fn(&Reason) -> bool) -> BTreeSet<PublicKey> {
        let left_out = self.left_out.iter().filter(|(_, why)| such(why));
        left_out.map(|(offer, _)| offer.provider).collect()
    }
}

fn asking(cheapest: Option<Msat>) -> String {
    cheapest.map_or_else(String::new, |price| format!("cheapest asks {price}, "))
}

/// The place of a reason in the order of testing.
fn rank(word: &str) -> usize {
    const ORDER: [&str; 16] = [
        "own",
        "key",
        "denied",
        "not_allowed",
        "expired",
        "stale",
        "network",
        "other_channel",
        "no_channel",
        "model",
        "feature",
        "unsealed",
        "price",
        "unproven",
        "budget",
        "ambiguous",
    ];
    ORDER.iter().position(|other| *other == word).unwrap_or(0)
}

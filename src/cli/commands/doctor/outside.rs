//! What is out there: relays, the provider's listing on them, and what time they say it is.

use futures_util::future::join_all;
use nostr::{Filter, Kind, PublicKey, RelayUrl};

use super::{Finding, Patient, WITHIN};
use crate::cli::commands::history::when;
use crate::clock::Clock;
use crate::error::Code;
use crate::protocol::listing::KIND_LISTING;
use crate::protocol::offer;
use crate::relay::probe::{self, Probe, Probed};
use crate::units::UnixSecs;

/// Seconds of difference that are nobody's business: a date has whole seconds, and answers take a moment.
const SMALL_SKEW: u64 = 30;

/// Seconds from which on invoices and listings are refused as being of another time.
const LARGE_SKEW: u64 = crate::wallet::invoice::MAX_CLOCK_SKEW_SECS;

/// What a relay that was asked said.
pub(super) type Asked = (RelayUrl, Result<Probed, String>);

/// Asks every relay at once: for the provider's own listing, or for one of anybody's.
pub(super) async fn ask(patient: &Patient, key: Option<PublicKey>) -> Vec<Asked> {
    let mut filter = Filter::new().kind(Kind::from(KIND_LISTING)).limit(1);
    if let (true, Some(key)) = (patient.is_provider(), key) {
        filter = filter.author(key);
    }
    let asking = patient.settings.relays.iter().map(|url| {
        let probe = Probe {
            filter: filter.clone(),
            write: patient.writes || probe::is_private(url),
            within: WITHIN,
            clock: Clock::system(),
        };
        async move { (url.clone(), probe::probe(url, &probe).await) }
    });
    join_all(asking).await
}

/// One finding for each relay, and for a provider one for its listing.
pub(super) fn tell(
    patient: &Patient,
    asked: &[Asked],
    key: Option<PublicKey>,
    selling: bool,
) -> Vec<Finding> {
    let is_well = |(_, outcome): &Asked| match outcome {
        Ok(probed) => !matches!(probed.took, Some(Err(_))),
        Err(_) => false,
    };
    let any = asked.iter().any(is_well);
    let mut findings: Vec<Finding> = asked
        .iter()
        .map(|(url, outcome)| relay(patient, url, outcome, any))
        .collect();
    if let (true, Some(key)) = (patient.is_provider(), key) {
        findings.extend(listing(patient, asked, key, selling));
    }
    findings
}

fn relay(
    patient: &Patient,
    url: &RelayUrl,
    outcome: &Result<Probed, String>,
    others: bool,
) -> Finding {
    let wrong = match outcome {
        Ok(Probed {
            round_trip, took, ..
        }) => {
            let millis = round_trip.as_millis();
            match took {
                Some(Ok(())) => {
                    let message = format!("answers in {millis} ms and takes events");
                    return Finding::ok("relay", url, message);
                }
                None => {
                    let message =
                        format!("answers in {millis} ms; not written to (--write tries that too)");
                    return Finding::ok("relay", url, message);
                }
                Some(Err(why)) => {
                    format!("answers in {millis} ms and takes no events: {why}")
                }
            }
        }
        Err(why) => format!("can't be used: {why}"),
    };
    let configured = patient.settings.config.relays.contains(url);
    let fix = if configured {
        patient.edit()
    } else {
        patient.command("--relay wss://ANOTHER doctor")
    };
    let finding = if others {
        Finding::warning("relay", url, format!("{wrong} (others do)"))
    } else {
        Finding::problem("relay", url, Code::Network, wrong)
    };
    finding.fix(fix)
}

/// Where a provider is listed, held against whether it sells.
fn listing(patient: &Patient, asked: &[Asked], key: PublicKey, selling: bool) -> Option<Finding> {
    let answered: Vec<&Probed> = asked
        .iter()
        .filter_map(|(_, outcome)| outcome.as_ref().ok())
        .collect();
    if answered.is_empty() {
        return None;
    }
    let shows = |probed: &&&Probed| {
        let mut events = probed.events.iter();
        events.any(|event| event.pubkey == key && offer::from_listing(event).is_ok())
    };
    let (shown, of) = (answered.iter().filter(shows).count(), answered.len());
    let subject = super::named(key);
    let on = format!("on {shown} of the {of} relays that answer");
    Some(match (selling, shown) {
        (true, 0) => Finding::problem(
            "listing",
            subject,
            Code::Network,
            "a provider sells from this home, and no relay shows its listing",
        )
        .fix(patient.command("--create-channel --relay wss://ANOTHER")),
        (true, shown) if shown < of => {
            Finding::warning("listing", subject, format!("visible {on} only"))
                .fix(patient.command("--create-channel --relay wss://ANOTHER"))
        }
        (true, _) => Finding::ok("listing", subject, format!("visible {on}")),
        (false, 0) => Finding::ok(
            "listing",
            subject,
            "not listed, and nobody sells from this home",
        ),
        (false, _) => Finding::warning(
            "listing",
            subject,
            format!("visible {on}, and nobody sells from this home: customers ask in vain"),
        )
        .fix(patient.command("--create-channel")),
    })
}

/// Whether the clock is right, by what relays say in HTTP's `Date`, and by the ledger, which was never
/// written later than now.
pub(super) fn clock(asked: &[Asked], ledger: Option<UnixSecs>) -> Finding {
    let now = Clock::system().now();
    let ahead: Vec<i64> = asked
        .iter()
        .filter_map(|(_, outcome)| outcome.as_ref().ok()?.ahead)
        .collect();
    judge_clock(now, ahead, ledger)
}

fn judge_clock(now: UnixSecs, mut ahead: Vec<i64>, ledger: Option<UnixSecs>) -> Finding {
    const MENDS: &str = "timedatectl set-ntp true";
    let subject = when(now);
    ahead.sort_unstable();
    let median = ahead.get(ahead.len() / 2).copied();
    let relays = match ahead.len() {
        1 => "1 relay".to_owned(),
        count => format!("{count} relays"),
    };
    if let Some(skew) = median.filter(|skew| skew.unsigned_abs() > SMALL_SKEW) {
        let off = skew.unsigned_abs();
        let how = if skew > 0 { "behind" } else { "ahead" };
        let message = format!("{off} s {how} of what {relays} said");
        let finding = if off > LARGE_SKEW && ahead.len() > 1 {
            let message = format!("{message}: invoices and listings are refused");
            Finding::problem("clock", subject, Code::BadInvoice, message)
        } else {
            Finding::warning("clock", subject, message)
        };
        return finding.fix(MENDS);
    }
    if let Some(ledger) = ledger.filter(|at| *at > now.plus(SMALL_SKEW)) {
        let message = format!(
            "the ledger was written at {}: the clock ran ahead then, or is behind now. Until that time \
             comes, the limits of that day count",
            when(ledger)
        );
        return Finding::warning("clock", subject, message).fix(MENDS);
    }
    match median {
        Some(skew) => {
            let message = format!("within {} s of what {relays} said", skew.unsigned_abs());
            Finding::ok("clock", subject, message)
        }
        None => Finding::ok("clock", subject, "no relay said what time it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_relay_in_the_middle_and_by_the_ledger() {
        let now = UnixSecs::new(1_000_000);
        let judged = |ahead: &[i64], ledger: Option<u64>| {
            judge_clock(now, ahead.to_vec(), ledger.map(UnixSecs::new)).status
        };
        assert_eq!(judged(&[], None), Status::Ok);
        assert_eq!(judged(&[1, -2, 0], Some(999_999)), Status::Ok);
        // One relay that is wrong is not our fault.
        assert_eq!(judged(&[90_000, 0, 1], None), Status::Ok);
        assert_eq!(judged(&[-31], None), Status::Warning);
        assert_eq!(judged(&[90_000], None), Status::Warning, "it or we");
        assert_eq!(judged(&[90_000, 90_001], None), Status::Problem);
        assert_eq!(judged(&[i64::MIN, i64::MIN], None), Status::Problem);
        assert_eq!(judged(&[0], Some(1_000_031)), Status::Warning);
        assert_eq!(judged(&[0], Some(1_000_030)), Status::Ok);
    }
}

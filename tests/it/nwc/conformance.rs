//! The suite that every wallet must pass, over the wire.

use std::sync::Arc;
use std::time::Duration;

use agent_compute::units::Msat;
use agent_compute::wallet::Wallet;
use agent_compute::wallet::conformance::{Harness, Lost, Outcome, Report, run};
use agent_compute::wallet::nwc::{NwcOptions, NwcWallet};
use agent_compute::wallet::sim::audit;
use async_trait::async_trait;
use nostr::Keys;

use super::service::{Options, Service, Twist};
use super::{Place, open, open_with, options};

struct Pair {
    place: Place,
    payer: NwcWallet,
    payee: NwcWallet,
    losing: [NwcWallet; 2],
    _services: Vec<Service>,
}

impl Pair {
    async fn of(place: Place, how: impl Fn() -> Options) -> Self {
        let payer = place.account(&Keys::generate());
        let payee = place.account(&Keys::generate());
        let mut services = Vec::new();
        let mut wallets = Vec::new();
        for wallet in [&payer, &payee] {
            let service = place.service(wallet, how()).await;
            wallets.push(open(&service).await);
            services.push(service);
        }
        let mut losing = Vec::new();
        for lost in [Twist::Unheard, Twist::Unanswered] {
            // From the order to pay on, nothing comes through.
            let mut silent = false;
            let script = move |method: &str, _: &serde_json::Value| {
                let first = !silent && method == "pay_invoice";
                silent |= first;
                match (first, silent) {
                    (true, _) => Some(lost.clone()),
                    (false, true) => Some(Twist::Unheard),
                    _ => None,
                }
            };
            let options_ = Options {
                script: Box::new(script),
                ..how()
            };
            let service = services[0].beside(&[&place.url], options_).await;
            let impatient = NwcOptions {
                answer_within: Duration::from_secs(2),
                pay_within: Duration::from_secs(2),
                ..options()
            };
            losing.push(open_with(&service.uri, impatient).await.unwrap());
            services.push(service);
        }
        Self {
            place,
            payer: wallets[0].clone(),
            payee: wallets[1].clone(),
            losing: losing.try_into().unwrap(),
            _services: services,
        }
    }
}

#[async_trait]
impl Harness for Pair {
    fn payer(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payer.clone())
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        Arc::new(self.payee.clone())
    }

    async fn pass_time(&self, secs: u64) -> bool {
        // Well past it: heights are coarser than seconds.
        let clock = &self.place.clock;
        clock.set(clock.now().plus(secs + 1_200));
        true
    }

    fn losing(&self, lost: Lost) -> Option<Arc<dyn Wallet>> {
        let [request, answer] = &self.losing;
        Some(Arc::new(match lost {
            Lost::Request => request.clone(),
            Lost::Answer => answer.clone(),
        }))
    }

    fn max_fee(&self) -> Msat {
        Msat::new(10_000)
    }
}

/// Every case passed, but for those that may not apply.
fn assert_passed(report: &Report, but: &[&str]) {
    for case in &report.cases {
        if but.contains(&case.name) {
            assert!(
                matches!(case.outcome, Outcome::NotApplicable(_)),
                "{case:?}"
            );
        } else {
            assert_eq!(case.outcome, Outcome::Passed, "\n{report}");
        }
    }
}

/// NIP-47 has no fee quote, and cancels hold invoices only.
const NOT_HERE: [&str; 2] = [
    "a cancelled invoice is a proven failure",
    "a fee above the cap is a proven failure",
];

#[tokio::test]
async fn a_wallet_with_holds_keeps_every_promise() {
    let pair = Pair::of(Place::new().await, Options::default).await;
    let report = run(&pair).await;
    assert_passed(
        &report,
        &[&NOT_HERE[..], &["a wallet without hold invoices says so"]].concat(),
    );
    assert!(audit(&pair.place.bank).unwrap().is_balanced());
}

#[tokio::test]
async fn an_old_wallet_without_holds_keeps_the_others() {
    let old = || Options {
        nip44: false,
        news: false,
        ..Options::plain()
    };
    let pair = Pair::of(Place::new().await, old).await;
    let report = run(&pair).await;
    let holds = report.cases.iter().map(|case| case.name).filter(|name| {
        name.contains("hold") && !name.contains("without")
            || name.contains("preimage settles")
            || name.contains("settling twice")
    });
    let mut but: Vec<&str> = holds.collect();
    but.extend(NOT_HERE);
    but.push("a change wakes who waits for one");
    assert_passed(&report, &but);
    assert!(audit(&pair.place.bank).unwrap().is_balanced());
}

//! When look-ups prove that a payment did not happen.
//!
//! One look-up that says "failed" may have come too early, and one that says "no such payment" may be a wallet
//! that forgets. So each is counted, in a row, and whatever else is heard begins anew.

use serde::{Deserialize, Serialize};

use crate::ids::Preimage;
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing};

/// What look-ups in a row have said towards a proof of failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// So many said "failed".
    #[serde(default)]
    pub failed: u32,
    /// So many said "no such payment", long after it could still have happened.
    #[serde(default)]
    pub missing: u32,
}

/// What a look-up settles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The payee has the money.
    Paid {
        preimage: Option<Preimage>,
        fee: Msat,
    },
    /// Seen alive: nothing that was counted before counts any more.
    InFlight,
    /// Proven: it did not happen and will not.
    Failed(FailureProof),
    /// Nearer to a proof, and why.
    Nearer(Doubt, String),
    /// Nothing new.
    Nothing,
}

impl Doubt {
    /// Whether anything counts towards a proof.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.failed > 0 || self.missing > 0
    }

    /// What one more look-up settles. The word of an `authoritative` wallet is a proof by itself; that of any
    /// other is one when it says so twice, and "no such payment" only when the payment has `ended_long_ago`.
    pub(super) fn hear(
        self,
        found: Outgoing,
        authoritative: bool,
        ended_long_ago: bool,
    ) -> Verdict {
        match found {
            Outgoing::Paid { preimage, fee } => Verdict::Paid { preimage, fee },
            Outgoing::InFlight => Verdict::InFlight,
            Outgoing::Failed(proof) if authoritative || self.failed >= 1 => Verdict::Failed(proof),
            Outgoing::Failed(proof) => {
                let doubt = Self {
                    failed: self.failed + 1,
                    missing: 0,
                };
                Verdict::Nearer(doubt, proof.reason)
            }
            Outgoing::NotFound if authoritative => {
                Verdict::Failed(FailureProof::new("the wallet never made this payment"))
            }
            Outgoing::NotFound if !ended_long_ago => Verdict::Nothing,
            Outgoing::NotFound if self.missing >= 1 => Verdict::Failed(FailureProof::new(
                "the wallet knows no such payment, long after it could still have been made",
            )),
            Outgoing::NotFound => {
                let doubt = Self {
                    failed: 0,
                    missing: self.missing + 1,
                };
                Verdict::Nearer(doubt, "the wallet knows no such payment".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outgoing {
        Outgoing::Failed(FailureProof::new("no route"))
    }

    /// What a row of look-ups comes to: the verdict on the last.
    fn row(found: &[Outgoing], authoritative: bool, ended: bool) -> Verdict {
        let mut doubt = Doubt::default();
        let mut last = Verdict::Nothing;
        for found in found {
            last = doubt.hear(found.clone(), authoritative, ended);
            match &last {
                Verdict::Nearer(nearer, _) => doubt = *nearer,
                Verdict::Nothing => {}
                _ => doubt = Doubt::default(),
            }
        }
        last
    }

    fn is_proof(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Failed(_))
    }

    #[test]
    fn a_wallet_that_knows_is_believed_at_once_and_any_other_when_it_says_so_twice_in_a_row() {
        for ended in [false, true] {
            assert!(is_proof(&row(&[failed()], true, ended)));
            assert!(!is_proof(&row(&[failed()], false, ended)));
            assert!(is_proof(&row(&[failed(), failed()], false, ended)));
            let between = [failed(), Outgoing::InFlight, failed()];
            assert!(!is_proof(&row(&between, false, ended)));
        }
    }

    #[test]
    fn no_such_payment_proves_something_only_long_after_and_twice() {
        let missing = || Outgoing::NotFound;
        assert!(is_proof(&row(&[missing()], true, false)));
        assert_eq!(row(&[missing(), missing()], false, false), Verdict::Nothing);
        assert!(!is_proof(&row(&[missing()], false, true)));
        assert!(is_proof(&row(&[missing(), missing()], false, true)));
        let between = [missing(), failed(), missing()];
        assert!(!is_proof(&row(&between, false, true)));
        let between = [failed(), missing(), failed()];
        assert!(!is_proof(&row(&between, false, true)));
    }

    #[test]
    fn what_is_alive_or_paid_is_so_whatever_was_counted() {
        let paid = Outgoing::Paid {
            preimage: None,
            fee: Msat::new(1),
        };
        let doubt = Doubt {
            failed: 1,
            missing: 1,
        };
        assert_eq!(
            doubt.hear(paid, false, true),
            Verdict::Paid {
                preimage: None,
                fee: Msat::new(1)
            }
        );
        let alive = doubt.hear(Outgoing::InFlight, true, true);
        assert_eq!(alive, Verdict::InFlight);
    }
}

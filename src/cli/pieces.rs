//! The pieces of a result, as they are printed.
//!
//! What is in a pipe can't be taken back: there, pieces wait for the whole text if their order is not certain,
//! or if another provider may yet be asked instead of the one that they come from. A person is better served by
//! seeing them come.

use super::output::Output;
use crate::client::{PurchaseEvent, Receipt};
use crate::error::{Code, Error, Result};

/// What has come of a result so far.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// What is printed.
    shown: String,
    /// What waits; all that comes after it waits too.
    held: String,
    /// Another provider may be asked in place of this one.
    replaceable: bool,
    /// The order of what waits is not certain.
    unordered: bool,
}

impl Pieces {
    /// Looks at one event of the purchase.
    pub(super) fn see(&mut self, event: &PurchaseEvent, out: &Output) {
        match event {
            PurchaseEvent::Selected { others, .. } => self.replaceable = *others > 0,
            // Nobody is paid in its place any more, or nobody is paid at all.
            PurchaseEvent::Paid { .. }
            | PurchaseEvent::Quoted {
                payment_hash: None, ..
            } => {
                self.replaceable = false;
                if !self.unordered {
                    let held = std::mem::take(&mut self.held);
                    self.show(&held, out);
                }
            }
            PurchaseEvent::Chunk { text, in_order, .. } => {
                let waits = self.replaceable || !in_order || !self.held.is_empty();
                if out.is_watched() || !waits {
                    self.show(text, out);
                } else {
                    self.unordered |= !in_order;
                    self.held.push_str(text);
                }
            }
            PurchaseEvent::FailedOver { .. } => {
                if !self.shown.is_empty() {
                    out.end_text();
                    out.note(
                        "the text above came from a provider that failed; another begins anew",
                    );
                }
                *self = Self::default();
            }
            _ => {}
        }
    }

    /// Prints what the pieces left of the result, so that every part of it is printed once; or, where there is
    /// none, what came of it.
    ///
    /// # Errors
    /// [`Code::Undelivered`] where another text than the result is in a pipe already.
    pub(super) fn end(&self, receipt: Option<&Receipt>, out: &Output) -> Result<()> {
        let Some(receipt) = receipt else {
            // There is no better text to come in this process.
            out.text(&self.held);
            return Ok(());
        };
        match receipt.text.strip_prefix(&self.shown) {
            Some(rest) => out.text(rest),
            // Pieces without numbers came in another order than they were sent, or two things were said of one
            // that has a number.
            None if out.is_watched() || out.is_json() => {
                out.end_text();
                out.note("the pieces were not the result; this is the whole text:");
                out.text(&receipt.text);
            }
            None => return Err(another_text(receipt)),
        }
        out.end_text();
        out.object(&PurchaseEvent::Result(receipt.clone()));
        Ok(())
    }

    fn show(&mut self, text: &str, out: &Output) {
        if !text.is_empty() {
            out.clear_status();
            out.text(text);
            self.shown.push_str(text);
        }
    }
}

/// Whoever reads the pipe must not take what is in it for the result.
fn another_text(receipt: &Receipt) -> Error {
    let id = receipt.purchase_id;
    let message = format!(
        "what was printed is not the result: the provider streamed one text and delivered another; {} were paid. `agent-customer show {id}` prints the result",
        receipt.paid_msat
    );
    Error::new(Code::Undelivered, message)
        .of(id)
        .with_money(receipt.paid_msat, receipt.reserved_msat)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ids::PurchaseId;
    use crate::units::Msat;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn id() -> PurchaseId {
        PurchaseId::from_bytes([1; 16])
    }

    fn selected(others: usize) -> PurchaseEvent {
        PurchaseEvent::Selected {
            purchase_id: Some(id()),
            provider: "ab".repeat(32),
            price_msat: None,
            others,
        }
    }

    fn chunk(text: &str, in_order: bool) -> PurchaseEvent {
        PurchaseEvent::Chunk {
            purchase_id: id(),
            seq: 0,
            text: text.to_owned(),
            in_order,
        }
    }

    fn paid() -> PurchaseEvent {
        PurchaseEvent::Paid {
            purchase_id: id(),
            price_msat: Msat::new(1),
            fee_msat: Msat::ZERO,
        }
    }

    fn failed_over() -> PurchaseEvent {
        PurchaseEvent::FailedOver {
            purchase_id: id(),
            provider: "ab".repeat(32),
            code: Code::Undelivered,
            message: "no result".to_owned(),
            next_provider: "cd".repeat(32),
        }
    }

    fn receipt(text: &str) -> Receipt {
        Receipt {
            purchase_id: id(),
            text: text.to_owned(),
            provider: "cd".repeat(32),
            model: None,
            price_msat: Msat::new(1),
            fee_msat: Msat::ZERO,
            paid_msat: Msat::new(1),
            reserved_msat: Msat::ZERO,
            payment_hash: None,
            preimage: None,
            elapsed_ms: 1,
        }
    }

    /// What is printed before the end, after it, and said beside it.
    fn printed(watched: bool, events: &[PurchaseEvent], text: Option<&str>) -> [String; 3] {
        let (data, notes) = (Page::default(), Page::default());
        let out = Output::to(
            false,
            false,
            Box::new(data.clone()),
            Box::new(notes.clone()),
        );
        let out = out.with_reader(watched);
        let mut pieces = Pieces::default();
        for event in events {
            pieces.see(event, &out);
        }
        let before = data.read();
        let ended = pieces.end(text.map(receipt).as_ref(), &out);
        assert!(ended.is_ok(), "{ended:?}");
        [before, data.read(), notes.read()]
    }

    #[test]
    fn text_goes_into_a_pipe_as_it_comes_once_nobody_can_take_its_providers_place() {
        let pieces = [selected(0), chunk("Pa", true), chunk("ris", true)];
        let alone = printed(false, &pieces, Some("Paris"));
        assert_eq!(alone, ["Paris", "Paris\n", ""]);

        let pieces = [selected(1), chunk("Pa", true), paid(), chunk("ris", true)];
        let committed = printed(false, &pieces[..3], Some("Paris"));
        assert_eq!(committed, ["Pa", "Paris\n", ""]);
        assert_eq!(
            printed(false, &pieces[..2], Some("Paris"))[..2],
            ["", "Paris\n"]
        );
        assert_eq!(printed(false, &pieces, Some("Paris"))[0], "Paris");
    }

    #[test]
    fn what_a_failed_provider_sent_never_reaches_a_pipe_and_a_person_is_told() {
        let events = [
            selected(1),
            chunk("Lon", true),
            failed_over(),
            selected(0),
            chunk("Pa", true),
        ];
        assert_eq!(
            printed(false, &events, Some("Paris")),
            ["Pa", "Paris\n", ""]
        );
        let [_, text, notes] = printed(true, &events, Some("Paris"));
        assert_eq!(text, "Lon\nParis\n");
        assert!(
            notes.contains("came from a provider that failed"),
            "{notes}"
        );
    }

    #[test]
    fn pieces_without_an_order_wait_for_the_whole_text_even_when_paid() {
        let events = [selected(1), chunk("ris", false), paid(), chunk("Pa", true)];
        assert_eq!(printed(false, &events, Some("Paris")), ["", "Paris\n", ""]);
        assert_eq!(
            printed(false, &events, None)[1],
            "risPa",
            "nothing better comes"
        );
    }

    #[test]
    fn another_text_than_the_result_in_a_pipe_is_an_error_and_a_person_sees_both() {
        let events = [selected(0), paid(), chunk("Lon", true)];
        let (data, notes) = (Page::default(), Page::default());
        let out = Output::to(false, false, Box::new(data), Box::new(notes)).with_reader(false);
        let mut pieces = Pieces::default();
        for event in &events {
            pieces.see(event, &out);
        }
        let error = pieces.end(Some(&receipt("Paris")), &out).unwrap_err();
        assert_eq!(error.code(), Code::Undelivered);
        assert_eq!(error.paid_msat(), Msat::new(1));
        assert!(
            error.message().contains(&format!("show {}", id())),
            "{error}"
        );

        let [_, text, notes] = printed(true, &events, Some("Paris"));
        assert_eq!(text, "Lon\nParis\n");
        assert!(notes.contains("not the result"), "{notes}");
    }
}

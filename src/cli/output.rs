//! What the programs print.
//!
//! stdout is data only: result text, or with `--json` compact JSON, one object a line, each with
//! `"v":1`. Everything else (progress, notes, errors for people) goes to stderr. Text for people is
//! cleaned of what a terminal would obey (see [`super::text`]), wherever stdout leads: pipes end in
//! terminals too. JSON is exact.
//!
//! A reader that goes away (`| head -1`) is not an error: the rest is dropped, and the work goes on,
//! because money may be on its way.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::text::{Cleaner, clean, cut, entry};
use crate::error::{Code, Error, Result};
use crate::ids::PurchaseId;
use crate::units::Msat;

/// Characters of an error's message that are shown to people. JSON has all of it.
const LONGEST_MESSAGE: usize = 2000;

/// The version of every line of JSON.
const LINE_VERSION: u8 = 1;

/// Where a program prints. Shared by reference; every method may be called from any task.
pub struct Output {
    json: bool,
    streams: Mutex<Streams>,
    /// Whether progress may be drawn: stderr is a terminal.
    draws: bool,
    /// Whether stdout is a terminal: somebody reads what comes, as it comes.
    watched: bool,
    /// The program that advice names.
    program: &'static str,
    /// Whether errors come with advice on what to do next.
    advises: AtomicBool,
}

struct Streams {
    data: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    cleaner: Cleaner,
    /// Whether what was last written as text is in the middle of a line.
    mid_line: bool,
    /// Why writing data stopped, if it did.
    failed: Option<io::ErrorKind>,
    bar: Option<ProgressBar>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish()
    }
}

/// A line that says what happened: `{"v":1,"event":…,…}`.
#[derive(Serialize)]
struct EventLine<'a, T: Serialize> {
    v: u8,
    event: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// A line that says what is: `{"v":1,…}`.
#[derive(Serialize)]
struct ObjectLine<'a, T: Serialize> {
    v: u8,
    #[serde(flatten)]
    body: &'a T,
}

/// The body of the `error` event.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: Code,
    message: &'a str,
    retryable: bool,
    paid_msat: Msat,
    reserved_msat: Msat,
    purchase_id: Option<PurchaseId>,
}

impl Output {
    /// The output of this process.
    #[must_use]
    pub fn of_process(json: bool) -> Self {
        let draws = io::stderr().is_terminal();
        Self {
            watched: io::stdout().is_terminal(),
            ..Self::to(json, draws, Box::new(io::stdout()), Box::new(io::stderr()))
        }
    }

    /// An output that writes elsewhere: for tests.
    #[must_use]
    pub fn to(
        json: bool,
        draws: bool,
        data: Box<dyn Write + Send>,
        notes: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            json,
            draws,
            watched: false,
            program: "agent-customer",
            advises: AtomicBool::new(true),
            streams: Mutex::new(Streams {
                data,
                notes,
                cleaner: Cleaner::default(),
                mid_line: false,
                failed: None,
                bar: None,
            }),
        }
    }

    /// The same output, as if a person read stdout, or nobody did: for tests.
    #[cfg(test)]
    pub(super) const fn with_reader(mut self, watched: bool) -> Self {
        self.watched = watched;
        self
    }

    /// The same output, of this program: it is the one that advice names.
    #[must_use]
    pub fn of_program(mut self, name: &'static str) -> Self {
        self.program = name;
        self
    }

    /// No advice with the error that this command may end with: its output says what to do.
    pub fn without_advice(&self) {
        self.advises.store(false, Ordering::Relaxed);
    }

    /// Whether stdout is JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person reads stdout as it comes: it is a terminal, and not JSON.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.watched && !self.json
    }

    /// With `--json`, a line `{"v":1,"event":NAME,…}`; otherwise nothing. `body` is a struct or a map.
    pub fn event(&self, name: &str, body: &impl Serialize) {
        self.json_line(&EventLine {
            v: LINE_VERSION,
            event: name,
            body,
        });
    }

    /// With `--json`, a line `{"v":1,…}`; otherwise nothing. `body` is a struct or a map.
    pub fn object(&self, body: &impl Serialize) {
        self.json_line(&ObjectLine {
            v: LINE_VERSION,
            body,
        });
    }

    /// Without `--json`, a piece of text, as it comes; otherwise nothing. Text from the network is safe here.
    pub fn text(&self, piece: &str) {
        if self.json {
            return;
        }
        let mut streams = self.streams();
        let piece = streams.cleaner.clean(piece);
        if let Some(last) = piece.chars().last() {
            streams.mid_line = last != '\n';
            streams.write_data(piece.as_bytes());
        }
    }

    /// Ends what [`text`](Self::text) has written, with a newline unless there is one.
    pub fn end_text(&self) {
        let mut streams = self.streams();
        streams.cleaner = Cleaner::default();
        if std::mem::take(&mut streams.mid_line) {
            streams.write_data(b"\n");
        }
    }

    /// Without `--json`, a line of text; otherwise nothing.
    pub fn line(&self, text: &str) {
        self.text(text);
        if !self.json {
            self.text("\n");
        }
    }

    /// Data as it is, with or without `--json`: a shell script, a man page.
    pub fn raw(&self, bytes: &[u8]) {
        self.streams().write_data(bytes);
    }

    /// A line for the person at the terminal, on stderr.
    pub fn note(&self, text: &str) {
        let line = clean(text);
        self.streams().write_note(&line);
    }

    /// A picture for the person at the terminal, on stderr, as it is: it may hold colours, and nothing of a
    /// stranger's. Nothing unless stdout and stderr are both terminals.
    pub fn picture(&self, drawn: &str) {
        if self.is_watched() && self.draws {
            self.streams().write_note(drawn);
        }
    }

    /// Shows what is being waited for, on stderr, if that is a terminal. Replaces what was shown.
    pub fn status(&self, text: &str) {
        if !self.draws {
            return;
        }
        let message = super::text::one_line(text, 200);
        let mut streams = self.streams();
        if let Some(bar) = &streams.bar {
            bar.set_message(message);
            return;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(100));
        streams.bar = Some(bar);
    }

    /// Takes away what [`status`](Self::status) shows.
    pub fn clear_status(&self) {
        if let Some(bar) = self.streams().bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Says how the program ends, and gives its exit code: with `--json` a failure is an `error` line,
    /// otherwise some lines on stderr.
    pub fn end(&self, result: &Result<()>) -> ExitCode {
        self.clear_status();
        self.end_text();
        if let Err(error) = result {
            self.error(error);
        }
        let lost = self.streams().failed;
        let code = match (result, lost) {
            (Err(error), _) => error.code().exit_code(),
            (Ok(()), None | Some(io::ErrorKind::BrokenPipe)) => 0,
            (Ok(()), Some(why)) => {
                self.note(&format!("error: the output could not be written: {why}"));
                Code::Internal.exit_code()
            }
        };
        ExitCode::from(code)
    }

    fn error(&self, error: &Error) {
        if self.json {
            return self.event(
                "error",
                &ErrorBody {
                    code: error.code(),
                    message: error.message(),
                    retryable: error.is_retryable(),
                    paid_msat: error.paid_msat(),
                    reserved_msat: error.reserved_msat(),
                    purchase_id: error.purchase(),
                },
            );
        }
        // Some quote strangers at length.
        let message = cut(error.message(), LONGEST_MESSAGE);
        self.note(&entry(&format!("error: {message}")));
        if let Some(money) = where_the_money_is(error) {
            self.note(&money);
        }
        let advises = self.advises.load(Ordering::Relaxed);
        if let Some(next) = what_to_do_next(error, self.program).filter(|_| advises) {
            self.note(&next);
        }
    }

    fn json_line(&self, line: &impl Serialize) {
        if !self.json {
            return;
        }
        let mut streams = self.streams();
        match serde_json::to_vec(line) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                streams.write_data(&bytes);
            }
            Err(error) => {
                streams.failed = Some(io::ErrorKind::InvalidData);
                streams.write_note(&format!("a line of output could not be written: {error}"));
            }
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn write_data(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let data = &mut self.data;
        let mut write = || data.write_all(bytes).and_then(|()| data.flush());
        let written = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        self.failed = written.err().map(|error| error.kind());
    }

    fn write_note(&mut self, line: &str) {
        let notes = &mut self.notes;
        let mut write = || writeln!(notes, "{line}").and_then(|()| notes.flush());
        // There is nobody left to tell if this fails.
        let _ = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }
}

/// What became of the money, unless the message says it.
fn where_the_money_is(error: &Error) -> Option<String> {
    let (paid, reserved) = (error.paid_msat(), error.reserved_msat());
    if paid.is_zero() && reserved.is_zero() {
        let told = error.message().contains("nothing was paid");
        let purchase = error.purchase().filter(|_| !told);
        return purchase.map(|_| "Nothing was paid.".to_owned());
    }
    let paid = (!paid.is_zero()).then(|| format!("Paid: {paid}."));
    let reserved = (!reserved.is_zero()).then(|| format!("Still set aside: {reserved}."));
    let said: Vec<String> = paid.into_iter().chain(reserved).collect();
    Some(said.join(" "))
}

/// What to do next, unless the message says it.
fn what_to_do_next(error: &Error, program: &str) -> Option<String> {
    let advice = match error.code() {
        Code::PaymentUnknown => {
            "`agent-customer recover` asks the wallet again; the money stays set aside until then."
        }
        // The money is back: nothing is owed, and nothing comes.
        Code::Undelivered if error.paid_msat().is_zero() && error.reserved_msat().is_zero() => {
            return None;
        }
        Code::Undelivered => "`agent-customer recover` fetches the result if it comes late.",
        Code::Interrupted if error.purchase().is_some() => {
            "`agent-customer recover` settles what was left open."
        }
        Code::NoProvider => {
            "`agent-customer providers` lists who can be found, and why each is left out."
        }
        Code::BadInvoice => {
            "Another provider may do: [policy] deny keeps this one out, --select names one."
        }
        Code::Network | Code::Wallet | Code::Ledger => {
            let advice = format!("`{program} doctor` looks for the cause, and says what mends it.");
            return Some(advice);
        }
        Code::Internal => "This is a bug. Please report it with the lines above.",
        _ => return None,
    };
    let told = advice.contains("recover`") && error.message().contains("agent-customer recover");
    (!told).then(|| advice.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(json: bool) -> (Output, Page, Page) {
        let (data, notes) = (Page::default(), Page::default());
        let out = Output::to(json, false, Box::new(data.clone()), Box::new(notes.clone()));
        (out, data, notes)
    }

    #[derive(Serialize)]
    struct Chunk<'a> {
        seq: u32,
        text: &'a str,
    }

    #[test]
    fn json_is_compact_versioned_and_exact() {
        let (out, data, notes) = output(true);
        out.event(
            "chunk",
            &Chunk {
                seq: 0,
                text: "a\x1b[31m\u{202e}",
            },
        );
        out.object(&Chunk { seq: 1, text: "" });
        out.text("not this");
        out.line("nor this");
        out.end_text();
        assert_eq!(
            data.read(),
            "{\"v\":1,\"event\":\"chunk\",\"seq\":0,\"text\":\"a\\u001b[31m\u{202e}\"}\n\
             {\"v\":1,\"seq\":1,\"text\":\"\"}\n"
        );
        assert_eq!(notes.read(), "");
    }

    #[test]
    fn text_is_clean_and_ends_in_one_newline() {
        let (out, data, _) = output(false);
        out.event("chunk", &Chunk { seq: 0, text: "no" });
        for piece in ["Pa\x1b", "[31m", "ris"] {
            out.text(piece);
        }
        out.end_text();
        out.text("ends itself\n");
        out.end_text();
        assert_eq!(data.read(), "Paris\nends itself\n");
    }

    #[test]
    fn an_error_is_a_line_with_where_the_money_is() {
        let purchase = PurchaseId::from_bytes([1; 16]);
        let error = Error::new(Code::PaymentUnknown, "the wallet \u{7}did not say")
            .of(purchase)
            .with_money(Msat::ZERO, Msat::new(20_000));

        let (out, data, _) = output(true);
        assert_eq!(out.end(&Err(error.clone())), ExitCode::from(6));
        assert_eq!(
            data.read(),
            format!(
                "{{\"v\":1,\"event\":\"error\",\"code\":\"payment_unknown\",\
                 \"message\":\"the wallet \\u0007did not say\",\"retryable\":false,\
                 \"paid_msat\":0,\"reserved_msat\":20000,\"purchase_id\":\"{purchase}\"}}\n"
            )
        );

        let (out, data, notes) = output(false);
        assert_eq!(out.end(&Err(error)), ExitCode::from(6));
        assert_eq!(data.read(), "");
        assert!(notes.read().starts_with("error: the wallet did not say\n"));
        assert!(notes.read().contains("Still set aside: 20 sats."));
        assert!(notes.read().contains("recover"));
    }

    #[test]
    fn a_reader_that_left_is_no_error_and_a_full_disk_is() {
        for (kind, code) in [
            (io::ErrorKind::BrokenPipe, 0),
            (io::ErrorKind::StorageFull, 1),
        ] {
            let out = Output::to(
                false,
                false,
                Box::new(Broken(kind)),
                Box::new(Page::default()),
            );
            out.line("one");
            out.line("two");
            assert_eq!(out.end(&Ok(())), ExitCode::from(code));
        }
    }
}

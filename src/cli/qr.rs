//! QR codes for a phone to read off a terminal.
//!
//! Two rows of modules are a line of half blocks. They are drawn black on white by explicit colours,
//! whatever the terminal's own are. Without colours (`NO_COLOR`, a dumb terminal) the light modules are
//! drawn in the terminal's foreground: right on a dark terminal, and inverted on a light one, which most
//! readers take too.

use qrcode::{Color, EcLevel, QrCode};

use super::output::Output;

/// Modules of light around a code, as ISO/IEC 18004 has it, and the fewest that readers do with.
const QUIET: usize = 4;
const LEAST_QUIET: usize = 2;

/// Black on white of the 256-colour cube, which themes leave alone; and back.
const COLOURS: (&str, &str) = ("\u{1b}[38;5;16;48;5;231m", "\u{1b}[0m");

/// What a wallet scans for this invoice: the `lightning:` URI, upper-cased, because a QR code takes 5.5
/// bits for a capital and 8 for a small letter.
#[must_use]
pub fn of_invoice(bolt11: &str) -> String {
    format!("LIGHTNING:{}", bolt11.to_ascii_uppercase())
}

/// Shows `data` to the person at the terminal, if there is one.
pub fn show(data: &str, out: &Output) {
    if !out.is_watched() {
        return;
    }
    let columns = console::Term::stderr()
        .size_checked()
        .map_or(80, |(_, columns)| usize::from(columns));
    match draw(data, columns, console::colors_enabled_stderr()) {
        Drawn::Code(code) => out.picture(&code),
        Drawn::NeedsColumns(columns) => out.note(&format!(
            "(a QR code needs {columns} columns; this terminal is narrower)"
        )),
        Drawn::TooLong => {}
    }
}

#[derive(Debug)]
enum Drawn {
    Code(String),
    /// The terminal has fewer columns than this.
    NeedsColumns(usize),
    /// No QR code holds so much.
    TooLong,
}

fn draw(data: &str, columns: usize, colours: bool) -> Drawn {
    let Ok(code) = QrCode::with_error_correction_level(data, EcLevel::L) else {
        return Drawn::TooLong;
    };
    let width = code.width();
    let fits = |quiet: &usize| width + 2 * quiet <= columns;
    let Some(quiet) = [QUIET, LEAST_QUIET].into_iter().find(fits) else {
        return Drawn::NeedsColumns(width + 2 * LEAST_QUIET);
    };
    let modules = code.to_colors();
    let is_dark = |row: usize, column: usize| {
        let inside =
            (quiet..quiet + width).contains(&row) && (quiet..quiet + width).contains(&column);
        inside && modules.get((row - quiet) * width + column - quiet) == Some(&Color::Dark)
    };
    let (begin, end) = if colours { COLOURS } else { ("", "") };
    let whole = width + 2 * quiet;
    let lines = (0..whole).step_by(2).map(|row| {
        let halves = (0..whole).map(|column| {
            let (upper, lower) = (is_dark(row, column), is_dark(row + 1, column));
            // Without colours it is the light that is drawn.
            match (upper == colours, lower == colours) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            }
        });
        format!("{begin}{}{end}", halves.collect::<String>())
    });
    Drawn::Code(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn code(data: &str, columns: usize, colours: bool) -> String {
        match draw(data, columns, colours) {
            Drawn::Code(code) => code,
            other => panic!("{other:?}"),
        }
    }

    /// Reads a drawing back as rows of dark modules.
    fn modules(drawn: &str, drawn_are_dark: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawn.lines() {
            let line = line.trim_start_matches(COLOURS.0);
            let line = line.trim_end_matches(COLOURS.1);
            for half in ["█▀", "█▄"] {
                let row = line.chars().map(|c| half.contains(c) == drawn_are_dark);
                rows.push(row.collect());
            }
        }
        rows
    }

    #[test]
    fn a_drawing_is_the_code_in_a_frame_of_light() {
        let data = of_invoice(&format!("lnbcrt1{}", "p0".repeat(150)));
        let truth = QrCode::with_error_correction_level(&data, EcLevel::L).unwrap();
        let width = truth.width();
        for (columns, quiet) in [(200, QUIET), (width + 4, LEAST_QUIET)] {
            for colours in [true, false] {
                let rows = modules(&code(&data, columns, colours), colours);
                for (y, row) in rows.iter().enumerate().take(width + 2 * quiet) {
                    assert_eq!(row.len(), width + 2 * quiet);
                    for (x, dark) in row.iter().enumerate() {
                        let inside = (quiet..width + quiet).contains(&x)
                            && (quiet..width + quiet).contains(&y);
                        let expected = inside && truth[(x - quiet, y - quiet)] == Color::Dark;
                        assert_eq!(*dark, expected, "{x} {y} {colours} {quiet}");
                    }
                }
            }
        }
    }

    #[test]
    fn capitals_make_a_smaller_code() {
        let bolt11 = format!("lnbc1{}", "q".repeat(300));
        let width = |data: &str| {
            QrCode::with_error_correction_level(data, EcLevel::L)
                .unwrap()
                .width()
        };
        assert!(width(&of_invoice(&bolt11)) < width(&format!("lightning:{bolt11}")));
        assert!(
            width(&of_invoice(&bolt11)) + 2 * QUIET <= 80,
            "fits a usual terminal"
        );
    }

    #[test]
    fn what_does_not_fit_is_not_drawn() {
        assert!(matches!(draw("x", 20, true), Drawn::NeedsColumns(25)));
        assert!(matches!(draw(&"x".repeat(4000), 500, true), Drawn::TooLong));
    }

    #[test]
    fn nothing_is_drawn_for_a_pipe() {
        let (data, notes) = (Box::new(std::io::sink()), Box::new(std::io::sink()));
        show("x", &Output::to(false, true, data, notes));
    }
}

//! `man`: the manual page, in roff: one page with every command and its options.

use std::io::{self, Write};

use clap_mangen::Man;

use crate::cli::output::Output;
use crate::error::{Code, Error, Result};

/// Prints the page.
///
/// # Errors
/// [`Code::Usage`] with `--json`: a manual page is not JSON.
pub fn run(command: clap::Command, out: &Output) -> Result<()> {
    if out.is_json() {
        return Err(Error::new(Code::Usage, "man takes no --json"));
    }
    let mut page = Vec::new();
    write_page(&command, &mut page)
        .map_err(|problem| Error::new(Code::Internal, format!("no manual page: {problem}")))?;
    out.raw(&page);
    Ok(())
}

fn write_page(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    writeln!(page, ".SH COMMANDS")?;
    write_commands(command, command.get_name(), page)?;
    let more = command.get_after_long_help().map(ToString::to_string);
    for paragraph in more.unwrap_or_default().split("\n\n") {
        write_section(paragraph, page)?;
    }
    man.render_version_section(page)
}

/// Every command below this one that does something by itself.
fn write_commands(above: &clap::Command, path: &str, page: &mut Vec<u8>) -> io::Result<()> {
    for command in above.get_subcommands().filter(|it| !it.is_hide_set()) {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            write_commands(command, &path, page)?;
            continue;
        }
        let mut command = command.clone().bin_name(&path).disable_help_flag(true);
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        writeln!(page, ".SS \"{}\"", escaped(usage).replace('"', "\\(dq"))?;
        let about = command
            .get_long_about()
            .or_else(|| command.get_about())
            .map(ToString::to_string);
        for paragraph in about.unwrap_or_default().split("\n\n") {
            writeln!(page, "{}\n.PP", escaped(paragraph))?;
        }
        let more = command.get_after_help().map(ToString::to_string);
        let mut options = Vec::new();
        Man::new(command).render_options_section(&mut options)?;
        // Within a command the options are no sections of the page.
        for line in String::from_utf8_lossy(&options).lines() {
            if !line.starts_with(".SH") {
                writeln!(page, "{line}")?;
            }
        }
        for paragraph in more.iter().flat_map(|more| more.split("\n\n")) {
            writeln!(page, ".PP\n{}", escaped(paragraph))?;
        }
    }
    Ok(())
}

/// A part of the help that is set in columns: a heading and lines that stay as they are.
fn write_section(paragraph: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let (heading, lines) = match paragraph.split_once(":\n") {
        Some((heading, lines)) => (heading, lines),
        None => ("Output", paragraph),
    };
    // What a heading says in brackets is a line of its own.
    let (heading, remark) = match heading.split_once(" (") {
        Some((heading, remark)) => (heading, remark.strip_suffix(')')),
        None => (heading, None),
    };
    writeln!(page, ".SH \"{}\"", escaped(heading).to_uppercase())?;
    if let Some(remark) = remark {
        writeln!(page, "{}\n.PP", escaped(remark))?;
    }
    writeln!(page, ".nf\n{}\n.fi", escaped(lines))
}

/// Text that roff takes as text.
fn escaped(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
        for command in shown {
            let path = format!("{path} {}", command.get_name());
            match command.has_subcommands() {
                true => leaves(command, &path, found),
                false => found.push(path),
            }
        }
    }

    #[test]
    fn every_command_and_flag_is_in_the_page_and_in_every_shells_script() {
        for command in [
            crate::cli::customer::command(),
            crate::cli::provider::command(),
        ] {
            let mut page = Vec::new();
            write_page(&command, &mut page).unwrap();
            let page = String::from_utf8(page).unwrap().replace("\\-", "-");
            let mut paths = Vec::new();
            leaves(&command, command.get_name(), &mut paths);
            assert!(paths.len() > 10, "{paths:?}");
            for path in &paths {
                assert!(page.contains(&format!(".SS \"{path}")), "{path}\n{page}");
            }
            for line in page.lines() {
                let known = [
                    ".SH", ".SS", ".TP", ".PP", ".TH", ".br", ".nf", ".fi", ".ie", ".el", ".RS",
                    ".RE", ".IP",
                ];
                assert!(
                    !line.starts_with('.') || known.iter().any(|it| line.starts_with(it)),
                    "{line}"
                );
            }
            for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
                let mut script = Vec::new();
                let name = command.get_name().to_owned();
                clap_complete::generate(*shell, &mut command.clone(), name, &mut script);
                let script = String::from_utf8(script).unwrap();
                for path in &paths {
                    let word = path.rsplit(' ').next().unwrap();
                    assert!(script.contains(word), "{shell}: {path}");
                }
                for flag in command.get_arguments().filter(|it| !it.is_hide_set()) {
                    let long = flag.get_long().unwrap_or_default();
                    assert!(script.contains(long), "{shell}: --{long}");
                }
            }
        }
    }
}

//! What the owner writes: the configuration file, and the words after the programs' names.

use std::path::Path;

use agent_compute::cli::text::without_secrets;
use agent_compute::config::{
    Config, ConfigError, KEYS, MAX_ANNOUNCE_EVERY_SECS, MAX_MAX_JOBS, MAX_RELAYS,
};
use agent_compute::units::Msat;

use super::tape::Tape;

/// Stands where a secret could.
const MARK: &str = "hunter2";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/folder/config.toml"))
}

/// A whole file; or one key with one value, which no error repeats; or one mistyped key.
pub fn config(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.byte() % 4 {
        0 => value(&mut tape),
        1 => mistyped(&mut tape),
        _ => {
            let text = String::from_utf8_lossy(tape.rest()).into_owned();
            match parse(&text) {
                Ok(config) => sane(&config),
                Err(error) => {
                    let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
                    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
                    assert!(!error.problem.is_empty());
                }
            }
        }
    }
}

fn sane(config: &Config) {
    let runway = &config.runway;
    for limit in [
        runway.daily_limit,
        runway.per_tick_limit,
        runway.per_job_limit,
        runway.reserve,
    ] {
        assert!(limit <= Msat::MAX);
    }
    assert!(config.relays.len() <= MAX_RELAYS);
    assert!(config.wallet.sim.fee <= Msat::MAX);
    assert!((1..=366 * 86_400).contains(&config.policy.max_hold_secs));
    assert!(
        config
            .policy
            .unproven_limit
            .is_none_or(|limit| limit <= Msat::MAX)
    );
    let provider = &config.provider;
    assert!(provider.price <= Msat::MAX && provider.price_per_1k_tokens <= Msat::MAX);
    assert!((1..=MAX_MAX_JOBS).contains(&provider.max_jobs));
    assert!((1..=MAX_ANNOUNCE_EVERY_SECS).contains(&provider.announce_every_secs));
    let lines = [&provider.name, &provider.description]
        .into_iter()
        .chain(&provider.models);
    for line in lines {
        assert!(!line.chars().any(char::is_control) && line.len() <= 1024);
    }
}

fn a_key(tape: &mut Tape<'_>) -> (&'static str, &'static str) {
    let (section, keys) = tape.one_of(&KEYS);
    (section, tape.one_of(keys))
}

fn value(tape: &mut Tape<'_>) {
    let (section, key) = a_key(tape);
    let around = tape.byte();
    let text = format!("{}{MARK}{}", tape.text(), tape.text());
    let quoted = toml::Value::String(text);
    let value = match around % 6 {
        0 => format!("[{quoted}]"),
        1 => format!("{{ inner = {quoted} }}"),
        2 => format!("[1, [{quoted}]]"),
        3 => i64::from_be_bytes(tape.array()).to_string(),
        _ => quoted.to_string(),
    };
    let said = format!("[{section}]\n{key} = {value}\n");
    match parse(&said) {
        Ok(config) => sane(&config),
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.contains(MARK), "{said}: {shown}");
            assert!(shown.contains(key), "{said}: {shown}");
        }
    }
}

fn mistyped(tape: &mut Tape<'_>) {
    let (section, key) = a_key(tape);
    let mut letters: Vec<char> = key.chars().collect();
    let at = tape.below(letters.len());
    let letter = char::from(b'a' + tape.byte() % 26);
    match tape.below(3) {
        0 => letters[at] = letter,
        1 => letters.insert(at, letter),
        _ => drop(letters.remove(at)),
    }
    let typed: String = letters.iter().collect();
    let is_key = KEYS
        .iter()
        .any(|(name, keys)| keys.contains(&typed.as_str()) || *name == typed);
    if is_key || typed.is_empty() {
        return;
    }
    let error = parse(&format!("[{section}]\n{typed} = 1\n")).expect_err("no such key");
    assert_eq!(error.line, Some(2));
    let quoted: Vec<&str> = error.problem.split('`').skip(1).step_by(2).collect();
    assert_eq!(quoted[0], typed, "{}", error.problem);
    // One letter off: the nearest is the one that was meant, or another that is as near.
    assert!(one_letter_off(&typed, quoted[1]), "{}", error.problem);
}

fn one_letter_off(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let before = short
        .bytes()
        .zip(long.bytes())
        .take_while(|(x, y)| x == y)
        .count();
    let rest =
        |text: &str, skipped: usize| text.get(before + skipped..).unwrap_or_default().to_owned();
    match long.len() - short.len() {
        0 => rest(short, 1) == rest(long, 1),
        1 => rest(short, 0) == rest(long, 1),
        _ => false,
    }
}

/// The words after a program's name, one a line.
pub fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let seller = lines.next().is_some_and(|line| line.starts_with('s'));
    let (name, command) = if seller {
        ("agent-provider", agent_compute::cli::provider::command())
    } else {
        ("agent-customer", agent_compute::cli::customer::command())
    };
    let words: Vec<&str> = std::iter::once(name).chain(lines.take(24)).collect();
    match command.try_get_matches_from(&words) {
        Ok(matches) => {
            for amount in ["max_price", "max_fee", "price", "price_per_1k_tokens"] {
                if let Ok(Some(amount)) = matches.try_get_one::<Msat>(amount) {
                    assert!(*amount <= Msat::MAX);
                }
            }
            for name in ["tick", "idempotency_key", "model"] {
                if let Ok(Some(name)) = matches.try_get_one::<String>(name) {
                    assert!(!name.chars().any(char::is_control) && (1..=256).contains(&name.len()));
                }
            }
        }
        Err(error) => {
            let shown = without_secrets(&error.render().to_string());
            super::terminal::no_secrets(&shown);
        }
    }
}

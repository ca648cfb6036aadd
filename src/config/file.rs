//! Reading `config.toml`: every key known, every value of its type, and an error that names the file,
//! the line and what was probably meant. Values are never repeated in an error: a secret may stand
//! where it should not.

use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::schema::{File, KEYS};
use super::{Config, MAX_CONFIG_BYTES};
use crate::error::{Code, Error};

/// A configuration file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, if it is one line's fault.
    pub line: Option<usize>,
    /// What is wrong, and what was probably meant.
    pub problem: String,
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(Code::Usage, format!("configuration: {error}"))
    }
}

impl Config {
    /// Reads the file at `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// If it can't be read, is larger than [`MAX_CONFIG_BYTES`], or holds what it must not.
    pub fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let fault = |problem: String| ConfigError {
            path: path.to_owned(),
            line: None,
            problem,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(fault(problem.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|problem| fault(problem.to_string()))?;
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(fault(format!("larger than {MAX_CONFIG_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| fault("not UTF-8 text".to_owned()))?;
        Self::parse(&text, path).map(Some)
    }

    /// Reads the text of a file that is, or would be, at `path`.
    ///
    /// # Errors
    /// If it holds what it must not.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let fault = |at: Option<Range<usize>>, problem: String| ConfigError {
            path: path.to_owned(),
            line: at.map(|span| line_of(text, span.start)),
            problem,
        };
        let tree = DeTable::parse(text)
            .map_err(|error| fault(error.span(), error.message().to_owned()))?;
        if let Some((span, problem)) = unknown_key(tree.get_ref(), "") {
            return Err(fault(Some(span), problem));
        }
        let file: File = toml::from_str(text).map_err(|error| {
            let span = error.span();
            let key = span
                .as_ref()
                .and_then(|span| key_at(tree.get_ref(), span, ""));
            let named = key.map(|key| format!("{key}: ")).unwrap_or_default();
            fault(span, format!("{named}{}", without_values(error.message())))
        })?;
        file.into_config(path)
            .map_err(|problem| fault(None, problem))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    let found = KEYS.into_iter().find(|(name, _)| *name == section);
    found.map(|(_, keys)| keys)
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

/// The first key of `table` that we don't know, and what to say about it.
fn unknown_key(table: &DeTable<'_>, section: &str) -> Option<(Range<usize>, String)> {
    let keys = keys_of(section).unwrap_or_default();
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let path = join(section, name);
        let is_section = keys_of(&path).is_some();
        match value.get_ref() {
            DeValue::Table(inner) if is_section => {
                let found = unknown_key(inner, &path);
                if found.is_some() {
                    return found;
                }
            }
            // A section that is no table is a wrong type; so is a key that is one.
            _ if is_section || keys.contains(&name) => {}
            value => {
                let is_table = matches!(value, DeValue::Table(_));
                return Some((key.span(), suggest(section, name, is_table)));
            }
        }
    }
    None
}

/// What to say about an unknown key: where it stood, and the nearest that there is.
fn suggest(section: &str, name: &str, is_table: bool) -> String {
    // What stands before the first dot or inside the brackets is a name, not a value; still, show a
    // bounded part of it.
    let shown: String = name.chars().take(40).collect();
    if is_table {
        let path = join(section, name);
        let sections = KEYS.iter().map(|(section, _)| *section);
        let nearest = nearest(&path, sections).unwrap_or_default();
        let shown = join(section, &shown);
        return format!("unknown section [{shown}]; the nearest is [{nearest}]");
    }
    let here = keys_of(section).unwrap_or_default().iter().copied();
    let everywhere = KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)));
    let place = if section.is_empty() {
        "at the top".to_owned()
    } else {
        format!("in [{section}]")
    };
    // A key that is right, in the wrong place.
    if let Some((right, _)) = everywhere.clone().find(|(_, key)| *key == name) {
        return format!("unknown key `{shown}` {place}; it belongs in [{right}]");
    }
    if let Some(nearest) = nearest(name, here) {
        return format!("unknown key `{shown}` {place}; the nearest is `{nearest}`");
    }
    let nearest = everywhere
        .min_by_key(|(_, key)| distance(name, key))
        .map(|(section, key)| format!("; the nearest is `{key}` in [{section}]"));
    format!(
        "unknown key `{shown}` {place}{}",
        nearest.unwrap_or_default()
    )
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|key| distance(name, key))
}

/// The Levenshtein distance, over at most the first 64 characters of each.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The key whose value holds `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>, section: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let path = join(section, key.get_ref());
        if let DeValue::Table(inner) = value.get_ref()
            && let Some(found) = key_at(inner, span, &path)
        {
            return Some(found);
        }
        let holds = value.span().start <= span.start && span.end <= value.span().end;
        holds.then_some(path)
    })
}

/// The parser's message without the text that it quotes: `invalid type: string "…", expected u64`.
fn without_values(message: &str) -> String {
    if message.starts_with("unknown variant") {
        let expected = message.rfind("`, expected").map(|at| &message[at + 1..]);
        return format!("unknown word{}", expected.unwrap_or_default());
    }
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}…{}", &message[..first], &message[last + 1..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::config::{Select, WalletKind};
    use crate::secret::SecretRef;
    use crate::units::{Msat, Network};

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/folder/config.toml"))
    }

    fn refused(text: &str) -> (Option<usize>, String) {
        let error = parse(text).unwrap_err();
        (error.line, error.problem)
    }

    #[test]
    fn nothing_means_the_defaults() {
        let expected = Config {
            folder: "/folder".into(),
            ..Config::default()
        };
        assert_eq!(parse("").unwrap(), expected);
        assert_eq!(parse("[identity]\n[runway]\n").unwrap(), expected);
    }

    #[test]
    fn every_section_is_read() {
        let key = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917";
        let config = parse(&format!(
            r#"
            [identity]
            secret_key = "file:keys/mine"
            [relays]
            urls = ["ws://127.0.0.1:7777", "wss://relay.example"]
            [wallet]
            kind = "sim"
            [wallet.sim]
            bank = "bank.sqlite"
            fee_msats = 7
            network = "signet"
            [runway]
            daily_limit_sats = 5
            [policy]
            select = "first"
            allow = ["{key}"]
            encrypt = "off"
            [provider]
            backend = "echo"
            price_msats = 9
            max_jobs = 2
            "#
        ))
        .unwrap();
        assert_eq!(
            config.identity.secret_key,
            Some(SecretRef::File("keys/mine".into()))
        );
        assert_eq!(config.relays.len(), 2);
        assert_eq!(config.wallet.kind, Some(WalletKind::Sim));
        assert_eq!(
            config.wallet.sim.bank.as_deref(),
            Some(Path::new("/folder/bank.sqlite"))
        );
        assert_eq!(config.wallet.sim.fee, Msat::new(7));
        assert_eq!(config.wallet.sim.network, Network::Signet);
        assert_eq!(config.runway.daily_limit, Msat::new(5000));
        assert_eq!(config.runway.per_job_limit, Msat::new(1_000_000));
        assert_eq!(config.policy.select, Select::First);
        assert_eq!(config.policy.allow[0].to_hex(), key);
        assert_eq!(config.provider.price, Msat::new(9));
        assert_eq!(config.provider.max_jobs, 2);
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest() {
        for (text, line, says) in [
            ("[runway]\ndaily_limit = 1\n", 2, "`daily_limit_sats`"),
            (
                "[runway]\n\n\nper_job_limits_sats = 1",
                4,
                "`per_job_limit_sats`",
            ),
            ("[runaway]\nreserve_sats = 1", 1, "[runway]"),
            ("[wallet.simm]\nbank = \"x\"", 1, "[wallet.sim]"),
            ("select = \"first\"", 1, "[policy]"),
            ("[provider]\ndaily_limit_sats = 1", 2, "[runway]"),
            ("[policy]\n'al low' = []", 2, "`allow`"),
            ("quux = 1", 1, "nearest"),
        ] {
            let (at, problem) = refused(text);
            assert_eq!(at, Some(line), "{text}: {problem}");
            assert!(problem.contains(says), "{text}: {problem}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_line_and_key_and_is_not_repeated() {
        for (text, says) in [
            (
                "[runway]\ndaily_limit_sats = \"SECRET\"",
                "runway.daily_limit_sats",
            ),
            ("[runway]\ndaily_limit_sats = -1", "runway.daily_limit_sats"),
            (
                "[runway]\ndaily_limit_sats = 1.5",
                "runway.daily_limit_sats",
            ),
            (
                "[runway]\ndaily_limit_sats = 9223372036854775807",
                "than there will ever be",
            ),
            (
                "[runway]\ndaily_limit_sats = 18446744073709551616",
                "runway.daily_limit_sats",
            ),
            ("[identity]\nsecret_key = \"SECRET\"", "env:NAME"),
            ("[identity]\nmnemonic = [\"SECRET\"]", "env:NAME"),
            ("[policy]\nallow = [\"17162c92\"]", "whole public key"),
            ("[policy]\nselect = \"SECRET\"", "cheapest, first"),
            ("[wallet]\nkind = \"SECRET\"", "sim, nwc"),
            ("[relays]\nurls = [\"http://SECRET\"]", "ws://"),
            ("[relays]\nurls = \"wss://SECRET\"", "relays.urls"),
            ("[provider]\nannounce_every_secs = 301", "1 to 300"),
            ("[provider]\nmax_jobs = 0", "from 1"),
            ("[provider]\nbackend = \"SECRET\"", "`auto`"),
            ("[policy]\nencrypt = \"SECRET\"", "`required`"),
            ("[provider]\nname = \"\\u001b[31m\"", "one line"),
            ("\nwallet = \"SECRET\"", "wallet"),
            ("[runway]\ndaily_limit_sats = ", ""),
        ] {
            let (at, problem) = refused(text);
            assert_eq!(at, Some(2), "{text}: {problem}");
            assert!(problem.contains(says), "{text}: {problem}");
            assert!(!problem.contains("SECRET"), "{problem}");
        }
    }

    #[test]
    fn two_identities_are_one_too_many() {
        let (_, problem) = refused("[identity]\nfile = \"x\"\nmnemonic = \"env:X\"");
        assert!(problem.contains("only one"), "{problem}");
    }

    #[test]
    fn a_file_is_bounded_and_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert_eq!(Config::read(&path), Ok(None));
        std::fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
        assert!(Config::read(&path).unwrap_err().problem.contains("larger"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(Config::read(&path).unwrap_err().problem.contains("UTF-8"));
    }

    /// The keys that the parser takes in one section, in its own words.
    fn taken_by_parser(section: &str) -> BTreeSet<String> {
        let text = format!("[{section}]\nzzz = 1");
        let message = match toml::from_str::<File>(&text) {
            Ok(_) => panic!("zzz is taken in {section}"),
            Err(error) => error.message().to_owned(),
        };
        let quoted = message.split('`').skip(3).step_by(2);
        quoted.map(str::to_owned).collect()
    }

    #[test]
    fn the_list_of_keys_is_the_parsers() {
        for (section, keys) in KEYS {
            let mut expected: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            if section == "wallet" {
                expected.extend(["sim", "nwc", "spark", "process"].map(str::to_owned));
            }
            assert_eq!(taken_by_parser(section), expected, "[{section}]");
        }
    }

    const EXAMPLES: [&str; 2] = [
        include_str!("../../config/customer.example.toml"),
        include_str!("../../config/provider.example.toml"),
    ];

    /// The text with `# key = value` lines made live: keys that have no default.
    fn with_all_keys(text: &str) -> String {
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(live) if is_assignment(live) => live,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn is_assignment(line: &str) -> bool {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ")
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b"_1".contains(&b))
    }

    #[test]
    fn the_examples_say_the_defaults() {
        for example in EXAMPLES {
            assert_eq!(parse(example).unwrap(), parse("").unwrap());
        }
    }

    #[test]
    fn the_examples_name_every_key() {
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for example in EXAMPLES {
            let mut section = String::new();
            for line in with_all_keys(example).lines() {
                if let Some(name) = line.strip_prefix('[') {
                    section = name.trim_end_matches(']').to_owned();
                } else if is_assignment(line) {
                    let key = line.split(" = ").next().unwrap().to_owned();
                    // Alternatives are tried one at a time.
                    parse(&format!("[{section}]\n{line}")).unwrap();
                    named.entry(section.clone()).or_default().insert(key);
                }
            }
        }
        for (section, keys) in KEYS {
            let keys: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            assert_eq!(named.get(section), Some(&keys), "[{section}]");
        }
    }
}

//! Who may import whom: the rules of `src/lib.rs`, read from the sources.
//!
//! A file's imports are the `crate::`, `super::` and `self::` paths in its code, wherever they stand.
//! Comments, texts and `#[cfg(test)]` items don't count. Foreign crates and macros are found by name.

mod source;

use std::path::Path;

use source::Source;

/// The modules of the library by level. A module imports what is on lower levels, and nothing beside or
/// above it.
const LEVELS: [&[&str]; 6] = [
    &[
        "units", "ids", "clock", "error", "secret", "look", "disk", "crash",
    ],
    &["identity", "protocol", "config"],
    &["wallet", "relay", "ledger"],
    &["purchase", "discovery", "market"],
    &["client", "provider"],
    &["cli"],
];

/// The modules of the lowest level build on each other; no other level's do.
const FREE_LEVEL: usize = 0;

/// Imports that the levels forbid and a reason allows.
const EXCEPTIONS: [(&str, &str); 1] = [
    // Nostr Wallet Connect is a wallet that is reached over relays.
    ("wallet::nwc", "relay"),
];

/// Modules that decide and do nothing else: with the same input they say the same.
const PURE: [&str; 12] = [
    "protocol",
    "market",
    "provider::pricing",
    "ledger::budget",
    "wallet::invoice",
    "purchase::doubt",
    "purchase::effect",
    "purchase::payment::state",
    "purchase::receipt",
    "purchase::state",
    "purchase::step",
    "units",
];

/// What pure modules can't name: time, chance and the world outside.
const IMPURE: [&str; 14] = [
    "tokio",
    "tokio_util",
    "rusqlite",
    "rand",
    "crate::clock",
    "crate::crash",
    "crate::secret",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
];

/// Whose names only the listed modules may say: `(name, by whom, why)`. A module's own children may too.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("clap", &["cli", "bin"], "arguments are read at the edge"),
    (
        "anyhow",
        &["cli", "bin"],
        "the library has one error type, with codes",
    ),
    (
        "indicatif",
        &["cli", "bin"],
        "progress is for a person at a terminal",
    ),
    ("println!", &["cli", "bin"], "printing happens at the edge"),
    ("print!", &["cli", "bin"], "printing happens at the edge"),
    ("eprintln!", &["cli", "bin"], "printing happens at the edge"),
    ("eprint!", &["cli", "bin"], "printing happens at the edge"),
    (
        "rusqlite",
        &[
            // Opens files for reading; knows no table.
            "look",
            // Knows what a failure for want of space looks like; says no SQL.
            "disk",
            "ledger::store",
            "ledger::schema",
            // Hold the connection for the store; say no SQL.
            "ledger::handle",
            "ledger::together",
            "provider::store",
            "wallet::sim",
        ],
        "SQL stays where the tables are",
    ),
    (
        "env::var",
        &["secret", "crash"],
        "the environment is read in one place, but for what tests alone set",
    ),
    (
        "env::var_os",
        &["secret"],
        "the environment is read in one place",
    ),
    (
        "env::vars",
        &["secret"],
        "the environment is read in one place",
    ),
    ("SystemTime", &["clock"], "a test says what time it is"),
    (
        "nostr_sdk",
        &["relay"],
        "the SDK stays behind the relay port",
    ),
    (
        "nostr_relay_pool",
        &["relay"],
        "the SDK stays behind the relay port",
    ),
    (
        "nostr_relay_builder",
        &["relay"],
        "the SDK stays behind the relay port",
    ),
    ("crate::wallet::sim", ADAPTERS_BY, CONCRETE),
    ("crate::wallet::nwc", ADAPTERS_BY, CONCRETE),
    ("crate::wallet::process", ADAPTERS_BY, CONCRETE),
    ("crate::wallet::spark", ADAPTERS_BY, CONCRETE),
    ("crate::wallet::cashu", ADAPTERS_BY, CONCRETE),
    ("crate::wallet::ldk", ADAPTERS_BY, CONCRETE),
    ("crate::relay::pool", ADAPTERS_BY, CONCRETE),
    ("crate::relay::local", ADAPTERS_BY, CONCRETE),
    ("crate::relay::RelayPoolSession", ADAPTERS_BY, CONCRETE),
    ("crate::relay::EmbeddedRelay", ADAPTERS_BY, CONCRETE),
    (
        "crate::provider::backend::openai",
        &["provider", "cli"],
        CONCRETE,
    ),
    (
        "crate::provider::backend::echo",
        &["provider", "cli"],
        CONCRETE,
    ),
];

const ADAPTERS_BY: &[&str] = &["client::builder", "provider", "cli"];
const CONCRETE: &str = "adapters are named where the program is put together";

/// Whether `module` is `of` or lies within it.
fn is_within(module: &str, of: &str) -> bool {
    let rest = module.strip_prefix(of);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn top(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// What `source` imports that it may not.
fn violations(source: &Source) -> Vec<String> {
    let module = source.module.as_str();
    let mut found = Vec::new();
    for path in source.paths() {
        found.extend(against_the_levels(module, &path));
        if PURE.iter().any(|pure| is_within(module, pure)) {
            let impure = IMPURE.iter().find(|impure| names(&path, impure));
            found.extend(impure.map(|what| format!("{module} is pure and names {what}")));
        }
        for (name, by, why) in ONLY {
            let allowed = by.iter().any(|by| is_within(module, by)) || is_home(module, name);
            if names(&path, name) && !allowed {
                found.push(format!("{module} names {name}: {why}"));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether `module` belongs to the part of the library that has this adapter.
fn is_home(module: &str, name: &str) -> bool {
    let within = name.strip_prefix("crate::");
    within.is_some_and(|path| is_within(module, top(path)))
}

/// Whether a path is, begins with or contains `name` as whole segments.
fn names(path: &str, name: &str) -> bool {
    path.match_indices(name).any(|(at, _)| {
        let (before, after) = (&path[..at], &path[at + name.len()..]);
        (before.is_empty() || before.ends_with("::"))
            && (after.is_empty() || after.starts_with("::"))
    })
}

fn against_the_levels(module: &str, path: &str) -> Option<String> {
    let target = path.strip_prefix("crate::")?;
    let (from, to) = (top(module), top(target));
    if from == to || module == "lib" {
        return None;
    }
    if from == "bin" {
        return (to != "cli")
            .then(|| format!("{module} imports {to}: a program is a shell over cli"));
    }
    // What the library's root re-exports is named by its first letter: a type, not a module.
    if to.starts_with(char::is_uppercase) {
        return None;
    }
    let (Some(from), Some(to)) = (level(from), level(to)) else {
        return Some(format!("{module} imports {target}: add it to the levels"));
    };
    let allowed = to < from || (to == from && from == FREE_LEVEL);
    let excepted = EXCEPTIONS
        .iter()
        .any(|(module_, target_)| is_within(module, module_) && is_within(target, target_));
    (!allowed && !excepted).then(|| format!("{module} imports {target}"))
}

#[test]
fn every_import_goes_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = source::all(&root);
    assert!(sources.len() > 30, "only {} files found", sources.len());
    let found: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_module_of_the_library_has_a_level() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: Vec<String> = source::all(&root)
        .iter()
        .map(|source| top(&source.module).to_owned())
        .filter(|module| !["lib", "bin"].contains(&module.as_str()))
        .collect();
    for module in modules {
        assert!(level(&module).is_some(), "{module} has no level");
    }
}

// ---- the checker itself ---------------------------------------------------------------------------

fn found_in(module: &str, text: &str) -> Vec<String> {
    violations(&Source::new(module, text))
}

#[test]
fn the_checker_catches_what_is_forbidden() {
    for (module, text, expected) in [
        (
            "wallet::sim",
            "use crate::ledger::Ledger;",
            "wallet::sim imports ledger::Ledger",
        ),
        (
            "ledger",
            "fn f() { crate::wallet::pay() }",
            "ledger imports wallet::pay",
        ),
        (
            "client::buy",
            "use crate::{\n    units::Msat,\n    provider::{self, engine},\n};",
            "client::buy imports provider",
        ),
        (
            "relay::seal",
            "use super::super::market;",
            "relay::seal imports market",
        ),
        (
            "relay",
            "use super::client::Client;",
            "relay imports client::Client",
        ),
        (
            "market::select",
            "use tokio as t;",
            "market::select is pure and names tokio",
        ),
        (
            "protocol",
            "let now = std::time::SystemTime::now();",
            "protocol is pure and names SystemTime",
        ),
        (
            "purchase::step::money",
            "use crate::clock::Clock;",
            "purchase::step::money is pure and names crate::clock",
        ),
        (
            "protocol::codec",
            "use crate::relay::seal;",
            "protocol::codec imports relay::seal",
        ),
        (
            "client",
            "println!(\"paid\");",
            "client names println!: printing happens at the edge",
        ),
        (
            "client",
            "use std::env;\nfn f() { env::var(\"X\"); }",
            "client names env::var: the environment is read in one place, but for what tests alone set",
        ),
        (
            "provider::engine",
            "use rusqlite::Connection;",
            "provider::engine names rusqlite: SQL stays where the tables are",
        ),
        (
            "purchase::driver",
            "use crate::relay::{RelaySession, RelayPoolSession};",
            "purchase::driver names crate::relay::RelayPoolSession: adapters are named where the program is put together",
        ),
        (
            "bin::agent-customer",
            "use agent_compute::client;",
            "bin::agent-customer imports client: a program is a shell over cli",
        ),
        (
            "units",
            "use crate::planets;",
            "units imports planets: add it to the levels",
        ),
    ] {
        let found = found_in(module, text);
        assert!(
            found.iter().any(|found| found == expected),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    for (module, text) in [
        (
            "market",
            "//! Unlike [`crate::client`], no tokio.\nuse crate::protocol::Offer;",
        ),
        (
            "market",
            "/* use tokio; /* nested */ use rand; */ const URL: &str = \"crate::client // x\";",
        ),
        (
            "market",
            "const RAW: &str = r#\"use \"tokio\"; crate::cli\"#; const C: char = '\"'; fn f<'a>() {}",
        ),
        (
            "market",
            "#[cfg(test)]\nmod tests { use tokio::time; fn f() { println!(); } }",
        ),
        (
            "market",
            "#[cfg(test)]\nmod tests;\nuse crate::units::Msat;",
        ),
        ("wallet::nwc", "use crate::relay::RelaySession;"),
        ("error", "use crate::ids::PurchaseId;"),
        (
            "relay::pool",
            "use super::{RelaySession, local};\nuse crate::relay::RelayPoolSession;",
        ),
        ("client::builder", "use crate::relay::RelayPoolSession;"),
        (
            "provider::engine",
            "fn f() -> crate::Result<()> { super::backend::run() }",
        ),
        (
            "client",
            "let println = env!(\"HOME\"); let rand_ = my::tokioish::run();",
        ),
    ] {
        assert_eq!(found_in(module, text), Vec::<String>::new(), "{text}");
    }
}

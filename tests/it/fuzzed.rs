//! The targets of `tests/fuzz`, without a fuzzer: what its corpus holds, and seeded changes made to that.
//!
//! `FUZZ_CHANGES` is how many changed inputs each target is tried with (a few hundred by default), `FUZZ_SEED`
//! where they begin. A failure names the input; put into `tests/fuzz/corpus/<target>/`, it is tried for ever.

#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::env::number;

use self::bodies::{TARGETS, Target};

/// The longest changed input: what is longer takes long in a build for debugging.
const MOST_BYTES: usize = 4096;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The files of the target's corpus, in the order of their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder().join("corpus").join(target));
    let entries = entries.unwrap_or_else(|error| panic!("no corpus of {target}: {error}"));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = entries.map(read).collect();
    files.sort();
    files
}

/// Some other input, made of these.
fn changed(corpus: &[(String, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    let any = |rng: &mut StdRng| corpus.choose(rng).map(|(_, bytes)| bytes.clone());
    let mut bytes = any(rng).unwrap_or_default();
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..16)).min(bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, rng.random()),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = any(rng).unwrap_or_default();
                let from = rng.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
            5 => bytes[at..end].fill(*[0, 1, 0x7f, 0x80, 0xff].choose(rng).unwrap()),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

/// Runs the target; what it panics of is told with the input.
fn run(target: Target, bytes: &[u8], input: &str) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| target(bytes))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
        let mut shown = String::new();
        for byte in bytes {
            let _ = write!(shown, "{}", byte.escape_ascii());
        }
        format!(
            "{input}: {}\ninput: b\"{shown}\"",
            words.unwrap_or_default()
        )
    })
}

fn try_out(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let changes = number("FUZZ_CHANGES").unwrap_or(300);
    let mut failures = Vec::new();
    for (file, bytes) in &corpus {
        failures.extend(run(*target, bytes, &format!("corpus/{name}/{file}")).err());
    }
    for seed in seed..seed.saturating_add(changes) {
        let bytes = changed(&corpus, &mut StdRng::seed_from_u64(seed));
        failures.extend(run(*target, &bytes, &format!("{name}, FUZZ_SEED={seed}")).err());
    }
    let of = failures.len();
    assert!(
        failures.is_empty(),
        "the first of {of} failures: {}",
        failures[0]
    );
}

macro_rules! targets {
    ($($name:ident),*) => {
        const TRIED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { try_out(stringify!($name)); })*
    };
}

targets!(
    arguments, budget, channel, config, frames, identity, invoice, keystore, listing, message,
    purchase, receipt, request, row, sealed, server, stream, terminal, wallets, words
);

#[test]
fn every_target_has_a_program_and_a_corpus_and_is_tried_here() {
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap();
    let programs: BTreeSet<&str> = programs
        .iter()
        .map(|program| program["name"].as_str().unwrap())
        .collect();
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, names);
    assert_eq!(TRIED.iter().copied().collect::<BTreeSet<_>>(), names);
    for name in names {
        let program = std::fs::read_to_string(folder().join(format!("targets/{name}.rs"))).unwrap();
        assert!(
            program.contains(&format!("agent_compute_fuzz::{name}(data)")),
            "{program}"
        );
        assert!(corpus(name).len() > 2, "{name} begins with nothing");
    }
}

/// The crates in a lock file: name and version.
fn locked(path: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(folder().join(path)).unwrap();
    let lock: toml::Table = text.parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    packages
        .map(|package| (text(package, "name"), text(package, "version")))
        .collect()
}

#[test]
fn what_is_fuzzed_is_built_of_the_same_crates_as_what_is_shipped() {
    let ours = locked("../../Cargo.lock");
    let theirs = locked("Cargo.lock");
    // The package itself, libFuzzer, and what that brings.
    let own = [
        "agent-compute-fuzz",
        "libfuzzer-sys",
        "arbitrary",
        "cc",
        "jobserver",
        "getrandom",
        "libc",
        "shlex",
    ];
    let others = theirs.difference(&ours);
    let others: Vec<_> = others
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .collect();
    assert!(
        others.is_empty(),
        "{others:?}: `cargo update --manifest-path tests/fuzz/Cargo.toml` them"
    );
}

#[test]
fn the_corpus_stays_small() {
    let bytes: usize = TARGETS
        .iter()
        .flat_map(|(name, _)| corpus(name))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(
        bytes < 400_000,
        "{bytes} bytes: `cargo fuzz cmin` makes it smaller"
    );
}

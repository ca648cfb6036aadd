//! Encrypted identity files: made, opened and refused.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::{
    NPUB, NSEC, OTHER, Owner, PASSWORD, PROVIDER, PUBKEY, Ran, SECRET_HEX, SECRETS, WORDS, finish,
    mode,
};

const WITH_PASSWORD: [(&str, &str); 1] = [("AGENT_COMPUTE_PASSWORD", PASSWORD)];

/// A key derived from a password of `text`, with as little work as NIP-49 allows.
fn ncryptsec(password: &str) -> String {
    use nostr::nips::nip19::ToBech32 as _;
    use nostr::nips::nip49::{EncryptedSecretKey, KeySecurity};
    let key = nostr::SecretKey::from_hex(SECRET_HEX).unwrap();
    let encrypted = EncryptedSecretKey::new(&key, password, 4, KeySecurity::Unknown).unwrap();
    encrypted.to_bech32().unwrap()
}

impl Owner {
    /// Somebody with the known words, encrypted.
    pub(super) fn encrypted() -> Self {
        static FILE: OnceLock<Vec<u8>> = OnceLock::new();
        let owner = Self::new();
        if let Some(file) = FILE.get() {
            owner.write("home/customer/identity.enc", file);
            #[cfg(unix)]
            super::make_private(&owner.identity_file());
            return owner;
        }
        let ran = owner.import(WORDS, &WITH_PASSWORD);
        assert_eq!(ran.json()["encrypted"], true, "{ran:?}");
        owner.keeps_nothing_plain();
        // Another test may have been quicker.
        let _ = FILE.set(std::fs::read(owner.identity_file()).unwrap());
        owner
    }

    /// Somebody with the known words, in a plain file.
    pub(super) fn plain() -> Self {
        let owner = Self::new();
        assert_eq!(owner.import(WORDS, &[]).json()["encrypted"], false);
        owner
    }

    pub(super) fn import(&self, text: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = self.command(super::CUSTOMER, &["identity", "import", "--json"]);
        finish(command.envs(variables.iter().copied()), text.as_bytes())
    }

    pub(super) fn kept(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.identity_file()).unwrap()).unwrap()
    }

    pub(super) fn keeps_nothing_plain(&self) {
        nothing_plain_in(&self.home());
        assert_eq!(self.kept()["protection"], "password");
    }

    /// Whose account the wallet is.
    fn account(&self, variables: &[(&str, &str)]) -> String {
        let json = self.balance(variables).json();
        let (_bank, key) = json["account"].as_str().unwrap().split_once('/').unwrap();
        key.to_owned()
    }

    /// Something that needs the key itself.
    fn balance(&self, variables: &[(&str, &str)]) -> Ran {
        let args = ["wallet", "balance", "--wallet", "sim", "--json"];
        self.run_with(variables, &args)
    }
}

fn nothing_plain_in(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nothing_plain_in(&path);
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        let content = String::from_utf8_lossy(&content);
        for secret in SECRETS {
            assert!(!content.contains(secret), "{secret} in {}", path.display());
        }
    }
}

#[test]
fn a_key_is_encrypted_when_the_environment_has_a_password() {
    for text in [WORDS, NSEC, SECRET_HEX] {
        let owner = Owner::new();
        let file = owner.write("password", format!("{PASSWORD}\n"));
        let by_file = [("AGENT_COMPUTE_PASSWORD_FILE", file.to_str().unwrap())];
        let ran = owner.import(text, &by_file);
        assert_eq!(ran.json()["encrypted"], true, "{ran:?}");
        owner.keeps_nothing_plain();
        assert_eq!(owner.kept()["pubkey"], PUBKEY);
        #[cfg(unix)]
        assert_eq!(mode(&owner.identity_file()), 0o600);
        // The same password, by another way.
        assert_eq!(owner.account(&WITH_PASSWORD), PUBKEY);
    }
    let owner = Owner::new();
    let made = owner.run_with(&WITH_PASSWORD, &["identity", "new", "--json"]);
    assert_eq!(made.json()["encrypted"], true, "{made:?}");
    assert_eq!(owner.account(&WITH_PASSWORD), made.json()["pubkey"]);
}

#[test]
fn a_key_that_is_made_on_first_use_is_encrypted_too() {
    let owner = Owner::new();
    let first = owner.balance(&WITH_PASSWORD);
    assert!(first.err.contains("made a new key"), "{first:?}");
    assert_eq!(owner.kept()["protection"], "password");
    assert_eq!(
        owner.balance(&WITH_PASSWORD).json()["account"],
        first.json()["account"]
    );
}

#[test]
fn the_demo_encrypts_keys_that_stay_and_no_others() {
    let owner = Owner::new();
    let home = owner.home();
    let demo = ["demo", "--home", home.to_str().unwrap()];
    let ran = owner.run_with(&WITH_PASSWORD, &demo);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(owner.kept()["protection"], "password");
    let missing = owner.run(&demo);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.err.contains("is encrypted"), "{missing:?}");
    let fleeting = owner.run_with(&[("AGENT_COMPUTE_PASSWORD", "weak")], &["demo"]);
    assert_eq!(fleeting.code, Some(0), "{fleeting:?}");
}

#[test]
fn who_it_is_and_what_was_spent_is_told_without_the_password() {
    let owner = Owner::encrypted();
    let shown = owner.run(&["identity", "show", "--json"]);
    let json = shown.json();
    assert_eq!(json["pubkey"], PUBKEY);
    assert_eq!(json["npub"], NPUB);
    assert_eq!(json["source"], "file");
    assert_eq!(json["encrypted"], true);
    assert!(owner.run(&["identity", "show"]).out.contains("encrypted"));
    for args in [&["history", "--json"][..], &["budget", "--json"]] {
        let ran = owner.run(args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let unknown = owner.run(&["show", &"ab".repeat(16)]);
    assert!(!unknown.err.contains("encrypted"), "{unknown:?}");
}

#[test]
fn whatever_needs_the_key_says_which_password_is_missing_and_asks_nobody() {
    let owner = Owner::encrypted();
    let relay = ["--relay", "ws://127.0.0.1:1", "--wallet", "sim", "--json"];
    for args in [
        &["--prompt", "x"][..],
        &["wallet", "balance"],
        &["wallet", "address"],
        &["recover"],
        &["identity", "password"],
        &["identity", "password", "--remove"],
    ] {
        let all: Vec<&str> = args.iter().chain(&relay).copied().collect();
        let message = owner.run(&all).usage();
        for said in [
            "identity.enc",
            "AGENT_COMPUTE_PASSWORD",
            "AGENT_COMPUTE_PASSWORD_FILE",
        ] {
            assert!(message.contains(said), "{args:?}: {message}");
        }
    }
    let backup = owner.run(&["identity", "backup", "--yes"]);
    assert_eq!(
        (backup.code, backup.out.as_str()),
        (Some(2), ""),
        "{backup:?}"
    );

    let mut seller = owner.command(PROVIDER, &["identity", "new", "--json"]);
    finish(seller.envs(WITH_PASSWORD), b"").json();
    let sell = ["--create-channel", "--backend", "echo"];
    let all: Vec<&str> = sell.iter().chain(&relay).copied().collect();
    let message = finish(&mut owner.command(PROVIDER, &all), b"").usage();
    assert!(message.contains("provider/identity.enc"), "{message}");
}

#[test]
fn a_wrong_password_is_told_from_a_damaged_file() {
    let owner = Owner::encrypted();
    for wrong in [OTHER, "four purple lamp", "FOUR PURPLE LAMPS", "x"] {
        let message = owner.balance(&[("AGENT_COMPUTE_PASSWORD", wrong)]).usage();
        assert!(message.contains("wrong password"), "{message}");
        assert!(message.contains("identity.enc"), "{message}");
        assert!(message.contains("backup"), "{message}");
    }
    let whole = std::fs::read(owner.identity_file()).unwrap();
    for at in [0, 10, 40, 150, 200, 300, 400, whole.len() - 4] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        std::fs::write(owner.identity_file(), &altered).unwrap();
        for content in [&altered, &whole[..at].to_vec()] {
            std::fs::write(owner.identity_file(), content).unwrap();
            let message = owner.balance(&WITH_PASSWORD).usage();
            assert!(!message.contains("wrong password"), "{at}: {message}");
            assert!(message.contains("identity.enc"), "{message}");
            assert_eq!(&std::fs::read(owner.identity_file()).unwrap(), content);
        }
    }
    std::fs::write(owner.identity_file(), &whole).unwrap();
    assert_eq!(owner.account(&WITH_PASSWORD), PUBKEY);
}

#[test]
fn a_weak_password_is_refused_with_the_reason_and_nothing_is_made() {
    for (weak, reason) in [
        ("1234", "fewer than 10 characters"),
        ("aaaaaaaaaaaaaaaa", "repeats"),
        ("abcdefghijklmn", "runs along"),
        ("Password123!", "tried first"),
        ("margaret-hamilton", "name of the account"),
        (PUBKEY, "name of the account"),
    ] {
        let owner = Owner::new();
        let variables = [
            ("AGENT_COMPUTE_PASSWORD", weak),
            ("USER", "margaret-hamilton"),
        ];
        let import = owner.import(WORDS, &variables).usage();
        assert!(import.contains(reason), "{weak}: {import}");
        assert!(import.contains("four words"), "{import}");
        assert!(!import.contains(weak), "{import}");
        if weak != PUBKEY {
            owner
                .run_with(&variables, &["identity", "new", "--json"])
                .usage();
            owner.balance(&variables).usage();
        }
        assert!(!owner.identity_file().exists());
    }
}

#[test]
fn a_plain_file_keeps_working_beside_a_password_and_how_to_encrypt_it_is_told() {
    let owner = Owner::plain();
    assert_eq!(owner.balance(&[]).err, "");
    for password in [PASSWORD, "weak"] {
        let ran = owner.balance(&[("AGENT_COMPUTE_PASSWORD", password)]);
        assert!(ran.json()["account"].as_str().unwrap().ends_with(PUBKEY));
        assert!(ran.err.contains("identity password"), "{ran:?}");
    }
    assert_eq!(owner.kept()["protection"], "none");
    let shown = owner.run(&["identity", "show", "--json"]).json();
    assert_eq!(shown["encrypted"], false);
    let elsewhere = owner.run_with(
        &[("NOSTR_SECRET_KEY", NSEC)],
        &["identity", "show", "--json"],
    );
    assert_eq!(elsewhere.json()["encrypted"], Value::Null);
}

#[test]
fn an_ncryptsec_is_opened_with_one_password_and_kept_under_another() {
    let text = ncryptsec("weak");
    let opens = ("AGENT_COMPUTE_PASSWORD", "weak");
    let owner = Owner::new();
    let message = owner.import(&text, &[opens]).usage();
    assert!(message.contains("too weak"), "{message}");
    let message = owner.import(&text, &[]).usage();
    assert!(message.contains("AGENT_COMPUTE_PASSWORD"), "{message}");
    let message = owner
        .import(&text, &[("AGENT_COMPUTE_PASSWORD", OTHER)])
        .usage();
    assert!(message.contains("wrong password"), "{message}");
    assert!(!owner.identity_file().exists());

    let ran = owner.import(&text, &[opens, ("AGENT_COMPUTE_NEW_PASSWORD", PASSWORD)]);
    assert_eq!(ran.json()["pubkey"], PUBKEY);
    owner.keeps_nothing_plain();
    assert_eq!(owner.account(&WITH_PASSWORD), PUBKEY);
}

#[test]
fn the_most_talkative_log_tells_no_secret() {
    let owner = Owner::encrypted();
    let loud = ("RUST_LOG", "trace");
    let right = ("AGENT_COMPUTE_PASSWORD", PASSWORD);
    let new = ("AGENT_COMPUTE_NEW_PASSWORD", OTHER);
    owner.balance(&[loud, right]).json();
    owner
        .balance(&[loud, ("AGENT_COMPUTE_PASSWORD", OTHER)])
        .usage();
    owner
        .run_with(&[loud, right, new], &["identity", "password", "--json"])
        .json();
    owner
        .run_with(&[loud, right, new], &["identity", "password", "--json"])
        .usage();
}

#[test]
fn a_hostile_file_costs_nothing() {
    let owner = Owner::encrypted();
    let whole = std::fs::read_to_string(owner.identity_file()).unwrap();
    for (from, to) in [
        (":65536,", ":4294967295,"),
        ("\"passes\":3", "\"passes\":4294967295"),
        ("\"sealed\":\"", "\"sealed\":[[[[[[[\""),
    ] {
        owner.write("home/customer/identity.enc", whole.replacen(from, to, 1));
        owner.balance(&WITH_PASSWORD).usage();
    }
    owner.write("home/customer/identity.enc", "[".repeat(10_000));
    owner.balance(&WITH_PASSWORD).usage();
    owner.write("home/customer/identity.enc", vec![b' '; 50_000_000]);
    assert!(owner.balance(&WITH_PASSWORD).usage().contains("larger"));
}

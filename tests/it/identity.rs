//! Keys, through the real programs.

mod backup;
mod changes;
mod passwords;
#[cfg(target_os = "linux")]
mod terminal;
mod usage;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};

use agent_compute::identity::keystore;
use serde_json::Value;
use tempfile::TempDir;

const CUSTOMER: &str = env!("CARGO_BIN_EXE_agent-customer");
const PROVIDER: &str = env!("CARGO_BIN_EXE_agent-provider");

/// The first vector of NIP-06.
const WORDS: &str =
    "leader monkey parrot ring guide accident before fence cannon height naive bean";
const SECRET_HEX: &str = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a";
const NSEC: &str = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";
const PUBKEY: &str = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917";
const NPUB: &str = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu";
/// The public key of the second vector's words.
const WORDS_B: &str = "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid \
     proud rude strong choose busy staff weather area salt hollow arm fade";
const PUBKEY_B: &str = "d41b22899549e1f3d335a31002cfd382174006e166d3e658e3a5eecdb6463573";

/// What no program may print, and no encrypted folder hold.
const SECRETS: [&str; 8] = [
    SECRET_HEX,
    NSEC,
    "nsec10allq0gjx7fddtze",
    "monkey",
    "parrot",
    "bleak",
    PASSWORD,
    OTHER,
];
const PASSWORD: &str = "four purple lamps";
const OTHER: &str = "nine green kettles";

/// A home of one's own, and programs that see nothing else of this machine.
struct Owner {
    folder: TempDir,
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: std::process::Output) -> Self {
        let ran = Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        ran
    }

    fn says_no_secret(&self) {
        let printed = format!("{}{}", self.out, self.err);
        for secret in SECRETS {
            assert!(!printed.contains(secret), "{secret} in {self:?}");
        }
    }

    /// The JSON object that stdout is.
    fn json(&self) -> Value {
        let lines: Vec<&str> = self.out.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        serde_json::from_str(lines[0]).unwrap()
    }

    /// The message of the usage error that stdout ends in.
    fn usage(&self) -> String {
        assert_eq!(self.code, Some(2), "{self:?}");
        let json = self.json();
        assert_eq!(json["v"], 1);
        assert_eq!(json["event"], "error");
        assert_eq!(json["code"], "usage");
        assert_eq!(json["retryable"], false);
        assert_eq!(json["paid_msat"], 0);
        assert_eq!(json["reserved_msat"], 0);
        assert_eq!(json["purchase_id"], Value::Null);
        json["message"].as_str().unwrap().to_owned()
    }
}

impl Owner {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn identity_file(&self) -> PathBuf {
        self.home().join("customer/identity.enc")
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("AGENT_COMPUTE_HOME", self.home())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(&mut self.command(CUSTOMER, args), b"")
    }

    fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Ran {
        let mut command = self.command(CUSTOMER, args);
        finish(command.envs(variables.iter().copied()), b"")
    }

    fn run_on(&self, stdin: &str, args: &[&str]) -> Ran {
        finish(&mut self.command(CUSTOMER, args), stdin.as_bytes())
    }

    fn pubkey(&self, variables: &[(&str, &str)]) -> (String, String) {
        let json = self
            .run_with(variables, &["identity", "show", "--json"])
            .json();
        assert_eq!(json["v"], 1);
        let text = |name: &str| json[name].as_str().unwrap().to_owned();
        (text("pubkey"), text("source"))
    }
}

/// Runs a program to its end. No secret of these tests may be in what it prints.
fn finish(command: &mut Command, stdin: &[u8]) -> Ran {
    let ran = finish_aloud(command, stdin);
    ran.says_no_secret();
    ran
}

/// Runs a program to its end, whatever it prints.
fn finish_aloud(command: &mut Command, stdin: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends without reading is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    Ran::of(child.wait_with_output().unwrap())
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn each_program_makes_a_key_of_its_own_on_first_use_and_keeps_it() {
    let owner = Owner::new();
    let first = owner.run(&["identity", "show", "--json"]);
    assert!(first.err.contains("made a new key"), "{first:?}");
    let again = owner.run(&["identity", "show", "--json"]);
    assert_eq!(first.json(), again.json());
    assert_eq!(again.err, "");

    let mut provider = owner.command(PROVIDER, &["identity", "show", "--json"]);
    let provider = finish(&mut provider, b"").json();
    assert_ne!(provider["pubkey"], first.json()["pubkey"]);

    let stranger = Owner::new().run(&["identity", "show", "--json"]).json();
    assert_ne!(stranger["pubkey"], first.json()["pubkey"]);
}

#[cfg(unix)]
#[test]
fn keys_are_for_their_owner_alone() {
    let owner = Owner::new();
    owner.run(&["identity", "show"]);
    assert_eq!(mode(&owner.identity_file()), 0o600);
    assert_eq!(mode(&owner.home().join("customer")), 0o700);
    assert_eq!(mode(&owner.home()), 0o700);
}

#[test]
fn words_and_keys_are_imported_from_stdin_and_files_and_shown_as_public_keys() {
    let shouted = WORDS.to_uppercase().replace(' ', "  \n");
    for text in [WORDS, &shouted, NSEC, SECRET_HEX] {
        let owner = Owner::new();
        let ran = owner.run_on(text, &["identity", "import", "--json"]);
        assert_eq!(ran.json()["pubkey"], PUBKEY, "{ran:?}");
        assert_eq!(ran.json()["npub"], NPUB);
        assert_eq!(owner.pubkey(&[]), (PUBKEY.to_owned(), "file".to_owned()));
    }
    let owner = Owner::new();
    let file = owner.write("words", WORDS_B);
    let from = format!("@{}", file.display());
    let ran = owner.run(&["identity", "import", &from]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains(PUBKEY_B));
    assert!(owner.run(&["identity", "show"]).out.contains("npub1"));
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    let owner = Owner::new();
    let mut words = vec!["--json", "identity", "import"];
    words.extend(WORDS.split(' '));
    for args in [
        &["--json", "identity", "import", NSEC][..],
        &words,
        &["--json", "--select", NSEC, "--prompt", "x"],
        &["--json", NSEC],
        &["--json", "--relay", NSEC, "history"],
        &["--json", "--nonsense", NSEC],
    ] {
        owner.run(args).usage();
        let plain = owner.run(&args[1..]);
        assert_eq!(plain.code, Some(2), "{plain:?}");
        assert_eq!(plain.out, "");
    }
    assert!(!owner.identity_file().exists());
}

#[test]
fn an_identity_is_never_overwritten() {
    let owner = Owner::new();
    let made = owner.run(&["identity", "new", "--words", "24", "--json"]);
    let pubkey = made.json()["pubkey"].clone();
    let kept: Value =
        serde_json::from_slice(&std::fs::read(owner.identity_file()).unwrap()).unwrap();
    assert_eq!(kept["v"], 1);
    assert_eq!(kept["protection"], "none");
    assert_eq!(kept["words"].as_str().unwrap().split(' ').count(), 24);

    let again = owner.run(&["identity", "new", "--json"]).usage();
    assert!(again.contains("never overwritten"), "{again}");
    let import = owner
        .run_on(NSEC, &["identity", "import", "--json"])
        .usage();
    assert!(import.contains("never overwritten"), "{import}");
    assert_eq!(owner.pubkey(&[]).0, pubkey.as_str().unwrap());

    std::fs::write(owner.identity_file(), "").unwrap();
    owner.run(&["identity", "new", "--json"]).usage();
    assert_eq!(std::fs::read(owner.identity_file()).unwrap(), b"");
}

#[test]
fn what_is_no_key_is_not_imported() {
    let owner = Owner::new();
    let twisted = WORDS.replace("bean", "monkey");
    for text in ["", " \n", "garbage", "leader parrot", &twisted, &NSEC[..40]] {
        owner
            .run_on(text, &["identity", "import", "--json"])
            .usage();
    }
    let long = "a".repeat(1_000_000);
    owner
        .run_on(&long, &["identity", "import", "--json"])
        .usage();
    assert!(!owner.identity_file().exists());
}

#[test]
fn the_environment_comes_before_the_configuration_and_that_before_the_file() {
    let owner = Owner::new();
    let (made, source) = owner.pubkey(&[]);
    assert_eq!(source, "file");

    let words = owner.write("words", WORDS_B);
    let config = format!("[identity]\nmnemonic = \"file:{}\"\n", words.display());
    owner.write("home/config.toml", config);
    let of_config = (PUBKEY_B.to_owned(), "config".to_owned());
    assert_eq!(owner.pubkey(&[]), of_config);

    let of_environment = (PUBKEY.to_owned(), "environment".to_owned());
    for variable in [
        ("NOSTR_SECRET_KEY", NSEC),
        ("NOSTR_SECRET_KEY", SECRET_HEX),
        ("AGENT_COMPUTE_MNEMONIC", WORDS),
    ] {
        assert_eq!(owner.pubkey(&[variable]), of_environment);
    }
    let nsec = owner.write("nsec", NSEC);
    let by_file = ("NOSTR_SECRET_KEY_FILE", nsec.to_str().unwrap());
    assert_eq!(owner.pubkey(&[by_file]), of_environment);
    assert_eq!(owner.pubkey(&[("NOSTR_SECRET_KEY", "")]), of_config);

    std::fs::remove_file(owner.home().join("config.toml")).unwrap();
    assert_eq!(owner.pubkey(&[]).0, made);
}

#[test]
fn a_place_that_is_broken_is_an_error_and_no_other_key_is_used() {
    let owner = Owner::new();
    let show = ["identity", "show", "--json"];
    for variables in [
        &[("NOSTR_SECRET_KEY", "garbage")][..],
        &[("AGENT_COMPUTE_MNEMONIC", "leader monkey")],
        &[("NOSTR_SECRET_KEY_FILE", "/nowhere")],
        &[
            ("NOSTR_SECRET_KEY", NSEC),
            ("AGENT_COMPUTE_MNEMONIC", WORDS),
        ],
        &[
            ("NOSTR_SECRET_KEY", NSEC),
            ("NOSTR_SECRET_KEY_FILE", "/nowhere"),
        ],
    ] {
        owner.run_with(variables, &show).usage();
    }
    owner.write(
        "home/config.toml",
        "[identity]\nmnemonic = \"env:NOT_SET\"\n",
    );
    assert!(owner.run(&show).usage().contains("NOT_SET"));
    assert!(!owner.identity_file().exists());

    std::fs::remove_file(owner.home().join("config.toml")).unwrap();
    for content in [
        "",
        "{}",
        r#"{"v":9,"protection":"none"}"#,
        &format!(r#"{{"v":1,"protection":"magic","words":"{WORDS}"}}"#),
        &format!(r#"{{"v":1,"protection":"none","words":["{WORDS}"]}}"#),
    ] {
        owner.write("home/customer/identity.enc", content);
        let message = owner.run(&show).usage();
        assert!(message.contains("identity.enc"), "{message}");
        let kept = std::fs::read_to_string(owner.identity_file()).unwrap();
        assert_eq!(kept, content);
    }
}

#[test]
fn programs_that_start_at_once_end_up_with_one_identity() {
    let owner = Owner::new();
    let path = owner.identity_file();
    let start = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (path, start) = (path.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                keystore::open_or_create(&path).unwrap()
            })
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    let keys: BTreeSet<String> = ends
        .iter()
        .map(|(identity, _)| identity.public_key().to_hex())
        .collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(ends.iter().filter(|(_, made)| *made).count(), 1);
    assert_eq!(keys.into_iter().next().unwrap(), owner.pubkey(&[]).0);
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "only the identity stays");

    let other = Owner::new();
    let shows: Vec<_> = (0..6)
        .map(|_| {
            other
                .command(CUSTOMER, &["identity", "show", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let shown: BTreeSet<Vec<u8>> = shows
        .into_iter()
        .map(|child| child.wait_with_output().unwrap().stdout)
        .collect();
    assert_eq!(shown.len(), 1);
}

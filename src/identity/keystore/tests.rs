#![allow(clippy::unwrap_used)]

use super::*;
use crate::secret::Environment;

const WORDS: &str =
    "leader monkey parrot ring guide accident before fence cannon height naive bean";

/// Reads what is at `path` to its end, which must fail.
fn problem(path: &Path) -> String {
    match load(path) {
        Err(error) => error.to_string(),
        Ok(stored) => stored
            .unwrap()
            .identity(&mut Typed::new(&[]))
            .unwrap_err()
            .to_string(),
    }
}

/// Somebody who knows these passwords, one after the other.
struct Typed<'a>(&'a [&'a str]);

impl<'a> Typed<'a> {
    fn new(passwords: &'a [&'a str]) -> Self {
        Self(passwords)
    }
}

impl Ask for Typed<'_> {
    fn ask(&mut self, _: Wanted<'_>, refused: u32) -> Result<Option<Secret>, IdentityError> {
        Ok(self.0.get(refused as usize).map(|text| Secret::new(*text)))
    }
}

const PUBKEY: &str = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917";
const HEX: &str = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a";
const PASSWORD: &str = "four purple lamps";

fn words() -> Kept {
    Kept::Words(Secret::new(WORDS))
}

fn password(text: &str) -> StrongPassword {
    StrongPassword::new(Secret::new(text), &[]).unwrap()
}

/// A file that is encrypted with little effort.
fn encrypted(folder: &Path, kept: &Kept) -> PathBuf {
    let path = folder.join("identity.enc");
    let content = encode(&path, kept, Some(&password(PASSWORD)), Cost::CHEAP).unwrap();
    std::fs::write(&path, &content.0).unwrap();
    path
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_put_in_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let nsec = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";
    for (name, text) in [("words", WORDS), ("key", nsec)] {
        let path = folder.path().join("made").join(name);
        let kept = Kept::from_text(&Secret::new(text), &mut &Environment::of([])).unwrap();
        assert!(load(&path).unwrap().is_none());
        create(&path, &kept, None).unwrap();
        let stored = load(&path).unwrap().unwrap();
        let identity = stored.identity(&mut &Environment::of([])).unwrap();
        assert_eq!(identity.public_key().to_hex(), PUBKEY);
        assert!(matches!(
            create(&path, &kept, None),
            Err(IdentityError::Exists(_))
        ));
    }
    let left = std::fs::read_dir(folder.path().join("made")).unwrap();
    assert_eq!(left.count(), 2, "no temporary file stays");
}

#[test]
fn a_file_that_is_not_understood_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    for (i, (content, says)) in [
        ("", "no identity envelope"),
        ("not json SECRET", "no identity envelope"),
        (r#"{"v":1,"protection":"none","words":42}"#, "envelope"),
        (r#"{"v":"SECRET","protection":"none"}"#, "envelope"),
        (
            r#"{"v":2,"protection":"none","words":"SECRET"}"#,
            "version is 2",
        ),
        (
            r#"{"v":1,"protection":"hardware","data":"SECRET"}"#,
            "newer program",
        ),
        (
            r#"{"v":1,"protection":"password","data":"SECRET"}"#,
            "envelope",
        ),
        (r#"{"v":1,"protection":"none"}"#, "one of them"),
        (
            r#"{"v":1,"protection":"none","words":"SECRET","secret_key":"SECRET"}"#,
            "one of them",
        ),
        (r#"{"v":1,"protection":"none","words":"SECRET"}"#, "1 words"),
        (
            r#"{"v":1,"protection":"none","secret_key":"SECRET"}"#,
            "hex",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(i.to_string());
        std::fs::write(&path, content).unwrap();
        let error = problem(&path);
        assert!(error.contains(says), "{content}: {error}");
        assert!(!error.contains("SECRET"), "{error}");
        assert!(open_or_create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    let path = folder.path().join("large");
    std::fs::write(&path, " ".repeat(20_000)).unwrap();
    assert!(problem(&path).contains("larger"));
}

#[test]
fn an_encrypted_file_says_whose_it_is_and_opens_with_its_password_only() {
    let folder = tempfile::tempdir().unwrap();
    for kept in [words(), Kept::SecretKey(Secret::new(HEX))] {
        let path = encrypted(folder.path(), &kept);
        let text = std::fs::read_to_string(&path).unwrap();
        for secret in ["monkey", HEX, PASSWORD] {
            assert!(!text.contains(secret));
        }
        let stored = load(&path).unwrap().unwrap();
        assert!(stored.is_encrypted());
        assert_eq!(stored.public_key().unwrap().to_hex(), PUBKEY);
        let open = |passwords: &[&str]| stored.open(&mut Typed::new(passwords));
        assert_eq!(open(&[PASSWORD]).unwrap(), kept);
        assert_eq!(
            open(&["wrong", "Four Purple Lamps", PASSWORD]).unwrap(),
            kept
        );
        assert!(matches!(open(&[]), Err(IdentityError::Locked(_))));
        assert!(matches!(
            open(&["wrong", ""]),
            Err(IdentityError::WrongFilePassword(_))
        ));
        assert!(!format!("{stored:?}").contains("monkey"));
    }
}

#[test]
fn the_length_of_what_is_encrypted_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let twenty_four = mnemonic::generate(WordCount::TwentyFour).unwrap();
    let mut lengths: Vec<usize> = [
        words(),
        Kept::Words(twenty_four),
        Kept::SecretKey(Secret::new(HEX)),
    ]
    .iter()
    .map(|kept| std::fs::read(encrypted(folder.path(), kept)).unwrap().len())
    .collect();
    lengths.dedup();
    assert_eq!(lengths.len(), 1);
}

#[test]
fn a_file_encrypted_twice_shares_nothing_secret() {
    let folder = tempfile::tempdir().unwrap();
    let read = || {
        let bytes = std::fs::read(encrypted(folder.path(), &words())).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    let (a, b) = (read(), read());
    for field in ["nonce", "sealed", "checksum"] {
        assert_ne!(a[field], b[field]);
    }
    assert_ne!(a["kdf"]["salt"], b["kdf"]["salt"]);
}

/// A file that ends early or in which any byte is another is damaged, and told so without a password. It is
/// never taken for another key, and never for a wrong password.
#[test]
fn damage_anywhere_is_found_before_a_password_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = encrypted(folder.path(), &words());
    let whole = std::fs::read(&path).unwrap();
    let last = whole.len() - 1;
    for at in 0..last {
        assert!(envelope::decode(&whole[..at]).is_err(), "cut at {at}");
        for mask in [1, 0x20, 0x80] {
            let mut altered = whole.clone();
            altered[at] ^= mask;
            let problem = envelope::decode(&altered).expect_err(&format!("{mask} at {at}"));
            assert!(!problem.contains("password"), "{problem}");
        }
    }
    assert!(
        envelope::decode(&whole[..last]).is_ok(),
        "the last newline is not needed"
    );
}

/// The same by somebody who knows how to make a checksum.
#[test]
fn what_is_altered_on_purpose_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = encrypted(folder.path(), &words());
    let whole = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let other = Kept::SecretKey(Secret::new("11".repeat(32)))
        .identity()
        .unwrap();
    let strange =
        nostr::base64::Engine::encode(&nostr::base64::engine::general_purpose::STANDARD, [9; 16]);
    for (from, to) in [
        (PUBKEY, other.public_key().to_hex().as_str()),
        (value["kdf"]["salt"].as_str().unwrap(), &strange),
        ("\"memory_kib\":8", "\"memory_kib\":9"),
        ("\"passes\":1", "\"passes\":2"),
        (value["nonce"].as_str().unwrap(), &strange[..16]),
        (value["sealed"].as_str().unwrap(), ""),
        (value["sealed"].as_str().unwrap(), &strange),
    ] {
        let altered = envelope::with_checksum(&whole.replacen(from, to, 1));
        let Ok(Content::Encrypted(sealed)) = envelope::decode(altered.as_bytes()) else {
            panic!("{from} is not read as {to}");
        };
        let opened = sealed.open(&Secret::new(PASSWORD));
        assert!(matches!(opened, Err(NotOpened::WrongPassword)), "{from}");
    }
}

#[test]
fn absurd_parameters_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = encrypted(folder.path(), &words());
    let whole = std::fs::read_to_string(&path).unwrap();
    for (from, to, says) in [
        ("\"memory_kib\":8", "\"memory_kib\":4294967295", "more than"),
        ("\"memory_kib\":8", "\"memory_kib\":0", "no sense"),
        ("\"memory_kib\":8", "\"memory_kib\":-1", "envelope"),
        ("\"memory_kib\":8", "\"memory_kib\":1e9", "envelope"),
        ("\"passes\":1", "\"passes\":4294967295", "more than"),
        ("\"passes\":1", "\"passes\":0", "no sense"),
        ("\"lanes\":1", "\"lanes\":16777215", "more than"),
        ("argon2id", "argon2d", "newer program"),
        ("aes-256-gcm", "rot13", "newer program"),
        (PUBKEY, &"0".repeat(64), "pubkey"),
        (PUBKEY, "", "pubkey"),
        ("\"salt\":\"", "\"salt\":\"AAAA", "salt"),
        ("\"nonce\":\"", "\"nonce\":\"!", "nonce"),
        ("\"sealed\":\"", "\"sealed\":\"!", "base64"),
    ] {
        let altered = whole.replacen(from, to, 1);
        let altered = match says {
            "envelope" => altered,
            _ => envelope::with_checksum(&altered),
        };
        let problem = envelope::decode(altered.as_bytes()).expect_err(to);
        assert!(problem.contains(says), "{to}: {problem}");
    }
}

#[test]
fn a_file_with_a_key_that_is_not_the_one_it_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = encrypted(
        folder.path(),
        &Kept::SecretKey(Secret::new("11".repeat(32))),
    );
    let Content::Encrypted(ours) = load(&path).unwrap().unwrap().content else {
        panic!("not encrypted");
    };
    let lie = envelope::sealed_as(&words(), &ours, &Secret::new(PASSWORD));
    std::fs::write(&path, lie).unwrap();
    let stored = load(&path).unwrap().unwrap();
    let error = stored.identity(&mut Typed::new(&[PASSWORD])).unwrap_err();
    assert!(error.to_string().contains("names"), "{error}");
}

#[test]
fn a_password_is_set_changed_and_removed_and_nothing_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.enc");
    create(&path, &words(), None).unwrap();
    let change = |from: &[&str], to: Option<&str>| {
        let stored = load(&path).unwrap().unwrap();
        let kept = stored.open(&mut Typed::new(from)).unwrap();
        let to = to.map(password);
        assert!(!stored.replace(&kept, to.as_ref()).unwrap());
        assert_eq!(names_in(folder.path()), ["identity.enc"]);
        std::fs::read_to_string(&path).unwrap()
    };
    assert!(!change(&[], Some(PASSWORD)).contains("monkey"));
    assert!(!change(&[PASSWORD], Some("another long phrase")).contains("monkey"));
    assert!(change(&["another long phrase"], None).contains("monkey"));
}

#[test]
fn a_change_of_what_is_no_longer_there_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.enc");
    create(&path, &words(), None).unwrap();
    let mine = load(&path).unwrap().unwrap();
    let theirs = encrypted(folder.path(), &words());
    let now = std::fs::read(&theirs).unwrap();
    assert!(matches!(
        mine.replace(&words(), None),
        Err(IdentityError::Changed(_))
    ));
    assert_eq!(std::fs::read(&path).unwrap(), now);

    let locked = File::open(folder.path()).unwrap();
    locked.try_lock().unwrap();
    let stored = load(&path).unwrap().unwrap();
    assert!(matches!(
        stored.replace(&words(), None),
        Err(IdentityError::Changed(_))
    ));
    drop(locked);
    stored.replace(&words(), None).unwrap();
}

#[test]
fn what_a_crash_left_beside_an_encrypted_file_is_cleared_away_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = encrypted(folder.path(), &words());
    let left = folder.path().join(".identity-0123456789abcdef.tmp");
    let others = [
        ".identity-x.tmp",
        ".agent-0123456789abcdef.tmp",
        "identity.enc.bak",
    ];
    for name in others {
        std::fs::write(folder.path().join(name), "not ours").unwrap();
    }
    std::fs::write(&left, WORDS).unwrap();
    let stored = load(&path).unwrap().unwrap();
    // Somebody who is at work there needs it yet.
    let busy = File::open(folder.path()).unwrap();
    busy.try_lock().unwrap();
    stored.open(&mut Typed::new(&[PASSWORD])).unwrap();
    assert!(left.exists());
    drop(busy);
    stored.open(&mut Typed::new(&[PASSWORD])).unwrap();
    assert!(!left.exists());
    assert_eq!(names_in(folder.path()).len(), 1 + others.len());
}

#[cfg(unix)]
#[test]
fn what_a_link_leads_to_is_encrypted_and_another_name_of_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("vault").join("key");
    create(&real, &words(), None).unwrap();
    let path = folder.path().join("identity.enc");
    std::os::unix::fs::symlink(&real, &path).unwrap();
    std::fs::hard_link(&real, folder.path().join("twin")).unwrap();
    let stored = load(&path).unwrap().unwrap();
    let another_name = stored.replace(&words(), Some(&password(PASSWORD))).unwrap();
    assert!(another_name);
    assert!(path.is_symlink());
    assert!(!std::fs::read_to_string(&real).unwrap().contains("monkey"));
    assert!(load(&path).unwrap().unwrap().is_encrypted());
}

#[test]
fn a_first_key_is_encrypted_with_the_password_of_the_environment_if_it_is_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.enc");
    let weak = Environment::of([(PASSWORD_VARIABLE, "12345")]);
    let error = open_or_create_with(&path, &weak, &mut &weak).unwrap_err();
    assert!(matches!(error, IdentityError::WeakPassword(_)));
    assert!(!path.exists());

    let good = Environment::of([(PASSWORD_VARIABLE, PASSWORD)]);
    let (made, true) = open_or_create_with(&path, &good, &mut &good).unwrap() else {
        panic!("not made");
    };
    assert!(load(&path).unwrap().unwrap().is_encrypted());
    let again = open_or_create_with(&path, &good, &mut &good).unwrap();
    assert_eq!(again, (made, false));
}

#[test]
fn a_file_that_has_a_weak_password_opens_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.enc");
    let content = envelope::encrypted(&words(), &Secret::new("1234"), Cost::CHEAP).unwrap();
    std::fs::write(&path, &content.0).unwrap();
    let stored = load(&path).unwrap().unwrap();
    assert_eq!(stored.open(&mut Typed::new(&["1234"])).unwrap(), words());
}

/// Written once by the first version that could; every later one must open it.
#[test]
fn the_golden_file_opens_for_ever() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/identity/encrypted-v1.json");
    let stored = load(&path).unwrap().unwrap();
    assert_eq!(stored.public_key().unwrap().to_hex(), PUBKEY);
    let kept = stored.open(&mut Typed::new(&["caf\u{e9} four purple lamps"]));
    assert_eq!(kept.unwrap(), words());
}

//! `identity password`: set, changed and taken away, raced and killed.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Barrier};

use super::{CUSTOMER, OTHER, Owner, PASSWORD, PUBKEY, Ran, mode};
use crate::harness::PATIENCE;

const CURRENT: &str = "AGENT_COMPUTE_PASSWORD";
const NEW: &str = "AGENT_COMPUTE_NEW_PASSWORD";

impl Owner {
    fn change(&self, variables: &[(&str, &str)], more: &[&str]) -> Ran {
        let args = ["identity", "password", "--json"];
        let all: Vec<&str> = args.iter().chain(more).copied().collect();
        self.run_with(variables, &all)
    }

    fn opens_with(&self, password: &str) -> bool {
        let args = ["wallet", "address", "--wallet", "sim"];
        let ran = self.run_with(&[(CURRENT, password)], &args);
        assert!(
            ran.code == Some(0) || ran.err.contains("wrong password"),
            "{ran:?}"
        );
        ran.out.trim().ends_with(PUBKEY)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.identity_file().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_password_is_set_changed_and_taken_away_and_no_copy_stays() {
    let owner = Owner::plain();
    assert_eq!(
        owner.change(&[(CURRENT, PASSWORD)], &[]).json()["encrypted"],
        true
    );
    owner.keeps_nothing_plain();
    assert!(owner.opens_with(PASSWORD));

    let changed = owner.change(&[(CURRENT, PASSWORD), (NEW, OTHER)], &[]);
    assert_eq!(changed.json()["pubkey"], PUBKEY);
    owner.keeps_nothing_plain();
    assert!(owner.opens_with(OTHER) && !owner.opens_with(PASSWORD));
    assert_eq!(owner.names(), ["identity.enc"]);
    #[cfg(unix)]
    assert_eq!(mode(&owner.identity_file()), 0o600);

    let removed = owner.change(&[(CURRENT, OTHER)], &["--remove"]);
    assert_eq!(removed.json()["encrypted"], false);
    assert_eq!(owner.kept()["protection"], "none");
    assert_eq!(owner.names(), ["identity.enc"]);
    #[cfg(unix)]
    assert_eq!(mode(&owner.identity_file()), 0o600);
    // Once more changes nothing, and is no error.
    assert_eq!(owner.change(&[], &["--remove"]).json()["encrypted"], false);

    // The new password may stand by itself when there is none to replace.
    assert_eq!(owner.change(&[(NEW, OTHER)], &[]).json()["encrypted"], true);
    assert!(owner.opens_with(OTHER));
}

#[test]
fn what_is_refused_changes_nothing() {
    let owner = Owner::encrypted();
    let before = std::fs::read(owner.identity_file()).unwrap();
    for (variables, says) in [
        (&[(CURRENT, PASSWORD)][..], NEW),
        (
            &[(CURRENT, OTHER), (NEW, "six quiet copper doors")],
            "wrong password",
        ),
        (&[(NEW, OTHER)], "is encrypted"),
        (&[(CURRENT, PASSWORD), (NEW, "password")], "too weak"),
        (
            &[
                (CURRENT, PASSWORD),
                (NEW, OTHER),
                ("AGENT_COMPUTE_NEW_PASSWORD_FILE", "/x"),
            ],
            "both set",
        ),
    ] {
        let message = owner.change(variables, &[]).usage();
        assert!(message.contains(says), "{message}");
    }
    assert!(
        owner
            .change(&[(CURRENT, OTHER)], &["--remove"])
            .usage()
            .contains("wrong password")
    );
    assert_eq!(std::fs::read(owner.identity_file()).unwrap(), before);
    assert_eq!(owner.names(), ["identity.enc"]);

    let message = Owner::new().change(&[(NEW, OTHER)], &[]).usage();
    assert!(message.contains("identity new"), "{message}");
}

/// One of all that start from the same password has its way. The others say that they changed nothing, and
/// so it is: the file opens with the winner's password.
#[test]
fn of_several_changes_at_once_one_wins_and_the_others_say_so() {
    let owner = Arc::new(Owner::encrypted());
    let passwords: Vec<String> = (0..6)
        .map(|n| format!("{n} purple lamps in a row"))
        .collect();
    let barrier = Arc::new(Barrier::new(passwords.len()));
    let racers: Vec<_> = passwords
        .iter()
        .cloned()
        .map(|new| {
            let (owner, barrier) = (Arc::clone(&owner), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                owner.change(&[(CURRENT, PASSWORD), (NEW, &new)], &[])
            })
        })
        .collect();
    let ran: Vec<Ran> = racers
        .into_iter()
        .map(|racer| racer.join().unwrap())
        .collect();
    let winners: Vec<usize> = (0..ran.len())
        .filter(|&at| ran[at].code == Some(0))
        .collect();
    assert_eq!(winners.len(), 1, "{ran:?}");
    for (at, ran) in ran.iter().enumerate().filter(|(at, _)| *at != winners[0]) {
        let message = ran.usage();
        let told = message.contains("changed nothing") || message.contains("wrong password");
        assert!(told, "{at}: {message}");
    }
    assert!(owner.opens_with(&passwords[winners[0]]));
    assert_eq!(
        owner.names().first().map(String::as_str),
        Some("identity.enc")
    );
    assert!(!owner.names().iter().any(|name| name.ends_with(".tmp")));
}

/// Killed while the new file lies beside the old one, or soon after: what is there is whole, and is the old
/// one or the new one. What was left goes away when the encrypted file is next opened.
#[cfg(unix)]
#[test]
fn a_change_that_is_killed_leaves_the_old_file_or_the_new_one() {
    for (protected, more) in [(true, &[][..]), (true, &["--remove"]), (false, &[])] {
        for _ in 0..2 {
            let owner = if protected {
                Owner::encrypted()
            } else {
                Owner::plain()
            };
            let mut child = start(&owner, more);
            while_alive(&mut child, || {
                leftover(owner.identity_file().parent().unwrap())
            });
            child.kill().unwrap();
            child.wait().unwrap();
            match owner.kept()["protection"].as_str().unwrap() {
                "none" => assert_eq!(owner.pubkey(&[]).0, PUBKEY),
                _ => {
                    assert!(owner.opens_with(PASSWORD) || owner.opens_with(OTHER));
                    assert!(!leftover(owner.identity_file().parent().unwrap()));
                    owner.keeps_nothing_plain();
                }
            }
        }
    }
}

#[cfg(unix)]
fn start(owner: &Owner, more: &[&str]) -> Child {
    let args: Vec<&str> = ["identity", "password"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    owner
        .command(CUSTOMER, &args)
        .envs([(CURRENT, PASSWORD), (NEW, OTHER)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[cfg(unix)]
fn leftover(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).unwrap();
    entries
        .any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "tmp")))
}

/// Looks again and again until `seen`, or the child has ended.
#[cfg(unix)]
fn while_alive(child: &mut Child, mut seen: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !seen() && child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "neither seen nor ended");
        std::thread::yield_now();
    }
}

#[cfg(unix)]
#[test]
fn in_a_folder_that_can_not_be_written_the_file_stays_and_that_is_said() {
    use std::os::unix::fs::PermissionsExt as _;
    let owner = Owner::encrypted();
    let folder = owner.identity_file().parent().unwrap().to_owned();
    let set = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode));
    set(0o500).unwrap();
    if std::fs::write(folder.join("probe"), "").is_ok() {
        set(0o700).unwrap();
        println!("SKIPPED: this user may write to every folder (root)");
        return;
    }
    let message = owner
        .change(&[(CURRENT, PASSWORD), (NEW, OTHER)], &[])
        .usage();
    set(0o700).unwrap();
    assert!(message.contains("can't be read or written"), "{message}");
    assert!(owner.opens_with(PASSWORD));
}

#[cfg(unix)]
#[test]
fn a_file_that_root_changes_stays_its_owners() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let owner = Owner::encrypted();
    if chown(owner.identity_file(), Some(65_534), Some(65_534)).is_err() {
        println!("SKIPPED: only root can give a file away");
        return;
    }
    let variables = [(CURRENT, PASSWORD), (NEW, OTHER)];
    assert_eq!(owner.change(&variables, &[]).json()["encrypted"], true);
    let metadata = std::fs::metadata(owner.identity_file()).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (65_534, 65_534));
    assert_eq!(mode(&owner.identity_file()), 0o600);
}

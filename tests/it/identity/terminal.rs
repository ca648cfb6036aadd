//! What a person at a terminal is asked, through `script` of util-linux.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use super::{CUSTOMER, OTHER, Owner, PASSWORD, PROVIDER, PUBKEY, WORDS};
use crate::harness::{PATIENCE, eventually};

/// The question whose answer is shown as it is typed.
const SHOWN: &str = "Type yes";

/// A program on a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Terminal {
    /// `None`, and says so, where there is no `script`.
    fn open(owner: &Owner, args: &str) -> Option<Self> {
        Self::open_with(owner, args, &[])
    }

    fn open_with(owner: &Owner, args: &str, variables: &[(&str, &str)]) -> Option<Self> {
        Self::run(owner, &format!("{CUSTOMER} {args}"), variables)
    }

    fn run(owner: &Owner, line: &str, variables: &[(&str, &str)]) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            println!("SKIPPED: there is no `script` (util-linux), which lends a terminal");
            return None;
        }
        let mut child = owner
            .command("script", &["-qec", line, "/dev/null"])
            .env("PATH", "/usr/bin:/bin")
            .env("SHELL", "/bin/sh")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (tell, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Self {
            keys: child.stdin.take().unwrap(),
            child,
            screen,
            shown: String::new(),
        })
    }

    /// Answers each question of `talk` in turn, then waits for the end. The exit code, and all that was
    /// shown after the last answer.
    fn hold(mut self, talk: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut from = 0;
        for (question, answer) in talk {
            while !self.shown[from..].contains(question) {
                assert!(self.look(), "no {question:?} in {:?}", self.shown);
            }
            from = self.shown.len();
            if question.contains(SHOWN) {
                writeln!(self.keys, "{answer}").unwrap();
                continue;
            }
            // What is typed before that is shown, and thrown away.
            eventually("the terminal hides what is typed", || self.hides());
            writeln!(self.keys, "{answer}").unwrap();
        }
        while self.look() {}
        let code = self.child.wait().unwrap().code();
        for secret in [PASSWORD, OTHER] {
            let shown = self.shown.contains(secret);
            assert!(!shown, "a password is shown: {:?}", self.shown);
        }
        (code, self.shown[from..].to_owned())
    }

    /// Whether what is typed on the terminal of the program is not shown just now.
    fn hides(&self) -> bool {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let program = children.unwrap_or_default().trim().to_owned();
        let Ok(terminal) = std::fs::read_link(format!("/proc/{program}/fd/2")) else {
            return false;
        };
        let modes = Command::new("stty")
            .arg("-a")
            .arg("-F")
            .arg(terminal)
            .output();
        String::from_utf8_lossy(&modes.unwrap().stdout).contains(" -echo ")
    }

    /// Whether something more was shown.
    fn look(&mut self) -> bool {
        match self.screen.recv_timeout(PATIENCE) {
            Ok(bytes) => {
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more: {:?}", self.shown),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_new_key_is_offered_a_password_that_is_asked_for_twice() {
    let owner = Owner::new();
    let Some(terminal) = Terminal::open(&owner, "identity new") else {
        return;
    };
    let (code, shown) = terminal.hold(&[
        ("Password to encrypt", "password"),
        ("too weak", PASSWORD),
        ("Once more", "another one"),
        ("differ", PASSWORD),
        ("Once more", PASSWORD),
    ]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("(encrypted)"), "{shown}");
    owner.keeps_nothing_plain();
    let args = ["wallet", "address", "--wallet", "sim"];
    let opened = owner.run_with(&[("AGENT_COMPUTE_PASSWORD", PASSWORD)], &args);
    assert_eq!(opened.code, Some(0), "{opened:?}");
}

#[test]
fn no_password_is_an_answer_too() {
    let owner = Owner::new();
    let Some(terminal) = Terminal::open(&owner, "identity new") else {
        return;
    };
    let (code, shown) = terminal.hold(&[("empty: none", "")]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("not encrypted"), "{shown}");
    assert_eq!(owner.kept()["protection"], "none");
}

#[test]
fn who_needs_the_key_is_asked_for_its_password() {
    let owner = Owner::encrypted();
    let Some(terminal) = Terminal::open(&owner, "wallet address --wallet sim") else {
        return;
    };
    let (code, shown) = terminal.hold(&[("Password of", "not it"), ("not the password", PASSWORD)]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(PUBKEY), "{shown}");

    let terminal = Terminal::open(&owner, "wallet address --wallet sim").unwrap();
    let (code, shown) = terminal.hold(&[
        ("Password of", "a"),
        ("not the password", "b"),
        ("not the password", "c"),
    ]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("wrong password"), "{shown}");

    // What the environment says is not asked, right or wrong.
    let wrong = [("AGENT_COMPUTE_PASSWORD", "wrong")];
    let terminal = Terminal::open_with(&owner, "wallet address --wallet sim", &wrong).unwrap();
    let (code, shown) = terminal.hold(&[]);
    assert_eq!(code, Some(2), "{shown}");
}

#[test]
fn a_password_is_changed_by_hand() {
    let owner = Owner::encrypted();
    let Some(terminal) = Terminal::open(&owner, "identity password") else {
        return;
    };
    let (code, shown) = terminal.hold(&[
        ("Password of", PASSWORD),
        ("New password", OTHER),
        ("Once more", OTHER),
    ]);
    assert_eq!(code, Some(0), "{shown}");
    let args = ["wallet", "address", "--wallet", "sim"];
    let opened = owner.run_with(&[("AGENT_COMPUTE_PASSWORD", OTHER)], &args);
    assert_eq!(opened.code, Some(0), "{opened:?}");
}

#[test]
fn the_words_are_shown_to_who_says_yes() {
    let owner = Owner::plain();
    let Some(terminal) = Terminal::open(&owner, "identity backup") else {
        return;
    };
    let (code, shown) = terminal.hold(&[(SHOWN, "yes")]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(WORDS), "{shown}");

    let terminal = Terminal::open(&owner, "identity backup").unwrap();
    let (code, shown) = terminal.hold(&[(SHOWN, "no")]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(!shown.contains("monkey"), "{shown}");
}

#[test]
fn who_pipes_something_in_is_asked_on_the_terminal_all_the_same() {
    let owner = Owner::new();
    let words = owner.write("words", WORDS);
    let args = format!("identity import - < {}", words.display());
    let Some(terminal) = Terminal::open(&owner, &args) else {
        return;
    };
    let (code, shown) =
        terminal.hold(&[("Password to encrypt", PASSWORD), ("Once more", PASSWORD)]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(PUBKEY), "{shown}");
    owner.keeps_nothing_plain();
}

#[test]
fn ctrl_c_leaves_a_question_unanswered_and_everything_as_it_was() {
    let owner = Owner::encrypted();
    let before = std::fs::read(owner.identity_file()).unwrap();
    std::fs::create_dir(owner.home().join("provider")).unwrap();
    std::fs::copy(
        owner.identity_file(),
        owner.home().join("provider/identity.enc"),
    )
    .unwrap();
    let relay = "--relay ws://127.0.0.1:1 --wallet sim";
    for line in [
        format!("{CUSTOMER} identity password"),
        format!("{CUSTOMER} --prompt x {relay}"),
        format!("{PROVIDER} --create-channel --backend echo {relay}"),
    ] {
        let Some(terminal) = Terminal::run(&owner, &line, &[]) else {
            return;
        };
        let (code, shown) = terminal.hold(&[("Password of", "\u{3}")]);
        assert_eq!(code, Some(130), "{line}: {shown}");
    }
    assert_eq!(std::fs::read(owner.identity_file()).unwrap(), before);
}

#[test]
fn a_payment_by_hand_is_made_only_for_a_yes() {
    let owner = Owner::new();
    let args = [
        "--wallet",
        "sim",
        "wallet",
        "invoice",
        "--no-qr",
        "--amount-sats",
        "5",
    ];
    let made = owner.command(PROVIDER, &args).output().unwrap();
    let bolt11 = String::from_utf8(made.stdout).unwrap();
    for (answer, code, said) in [
        ("no", 130, "nothing was paid"),
        ("y", 130, "nothing was paid"),
        ("yes", 0, "paid 5 sats of play money"),
    ] {
        let line = format!("--wallet sim wallet pay {}", bolt11.trim());
        let Some(terminal) = Terminal::open(&owner, &line) else {
            return;
        };
        let (ended, shown) = terminal.hold(&[("Type yes to pay", answer)]);
        assert_eq!(ended, Some(code), "{shown}");
        assert!(shown.contains(said), "{answer}: {shown}");
    }
}

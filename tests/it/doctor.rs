//! `doctor` in both programs: it finds what is wrong, names what mends it, and touches nothing.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tokio_tungstenite::tungstenite;

use crate::harness::{Provider, Ran, Running, World, run};

mod money;
mod terminal;

/// What a check said of all subjects that contain this text.
fn of<'a>(found: &'a [Value], check: &str, subject: &str) -> &'a Value {
    let mut fits = found.iter().filter(|it| {
        it["check"] == check
            && it["subject"]
                .as_str()
                .is_some_and(|it| it.contains(subject))
    });
    let first = fits.next();
    first.unwrap_or_else(|| panic!("no {check} of {subject}: {found:#?}"))
}

fn checks(ran: &Ran) -> Vec<Value> {
    let mut lines = ran.events();
    for line in &lines {
        assert_eq!(line["v"], 1);
    }
    lines.retain(|line| line.get("check").is_some());
    lines
}

/// Runs the commands that are said to mend what is wrong with `check`.
fn mend(world: &World, home: &str, found: &[Value], check: &str) {
    for finding in found {
        if finding["check"] == check && finding["status"] != "ok" {
            let fix = finding["fix"].as_str().unwrap();
            let bins = Path::new(env!("CARGO_BIN_EXE_agent-customer"));
            let path = format!("{}:/usr/bin:/bin", bins.parent().unwrap().display());
            let ran = Command::new("sh")
                .args(["-c", fix])
                .env_clear()
                .env("PATH", path)
                .env("AGENT_COMPUTE_HOME", world.home(home))
                .env("AGENT_COMPUTE_SIM_BANK", world.bank())
                .output()
                .unwrap();
            assert!(ran.status.success(), "{fix}: {ran:?}");
        }
    }
}

/// Every file below a folder with its mode and what is in it. SQLite's shared memory holds the marks of
/// whoever reads, so there only its name counts.
fn all_files(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode();
        if path.is_dir() {
            found.extend(all_files(&path));
            found.push((path, mode, Vec::new()));
        } else if path
            .extension()
            .is_some_and(|it| it.to_string_lossy().ends_with("-shm"))
        {
            found.push((path, mode, Vec::new()));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, mode, content));
        }
    }
    found.sort();
    found
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn looking_makes_nothing_and_says_what_is_missing() {
    let world = World::new();
    for (program, names) in [
        (
            "customer",
            &[
                "config", "files", "identity", "ledger", "clock", "relay", "wallet",
            ][..],
        ),
        (
            "provider",
            &[
                "config", "files", "identity", "jobs", "clock", "relay", "wallet", "backend",
            ],
        ),
    ] {
        let args = ["--json", "--relay", &world.relay, "doctor"];
        let mut command = match program {
            "customer" => world.bare_customer("fresh", &args),
            _ => world.bare_provider("fresh", &args),
        };
        let ran = run(&mut command);
        let found = checks(&ran);
        let seen: Vec<&str> = found
            .iter()
            .map(|it| it["check"].as_str().unwrap())
            .collect();
        assert_eq!(seen, names);
        let wallet = of(&found, "wallet", "none");
        assert_eq!(wallet["status"], "problem");
        assert!(wallet["fix"].as_str().unwrap().contains("[wallet]"));
        assert_eq!(of(&found, "relay", &world.relay)["status"], "ok");
        let last = ran.last();
        assert_eq!(last["event"], "error");
        assert!(!world.home("fresh").exists(), "{ran:#?}");
        assert!(!world.bank().exists());
        if program == "customer" {
            ran.expect(12);
        }
    }
    // The command that mends it does, and with --config in the file that was named.
    let elsewhere = world.dir.path().join("else where.toml");
    fs::write(&elsewhere, "[runway]\nreserve_sats = 1").unwrap();
    let named = [
        "--config",
        elsewhere.to_str().unwrap(),
        "--relay",
        &world.relay,
    ];
    let json = [&named[..], &["--json", "doctor"]].concat();
    let found = checks(&run(&mut world.bare_customer("fresh", &json)).expect(12));
    mend(&world, "fresh", &found, "wallet");
    run(&mut world.bare_customer("fresh", &json)).expect(0);
    let found = checks(&run(
        &mut world.bare_customer("fresh", &["--json", "doctor"])
    ));
    mend(&world, "fresh", &found, "wallet");
    let args = ["--relay", &world.relay, "doctor"];
    run(&mut world.bare_customer("fresh", &args)).expect(0);
}

#[test]
fn a_market_that_works_is_found_in_order_and_left_as_it_was() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    world.config("seller", "[provider]\nbackend = \"echo\"\n");
    for home in ["buyer", "seller"] {
        for file in ["", home] {
            set_mode(&world.dir.path().join(file), 0o700);
        }
        let before = all_files(world.dir.path());
        let args = [
            "--relay",
            &world.relay,
            "--wallet",
            "sim",
            "--json",
            "doctor",
        ];
        let ran = run(&mut match home {
            "buyer" => world.bare_customer(home, &args),
            _ => world.bare_provider(home, &args),
        })
        .expect(0);
        assert_eq!(all_files(world.dir.path()), before);
        let found = checks(&ran);
        for finding in &found {
            assert_eq!(finding["status"], "ok", "{finding}");
            assert_eq!(finding["fix"], Value::Null);
        }
        let message = |check, subject| {
            of(&found, check, subject)["message"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert!(message("relay", &world.relay).contains("takes events"));
        assert!(message("clock", "").contains("of what 1 relay said"));
        assert!(message("wallet", "sim").contains("play money"));
        assert!(message("identity", "identity.enc").contains("npub1"));
        if home == "seller" {
            assert!(message("listing", "npub1").contains("visible on 1 of the 1"));
            let process = seller.process.child.id().to_string();
            let said = message("jobs", "jobs.sqlite");
            assert!(
                said.contains(&process) || said.contains("another process"),
                "{said}"
            );
        }
        // What the identity is made of is nobody's business.
        let secret = fs::read_to_string(world.home(home).join(match home {
            "buyer" => "customer/identity.enc",
            _ => "provider/identity.enc",
        }))
        .unwrap();
        let kept: Value = serde_json::from_str(&secret).unwrap();
        if let Some(words) = kept["words"].as_str() {
            assert!(!ran.stdout.contains(words) && !ran.stderr.contains(words));
        }
    }
}

#[test]
fn what_is_open_to_others_is_told_and_the_command_mends_it() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.buy("buyer", &["--prompt", "x"]).expect(0);
    world.config("buyer", "");
    let home = world.home("buyer");
    set_mode(&home, 0o755);
    set_mode(&home.join("config.toml"), 0o666);
    set_mode(&home.join("customer"), 0o750);
    set_mode(&home.join("customer/identity.enc"), 0o644);
    set_mode(&home.join("customer/ledger.sqlite"), 0o640);
    let doctor = || run(&mut world.customer("buyer", &["--json", "doctor"]));
    let found = checks(&doctor().expect(2));
    for (check, subject, status, mode) in [
        ("files", "customer/identity.enc", "problem", "644"),
        ("files", "customer/ledger.sqlite", "warning", "640"),
        ("config", "config.toml", "ok", "limits"),
    ] {
        let finding = of(&found, check, subject);
        assert_eq!(finding["status"], status, "{finding}");
        assert!(
            finding["message"].as_str().unwrap().contains(mode),
            "{finding}"
        );
    }
    let folders = found.iter().filter(|it| {
        it["fix"]
            .as_str()
            .is_some_and(|fix| fix.starts_with("chmod 700"))
    });
    assert_eq!(folders.count(), 2, "{found:#?}");
    mend(&world, "buyer", &found, "files");
    mend(&world, "buyer", &found, "config");
    doctor().expect(0);
}

#[test]
fn a_configuration_that_is_off_is_named_and_the_rest_is_looked_at_all_the_same() {
    let world = World::new();
    world.config("buyer", "[runway]\ndaily_limit_sat = 5\n");
    let ran = run(&mut world.customer("buyer", &["--json", "doctor"])).expect(2);
    let found = checks(&ran);
    let config = of(&found, "config", "config.toml");
    assert_eq!(config["status"], "problem");
    let message = config["message"].as_str().unwrap();
    assert!(
        message.contains(":2") && message.contains("daily_limit_sats"),
        "{message}"
    );
    assert_eq!(of(&found, "relay", &world.relay)["status"], "ok");

    let named = [
        "--json",
        "--config",
        "/nowhere.toml",
        "--wallet",
        "sim",
        "doctor",
    ];
    let found = checks(&run(&mut world.bare_customer("other", &named)).expect(2));
    let fix = of(&found, "config", "/nowhere.toml")["fix"].clone();
    assert!(fix.as_str().unwrap().contains("/nowhere.toml"));

    // What contradicts each other is a problem of its own.
    let both = ["--json", "--network", "mainnet", "doctor"];
    let ran = run(&mut world.customer("other", &both)).expect(2);
    of(&checks(&ran), "config", "flags");
}

#[test]
fn a_servers_key_that_cant_be_had_leads_to_the_configuration_that_names_it() {
    let world = World::new();
    world.config(
        "seller",
        "[provider]\nbackend_url = \"http://127.0.0.1:1\"\nbackend_key = \"env:NOT_SET_ANYWHERE\"\n",
    );
    let ran = run(&mut world.bare_provider(
        "seller",
        &[
            "--json",
            "--wallet",
            "sim",
            "--relay",
            &world.relay,
            "doctor",
        ],
    ))
    .expect(2);
    let found = checks(&ran);
    let backend = of(&found, "backend", "auto");
    assert!(
        backend["message"]
            .as_str()
            .unwrap()
            .contains("NOT_SET_ANYWHERE")
    );
    assert!(backend["fix"].as_str().unwrap().contains("config.toml"));
}

#[test]
fn an_encrypted_identity_is_said_to_be_so_without_its_password() {
    let world = World::new();
    let password = "correct horse battery staple 42";
    let mut new = world.bare_customer("buyer", &["identity", "new"]);
    run(new.env("AGENT_COMPUTE_PASSWORD", password)).expect(0);
    let file = world.home("buyer").join("customer/identity.enc");
    let doctor = |code: i32| {
        let ran = run(&mut world.customer("buyer", &["--json", "doctor"])).expect(code);
        of(&checks(&ran), "identity", "identity.enc").clone()
    };
    let encrypted = doctor(0);
    let message = encrypted["message"].as_str().unwrap();
    assert!(
        message.contains("npub1") && message.contains(", encrypted"),
        "{message}"
    );
    fs::write(&file, "garbage").unwrap();
    assert_eq!(doctor(2)["status"], "problem");

    fs::remove_file(&file).unwrap();
    let mut command = world.customer("buyer", &["--json", "doctor"]);
    let ran = run(command.env("NOSTR_SECRET_KEY", "not a key at all")).expect(2);
    assert!(!ran.stdout.contains("not a key at all"));
    assert!(!file.exists());
}

#[test]
fn a_relay_that_is_dead_mute_or_hostile_is_a_warning_beside_one_that_works() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("ws://{}", mute.local_addr().unwrap());
    let dead = "ws://127.0.0.1:1";
    let rude = odd_relay(None, |said| {
        let id = said.split('"').nth(3).unwrap_or_default();
        vec![format!(
            r#"["CLOSED","{id}","restricted: \u001b]0;owned\u0007pay\u202e me {}"]"#,
            "x".repeat(5000)
        )]
    });
    let bad = [dead, &mute, &rude];
    let list = bad.join(",");
    let both = ["--relay", &list, "--json", "doctor"];
    let ran = run(&mut world.customer("buyer", &both)).expect(0);
    let found = checks(&ran);
    for relay in bad {
        let finding = of(&found, "relay", relay.trim_end_matches('/'));
        assert_eq!(finding["status"], "warning", "{finding}");
        assert!(finding["message"].as_str().unwrap().len() < 1000);
    }
    let alone = ["--relay", &list, "--wallet", "sim", "doctor"];
    let ran = run(&mut world.bare_customer("buyer", &alone)).expect(8);
    assert_eq!(ran.stdout.matches("problem  relay").count(), 3, "{ran:#?}");
    assert!(!ran.stdout.contains(['\u{1b}', '\u{7}', '\u{202e}']));
}

#[test]
fn a_relay_that_takes_nothing_is_told_by_its_words() {
    let world = World::new();
    let closed = odd_relay(None, |said| {
        let second = said.split('"').nth(3).unwrap_or_default();
        if said.starts_with(r#"["REQ""#) {
            return vec![format!(r#"["EOSE","{second}"]"#)];
        }
        let Ok(event) = serde_json::from_str::<Value>(said) else {
            return Vec::new();
        };
        let id = event[1]["id"].as_str().unwrap_or_default();
        vec![format!(r#"["OK","{id}",false,"blocked: members only"]"#)]
    });
    let args = ["--json", "--wallet", "sim", "--relay", &closed, "doctor"];
    let ran = run(&mut world.bare_customer("buyer", &args)).expect(8);
    let found = checks(&ran);
    let said = of(&found, "relay", "")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(said.contains("members only"), "{said}");
}

#[test]
fn a_clock_that_is_off_is_seen_by_what_relays_say() {
    let world = World::new();
    let polite = |said: &str| {
        let id = said.split('"').nth(3).unwrap_or_default();
        vec![format!(r#"["EOSE","{id}"]"#)]
    };
    let past = "Mon, 05 Jan 2026 10:00:00 GMT";
    let (one, two) = (odd_relay(Some(past), polite), odd_relay(Some(past), polite));
    let args = [
        "--json", "--wallet", "sim", "--relay", &one, "--relay", &two, "doctor",
    ];
    let ran = run(&mut world.bare_customer("buyer", &args));
    let found = checks(&ran);
    let clock = of(&found, "clock", "");
    assert_eq!(clock["status"], "problem", "{ran:#?}");
    assert!(clock["message"].as_str().unwrap().contains("ahead"));
    assert!(clock["fix"].as_str().unwrap().contains("timedatectl"));
    let nonsense = odd_relay(Some("yesterday"), polite);
    let args = ["--json", "--wallet", "sim", "--relay", &nonsense, "doctor"];
    let ran = run(&mut world.bare_customer("buyer", &args));
    assert_eq!(of(&checks(&ran), "clock", "")["status"], "ok");
}

#[test]
fn a_listing_that_nobody_stands_behind_is_told() {
    let world = World::new();
    let args = [
        "--relay",
        &world.relay,
        "--wallet",
        "sim",
        "--json",
        "doctor",
    ];
    world.config("seller", "[provider]\nbackend = \"echo\"\n");
    set_mode(&world.home("seller"), 0o700);
    let listing = || {
        let found = checks(&run(&mut world.bare_provider("seller", &args)));
        let finding = of(&found, "listing", "npub1");
        (finding["status"].clone(), finding["message"].clone())
    };
    let mut seller: Provider = world.provider("seller", &[]);
    assert_eq!(listing().0, "ok");
    seller.process.kill();
    let (status, message) = listing();
    assert_eq!(status, "warning");
    assert!(message.as_str().unwrap().contains("nobody sells"));
    let mut back = world.provider("seller", &[]);
    back.process.signal("TERM");
    back.process.exit_code();
    let (status, message) = listing();
    assert_eq!(status, "ok", "{message}");
}

#[test]
fn a_signal_ends_a_doctor_that_waits() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("ws://{}", mute.local_addr().unwrap());
    let args = ["--json", "--relay", &mute, "doctor"];
    let mut command = world.bare_customer("buyer", &args);
    command.env("RUST_LOG", "off");
    let mut doctor = Running::start(&mut command);
    doctor.signal("TERM");
    let code = doctor.exit_code();
    // Before the program listens for signals, one ends it as the system does.
    assert!([Some(130), None].contains(&code), "{code:?}");
}

/// A relay that says this date, and answers each message as `answer` does. It lasts as long as the test.
fn odd_relay(date: Option<&'static str>, answer: fn(&str) -> Vec<String>) -> String {
    use tungstenite::Message;
    use tungstenite::handshake::server::{Request, Response};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                #[expect(clippy::result_large_err, reason = "the library's signature")]
                let dated = |_: &Request, mut response: Response| {
                    if let Some(date) = date {
                        response.headers_mut().insert("date", date.parse().unwrap());
                    }
                    Ok(response)
                };
                let Ok(mut socket) = tungstenite::accept_hdr(stream, dated) else {
                    return;
                };
                while let Ok(message) = socket.read() {
                    let Message::Text(text) = message else {
                        continue;
                    };
                    for answer in answer(&text) {
                        if socket.send(Message::text(answer)).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

//! What a person at a terminal sees and a pipe does not.

use super::*;

/// Runs `agent-customer` on a terminal of its own; `None` where there is no program that gives it one.
fn on_a_terminal(world: &World, args: &str, environment: &[(&str, &str)]) -> Option<String> {
    let has_script = Command::new("script").arg("--version").output();
    if !has_script.is_ok_and(|ran| String::from_utf8_lossy(&ran.stdout).contains("util-linux")) {
        println!("SKIPPED: there is no `script` of util-linux, which makes a terminal");
        return None;
    }
    let program = env!("CARGO_BIN_EXE_agent-customer");
    let line = format!("stty rows 40 cols 120; '{program}' --wallet sim {args}");
    let command = world.bare_customer("buyer", &[]);
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]);
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let set: Vec<_> = set.collect();
    drop(command);
    script
        .env_clear()
        .envs(set)
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm-256color");
    script.envs(environment.iter().copied());
    let ran = run(&mut script);
    Some(ran.expect(0).stdout)
}

#[test]
fn an_invoice_has_a_qr_code_on_a_terminal_alone() {
    let world = World::on(String::new());
    let invoice = ["--wallet", "sim", "wallet", "invoice", "--amount-sats", "5"];
    let piped = run(&mut world.bare_customer("buyer", &invoice)).expect(0);
    assert_eq!(piped.stdout.lines().count(), 1);
    assert!(!piped.stderr.contains('█'));

    let words = "wallet invoice --amount-sats 5";
    let Some(seen) = on_a_terminal(&world, words, &[]) else {
        return;
    };
    assert!(seen.contains("lnbcrt") && seen.contains('█'), "{seen}");
    assert!(
        seen.contains("48;5;231m"),
        "dark on light, whatever the theme: {seen:?}"
    );
    let seen = on_a_terminal(&world, words, &[("NO_COLOR", "1")]).unwrap();
    assert!(seen.contains('█') && !seen.contains('\u{1b}'), "{seen:?}");
    for quiet in ["--no-qr", "--json"] {
        let seen = on_a_terminal(&world, &format!("{words} {quiet}"), &[]).unwrap();
        assert!(seen.contains("lnbcrt") && !seen.contains('█'), "{seen}");
    }
    let narrow = format!(
        "wallet address; stty rows 40 cols 30; '{}' --wallet sim {words}",
        env!("CARGO_BIN_EXE_agent-customer")
    );
    let seen = on_a_terminal(&world, &narrow, &[]).unwrap();
    assert!(seen.contains("this terminal is narrower"), "{seen}");
}

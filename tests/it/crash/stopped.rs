//! Stopped by the owner, by the clock, or by a reader that goes away.

use super::*;
use crate::harness::Running;

fn reached(event: &str) -> impl Fn(&str) -> Option<()> {
    let wanted = format!("\"event\":\"{event}\"");
    move |line| line.contains(&wanted).then_some(())
}

#[test]
fn recover_leaves_a_payment_alone_that_its_stopped_process_is_still_making() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    for stop in ["INT", "deadline"] {
        let home = format!("buyer-{stop}");
        let mut args = vec!["--json", "--prompt", "x"];
        if stop == "deadline" {
            args.extend(["--timeout", "1"]);
        }
        let mut command = world.customer(&home, &args);
        command.env("AGENT_COMPUTE_SIM_FAULT", "slow");
        let mut buying = Running::start(&mut command);
        buying.wait_for("paying", reached("paying"));
        if stop == "INT" {
            buying.signal("INT");
        }
        // The wallet still has the order to pay: nobody may conclude yet that nothing was paid.
        while buying.child.try_wait().unwrap().is_none() {
            recover(&world, &home);
        }
        buying.exit_code();
        settle(&world, &home);
        assert_one_story(&world, &home);
    }
}

#[test]
fn a_signal_at_any_moment_ends_in_130_and_books_that_recover_makes_whole() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut moments = Moments::of("signals");
    let usual = usual_time(&world, "warm");
    for round in 0..rounds(20) {
        let home = format!("buyer-{}", round / 20);
        let mut command = world.customer(&home, &["--json", "--prompt", "x"]);
        if round % 4 == 3 {
            command.env("AGENT_COMPUTE_SIM_FAULT", "slow");
        }
        let mut buying = Running::start(&mut command);
        moments.pass(usual);
        let name = if round % 2 == 0 { "INT" } else { "TERM" };
        buying.signal(name);
        if moments.one_in(3) {
            moments.pass(usual / 10);
            buying.signal(name);
        }
        let code = buying.exit_code();
        // The very first moments of a program are the system's: there a signal ends it by itself.
        let early = code.is_none() && buying.lines_so_far() == 0;
        assert!(early || code == Some(0) || code == Some(130), "{code:?}");
    }
    for home in (0..rounds(20))
        .step_by(20)
        .map(|n| format!("buyer-{}", n / 20))
    {
        settle(&world, &home);
        assert_one_story(&world, &home);
    }
}

#[test]
fn a_second_signal_says_what_is_still_reserved() {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    let mut command = world.customer("buyer", &["--json", "--prompt", "x"]);
    let mut buying = Running::start(command.env("AGENT_COMPUTE_SIM_FAULT", "slow"));
    buying.wait_for("paying", reached("paying"));
    buying.signal("INT");
    buying.signal("TERM");
    let error: Value = buying.wait_for("the last line", |line| {
        line.contains("\"error\"")
            .then(|| serde_json::from_str(line).unwrap())
    });
    assert_eq!(error["code"], "interrupted");
    assert_eq!(error["reserved_msat"], PRICE);
    assert_eq!(buying.exit_code(), Some(130));
    settle(&world, "buyer");
    assert_one_story(&world, "buyer");
}

#[test]
fn readers_that_go_away_change_nothing_about_the_money() {
    let world = World::new();
    let _seller = world.provider("seller", &["--stream"]);
    // The reader of stdout is content with a line; that of stderr with none, however much is said.
    for (n, gone) in ["| head -1", "2> >(true)", ">&- 2>&-"]
        .into_iter()
        .enumerate()
    {
        let home = format!("buyer-{n}");
        let words = "word ".repeat(200);
        let buy = world.customer(&home, &["--json", "--prompt", &words]);
        let mut shell = std::process::Command::new("bash");
        shell
            .args(["-o", "pipefail", "-c", &format!("\"$@\" {gone}"), "bash"])
            .arg(buy.get_program())
            .args(buy.get_args())
            .env_clear();
        for (name, value) in buy.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell.env("RUST_LOG", "trace");
        run(&mut shell).expect(0);
        assert_eq!(assert_one_story(&world, &home), PRICE);
        assert_eq!(in_state(&history(&world, &home), "delivered").len(), 1);
    }
}

#[test]
fn a_provider_that_stands_still_is_waited_for_and_its_late_result_is_fetched() {
    let world = World::new();
    let seller = world.provider("seller", &[]);
    let mut moments = Moments::of("provider stopped");
    let usual = usual_time(&world, "buyer");
    for _ in 0..rounds(8) {
        let mut command =
            world.customer("buyer", &["--json", "--timeout", "1", "--prompt", "late"]);
        let mut buying = Running::start(&mut command);
        moments.pass(usual);
        seller.process.signal("STOP");
        let code = buying.exit_code();
        assert!(
            [Some(0), Some(7), Some(9)].contains(&code),
            "neither delivered, nor undelivered, nor timed out: {code:?}"
        );
        seller.process.signal("CONT");
    }
    crate::harness::eventually("the provider has done what it was paid for", || {
        let paid = world.provider_balance("seller") - OPENING_BALANCE;
        in_state(&jobs(&world, "seller"), "delivered").len() as u64 == paid / PRICE
    });
    settle(&world, "buyer");
    let spent = assert_one_story(&world, "buyer");
    assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + spent);
    let purchases = history(&world, "buyer");
    let delivered = in_state(&purchases, "delivered");
    assert_eq!(delivered.len() as u64, spent / PRICE, "{purchases:#?}");
    assert!(
        delivered
            .iter()
            .all(|purchase| !show(&world, "buyer", purchase)["text"].is_null())
    );
}

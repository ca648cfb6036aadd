//! Stopped by the owner, by the clock, or by a reader that goes away.

use std::time::Duration;

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

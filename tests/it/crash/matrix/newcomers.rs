//! Who comes for the first time makes a key. Killed around that, it has one key for good, or none yet.

use agent_compute::crash::Point;

use super::*;

pub(super) const POINT: Point = Point::IdentityCreate;

/// Whether there is a key.
fn has_key(world: &World, home: &str, role: &str) -> bool {
    world.home(home).join(role).join("identity.enc").exists()
}

#[test]
fn a_key_that_is_being_made_when_its_program_dies_is_made_once() {
    let world = World::new();
    let seller = |home: &str| {
        let args = [
            "--relay",
            &world.relay,
            "--wallet",
            "sim",
            "--create-channel",
        ];
        let mut command = world.bare_provider(home, &args);
        command.args(["--backend", "echo"]);
        command
    };
    for at in At::both_sides(POINT, 1) {
        let (buyer, shop) = (format!("buyer-{}", at.side), format!("shop-{}", at.side));
        let buy = ["--json", "--prompt", TEXT];
        let dead = Ended::of(at.arm(&mut world.customer(&buyer, &buy)));
        assert!(dead.was_killed(), "{at}: {dead:#?}");
        assert!(Ended::of(at.arm(&mut seller(&shop))).was_killed(), "{at}");
        let made = at.side == "after";
        assert_eq!(has_key(&world, &buyer, "customer"), made, "{at}");
        assert_eq!(has_key(&world, &shop, "provider"), made, "{at}");

        let before = made.then(|| identity(&world, &buyer));
        let process = crate::harness::Provider::start(&mut seller(&shop));
        world
            .buy(&buyer, &["--select", &process.pubkey, "--prompt", TEXT])
            .expect(0);
        assert_eq!(assert_one_story(&world, &buyer), PRICE, "{at}");
        assert!(
            before.is_none_or(|key| key == identity(&world, &buyer)),
            "{at}"
        );
        assert_eq!(
            world.provider_balance(&shop),
            OPENING_BALANCE + PRICE,
            "{at}"
        );
    }
}

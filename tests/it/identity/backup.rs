//! `identity backup`: the one command that prints a secret.

use super::{CUSTOMER, NSEC, Owner, PASSWORD, PUBKEY, Ran, SECRET_HEX, WORDS, finish_aloud};

fn back_up(owner: &Owner, variables: &[(&str, &str)]) -> Ran {
    let mut command = owner.command(CUSTOMER, &["identity", "backup", "--yes"]);
    finish_aloud(command.envs(variables.iter().copied()), b"")
}

#[test]
fn words_are_printed_as_words_and_a_key_as_an_nsec_on_stdout_alone() {
    let right = [("AGENT_COMPUTE_PASSWORD", PASSWORD)];
    for (text, printed) in [(WORDS, WORDS), (NSEC, NSEC), (SECRET_HEX, NSEC)] {
        for variables in [&[][..], &right] {
            let owner = Owner::new();
            owner.import(text, variables).json();
            let ran = back_up(&owner, variables);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert_eq!(ran.out, format!("{printed}\n"));
            assert!(ran.err.contains(PUBKEY), "{ran:?}");
            for secret in ["monkey", NSEC, SECRET_HEX] {
                assert!(!ran.err.contains(secret), "{ran:?}");
            }
            let back = Owner::new();
            assert_eq!(back.import(&ran.out, &[]).json()["pubkey"], PUBKEY);
        }
    }
}

#[test]
fn nothing_is_printed_unless_it_is_meant() {
    let owner = Owner::plain();
    let ran = owner.run_on("yes\n", &["identity", "backup"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("--yes"), "{ran:?}");
    let message = owner
        .run(&["identity", "backup", "--yes", "--json"])
        .usage();
    assert!(message.contains("--json"), "{message}");
    let wrong = [("AGENT_COMPUTE_PASSWORD", "wrong")];
    let ran = back_up(&Owner::encrypted(), &wrong);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
}

#[test]
fn without_a_file_there_is_nothing_to_write_down_and_none_is_made() {
    let owner = Owner::new();
    let ran = back_up(&owner, &[("NOSTR_SECRET_KEY", NSEC)]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("identity new"), "{ran:?}");
    assert!(!owner.identity_file().exists());
}

#[test]
fn a_key_that_is_used_before_that_of_the_file_is_told() {
    let owner = Owner::plain();
    let other = "11".repeat(32);
    let ran = back_up(&owner, &[("NOSTR_SECRET_KEY", &other)]);
    assert_eq!(ran.out, format!("{WORDS}\n"));
    assert!(ran.err.contains("used before"), "{ran:?}");
}

//! Passwords: which ones may be set, and whom to ask for one.
//!
//! Who has the file can try passwords at leisure, a few a second on each core. What is refused here is
//! what such a person tries first. A file that exists opens with any password that it was given.

use std::path::Path;

use super::IdentityError;
use super::source::PASSWORD_VARIABLE;
use crate::secret::{Environment, Secret};

/// The fewest characters of a password.
const MIN_CHARS: usize = 10;

/// The fewest characters that do not follow from the one before: `12345678` has one.
const MIN_SURPRISES: usize = 7;

/// The fewest different characters.
const MIN_DIFFERENT: usize = 5;

/// Words that are no password, even with digits and signs around them and `0` for `o`.
const COMMON: &[&str] = &[
    "access",
    "account",
    "admin",
    "administrator",
    "agent",
    "agentcompute",
    "agentcustomer",
    "agentprovider",
    "asdfghjkl",
    "baseball",
    "bitcoin",
    "changeme",
    "changeit",
    "charlie",
    "compute",
    "customer",
    "default",
    "dragon",
    "flower",
    "football",
    "hello",
    "helloworld",
    "iloveyou",
    "jordan",
    "letmein",
    "letmeinnow",
    "lightning",
    "login",
    "lovely",
    "master",
    "michael",
    "monkey",
    "mustang",
    "mypassword",
    "nostr",
    "opensesame",
    "passw",
    "passphrase",
    "password",
    "passwort",
    "princess",
    "provider",
    "qwerty",
    "qwertyuiop",
    "root",
    "satoshi",
    "satoshinakamoto",
    "secret",
    "shadow",
    "starwars",
    "sunshine",
    "superman",
    "superuser",
    "supersecret",
    "test",
    "testtest",
    "thisisapassword",
    "topsecret",
    "trustno",
    "user",
    "username",
    "wallet",
    "welcome",
    "whatever",
    "yourpassword",
];

/// Rows of keys, for fingers that walk along them.
const ROWS: [&str; 4] = ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"];

/// Why a password is not taken. Says what is wrong with it, never what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// It is too short.
    #[error("it has fewer than {MIN_CHARS} characters")]
    Short,
    /// It says the same again and again.
    #[error("it repeats the same few characters")]
    Repeats,
    /// It runs along the alphabet, the digits or the keyboard.
    #[error("it runs along the alphabet or the keyboard")]
    Sequence,
    /// It is on the list that everybody tries first.
    #[error("it is one of the passwords that are tried first")]
    Common,
    /// It is the name of who uses it, or of the key.
    #[error("it is the name of the account, or the key itself")]
    Name,
}

/// A password that may be set.
#[derive(Clone, Debug)]
pub struct StrongPassword(Secret);

impl StrongPassword {
    /// Takes a password, unless it is weak. `names` are what it must not be: the account's, the key's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(password: Secret, names: &[&str]) -> Result<Self, Weakness> {
        match weakness(password.expose(), names) {
            Some(weakness) => Err(weakness),
            None => Ok(Self(password)),
        }
    }

    /// The password.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.0
    }
}

fn weakness(password: &str, names: &[&str]) -> Option<Weakness> {
    let chars: Vec<char> = password.chars().flat_map(char::to_lowercase).collect();
    let core = core(&chars);
    let same = |name: &&str| {
        let name: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
        let bare = self::core(&name);
        !name.is_empty() && (name == chars || (!bare.is_empty() && bare == core))
    };
    let mut different = chars.clone();
    different.sort_unstable();
    different.dedup();
    if names.iter().any(same) {
        Some(Weakness::Name)
    } else if chars.len() < MIN_CHARS {
        Some(Weakness::Short)
    } else if different.len() < MIN_DIFFERENT || repeats(&chars) {
        Some(Weakness::Repeats)
    } else if surprises(&chars) < MIN_SURPRISES {
        Some(Weakness::Sequence)
    } else if COMMON.contains(&core.as_str()) {
        Some(Weakness::Common)
    } else {
        None
    }
}

/// The letters, without what people put around and between them, and with letters for the digits that
/// stand for them.
fn core(chars: &[char]) -> String {
    let is_letter = |c: &char| c.is_alphabetic();
    let first = chars.iter().position(is_letter).unwrap_or(0);
    let last = chars.iter().rposition(is_letter).map_or(0, |at| at + 1);
    chars[first.min(last)..last]
        .iter()
        .filter_map(|c| match c {
            '0' => Some('o'),
            '1' | '!' => Some('i'),
            '3' => Some('e'),
            '4' | '@' => Some('a'),
            '5' | '$' => Some('s'),
            '7' => Some('t'),
            c if c.is_alphanumeric() => Some(*c),
            _ => None,
        })
        .collect()
}

/// Whether it is one short piece, repeated.
fn repeats(chars: &[char]) -> bool {
    (1..MIN_CHARS)
        .take_while(|period| 2 * period <= chars.len())
        .any(|period| (period..chars.len()).all(|at| chars[at] == chars[at - period]))
}

/// How many characters do not simply follow from the one before.
fn surprises(chars: &[char]) -> usize {
    let follows = |pair: &&[char]| {
        let (a, b) = (pair[0], pair[1]);
        (u32::from(a)).abs_diff(u32::from(b)) <= 1 || are_neighbours(a, b)
    };
    chars.len() - chars.windows(2).filter(follows).count()
}

fn are_neighbours(a: char, b: char) -> bool {
    ROWS.iter().any(|row| {
        let at = |c| row.chars().position(|key| key == c);
        matches!((at(a), at(b)), (Some(a), Some(b)) if a.abs_diff(b) == 1)
    })
}

/// What a password is wanted for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// To open this identity file.
    File(&'a Path),
    /// To open an ncryptsec (NIP-49).
    Ncryptsec,
}

/// Somebody who may know the password.
pub trait Ask {
    /// The password, after `refused` wrong ones. `None`: they don't know, or there is nobody to ask.
    ///
    /// # Errors
    /// If the place where it should be can't be read.
    fn ask(&mut self, wanted: Wanted<'_>, refused: u32) -> Result<Option<Secret>, IdentityError>;
}

/// The environment has one password, or none.
impl Ask for &Environment {
    fn ask(&mut self, _: Wanted<'_>, refused: u32) -> Result<Option<Secret>, IdentityError> {
        if refused > 0 {
            return Ok(None);
        }
        Ok(self.secret(PASSWORD_VARIABLE)?)
    }
}

/// Whose name a password must not be: that of the user of this machine.
#[must_use]
pub fn account_names(environment: &Environment) -> Vec<String> {
    ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .filter_map(|name| environment.get(name).ok().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_first_is_refused_with_the_reason() {
        use Weakness::{Common, Name, Repeats, Sequence, Short};
        for (password, expected) in [
            ("", Short),
            ("hunter2", Short),
            ("aB3$xY9!k", Short),
            ("ééééé", Short),
            ("aaaaaaaaaaaaaaaa", Repeats),
            ("AaAaAaAaAaAa", Repeats),
            ("abcabcabcabcabc", Repeats),
            ("xK9$mxK9$mxK9$m", Repeats),
            ("1212121212121212", Repeats),
            ("          ", Repeats),
            ("1234567890", Sequence),
            ("0987654321", Sequence),
            ("abcdefghijkl", Sequence),
            ("qwertyuiop", Sequence),
            ("qwertyuiopasdfghjkl", Sequence),
            ("QWERTYuiop123", Sequence),
            ("password123", Common),
            ("P@ssw0rd!!2024", Common),
            ("!!password!!", Common),
            ("letmein2024!", Common),
            ("agent-compute", Common),
            ("Satoshi-Nakamoto", Common),
            ("margaret.h", Name),
            ("Margaret.H", Name),
            ("margaret.h1936", Name),
        ] {
            assert_eq!(
                weakness(password, &["root", "margaret.h"]),
                Some(expected),
                "{password}"
            );
        }
    }

    #[test]
    fn what_a_person_or_a_machine_makes_up_is_taken() {
        for password in [
            "correct horse battery staple",
            "Tr0ub4dor&3x",
            "kX9#vQ2m!k",
            "four purple lamps",
            "пароль для компьютера",
            "0c6fd9a1b7e35284",
            "my password is not this one",
        ] {
            assert_eq!(weakness(password, &["root", ""]), None, "{password}");
        }
    }

    #[test]
    fn odd_text_is_judged_without_fault() {
        for password in [
            "\u{0}",
            "\u{1F600}\u{1F600}",
            "a\u{301}",
            "1",
            "!",
            "İİİİİİİİİİ",
        ] {
            assert!(
                weakness(password, &["", "!", "x"]).is_some(),
                "{password:?}"
            );
        }
    }
}

//! Users by name and number, as the system's name service knows them.

use std::fmt;

use nix::unistd::{Uid, User};

/// A text that is no user.
#[derive(Debug)]
pub(crate) struct BadUser {
    text: String,
}

impl fmt::Display for BadUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is neither a user's name nor a number below {}",
            self.text,
            u32::MAX
        )
    }
}

impl std::error::Error for BadUser {}

/// Reads a name, or a number that need not have a name; as chown(1) does, a name goes first.
pub(crate) fn parse(text: &str) -> Result<u32, BadUser> {
    // A name service that fails knows no name; a number is still one.
    if let Ok(Some(user)) = User::from_name(text) {
        return Ok(user.uid.as_raw());
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|&number| is_number && number != u32::MAX)
        .ok_or_else(|| BadUser {
            text: text.to_owned(),
        })
}

/// The name of a user, if there is one.
pub(crate) fn name_of(user: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(user))
        .ok()
        .flatten()
        .map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_by_name_and_by_number() {
        assert_eq!(parse("root").unwrap(), 0);
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(parse("0").unwrap(), 0);
        assert_eq!(parse("4294967294").unwrap(), u32::MAX - 1);
        for text in [
            "",
            "4294967295",
            "4294967296",
            "+1",
            "-1",
            "no such user",
            "a\0b",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("a user's name"), "{error}");
        }
    }
}

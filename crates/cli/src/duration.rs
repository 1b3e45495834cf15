//! Lengths of time on the command line.

use std::{fmt, time::Duration};

/// A text that is no length of time.
#[derive(Debug)]
pub(crate) struct BadDuration {
    text: String,
}

impl fmt::Display for BadDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a number with ms, s, m or h, at most 24h",
            self.text
        )
    }
}

impl std::error::Error for BadDuration {}

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `30s`, `500ms`, `2m`, `1h`; a number alone is in seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration {
        text: text.to_owned(),
    };
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let number: u64 = digits.parse().map_err(|_not_a_number| bad())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(bad()),
    };
    let duration = Duration::from_millis(number.checked_mul(millis).ok_or_else(bad)?);
    if duration > LONGEST {
        Err(bad())
    } else {
        Ok(duration)
    }
}

/// As [`parse`], but not zero.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse(text) {
        Ok(Duration::ZERO) => Err("an interval is at least 1ms".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_units() {
        for (text, millis) in [
            ("30s", 30_000),
            ("30", 30_000),
            ("250ms", 250),
            ("2m", 120_000),
            ("24h", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(
                parse(text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "25h",
            "99999999999999999999s",
            "5x",
        ] {
            assert!(
                parse(text)
                    .unwrap_err()
                    .to_string()
                    .contains(&format!("{text:?}"))
            );
        }
        parse_interval("0ms").unwrap_err();
    }
}

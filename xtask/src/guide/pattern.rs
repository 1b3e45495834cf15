//! Comparing what a command prints with what a document says.
//!
//! | in the document | matches |
//! |---|---|
//! | a number, also hexadecimal or with a decimal point | any number of the same kind |
//! | `...` in a line | anything |
//! | `...` alone on a line | any lines, or none |
//! | white space | any other amount of it: columns are as wide as their numbers |
//!
//! Everything else must be the same. A document thus shows real output, and stays right when sizes,
//! times and addresses are others.

/// What is different, if anything is.
pub(super) fn difference(expected: &[String], actual: &str) -> Option<String> {
    let actual: Vec<&str> = actual.lines().map(str::trim_end).collect();
    let last = actual.iter().rposition(|line| !line.is_empty());
    let actual = last.map_or(&[][..], |last| &actual[..=last]);
    let expected: Vec<&str> = expected.iter().map(|line| line.trim_end()).collect();
    if matches(&expected, actual) {
        return None;
    }
    let same = expected
        .iter()
        .zip(actual)
        .take_while(|(expected, actual)| **expected != "..." && is_same(expected, actual))
        .count();
    let line = |lines: &[&str]| {
        lines
            .get(same)
            .map_or_else(|| "no more lines".to_owned(), |line| format!("{line:?}"))
    };
    Some(format!(
        "prints something else, the first time here:\n  {} in the document\n  {} now\nall that it prints now:",
        line(&expected),
        line(actual)
    ))
}

fn matches(expected: &[&str], actual: &[&str]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((&"...", rest)) => (0..=actual.len()).any(|skipped| matches(rest, &actual[skipped..])),
        Some((first, rest)) => actual
            .split_first()
            .is_some_and(|(line, others)| is_same(first, line) && matches(rest, others)),
    }
}

fn is_same(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split("...").map(parts_of);
    let actual = parts_of(actual);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(&first[..]) else {
        return false;
    };
    let mut later: Vec<_> = parts.collect();
    let Some(last) = later.pop() else {
        return rest.is_empty();
    };
    for part in later {
        let Some(at) = find(rest, &part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(&last)
}

fn find(text: &[Part], part: &[Part]) -> Option<usize> {
    (0..=text.len()).find(|&at| text[at..].starts_with(part))
}

/// What a line is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Letter(char),
    Number,
    Hexadecimal,
    Space,
}

fn parts_of(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (part, length) = if let Some(digits) = rest.strip_prefix("0x") {
            let nr_digits = run_of(digits, |letter| letter.is_ascii_hexdigit());
            (Part::Hexadecimal, 2 + nr_digits)
        } else if first.is_ascii_digit() {
            let whole = run_of(rest, |letter| letter.is_ascii_digit());
            let fraction = rest[whole..]
                .strip_prefix('.')
                .map_or(0, |after| run_of(after, |letter| letter.is_ascii_digit()));
            let length = if fraction == 0 {
                whole
            } else {
                whole + 1 + fraction
            };
            (Part::Number, length)
        } else if first.is_whitespace() {
            (Part::Space, run_of(rest, char::is_whitespace))
        } else {
            (Part::Letter(first), first.len_utf8())
        };
        parts.push(part);
        rest = &rest[length..];
    }
    parts
}

/// Bytes at the start of `text` whose letters are all such.
fn run_of(text: &str, is_such_fn: impl Fn(char) -> bool) -> usize {
    text.find(|letter| !is_such_fn(letter))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees(expected: &str, actual: &str) -> bool {
        let expected: Vec<_> = expected.lines().map(str::to_owned).collect();
        difference(&expected, actual).is_none()
    }

    #[test]
    fn numbers_and_columns_may_change_and_words_may_not() {
        assert!(agrees(
            "cohmem0  512 MiB   12.5 %\n",
            "cohmem1    64 MiB  7 %\n\n"
        ));
        assert!(agrees("at 0x140000000-0x160000000", "at 0xff-0x1"));
        assert!(!agrees("512 MiB", "512 GiB"));
        assert!(!agrees("512 MiB", "MiB"));
        assert!(!agrees("0x12", "12"));
        assert!(!agrees("a", ""));
        assert!(!agrees("", "a"));
        assert!(!agrees("a\n", "a\nb\n"));
    }

    #[test]
    fn an_ellipsis_in_a_line_is_any_text() {
        assert!(agrees("kernel ... is new", "kernel 6.12-x is new"));
        assert!(agrees("a...", "a"));
        assert!(agrees("...b...d", "abcd"));
        assert!(!agrees("...b...d", "abdc"));
        assert!(!agrees("a...", "b"));
    }

    #[test]
    fn an_ellipsis_on_a_line_is_any_lines() {
        assert!(agrees("a\n...\nz", "a\nb\nc\nz"));
        assert!(agrees("a\n...\nz", "a\nz"));
        assert!(agrees("...", ""));
        assert!(!agrees("a\n...\nz", "a\nb"));
    }

    #[test]
    fn the_first_difference_is_shown() {
        let expected = ["a".to_owned(), "b".to_owned()];
        let says = difference(&expected, "a\nc\n").expect("they differ");
        assert!(says.contains("\"b\" in the document"), "{says}");
        assert!(says.contains("\"c\" now"), "{says}");
    }
}

//! Patterns for names: `*` stands for any letters, `?` for one.

use std::fmt;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(String);

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Takes time in proportion to the product of both lengths at most.
    pub(super) fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut next) = (0, 0);
        // Behind the last star, and the first letter that it does not stand for.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&letter) = name.get(next) {
            match (pattern.get(at), star) {
                (Some('*'), _) => {
                    star = Some((at + 1, next));
                    at += 1;
                }
                (Some(&wanted), _) if wanted == '?' || wanted == letter => {
                    at += 1;
                    next += 1;
                }
                // The last star takes one letter more.
                (_, Some((behind, taken))) => {
                    star = Some((behind, taken + 1));
                    (at, next) = (behind, taken + 1);
                }
                (_, None) => return false,
            }
        }
        pattern.iter().skip(at).all(|&rest| rest == '*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_letters() {
        for (pattern, name, is_match) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*model*", "[anon:big model 7]", true),
            ("*model*", "[anon:mode]", false),
            ("?", "\u{e9}", true),
            ("?", "", false),
            ("a*b*c", "abxbc", true),
            ("a*b*c", "abxb", false),
            ("[heap]", "[heap]", true),
            ("[heap]", "h", false),
            ("*.so", "libc.so.6", false),
            ("*.so.?", "libc.so.6", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(name),
                is_match,
                "{pattern} {name}"
            );
        }
    }

    /// As the definition says it, letter by letter.
    fn slow(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=name.len()).any(|taken| slow(rest, &name[taken..])),
            ([wanted, rest @ ..], [letter, more @ ..]) => {
                (*wanted == '?' || wanted == letter) && slow(rest, more)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_matches_as_the_definition_says(pattern in "[ab*?]{0,7}", name in "[ab]{0,9}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                Glob::new(&pattern).matches(&name),
                slow(&letters(&pattern), &letters(&name))
            );
        }
    }
}

//! Reading a policy.

use std::{fmt, str::FromStr};

use cohmem::{ByteCount, Device, FRAME_BYTES};

use super::{Full, Glob, Policy, Which};

const WORDS: &str = "all, heap, stack, size>=SIZE, name=GLOB, limit=SIZE, devices=DEVICE,DEVICE and \
                     full=strict|spill|evict";

/// A word of a policy that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadPolicy {
    word: String,
    says: Says,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Unknown,
    BadSize,
    BadLimit,
    BadDevice,
    BadFull,
    NoName,
    Twice(&'static str),
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.word;
        match self.says {
            Says::Unknown => write!(f, "{word:?} is no word of a policy; those are {WORDS}"),
            Says::BadSize => write!(
                f,
                "{word:?} has no size; a size is a number of bytes, also with K, M, G or T"
            ),
            Says::BadLimit => write!(
                f,
                "{word:?} leaves no room for a page of {FRAME_BYTES} bytes"
            ),
            Says::BadDevice => write!(
                f,
                "{word:?} is no device; those are cohmemN or N, N below 16"
            ),
            Says::BadFull => write!(
                f,
                "{word:?} is nothing to do on a full device; that is strict, spill or evict"
            ),
            Says::NoName => write!(f, "{word:?} names no mapping; * and ? stand for letters"),
            Says::Twice(what) => write!(f, "{word:?} is the second {what}; one is allowed"),
        }
    }
}

impl std::error::Error for BadPolicy {}

fn bad(word: &str, says: Says) -> BadPolicy {
    BadPolicy {
        word: word.to_owned(),
        says,
    }
}

impl FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let mut policy = Self::default();
        let mut full = None;
        for clause in text.split(';').map(str::trim) {
            if let Some(value) = clause.strip_prefix("limit=") {
                let limit = size(clause, value)?;
                if limit.get() < FRAME_BYTES {
                    return Err(bad(clause, Says::BadLimit));
                }
                if policy.limit.replace(limit).is_some() {
                    return Err(bad(clause, Says::Twice("limit=")));
                }
            } else if let Some(value) = clause.strip_prefix("devices=") {
                if !policy.devices.is_empty() {
                    return Err(bad(clause, Says::Twice("devices=")));
                }
                policy.devices = devices(value)?;
            } else if let Some(value) = clause.strip_prefix("full=") {
                if full.replace(what_if_full(value)?).is_some() {
                    return Err(bad(clause, Says::Twice("full=")));
                }
            } else if policy.which.is_empty() {
                let words = clause.split(',').map(|word| which(word.trim()));
                policy.which = words.collect::<Result<_, _>>()?;
            } else {
                // A word that nobody knows is told as that.
                clause
                    .split(',')
                    .try_for_each(|word| which(word.trim()).map(drop))?;
                return Err(bad(clause, Says::Twice("choice of mappings")));
            }
        }
        policy.full = full.unwrap_or_default();
        Ok(policy)
    }
}

fn which(word: &str) -> Result<Which, BadPolicy> {
    match word {
        "all" => return Ok(Which::All),
        "heap" => return Ok(Which::Heap),
        "stack" => return Ok(Which::Stack),
        _ => {}
    }
    if let Some(value) = word.strip_prefix("size>=") {
        return Ok(Which::AtLeast(size(word, value)?));
    }
    match word.strip_prefix("name=") {
        Some("") => Err(bad(word, Says::NoName)),
        Some(pattern) => Ok(Which::Name(Glob::new(pattern))),
        None => Err(bad(word, Says::Unknown)),
    }
}

fn size(word: &str, value: &str) -> Result<ByteCount, BadPolicy> {
    value.parse().map_err(|_error| bad(word, Says::BadSize))
}

fn devices(value: &str) -> Result<Vec<u32>, BadPolicy> {
    let mut numbers = Vec::new();
    for word in value.split(',').map(str::trim) {
        let number = Device::parse_number(word).map_err(|_error| bad(word, Says::BadDevice))?;
        if numbers.contains(&number) {
            return Err(bad(word, Says::Twice("mention of that device")));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn what_if_full(value: &str) -> Result<Full, BadPolicy> {
    match value.trim() {
        "strict" => Ok(Full::Strict),
        "spill" => Ok(Full::Spill),
        "evict" => Ok(Full::Evict),
        other => Err(bad(other, Says::BadFull)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::subsequence};

    use super::*;

    #[test]
    fn the_example_of_the_help_is_read() {
        let text = "heap,size>=64M,name=*model*;limit=2G;devices=cohmem1,cohmem0;full=evict";
        let policy: Policy = text.parse().unwrap();
        assert_eq!(policy.to_string(), text);
        let loose: Policy = " full=evict ; devices=1, 0;limit=2048M; heap, size>=64M ,name=*model*"
            .parse()
            .unwrap();
        assert_eq!(loose, policy);
        assert_eq!(
            "all;full=spill".parse(),
            Ok(Policy {
                which: vec![Which::All],
                ..Policy::default()
            })
        );
    }

    #[test]
    fn a_wrong_word_is_named_with_what_is_allowed() {
        for (text, says) in [
            (
                "hepa",
                "\"hepa\" is no word of a policy; those are all, heap",
            ),
            ("", "\"\" is no word"),
            ("heap,", "\"\" is no word"),
            ("heap;", "\"\" is no word"),
            (
                "size>=64X",
                "\"size>=64X\" has no size; a size is a number of bytes",
            ),
            ("size=64M", "\"size=64M\" is no word"),
            ("limit=-1", "\"limit=-1\" has no size"),
            (
                "limit=4095",
                "\"limit=4095\" leaves no room for a page of 4096 bytes",
            ),
            (
                "devices=cohmem16",
                "\"cohmem16\" is no device; those are cohmemN or N, N below 16",
            ),
            (
                "devices=0,cohmem0",
                "\"cohmem0\" is the second mention of that device",
            ),
            ("devices=", "\"\" is no device"),
            (
                "full=panic",
                "\"panic\" is nothing to do on a full device; that is strict",
            ),
            ("name=", "\"name=\" names no mapping"),
            (
                "limit=1G;limit=2G",
                "\"limit=2G\" is the second limit=; one is allowed",
            ),
            (
                "full=spill;full=spill",
                "\"full=spill\" is the second full=",
            ),
            (
                "devices=0;devices=1",
                "\"devices=1\" is the second devices=",
            ),
            ("heap;stack", "\"stack\" is the second choice of mappings"),
            ("heap;what", "\"what\" is no word"),
        ] {
            let error = text.parse::<Policy>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }

    fn any_which() -> impl Strategy<Value = Which> {
        prop_oneof![
            Just(Which::All),
            Just(Which::Heap),
            Just(Which::Stack),
            any::<u64>().prop_map(|bytes| Which::AtLeast(ByteCount::new(bytes))),
            "[a-z*?/.:=>\\[\\]]{1,9}".prop_map(|pattern| Which::Name(Glob::new(&pattern))),
        ]
    }

    proptest! {
        #[test]
        fn a_written_policy_is_read_as_the_same(
            which in vec(any_which(), 1..5),
            limit in proptest::option::of(FRAME_BYTES..),
            devices in subsequence((0..16_u32).collect::<Vec<_>>(), 0..16),
            full in prop_oneof![Just(Full::Strict), Just(Full::Spill), Just(Full::Evict)],
        ) {
            let policy = Policy { which, limit: limit.map(ByteCount::new), devices, full };
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }

        #[test]
        fn any_text_is_read_or_refused_by_a_word_of_it(text in "[a-z0-9=>,;* ]{0,40}") {
            if let Err(error) = text.parse::<Policy>() {
                prop_assert!(text.contains(&error.word), "{}", error);
            }
        }
    }
}

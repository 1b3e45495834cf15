//! Which backend: named by the caller, or picked.

use std::{fmt, path::PathBuf, str::FromStr};

use cohmem_engine::{Level, LevelChoice};

use super::refusal::Refusal;
use crate::{
    device::Device,
    error::{Error, Result},
    units::ByteCount,
};

/// A backend with where its device memory comes from.
///
/// Reads and shows `auto`, `driver`, `driver:0`, `numa`, `numa:1`, `engine`, `engine:1G`,
/// `engine:/dev/dax0.0`, and for the engine also `,level=1` to `,level=3` and `,huge` behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The driver where a device is attached and open to this user, else the engine with emulated
    /// device memory. A dax device or a NUMA node is never taken unasked: others may use it.
    Auto,
    /// The kernel module, with this device or the only one.
    Driver(Option<u32>),
    /// The engine in user space.
    Engine(EngineBackend),
    /// A NUMA node in place of a device: this one, or the only one with memory and no processors.
    Numa(Option<u32>),
}

/// How the engine is to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineBackend {
    /// Where device memory comes from.
    pub source: EngineSource,
    /// Which mechanism stops other threads for the moment in which memory changes place.
    pub level: LevelChoice,
    /// Emulated device memory consists of huge pages of 2 MiB, which must be configured.
    pub huge: bool,
}

/// Where the engine's device memory comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSource {
    /// Ordinary memory that stands for a device's.
    Emulated(ByteCount),
    /// A device-dax node, `/dev/daxX.Y`.
    Dax(PathBuf),
}

impl EngineBackend {
    /// Emulated memory when nothing else is said.
    pub const DEFAULT_SIZE: ByteCount = ByteCount::new(1 << 30);
}

impl Default for EngineBackend {
    fn default() -> Self {
        Self {
            source: EngineSource::Emulated(Self::DEFAULT_SIZE),
            level: LevelChoice::Auto,
            huge: false,
        }
    }
}

/// The kind of a backend, without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// The kernel module.
    Driver,
    /// The engine in user space.
    Engine,
    /// A NUMA node.
    Numa,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Engine => "engine",
            Self::Numa => "numa",
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Driver(None) => f.write_str("driver"),
            Self::Driver(Some(number)) => write!(f, "driver:{number}"),
            Self::Numa(None) => f.write_str("numa"),
            Self::Numa(Some(node)) => write!(f, "numa:{node}"),
            Self::Engine(engine) => engine.fmt(f),
        }
    }
}

impl fmt::Display for EngineBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            EngineSource::Emulated(size) => write!(f, "engine:{}", Short(*size))?,
            EngineSource::Dax(path) => write!(f, "engine:{}", path.display())?,
        }
        if let LevelChoice::Exactly(level) = self.level {
            write!(f, ",level={}", level.number())?;
        }
        f.write_str(if self.huge { ",huge" } else { "" })
    }
}

/// A size as it is read.
struct Short(ByteCount);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.get();
        let units = [(30, "G"), (20, "M"), (10, "K"), (0, "")];
        let exact = |&&(shift, _): &&(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= shift;
        let (shift, letter) = units.iter().find(exact).unwrap_or(&(0, ""));
        write!(f, "{}{letter}", bytes >> shift)
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::from(Refusal::BadBackend {
                text: text.to_owned(),
            })
        };
        let (name, rest) = match text.split_once([':', ',']) {
            Some((name, _)) => (name, &text[name.len()..]),
            None => (text, ""),
        };
        let detail = rest.strip_prefix(':');
        match (name, detail) {
            ("auto", None) if rest.is_empty() => Ok(Self::Auto),
            ("driver", None) if rest.is_empty() => Ok(Self::Driver(None)),
            ("driver", Some(device)) => Ok(Self::Driver(Some(Device::parse_number(device)?))),
            ("numa", None) if rest.is_empty() => Ok(Self::Numa(None)),
            ("numa", Some(node)) if node.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::Numa(Some(node.parse().map_err(|_number| bad())?)))
            }
            ("engine", _) => Ok(Self::Engine(engine(rest).ok_or_else(bad)?)),
            _ => Err(bad()),
        }
    }
}

/// Reads what follows `engine`.
fn engine(rest: &str) -> Option<EngineBackend> {
    let mut engine = EngineBackend::default();
    let (detail, options) = match rest.strip_prefix(':') {
        Some(rest) => rest.split_once(',').unwrap_or((rest, "")),
        None => ("", rest.strip_prefix(',').unwrap_or(rest)),
    };
    if detail.starts_with('/') {
        engine.source = EngineSource::Dax(PathBuf::from(detail));
    } else if !detail.is_empty() {
        engine.source = EngineSource::Emulated(detail.parse().ok()?);
    } else if rest.starts_with(':') {
        return None;
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            None if option == "huge" => engine.huge = true,
            Some(("level", number)) => {
                let level = Level::ALL
                    .into_iter()
                    .find(|level| level.number().to_string() == number)?;
                engine.level = LevelChoice::Exactly(level);
            }
            _ => return None,
        }
    }
    Some(engine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn backends_are_read_and_shown_alike() {
        for text in [
            "auto",
            "driver",
            "driver:3",
            "numa",
            "numa:1",
            "engine:1G",
            "engine:96M,level=2",
            "engine:/dev/dax0.0",
            "engine:/dev/dax1.0,level=3",
            "engine:4K,huge",
            "engine:5000,level=1,huge",
        ] {
            assert_eq!(text.parse::<Backend>().unwrap().to_string(), text);
        }
        for (text, full) in [
            ("engine", "engine:1G"),
            ("engine,level=3", "engine:1G,level=3"),
            ("driver:cohmem2", "driver:2"),
        ] {
            assert_eq!(text.parse::<Backend>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_there_is() {
        for text in [
            "",
            "module",
            "auto:1",
            "auto,level=1",
            "driver,0",
            "numa:x",
            "numa:-1",
            "engine:",
            "engine:lots",
            "engine:1G,level=4",
            "engine:1G,fast",
        ] {
            let error = text.parse::<Backend>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains("driver[:N]"), "{error}");
        }
        let error = "driver:16".parse::<Backend>().unwrap_err();
        assert!(error.to_string().contains("N below 16"), "{error}");
    }
}

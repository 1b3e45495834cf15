//! Addresses, ranges and sizes as types of their own.

use std::{fmt, ptr::NonNull, str::FromStr};

use cohmem_uapi::FRAME_BYTES;
use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, Result};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

impl ByteCount {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The bytes of `nr_frames` frames (or pages), or the largest count if that overflows.
    #[must_use]
    pub const fn of_frames(nr_frames: u64) -> Self {
        Self(nr_frames.saturating_mul(FRAME_BYTES))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Frames that hold so many bytes: rounded up.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.0.div_ceil(FRAME_BYTES)
    }
}

const UNITS: [(char, u32); 6] = [
    ('K', 10),
    ('M', 20),
    ('G', 30),
    ('T', 40),
    ('P', 50),
    ('E', 60),
];

/// Shows binary units with two digits behind the point; `{:#}` shows none unless it is exact.
impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|&&(_, shift)| self.0 >> shift > 0);
        let Some(&(letter, shift)) = unit else {
            return write!(f, "{} B", self.0);
        };
        let whole = self.0 >> shift;
        let hundredths = (u128::from(self.0 - (whole << shift)) * 100) >> shift;
        if hundredths == 0 {
            write!(f, "{whole} {letter}iB")
        } else {
            write!(f, "{whole}.{hundredths:02} {letter}iB")
        }
    }
}

/// Reads `4096`, `0x1000`, `64K`, `2M`, `1G`, also with `iB` behind the letter.
impl FromStr for ByteCount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::from(Cause::BadSize {
                text: text.to_owned(),
            })
        };
        let trimmed = text.trim();
        let trimmed = trimmed.strip_suffix("iB").unwrap_or(trimmed);
        let (digits, shift) = match trimmed.chars().last() {
            Some(last) if !trimmed.starts_with("0x") => {
                match UNITS
                    .iter()
                    .find(|(letter, _)| *letter == last.to_ascii_uppercase())
                {
                    Some(&(_, shift)) => (&trimmed[..trimmed.len() - 1], shift),
                    None => (trimmed, 0),
                }
            }
            _ => (trimmed, 0),
        };
        let number = parse_u64(digits).ok_or_else(bad)?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

/// Reads decimal, or hexadecimal behind `0x`.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match digits {
        // `from_str_radix` takes a sign, which no address or size has.
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

/// An address in a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserAddr(u64);

impl UserAddr {
    /// The address `raw`.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range of addresses in a process, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddrRange {
    start: u64,
    end: u64,
}

impl AddrRange {
    /// The range from `start` up to but not including `end`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind::OutOfRange): `end` is below `start`.
    pub fn new(start: UserAddr, end: UserAddr) -> Result<Self> {
        if end < start {
            return Err(Cause::Backwards {
                start: start.0,
                end: end.0,
            }
            .into());
        }
        Ok(Self {
            start: start.0,
            end: end.0,
        })
    }

    /// The range of `length` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind::OutOfRange): it wraps.
    pub fn with_length(start: UserAddr, length: ByteCount) -> Result<Self> {
        match start.0.checked_add(length.0) {
            Some(end) => Ok(Self {
                start: start.0,
                end,
            }),
            None => Err(Cause::Wraps {
                start: start.0,
                length: length.0,
            }
            .into()),
        }
    }

    /// The pages that `slice` touches, whole.
    #[must_use]
    pub fn covering<T>(slice: &[T]) -> Self {
        let span = slice.as_ptr_range();
        let start = span.start.addr() as u64 & !(FRAME_BYTES - 1);
        let end = (span.end.addr() as u64).next_multiple_of(FRAME_BYTES);
        Self { start, end }
    }

    /// The pages of a mapping, which are whole.
    pub(crate) fn of_span(start: NonNull<u8>, length: usize) -> Self {
        let start = start.addr().get() as u64;
        Self {
            start,
            end: start + length as u64,
        }
    }

    /// First address.
    #[must_use]
    pub const fn start(self) -> UserAddr {
        UserAddr(self.start)
    }

    /// First address behind the range.
    #[must_use]
    pub const fn end(self) -> UserAddr {
        UserAddr(self.end)
    }

    /// Bytes.
    #[must_use]
    pub const fn length(self) -> ByteCount {
        ByteCount(self.end - self.start)
    }

    /// Pages, a part of one counted as one.
    #[must_use]
    pub const fn nr_pages(self) -> u64 {
        self.length().frames()
    }

    /// The part that both ranges hold.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end)
    }
}

/// Reads `START-END` (the end is not part of it) or `START+SIZE`.
impl FromStr for AddrRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (start, end) = parse_range(text)?;
        Ok(Self { start, end })
    }
}

/// A range of physical addresses, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PhysRange {
    start: u64,
    end: u64,
}

impl PhysRange {
    /// The range from `start` up to but not including `end`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind::OutOfRange): `end` is below `start`.
    pub fn new(start: u64, end: u64) -> Result<Self> {
        if end < start {
            return Err(Cause::Backwards { start, end }.into());
        }
        Ok(Self { start, end })
    }

    /// First address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First address behind the range.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Bytes.
    #[must_use]
    pub const fn length(self) -> ByteCount {
        ByteCount(self.end - self.start)
    }

    /// Whether both ranges have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether `other` lies in this range, whole.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The largest part that starts and ends at a multiple of `align`.
    #[must_use]
    pub fn aligned_inward(self, align: u64) -> Option<Self> {
        let start = self.start.checked_next_multiple_of(align)?;
        let end = self.end / align * align;
        (start < end).then_some(Self { start, end })
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end)
    }
}

/// Reads `START-END` (the end is not part of it) or `START+SIZE`.
impl FromStr for PhysRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (start, end) = parse_range(text)?;
        Ok(Self { start, end })
    }
}

fn parse_range(text: &str) -> Result<(u64, u64)> {
    let bad = || {
        Error::from(Cause::BadRange {
            text: text.to_owned(),
        })
    };
    if let Some((start, length)) = text.split_once('+') {
        let start = parse_u64(start).ok_or_else(bad)?;
        let length = length.parse::<ByteCount>()?.0;
        let end = start
            .checked_add(length)
            .ok_or(Cause::Wraps { start, length })?;
        return Ok((start, end));
    }
    let (start, end) = text.split_once('-').ok_or_else(bad)?;
    let (start, end) = (
        parse_u64(start).ok_or_else(bad)?,
        parse_u64(end).ok_or_else(bad)?,
    );
    if end < start {
        return Err(Cause::Backwards { start, end }.into());
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests;

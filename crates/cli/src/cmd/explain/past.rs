//! What the drivers' histories say of one page: how it came to be where it is.

use std::{fs, time::Duration};

use cohmem::{
    AddrRange, ByteCount, Cause, Device, Event, Process, Target, Tier, UserAddr,
    history::{Record, Records, Subject},
};
use serde::Serialize;

use crate::exit::Result;

/// Moves that are shown; a page that goes back and forth has many.
const NR_SHOWN: usize = 8;

/// One record of a device.
#[derive(Clone, Debug)]
pub(super) struct Past {
    device: u32,
    record: Record,
    /// Name of the process that asked, if it is still there.
    asker: Option<String>,
}

/// One record, in JSON.
#[derive(Debug, Serialize)]
pub(super) struct PastRow {
    age_ns: u64,
    device: String,
    event: Option<&'static str>,
    cause: Option<&'static str>,
    reason: Option<&'static str>,
    other: Option<String>,
    by: u32,
    start: u64,
    pages: u32,
}

/// What the histories of `devices` say of the page at `page`, the newest first.
pub(super) fn read(devices: &[u32], process: &Process, page: UserAddr) -> Result<Vec<Past>> {
    let range = AddrRange::with_length(page, ByteCount::of_frames(1))?;
    let mut all = Vec::new();
    for &number in devices {
        let device = Device::open(number)?;
        for records in [Records::Moved, Records::Stayed] {
            let subject = Subject::Of(Target::Process(process));
            let history = device.query_history(subject, records, Some(range), 0)?;
            all.extend(history.records.into_iter().map(|record| Past {
                device: number,
                record,
                asker: None,
            }));
        }
    }
    all.sort_by_key(|past| past.record.age);
    all.truncate(NR_SHOWN);
    for past in &mut all {
        let name = fs::read_to_string(format!("/proc/{}/comm", past.record.by));
        past.asker = name.ok().map(|name| name.trim_end().to_owned());
    }
    Ok(all)
}

impl Past {
    /// Where the page was after it: on which device.
    fn place(&self) -> Option<u32> {
        match self.record.event {
            Some(Event::Arrived | Event::Filled | Event::Stuck) => Some(self.device),
            Some(Event::Left) => self.record.other,
            _ => None,
        }
    }

    fn is_a_move(&self) -> bool {
        let event = self.record.event;
        matches!(event, Some(Event::Arrived | Event::Filled | Event::Left))
    }

    /// What happened, without when.
    fn what(&self) -> String {
        let device = format!("cohmem{}", self.device);
        let other = match self.record.other {
            Some(number) => format!("cohmem{number}"),
            None => "system memory".to_owned(),
        };
        let what = match self.record.event {
            Some(Event::Arrived) => format!("moved from {other} to {device}"),
            Some(Event::Filled) => format!("was made on {device}, with zeros"),
            Some(Event::Left) => format!("moved from {device} to {other}"),
            Some(Event::Lost) => format!("was lost by the hardware of {device}"),
            Some(Event::Stayed) => format!("was to move to {device} and stayed"),
            Some(Event::Stuck) => format!("was to leave {device} and stayed"),
            None => format!("met what this program does not know, on {device}"),
        };
        match self.record.reason {
            Some(reason) => format!("{what}: {}", reason.text()),
            None => what,
        }
    }

    fn what_for(&self) -> String {
        let cause = self.record.cause.map_or("something new", Cause::text);
        if self.record.cause == Some(Cause::Failure) {
            return cause.to_owned();
        }
        match &self.asker {
            Some(name) => format!("{cause} by process {} ({name})", self.record.by),
            None => format!("{cause} by process {}, which is gone", self.record.by),
        }
    }

    fn line(&self) -> String {
        let beside = match self.record.nr_pages {
            0 | 1 => String::new(),
            nr_pages => format!(", one of {nr_pages} pages"),
        };
        format!(
            "{} it {} ({}{beside})",
            ago(self.record.age),
            self.what(),
            self.what_for()
        )
    }

    pub(super) fn row(&self) -> PastRow {
        PastRow {
            age_ns: u64::try_from(self.record.age.as_nanos()).unwrap_or(u64::MAX),
            device: format!("cohmem{}", self.device),
            event: self.record.event.map(Event::name),
            cause: self.record.cause.map(Cause::name),
            reason: self.record.reason.map(cohmem::Reason::name),
            other: self.record.other.map(|number| format!("cohmem{number}")),
            by: self.record.by,
            start: self.record.start.get(),
            pages: self.record.nr_pages,
        }
    }
}

/// One line a record.
pub(super) fn lines(past: &[Past]) -> Vec<String> {
    past.iter().map(Past::line).collect()
}

/// Why a page is where it is: on `device`, or not.
pub(super) fn why(past: &[Past], tier: Tier, device: Option<u32>) -> String {
    let last_move = past.iter().find(|past| past.is_a_move());
    match (tier, last_move, past.first()) {
        (Tier::None, ..) => "there is nothing to move".to_owned(),
        (Tier::Foreign, ..) => "another driver put it there".to_owned(),
        (_, Some(moved), _) if moved.place() == device && device.is_some() => moved.line(),
        (Tier::Device, ..) => {
            "the driver does not remember: it came there in a process before a fork, at \
             another address, or too long ago"
                .to_owned()
        }
        // What was tried after the last move tells more than that move.
        (Tier::System, _, Some(last)) if last.place().is_none() => last.line(),
        (Tier::System, Some(moved), _) if moved.place().is_none() => moved.line(),
        (Tier::System, Some(moved), _) => format!(
            "the page that came to cohmem{} was replaced since, by a write after a fork, or because its \
             memory was given up",
            moved.device
        ),
        (Tier::System, None, _) => {
            "nobody asked for it to move, as far as the driver remembers".to_owned()
        }
    }
}

/// "12 s ago".
fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1} s ago", age.as_secs_f64()),
        10..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;

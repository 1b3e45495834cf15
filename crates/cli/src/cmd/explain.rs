//! `cohmem explain`: one page, where it is and why, and what would keep it from moving.

mod past;

use std::str::FromStr;

use clap::Args;
use cohmem::{
    AddrRange, ByteCount, Device, ErrorKind, FRAME_BYTES, Frame, PageEntry, Process, Reason,
    Target, Tier, UserAddr, Vma, VmaKind, discover,
};
use serde::Serialize;

use self::past::{Past, PastRow};
use crate::{
    exit::{CliError, Exit, Result},
    output::Output,
};

/// Tell where one page of a process is and why, and what would keep it from moving to a device.
///
/// The driver remembers the moves of pages, and which were to move and stayed for a reason that may pass: the
/// newest some hundreds to ten thousands of records of each device. Those of this page are shown, the
/// newest first. Nothing is faulted in, moved or changed. Only root sees physical addresses. Exit status 1 when no
/// mapping holds the address.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The process.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// An address in it, in hexadecimal with or without 0x.
    address: Address,
}

/// An address as `/proc/PID/maps` or a debugger prints it.
#[derive(Clone, Copy, Debug)]
struct Address(UserAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(digits, 16).ok().filter(|_| is_hex);
        number
            .map(|number| Self(UserAddr::new(number)))
            .ok_or_else(|| format!("{text:?} is not an address of up to 16 hexadecimal digits"))
    }
}

/// What is known of the page.
#[derive(Debug)]
struct Findings {
    pid: u32,
    name: String,
    page: UserAddr,
    mapping: Option<Vma>,
    entry: PageEntry,
    frame: Frame,
    /// The device that was asked what would keep the page from moving there.
    asked: u32,
    /// The newest first.
    past: Vec<Past>,
}

#[derive(Debug, Serialize)]
struct Row {
    schema: &'static str,
    pid: u32,
    process: String,
    page: u64,
    mapping: Option<MappingRow>,
    tier: &'static str,
    device: Option<u32>,
    phys: Option<u64>,
    to: String,
    moves: bool,
    reason: Option<&'static str>,
    says: String,
    why: String,
    history: Vec<PastRow>,
}

#[derive(Debug, Serialize)]
struct MappingRow {
    start: u64,
    end: u64,
    mode: String,
    name: Option<String>,
}

impl Explain {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let numbers: Vec<u32> = discover()?.iter().map(|device| device.number).collect();
        let first = match numbers.first() {
            // Says what is missing: the driver, or a device.
            None if !cohmem::is_driver_loaded() => Device::open(0)?,
            None => return Err(CliError::NoDevices),
            Some(&number) => Device::open(number)?,
        };
        let process = Process::open(self.pid)?;
        let page = UserAddr::new(self.address.0.get() & !(FRAME_BYTES - 1));
        let mut entry = look(&first, &process, page)?;
        let mut asked = first.number();
        // Of a page on a device, another device is told more than that it is there already.
        let other = numbers
            .iter()
            .find(|&&number| entry.device() != Some(number));
        if let Some(&other) = other
            && entry.device() == Some(asked)
        {
            entry = look(&Device::open(other)?, &process, page)?;
            asked = other;
        }
        let vmas = process.read_vmas()?;
        let holds = |vma: &&Vma| vma.range.start() <= page && page < vma.range.end();
        let findings = Findings {
            pid: self.pid,
            name: process.read_name()?,
            page,
            mapping: vmas.iter().find(holds).cloned(),
            entry,
            frame: process.frame_of(page)?,
            asked,
            past: past::read(&numbers, &process, page)?,
        };
        findings.tell(out)
    }
}

fn look(device: &Device, process: &Process, page: UserAddr) -> Result<PageEntry> {
    let range = AddrRange::with_length(page, ByteCount::of_frames(1))?;
    match device.query_reasons(range, Target::Process(process)) {
        Ok(map) => Ok(map.entry_at(page).unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::NotMapped => {
            Ok(PageEntry::new(Tier::None, 0, Some(Reason::Unmapped)))
        }
        Err(error) => Err(error.into()),
    }
}

impl Findings {
    fn tell(&self, out: &mut Output) -> Result<Exit> {
        if out.is_json() {
            out.json(&[self.row()])?;
        } else {
            for line in self.lines() {
                out.line(&line)?;
            }
        }
        Ok(match self.mapping {
            Some(_) => Exit::Done,
            None => Exit::Partly,
        })
    }

    fn lines(&self) -> Vec<String> {
        let mapping = match &self.mapping {
            None => "none".to_owned(),
            Some(vma) => format!(
                "{} {} {}, {}",
                vma.range,
                mode(vma),
                match vma.kind {
                    VmaKind::Anonymous => "anonymous",
                    VmaKind::File => "of a file, or shared memory",
                    VmaKind::Kernel => "the kernel's own",
                },
                vma.range.length(),
            ),
        };
        let name = self.mapping.as_ref().and_then(|vma| vma.name.as_deref());
        let frame = match self.frame {
            Frame::At(phys) => format!(", at {phys:#x}"),
            Frame::Hidden if self.entry.tier() != Tier::None => {
                ", where only root may see".to_owned()
            }
            _ => String::new(),
        };
        let mut lines = vec![
            format!(
                "page     {} of process {} ({})",
                self.page, self.pid, self.name
            ),
            match name {
                Some(name) => format!("mapping  {mapping}, {name}"),
                None => format!("mapping  {mapping}"),
            },
            format!("place    {}{frame}", self.place()),
            format!("why      {}", self.why()),
            format!("moving   {}", self.says()),
        ];
        let heads = std::iter::once("history ").chain(std::iter::repeat("        "));
        let past = past::lines(&self.past);
        lines.extend(heads.zip(past).map(|(head, past)| format!("{head} {past}")));
        lines
    }

    fn why(&self) -> String {
        past::why(&self.past, self.entry.tier(), self.entry.device())
    }

    fn place(&self) -> String {
        match (self.entry.tier(), self.entry.device()) {
            (_, Some(number)) => format!("device cohmem{number}"),
            (Tier::System, _) => "system memory".to_owned(),
            (Tier::Foreign, _) => "memory of another driver".to_owned(),
            (Tier::None | Tier::Device, _) => "no page".to_owned(),
        }
    }

    /// What would keep the page from moving.
    fn says(&self) -> String {
        let asked = self.asked;
        match self.entry.reason() {
            None => format!("it would move to cohmem{asked}"),
            Some(Reason::AlreadyThere) => {
                format!("it is on cohmem{asked}, and there is no other device to ask")
            }
            Some(reason) => format!("it would stay: {}", reason.text()),
        }
    }

    fn row(&self) -> Row {
        let mapping = self.mapping.as_ref().map(|vma| MappingRow {
            start: vma.range.start().get(),
            end: vma.range.end().get(),
            mode: mode(vma),
            name: vma.name.clone(),
        });
        Row {
            schema: "cohmem.explain/1",
            pid: self.pid,
            process: self.name.clone(),
            page: self.page.get(),
            mapping,
            tier: match self.entry.tier() {
                Tier::None => "none",
                Tier::System => "system",
                Tier::Device => "device",
                Tier::Foreign => "foreign",
            },
            device: self.entry.device(),
            phys: match self.frame {
                Frame::At(phys) => Some(phys),
                _ => None,
            },
            to: format!("cohmem{}", self.asked),
            moves: self.entry.reason().is_none(),
            reason: self.entry.reason().map(Reason::name),
            says: self.says(),
            why: self.why(),
            history: self.past.iter().map(Past::row).collect(),
        }
    }
}

/// As `/proc/PID/maps` writes it.
fn mode(vma: &Vma) -> String {
    let flag = |is_set, letter| if is_set { letter } else { '-' };
    [
        flag(vma.is_readable, 'r'),
        flag(vma.is_writable, 'w'),
        flag(vma.is_executable, 'x'),
        if vma.is_shared { 's' } else { 'p' },
    ]
    .iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(entry: PageEntry, frame: Frame) -> Findings {
        Findings {
            pid: 7,
            name: "sim".to_owned(),
            page: UserAddr::new(0x7000),
            mapping: None,
            entry,
            frame,
            asked: 1,
            past: Vec::new(),
        }
    }

    #[test]
    fn addresses_are_hexadecimal() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.0.get());
        assert_eq!(read("0x7f00"), Ok(0x7f00));
        assert_eq!(read("7f00"), Ok(0x7f00));
        assert_eq!(read("ffffffffffffffff"), Ok(u64::MAX));
        for text in ["", "0x", "+1", "-1", "0x1g", "10000000000000000"] {
            assert!(read(text).unwrap_err().contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn a_page_on_a_device_is_told_with_what_keeps_it_there() {
        let entry = PageEntry::new(Tier::Device, 0, Some(Reason::Pinned));
        let lines = findings(entry, Frame::At(0x1_4000_3000)).lines();
        assert_eq!(lines[0], "page     0x7000 of process 7 (sim)");
        assert_eq!(lines[1], "mapping  none");
        assert_eq!(lines[2], "place    device cohmem0, at 0x140003000");
        assert_eq!(
            lines[4],
            "moving   it would stay: it is pinned for I/O (io_uring buffer, RDMA, VFIO, O_DIRECT)"
        );
    }

    #[test]
    fn a_page_that_would_move_is_told_so() {
        let found = findings(PageEntry::new(Tier::System, 0, None), Frame::Hidden);
        let lines = found.lines();
        assert_eq!(lines[2], "place    system memory, where only root may see");
        assert_eq!(
            lines[3],
            "why      nobody asked for it to move, as far as the driver remembers"
        );
        assert_eq!(lines[4], "moving   it would move to cohmem1");
        assert_eq!(lines.len(), 5);
        let row = serde_json::to_value(found.row()).unwrap();
        assert_eq!(row["schema"], "cohmem.explain/1");
        assert_eq!(
            (&row["tier"], &row["moves"]),
            (&"system".into(), &true.into())
        );
        assert!(row["phys"].is_null() && row["reason"].is_null());
        let there = PageEntry::new(Tier::Device, 1, Some(Reason::AlreadyThere));
        let says = findings(there, Frame::Hidden).says();
        assert_eq!(
            says,
            "it is on cohmem1, and there is no other device to ask"
        );
    }
}

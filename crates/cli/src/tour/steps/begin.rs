//! The first step: the machine, the device, and the programs on their way.

use std::time::Instant;

use cohmem::{ByteCount, Device};

use super::{
    super::{
        attachment::Attachment,
        background::Background,
        machine::Machine,
        numeric::Numeric,
        programs::Workplace,
        redis::Redis,
        report::Report,
        trouble::{Stop, Trouble},
        voice::Voice,
    },
    Tour,
};

/// What the programs need beside the array, on the device and at home.
const REST: u64 = 256 << 20;
/// A device of this size, if the range has it, even where less would do.
const DEVICE: u64 = 1 << 30;

impl<'a> Tour<'a> {
    /// Attaches the device, and lets the programs start: they take long.
    pub(super) fn begin(
        size: ByteCount,
        device: Option<u32>,
        voice: &'a Voice,
        stop: &'a Stop,
        report: &'a mut Report,
    ) -> Result<Self, Trouble> {
        let started = Instant::now();
        let control = Attachment::open_control()?;
        let step = "1. Where this runs";
        voice.step(step);
        let machine = Machine::read()?;
        say_machine(&machine, voice);
        let needed = ByteCount::new(size.get() + REST);
        let enough = |has: ByteCount, of: &str| match has >= needed {
            true => Ok(()),
            false => Err(Trouble::NotHere(format!(
                "an array of {size} needs about {needed} of {of}, and {has} are free; try --size"
            ))),
        };
        enough(machine.available, "system memory")?;
        for soft in cohmem::dax::soft_reserved()? {
            voice.say(format!(
                "soft-reserved: {} ({})",
                soft.range,
                soft.range.length()
            ));
        }
        let attachment = match device {
            Some(number) => Attachment::adopt(control, number)?,
            None => Attachment::attach(control, needed, ByteCount::new(needed.get().max(DEVICE)))?,
        };
        let device = Device::open(attachment.number())?;
        let status = device.query_status()?;
        voice.say(format!("/dev/cohmem{}: {attachment}", attachment.number()));
        report.note_machine(&machine, status.range);
        enough(ByteCount::of_frames(status.nr_free), "device memory")?;

        let workplace = Workplace::new()?;
        let numeric = Numeric::start(size, &workplace)?;
        let redis = Redis::start(&workplace)?;
        let background = Background::start(&workplace)?;
        Ok(Self {
            background,
            redis,
            numeric,
            movers: Vec::new(),
            device,
            attachment,
            workplace,
            voice,
            stop,
            report,
            step,
            started,
        })
    }
}

fn say_machine(machine: &Machine, voice: &Voice) {
    voice.say(format!(
        "Linux {}, {} processors ({})",
        machine.kernel, machine.nr_processors, machine.processor
    ));
    voice.say(format!(
        "{} of system memory, {} available",
        machine.memory, machine.available
    ));
    voice.say(machine.caveat());
}

//! `cohmem metrics`: the devices' numbers for Prometheus.

mod exposition;
mod server;

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use cohmem::{DeviceSummary, State, discover_at};

use self::exposition::{Exposition, Family, Format, Kind};
use crate::{
    exit::{Exit, Result},
    output::Output,
};

/// Print the devices' numbers as metrics, or serve them to Prometheus.
///
/// Needs no right: what sysfs shows to everybody. Prints OpenMetrics 1.0 text; serves that or the
/// older Prometheus text, as the scraper asks for, under /metrics.
#[derive(Args, Debug)]
pub(crate) struct Metrics {
    /// Serve over HTTP at this address, such as 127.0.0.1:9817, until a signal comes.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Format that is printed.
    #[arg(long, value_enum, default_value_t = Format::Openmetrics, conflicts_with = "listen")]
    format: Format,
    /// Where sysfs is mounted: another place than /sys in a container.
    #[arg(long, value_name = "DIRECTORY", default_value = "/sys")]
    sysfs: PathBuf,
}

impl Metrics {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        match self.listen {
            None => out.text(&self.collect(self.format)?)?,
            Some(address) => server::serve(address, |format| self.collect(format))?,
        }
        Ok(Exit::Done)
    }

    fn collect(&self, format: Format) -> Result<String> {
        let is_loaded = self.sysfs.join("class/cohmem").exists();
        Ok(text(is_loaded, &discover_at(&self.sysfs)?, format))
    }
}

/// Every metric that is exported.
fn text(is_loaded: bool, devices: &[DeviceSummary], format: Format) -> String {
    let mut page = Exposition::new(format);
    page.family(&Family {
        name: "cohmem_build",
        kind: Kind::Info,
        help: "Version of the cohmem command that answers.",
    });
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family(&Family {
        name: "cohmem_driver_loaded",
        kind: Kind::Gauge,
        help: "Whether the cohmem module is loaded.",
    });
    page.sample(&[], u64::from(is_loaded));
    let names: Vec<_> = devices
        .iter()
        .map(|device| format!("cohmem{}", device.number))
        .collect();
    let mut each = |family: Family, samples_fn: &dyn Fn(&DeviceSummary) -> Vec<Sample>| {
        page.family(&family);
        for (device, name) in devices.iter().zip(&names) {
            for (label, value) in samples_fn(device) {
                let mut labels = vec![("device", &name[..])];
                labels.extend(label);
                page.sample(&labels, value);
            }
        }
    };
    let bytes = |pages: u64| cohmem::ByteCount::of_frames(pages).get();
    each(
        Family {
            name: "cohmem_device_size_bytes",
            kind: Kind::GaugeBytes,
            help: "Size of the device.",
        },
        &|device| vec![(None, device.size.get())],
    );
    each(
        Family {
            name: "cohmem_device_bytes",
            kind: Kind::GaugeBytes,
            help: "Memory of the device by what it is used for.",
        },
        &|device| {
            let state = |name, bytes: cohmem::ByteCount| (Some(("state", name)), bytes.get());
            vec![
                state("free", device.free),
                state("allocated", device.allocated),
                state("poisoned", device.poisoned),
                state("metadata", device.metadata),
            ]
        },
    );
    each(
        Family {
            name: "cohmem_device_online",
            kind: Kind::Gauge,
            help: "Whether the device hands out memory: not while it is being taken back.",
        },
        &|device| vec![(None, u64::from(device.state == Some(State::Online)))],
    );
    each(
        Family {
            name: "cohmem_moved_bytes",
            kind: Kind::CounterBytes,
            help: "Memory moved to the device (in) and home (out) since it was attached.",
        },
        &|device| {
            vec![
                (Some(("direction", "in")), bytes(device.moved_in)),
                (Some(("direction", "out")), bytes(device.moved_out)),
            ]
        },
    );
    each(
        Family {
            name: "cohmem_filled_bytes",
            kind: Kind::CounterBytes,
            help: "Untouched memory of processes filled with zeroed device memory.",
        },
        &|device| vec![(None, bytes(device.filled))],
    );
    each(
        Family {
            name: "cohmem_freed_bytes",
            kind: Kind::CounterBytes,
            help: "Device memory that came back to the allocator.",
        },
        &|device| vec![(None, bytes(device.freed))],
    );
    page.finish()
}

/// A label besides the device's name, and the value.
type Sample = (Option<(&'static str, &'static str)>, u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_sysfs;

    #[test]
    fn the_pages_are_as_published() {
        let devices = fake_sysfs::devices(fake_sysfs::TWO_DEVICES);
        let page = text(true, &devices, Format::Openmetrics);
        assert_eq!(page, include_str!("metrics/openmetrics.txt"));
        let page = text(true, &devices, Format::Text);
        assert_eq!(page, include_str!("metrics/text.txt"));
    }

    #[test]
    fn without_the_module_the_page_says_so() {
        let page = text(false, &[], Format::Openmetrics);
        assert!(page.contains("\ncohmem_driver_loaded 0\n"), "{page}");
        assert!(!page.contains("device="), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}

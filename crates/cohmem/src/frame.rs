//! Which frame a page is in.

use cohmem_uapi::FRAME_BYTES;

use crate::{
    error::{Cause, Result},
    process::Process,
    units::UserAddr,
};

/// Where a page is, as the page tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// There is no page in memory.
    Absent,
    /// It is at this physical address.
    At(u64),
    /// It is in memory, and only root may see where.
    Hidden,
}

impl Process {
    /// The frame of the page that holds `address`.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): `/proc/PID/pagemap` cannot be read, as on a kernel before 6.7.
    pub fn frame_of(&self, address: UserAddr) -> Result<Frame> {
        let start = address.get() & !(FRAME_BYTES - 1);
        let mut frame = Frame::Absent;
        let found = |_address, number: u64| {
            frame = if number == 0 {
                Frame::Hidden
            } else {
                Frame::At(number * FRAME_BYTES)
            };
        };
        self.pagemap()
            .for_each_present(start, start.saturating_add(FRAME_BYTES), found)
            .map_err(|source| Cause::File {
                doing: "scan",
                path: format!("/proc/{}/pagemap", self.pid()).into(),
                source,
            })?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sys::map::Mapping, units::AddrRange};

    #[test]
    fn a_touched_page_has_a_frame_and_an_untouched_one_none() {
        // Apart by more than a transparent huge page.
        let mut mapping = Mapping::anonymous(16 << 20).unwrap();
        mapping.as_mut_slice()[5] = 1;
        let range = AddrRange::covering(mapping.as_slice());
        let process = Process::open(std::process::id()).unwrap();
        let frame_at = |offset| process.frame_of(UserAddr::new(range.start().get() + offset));
        match frame_at(4095) {
            Ok(frame) => assert_ne!(frame, Frame::Absent),
            // Kernels before 6.7 lack the scan.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
                return;
            }
        }
        assert_eq!(frame_at(12 << 20).unwrap(), Frame::Absent);
    }
}

//! Writes a cpio archive of the "newc" kind, the form of an initramfs.
//!
//! Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context as _, Result};

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; parents come first.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o040_755, &[])
    }

    /// Adds a regular file with permission bits `mode`.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, 0o100_000 | mode, content)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for an initramfs"))?;
        let name_size = u32::try_from(path.len() + 1).context("a path of 4 GiB")?;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() -> anyhow::Result<()> {
        let mut archive = Archive::default();
        archive.directory("bin")?;
        archive.file("bin/a", 0o755, b"hello")?;
        let bytes = archive.finish()?;

        // 110 bytes of header, then the name with its zero, each padded to 4.
        assert_eq!(bytes.get(..6), Some(b"070701".as_slice()));
        assert_eq!(bytes.get(14..22), Some(b"000041ED".as_slice()));
        let file = (110_usize + 4).next_multiple_of(4);
        assert_eq!(
            bytes.get(file + 14..file + 22),
            Some(b"000081ED".as_slice())
        );
        assert_eq!(
            bytes.get(file + 54..file + 62),
            Some(b"00000005".as_slice())
        );
        assert_eq!(
            bytes.get(file + 110..file + 116),
            Some(b"bin/a\0".as_slice())
        );
        assert_eq!(
            bytes.get(file + 116..file + 124),
            Some(b"hello\0\0\0".as_slice())
        );
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
        Ok(())
    }
}

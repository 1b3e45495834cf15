//! The command's output on its way out of the guest.
//!
//! The guest ends each stream with a mark that only this run knows. A stream without it is cut
//! short, whatever the exit status says.

use std::{
    io::{self, Read, Write},
    time::{SystemTime, UNIX_EPOCH},
};

/// A mark for one run: no output contains it by accident.
pub(super) fn end_mark() -> String {
    let nanoseconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("\u{1}lab-end-{:x}-{nanoseconds:x}\u{1}", std::process::id())
}

/// Copies until `mark`, which it leaves out, or to the end; says whether the mark came.
pub(super) fn copy_to_mark(
    mut from: impl Read,
    mut to: impl Write,
    mark: &[u8],
) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let mut held: Vec<u8> = Vec::new();
    loop {
        let length = match from.read(&mut buffer) {
            // QEMU was killed or has crashed: the same as the end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        held.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let found = held.windows(mark.len()).position(|window| window == mark);
        let ready = match found {
            Some(position) => position,
            None if length == 0 => held.len(),
            None => held.len() - beginning_of_mark(&held, mark),
        };
        to.write_all(held.get(..ready).unwrap_or_default())?;
        to.flush()?;
        if found.is_some() || length == 0 {
            return Ok(found.is_some());
        }
        held.drain(..ready);
    }
}

/// Bytes at the end of `held` that the mark may begin with.
fn beginning_of_mark(held: &[u8], mark: &[u8]) -> usize {
    let longest = held.len().min(mark.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&length| {
            mark.get(..length)
                .is_some_and(|beginning| held.ends_with(beginning))
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one a read.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn copy(pieces: &[&'static [u8]]) -> (bool, Vec<u8>) {
        let mut output = Vec::new();
        let marked = copy_to_mark(Pieces(pieces.to_vec()), &mut output, b"<end>").expect("no I/O");
        (marked, output)
    }

    #[test]
    fn the_mark_ends_the_stream_wherever_it_is_cut() {
        assert_eq!(copy(&[b"hello<end>"]), (true, b"hello".to_vec()));
        assert_eq!(
            copy(&[b"hel", b"lo<e", b"n", b"d>rest"]),
            (true, b"hello".to_vec())
        );
        assert_eq!(copy(&[b"<end>"]), (true, Vec::new()));
    }

    #[test]
    fn what_only_looks_like_the_mark_is_output() {
        assert_eq!(
            copy(&[b"a<e", b"x<en", b"<end>"]),
            (true, b"a<ex<en".to_vec())
        );
    }

    #[test]
    fn a_stream_without_mark_is_passed_on_whole_and_reported() {
        assert_eq!(copy(&[b"hello<en"]), (false, b"hello<en".to_vec()));
        assert_eq!(copy(&[]), (false, Vec::new()));
    }
}

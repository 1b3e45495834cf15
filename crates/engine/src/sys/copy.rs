//! Copies of whole pages.

use std::ptr;

/// From here on a copy goes past the caches: its target is not read first, which a store does for each
/// line that it changes, and what the program uses meanwhile stays in them. A smaller one is more likely to
/// be used again at once.
const STREAM_BYTES: usize = 128 << 10;
/// What a step copies: a line of the cache.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Copies `length` bytes, and has done so for every processor when it returns.
///
/// # Safety
///
/// 1. `from` is valid for reads and `to` for writes of `length` bytes, and they do not overlap.
/// 2. Nobody writes the source or uses the target meanwhile.
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    let is_in_lines = [from.addr(), to.addr(), length]
        .iter()
        .all(|number| number.is_multiple_of(64));
    if length >= STREAM_BYTES && is_in_lines {
        // SAFETY: Both conditions are passed on; the third one was just checked.
        unsafe { stream(from, to, length) };
    } else {
        // SAFETY: Both conditions are passed on.
        unsafe { ptr::copy_nonoverlapping(from, to, length) };
    }
}

/// As [`copy`], past the caches.
///
/// # Safety
///
/// As for [`copy`], and addresses and length are multiples of 64.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, to: *mut u8, length: usize) {
    use std::arch::x86_64::{
        __m128i, _MM_HINT_T0, _mm_load_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128,
    };
    /// How far ahead the source is read.
    const AHEAD_BYTES: usize = 512;
    const NR_PARTS: usize = LINE_BYTES / size_of::<__m128i>();

    for offset in (0..length).step_by(LINE_BYTES) {
        let source = from.wrapping_add(offset);
        let target = to.wrapping_add(offset);
        // SAFETY: A hint for any address: nothing is accessed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(AHEAD_BYTES).cast()) };
        let source: *const __m128i = source.cast();
        let target: *mut __m128i = target.cast();
        // SAFETY: The line lies in the source, and is aligned since all addresses are multiples of 64.
        let line: [__m128i; NR_PARTS] =
            std::array::from_fn(|part| unsafe { _mm_load_si128(source.wrapping_add(part)) });
        for (part, value) in line.into_iter().enumerate() {
            // SAFETY: The line lies in the target, and is aligned; the fence below comes before any
            // other use of the target.
            unsafe { _mm_stream_si128(target.wrapping_add(part), value) };
        }
    }
    // The order of such stores is not that of others.
    // SAFETY: Every processor of this architecture has it.
    unsafe { _mm_sfence() };
}

/// As [`copy`]: what other processors have for it is the library's business.
///
/// # Safety
///
/// As for [`copy`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: Both conditions are passed on.
    unsafe { ptr::copy_nonoverlapping(from, to, length) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_none_besides() {
        for (length, skipped) in [
            (4096, 0),
            (STREAM_BYTES, 0),
            (STREAM_BYTES + 4096, 4),
            (STREAM_BYTES, 64),
        ] {
            let source: Vec<u8> = (1..=251).cycle().take(length + 256).collect();
            let mut target = vec![0_u8; length + 256];
            let start = target.as_ptr().align_offset(64) + skipped;
            let first = source.as_ptr().align_offset(64);
            let (from, to) = (source[first..].as_ptr(), target[start..].as_mut_ptr());
            // SAFETY: Both vectors are larger by more than what is skipped, and apart.
            unsafe { copy(from, to, length) };
            assert_eq!(target[start..start + length], source[first..first + length]);
            assert!(target[..start].iter().all(|&byte| byte == 0));
            assert!(target[start + length..].iter().all(|&byte| byte == 0));
        }
    }
}

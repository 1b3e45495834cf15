//! Words by which a position and a round are recognised.

const WORD_BYTES: usize = 8;

fn word(index: usize, round: u8) -> u64 {
    (index as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(round).wrapping_mul(0x1234_5678_9abc_def1))
}

/// The byte at an offset in a round.
pub(crate) fn byte(offset: usize, round: u8) -> u8 {
    word(offset / WORD_BYTES, round).to_ne_bytes()[offset % WORD_BYTES]
}

/// Fills `bytes`, a multiple of 8.
pub(crate) fn write(bytes: &mut [u8], round: u8) {
    for (index, place) in bytes.chunks_exact_mut(WORD_BYTES).enumerate() {
        place.copy_from_slice(&word(index, round).to_ne_bytes());
    }
}

/// Checks all of `bytes`.
pub(crate) fn check(bytes: &[u8], round: u8) {
    for (index, found) in bytes.chunks_exact(WORD_BYTES).enumerate() {
        let expected = word(index, round).to_ne_bytes();
        assert_eq!(found, expected, "word {index} of round {round}");
    }
}

//! Reproducible choices.

/// A generator that a seed determines (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The generator of one thread of a run.
    pub(crate) fn new(seed: u64, thread: usize) -> Self {
        Self(scramble(seed) ^ scramble(!(thread as u64)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// True once in `odds` times.
    pub(crate) fn once_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Mixes the bits of a word.
pub(crate) fn scramble(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Deals choices without putting any back until all were dealt: none is left out by chance.
#[derive(Clone, Debug)]
pub(crate) struct Deck<T> {
    all: Vec<T>,
    nr_dealt: usize,
}

impl<T: Copy> Deck<T> {
    /// A deck with so many of each.
    pub(crate) fn new(weights: &[(T, usize)]) -> Self {
        let all: Vec<T> = weights
            .iter()
            .flat_map(|&(choice, count)| std::iter::repeat_n(choice, count))
            .collect();
        let nr_dealt = all.len();
        Self { all, nr_dealt }
    }

    pub(crate) fn deal(&mut self, random: &mut Random) -> T {
        if self.nr_dealt == self.all.len() {
            for last in (1..self.all.len()).rev() {
                self.all.swap(last, random.below(last + 1));
            }
            self.nr_dealt = 0;
        }
        self.nr_dealt += 1;
        self.all[self.nr_dealt - 1]
    }
}

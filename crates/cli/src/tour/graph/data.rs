//! The graph, how it lies in memory, and the answers that are known beforehand.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use cohmem::ByteCount;

/// Edges that leave a vertex.
pub(super) const DEGREE: usize = 16;
/// Words that hold them, two each.
const EDGE_WORDS: usize = DEGREE / 2;

/// A vertex.
pub(super) type Vertex = u32;

/// What a search finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Vertices that can be reached.
    pub(super) reached: u64,
    /// The sum of their distances.
    pub(super) distances: u64,
    /// The largest of them.
    pub(super) depth: u64,
}

/// Where everything is, in words: the edges of all vertices, then for each searching thread a mark
/// for each vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    nr_vertices: u32,
    nr_searches: usize,
}

impl Layout {
    /// As many vertices as fit in `size` with the marks of `nr_searches` threads.
    pub(super) fn fitting(size: ByteCount, nr_searches: usize) -> Self {
        let words = size.get() / 8 / (EDGE_WORDS + nr_searches) as u64;
        Self {
            nr_vertices: u32::try_from(words).unwrap_or(u32::MAX).max(2),
            nr_searches,
        }
    }

    pub(super) const fn nr_vertices(self) -> u32 {
        self.nr_vertices
    }

    pub(super) const fn nr_edges(self) -> u64 {
        self.nr_vertices as u64 * DEGREE as u64
    }

    pub(super) const fn nr_searches(self) -> usize {
        self.nr_searches
    }

    /// Bytes of all of it.
    pub(super) const fn bytes(self) -> ByteCount {
        ByteCount::new(self.nr_vertices as u64 * 8 * (EDGE_WORDS + self.nr_searches) as u64)
    }

    fn edges(self, vertex: Vertex) -> Range<usize> {
        let start = vertex as usize * EDGE_WORDS;
        start..start + EDGE_WORDS
    }

    /// Bytes from the start that hold the marks of all searches.
    pub(super) const fn mark_bytes(self) -> Range<u64> {
        self.nr_vertices as u64 * 8 * EDGE_WORDS as u64..self.bytes().get()
    }

    fn marks(self, search: usize) -> Range<usize> {
        let start = self.nr_vertices as usize * (EDGE_WORDS + search);
        start..start + self.nr_vertices as usize
    }

    /// Where a search starts.
    pub(super) fn source(self, search: usize) -> Vertex {
        below(mix(!(search as u64)), self.nr_vertices)
    }

    /// The vertices that two edges lead to, in one word.
    fn edge_word(self, vertex: Vertex, word: usize) -> u64 {
        let random = mix((u64::from(vertex) << 8) | word as u64);
        let first = match word {
            // So that every vertex can be reached.
            0 => (vertex + 1) % self.nr_vertices,
            _ => below(random, self.nr_vertices),
        };
        let second = below(random.rotate_left(32), self.nr_vertices);
        (u64::from(second) << 32) | u64::from(first)
    }
}

/// A well-mixed function of a number (the finaliser of splitmix64).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Evenly below the limit, of the low 32 bits.
fn below(random: u64, limit: u32) -> u32 {
    let scaled = ((random & 0xffff_ffff) * u64::from(limit)) >> 32;
    u32::try_from(scaled).unwrap_or(0)
}

fn both(word: u64) -> [Vertex; 2] {
    let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0);
    [low(word), low(word >> 32)]
}

/// A graph in memory that moves. Threads read its edges and each writes its own marks; nothing is
/// published through them, so that every access is relaxed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Graph<'a> {
    pub(super) layout: Layout,
    words: &'a [AtomicU64],
}

impl<'a> Graph<'a> {
    /// Writes the edges to `words`, and clears the marks.
    pub(super) fn generate(layout: Layout, words: &'a [AtomicU64]) -> Self {
        for vertex in 0..layout.nr_vertices {
            for (at, word) in words[layout.edges(vertex)].iter().enumerate() {
                word.store(layout.edge_word(vertex, at), Ordering::Relaxed);
            }
        }
        for search in 0..layout.nr_searches {
            for mark in &words[layout.marks(search)] {
                mark.store(0, Ordering::Relaxed);
            }
        }
        Self { layout, words }
    }

    /// Words of edges that are not what was generated.
    pub(super) fn count_wrong_words(&self) -> u64 {
        let wrong = |vertex: Vertex| {
            let words = self.words[self.layout.edges(vertex)].iter().enumerate();
            words
                .filter(|(at, word)| {
                    word.load(Ordering::Relaxed) != self.layout.edge_word(vertex, *at)
                })
                .count() as u64
        };
        (0..self.layout.nr_vertices).map(wrong).sum()
    }

    /// The vertices that the edges of `vertex` lead to.
    pub(super) fn neighbours(&self, vertex: Vertex) -> impl Iterator<Item = Vertex> {
        let words = &self.words[self.layout.edges(vertex)];
        words
            .iter()
            .flat_map(|word| both(word.load(Ordering::Relaxed)))
    }

    /// The marks of one search, one a vertex.
    pub(super) fn marks(&self, search: usize) -> &'a [AtomicU64] {
        &self.words[self.layout.marks(search)]
    }
}

/// The answer of a search, from the generator alone: it uses no memory that moves.
pub(super) fn reference(layout: Layout, search: usize) -> Answer {
    let mut distances = vec![u32::MAX; layout.nr_vertices as usize];
    let source = layout.source(search);
    distances[source as usize] = 0;
    let mut queue = VecDeque::from([source]);
    let mut answer = Answer::default();
    while let Some(vertex) = queue.pop_front() {
        let distance = distances[vertex as usize];
        answer.reached += 1;
        answer.distances += u64::from(distance);
        answer.depth = u64::from(distance);
        for at in 0..EDGE_WORDS {
            for next in both(layout.edge_word(vertex, at)) {
                let found = &mut distances[next as usize];
                if *found == u32::MAX {
                    *found = distance + 1;
                    queue.push_back(next);
                }
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(layout: Layout) -> Vec<AtomicU64> {
        let nr_words = usize::try_from(layout.bytes().get() / 8).unwrap();
        (0..nr_words).map(|_| AtomicU64::new(7)).collect()
    }

    #[test]
    fn a_layout_fills_its_size_and_no_more() {
        let layout = Layout::fitting(ByteCount::new(1 << 20), 2);
        assert!(layout.bytes().get() <= 1 << 20);
        assert!(layout.bytes().get() > (1 << 20) - 100);
        assert_eq!(layout.marks(1).end as u64 * 8, layout.bytes().get());
        assert_eq!(layout.mark_bytes().start, layout.marks(0).start as u64 * 8);
    }

    #[test]
    fn every_vertex_is_reached_and_the_graph_is_always_the_same() {
        let layout = Layout::fitting(ByteCount::new(100_000), 1);
        let answer = reference(layout, 0);
        assert_eq!(answer.reached, u64::from(layout.nr_vertices()));
        assert_eq!(answer, reference(layout, 0));
        assert!(answer.depth >= 3 && answer.distances > answer.reached);
    }

    #[test]
    fn a_changed_word_is_found() {
        let layout = Layout::fitting(ByteCount::new(100_000), 1);
        let words = words(layout);
        let graph = Graph::generate(layout, &words);
        assert_eq!(graph.count_wrong_words(), 0);
        words[1000].fetch_xor(1 << 40, Ordering::Relaxed);
        assert_eq!(graph.count_wrong_words(), 1);
    }
}

//! The computing threads: breadth-first search, over and over, each from a vertex of its own.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use super::{
    data::{Answer, DEGREE, Graph, Vertex},
    pauses::Pauses,
};

/// Vertices a step, whose time is noted.
const STEP: usize = 64;

/// What all threads of the tour see. Plain flags and counters, so relaxed.
#[derive(Debug, Default)]
pub(super) struct Work {
    is_over: AtomicBool,
    /// One a search.
    searches: Vec<Search>,
    /// How long steps took.
    pub(super) pauses: Pauses,
}

#[derive(Debug, Default)]
struct Search {
    right: AtomicU64,
    wrong: AtomicU64,
    edges: AtomicU64,
}

/// How far the searches are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Searches that ended with the right answer, for each thread.
    pub(super) right: Vec<u64>,
    /// Searches with another answer, of all.
    pub(super) wrong: u64,
    /// Edges that were followed, for each thread.
    pub(super) edges: Vec<u64>,
}

impl Work {
    pub(super) fn new(nr_searches: usize) -> Self {
        Self {
            searches: (0..nr_searches).map(|_| Search::default()).collect(),
            ..Self::default()
        }
    }

    /// Has every thread end soon.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self) -> Progress {
        let counts = |count: fn(&Search) -> &AtomicU64| -> Vec<u64> {
            let counts = self.searches.iter().map(count);
            counts.map(|count| count.load(Ordering::Relaxed)).collect()
        };
        Progress {
            right: counts(|search| &search.right),
            wrong: counts(|search| &search.wrong).iter().sum(),
            edges: counts(|search| &search.edges),
        }
    }

    /// Searches until the work is over.
    pub(super) fn run(&self, graph: Graph<'_>, search: usize, expected: Answer) {
        let mut queues = Queues::default();
        for epoch in 1_u64.. {
            let Some(answer) = self.search(graph, search, epoch, &mut queues) else {
                return;
            };
            let count = match answer == expected {
                true => &self.searches[search].right,
                false => &self.searches[search].wrong,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One search; `None` when the work was over before its end.
    fn search(
        &self,
        graph: Graph<'_>,
        search: usize,
        epoch: u64,
        queues: &mut Queues,
    ) -> Option<Answer> {
        let marks = graph.marks(search);
        let source = graph.layout.source(search);
        queues.next.clear();
        queues.next.push(source);
        marks[source as usize].store(epoch, Ordering::Relaxed);
        let mut answer = Answer::default();
        for distance in 0.. {
            std::mem::swap(&mut queues.now, &mut queues.next);
            queues.next.clear();
            if queues.now.is_empty() {
                return Some(answer);
            }
            answer.depth = distance;
            answer.reached += queues.now.len() as u64;
            answer.distances += distance * queues.now.len() as u64;
            for step in queues.now.chunks(STEP) {
                let started = Instant::now();
                for &vertex in step {
                    for neighbour in graph.neighbours(vertex) {
                        let Some(mark) = marks.get(neighbour as usize) else {
                            // No edge leads there: what was read is not what was written.
                            return Some(Answer::default());
                        };
                        if mark.load(Ordering::Relaxed) != epoch {
                            mark.store(epoch, Ordering::Relaxed);
                            queues.next.push(neighbour);
                        }
                    }
                }
                self.pauses.note(started.elapsed());
                let edges = &self.searches[search].edges;
                edges.fetch_add((step.len() * DEGREE) as u64, Ordering::Relaxed);
                if self.is_over() {
                    return None;
                }
            }
        }
        None
    }
}

/// The vertices of one distance and of the next, in ordinary memory.
#[derive(Debug, Default)]
struct Queues {
    now: Vec<Vertex>,
    next: Vec<Vertex>,
}

#[cfg(test)]
mod tests {
    use cohmem::ByteCount;

    use super::{
        super::data::{Layout, reference},
        *,
    };

    fn words(layout: Layout) -> Vec<AtomicU64> {
        let nr_words = usize::try_from(layout.bytes().get() / 8).unwrap();
        (0..nr_words).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn searches_find_the_answer_that_is_known_beforehand() {
        let layout = Layout::fitting(ByteCount::new(200_000), 2);
        let words = words(layout);
        let graph = Graph::generate(layout, &words);
        let work = Work::new(2);
        let mut queues = Queues::default();
        for (search, epoch) in [(0, 1), (1, 1), (0, 2)] {
            let found = work.search(graph, search, epoch, &mut queues);
            assert_eq!(found, Some(reference(layout, search)));
        }
        let edges = layout.nr_edges();
        assert_eq!(work.progress().edges, [2 * edges, edges]);
    }

    #[test]
    fn a_lost_store_changes_the_answer() {
        let layout = Layout::fitting(ByteCount::new(200_000), 1);
        let words = words(layout);
        let graph = Graph::generate(layout, &words);
        // A vertex looks as if this search had been there.
        graph.marks(0)[500].store(1, Ordering::Relaxed);
        let work = Work::new(1);
        let found = work.search(graph, 0, 1, &mut Queues::default());
        assert_ne!(found, Some(reference(layout, 0)));
    }

    #[test]
    fn work_that_is_over_ends() {
        let layout = Layout::fitting(ByteCount::new(200_000), 1);
        let words = words(layout);
        let graph = Graph::generate(layout, &words);
        let work = Work::new(1);
        work.end();
        work.run(graph, 0, Answer::default());
        assert_eq!(work.progress().right, [0]);
    }
}

//! The mutants of what the engine's threads wait for, and of what is said of system calls.

use super::{Mutant, engine::unit};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "engine_stop_undone_page_by_page",
        guards: "progress: a write that comes while a stop is undone (level 2)",
        changes: &[
            (
                "crates/engine/src/kernel.rs",
                "ballast::with_reserve(|| uffd.unregister(start, span.length));\n                if \
                 unregistered",
                "uffd.allow(start, span.length);\n                if unregistered",
            ),
            (
                "crates/engine/src/sys/uffd.rs",
                "    /// Protects a registered range from writes;",
                "    pub(crate) fn allow(&self, start: usize, length: usize) -> Result<(), Errno> {\n        \
                 let mut argument = abi::uffdio_writeprotect {\n            \
                 range: range(start, length),\n            mode: 0,\n        };\n        \
                 self.call(UFFDIO_WRITEPROTECT, &mut argument)\n    }\n\n    \
                 /// Protects a registered range from writes;",
            ),
        ],
        test: unit("a_stop_that_is_undone_leaves_nobody_waiting_and_nothing_registered"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_listener_carries_home",
        guards: "progress: the listener waits for nothing, and tries nothing again and again",
        changes: &[
            (
                "crates/engine/src/listener.rs",
                "Ok(()) | Err(_) => listen(hole, &stop, touches.as_deref()),",
                "Ok(()) | Err(_) => listen(&inner, hole, &stop, touches.as_deref()),",
            ),
            (
                "crates/engine/src/listener.rs",
                "fn listen(hole: &Hole,",
                "fn listen(inner: &Inner, hole: &Hole,",
            ),
            (
                "crates/engine/src/listener.rs",
                "                && let Some(index) = hole.granule_at(address)\n            {\n                \
                 touches.add(index);",
                "                && let Some(index) = hole.granule_at(address)\n            {\n                \
                 let _ = touches;\n                \
                 while inner.bring_home(index).is_err() {}",
            ),
        ],
        test: unit("the_listener_sleeps_in_poll_only"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_pin_not_seen",
        guards: "C4: a pinned system page stays (level 1)",
        changes: &[(
            "crates/engine/src/protocol.rs",
            "        Errno::BUSY => Reason::Pinned,\n",
            "",
        )],
        test: unit("a_pin_is_seen_where_the_documentation_says_so"),
        is_in_ci: false,
    },
    Mutant {
        name: "engine_guard_keeps_nothing",
        guards: "C2: I/O under a guard (all levels)",
        changes: &[(
            "crates/engine/src/word.rs",
            "                .compare_exchange(word, word + PIN, Ordering::Acquire, Ordering::Relaxed)",
            "                .compare_exchange(word, word, Ordering::Acquire, Ordering::Relaxed)",
        )],
        test: unit("a_guard_loses_nothing_of_what_is_pinned"),
        is_in_ci: false,
    },
];

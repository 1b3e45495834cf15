//! The mutants of how `cohmem run` keeps quiet, and of its real programs.

use super::{Mutant, Test};

const fn unit(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-cli",
        target: "bin",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "follow_searches_all_the_time",
        guards: "an idle program costs two files a look",
        changes: &[(
            "crates/cli/src/follow.rs",
            "newest == self.newest && self.is_idle()",
            "newest == self.newest && self.is_idle() && self.root == 0",
        )],
        test: unit("while_nothing_happens_no_process_is_searched_for"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_sleeps_through_new_processes",
        guards: "a new process is searched for at once",
        changes: &[(
            "crates/cli/src/follow.rs",
            "newest.is_some() && newest == self.newest && self.is_idle()",
            "newest.is_some() && self.newest.is_some() && self.is_idle()",
        )],
        test: unit("while_nothing_happens_no_process_is_searched_for"),
        is_in_ci: true,
    },
    Mutant {
        name: "follow_forgets_who_had_no_memory",
        guards: "a process that is about to become another program is asked again",
        changes: &[(
            "crates/cli/src/follow.rs",
            "newest.filter(|_| stock.is_complete)",
            "newest",
        )],
        test: unit("the_memory_of_other_processes_yields_first"),
        is_in_ci: true,
    },
    Mutant {
        name: "follow_gives_each_process_its_share",
        guards: "all processes together share the time for looks",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "SHARE.saturating_mul(nr_followed.max(1))",
            "SHARE.saturating_mul(nr_followed.min(1))",
        )],
        test: unit("many_processes_share_the_time_for_looks"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_places_for_nothing",
        guards: "pages that find no room cost a small part of the time",
        changes: &[(
            "crates/cli/src/follow/place.rs",
            "one.next_look += pause;",
            "one.next_look += pause.min(patience);",
        )],
        test: unit("pages_that_find_no_room_are_tried_rarely_when_that_takes_long"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_ignores_the_limit_in_the_lab",
        guards: "C8: the limit, of a real program",
        changes: &[(
            "crates/cli/src/follow/place.rs",
            "nr_free.min(self.left)",
            "nr_free",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "programs::each_is_placed_as_its_policy_says",
        },
        is_in_ci: false,
    },
];

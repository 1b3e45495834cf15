//! The mutants of the driver's history.

use super::{Mutant, Test, list::driver_test};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "history_by_number_alone",
        guards: "history: a later process of the same number sees nothing",
        changes: &[(
            "kernel/core/src/history.rs",
            "process.is_known() && (process.number, process.began_ns) == (move_.process, began_ns)",
            "process.is_known() && (process.number, began_ns) == (move_.process, began_ns)",
        )],
        test: driver_test("a_process_is_told_of_itself_alone"),
        is_in_ci: true,
    },
    Mutant {
        name: "history_unknown_processes_share_a_history",
        guards: "history: an owner that is not known matches no record",
        changes: &[(
            "kernel/core/src/history.rs",
            "process.is_known() && (process.number, process.began_ns)",
            "(process.number, process.began_ns)",
        )],
        test: driver_test("a_process_is_told_of_itself_alone"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_frames_are_told_to_all",
        guards: "history: physical addresses are root's",
        changes: &[(
            "kernel/core/src/driver/history.rs",
            "        if !self.tells_frames {\n            move_.frame = NO_FRAME;\n        }\n",
            "        let _ = (self.tells_frames, NO_FRAME);\n        move_.sequence += 0;\n",
        )],
        test: driver_test("frames_and_the_history_of_all_are_for_root"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_of_all_is_everyone_s",
        guards: "history: all processes' records are root's",
        changes: &[(
            "kernel/core/src/request.rs",
            "if is_of_all && !host.is_privileged(Privilege::Administrate) {",
            "if is_of_all && args.nr_max == u32::MAX {",
        )],
        test: driver_test("frames_and_the_history_of_all_are_for_root"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_overwritten_record_is_read",
        guards: "history: a reader gets whole records of the number it asked for",
        changes: &[(
            "kernel/core/src/history/ring.rs",
            "if before == whole && state.load(Relaxed) == whole {",
            "if before >= whole {",
        )],
        test: RING,
        is_in_ci: false,
    },
    Mutant {
        name: "history_writers_share_a_slot",
        guards: "history: a writer that finds another in its slot gives up",
        changes: &[(
            "kernel/core/src/history/ring.rs",
            "if before % 2 == 1 || before > writing {",
            "if before > writing {",
        )],
        test: RING,
        is_in_ci: false,
    },
    Mutant {
        name: "history_lost_records_are_not_counted",
        guards: "history: a reader hears what it missed",
        changes: &[(
            "kernel/core/src/driver/history.rs",
            "self.nr_lost = bounds.start.saturating_sub(since);",
            "self.nr_lost = 0;",
        )],
        test: driver_test("a_reader_goes_on_where_it_was_and_hears_what_it_missed"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_runs_join_over_a_gap",
        guards: "history: a record tells of consecutive pages and frames",
        changes: &[(
            "kernel/core/src/history.rs",
            "(next.process, next.start, next.frame, next.reason)\n            == (self.process, start, frame, self.reason);",
            "(next.process, start, frame, next.reason)\n            == (self.process, start, frame, self.reason);",
        )],
        test: driver_test("a_page_that_stays_parts_a_run_and_is_told_with_its_reason"),
        is_in_ci: true,
    },
    Mutant {
        name: "history_arrivals_are_forgotten",
        guards: "history: pages that leave by their frames are told by address",
        changes: &[(
            "kernel/core/src/history.rs",
            "word.fetch_xor((before ^ arrival) << shift, Relaxed);",
            "word.fetch_xor((before ^ arrival.min(0)) << shift, Relaxed);",
        )],
        test: driver_test("pages_that_leave_by_their_frames_are_told_with_where_they_were"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_oldest_is_one_too_old",
        guards: "history: the oldest record that can be read is the oldest that is kept",
        changes: &[(
            "kernel/core/src/history/ring.rs",
            "self.next().saturating_sub(self.nr_slots)",
            "self.next().saturating_sub(self.nr_slots + 1)",
        )],
        test: RING,
        is_in_ci: false,
    },
    Mutant {
        name: "history_there_already_is_remembered",
        guards: "history: what a look at the page tells takes no place",
        changes: &[(
            "kernel/core/src/history.rs",
            "        Reason::AlreadyThere\n            | Reason::Unmapped",
            "        Reason::Unmapped",
        )],
        test: driver_test("what_a_look_at_the_page_tells_is_not_remembered"),
        is_in_ci: false,
    },
    Mutant {
        name: "history_moves_out_are_not_told",
        guards: "history: the records tell where each page is",
        changes: &[(
            "kernel/core/src/tell.rs",
            "        if let Some(source) = source {",
            "        if let Some(source) = source.filter(|_| self.direction == Direction::ToDevice) {",
        )],
        test: driver_test("the_records_tell_where_each_page_is"),
        is_in_ci: false,
    },
];

const RING: Test = Test::Host {
    package: "cohmem-kcore",
    target: "lib",
    name: "history::ring",
};

//! The mutants of the engine.

use super::{Mutant, Test};

pub(super) const fn unit(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-engine",
        target: "lib",
        name,
    }
}

const fn program(target: &'static str, name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-engine",
        target,
        name,
    }
}

const ANY_ACCESS: Test = unit("nothing_is_lost_or_left_waiting_wherever_accesses_come");
const ANY_FAILURE: Test = unit("a_failure_anywhere_leaves_the_content_whole_in_one_place");

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "engine_no_stop",
        guards: "C1: writes while a span is copied out (levels 2, 3)",
        changes: &[(
            "crates/engine/src/protocol/stop.rs",
            "    host.stop(span, Place::System).map_err(reason_of)?;\n",
            "",
        )],
        test: ANY_ACCESS,
        is_in_ci: true,
    },
    Mutant {
        name: "engine_no_stop_on_the_way_home",
        guards: "C1: writes while a span is copied home (levels 2, 3)",
        changes: &[(
            "crates/engine/src/protocol/stop.rs",
            "    if let Err(error) = host.stop(span, Place::Device) {",
            "    if let Err(error) = Ok::<(), rustix::io::Errno>(()) {",
        )],
        test: ANY_ACCESS,
        is_in_ci: false,
    },
    Mutant {
        name: "engine_not_armed",
        guards: "C1: a touch of a page that left (level 1)",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "    host.arm(span).map_err(reason_of)?;\n",
            "",
        )],
        test: ANY_ACCESS,
        is_in_ci: true,
    },
    Mutant {
        name: "engine_no_wake_out",
        guards: "progress: who waits on the way out (level 1)",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "    // replacing the hole takes exclusively.\n    host.wake(span);\n",
            "    // replacing the hole takes exclusively.\n",
        )],
        test: ANY_ACCESS,
        is_in_ci: true,
    },
    Mutant {
        name: "engine_no_wake_at_the_end",
        guards: "progress: who waits when a stop ends without a move (level 1)",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "        Ok(()) | Err(_) => host.wake(span),\n",
            "        Ok(()) | Err(_) => {}\n",
        )],
        test: ANY_FAILURE,
        is_in_ci: false,
    },
    Mutant {
        name: "engine_no_wake_when_stopped",
        guards: "progress: who waits (levels 2, 3)",
        changes: &[(
            "crates/engine/src/protocol/stop.rs",
            "            host.give_up();\n        }\n    }\n    host.resume(span);\n",
            "            host.give_up();\n        }\n    }\n",
        )],
        test: ANY_ACCESS,
        is_in_ci: false,
    },
    Mutant {
        name: "engine_unregister_without_wake",
        guards: "progress: who waits for a stop that is undone (level 2)",
        changes: &[(
            "crates/engine/src/kernel.rs",
            "                self.resume(span);\n",
            "",
        )],
        test: unit("a_stop_that_is_undone_leaves_nobody_waiting_and_nothing_registered"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_hole_in_two_steps",
        guards: "C1: the hole appears armed (level 1, way home)",
        changes: &[(
            "crates/engine/src/kernel.rs",
            "        self.memory.areas.open_hole(span)\n",
            "        self.memory.areas.switch_home(span)?;\n        self.arm(span)\n",
        )],
        test: unit("a_touch_at_the_worst_moment_finds_no_hole"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_old_pages_forgotten",
        guards: "C2: a failure after some pages left (level 1)",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "        abandon(host, span, done);\n",
            "        abandon(host, span, 0);\n",
        )],
        test: ANY_FAILURE,
        is_in_ci: true,
    },
    Mutant {
        name: "engine_home_pages_overwritten",
        guards: "C2: a failure after some pages came home (level 1)",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "                    host.save(head, slot);\n",
            "",
        )],
        test: ANY_FAILURE,
        is_in_ci: false,
    },
    Mutant {
        name: "engine_gap_left",
        guards: "C2: a call that failed after it unmapped",
        changes: &[(
            "crates/engine/src/protocol/hole.rs",
            "        if !host.is_mapped(span) && host.map_device(span, slot).is_err() {",
            "        if false {",
        )],
        test: ANY_FAILURE,
        is_in_ci: false,
    },
    Mutant {
        name: "engine_dropped_event",
        guards: "progress: a touch of a granule that is held",
        changes: &[(
            "crates/engine/src/inner.rs",
            "        match self.words[index].lock(Pins::Ignored) {",
            "        match self.words[index].try_lock(Pins::Ignored).ok() {",
        )],
        test: unit("who_brings_a_granule_home_waits_for_who_holds_it"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_deaf_listener",
        guards: "progress: the listener reads events whatever else is going on",
        changes: &[(
            "crates/engine/src/listener.rs",
            "        let nr_messages = match hole.uffd.read(&mut messages) {",
            "        if touches.is_none() {\n            continue;\n        }\n        \
             let nr_messages = match hole.uffd.read(&mut messages) {",
        )],
        test: unit("a_mapping_moves_home_while_a_touched_granule_is_held"),
        is_in_ci: false,
    },
    Mutant {
        name: "engine_no_common_descent",
        guards: "mappings merge again",
        changes: &[(
            "crates/engine/src/sys/areas.rs",
            "last_page.write_volatile(1)",
            "last_page.read_volatile()",
        )],
        test: program("limits", "limits_and_children"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_no_dontfork",
        guards: "C9: children have no device memory",
        changes: &[(
            "crates/engine/src/sys/areas.rs",
            "        advise(start, span.length, Advice::LinuxDontFork)\n",
            "        Ok(())\n",
        )],
        test: program("limits", "limits_and_children"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_no_ballast",
        guards: "C2: the way home at the limit of mappings",
        changes: &[(
            "crates/engine/src/sys/ballast.rs",
            "const NR_PAGES: usize = 64;",
            "const NR_PAGES: usize = 1;",
        )],
        test: program("limits", "limits_and_children"),
        is_in_ci: false,
    },
    Mutant {
        name: "engine_no_seal",
        guards: "a pool cannot be shrunk",
        changes: &[(
            "crates/engine/src/sys/device.rs",
            "    rustix::fs::fcntl_add_seals(&file, seals)?;\n",
            "    let _ = seals;\n",
        )],
        test: unit("the_memory_cannot_be_shrunk"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_pins_ignored",
        guards: "C4: a pinned granule stays",
        changes: &[(
            "crates/engine/src/word.rs",
            "            if word >= PIN && pins == Pins::Heeded {",
            "            if word >= PIN && pins == Pins::Heeded && word & ON_DEVICE != 0 {",
        )],
        test: program("basics", "pinned_granules_stay"),
        is_in_ci: false,
    },
    Mutant {
        name: "engine_no_zeroing",
        guards: "C5: generic memory shows nothing of its last owner",
        changes: &[(
            "crates/engine/src/setup.rs",
            "        pool.mapping().zero(taken.slot, span.length);\n",
            "",
        )],
        test: program("basics", "generic_memory_is_on_the_device_and_stays"),
        is_in_ci: true,
    },
    Mutant {
        name: "engine_private_anywhere",
        guards: "private memory is refused at levels 2 and 3",
        changes: &[(
            "crates/engine/src/setup.rs",
            "        (memory_type @ MemoryType::Private, LevelChoice::Exactly(level)) => {\n            \
             Err(Cause::NotAtThisLevel { memory_type, level }.into())\n        }\n        \
             (MemoryType::Coherent, LevelChoice::Exactly(Level::UserMode)) => {",
            "        (MemoryType::Private, LevelChoice::Exactly(Level::Signal)) => Ok(Tool::Signal),\n        \
             (_, LevelChoice::Exactly(Level::UserMode)) => {",
        )],
        test: program(
            "basics",
            "what_a_level_cannot_give_is_refused_with_the_reason",
        ),
        is_in_ci: false,
    },
    Mutant {
        name: "engine_slot_emptied_under_its_owner",
        guards: "C2: pages that just left (level 1)",
        changes: &[(
            "crates/engine/src/slots.rs",
            "compare_exchange(OLD, LEAVING, Ordering::Acquire, Ordering::Relaxed)",
            "compare_exchange(EMPTY, LEAVING, Ordering::Acquire, Ordering::Relaxed)",
        )],
        test: unit("old_slots_are_emptied_in_runs_and_claimed_and_kept_ones_are_left"),
        is_in_ci: false,
    },
];

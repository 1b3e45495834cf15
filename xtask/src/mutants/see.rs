//! Mutants of what shows where memory is, and of what warns.

use super::{Mutant, Test};

/// A test inside the library.
const fn library_test(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem",
        target: "lib",
        name,
    }
}

/// A test inside the command.
const fn command_test(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-cli",
        target: "bin",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "device_pages_are_reclaimable",
        guards: "a memory limit's room: device pages cannot go to swap",
        changes: &[(
            "crates/cohmem/src/cgroup.rs",
            "self.anonymous.get().saturating_sub(on_device.get())",
            "self.anonymous.get().max(on_device.get())",
        )],
        test: library_test("what_is_on_a_device_is_not_reclaimable"),
        is_in_ci: true,
    },
    Mutant {
        name: "own_limit_only",
        guards: "memory limits of the groups above",
        changes: &[(
            "crates/cohmem/src/cgroup.rs",
            "for group in groups.into_iter().rev() {",
            "for group in groups.into_iter().take(1) {",
        )],
        test: library_test("every_limit_on_the_way_up_is_found"),
        is_in_ci: true,
    },
    Mutant {
        name: "limits_are_never_tight",
        guards: "the warning before a memory limit",
        changes: &[(
            "crates/cli/src/limits.rs",
            ".filter(|tight| tight.room < tight.limit.margin())",
            ".filter(|tight| tight.room > tight.limit.limit)",
        )],
        test: command_test("the_limit_that_is_hit_first_is_named"),
        is_in_ci: false,
    },
    Mutant {
        name: "warning_in_the_lab",
        guards: "the warning before a memory limit, on the kernel",
        changes: &[(
            "crates/cli/src/cmd/migrate.rs",
            "limits::warn_before_migration(&process, device, &ranges, fill)?;",
            "let _unused = (limits::warn_before_migration, device, fill);",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "see::a_memory_limit_is_told_in_time",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "extents_are_not_joined_by_place",
        guards: "the map: neighbours in different places",
        changes: &[(
            "crates/cohmem/src/residency.rs",
            "*last_end == start && *last_place == place",
            "*last_end == start && *last_place >= place",
        )],
        test: library_test("extents_that_touch_are_one"),
        is_in_ci: true,
    },
    Mutant {
        name: "zeros_count_as_memory",
        guards: "the map: the page of zeros",
        changes: &[(
            "crates/cohmem/src/sys/pagemap.rs",
            "} else if categories & IS_ZERO != 0 {",
            "} else if categories == 0 {",
        )],
        test: library_test("a_page_that_was_only_read_is_the_page_of_zeros"),
        is_in_ci: false,
    },
    Mutant {
        name: "holes_are_read",
        guards: "the map: untouched address space costs nothing",
        changes: &[(
            "crates/cohmem/src/residency.rs",
            ".for_each_run(0, TOP,",
            ".for_each_run_by_entry(0, TOP,",
        )],
        test: Test::Host {
            package: "cohmem-cli",
            target: "map",
            name: "untouched_address_space_costs_nothing",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "closed_mappings_are_system_memory",
        guards: "the map: device pages in a mapping without access",
        changes: &[(
            "crates/cohmem/src/residency.rs",
            "_ => self.place_by_frame(at)?,",
            "_ => Place::System,",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "see::the_map_shows_what_the_page_tables_hold",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "any_key_is_yes",
        guards: "top: nothing is moved before a yes",
        changes: &[(
            "crates/cli/src/cmd/top/state.rs",
            "if matches!(key.code, KeyCode::Char('y' | 'Y')) {",
            "if key.code != KeyCode::Null {",
        )],
        test: command_test("nothing_is_moved_before_yes"),
        is_in_ci: false,
    },
];

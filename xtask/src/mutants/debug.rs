//! The mutants of the debug kernel's checks.

use super::{Mutant, Test};

const fn host_test(package: &'static str, target: &'static str, name: &'static str) -> Test {
    Test::Host {
        package,
        target,
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "refused_option_is_not_seen",
        guards: "debug kernel: a kernel without a check that it was to have is not built",
        changes: &[(
            "xtask/src/kernel/debug.rs",
            ".any(|set| set == line))",
            ".any(|set| set.starts_with(line)))",
        )],
        test: host_test("xtask", "bin", "an_option_that_did_not_take_is_named"),
        is_in_ci: false,
    },
    Mutant {
        name: "leaked_objects_are_no_complaint",
        guards: "debug kernel: what our modules leaked fails the run",
        changes: &[(
            "xtask/src/lab/report.rs",
            "        \"unreferenced\" => {",
            "        \"nothing-of-the-kind\" => {",
        )],
        test: host_test("xtask", "bin", "what_the_guest_found_is_classed"),
        is_in_ci: false,
    },
    Mutant {
        name: "module_without_sanitizer_is_fit",
        guards: "debug kernel: the sanitizer checks the module's Rust code",
        changes: &[(
            "crates/kbuild/src/check.rs",
            "\"U __asan_report_\"",
            "\"U \"",
        )],
        test: host_test(
            "cohmem-kbuild",
            "lib",
            "code_without_sanitizer_is_told_by_what_it_does_not_call",
        ),
        is_in_ci: false,
    },
];

//! The mutants of lost pages and of the firmware's ranges.

use super::{Mutant, Test, list::driver_test};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "lost_page_is_told_as_untouched",
        guards: "C6: a page that poison unmapped is told as poisoned",
        changes: &[(
            "kernel/core/src/classify.rs",
            "(Place::Poisoned, _) => Verdict::Stay(Reason::Poisoned),",
            "(Place::Poisoned, _) => Verdict::Absent,",
        )],
        test: driver_test("a_page_that_poison_unmapped_is_told_as_poisoned"),
        is_in_ci: true,
    },
    Mutant {
        name: "entry_of_a_lost_page_is_not_read",
        guards: "C6: the same on the kernel",
        changes: &[(
            "kernel/sys/src/vma.rs",
            "        self.tell_poisoned(start, out);\n",
            "        let _untold = Self::tell_poisoned;\n",
        )],
        test: Test::Guest {
            stage: "poison",
            name: "a_poisoned_page_is_told_and_contained",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "anyone_reads_physical_addresses",
        guards: "C10: where soft-reserved memory is needs CAP_SYS_ADMIN",
        changes: &[(
            "kernel/core/src/driver/range.rs",
            "if !self.host.is_privileged(Privilege::Administrate) {",
            "if false && !self.host.is_privileged(Privilege::Administrate) {",
        )],
        test: driver_test("physical_addresses_are_for_administrators_only"),
        is_in_ci: false,
    },
    Mutant {
        name: "claim_behind_a_free_part_is_not_seen",
        guards: "a part of soft-reserved memory has one holder",
        changes: &[(
            "kernel/core/src/driver/range.rs",
            "Some(claim) if claim.start > range.start => (claim.start, Holder::Nobody, None),",
            "Some(claim) if claim.start > range.start => (range.end, Holder::Nobody, None),",
        )],
        test: driver_test("each_part_is_told_with_who_has_it"),
        is_in_ci: false,
    },
    Mutant {
        name: "driver_is_not_asked_for_ranges",
        guards: "soft-reserved memory is found where /proc/iomem hides it",
        changes: &[(
            "crates/cohmem/src/dax/survey.rs",
            "tree.soft_reserved()?",
            "Vec::new()",
        )],
        test: Test::Host {
            package: "cohmem",
            target: "lib",
            name: "what_the_kernel_hides_the_driver_tells",
        },
        is_in_ci: false,
    },
];
